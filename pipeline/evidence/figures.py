"""What one evaluation found, as plain numbers for JSON: for ``results/``, and for whoever reads no Parquet."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import pyarrow as pa

from . import bootstrap
from .across import across, attacks_within, kinds_of_shift, worst_shift
from .answers import RUN, VIEW, Answers, answers
from .comparison import endpoints
from .metrics import CONSTANT, intervals, summarise
from .outcomes import METRICS, source_of
from .subgroups import subgroups

DIGITS = 6
HEADLINE = ("auroc", "balanced_accuracy", "balanced_accuracy_at_half", "brier", "nll", "ece")
"""Metrics that a bundle carries with its weights."""


def figures(table: pa.Table) -> dict[str, Any]:
    """The reported split of one run: what it is, and every metric of every view with its interval.

    Args:
        table: evaluation's table of one run.

    Returns:
        Bundle, recipe, seed, checkpoint, split, classes, numbers of images and patients; threshold and temperature with
        their source (lists in label order where the set is multi-label; None without validation), the prior with its,
        checksums, versions; ``views``: name -> facts and metric -> [value, low, high], None where undefined;
        ``attacks`` and ``shifts``: what holds over several views (see ``across.across``), and which these are;
        ``subgroups``, of the views that are endpoints; ``constant``: the metrics of the classifier that answers the
        prior.

    Raises:
        ValueError: as ``metrics.intervals``.
    """
    own, summary, found = answers(table), summarise(table), intervals(table)
    constant = summary[(summary["recipe"] == CONSTANT) & (summary["split"] == own.split)].iloc[0]
    return {
        **{name: plain(own.run[name]) for name in RUN},
        "split": own.split,
        "classes": own.facts["classes"],
        "images": len(own.images),
        "patients": own.number_of_patients,
        **_rules(own),
        "prior_source": own.facts.get("prior_source", "train"),
        **{name: own.facts[name] for name in ("training_prior", "training_norm", "training_radius", "image_size")},
        **{name: own.facts[name] for name in ("checksum_list", "checksum_weights", "versions")},
        "intervals": bootstrap.STATED,
        "views": _views(summary[(summary["recipe"] != CONSTANT) & (summary["split"] == own.split)], found),
        "attacks": {"of": attacks_within(own)} | _metrics(found, "attacks"),
        "shifts": {"of": kinds_of_shift(own), "worst": worst_shift(own)} | _metrics(found, "shifts"),
        "subgroups": _subgroups(own),
        "masking": own.facts.get("masking"),
        "constant": {metric: plain(constant[metric]) for metric in METRICS},
    }


def headline(table: pa.Table) -> dict[str, Any]:
    """What a bundle says of its weights wherever it goes: few figures, each with its interval, and the verdict.

    Args:
        table: evaluation's table of one run.

    Returns:
        Split, numbers of images and patients, how the intervals are made; ``views``: those that are endpoints (see
        ``comparison.endpoints``) -> metric of ``HEADLINE`` -> [value, low, high]; ``attacks`` and ``shifts``: metric ->
        the same; ``worst_shift``; ``masking``: verdict and failed checks, None where they were not run.

    Raises:
        ValueError: as :func:`answers.answers`.
    """
    own = answers(table)
    drawn, once = own.drawn(), bootstrap.once(len(own.labels))
    views = {view: (own.values(view), own.replicates(view, drawn)) for view, _ in endpoints(own)}
    over, found = across(own, once), across(own, drawn)
    masking = own.facts.get("masking")
    return {
        "split": own.split,
        "images": len(own.images),
        "patients": own.number_of_patients,
        "intervals": bootstrap.STATED,
        "views": {
            view: {name: _bounded(value[name], replicates.get(name, math.nan)) for name in HEADLINE if name in value}
            for view, (value, replicates) in views.items()
        },
        **{
            group: {name: _bounded(float(value[0]), found[group][name]) for name, value in metrics.items()}
            for group, metrics in over.items()
        },
        "worst_shift": worst_shift(own),
        "masking": masking and {name: masking[name] for name in ("verdict", "failed")},
    }


def _bounded(value: float, replicates: Any) -> list[float | None]:
    return [plain(number) for number in (value, *bootstrap.percentiles(replicates))]


def _rules(own: Answers) -> dict[str, Any]:
    each = {
        "threshold": [rule.threshold for rule in own.rules],
        "threshold_at_90": [rule.at_90 for rule in own.rules],
        "temperature": [rule.temperature for rule in own.rules],
    }
    written = {name: [plain(value) for value in values] for name, values in each.items()}
    one = len(own.rules) == 1
    return {
        **{name: values[0] if one else values for name, values in written.items()},
        "threshold_source": source_of(own.rules),
    }


def _views(rows: pd.DataFrame, found: pd.DataFrame) -> dict[str, dict[str, Any]]:
    return {
        row["view"]: {name: plain(row[name]) for name in (*VIEW, "parameter") if plain(row[name]) is not None}
        | _metrics(found, row["view"])
        for _, row in rows.iterrows()
    }


def _metrics(found: pd.DataFrame, view: str) -> dict[str, list[float | None]]:
    """Metric -> [value, low, high] of a view."""
    rows = found[found["view"] == view][["metric", "value", "low", "high"]]
    return {metric: [plain(number) for number in numbers] for metric, *numbers in rows.itertuples(index=False)}


def _subgroups(own: Answers) -> dict[str, dict[str, Any]]:
    """Column -> level -> images, patients, and views: view -> metric -> [value, low, high]."""
    columns: dict[str, dict[str, Any]] = {}
    found = subgroups(own, [view for view, _ in endpoints(own)])
    for (column, level), rows in found.groupby(["column", "level"], sort=False):
        counted = {name: int(rows[name].iloc[0]) for name in ("images", "patients")}
        views = {view: _metrics(rows, view) for view in rows["view"].unique()}
        columns.setdefault(column, {})[level] = counted | {"views": views}
    return columns


def plain(value: Any) -> Any:
    """A number, text or None, as JSON has them; numbers to six significant digits."""
    if pd.isna(value):  # None, NaN and pandas' own nothing
        return None
    if isinstance(value, str):
        return value
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else int(value)
