"""Loss of detail: blur, motion, fewer pixels, compression, a truncated spectrum.

Images are (B, C, *spatial) float32 in [0, 1], on any device; all work in the plane of the last two axes, on a volume
slice by slice. Lengths are those of a 224 x 224 image and scale with the size. Results are clipped to [0, 1].
"""

from __future__ import annotations

import io
import math

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

SIDE = 224  # rows and columns for which lengths are given


def blur(x: Tensor, kernel: float) -> Tensor:
    """Gaussian blur with the kernel that torchvision makes of its length; edges are mirrored.

    At 224 x 224 σ = 0.15·kernel + 0.35 pixels, sampled at ``kernel`` pixels. At other sizes σ and the length scale, and
    the length is rounded to an odd number of at least 3.

    Args:
        x: (B, C, *spatial) of at least 2 x 2 pixels.
        kernel: length at 224 x 224, in pixels, odd.

    Example:
        >>> point = torch.zeros(1, 1, 224, 224)
        >>> point[..., 100, 100] = 1
        >>> blur(point, 3)[0, 0, 100, 98:103]
        tensor([0.0000, 0.1248, 0.2725, 0.1248, 0.0000])
    """
    scale = _scale(x)
    reach = max(1, round((kernel * scale - 1) / 2))
    place = torch.arange(-reach, reach + 1, device=x.device)
    weights = (-0.5 * (place / ((0.15 * kernel + 0.35) * scale)) ** 2).exp()
    weights = weights / weights.sum()
    planes = F.pad(x.flatten(0, -3)[:, None], [reach] * 4, mode="reflect")
    blurred = F.conv2d(F.conv2d(planes, weights[None, None, None]), weights[None, None, :, None])
    return blurred.reshape(x.shape).clamp(0, 1)


def motion(x: Tensor, radius: float, sigma: float) -> Tensor:
    """Smeared along one direction, as by a probe that moves; the edge is repeated outside.

    x'(p) = Σ_t w(t)·x(p + t·u), w the half of a Gaussian of σ on 0 ≤ t ≤ 2·radius in steps of about a pixel, u a unit
    vector drawn for each image within 45° of the rows.

    Args:
        x: (B, C, rows, columns).
        radius: half the length of the path at 224 x 224, in pixels.
        sigma: of the weights at 224 x 224, in pixels.
    """
    angle = (torch.rand(len(x), device=x.device) - 0.5) * (math.pi / 2)
    length = 2 * radius * _scale(x)
    reach, steps = math.ceil(length), max(1, round(length))
    path = torch.linspace(0, length, steps + 1, device=x.device)
    weights = (-0.5 * (path / (sigma * _scale(x))) ** 2).exp()
    along = path * torch.stack([angle.sin(), angle.cos()])[..., None]  # (2, B, steps + 1): rows, columns
    place = torch.arange(-reach, reach + 1, device=x.device)
    down, across = (1 - (place - along[..., None]).abs()).clamp(min=0)  # bilinear: (B, steps + 1, places)
    kernel = torch.einsum("t,bti,btj->bij", weights / weights.sum(), down, across)
    wide = F.pad(x, [reach] * 4, mode="replicate")
    size = wide.shape[-2:]
    spectrum = torch.fft.rfft2(wide) * torch.fft.rfft2(kernel, size)[:, None].conj()
    smeared: Tensor = torch.fft.irfft2(spectrum, size)[..., : x.shape[-2], : x.shape[-1]]
    return smeared.clamp(0, 1)


def resolution(x: Tensor, factor: float) -> Tensor:
    """Rows and columns reduced to that factor by averaging, and repeated; where their grid begins is drawn.

    A grid that always begins in the corner would leave an edge on an even column, such as that of a film, whole at a
    factor of 0.5 and not at 0.6: the worse resolution would be the nearer one.
    """
    return pixelate(x, factor, torch.rand(2, len(x), device=x.device))


def pixelate(x: Tensor, factor: float, phase: Tensor) -> Tensor:
    """Blocks of whole pixels, as many as the factor leaves of rows and columns, each replaced by its mean.

    Args:
        x: (B, C, *spatial).
        factor: blocks for each row and column, rounded down to whole blocks, in (0, 1].
        phase: (2, B) for rows and columns, share of a block by which the first one is shorter; with 0 the result is
            that of Pillow's BOX, there and back.

    Example:
        >>> pixelate(torch.tensor([[[[0.0, 1.0], [0.5, 0.5]]]]), 0.5, torch.zeros(2, 1))
        tensor([[[[0.5000, 0.5000],
                  [0.5000, 0.5000]]]])
    """
    down, across = (_averages(n, max(1, int(n * factor)), begin) for n, begin in zip(x.shape[-2:], phase, strict=True))
    each = (-1, *[1] * (x.ndim - 3))
    averaged: Tensor = down.unflatten(0, each) @ x @ across.unflatten(0, each)
    return averaged.clamp(0, 1)


def _averages(size: int, blocks: int, phase: Tensor) -> Tensor:
    """(B, size, size) matrices, symmetric, that put in every place the mean of its block."""
    place = torch.arange(size, device=phase.device) + 0.5
    block = (place * (blocks / size) + phase[:, None]).floor()
    same = (block[:, :, None] == block[:, None]).float()
    return same / same.sum(2, keepdim=True)


def jpeg(x: Tensor, quality: float) -> Tensor:
    """Compressed and decompressed as an 8-bit grey JPEG, each image and channel for itself, on the CPU.

    Its blocks of 8 x 8 pixels do not scale: on a smaller image they cover more of it.

    Args:
        x: (B, C, rows, columns).
        quality: of libjpeg, 1 to 100.
    """
    planes = (x * 255).round().to("cpu", torch.uint8).flatten(0, 1).numpy()
    made = np.stack([_compressed(plane, int(quality)) for plane in planes])
    return (torch.from_numpy(made).to(x) / 255).reshape(x.shape)


def _compressed(plane: npt.NDArray[np.uint8], quality: int) -> npt.NDArray[np.uint8]:
    file = io.BytesIO()
    Image.fromarray(plane).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def ringing(x: Tensor, share: float) -> Tensor:
    """Gibbs ringing: of rows and columns of the spectrum only the middle share is kept, as of a short MR acquisition.

    Args:
        x: (B, C, *spatial).
        share: of the frequencies of each of the two axes, in (0, 1].

    Example:
        >>> ringing(torch.tensor([[[[0.0, 0.5, 0.0, 0.5]]]]), 0.5)  # the highest frequency goes
        tensor([[[[0.2500, 0.2500, 0.2500, 0.2500]]]])
    """
    down, across = (torch.fft.fftfreq(n, device=x.device).abs() <= share / 2 for n in x.shape[-2:])
    cut: Tensor = torch.fft.ifft2(torch.fft.fft2(x) * (down[:, None] & across)).real
    return cut.clamp(0, 1)


def _scale(x: Tensor) -> float:
    """Size of the image over 224: the geometric mean of its sides."""
    return math.sqrt(x.shape[-2] * x.shape[-1]) / SIDE
