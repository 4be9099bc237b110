"""Random contrast and window as MONAI transforms of one image, for chains that augment while loading.

Of what else changes intensities MONAI has its own: ``RandAdjustContrast`` (gamma, within the image's own range),
``RandGaussianNoise`` and ``RandShiftIntensity`` (brightness). The last two leave [0, 1], so that
``ScaleIntensityRange(0, 1, 0, 1, clip=True)`` belongs behind them. Batches on a device are augmented by
``intensity.py`` and ``augmix.py`` instead.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data.meta_obj import get_track_meta
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import TransformBackends, convert_to_tensor
from torch import Tensor

from .intensity import contrast, window

Limits = tuple[float, float]


class RandContrast(RandomizableTransform):  # type: ignore[misc]  # monai has no types
    """Contrast by a random factor about the mean of each channel; see :func:`rtda.transforms.intensity.contrast`.

    Args:
        factor: range of the factor, uniform; below 1 lowers contrast.
        prob: of changing an image at all.

    Shapes:
        (C, *spatial) float32 in [0, 1] -> the same.

    Example:
        >>> RandContrast(factor=(0.5, 0.5), prob=1.0)(torch.tensor([[0.2, 1.0]]))
        metatensor([[0.4000, 0.8000]])
    """

    backend = [TransformBackends.TORCH]  # noqa: RUF012 - MONAI's convention
    groups = frozenset({"contrast"})
    """Groups of acquisition shifts that training with it has seen."""

    def __init__(self, factor: Limits = (0.4, 1.6), prob: float = 0.1) -> None:
        super().__init__(prob)
        _check(factor=factor)
        self.factor = factor
        self._do_transform = False  # until something is drawn

    def randomize(self, data: Any = None) -> None:
        """Draw whether, and by how much."""
        super().randomize(None)
        self.drawn = self.R.uniform(*self.factor)

    def __call__(self, img: Tensor, randomize: bool = True) -> Tensor:
        """Return the image, changed or not."""
        image = _tracked(img)
        if randomize:
            self.randomize()
        return contrast(image[None], _one(self.drawn, image))[0] if self._do_transform else image


class RandWindow(RandomizableTransform):  # type: ignore[misc]
    """Another window on display intensities, as another reader would set it; see ``intensity.window``.

    Args:
        shift: range of what is added to the centre, in intensity units, uniform.
        width: range of the width, 1 the whole range, uniform.
        prob: of changing an image at all.

    Shapes:
        (C, *spatial) float32 in [0, 1] -> the same.

    Example:
        >>> RandWindow(shift=(0, 0), width=(0.5, 0.5), prob=1.0)(torch.tensor([[0.25, 0.5, 1.0]]))
        metatensor([[0.0000, 0.5000, 1.0000]])
    """

    backend = [TransformBackends.TORCH]  # noqa: RUF012
    groups = frozenset({"window"})
    """Groups of acquisition shifts that training with it has seen."""

    def __init__(self, shift: Limits = (-0.1, 0.1), width: Limits = (0.8, 1.25), prob: float = 0.1) -> None:
        super().__init__(prob)
        _check(shift=shift, width=width)
        if width[0] <= 0:
            raise ValueError(f"width: {width} must lie above 0")
        self.shift, self.width = shift, width
        self._do_transform = False  # until something is drawn

    def randomize(self, data: Any = None) -> None:
        """Draw whether, and which window."""
        super().randomize(None)
        self.drawn = self.R.uniform(*self.shift), self.R.uniform(*self.width)

    def __call__(self, img: Tensor, randomize: bool = True) -> Tensor:
        """Return the image, changed or not."""
        image = _tracked(img)
        if randomize:
            self.randomize()
        if not self._do_transform:
            return image
        shift, width = self.drawn
        return window(image[None], _one(0.5 + shift, image), _one(width, image))[0]


class _RandEach(RandomizableTransform, MapTransform):  # type: ignore[misc]
    """A random transform on some keys of a dictionary, with one draw for all of them."""

    backend = [TransformBackends.TORCH]  # noqa: RUF012

    def __init__(self, keys: KeysCollection, one: RandContrast | RandWindow, allow_missing_keys: bool) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, one.prob)
        self.one = one

    @property
    def groups(self) -> frozenset[str]:
        """Groups of acquisition shifts that training with it has seen."""
        return self.one.groups

    def set_random_state(self, seed: int | None = None, state: Any = None) -> _RandEach:
        """Seed the transform itself."""
        self.one.set_random_state(seed, state)
        return self

    def __call__(self, data: Mapping[Hashable, Tensor]) -> dict[Hashable, Tensor]:
        """Return the dictionary with its images changed or not."""
        made = dict(data)
        self.one.randomize()
        for key in self.key_iterator(made):
            made[key] = self.one(made[key], randomize=False)
        return made


class RandContrastd(_RandEach):
    """:class:`RandContrast` on a dictionary.

    Example:
        >>> RandContrastd("image", factor=(0.5, 0.5), prob=1.0)({"image": torch.tensor([[0.2, 1.0]])})["image"]
        metatensor([[0.4000, 0.8000]])
    """

    def __init__(
        self, keys: KeysCollection, factor: Limits = (0.4, 1.6), prob: float = 0.1, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, RandContrast(factor, prob), allow_missing_keys)


class RandWindowd(_RandEach):
    """:class:`RandWindow` on a dictionary.

    Example:
        >>> RandWindowd("image", (0, 0), width=(0.5, 0.5), prob=1.0)({"image": torch.tensor([[0.25, 1.0]])})["image"]
        metatensor([[0., 1.]])
    """

    def __init__(
        self,
        keys: KeysCollection,
        shift: Limits = (-0.1, 0.1),
        width: Limits = (0.8, 1.25),
        prob: float = 0.1,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, RandWindow(shift, width, prob), allow_missing_keys)


def _check(**limits: Limits) -> None:
    for name, pair in limits.items():
        if len(pair) != 2 or not pair[0] <= pair[1]:
            raise ValueError(f"{name}: {pair} is no range (low, high)")


def _tracked(image: Tensor) -> Tensor:
    tracked: Tensor = convert_to_tensor(image, track_meta=get_track_meta())
    if not tracked.is_floating_point():
        raise ValueError(f"image: {tracked.dtype}, not floating point; scale it to [0, 1] before")
    return tracked


def _one(value: float, image: Tensor) -> Tensor:
    return torch.tensor([value], dtype=image.dtype, device=image.device)
