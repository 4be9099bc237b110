"""``rtda register``: a run's model in MLflow's registry."""

from __future__ import annotations

import argparse

from ..delivery.bundle import BundleError, Run, find_views
from ..delivery.registry import register
from . import evaluate, quieten
from .evaluate import table_path, tables_of
from .evaluating import figures_path
from .pack import evidence

ALIAS = "candidate"


def run(arguments: argparse.Namespace) -> int:
    """Register; see ``rtda register --help``."""
    quieten()
    registered(arguments.run, arguments.name or arguments.run.bundle.name, arguments.alias)
    return 0


def evaluated_and_registered(run: Run) -> None:
    """For a run just trained: evaluated on validation by the quick preset, since evidence goes with the model."""
    options = {"split": "validation", "preset": find_views("quick"), "checkpoint": "best", "dataset_dir": None}
    options |= {"processes": 1, "threads": 1, "num_workers": 0, "batch_size": 64}
    options |= {"rank": None, "model": None, "words": []}
    evaluate.run(argparse.Namespace(run=run, **options))
    registered(run, run.bundle.name, ALIAS)


def registered(run: Run, name: str, alias: str) -> None:
    """Register a run's best checkpoint, and say as what."""
    stated = evidence(run)
    table = next(iter(tables_of(run.folder, "best")), table_path(run.folder, "test", "best"))
    figures = figures_path(table)
    measured = [figures, figures.with_suffix(".csv"), table]
    if missing := [file.name for file in measured if not file.is_file()]:
        raise BundleError(f"{run.folder.name}: {missing[0]}: missing; run rtda evaluate again")
    number = register(run, name, alias, stated, measured)
    print(f"models:/{name}@{alias}: version {number}")
