"""One self-contained HTML page from evaluation's tables: finding, facts, results, curves, reliability, pictures.

Everything but the pictures is a pure function of the tables; the same input gives the same bytes. No file name and no
image id reaches the page, and the page fetches nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
import pyarrow as pa
from markupsafe import Markup

from ..files import write_whole
from . import bootstrap
from .answers import RUN, answers
from .drawings import curve, reliability_diagram, severities
from .metrics import CONSTANT
from .pictures import load, pictures
from .results import AUROC, BALANCED, MIDDLE, Column, Results, named, percent, read

PRIORS = {"train": "Training prior", "own images": "Prior of the list’s own images, which has no train split"}
UNKNOWN = {"not stated", "unstated"}
"""What stands for shifts seen where a table, or an augmentation, does not say."""


def write_report(
    tables: Sequence[pa.Table], examples: Sequence[Path], out: Path, title: str, names: Sequence[str] | None = None
) -> Path:
    """Write one self-contained HTML page that compares models on the same images.

    Args:
        tables: evaluation's tables with their metadata, in the order of the report.
        examples: evaluation's `.npz` files, one per run: `clean`, `augmented`, `adversarial` (n, 1, rows, columns)
            float32 in [0, 1]; `labels`, `predicted_clean`, `predicted_adversarial` (n,); `recipe`, `epsilon`, `norm`.
        out: the file to write; missing folders are made.
        title: heading of the page.
        names: what a refusal calls each table; None: table 1, table 2, …

    Returns:
        `out`.

    Raises:
        ValueError: no tables; tables that differ in split, views, classes, image size, channels, training
            radius or data list; pictures that are not (n, 1, rows, columns); or as `metrics.summarise`.
        OSError: the file could not be written.
    """
    results = read(tables, names)
    shown = _tabled(results)
    bounds = {name: _bounds(table, shown["view"]) for name, table in zip(results.masking, tables, strict=True)}
    templates = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=templates, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    blocks = [_block(results, view, bounds) for _, view in shown.iterrows()]
    page = environment.get_template("report.html").render(
        title=title,
        results=results,
        finding=finding(results),
        certainty=_certainty(results),
        facts=_facts(results),
        runs=_runs(results),
        masking=_masking(results),
        attacked=bool((results.constant["family"] == "attack").any()),
        repeated=_repeated(results),
        interval=bootstrap.STATED,
        blocks=blocks,
        spreads=_spreads(blocks),
        shifts=_shifts(results) if len(results.grid) else None,
        curves=[curve(results, column) for column in (BALANCED, AUROC)] if len(results.pgd()) else [],
        reliability=_reliability(results),
        pictures=pictures([load(path) for path in examples], results),
        commonest=_commonest(results),
    )
    return write_whole(out, page.encode())


def finding(results: Results) -> str:
    """The report's one sentence: which recipe keeps most balanced accuracy under PGD-20 at the training ε."""
    view = results.attacked()
    scores = results.over_seeds(view or "clean", BALANCED.metric)["mean"].sort_values(ascending=False, kind="stable")
    floor = results.of_constant(BALANCED.metric)
    shown, constant = [percent(score) for score in scores], f"a constant answer has {percent(floor)}"
    ball = results.ball(results.facts["training_norm"], results.facts["training_radius"])
    where = f"Under PGD-20 at the {results.radius_name}, {ball}," if view else "On clean images"
    if scores.iloc[0] <= floor:
        return f"{where} no recipe has more balanced accuracy than a constant answer: {constant}, the best {shown[0]}."
    if len(scores) == 1:
        clean = percent(results.over_seeds("clean", BALANCED.metric)["mean"].iloc[0])
        beside = f", on clean images {clean}" if view else ""
        return f"{where} {scores.index[0]} has a balanced accuracy of {shown[0]}{beside}; {constant}."
    if shown[0] == shown[1]:
        names = " and ".join(name for name, text in zip(scores.index, shown, strict=True) if text == shown[0])
        return f"{where} {names} have the same balanced accuracy, {shown[0]}; {constant}."
    second = f"{scores.index[1]} has {shown[1]}"
    return f"{where} {scores.index[0]} has the most balanced accuracy, {shown[0]}; {second}, {constant}."


def _repeated(results: Results) -> bool:
    """Whether some method ran with several seeds."""
    return bool((results.metrics.groupby(["method", "view"]).size() > 1).any())


def _certainty(results: Results) -> str:
    runs = results.metrics.drop_duplicates(["method", *RUN]).groupby("method").size()
    least, most = runs.min(), runs.max()
    means = f"Means over {least if least == most else f'{least} to {most}'} runs."
    one = "One run of each recipe: differences of a few points may be chance."
    chosen = " Checkpoints were chosen on these very images, so other images will do worse." if results.tuned_on else ""
    return f"{one if most == 1 else means} No difference is tested here: rtda compare does that, for two runs.{chosen}"


