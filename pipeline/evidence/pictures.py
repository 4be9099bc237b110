"""Pictures of the report: images under some views, and what the attack changed."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.image
import numpy as np
from matplotlib.colors import Colormap, LinearSegmentedColormap
from numpy.typing import NDArray

from .results import Results, percent, shift_named

SIGNED = LinearSegmentedColormap.from_list("signed", ["#7cc4ff", "#2f6fd0", "#0c0c0c", "#c2561a", "#ffc48a"])
MOST_PICTURES = 4
HEADS = {"clean": "clean", "augmented": "augmented", "adversarial": "adversarial", "worst_shift": "worst shift"}
"""Name of a view in a file of examples -> head of its column."""
WITHIN_SCALE = 99
"""Per cent of the changed pixels whose difference the colour scale shows; the rest have the colour of its ends."""


def load(path: Path) -> dict[str, NDArray[Any]]:
    """The first few examples of a run, as evaluation wrote them; refuses what is no picture, grey or in colour."""
    with np.load(path, allow_pickle=False) as file:
        example = {name: file[name][:MOST_PICTURES] if file[name].ndim else file[name] for name in file.files}
    for name in _shown(example):
        shape, file = example[name].shape, f"{path.parent.name}/{path.name}"
        if len(shape) != 4 or shape[1] not in (1, 3):
            told = f"{shape}, not (n, 1 or 3, rows, columns); write the report with --no-pictures"
            raise ValueError(f"{file}: {name}: {told}")
    return example


def _shown(example: Mapping[str, Any]) -> list[str]:
    """Names of the views that an example holds, in the order in which they are shown."""
    return [name for name in HEADS if name in example]


def pictures(examples: Sequence[dict[str, NDArray[Any]]], results: Results) -> dict[str, Any] | None:
    """The picture grid: one factor and one colour scale for every difference; None without examples.

    The scale ends at a high percentile, not at the largest difference, which is a single pixel's: beside it, all others
    would be black.
    """
    if not examples:
        return None
    found = [np.abs(_difference(example)).ravel() for example in examples if "adversarial" in example]
    differences = np.concatenate([np.zeros(1), *found])
    factor = _factor(differences)
    return {
        "attacked": bool(found),
        "factor": f"{factor:g}",
        "limit": f"{255 / factor:.3g}",
        "beyond": percent(float((differences * factor > 1).mean())),
        "largest": f"{255 * differences.max():.3g}",
        "scale": _png(np.linspace(0, 1, 256)[None], SIGNED),
        "groups": [_group(example, factor, results) for example in examples],
    }


def _factor(differences: NDArray[Any]) -> float:
    """What brings most of the changed pixels within the scale: a round number; 1 where nothing changed."""
    changed = differences[differences > 0]
    return _round_down(1 / float(np.percentile(changed, WITHIN_SCALE))) if changed.size else 1.0


def _difference(example: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """(n, rows, columns): adversarial − clean, of colour the mean over its channels."""
    return np.asarray((example["adversarial"] - example["clean"]).mean(axis=1))


def _group(example: dict[str, NDArray[Any]], factor: float, results: Results) -> dict[str, Any]:
    views = _shown(example)
    heads = {name: HEADS[name] for name in views}
    columns = {heads[name]: [_png(_pixels(image)) for image in example[name]] for name in views}
    if "adversarial" in views:
        scaled = (_difference(example) * factor + 1) / 2
        columns[f"difference × {factor:g}"] = [_png(image, SIGNED) for image in scaled]
    return {
        "recipe": str(example["recipe"]),
        "details": _details(example, results),
        "heads": list(columns),
        "rows": [
            {"images": list(zip(columns, images, strict=True)), "names": _names(example, row, results.facts["classes"])}
            for row, images in enumerate(zip(*columns.values(), strict=True))
        ],
    }


def _details(example: Mapping[str, NDArray[Any]], results: Results) -> list[str]:
    """What the attack and the shift are, where there is one."""
    details = []
    if "adversarial" in example:
        details.append(results.ball(str(example["norm"]), float(example["epsilon"])))
    if "worst_shift" in example:
        details.append(f"worst shift: {shift_named(results, str(example['view_worst_shift']))}")
    return details


def _names(example: Mapping[str, NDArray[Any]], row: int, classes: Sequence[str]) -> list[tuple[str, str]]:
    """The label, and what was answered on each view, as (what, class)."""
    asked = [name for name in HEADS if f"predicted_{name}" in example]
    answers = [(f"on {HEADS[name]}", classes[int(example[f"predicted_{name}"][row])]) for name in asked]
    return [("label", classes[int(example["labels"][row])]), *answers]


def _pixels(image: NDArray[Any]) -> NDArray[Any]:
    """(C, rows, columns) as matplotlib draws it: (rows, columns), or with colour last."""
    return image[0] if len(image) == 1 else np.moveaxis(image, 0, -1).clip(0, 1)


def _round_down(value: float) -> float:
    """The greatest of 1, 2, 5, 10, 20, … that is not above a value; 1 for less."""
    steps = [step * 10**power for power in range(6) for step in (1, 2, 5)]
    return float(max((step for step in steps if step <= value), default=1))


def _png(image: NDArray[Any], colours: Colormap | str = "gray") -> str:
    """An image (rows, columns) in [0, 1] as a data URI."""
    buffer = io.BytesIO()
    mpl.image.imsave(buffer, image, cmap=colours, vmin=0, vmax=1, format="png", metadata={"Software": ""})
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
