"""``rtda pack``: a run becomes a zipped MONAI bundle."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from ..delivery.bundle import BundleError, Run
from ..delivery.pack import as_float32, inference_config, pack
from ..evidence.answers import reported_split
from ..evidence.evaluation import weights_checksum
from ..evidence.figures import headline
from ..evidence.metrics import rms_grey_levels, summarise, validated_temperature
from ..evidence.table import facts_of, read_table
from ..tracking import set_tags
from . import made
from .evaluate import table_path, tables_of, weights


def run(arguments: argparse.Namespace) -> int:
    """Pack; see ``rtda pack --help``."""
    run: Run = arguments.run
    others: dict[str, Run] = {other.facts["recipe"]: other for other in arguments.beside}
    _refuse_unlike(run, arguments.beside)
    checkpoint = "half" if arguments.half else "best"
    stated = evidence(run, checkpoint)
    if others:
        stated["beside"] = {name: evidence(other, checkpoint) for name, other in others.items()}
    packed = {"model": weights(run, checkpoint), **{name: weights(other, checkpoint) for name, other in others.items()}}
    out = pack(run, packed, stated, Path(arguments.output))
    set_tags(run.folder, {"packed": out.name})
    print(out)
    return 0


def _refuse_unlike(run: Run, others: Sequence[Run]) -> None:
    """Weights beside the bundle's own must fit its network and images, and have a name of their own."""
    names = {run.facts["recipe"], "model"}
    for other in others:
        name = other.folder.name
        for field in ("network_def", "image_size", "choices"):
            if other.settings.get(field) != run.settings.get(field):
                raise BundleError(f"{name}: {field}: not that of {run.folder.name}; pack it as a bundle of its own")
        if other.facts["recipe"] in names:
            raise BundleError(f"{name}: recipe: {other.facts['recipe']} stands twice; pack one run of each recipe")
        names.add(other.facts["recipe"])


def evidence(run: Run, checkpoint: str = "best") -> dict[str, Any]:
    """What the run's own evaluation says of its best weights, for the bundle's metadata."""
    path = next(iter(tables_of(run.folder, checkpoint)), table_path(run.folder, "test", checkpoint))
    table = read_table(path)
    facts, summary = facts_of(table), summarise(table)
    if facts["checksum_weights"] != weights_checksum(as_float32(weights(run, checkpoint))):
        raise BundleError(f"{run.folder.name}: {path.name}: of other weights; run rtda evaluate again")
    own = summary[(summary["recipe"] == run.facts["recipe"]) & (summary["split"] == reported_split(summary))]
    first, fitted = own.iloc[0], validated_temperature(table)
    return {
        "recipe": run.facts["recipe"],
        "threshold": float(first["threshold"]) if len(facts["classes"]) == 2 else None,
        "threshold_source": str(first["threshold_source"]),
        "temperature": None if fitted is None else round(fitted, 4),
        "training_prior": facts["training_prior"],
        "training_sampling": _sampling(run),
        "attack": _attack(facts),
        "seen": facts["seen"],
        "choices": _choices(run),
        "weights_sha256": facts["checksum_weights"],
        "data_list_sha256": facts["checksum_list"],
        "evidence": headline(table),
    }


def _sampling(run: Run) -> str:
    """How often the classes were drawn in training, whatever their shares in the list."""
    sampler = str(run.settings["train"].get("sampler"))
    return "classes equally often" if "balanced_weights" in sampler else "as in the list"


def _choices(run: Run) -> dict[str, Any] | None:
    """What the run decided about files that DICOM leaves open, such as percentiles; None without such an id."""
    config = inference_config(run)
    return asdict(made(ConfigParser(config), "choices")) if "choices" in config else None


def _attack(facts: dict[str, Any]) -> dict[str, Any]:
    """The training radius, with all that ε needs to mean something."""
    norm, radius, size = facts["training_norm"], facts["training_radius"], facts["image_size"]
    grey = rms_grey_levels(radius, size, facts["channels"], norm)
    return {"norm": norm, "radius": radius, "image_size": size, "rms_grey_levels": round(grey, 4)}
