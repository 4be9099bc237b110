"""The pictures of the report: a few images under its views, kept beside the table by ``rtda evaluate``."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..attacks import frozen
from ..evidence.evaluation import Evaluation, exact
from ..files import write_whole
from ..seeding import derived_seed, forked
from ..views import Augment

OF_EACH_CLASS = 2


def write_examples(evaluation: Evaluation, parser: Any, recipe: str, out: Path) -> None:
    """Images of each class under the report's four views, drawn like everything else from a derived seed.

    No file is left where no image may be shown.
    """
    rows = shown(evaluation, parser.get_parsed_content("reader") if "reader" in parser else None)
    if not rows:
        out.unlink(missing_ok=True)
        return
    items, device = [evaluation.items[row] for row in rows], evaluation.device
    x = torch.stack([torch.as_tensor(evaluation.transform(item)["image"]) for item in items]).to(device)
    y = torch.tensor([item["label"] for item in items], device=device)
    model, attack = evaluation.model, parser.get_parsed_content("attack")
    with exact(evaluation.threads), forked(derived_seed("examples"), device):
        augmented = Augment(parser.get_parsed_content("augmentation"))(model, x, y)
        adversarial = attack(model, x, y)
        with frozen(model), torch.no_grad():
            predicted = {name: model(images).argmax(1) for name, images in (("clean", x), ("adversarial", adversarial))}
    arrays = {"clean": x, "augmented": augmented, "adversarial": adversarial, "labels": y}
    arrays |= {f"predicted_{name}": value for name, value in predicted.items()}
    facts = {"recipe": recipe, "epsilon": attack.ball.radius, "norm": attack.ball.norm}
    _save({name: array.cpu().numpy() for name, array in arrays.items()} | facts, out)


def shown(evaluation: Evaluation, reader: Any) -> list[int]:
    """The first images of each class, in order, without those whose header says that text is burnt in.

    Such text may name the patient, and reports are passed on. The bundle's ``reader`` tells; without one that does,
    none is left out.
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
    _, meta = reader.get_data(reader.read(image))
    return bool(meta.get("film_burned_in") == "YES")


def _save(arrays: dict[str, Any], path: Path) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_whole(path, buffer.getvalue())
