"""``rtda report``: one HTML file over evaluated runs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from ..delivery.bundle import Run, is_run
from ..evidence.report import write_report
from ..evidence.table import facts_of, read_table, with_facts, write_table
from ..tracking import log_artifacts
from .evaluate import examples_path, table_path, tables_of


def run(arguments: argparse.Namespace) -> int:
    """Write the report; see ``rtda report --help``."""
    runs: list[Run] = arguments.runs
    paths = [path for run in runs for path in tables_of(run, "best", "last") or [table_path(run, "test", "best")]]
    tables = [read_table(path) for path in paths]
    examples = [] if arguments.no_pictures else [path for path in map(examples_path, paths) if path.is_file()]
    out = Path(arguments.output) if arguments.output else runs[0].folder / "report.html"
    names = [f"{path.parent.name}/{path.name}" for path in paths]
    write_report(tables, examples, out, f"{runs[0].bundle.name}: robustness report", names)
    if not is_run(out.parent):  # a run folder keeps its own table
        write_table(joined(tables), out.parent / "predictions.parquet")  # what the report was made from
    for run in runs:
        log_artifacts(run.folder, [out])
    print(out)
    return 0


def joined(tables: Sequence[pa.Table]) -> pa.Table:
    """All rows; the metadata keeps what the runs share, and under ``runs`` what each says of itself."""
    facts = [facts_of(table) for table in tables]
    shared = {key: value for key, value in facts[0].items() if all(other.get(key) == value for other in facts)}
    return with_facts(pa.concat_tables(tables), shared | {"runs": facts})
