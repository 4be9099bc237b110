"""A model's own preprocessing, cut where its images can lie in [0, 1]: what comes after goes into the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from monai.transforms import CastToTyped, Compose, EnsureTyped, Identityd, LoadImaged, Resized, ToDeviced, ToTensord
from torch import Tensor

from ..normalisation import Normalisation, normalisation_of, of_each_image
from ..views import plain
from .programs import ModelError

_OF_THE_TYPE = (CastToTyped, EnsureTyped, Identityd, ToDeviced, ToTensord)
"""Steps that leave the values as they are: a normalisation before them is still the last step."""


@dataclass(frozen=True)
class Cut:
    """Preprocessing in two: a chain for the file, and what the model does itself.

    Attributes:
        chain: item -> item with its image, (C, *spatial).
        normalisations: its last steps, as modules; none where it does not end in one.
        fault: why ε has no meaning on the chain's images; "" where it has.
    """

    chain: Compose
    normalisations: tuple[Normalisation, ...] = ()
    fault: str = ""


def cut(preprocessing: Any) -> Cut:
    """Preprocessing as MONAI's bundles state it, a transform or several, without the normalisations that it ends in."""
    whole = preprocessing if isinstance(preprocessing, Compose) else Compose(preprocessing)
    steps = list(whole.flatten().transforms)
    last: list[Normalisation] = []
    for n in reversed(range(len(steps))):
        if isinstance(steps[n], _OF_THE_TYPE):
            continue
        if (normalisation := normalisation_of(steps[n])) is None:
            break
        last.insert(0, normalisation)
        del steps[n]
    scaling = next((type(step).__name__ for step in steps if of_each_image(step)), None)
    told = f"preprocessing scales each image by its own intensities ({scaling}), so that ε differs by image"
    return Cut(Compose(steps, lazy=whole.lazy), tuple(last), told if scaling else "")


def of_films(reader: Any, image_size: Sequence[int]) -> Cut:
    """What the bundles here do with a file: read it into [0, 1], resize it by area."""
    load = LoadImaged(keys="image", reader=reader, ensure_channel_first=True)
    return Cut(Compose([load, Resized(keys="image", spatial_size=image_size, mode="area"), EnsureTyped(keys="image")]))


@dataclass(frozen=True)
class ToUnit:
    """Item of a data list -> {"image": float32 (C, *spatial) in [0, 1], "label": …}.

    Args:
        chain: item -> item with its image in value_range.
        value_range: low and high of that image, which become 0 and 1.
        name: of the model, for messages.

    Raises:
        ModelError: the image is not finite, or leaves the range.
    """

    chain: Callable[[dict[str, Any]], Any]
    value_range: tuple[float, float]
    name: str

    def __call__(self, item: Mapping[str, Any]) -> dict[str, Any]:
        """Return image and label."""
        image = plain(torch.as_tensor(self.chain({"image": item["image"], "label": item["label"]})["image"])).float()
        low, high = self.value_range
        found = torch.stack([image.amin(), image.amax()])
        if not bool(found.isfinite().all()):
            raise ModelError(f"{self.name}: image: not finite; check its preprocessing")
        rounding = 1e-6 * (high - low)
        if found[0] < low - rounding or found[1] > high + rounding:
            raise ModelError(
                f"{self.name}: image: values {found[0]:.4g} to {found[1]:.4g}, outside its bounds {low:g} to {high:g}; "
                f"state those of the images before any normalisation, such as --value-range {_guess(found)}"
            )
        return {"image": ((image - low) / (high - low)).clamp(0, 1), "label": item["label"]}


def _guess(found: Tensor) -> str:
    """The usual range that holds these values."""
    usual = ((0, 1), (0, 255), (0, 4095), (0, 65535))
    return next((f"{low},{high}" for low, high in usual if low <= found[0] and found[1] <= high), "LOW,HIGH")
