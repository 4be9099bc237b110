"""AugMix on grey-level images as tensors: chains of simple operations, mixed with the image by random shares.

    x' = (1 − m) x + m Σ_i w_i chain_i(x),   w ~ Dirichlet(α), m ~ Beta(α, α)

Images are (B, C, *spatial) float32 in [0, 1], 2-D or 3-D, on any device. Operations work on grey levels of 255 as their
8-bit originals in Pillow do, but between levels they are continuous; the geometric ones work in the plane of the last
two axes, the others on the image as a whole, each channel for itself.

Source: Hendrycks et al., "AugMix", ICLR 2020, and the operations of its public code. Its colour operation is left out:
on grey images it is the identity.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional as F

from .intensity import contrast, mix, per_image

LEVELS = 255
CACHED = 2**18  # pixels augmented at once on a CPU: their chains and what is made of them stay in its cache
EDGE = 1e-3  # of a grey level: 17/255 in float32 must not count as below level 17


# Pointwise operations and those on the histogram: (B, C, *spatial) and a parameter for each image


def autocontrast(x: Tensor, unused: Tensor) -> Tensor:
    """Each channel stretched to 0 … 1; a constant one is left alone.

    Example:
        >>> autocontrast(torch.tensor([[[0.25, 0.5, 0.75]]]), torch.zeros(1))
        tensor([[[0.0000, 0.5000, 1.0000]]])
    """
    each = (*x.shape[:2], *[1] * (x.ndim - 2))
    low, high = x.flatten(2).amin(2).reshape(each), x.flatten(2).amax(2).reshape(each)
    constant = high <= low
    return torch.where(constant, x, (x - low) / torch.where(constant, 1, high - low))


def equalize(x: Tensor, unused: Tensor) -> Tensor:
    """Each channel's histogram of 256 levels made flat."""
    level = (x.flatten(2).flatten(0, 1) * LEVELS).round_().long()
    counts = torch.zeros(len(level), LEVELS + 1, device=x.device)
    counts.scatter_add_(1, level, x.new_ones(1, 1).expand(level.shape))
    last = counts.gather(1, level.amax(1, keepdim=True))
    step = ((counts.sum(1, keepdim=True) - last) / LEVELS).floor()
    before = counts.cumsum(1) - counts
    table = ((before + (step / 2).floor()) / step.clamp(min=1)).floor().clamp(max=LEVELS)
    table = torch.where(step > 0, table, torch.arange(LEVELS + 1, device=x.device))
    return (table / LEVELS).gather(1, level).reshape(x.shape)


def posterize(x: Tensor, bits: Tensor) -> Tensor:
    """Only the upper ``bits`` of the 8 of a grey level are kept.

    Example:
        >>> posterize(torch.tensor([[[100 / 255]]]), torch.tensor([3.0])) * 255  # 0b01100100 -> 0b01100000
        tensor([[[96.]]])
    """
    step = per_image(2 ** (8 - bits), x)
    return ((x * LEVELS + EDGE) / step).floor() * step / LEVELS


def solarize(x: Tensor, threshold: Tensor) -> Tensor:
    """Grey levels at or above the threshold, in levels of 255, are inverted."""
    return torch.where(x * LEVELS + EDGE >= per_image(threshold, x), 1 - x, x)


def brighten(x: Tensor, factor: Tensor) -> Tensor:
    """clip(factor · x)."""
    return (per_image(factor, x) * x).clamp(0, 1)


def sharpen(x: Tensor, factor: Tensor) -> Tensor:
    """clip(blurred + factor · (x − blurred)) in the plane of the last two axes; below 1 it blurs. Edges stay."""
    inner = x[..., 1:-1, 1:-1]
    beside = x[..., :-2] + x[..., 1:-1] + x[..., 2:]
    around = beside[..., :-2, :] + beside[..., 1:-1, :] + beside[..., 2:, :]
    blurred = x.clone()
    blurred[..., 1:-1, 1:-1] = (around + 4 * inner) / 13
    return mix(blurred, x, factor).clamp(0, 1)


# Geometric operations: one bilinear resampling, outside 0


def affine(x: Tensor, matrix: Tensor) -> Tensor:
    """Resample in the plane of the last two axes; what comes from outside is 0.

    Args:
        x: (B, C, *spatial).
        matrix: (B, 2, 3), (column, row, 1) of a pixel -> column and row of its source, in pixels from the corner; the
            centre of the first pixel is (½, ½).
    """
    rows, columns = x.shape[-2:]
    size = matrix.new_tensor([columns, rows])
    # from pixels to grid_sample's units, in which the image spans −1 … 1
    theta = matrix * (2 / size)[:, None]
    theta[:, :, 2] -= 1
    across, down = (torch.arange(n, device=x.device) + 0.5 for n in (columns, rows))
    # (row, 1) · ((down, down …), (across + shift …)): affine_grid's own product, of three numbers a pixel, takes longer
    own = torch.addcmul(theta[:, None, :, 2], theta[:, None, :, 0], across[:, None]).flatten(1)
    factors = torch.stack([theta[:, :, 1].repeat(1, columns), own], 1)
    grid = torch.stack([down, torch.ones_like(down)], 1) @ factors
    grid = grid.unflatten(2, (columns, 2))
    moved: Tensor = F.grid_sample(x.flatten(1, -3), grid, padding_mode="zeros", align_corners=False)
    return moved.reshape(x.shape)


