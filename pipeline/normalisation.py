"""A normalisation of each image inside the model: on images in [0, 1], where ε has one meaning for all of them.

Much preprocessing ends in z-scores or in a scaling to the image's own range. An attack on its output would have another
ε for every image. Moved in front of the network it takes images in [0, 1]; :func:`holding` fixes the statistics of the
clean image while an attack moves it, so that the model is one affine map and a network.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from monai.transforms import (
    HistogramNormalized,
    NormalizeIntensity,
    NormalizeIntensityd,
    ScaleIntensity,
    ScaleIntensityd,
    ScaleIntensityRangePercentilesd,
)
from torch import Tensor, nn

Statistics = tuple[Tensor, Tensor]
"""Subtrahend and divisor, each of a shape that broadcasts to the images (B, C, *spatial), with B rows."""


class Normalisation(nn.Module):
    """(v − subtrahend) / divisor, both taken of each image itself, or held.

    Args:
        statistics: images (B, C, *spatial) -> subtrahend and divisor.
        held: those of other images, row by row; None takes each image's own.

    Example:
        >>> z_score = normalisation_of(NormalizeIntensityd("image"))
        >>> z_score(torch.tensor([[[1.0, 3.0]]]))
        tensor([[[-1.,  1.]]])
        >>> z_score.holding(torch.tensor([[[1.0, 3.0]]]))(torch.tensor([[[2.0, 4.0]]]))
        tensor([[[0., 2.]]])
    """

    def __init__(self, statistics: Callable[[Tensor], Statistics], held: Statistics | None = None) -> None:
        super().__init__()
        self.statistics, self.held = statistics, held

    def forward(self, images: Tensor) -> Tensor:
        """Return the normalised images."""
        subtrahend, divisor = self.held or self.statistics(images)
        if len(subtrahend) != len(images):
            raise ValueError(
                f"normalisation: {len(images)} images, but statistics of {len(subtrahend)} are held; "
                "an attack must keep the rows of its batch"
            )
        return (images - subtrahend) / divisor

    @torch.no_grad()
    def holding(self, clean: Tensor) -> Normalisation:
        """The same with the statistics of these images, whatever images come."""
        return Normalisation(self.statistics, self.statistics(clean))


def holding(network: nn.Module, clean: Tensor) -> nn.Module:
    """The network as it is around these images: an attack on them asks it, and so does whoever evaluates what it made.

    It shares the network's weights. A network without a :class:`Normalisation` among its stages is returned as it is.

    Args:
        network: a ``Sequential`` with normalisations at its top level, or any other.
        clean: (B, C, *spatial), which an attack starts from; it keeps their rows.
    """
    stages: list[Any] = list(network) if isinstance(network, nn.Sequential) else []
    places = [place for place, stage in enumerate(stages) if isinstance(stage, Normalisation)]
    if not places:
        return network
    with torch.no_grad():
        for place in range(places[-1] + 1):
            if place in places:
                stages[place] = stages[place].holding(clean)
            clean = stages[place](clean)
    return nn.Sequential(*stages)


def of_each_image(transform: Any) -> bool:
    """Whether a MONAI dictionary transform scales each image by its own intensities: after it, ε differs by image.

    Source: ``monai/transforms/intensity/dictionary.py`` of MONAI 1.6.
    """
    if isinstance(transform, NormalizeIntensityd):
        return transform.normalizer.subtrahend is None or transform.normalizer.divisor is None
    if isinstance(transform, ScaleIntensityd):
        return transform.scaler.minv is not None or transform.scaler.maxv is not None
    return isinstance(transform, (HistogramNormalized, ScaleIntensityRangePercentilesd))


def normalisation_of(transform: Any) -> Normalisation | None:
    """A MONAI transform as a module that computes the same; None where it is no normalisation that is known here.

    Known are NormalizeIntensity, with given or own statistics, of nonzero values, channel-wise; and ScaleIntensity to
    the image's own range or by a factor. Both as array or dictionary transforms. With ``nonzero``, which pixels are
    zero is held like the statistics: an attack that lifts a zero pixel does not make it one of the others.

    Source: ``monai/transforms/intensity/array.py`` of MONAI 1.6.
    """
    if isinstance(transform, NormalizeIntensityd):
        transform = transform.normalizer
    if isinstance(transform, ScaleIntensityd):
        transform = transform.scaler
    if type(transform) is NormalizeIntensity:
        return Normalisation(ZScore(transform))
    if type(transform) is ScaleIntensity:
        return Normalisation(OwnRange(transform))
    return None


class ZScore:
    """Subtrahend and divisor of MONAI's NormalizeIntensity: given, or mean and standard deviation of the image."""

    def __init__(self, transform: NormalizeIntensity) -> None:
        self.given = transform.subtrahend, transform.divisor
        self.nonzero, self.channel_wise = transform.nonzero, transform.channel_wise

    def __call__(self, images: Tensor) -> Statistics:
        """Return the statistics of each image; 0 and 1 where nothing is normalised."""
        axes = tuple(range(2 if self.channel_wise else 1, images.ndim))
        counted = (images != 0).to(images) if self.nonzero else torch.ones_like(images)
        number = counted.sum(axes, keepdim=True).clamp_min(1)
        mean = (images * counted).sum(axes, keepdim=True) / number
        variance = ((images - mean).square() * counted).sum(axes, keepdim=True) / number
        given_mean, given_deviation = (self._like(images, value) for value in self.given)
        mean = mean if given_mean is None else given_mean
        # a root at 0 has an infinite slope; the guarded one has none, and is not used
        deviation = torch.where(variance > 0, variance, 1).sqrt() if given_deviation is None else given_deviation
        deviation = torch.where(deviation == 0, 1, deviation)
        return mean * counted, torch.where(counted == 0, 1, deviation)

    def _like(self, images: Tensor, value: Any) -> Tensor | None:
        if value is None:
            return None
        given = torch.as_tensor(value, dtype=images.dtype, device=images.device)
        return given.reshape(-1, *[1] * (images.ndim - 2)) if self.channel_wise and given.ndim == 1 else given


class OwnRange:
    """Subtrahend and divisor of MONAI's ScaleIntensity: from the image's own range to a given one, or a factor."""

    def __init__(self, transform: ScaleIntensity) -> None:
        self.low, self.high, self.factor = transform.minv, transform.maxv, transform.factor
        self.channel_wise = transform.channel_wise

    def __call__(self, images: Tensor) -> Statistics:
        """Return the statistics of each image."""
        axes = tuple(range(2 if self.channel_wise else 1, images.ndim))
        least, span = images.amin(axes, keepdim=True), images.amax(axes, keepdim=True) - images.amin(axes, keepdim=True)
        if self.low is None and self.high is None:
            return torch.zeros_like(least), torch.full_like(least, 1 / (1 + (self.factor or 0.0)))
        low, high = (0.0, 1.0) if self.low is None or self.high is None else (self.low, self.high)
        constant = 1.0 if self.low is None else self.low  # what MONAI multiplies an image of one value by
        flat = torch.full_like(span, 1 / constant if constant else math.inf)
        divisor = torch.where(span > 0, span / (high - low), flat)
        return torch.where(span > 0, least - low * divisor, 0), divisor
