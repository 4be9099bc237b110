"""``rtda compare``: two evaluated runs on the same images, as a table to read, in Markdown or in JSON."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ..evidence import bootstrap
from ..evidence.comparison import Comparison, compare
from ..evidence.figures import plain
from ..evidence.table import read_table
from ..files import write_whole
from .evaluate import table_path, tables_of

SHOWN = (
    "auroc",
    "balanced_accuracy",
    "sensitivity_at_90",
    "specificity_at_90",
    "brier",
    "brier_scaled",
    "worst_case_balanced_accuracy",
    "worst_balanced_accuracy",
    "mean_error",
    "mce",
    "relative_mce",
)
"""Metrics of the printed table; JSON has all."""
DETECTED_BY = "(z_0.975 + z_0.8) · SE of the paired difference"
TESTED_BY = "two-sided, centred bootstrap; Holm over the endpoints declared beforehand; the rest has intervals only"


def run(arguments: argparse.Namespace) -> int:
    """Compare; see ``rtda compare --help``."""
    out = Path(arguments.output) if arguments.output else None
    if out and out.is_dir():
        raise ValueError(f"{out.name or out}: output: a folder; give the file to write")
    if out and out.suffix not in (".json", ".md"):
        raise ValueError(f"{out.name}: output: neither .json nor .md; give a file that ends so")
    folders: list[Path] = [arguments.a, arguments.b]
    paths = [next(iter(tables_of(folder, "best")), table_path(folder, "test", "best")) for folder in folders]
    a, b = (read_table(path) for path in paths)
    found = compare(a, b, [f"{path.parent.name}/{path.name}" for path in paths])
    names = [folder.resolve().name for folder in folders]
    text = readable(found, names)
    print(text, end="")
    if out:
        content = text if out.suffix == ".md" else as_json(found, names)
        write_whole(out, content.encode())
    return 0


def readable(found: Comparison, names: Sequence[str]) -> str:
    """The comparison in Markdown, its columns aligned."""
    rows = found.rows[found.rows["metric"].isin(SHOWN)]
    who = f"{len(found.a.images)} {found.a.split} images of {found.a.number_of_patients} patients"
    return "\n".join(
        [
            *(f"- {side}: {told(facts)}" for side, facts in _sides(found, names).items()),
            "",
            f"{who}; {bootstrap.STATED}, the same for A and B.",
            f"Detectable: {DETECTED_BY}. A smaller difference is not decidable on this set.",
            "",
            f"Endpoints. p: {TESTED_BY}.",
            "",
            *table(found.endpoints, {"p": "p", "p_holm": "p, Holm"}),
            "",
            "All views.",
            "",
            *table(rows),
            "",
        ]
    )


def told(facts: Mapping[str, Any]) -> str:
    """A run in one line."""
    weights = facts["checksum_weights"][:12]
    own = "" if facts["checkpoint"] == "model" else f"seed {facts['seed']}, {facts['checkpoint']}.pt, "
    return f"{facts['run']}: {facts['recipe']}, {own}weights {weights}…"


def table(rows: pd.DataFrame, more: Mapping[str, str] | None = None) -> list[str]:
    """Lines of a Markdown table of differences, and of ``more`` columns, each with its head."""
    more = more or {}
    heads = ["view", "metric", "A", "B", "B − A", "from", "to", "detectable", *more.values(), "verdict"]
    lines = [
        [
            *(row["view"], row["metric"], _number(row["a"]), _number(row["b"])),
            *(_number(row[name], "+") for name in ("difference", "low", "high")),
            *(_number(row[name]) for name in ("detectable", *more)),
            row["verdict"],
        ]
        for _, row in rows.iterrows()
    ]
    widths = [max(map(len, column)) for column in zip(heads, *lines, strict=True)]
    text = [" | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in [heads, *lines]]
    return [f"| {line} |" for line in [text[0], " | ".join("-" * width for width in widths), *text[1:]]]


def _number(value: float, sign: str = "") -> str:
    return "–" if math.isnan(value) else f"{value:{sign}.3f}"


def as_json(found: Comparison, names: Sequence[str]) -> str:
    """Everything that was compared, for machines."""
    differences: dict[str, dict[str, Any]] = {}
    for row in found.rows.to_dict("records"):
        stated = {name: plain(value) for name, value in row.items() if not pd.isna(value)}
        differences.setdefault(stated.pop("view"), {})[stated.pop("metric")] = stated
    content = {
        **_sides(found, names),
        "split": found.a.split,
        "images": len(found.a.images),
        "patients": found.a.number_of_patients,
        "checksum_list": found.a.facts["checksum_list"],
        "difference": "b − a, on the same images and draws",
        "intervals": bootstrap.STATED,
        "detectable": DETECTED_BY,
        "p": TESTED_BY,
        "endpoints": (found.endpoints["view"] + "/" + found.endpoints["metric"]).tolist(),
        "differences": differences,
    }
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _sides(found: Comparison, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    return {
        side: {"run": name, **{key: plain(value) for key, value in own.run.items()}}
        | {"checksum_weights": own.facts["checksum_weights"]}
        for side, name, own in zip(("A", "B"), names, (found.a, found.b), strict=True)
    }