def rotation(degrees: Tensor, rows: int, columns: int) -> Tensor:
    """Matrix of :func:`affine`: counter-clockwise about the centre."""
    angle = torch.deg2rad(degrees)
    cos, sin = angle.cos(), angle.sin()
    x, y = columns / 2, rows / 2
    return _matrix(cos, -sin, x - x * cos + y * sin, sin, cos, y - x * sin - y * cos)


def shear_x(factor: Tensor, rows: int, columns: int) -> Tensor:
    """Matrix of :func:`affine`: a row's source lies ``factor`` · row further right."""
    zero, one = torch.zeros_like(factor), torch.ones_like(factor)
    return _matrix(one, factor, zero, zero, one, zero)


def shear_y(factor: Tensor, rows: int, columns: int) -> Tensor:
    """Matrix of :func:`affine`: a column's source lies ``factor`` · column further down."""
    zero, one = torch.zeros_like(factor), torch.ones_like(factor)
    return _matrix(one, zero, zero, factor, one, zero)


def translate_x(share: Tensor, rows: int, columns: int) -> Tensor:
    """Matrix of :func:`affine`: the source lies that share of the width further right, in whole pixels."""
    zero, one = torch.zeros_like(share), torch.ones_like(share)
    return _matrix(one, zero, (share * columns).trunc(), zero, one, zero)


def translate_y(share: Tensor, rows: int, columns: int) -> Tensor:
    """Matrix of :func:`affine`: the source lies that share of the height further down, in whole pixels."""
    zero, one = torch.zeros_like(share), torch.ones_like(share)
    return _matrix(one, zero, zero, zero, one, (share * rows).trunc())


def _matrix(*entries: Tensor) -> Tensor:
    return torch.stack(entries, -1).reshape(-1, 2, 3)


# What is drawn, and the transform


@dataclass(frozen=True)
class Operation:
    """One operation of a chain.

    Attributes:
        parameter: from the level l in (0, 10), (n,), to what ``apply`` or ``matrix`` takes.
        apply: (n, C, *spatial), parameter -> the same shape; or None where ``matrix`` is given.
        matrix: parameter with its drawn sign, rows, columns -> (n, 2, 3) for :func:`affine`.
        group: of acquisition shifts (``shifts.GROUPS``) that training with it has seen; None where it is like none.
    """

    parameter: Callable[[Tensor], Tensor]
    apply: Callable[[Tensor, Tensor], Tensor] | None = None
    matrix: Callable[[Tensor, int, int], Tensor] | None = None
    group: str | None = None


def _enhancement(level: Tensor) -> Tensor:
    return level * 1.8 / 10 + 0.1


OPERATIONS: Mapping[str, Operation] = {
    "autocontrast": Operation(torch.zeros_like, autocontrast, group="contrast"),
    "equalize": Operation(torch.zeros_like, equalize, group="contrast"),
    "posterize": Operation(lambda level: 4 - (level * 4 / 10).trunc(), posterize),
    "rotate": Operation(lambda level: (level * 30 / 10).trunc(), matrix=rotation, group="geometry"),
    "solarize": Operation(lambda level: 256 - (level * 256 / 10).trunc(), solarize),
    "shear_x": Operation(lambda level: level * 0.3 / 10, matrix=shear_x, group="geometry"),
    "shear_y": Operation(lambda level: level * 0.3 / 10, matrix=shear_y, group="geometry"),
    "translate_x": Operation(lambda level: level / 10 / 3, matrix=translate_x, group="geometry"),
    "translate_y": Operation(lambda level: level / 10 / 3, matrix=translate_y, group="geometry"),
    "contrast": Operation(_enhancement, contrast, group="contrast"),
    "brightness": Operation(_enhancement, brighten, group="brightness"),
    "sharpness": Operation(_enhancement, sharpen, group="blur"),
}
"""Name -> operation, with the parameters of AugMix's code. In doubt a group counts as seen: autocontrast and equalize
stretch contrast, and sharpness at a factor below 1 is a blur."""

LISTS: Mapping[str, Sequence[str]] = {"base": tuple(OPERATIONS)[:9], "all": tuple(OPERATIONS)}
"""AugMix's two lists. ``all`` adds contrast, brightness and sharpness, whose factor is 0.118 to 0.64 at severity 3:
they only ever lower contrast, so low contrast is then a *seen* shift. ``base`` does no more to contrast than to stretch
it."""


@dataclass(frozen=True)
class Draw:
    """What AugMix draws for B images, W chains of at most D operations; on the CPU.

    Attributes:
        operation: (B, W, D) index into the list of operations.
        level: (B, W, D) strength, in (0.1, severity).
        sign: (B, W, D) 1 or −1, of geometric operations.
        depth: (B, W) operations of each chain, 1 … D.
        weights: (B, W) share of each chain, summing to 1 over W.
        share: (B,) of the mixed chains in the result.
    """

    operation: Tensor
    level: Tensor
    sign: Tensor
    depth: Tensor
    weights: Tensor
    share: Tensor

    def of(self, images: slice) -> Draw:
        """The draw of some of the images."""
        return Draw(*(getattr(self, field.name)[images] for field in fields(self)))


