"""``rtda pack``: a run becomes a zipped MONAI bundle."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..delivery.bundle import BundleError, Run, find_recipe, find_run
from ..delivery.pack import pack
from ..evidence.evaluation import weights_checksum
from ..evidence.metrics import flat, summarise
from ..evidence.table import facts_of, read_table
from ..handlers import load_checkpoint
from ..tracking import set_tags


def run(arguments: argparse.Namespace) -> int:
    """Pack; see ``rtda pack --help``."""
    run = find_run(arguments.run)
    out = pack(run, evidence(run), find_recipe(run.facts["recipe"]), Path(arguments.output))
    set_tags(run.folder, {"packed": out.name})
    print(out)
    return 0


def evidence(run: Run) -> dict[str, Any]:
    """Threshold, prior and figures of the run's own evaluation, for the bundle's metadata."""
    table = read_table(run.folder / "predictions.parquet")
    facts, summary = facts_of(table), summarise(table)
    own = summary[summary["recipe"] == run.facts["recipe"]]
    reported = own[own["split"] == own["split"].iloc[0]]
    if facts["checksum_weights"] != weights_checksum(load_checkpoint(run.folder / "best.pt")["model"]):
        raise BundleError(f"{run.folder.name}: predictions.parquet: of other weights; run rtda evaluate again")
    return {
        "recipe": run.facts["recipe"],
        "threshold": float(reported["threshold"].iloc[0]) if len(facts["classes"]) == 2 else None,
        "threshold_source": str(reported["threshold_source"].iloc[0]),
        "training_prior": facts["training_prior"],
        "weights_sha256": facts["checksum_weights"],
        "data_list_sha256": facts["checksum_list"],
        "split": str(reported["split"].iloc[0]),
        "images": int(reported["n"].iloc[0]),
        "evidence": {name: round(value, 4) for name, value in flat(reported).items()},
    }
