"""The pictures of the report: a few images under some views, kept beside the table by ``rtda evaluate``."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from monai.data import set_rnd
from torch import Tensor, nn

from ..attacks import frozen
from ..evidence.evaluation import Evaluation, described, exact, name_of
from ..files import write_whole
from ..normalisation import holding
from ..seeding import derived_seed, forked
from ..views import Clean, View, plain

OF_EACH_CLASS = 2


def write_examples(evaluation: Evaluation, reader: Any, recipe: str, views: Mapping[str, View], out: Path) -> None:
    """Images of each class, clean and under views, drawn like everything else from a derived seed.

    No file is left where no image may be shown.

    Args:
        evaluation: whose model and images they are.
        reader: tells whether text is burnt into an image; see :func:`shown`.
        recipe: heading of the pictures.
        views: ``augmented``, ``adversarial`` and ``worst_shift``, or those of them that there are.
        out: the ``.npz``: ``clean`` and each view (n, C, rows, columns) float32; ``labels`` and ``predicted_<name>``
            (n,); ``recipe``; ``view_worst_shift``, what that view calls itself; norm and ε of the attack.
    """
    rows = [] if isinstance(evaluation.items[0]["label"], list) else shown(evaluation, reader)  # no one answer to show
    if not rows:
        out.unlink(missing_ok=True)
        return
    items, device = [evaluation.items[row] for row in rows], evaluation.device
    x = torch.stack([plain(torch.as_tensor(evaluation.transform(item)["image"])) for item in items]).to(device)
    y = torch.tensor([item["label"] for item in items], device=device)
    arrays, clean = {"labels": y}, {"clean": cast(View, Clean())}
    with exact(evaluation.threads), frozen(evaluation.model):
        for name, view in (clean | dict(views)).items():
            arrays[name], arrays[f"predicted_{name}"] = _under(evaluation.model, name, view, x, y)
    said = {"view_worst_shift": name_of(views["worst_shift"])} if "worst_shift" in views else {}
    facts = described(views["adversarial"]) if "adversarial" in views else {}
    ball = {name: facts[name] for name in ("norm", "epsilon") if name in facts}
    _save({name: array.cpu().numpy() for name, array in arrays.items()} | said | ball | {"recipe": recipe}, out)


def _under(model: nn.Module, name: str, view: View, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The images under a view, and the class that the model answers."""
    seed = derived_seed("examples", name)
    set_rnd(view, seed)
    model = holding(model, x) if described(view).get("norm") else model
    with forked(seed, x.device):
        made = view(model, x, y)
    with torch.no_grad():
        return made, model(made).argmax(1)


def shown(evaluation: Evaluation, reader: Any) -> list[int]:
    """The first images of each class, in order, without those whose header says that text is burnt in.

    Such text may name the patient, and reports are passed on. The bundle's ``reader`` tells, and what it cannot read
    is not shown; without one that does, none is left out.
    """
    rows: dict[int, list[int]] = {}
    for row, item in enumerate(evaluation.items):
        found = rows.setdefault(item["label"], [])
        if len(found) < OF_EACH_CLASS and not _burnt_in(reader, item["image"]):
            found.append(row)
    return sorted(row for found in rows.values() for row in found)


def _burnt_in(reader: Any, image: str) -> bool:
    if not hasattr(reader, "get_data"):
        return False
    try:
        _, meta = reader.get_data(reader.read(image))
    except Exception:  # a file that the model's own preprocessing reads
        return True
    return bool(meta.get("film_burned_in") == "YES")


def _save(arrays: dict[str, Any], path: Path) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_whole(path, buffer.getvalue())
