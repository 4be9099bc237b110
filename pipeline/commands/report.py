"""``rtda report``: one HTML file over evaluations."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from ..delivery.bundle import is_evaluated
from ..evidence.report import write_report
from ..evidence.table import facts_of, read_table, with_facts, write_table
from ..tracking import log_artifacts
from .evaluate import table_path, tables_of
from .evaluating import examples_path


def run(arguments: argparse.Namespace) -> int:
    """Write the report; see ``rtda report --help``."""
    folders: list[Path] = arguments.folders
    found = [tables_of(folder, "best", "last") or [table_path(folder, "test", "best")] for folder in folders]
    paths = [path for own in found for path in own]
    tables = [read_table(path) for path in paths]
    examples = [] if arguments.no_pictures else [path for path in map(examples_path, paths) if path.is_file()]
    out = Path(arguments.output) if arguments.output else folders[0] / "report.html"
    names = [f"{path.parent.name}/{path.name}" for path in paths]
    write_report(tables, examples, out, titled(tables), names)
    if not is_evaluated(out.parent):  # such a folder keeps its own table
        write_table(joined(tables), out.parent / "predictions.parquet")  # what the report was made from
    for folder in folders:
        log_artifacts(folder, [out])
    print(out)
    return 0


def titled(tables: Sequence[pa.Table]) -> str:
    """Heading of the page, with the name of the bundle if there is one only."""
    bundles = {name for table in tables for name in table["bundle"].unique().to_pylist()}
    return f"{bundles.pop()}: robustness report" if len(bundles) == 1 else "Robustness report"


def joined(tables: Sequence[pa.Table]) -> pa.Table:
    """All rows; the metadata keeps what the runs share, and under ``runs`` what each says of itself."""
    facts = [facts_of(table) for table in tables]
    shared = {key: value for key, value in facts[0].items() if all(other.get(key) == value for other in facts)}
    return with_facts(pa.concat_tables(tables), shared | {"runs": facts})