def _facts(results: Results) -> list[tuple[str, str]]:
    facts = results.facts
    channels = facts["channels"]
    clean = results.images[results.images["view"] == "clean"]
    prior = [f"{name} {percent(share)}" for name, share in zip(facts["classes"], facts["training_prior"], strict=True)]
    return [
        ("Bundle", ", ".join(clean["bundle"].unique())),
        *[(f"Images, {split}", _census(rows, facts["classes"])) for split, rows in clean.groupby("split", sort=False)],
        (PRIORS[facts.get("prior_source", "train")], ", ".join(prior)),
        ("Intensities", f"[0, 1], {results.size} pixels, {channels} channel{'s' if channels > 1 else ''}"),
        (results.radius_name.capitalize(), results.ball(facts["training_norm"], facts["training_radius"])),
        ("Threshold", "; ".join(_threshold_source(results))),
        ("Data list", f"SHA-256 {facts['checksum_list'][:12]}…"),
        ("Versions", ", ".join(f"{name} {version}" for name, version in facts["versions"].items())),
        ("Trained in", facts["training_precision"]),
        ("Threads", str(facts["threads"])),
        *results.notes,
    ]


def _threshold_source(results: Results) -> list[str]:
    words = {
        "clean validation": "of highest balanced accuracy on the run’s own clean validation images",
        "argmax": "none: the class of highest probability is predicted",
        "0.5 (no validation split)": "0.5, as there is no validation split to choose it on; no temperature either",
    }
    return [words.get(source, source) for source in results.metrics["threshold_source"].unique()]


def _census(rows: pd.DataFrame, classes: Sequence[str]) -> str:
    images = rows.drop_duplicates("image_id")
    counts = Counter(k for label in images["label"] for k in _held(label))
    patients = images["patient_id"].nunique()
    parts = ", ".join(f"{counts[k]} {name}" for k, name in enumerate(classes))
    return f"{len(images)} ({parts}), {patients if patients else 'unknown number of'} patients"


def _held(label: Any) -> list[int]:
    """The classes that an image has: one, or any number of a multi-label set."""
    return [k for k, has in enumerate(label) if has] if np.ndim(label) else [int(label)]


def _commonest(results: Results) -> tuple[str, str] | None:
    """The commonest class of the reported split and its share: the accuracy that costs nothing; None of labels."""
    if results.multilabel:
        return None
    images = results.images[(results.images["split"] == results.split) & (results.images["view"] == "clean")]
    shares = images.drop_duplicates("image_id")["label"].value_counts(normalize=True)
    return results.facts["classes"][shares.index[0]], percent(shares.iloc[0])


def _runs(results: Results) -> list[dict[str, str]]:
    rows = results.metrics.drop_duplicates(["method", *RUN])
    return [
        {
            "recipe": row["recipe"],
            "weight": "–" if math.isnan(row["weight"]) else f"{row['weight']:g}",
            "seed": "–" if pd.isna(row["seed"]) else str(row["seed"]),
            "seen": row["seen"],
            "checkpoint": row["checkpoint"],
            "threshold": "–" if math.isnan(row["threshold"]) else f"{row['threshold']:.3f}",
            "checksum": f"{row['checksum'][:12]}…",
        }
        for _, row in rows.iterrows()
    ]


def _tabled(results: Results) -> pd.DataFrame:
    """The views that stand in the table of results: all but the shifts that have a map."""
    return results.constant[~results.constant["view"].isin(results.grid["view"])]


def _reliability(results: Results) -> list[Markup]:
    """Diagrams of clean and attacked images, as they are and after temperature where all runs have one."""
    views = [view for view in ("clean", results.attacked()) if view]
    before = [reliability_diagram(results, view) for view in views]
    if results.images["temperature"].isna().any():
        return before
    return [*before, *(reliability_diagram(results, view, scaled=True) for view in views)]


def _shifts(results: Results) -> dict[str, Any]:
    """The map of the shifts at severity 3, row by row, and a curve for each kind."""
    views = results.grid
    middle = views[views["severity"] == MIDDLE]
    rows = [_shift_row(results, results.constant.iloc[0], "clean", "")]
    rows += [_shift_row(results, view, view["kind"].replace("_", " "), view["group"]) for _, view in middle.iterrows()]
    return {
        "severity": MIDDLE,
        "methods": [series.label for series in results.series],
        "rows": rows,
        "mean": [
            BALANCED.text(mean) for mean in np.mean([[cell["value"] for cell in row["cells"]] for row in rows[1:]], 0)
        ],
        "curves": [severities(results, kind) for kind in views["kind"].unique()],
    }


def _shift_row(results: Results, view: pd.Series[Any], words: str, group: str) -> dict[str, Any]:
    """Balanced accuracy of each method, its place between the constant answer and all right, and whether it is seen."""
    floor, values = results.of_constant(BALANCED.metric), results.over_seeds(view["view"], BALANCED.metric)["mean"]
    seen = results.metrics.drop_duplicates("method").set_index("method")["seen"]
    return {
        "words": words,
        "parameter": "" if pd.isna(view["parameter"]) else view["parameter"],
        "cells": [
            {
                "value": values[method],
                "text": BALANCED.text(values[method]),
                "share": f"{max(0.0, (values[method] - floor) / (1 - floor)):.2f}",
                "mark": _mark(group, seen[method].split(", ")) if group else "",
            }
            for method in values.index
        ],
    }


