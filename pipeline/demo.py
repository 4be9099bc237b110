"""The demo: every command of the way from a cohort to a packed bundle, in one process. ``make demo`` runs it.

Each line that it prints after ``$`` can be typed. What is there already is used again, and said to be.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from .cli import main

COHORT, OUT = Path("runs/cohort"), Path("runs/demo")
RUNS = {recipe: Path(f"runs/demo-{recipe}") for recipe in ("standard", "rtda")}


def steps() -> list[tuple[Path, list[str]]]:
    """What each command makes, and the command."""
    steps = [(COHORT / "phantom.json", ["data", "phantom", "-o", str(COHORT)])]
    for recipe, run in RUNS.items():
        options = ["--recipe", recipe, "--dataset-dir", str(COHORT), "--run-name", run.name]
        options += ["--resume", str(run)] if (run / "last.pt").is_file() else []
        steps.append((run / "best.pt", ["train", "phantom_rtda", *options]))
        steps.append((run / "predictions.parquet", ["evaluate", str(run), "--threads", "2"]))
    report, bundle = OUT / "report.html", OUT / "phantom_rtda.zip"
    steps.append((report, ["report", *map(str, RUNS.values()), "-o", str(report)]))
    steps.append((bundle, ["pack", str(RUNS["rtda"]), "-o", str(bundle)]))
    return steps


def demo() -> int:
    """Run what is not made yet; stop at the first failure."""
    start = time.monotonic()
    for made, command in steps():
        if made.is_file():
            print(f"{made} is there already and is used again", flush=True)
            continue
        print(f"\n$ rtda {' '.join(command)}", flush=True)
        if status := main(command):
            return status
    _show(time.monotonic() - start)
    return 0


def _show(seconds: float) -> None:
    from .commands.evaluate import readable
    from .evidence.metrics import summarise
    from .evidence.table import read_table

    summary = summarise(read_table(OUT / "predictions.parquet"))
    print(f"\n{readable(summary[summary['split'] == 'test'])}")
    print(f"\nmade in {seconds:.0f} s. Look at {OUT / 'report.html'}; predictions {OUT / 'predictions.parquet'};")
    print(f"bundle {OUT / 'phantom_rtda.zip'}; tracking runs/mlflow.db: make mlflow. rm -r runs makes all anew.")


if __name__ == "__main__":
    sys.exit(demo())