class AugMix:
    """AugMix with chains, levels and shares drawn for each image on its own.

    Args:
        severity: largest level of an operation, of 10.
        width: number of chains.
        depth: least and most operations of a chain.
        alpha: of the Dirichlet and Beta distributions; 1 is uniform.
        operations: one of ``LISTS``, or names of ``OPERATIONS``.

    Shapes:
        (B, C, *spatial) float32 in [0, 1] -> the same, on the same device. Draws come from torch's CPU generator, so
        that a GPU augments as the CPU does.

    Raises:
        ValueError: a name that is no operation, or a number out of its range.

    Example:
        >>> AugMix(operations="all")(torch.rand(2, 1, 8, 8)).shape
        torch.Size([2, 1, 8, 8])
    """

    def __init__(
        self,
        severity: float = 3,
        width: int = 3,
        depth: tuple[int, int] = (1, 3),
        alpha: float = 1.0,
        operations: str | Sequence[str] = "base",
    ) -> None:
        operations = LISTS.get(operations, [operations]) if isinstance(operations, str) else operations
        unknown = [name for name in operations if name not in OPERATIONS]
        if unknown or not operations:
            raise ValueError(
                f"operations: {unknown or list(operations)} unknown; choose some of {', '.join(OPERATIONS)}"
            )
        if not 0.1 < severity <= 10:
            raise ValueError(f"severity: {severity} is not in (0.1, 10]")
        if width < 1 or not 1 <= depth[0] <= depth[1] or not alpha > 0:
            raise ValueError(
                f"width, depth, alpha: {width}, {tuple(depth)}, {alpha} must be ≥ 1, 1 ≤ low ≤ high, and > 0"
            )
        self.severity, self.width, self.depth, self.alpha = severity, width, depth, alpha
        self.operations = tuple(operations)

    @property
    def groups(self) -> frozenset[str]:
        """Groups of acquisition shifts that training with it has seen."""
        return frozenset(group for name in self.operations if (group := OPERATIONS[name].group))

    def __call__(self, x: Tensor) -> Tensor:
        """Return augmented images."""
        return self.apply(x, self.draw(len(x)))

    def draw(self, images: int) -> Draw:
        """Draw for that many images, from torch's CPU generator."""
        chains, steps = (images, self.width), (images, self.width, self.depth[1])
        alpha = torch.full((images, self.width), self.alpha)
        return Draw(
            operation=torch.randint(len(self.operations), steps),
            level=torch.empty(steps).uniform_(0.1, self.severity),
            sign=torch.randint(2, steps) * 2.0 - 1,
            depth=torch.randint(self.depth[0], self.depth[1] + 1, chains),
            weights=torch.distributions.Dirichlet(alpha).sample(),
            share=torch.distributions.Beta(alpha[:, 0], alpha[:, 0]).sample(),
        )

    def apply(self, x: Tensor, draw: Draw) -> Tensor:
        """Augment with a given draw: each image as it would be alone."""
        at_once = len(x) if x.is_cuda else max(1, CACHED // x[0].numel())
        parts = [slice(start, start + at_once) for start in range(0, len(x), at_once)]
        return torch.cat([self._part(x[part], draw.of(part)) for part in parts])

    def _part(self, x: Tensor, draw: Draw) -> Tensor:
        chains = x.repeat_interleave(self.width, 0)
        for step in range(self.depth[1]):
            operation, level, sign = (t[..., step].flatten() for t in (draw.operation, draw.level, draw.sign))
            self._step(chains, operation, level, sign, (draw.depth > step).flatten())
        shares = (draw.share[:, None] * draw.weights).to(x.device)[:, None]
        rest = per_image(1 - draw.share.to(x.device), x) * x
        mixed = torch.baddbmm(rest.flatten(1)[:, None], shares, chains.reshape(len(x), self.width, -1))
        return mixed.clamp_(0, 1).reshape(x.shape)

    def _step(self, chains: Tensor, operation: Tensor, level: Tensor, sign: Tensor, active: Tensor) -> None:
        """One operation on every active chain, in place: each kind on all of its rows, the geometric ones together."""
        rows: list[Tensor] = []
        matrices: list[Tensor] = []
        for index, name in enumerate(self.operations):
            own = ((operation == index) & active).nonzero()[:, 0]
            if not len(own):
                continue
            made = OPERATIONS[name]
            parameter = made.parameter(level[own])
            if made.matrix:
                rows.append(own)
                matrices.append(made.matrix(parameter * sign[own], *chains.shape[-2:]))
            elif made.apply:
                own = own.to(chains.device)
                chains.index_copy_(0, own, made.apply(chains.index_select(0, own), parameter.to(chains.device)))
        if rows:
            own = torch.cat(rows).to(chains.device)
            chains.index_copy_(0, own, affine(chains.index_select(0, own), torch.cat(matrices).to(chains.device)))