def _mark(group: str, seen: Sequence[str]) -> str:
    """Whether an augmentation has seen a group of shifts, or nobody knows."""
    return "†" if group in seen else "?" if UNKNOWN & {*seen} else ""


def _masking(results: Results) -> dict[str, Any] | None:
    """Verdicts of the gradient-masking checks, and a row for each check; None where no run had them."""
    runs = results.metrics.drop_duplicates(["method", *RUN])
    several = runs["method"].duplicated().any()
    names = [f"{row['method']}, seed {row['seed']}" if several else row["method"] for _, row in runs.iterrows()]
    gates = {name: results.masking[table] for name, table in zip(names, runs["name"], strict=True)}
    if not any(gates.values()):
        return None
    verdicts = [(name, gate["verdict"] if gate else "not run", _reasons(gate)) for name, gate in gates.items()]
    found = {name: {check["name"]: check for check in gate["checks"]} for name, gate in gates.items() if gate}
    checks = dict.fromkeys(name for each in found.values() for name in each)
    rows = [(name, [_checked(each.get(name)) for each in found.values()]) for name in checks]
    every = [check for each in found.values() for check in each.values()]
    failed = {check["name"]: check["meaning"] for check in every if check["passed"] is False}
    return {"verdicts": verdicts, "runs": list(found), "rows": rows, "failed": failed}


def _reasons(gate: Mapping[str, Any] | None) -> str:
    """What failed; else why nothing could be decided, which the first check that was not run tells."""
    if not gate:
        return ""
    missing = [check["note"] for check in gate["checks"] if check["needed"] and check["figure"] is None]
    return ", ".join(gate["failed"]) or next(iter(missing), str(gate["facts"].get("why", "")))


def _checked(check: Mapping[str, Any] | None) -> tuple[str, str]:
    """Figure against limit, and what came of it."""
    if check is None or check["figure"] is None:
        return ("" if check is None else check["note"]), ""
    relation, outcome = ("≤", "passed") if check["passed"] else (">", "failed")
    return f"{check['figure']:.3f} {relation} {check['limit']:.3f}", outcome


Bounds = Mapping[tuple[str, str], tuple[float, float]]
"""View and metric -> low and high."""


def _bounds(table: pa.Table, views: Iterable[str]) -> Bounds:
    """The intervals over patients of a table of one run; see :func:`bootstrap.percentiles`."""
    own = answers(table)
    drawn = own.drawn()
    return {
        (view, metric): bootstrap.percentiles(values)
        for view in views
        for metric, values in own.replicates(view, drawn).items()
    }


def _block(results: Results, view: pd.Series[Any], bounds: Mapping[str, Bounds]) -> dict[str, Any]:
    """One view of the main table: heading, n, and a row of cells for each method and the constant."""
    columns = results.columns
    values = [results.over_seeds(view["view"], column.metric) for column in columns]
    rows = [(CONSTANT, [(column.text(view[column.metric]), "") for column in columns])]
    for method in reversed(values[0].index):
        own = [value.loc[method] for value in values]
        tables = results.metrics.loc[results.metrics["method"] == method, "name"].unique()
        found = bounds[tables[0]] if len(tables) == 1 else {}
        cells = [
            (column.text(one["mean"]), _spread(column, one["std"], found.get((view["view"], column.metric))))
            for column, one in zip(columns, own, strict=True)
        ]
        rows.insert(0, (method, cells))
    best = [_best(column, [cells[i][0] for _, cells in rows]) for i, column in enumerate(columns)]
    heading, detail = named(results, view)
    return {
        "heading": heading,
        "detail": detail,
        "n": int(view["n"]),
        "rows": [
            {"label": label, "constant": label == CONSTANT, "cells": list(zip(cells, best, strict=True))}
            for label, cells in rows
        ],
    }


def _spreads(blocks: Sequence[Mapping[str, Any]]) -> list[bool]:
    """Whether any figure of a column has a spread."""
    rows = [row["cells"] for block in blocks for row in block["rows"]]
    return [any(spread for (_, spread), _ in cells) for cells in zip(*rows, strict=True)]


def _spread(column: Column, deviation: float, bounds: tuple[float, float] | None) -> str:
    """Over seeds the standard deviation, of one run the interval over patients; nothing where neither is known."""
    if not math.isnan(deviation):
        return f"± {column.text(deviation)}"
    return "" if bounds is None or any(map(math.isnan, bounds)) else "–".join(map(column.text, bounds))


def _best(column: Column, texts: Sequence[str]) -> str | None:
    """The best of the printed values; None where it is the constant's, the last, or nothing is compared."""
    *found, constant = [text for text in texts if text != "–"] or ["–"]
    if len(found) < 2:
        return None
    best = (max if column.more_is_better else min)([constant, *found], key=float)
    return None if best == constant else best
