"""What one evaluation found, as plain numbers for JSON: for ``results/``, and for whoever reads no Parquet."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pyarrow as pa

from . import bootstrap
from .metrics import CONSTANT, METRICS, RUN, VIEW, intervals, reported_split, summarise, validated_temperature
from .table import facts_of

DIGITS = 6


def figures(table: pa.Table) -> dict[str, Any]:
    """The reported split of one run: what it is, and every metric of every view with its interval.

    Args:
        table: evaluation's table of one run.

    Returns:
        Bundle, recipe, seed, checkpoint, split, classes, numbers of images and patients, threshold and temperature with
        their source, checksums, versions; ``views``: name -> facts and metric -> [value, low, high], None where
        undefined; ``constant``: the same metrics of the classifier that answers the training prior.

    Raises:
        ValueError: as ``metrics.intervals``.
    """
    facts, summary = facts_of(table), summarise(table)
    split = reported_split(summary)
    rows = summary[(summary["recipe"] != CONSTANT) & (summary["split"] == split)]
    constant = summary[(summary["recipe"] == CONSTANT) & (summary["split"] == split)].iloc[0]
    images = table.filter(pa.compute.field("split") == split).select(["image_id", "patient_id"]).to_pandas()
    images = images.drop_duplicates("image_id")
    first = rows.iloc[0]
    return {
        **{name: _plain(first[name]) for name in (*RUN, "split")},
        "classes": facts["classes"],
        "images": len(images),
        "patients": int(images["patient_id"].nunique()),
        **{name: _plain(first[name]) for name in ("threshold", "threshold_source")},
        "temperature": _plain(validated_temperature(table)),
        **{name: facts[name] for name in ("training_prior", "training_norm", "training_radius", "image_size")},
        **{name: facts[name] for name in ("checksum_list", "checksum_weights", "versions")},
        "intervals": f"{bootstrap.LEVEL:.0%} percentile bootstrap over patients, {bootstrap.DRAWS} draws, seed 0",
        "views": _views(table, rows),
        "masking": facts.get("masking"),
        "constant": {metric: _plain(constant[metric]) for metric in METRICS},
    }


def _views(table: pa.Table, rows: Any) -> dict[str, dict[str, Any]]:
    found = intervals(table).set_index("view")
    return {
        row["view"]: {name: _plain(row[name]) for name in (*VIEW, "parameter") if _plain(row[name]) is not None}
        | {
            metric: [_plain(number) for number in numbers]
            for metric, *numbers in found.loc[row["view"]].itertuples(index=False)
        }
        for _, row in rows.iterrows()
    }


def _plain(value: Any) -> Any:
    """A number, text or None, as JSON has them; numbers to six significant digits."""
    if pd.isna(value):  # None, NaN and pandas' own nothing
        return None
    if isinstance(value, str):
        return value
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else int(value)
