"""Projected gradient descent: the first-order attack inside RTDA, and FGSM as its one-step case.

    δ* ≈ argmax_{δ in ball} objective(f(x + δ), y),   δ ← project(δ + step · ascend(∇_δ objective))

Source: Madry et al., "Towards deep learning models resistant to adversarial attacks", ICLR 2018; with 7 steps of
2.5·ε/steps from a random start, as arXiv 2506.17133 uses it in training, and 20 in testing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..balls import Ball
from ..losses import as_distributions, kl_divergence
from .frozen import frozen, plain

Objective = Callable[[Tensor, Tensor, Tensor], Tensor]


def margin(logits: Tensor, target: Tensor) -> Tensor:
    """Largest wrong logit minus the right one, per example; > 0 iff misclassified. It cannot saturate.

    Multi-label targets (B, C): the sum over labels of the signed logit, positive where the label is wrong.

    Example:
        >>> margin(torch.tensor([[2.0, 5.0, 1.0]]), torch.tensor([0]))
        tensor([3.])
    """
    if target.ndim == 2:
        return ((1 - 2 * target.to(logits)) * logits).sum(1)
    right = logits.gather(1, target[:, None])
    wrong = logits.scatter(1, target[:, None], -math.inf)
    return wrong.amax(1) - right[:, 0]


def log_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Logarithm of the cross entropy of each example: as an objective the same direction, without its saturation.

    Cross entropy is softplus(m), m = logsumexp of the wrong logits minus the right one. Its gradient vanishes as e^m:
    in float32 the right class's part is lost from m ≈ −17 on, and a confident network looks robust. Its logarithm
    has the same gradient up to a factor per example, which ``ascend`` removes, and slope 1 where m is very negative.

    Args:
        logits: (B, C), finite.
        target: (B,) classes, or (B, C) of 0 and 1: then the logarithm of the labels' summed binary cross entropies.

    Returns:
        (B,), any real number.

    Example:
        >>> log_cross_entropy(torch.tensor([[200.0, 0.0]]), torch.tensor([0]))
        tensor([-200.])
    """
    if target.ndim == 2:
        return torch.logsumexp(_log_softplus((1 - 2 * target.to(logits)) * logits), 1)
    right = logits.gather(1, target[:, None])
    wrong = logits.scatter(1, target[:, None], -math.inf)
    return _log_softplus(torch.logsumexp(wrong, 1) - right[:, 0])


def _log_softplus(m: Tensor) -> Tensor:
    """Log softplus(m), which is m up to 2e-7 below −15; the clamp keeps log 0 out of the gradient."""
    return torch.where(m < -15, m, F.softplus(m.clamp_min(-15)).log())


def _divergence_from_clean(logits: Tensor, target: Tensor, clean: Tensor) -> Tensor:
    pairs = torch.stack([as_distributions(clean, target), as_distributions(logits, target)])
    divergence: Tensor = kl_divergence(pairs).unflatten(0, (len(logits), -1)).sum(1)
    return divergence


OBJECTIVES: dict[str, Objective] = {
    "ce": lambda logits, target, clean: log_cross_entropy(logits, target),
    "margin": lambda logits, target, clean: margin(logits, target),
    "kl": _divergence_from_clean,
}


