"""Batch-first pixel functions with a parameter for each image, and random transforms over them.

Images are (B, C, *spatial) float32 in [0, 1], 2-D or 3-D, on any device; parameters are (B,) on the same device. A
function applies given parameters; a ``Random…`` class draws them from torch's generator. Results are clipped to [0,
1].
"""

from __future__ import annotations

import torch
from torch import Tensor


def contrast(x: Tensor, factor: Tensor) -> Tensor:
    """clip(μ + factor·(x − μ)), μ of :func:`mean_inside`; factor < 1 lowers contrast.

    Example:
        >>> contrast(torch.tensor([[[0.2, 1.0]]]), torch.tensor([0.5]))
        tensor([[[0.4000, 0.8000]]])
    """
    mean = mean_inside(x)
    return (mean + per_image(factor, x) * (x - mean)).clamp(0, 1)


def mean_inside(x: Tensor) -> Tensor:
    """Mean of each image and channel over its pixels above 0: padding and the black beside a film are no tissue.

    Example:
        >>> mean_inside(torch.tensor([[[0.0, 0.0, 0.25, 0.75]]]))
        tensor([[[0.5000]]])
    """
    inside = (x > 0).flatten(2).sum(2).clamp(min=1)
    return (x.flatten(2).sum(2) / inside).reshape(*x.shape[:2], *[1] * (x.ndim - 2))


def brightness(x: Tensor, offset: Tensor) -> Tensor:
    """clip(x + offset), the offset in intensity units.

    Example:
        >>> brightness(torch.tensor([[[0.0, 1.0]]]), torch.tensor([0.1]))
        tensor([[[0.1000, 1.0000]]])
    """
    return (x + per_image(offset, x)).clamp(0, 1)


def gamma(x: Tensor, exponent: Tensor) -> Tensor:
    """Power of x; an exponent above 1 darkens the middle.

    Example:
        >>> gamma(torch.tensor([[[0.0, 0.5, 1.0]]]), torch.tensor([2.0]))
        tensor([[[0.0000, 0.2500, 1.0000]]])
    """
    return x.clamp(0, 1) ** per_image(exponent, x)


def window(x: Tensor, centre: Tensor, width: Tensor) -> Tensor:
    """clip((x − centre) / width + ½): another window on display intensities; 0.5 and 1 leave them as they are.

    Source: PS3.3 C.11.2.1.3.2 (LINEAR_EXACT).

    Example:
        >>> window(torch.tensor([[[0.25, 0.5, 1.0]]]), torch.tensor([0.5]), torch.tensor([0.5]))
        tensor([[[0.0000, 0.5000, 1.0000]]])
    """
    return ((x - per_image(centre, x)) / per_image(width, x) + 0.5).clamp(0, 1)


def noise(x: Tensor, sigma: Tensor) -> Tensor:
    """clip(x + σ·N(0, 1)), σ in intensity units; drawn from torch's generator on the device of x."""
    return (x + per_image(sigma, x) * torch.randn_like(x)).clamp(0, 1)


def mix(x: Tensor, other: Tensor, share: Tensor) -> Tensor:
    """(1 − share)·x + share·other for each image, share in [0, 1].

    Example:
        >>> mix(torch.zeros(1, 1, 1), torch.ones(1, 1, 1), torch.tensor([0.25]))
        tensor([[[0.2500]]])
    """
    share = per_image(share, x)
    return (1 - share) * x + share * other


class RandomContrastBrightness:
    """Random contrast and brightness, mixed with the clean image by Beta(alpha, alpha): a simple augmentation of
    exposure.

    Args:
        factor: range of the contrast factor, uniform; (0.2, 1.4) makes low contrast a *seen* shift.
        offset: range of the brightness offset in intensity units, uniform.
        alpha: of the Beta distribution of the augmented image's share; 1 is uniform.

    Shapes:
        (B, C, *spatial) float32 in [0, 1] -> the same.

    Example:
        >>> RandomContrastBrightness()(torch.rand(2, 1, 4, 4)).shape
        torch.Size([2, 1, 4, 4])
    """

    groups = frozenset({"brightness", "contrast"})
    """Groups of acquisition shifts that training with it has seen."""

    def __init__(
        self,
        factor: tuple[float, float] = (0.2, 1.4),
        offset: tuple[float, float] = (-0.1, 0.1),
        alpha: float = 1.0,
    ) -> None:
        self.factor, self.offset, self.alpha = factor, offset, alpha

    def __call__(self, x: Tensor) -> Tensor:
        """Return augmented images."""
        shifted = brightness(contrast(x, _uniform(x, self.factor)), _uniform(x, self.offset))
        alpha = x.new_full((len(x),), self.alpha)
        return mix(x, shifted, torch.distributions.Beta(alpha, alpha).sample())


def _uniform(x: Tensor, limits: tuple[float, float]) -> Tensor:
    return torch.empty(len(x), device=x.device).uniform_(*limits)


def per_image(values: Tensor, x: Tensor) -> Tensor:
    """(B,) -> (B, 1, 1, …), which broadcasts over the images x."""
    return values.reshape(-1, *[1] * (x.ndim - 1))
