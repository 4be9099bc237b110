"""Whether an image is of the kind that a model was trained on: by its header, its size, and its intensities.

``rtda infer`` warns; a deployed application refuses. What is allowed stands in the bundle's metadata, under
``trained_on``:

    {"modality": {"known": ["CR", "DX"], "unknown": "refuse"}, "projection": {"known": ["AP"], "unknown": "warn"},
     "size": {"least": [128, 128]}, "intensity": {"mean": [0.3, 0.7], "deviation": [0.1, 0.3]}}
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

FACTS = ("modality", "sop_class", "body_part", "projection")
MEASURES: Mapping[str, Callable[[Tensor], Tensor]] = {"mean": torch.mean, "deviation": torch.std}
SHARE = 0.005
"""Share of the training images beyond each end of their range of intensities."""
WIDER = 0.25
"""Part of that range by which it is widened at each end: another scanner may be a little brighter or flatter."""


@dataclass(frozen=True)
class Deviation:
    """How an image differs from those of training.

    Attributes:
        told: in one line: field, value, what was known.
        refused: an application must not answer.
    """

    told: str
    refused: bool


def deviations(meta: Mapping[str, Any], image: Tensor, trained_on: Mapping[str, Any]) -> Iterator[Deviation]:
    """Every way in which an image is unlike those of training.

    Args:
        meta: the reader's facts, with the prefix ``film_``. Of a format without a header, as PNG, none is missed.
        image: (C, *spatial) in [0, 1], as the network takes it.
        trained_on: of the metadata; see the module.
    """
    for fact in (fact for fact in FACTS if fact in trained_on):
        known, unknown = trained_on[fact]["known"], trained_on[fact].get("unknown", "warn")
        stated = meta.get(f"film_{fact}")
        if not stated and meta.get("film_format", "DICOM") == "DICOM":
            yield Deviation(f"{fact}: not stated; the model was trained on {', '.join(known)}", unknown == "refuse")
        elif stated and stated not in known:
            yield Deviation(f"{fact}: {stated}, but the model was trained on {', '.join(known)}", refused=True)
    yield from _of_size(meta, trained_on.get("size", {}).get("least"))
    for name, (low, high) in trained_on.get("intensity", {}).items():
        value = float(MEASURES[name](image.float()))
        if not low <= value <= high:
            told = f"intensity: {name} {value:.3f}, but that of the training images is {low:.3f} to {high:.3f}"
            yield Deviation(told, refused=True)


def _of_size(meta: Mapping[str, Any], least: Any) -> Iterator[Deviation]:
    rows, columns = meta.get("film_rows", 0), meta.get("film_columns", 0)
    if least and rows and (rows < least[0] or columns < least[1]):
        told = f"size: {rows} x {columns} pixels, but the training images have at least {least[0]} x {least[1]}"
        yield Deviation(told, refused=True)


def intensities(images: Iterable[Tensor]) -> dict[str, list[float]]:
    """The range of mean and deviation of images in [0, 1], for ``trained_on``.

    Args:
        images: those of training, (C, *spatial) each, as the network takes them.

    Example:
        >>> intensities([torch.tensor([[0.0, 0.5]]), torch.tensor([[0.5, 1.0]])])["mean"]
        [0.1287, 0.8713]
    """
    columns = zip(*([float(measure(image.float())) for measure in MEASURES.values()] for image in images), strict=True)
    ends = torch.tensor([SHARE, 1 - SHARE], dtype=torch.float64)
    return {
        name: _widened(*torch.quantile(torch.tensor(column, dtype=torch.float64), ends).tolist())
        for name, column in zip(MEASURES, columns, strict=True)
    }


def _widened(low: float, high: float) -> list[float]:
    more = WIDER * (high - low)
    return [round(max(0.0, low - more), 4), round(min(1.0, high + more), 4)]
