"""Pictures of the report: clean, augmented and adversarial images, and what the attack changed."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.image
import numpy as np
from matplotlib.colors import Colormap, LinearSegmentedColormap
from numpy.typing import NDArray

from .results import Results, percent

SIGNED = LinearSegmentedColormap.from_list("signed", ["#7cc4ff", "#2f6fd0", "#0c0c0c", "#c2561a", "#ffc48a"])
MOST_PICTURES = 4
WITHIN_SCALE = 99
"""Per cent of the changed pixels whose difference the colour scale shows; the rest have the colour of its ends."""


def load(path: Path) -> dict[str, NDArray[Any]]:
    """The first few examples of a run, as evaluation wrote them; refuses what is no picture of one channel."""
    with np.load(path, allow_pickle=False) as file:
        example = {name: file[name][:MOST_PICTURES] if file[name].ndim else file[name] for name in file.files}
    for name in ("clean", "augmented", "adversarial"):
        if example[name].ndim != 4 or example[name].shape[1] != 1:
            shape, file = example[name].shape, f"{path.parent.name}/{path.name}"
            raise ValueError(f"{file}: {name}: {shape}, not (n, 1, rows, columns); write the report with --no-pictures")
    return example


def pictures(examples: Sequence[dict[str, NDArray[Any]]], results: Results) -> dict[str, Any] | None:
    """The picture grid: one factor and one colour scale for every difference; None without examples.

    The scale ends at a high percentile, not at the largest difference, which is a single pixel's: beside it, all others
    would be black.
    """
    if not examples:
        return None
    differences = np.concatenate([np.abs(e["adversarial"] - e["clean"]).ravel() for e in examples])
    factor = _factor(differences)
    return {
        "factor": f"{factor:g}",
        "limit": f"{255 / factor:.3g}",
        "beyond": percent(float((differences * factor > 1).mean())),
        "largest": f"{255 * differences.max(initial=0):.3g}",
        "scale": _png(np.linspace(0, 1, 256)[None], SIGNED),
        "groups": [_group(example, factor, results) for example in examples],
    }


def _factor(differences: NDArray[Any]) -> float:
    """What brings most of the changed pixels within the scale: a round number; 1 where nothing changed."""
    changed = differences[differences > 0]
    return _round_down(1 / float(np.percentile(changed, WITHIN_SCALE))) if changed.size else 1.0


def _group(example: dict[str, NDArray[Any]], factor: float, results: Results) -> dict[str, Any]:
    classes = results.facts["classes"]
    difference = ((example["adversarial"] - example["clean"]) * factor + 1) / 2
    shown = [example["clean"], example["augmented"], example["adversarial"]]
    answers = zip(example["labels"], example["predicted_clean"], example["predicted_adversarial"], strict=True)
    return {
        "recipe": str(example["recipe"]),
        "ball": results.ball(str(example["norm"]), float(example["epsilon"])),
        "rows": [
            {
                "names": [classes[int(k)] for k in answer],
                "images": [*(_png(images[i, 0]) for images in shown), _png(difference[i, 0], SIGNED)],
            }
            for i, answer in enumerate(answers)
        ],
    }


def _round_down(value: float) -> float:
    """The greatest of 1, 2, 5, 10, 20, … that is not above a value; 1 for less."""
    steps = [step * 10**power for power in range(6) for step in (1, 2, 5)]
    return float(max((step for step in steps if step <= value), default=1))


def _png(image: NDArray[Any], colours: Colormap | str = "gray") -> str:
    """An image (rows, columns) in [0, 1] as a data URI."""
    buffer = io.BytesIO()
    mpl.image.imsave(buffer, image, cmap=colours, vmin=0, vmax=1, format="png", metadata={"Software": ""})
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
