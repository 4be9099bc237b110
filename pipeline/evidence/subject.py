"""A network and its images, as the masking checks ask them: in shards, seeded, and counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..normalisation import holding
from ..seeding import derived_seed, forked
from ..views import View
from .evaluation import SHARD


class WithoutGradient(nn.Module):
    """A callable as a module; the image is detached, as other runtimes ask."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        return torch.as_tensor(self.function(x.detach()), device=x.device)


class Counted(nn.Module):
    """The network, counting the images that it is asked about.

    Args:
        model: (B, C, *spatial) -> logits (B, K).
        passes: kind of pass -> images so far; counted on there.
    """

    def __init__(self, model: nn.Module, passes: dict[str, int]) -> None:
        super().__init__()
        self.model, self.passes = model, passes

    def around(self, clean: Tensor) -> Counted:
        """The network that attacks on these images ask, as evaluation has it; counted together with this one."""
        return Counted(holding(self.model, clean), self.passes)

    def forward(self, x: Tensor) -> Tensor:
        """Return float32 logits."""
        self.passes["forward and backward" if x.requires_grad else "forward"] += len(x)
        logits: Tensor = self.model(x).float()
        return logits


class Shifted(nn.Module):
    """The network with a constant added to the logits of each image: its last bias, moved image by image."""

    def __init__(self, model: nn.Module, offset: Tensor) -> None:
        super().__init__()
        self.model, self.offset = model, offset

    def forward(self, x: Tensor) -> Tensor:
        """Return the moved logits."""
        logits: Tensor = self.model(x) + self.offset
        return logits


@dataclass(frozen=True)
class Subject:
    """The network and the images that it is asked about; every shard has a seed for every purpose.

    Args:
        model: the network.
        x: (n, C, *spatial) float32 within the bounds.
        y: (n,) classes.
        bounds: range of valid intensities.
        seed: of every draw.
        offset: (n, K), added to the logits; None is 0.
    """

    model: Counted
    x: Tensor
    y: Tensor
    bounds: tuple[float, float]
    seed: int
    offset: Tensor | None = None

    def shards(self, purpose: str) -> Iterator[tuple[nn.Module, Tensor, Tensor]]:
        """(model, x, y) of each shard, torch's generator seeded for it."""
        for k, rows in enumerate(torch.arange(len(self.x), device=self.x.device).split(SHARD)):
            around = self.model.around(self.x[rows])
            model = around if self.offset is None else Shifted(around, self.offset[rows])
            with forked(derived_seed(self.seed, purpose, k), self.x.device):
                yield model, self.x[rows], self.y[rows]

    def of(self, rows: Tensor) -> Subject:
        """Some of the images; those of a moved decision keep theirs."""
        return replace(self, x=self.x[rows], y=self.y[rows], offset=None if self.offset is None else self.offset[rows])

    def logits(self, purpose: str = "clean") -> Tensor:
        """(n, K) of the images themselves."""
        with torch.no_grad():
            return torch.cat([f(x) for f, x, _ in self.shards(purpose)])

    def answers(self, name: str, view: View) -> Tensor:
        """(n,) classes after an attack; where it made no finite image, as NaN gradients do, of the image itself."""
        found = []
        for f, x, y in self.shards(name):
            made = view(f, x, y)
            finite = made.flatten(1).isfinite().all(1).reshape(-1, *[1] * (x.ndim - 1))
            with torch.no_grad():
                found.append(f(torch.where(finite, made, x)).argmax(1))
        return torch.cat(found)

    def gradient(self, objective: Callable[[Tensor, Tensor], Tensor]) -> Tensor | str:
        """Of an objective with respect to the images, in their shape; or why there is none."""
        found = []
        for f, x, y in self.shards("gradient"):
            x = x.clone().requires_grad_()
            logits = f(x)
            if not logits.requires_grad:
                return "the logits carry no gradient"
            (gradient,) = torch.autograd.grad(objective(logits, y).sum(), x, allow_unused=True)
            if gradient is None:
                return "the gradient is detached before it reaches the image"
            found.append(gradient)
        return torch.cat(found)
