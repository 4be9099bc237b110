"""The attack that needs no gradient and knows no direction: the worst of many random perturbations.

It bounds nothing from below; it is what can be asked of a model without gradients, and what every attack that looks at
gradients must beat.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..balls import Ball
from .frozen import frozen, plain
from .pgd import check_images, margin


@dataclass(frozen=True)
class RandomSearch:
    """The worst of ``tries`` points of a ball, drawn uniformly: a view, ``RandomSearch(ball)(model, x, y) -> x'``.

    Args:
        ball: where the perturbation may lie.
        tries: points ≥ 1; of these each image keeps the one with the largest margin of a wrong class.
        bounds: range of valid intensities; images outside are refused.

    Shapes:
        as :class:`~rtda.pipeline.attacks.PGD`; one forward pass a try, no backward pass.

    Raises:
        ValueError: ``tries`` or an image is outside its range.

    Example:
        >>> from rtda.pipeline.balls import Linf
        >>> RandomSearch(Linf(0.1), tries=5)(nn.Flatten(), torch.rand(2, 1, 1, 3), torch.tensor([0, 1])).shape
        torch.Size([2, 1, 1, 3])
    """

    ball: Ball
    tries: int = 100
    bounds: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        if self.tries < 1:
            raise ValueError(f"tries: {self.tries} must be at least 1")

    @property
    def name(self) -> str:
        """What evaluation calls it: ``random100_l2_0.571``."""
        return f"random{self.tries}_{self.ball.norm}_{self.ball.radius:.3g}"

    @property
    def facts(self) -> dict[str, Any]:
        """What the evaluation table says of it: family, norm and ε."""
        return {"family": "attack", "norm": self.ball.norm, "epsilon": self.ball.radius}

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the worst images found."""
        x, y = plain(x), plain(y)
        check_images(x, self.bounds)
        with frozen(model) as f, torch.no_grad():
            worst = self._drawn(x)
            most = margin(f(worst), y)
            for _ in range(self.tries - 1):
                other = self._drawn(x)
                theirs = margin(f(other), y)
                worse = theirs > most
                most = torch.where(worse, theirs, most)
                worst = torch.where(worse.reshape(-1, *[1] * (x.ndim - 1)), other, worst)
        return worst

    def _drawn(self, x: Tensor) -> Tensor:
        return (x + self.ball.project(self.ball.sample(x))).clamp(*self.bounds)
