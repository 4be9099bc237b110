"""The demo: every command of the way from a cohort to a packed bundle, in one process. ``make demo`` runs it.

Each line that it prints after ``$`` can be typed. What is there already is used again, and said to be.
"""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

from .cli import main

COHORT, OUT = Path("runs/cohort"), Path("runs/demo")
RUNS = {recipe: Path(f"runs/demo-{recipe}") for recipe in ("standard", "rtda")}


def steps() -> list[tuple[Path, list[str]]]:
    """What each command after the cohort's makes, and the command."""
    steps = []
    for recipe, run in RUNS.items():
        options = ["--recipe", recipe, "--dataset-dir", str(COHORT), "--run-name", run.name]
        options += ["--resume", str(run)] if (run / "config.yaml").is_file() else []
        steps.append((run / "best.pt", ["train", "phantom_rtda", *options]))
        steps.append((run / "predictions.parquet", ["evaluate", str(run), "--threads", "2"]))
    report, bundle = OUT / "report.html", OUT / "phantom_rtda.zip"
    steps.append((report, ["report", *map(str, RUNS.values()), "-o", str(report)]))
    steps.append((bundle, ["pack", str(RUNS["rtda"]), "-o", str(bundle)]))
    return steps


def demo() -> int:
    """Run what is not made yet; stop at the first failure."""
    start = time.monotonic()
    if status := _cohort():
        return status
    for made, command in steps():
        if made.is_file():
            _used_again(made)
        elif status := _run(command):
            return status
    _show(time.monotonic() - start)
    return 0


def _cohort() -> int:
    """The command itself finds a finished cohort, and makes an outdated one anew; then so is all that came of it."""
    made = COHORT / "phantom.json"
    before = made.read_bytes() if made.is_file() else None
    if status := _run(["data", "phantom", "-o", str(COHORT)]):
        return status
    if made.read_bytes() == before:
        _used_again(made)
        return 0
    for folder in (*RUNS.values(), OUT):
        if folder.is_dir():
            print(f"{folder} is of another cohort and is made anew", flush=True)
            shutil.rmtree(folder)
    return 0


def _run(command: list[str]) -> int:
    print(f"\n$ rtda {' '.join(command)}", flush=True)
    return main(command)


def _used_again(made: Path) -> None:
    print(f"{made} is there already and is used again", flush=True)


def _show(seconds: float) -> None:
    from .commands.evaluating import readable
    from .evidence.metrics import summarise
    from .evidence.table import facts_of, read_table

    table = read_table(OUT / "predictions.parquet")
    summary = summarise(table)
    print(f"\n{readable(summary[summary['split'] == 'test'], facts_of(table))}")
    print(f"\nmade in {seconds:.0f} s. Look at {OUT / 'report.html'}; predictions {OUT / 'predictions.parquet'};")
    print(f"bundle {OUT / 'phantom_rtda.zip'}; tracking runs/mlflow.db: make mlflow. rm -r runs makes all anew.")


if __name__ == "__main__":
    sys.exit(demo())
