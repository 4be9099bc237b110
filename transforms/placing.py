"""How an image was taken: an uneven field, blades in the beam, and where the patient lay.

Images are (B, C, *spatial) float32 in [0, 1], on any device. What is drawn, from torch's generator on that device, is
drawn for each image and does not depend on the strength. Results are clipped to [0, 1]; what comes from outside is 0.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .augmix import affine, rotation

WAVES = 3  # of each axis of a bias field: constant, half a wave, a whole wave


def bias_field(x: Tensor, strength: float) -> Tensor:
    """clip(x·e^(strength·b)), b a smooth random field between −1 and 1 over all spatial axes, as of a receive coil.

    b is a sum of cosines, at most one wave long on each axis, with normal coefficients, divided by its largest
    magnitude. The channels share it.

    Example:
        >>> bias_field(torch.zeros(1, 1, 1, 2), 0.5)
        tensor([[[[0., 0.]]]])
    """
    field = torch.randn(len(x), *[WAVES] * (x.ndim - 2), device=x.device)
    field.flatten(1)[:, 0] = 0  # a constant is exposure, not a field
    for axis, n in enumerate(x.shape[2:], 1):
        phase = (torch.arange(n, device=x.device) + 0.5) * (math.pi / n)
        waves = (torch.arange(WAVES, device=x.device)[:, None] * phase).cos()
        field = torch.tensordot(field, waves, ([axis], [0])).movedim(-1, axis)
    largest = field.flatten(1).abs().amax(1).reshape(-1, *[1] * (x.ndim - 2))
    return (x * (strength * field / largest)[:, None].exp()).clamp(0, 1)


def collimation(x: Tensor, share: float) -> Tensor:
    """Black outside a rectangle: blades of a collimator, and the shutter that a display puts over what they hide.

    Args:
        x: (B, C, rows, columns).
        share: of a side that is covered at each of its ends, on average; each edge draws ½ to 3/2 of it.

    Source of the form: PS3.3 C.7.6.11 (Display Shutter, rectangular).
    """
    drawn = share * (0.5 + torch.rand(2, 2, len(x), 1, device=x.device))
    down, across = (_open(n, *edges * n) for n, edges in zip(x.shape[-2:], drawn, strict=True))
    return x * down[:, None, :, None] * across[:, None, None, :]


def _open(size: int, near: Tensor, far: Tensor) -> Tensor:
    """(B, size): how much of each pixel lies between two edges, (B, 1) in pixels from either end."""
    place = torch.arange(size, device=near.device)
    return (place + 1 - near).clamp(0, 1) * (size - place - far).clamp(0, 1)


def rotate(x: Tensor, degrees: float) -> Tensor:
    """Turned about the centre in the plane of the last two axes, one way or the other."""
    return affine(x, rotation(degrees * _sign(x), *x.shape[-2:])).clamp(0, 1)


def translate(x: Tensor, share: float) -> Tensor:
    """Moved by that share of rows and columns in a direction drawn over the full circle."""
    angle = 2 * math.pi * torch.rand(len(x), device=x.device)
    rows, columns = x.shape[-2:]
    one, zero = torch.ones_like(angle), torch.zeros_like(angle)
    entries = [one, zero, share * columns * angle.cos(), zero, one, share * rows * angle.sin()]
    return affine(x, torch.stack(entries, 1).reshape(-1, 2, 3)).clamp(0, 1)


def rescale(x: Tensor, factor: float) -> Tensor:
    """Magnified about the centre by that factor, or reduced by it."""
    source = factor ** _sign(x)
    rows, columns = x.shape[-2:]
    zero = torch.zeros_like(source)
    entries = [source, zero, (1 - source) * columns / 2, zero, source, (1 - source) * rows / 2]
    return affine(x, torch.stack(entries, 1).reshape(-1, 2, 3)).clamp(0, 1)


def _sign(x: Tensor) -> Tensor:
    """(B,) of 1 and −1."""
    return torch.randint(2, (len(x),), device=x.device) * 2.0 - 1