@dataclass(frozen=True)
class PGD:
    """Projected gradient ascent on an objective within a norm ball: a view, ``PGD(ball)(model, x, y) -> x'``.

    Args:
        ball: where δ may lie, e.g. ``L2(0.571)``; its radius is in intensity units.
        steps: gradient steps ≥ 1.
        step_size: length of a step in the ball's norm; None is 2.5·radius/steps.
        bounds: range of valid intensities; images outside are refused.
        start: ``"ball"`` (uniform in the ball), ``"none"`` (the image itself), or σ of a Gaussian start.
        restarts: independent starts ≥ 1; of these each image keeps the one with the highest objective.
        objective: ``"ce"`` cross entropy (climbed by its logarithm: the same direction, no saturation),
            ``"margin"``, or ``"kl"`` from the clean output (TRADES; it saturates where both outputs are certain).

    Shapes:
        x (B, C, *spatial) float32 in bounds; y (B,) classes or (B, C) labels -> (B, C, *spatial), within the ball
        (to 1e-5·radius + 2⁻²³, times √n for ℓ2) and exactly within the bounds.

    Raises:
        ValueError: a setting or an image is outside its range.

    Example:
        >>> from rtda.pipeline.balls import Linf
        >>> model = nn.Linear(1, 2, bias=False)
        >>> _ = nn.init.constant_(model.weight[0], 1.0), nn.init.constant_(model.weight[1], -1.0)
        >>> FGSM(Linf(0.25))(model, torch.tensor([[0.5]]), torch.tensor([0]))
        tensor([[0.2500]])
    """

    ball: Ball
    steps: int = 7
    step_size: float | None = None
    bounds: tuple[float, float] = (0.0, 1.0)
    start: Literal["ball", "none"] | float = "ball"
    restarts: int = 1
    objective: str = "ce"

    def __post_init__(self) -> None:
        if self.steps < 1 or self.restarts < 1:
            raise ValueError(f"steps: {self.steps} and restarts: {self.restarts} must be at least 1")
        if self.objective not in OBJECTIVES:
            raise ValueError(f"objective: '{self.objective}' is unknown; choose one of {sorted(OBJECTIVES)}")
        if isinstance(self.start, str) and self.start not in ("ball", "none"):
            raise ValueError(f"start: '{self.start}' is unknown; choose 'ball', 'none' or the σ of a Gaussian")
        if not isinstance(self.start, str) and not (math.isfinite(self.start) and self.start >= 0):
            raise ValueError(f"start: {self.start} is not a finite σ >= 0; choose one, 'ball' or 'none'")
        if self.step_size is not None and not (math.isfinite(self.step_size) and self.step_size >= 0):
            raise ValueError(f"step_size: {self.step_size} is not a finite length >= 0; None is 2.5·radius/steps")
        if not self.bounds[0] < self.bounds[1]:
            raise ValueError(f"bounds: {list(self.bounds)} do not rise; give the lowest and the highest intensity")

    @property
    def name(self) -> str:
        """What evaluation calls it: ``pgd20_l2_0.571``, ``fgsm_linf_0.01``, ``pgd100_margin_x5_l2_0.571``."""
        one_step = self.steps == 1 and self.start == "none" and self.step_size == self.ball.radius
        parts = ["fgsm" if one_step else f"pgd{self.steps}"]
        parts += [self.objective] if self.objective != "ce" else []
        parts += [f"x{self.restarts}"] if self.restarts > 1 else []
        return "_".join([*parts, self.ball.norm, f"{self.ball.radius:.3g}"])

    @property
    def facts(self) -> dict[str, Any]:
        """What the evaluation table says of it: family, norm and ε."""
        return {"family": "attack", "norm": self.ball.norm, "epsilon": self.ball.radius}

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return adversarial images; see the class."""
        x, y = plain(x), plain(y)
        check_images(x, self.bounds)
        if self.ball.radius == 0:
            return x.clone()
        with frozen(model) as f:
            x, y = x.detach().clone(), y.clone()  # inference tensors cannot be saved for a backward pass, copies can
            clean = f(x).detach() if self.objective == "kl" else x.new_empty(0)
            best = self._attack(f, x, y, clean)
            for _ in range(self.restarts - 1):
                best = self._worse(f, best, self._attack(f, x, y, clean), y, clean)
        return best

    def _attack(self, f: nn.Module, x: Tensor, y: Tensor, clean: Tensor) -> Tensor:
        objective = OBJECTIVES[self.objective]
        step = 2.5 * self.ball.radius / self.steps if self.step_size is None else self.step_size
        adversarial = self._confine(x, self._start(x))
        for _ in range(self.steps):
            adversarial.requires_grad_()
            (gradient,) = torch.autograd.grad(objective(f(adversarial), y, clean).sum(), adversarial)
            with torch.no_grad():
                adversarial = self._confine(x, adversarial - x + step * self.ball.ascend(gradient))
        return adversarial

    def _start(self, x: Tensor) -> Tensor:
        if self.start == "none":
            return torch.zeros_like(x)
        if self.start == "ball":
            return self.ball.sample(x)
        return float(self.start) * torch.randn_like(x)

    def _confine(self, x: Tensor, delta: Tensor) -> Tensor:
        """Project, then clip: clipping towards bounds that hold x only shortens δ, so both constraints stand."""
        return (x + self.ball.project(delta)).clamp(*self.bounds).detach()

    def _worse(self, f: nn.Module, a: Tensor, b: Tensor, y: Tensor, clean: Tensor) -> Tensor:
        objective = OBJECTIVES[self.objective]
        with torch.no_grad():
            better = objective(f(b), y, clean) > objective(f(a), y, clean)
        return torch.where(better.reshape(-1, *[1] * (a.ndim - 1)), b, a)


def FGSM(ball: Ball, **settings: Any) -> PGD:  # noqa: N802 - the field's name for one step of the whole radius
    """Fast gradient sign method: one step of the whole radius from the image itself.

    Source: Goodfellow et al., "Explaining and harnessing adversarial examples", ICLR 2015, §4.
    """
    return PGD(ball, steps=1, step_size=ball.radius, start="none", **settings)


def check_images(x: Tensor, bounds: tuple[float, float]) -> None:
    """Refuse images that a radius has no meaning for: another dtype, or intensities outside the bounds (or NaN)."""
    if x.dtype != torch.float32:
        raise ValueError(f"images are {x.dtype}, not float32: ε is a length in float32 intensities")
    low, high = torch.aminmax(x)
    if not (low >= bounds[0] and high <= bounds[1]):
        raise ValueError(
            f"intensities span [{low.item():.4g}, {high.item():.4g}], outside the bounds {list(bounds)}: "
            "scale images to the bounds before the attack"
        )
