"""``rtda track``: what MLflow has missed of a run, or a run in another MLflow, sent from its folder."""

from __future__ import annotations

import argparse

from monai.bundle import ConfigParser

from ..delivery.bundle import BundleError, Run
from ..mlflow_copy import MlflowRun, Sender
from ..tracking import RunRecord
from . import quieten
from .train import described

FILES = ("metrics*.json", "metrics*.csv", "predictions*.parquet", "report.html")
TIMEOUT = 120.0  # s; the user waits for it


def run(arguments: argparse.Namespace) -> int:
    """Send; see ``rtda track --help``. Status 1 where MLflow did not get everything."""
    quieten()
    run: Run = arguments.run
    parser = ConfigParser()
    parser.read_config(str(run.config))
    lines = RunRecord(run.folder).read()
    if not lines:
        raise BundleError(f"{run.folder.name}: metrics.jsonl: no epoch yet; train it first")
    files = sorted(path for pattern in FILES for path in run.folder.glob(pattern))
    copy = MlflowRun(run.folder, **described(run, parser, run.settings))
    status = "FINISHED" if lines[-1]["epoch"] >= parser.get_parsed_content("max_epochs") else "KILLED"
    sender = Sender(copy, create=True)
    sender.put(lambda one: one.log_lines(lines))
    sender.put(lambda one: one.log_files(files))
    sender.put(lambda one: one.end(status))
    if not sender.close(TIMEOUT):
        return 1
    print(f"{run.folder.name}: {len(lines)} epochs and {len(files)} files in MLflow at {copy.place}")
    return 0
