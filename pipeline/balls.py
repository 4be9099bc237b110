"""The geometry of ε: norm balls around an image.

A ball knows three things — how to project onto itself, which unit step most increases a linear function, and how to
draw a point from itself — and every first-order attack is written in these three words.

All tensors are perturbations δ of shape (B, C, *spatial), float32, in intensity units of the image (an image spans 1).
A radius is a length in those units; its root mean square in grey levels of 255 is
``255 * radius / sqrt(C * rows * columns)`` for ℓ2 and at most ``255 * radius`` for ℓ∞.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class Ball(Protocol):
    """A norm ball: three methods make a norm usable by every first-order attack."""

    norm: ClassVar[str]

    @property
    def radius(self) -> float:
        """Radius ε in intensity units, finite and ≥ 0."""

    def project(self, delta: Tensor) -> Tensor:
        """Nearest point of the ball, for each example: idempotent and non-expansive."""

    def ascend(self, grad: Tensor) -> Tensor:
        """Step of norm 1 that most increases ``<grad, step>``, for each example; 0 where the gradient is 0."""

    def sample(self, like: Tensor) -> Tensor:
        """Uniform draw from the ball for each example, in the shape, dtype and device of ``like``."""

    def length(self, delta: Tensor) -> Tensor:
        """Norm of each example, shape (B,)."""


@dataclass(frozen=True)
class L2:
    """Euclidean ball, ‖δ‖₂ ≤ radius.

    Raises:
        ValueError: the radius is negative or not finite.

    Example:
        >>> L2(0.5).project(torch.tensor([[3.0, 4.0]]))
        tensor([[0.3000, 0.4000]])
    """

    radius: float
    norm: ClassVar[str] = "l2"

    def __post_init__(self) -> None:
        _check(self.radius)

    def project(self, delta: Tensor) -> Tensor:
        """Shrink each example onto the sphere if it lies outside; see :class:`Ball`."""
        length = _per_example(self.length(delta), delta)
        return delta * (self.radius / length.clamp_min(_TINY)).clamp_max(1.0)

    def ascend(self, grad: Tensor) -> Tensor:
        """Grad / ‖grad‖₂; scaled by its peak first, so that squares of tiny gradients do not underflow to 0."""
        peak = _per_example(grad.flatten(1).abs().amax(1), grad)
        scaled = grad / peak.clamp_min(_TINY)
        return scaled / _per_example(self.length(scaled), grad).clamp_min(_TINY)

    def sample(self, like: Tensor) -> Tensor:
        """A normal direction at a distance radius·U^(1/n): uniform in volume; see :class:`Ball`."""
        distance = self.radius * torch.rand(len(like), device=like.device, dtype=like.dtype) ** (1 / like[0].numel())
        return self.ascend(torch.randn_like(like)) * _per_example(distance, like)

    def length(self, delta: Tensor) -> Tensor:
        """‖δ‖₂ of each example, shape (B,)."""
        length: Tensor = torch.linalg.vector_norm(delta.flatten(1), dim=1)
        return length


@dataclass(frozen=True)
class Linf:
    """Maximum-norm ball, |δ_i| ≤ radius.

    Raises:
        ValueError: the radius is negative or not finite.

    Example:
        >>> Linf(0.5).project(torch.tensor([[3.0, -0.2]]))
        tensor([[ 0.5000, -0.2000]])
    """

    radius: float
    norm: ClassVar[str] = "linf"

    def __post_init__(self) -> None:
        _check(self.radius)

    def project(self, delta: Tensor) -> Tensor:
        """Clip each element to ±radius; see :class:`Ball`."""
        return delta.clamp(-self.radius, self.radius)

    def ascend(self, grad: Tensor) -> Tensor:
        """sign(grad); see :class:`Ball`."""
        return grad.sign()

    def sample(self, like: Tensor) -> Tensor:
        """Each element uniform in ±radius; see :class:`Ball`."""
        return torch.empty_like(like).uniform_(-1.0, 1.0) * self.radius

    def length(self, delta: Tensor) -> Tensor:
        """Max |δ_i| of each example, shape (B,)."""
        return delta.flatten(1).abs().amax(1)


_TINY = torch.finfo(torch.float32).tiny


def _per_example(values: Tensor, like: Tensor) -> Tensor:
    """(B,) -> (B, 1, …), to broadcast over an image."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def _check(radius: float) -> None:
    if not (math.isfinite(radius) and radius >= 0):
        raise ValueError(f"radius: {radius} is not a finite length >= 0; give ε in intensity units of the image")
