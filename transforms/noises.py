"""Noise of an acquisition: electronics, coherent waves, dead pixels, and too few photons.

Images are (B, C, *spatial) float32 in [0, 1], 2-D or 3-D, on any device. Noise is drawn from torch's generator on that
device, before its strength is looked at: the same seed gives the same field at every strength. Results are clipped to
[0, 1].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .intensity import noise

FILM_RANGE = 3.0  # natural logarithm of the exposures that a film's grey scale spans, black to white: 1 : 20
FILM_NOISE = 0.005  # of a film at full dose where it is black, in intensity units: 4 400 photons a pixel
CT_NOISE = 0.01  # of a slice at full dose, in intensity units: 15 HU in a window of 1500 HU


def gaussian(x: Tensor, sigma: float) -> Tensor:
    """clip(x + σ·n), n ~ N(0, 1) for each pixel; σ in intensity units."""
    return noise(x, x.new_full((len(x),), sigma))


def speckle(x: Tensor, sigma: float) -> Tensor:
    """clip(x + σ·n·x), n ~ N(0, 1) for each pixel; σ a share of the intensity.

    Example:
        >>> speckle(torch.zeros(1, 1, 1, 2), 0.2)
        tensor([[[[0., 0.]]]])
    """
    return (x + sigma * torch.randn_like(x) * x).clamp(0, 1)


def impulse(x: Tensor, share: float) -> Tensor:
    """That share of the pixels is black or white, half of them each; those of a lower share are among them.

    Example:
        >>> impulse(torch.full((1, 1, 1, 3), 0.5), 1.0).unique()
        tensor([0., 1.])
    """
    drawn = torch.rand_like(x)
    return x.masked_fill(drawn < share / 2, 0).masked_fill(drawn >= 1 - share / 2, 1)


def shot(x: Tensor, photons: float) -> Tensor:
    """clip(k / photons), k ~ Poisson(photons · x): counts of a detector for which white is that many photons.

    How many random numbers a count takes depends on its mean, so that here alone the field differs between strengths,
    and with the images before this one in the batch.

    Example:
        >>> shot(torch.full((1, 1, 1, 1), 0.5), 4.0) * 4 % 1
        tensor([[[[0.]]]])
    """
    return (torch.poisson(x * photons) / photons).clamp(max=1)


def low_dose(x: Tensor, dose: float) -> Tensor:
    """clip(x + σ(x)·√(1/dose − 1)·n): the noise that a film at that share of its dose has on top of what it has.

    Grey is the logarithm of an exposure, bright where little arrives: x = 1 has e^−3 times the photons of x = 0. The
    relative noise of N photons is 1/√N, hence σ(x) = 0.005·e^(3x/2). Black stays as it is: it is padding.

    Args:
        x: (B, C, rows, columns), a projection such as a chest film or a mammogram.
        dose: share of the full dose, in (0, 1].

    Example:
        >>> low_dose(torch.tensor([[[[0.0, 0.5]]]]), 1.0)
        tensor([[[[0.0000, 0.5000]]]])
    """
    sigma = FILM_NOISE * math.sqrt(1 / dose - 1) * (FILM_RANGE / 2 * x).exp()
    return torch.where(x > 0, (x + sigma * torch.randn_like(x)).clamp(0, 1), x)


def ct_low_dose(x: Tensor, dose: float) -> Tensor:
    """clip(x + 0.01·√(1/dose − 1)·n), n of variance 1 with the grain of filtered back-projection in each slice.

    The noise power of a reconstructed slice grows with the frequency f as the ramp filter does, until the apodisation
    takes it away: n is white noise times √f·cos²(πf), f in cycles a pixel up to ½. Black stays as it is: it lies below
    the window.

    Args:
        x: (B, C, *spatial), slices in the plane of the last two axes.
        dose: share of the full dose, in (0, 1].

    Source of the spectrum: Riederer, Pelc and Chesler, Phys. Med. Biol. 23, 1978.
    """
    down, across = (torch.fft.fftfreq(n, device=x.device) for n in x.shape[-2:])
    frequency = torch.hypot(down[:, None], across).clamp(max=0.5)
    gain = frequency.sqrt() * (math.pi * frequency).cos() ** 2
    grain = torch.fft.ifft2(torch.fft.fft2(torch.randn_like(x)) * gain).real / gain.square().mean().sqrt()
    return torch.where(x > 0, (x + CT_NOISE * math.sqrt(1 / dose - 1) * grain).clamp(0, 1), x)
