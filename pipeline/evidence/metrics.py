"""Metrics as pure functions of the table that evaluation writes (one row per image and view).

Those of arrays stand in ``scores.py`` and ``calibration.py``; ``outcomes.py`` lists them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from . import bootstrap
from .across import across
from .answers import RUN, VIEW, answers, frame_of, labels_of, logits_of, reported_split, rules_of
from .outcomes import METRICS, Rule, source_of, values
from .table import facts_of

CONSTANT = "constant (class prior)"


def summarise(table: pa.Table) -> pd.DataFrame:
    """One row of metrics per run (bundle, recipe, seed, checkpoint), split and view, in order of appearance.

    The last rows, recipe `constant (class prior)`, are a classifier that answers the training prior for every image:
    its class is the likeliest, its balanced accuracy 1/K, its AUROC 0.5, whatever the view.

    Args:
        table: evaluation's table, of one bundle; several recipes, seeds and checkpoints may be concatenated.

    Returns:
        Columns bundle, recipe, seed, checkpoint, split, view, family, norm, epsilon, severity, n, threshold,
        threshold_source, temperature, those of ``outcomes.METRICS``, and parameter, by which a shift says how strong it
        is (else NaN). For K = 2 the threshold is that of the run's own clean validation images; without those it is
        0.5, and `threshold_source` says so. For K >= 3 it is NaN (argmax), and so is what stands at a threshold; of a
        multi-label set it is NaN, as is the temperature, since each label has its own.

    Raises:
        ValueError: no rows, no metadata, more than one bundle, the same image twice in one run and view, labels or
            probabilities that do not fit the classes, or probabilities that are not finite.
    """
    facts, frame = facts_of(table), frame_of(table)
    if frame["bundle"].nunique() > 1:
        raise ValueError(f"one bundle at a time, not {', '.join(frame['bundle'].unique())}")
    rows = []
    for run, part in frame.groupby(list(RUN), sort=False, dropna=False):
        rules = rules_of(part, facts)
        for _, view in part.groupby(["split", "view"], sort=False):
            rows.append(_row(view, dict(zip(RUN, run, strict=True)), logits_of(view, facts), rules))
    summary = pd.DataFrame([*rows, *_constant(frame, facts)])
    summary = summary.astype({"seed": "Int64", "severity": "Int64", "epsilon": "float64"})
    return summary.assign(parameter=summary["view"].map(facts.get("parameters", {})))


def _row(
    view: pd.DataFrame, run: dict[str, Any], logits: NDArray[np.float64], rules: tuple[Rule, ...]
) -> dict[str, Any]:
    one = rules[0] if len(rules) == 1 else None
    return {
        **run,
        **view.iloc[0][["split", "view", *VIEW]].to_dict(),
        "n": len(view),
        "threshold": one.threshold if one else math.nan,
        "threshold_source": source_of(rules),
        "temperature": one.temperature if one else math.nan,
        **values(labels_of(view), logits, rules),
    }


def _constant(frame: pd.DataFrame, facts: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of the classifier that answers the prior, one per split and view, each image counted once."""
    prior, classes = np.asarray(facts["training_prior"], dtype=np.float64), len(facts["classes"])
    if prior.shape != (classes,):
        raise ValueError(f"{classes} classes, but a training prior of {prior.size}")
    run = {"bundle": frame["bundle"].iloc[0], "recipe": CONSTANT, "seed": None, "checkpoint": None}
    logits = np.log(prior.clip(least := np.finfo(np.float64).tiny))
    if facts.get("multilabel"):
        logits -= np.log((1 - prior).clip(least))
    binary = classes == 2 or facts.get("multilabel")
    rule = Rule(0.5 if binary else math.nan, math.nan, math.nan, "prior")
    rules = (rule,) * (classes if facts.get("multilabel") else 1)
    views = frame.drop_duplicates(["split", "view", "image_id"]).groupby(["split", "view"], sort=False)
    rows = [_row(view, run, np.tile(logits, (len(view), 1)), rules) for _, view in views]
    return [row | {"threshold": math.nan, "threshold_source": "prior"} for row in rows]


def flat(summary: pd.DataFrame) -> dict[str, float]:
    """`<view>/<metric>` → value of one run's reported split, as MLflow takes them; undefined (NaN) ones are left out.

    Raises:
        ValueError: more than one run in the summary (the constant rows do not count).
    """
    rows = summary[(summary["recipe"] != CONSTANT) & (summary["split"] == reported_split(summary))]
    if rows["view"].duplicated().any():
        raise ValueError("flat takes one run: one recipe, seed and checkpoint")
    values = {f"{row['view']}/{metric}": float(row[metric]) for _, row in rows.iterrows() for metric in METRICS}
    return {key: value for key, value in values.items() if math.isfinite(value)}


def intervals(table: pa.Table, draws: int = bootstrap.DRAWS, level: float = bootstrap.LEVEL) -> pd.DataFrame:
    """Percentile bootstrap intervals over patients of one run's reported split.

    All views take the same draws. Thresholds and temperature are those of :func:`summarise` and do not move with them.

    Args:
        table: evaluation's table of one run.
        draws: replicates.
        level: share of the replicates within the interval.

    Returns:
        Columns view, metric, value, low, high: a row for each view and metric in order, then those of
        :func:`across.across`, whose views are `attacks` and `shifts`. Low and high are NaN where a metric has no
        replicates (see :func:`bootstrap.replicates`), and where they are undefined.

    Raises:
        ValueError: as :func:`answers.answers`.
    """
    own = answers(table)
    drawn = own.drawn(draws)
    rows = []
    for view in own.logits:
        found = own.replicates(view, drawn)
        rows += [
            (view, metric, value, *bootstrap.percentiles(found.get(metric, math.nan), level))
            for metric, value in own.values(view).items()
        ]
    replicated, once = across(own, drawn), across(own, bootstrap.once(len(own.labels)))
    for view, found in replicated.items():
        rows += [
            (view, metric, float(once[view][metric][0]), *bootstrap.percentiles(values, level))
            for metric, values in found.items()
        ]
    return pd.DataFrame(rows, columns=["view", "metric", "value", "low", "high"])


def validated_temperature(table: pa.Table) -> float | None:
    """The temperature fitted on the clean validation images of a table of one run; None where it has none.

    Of a multi-label set there are several, and none is stated.
    """
    rules = rules_of(frame_of(table), facts_of(table))
    return None if len(rules) > 1 or math.isnan(rules[0].temperature) else rules[0].temperature


def rms_grey_levels(radius: float, image_size: int, channels: int = 1, norm: str = "l2", dimensions: int = 2) -> float:
    """Root mean square change, in grey levels of 255, of a perturbation on the sphere of that radius.

    ℓ2: radius / √(size^dimensions · channels) · 255. ℓ∞: radius · 255, an upper bound.

    Args:
        radius: in intensity units of an image in [0, 1].
        image_size: rows = columns (= slices), pixels.
        channels: of the image that is perturbed.
        norm: "l2" or "linf".
        dimensions: 2 of films, 3 of volumes.

    Raises:
        ValueError: another norm.

    Example:
        >>> round(rms_grey_levels(2.0, 224), 2)
        2.28
    """
    if norm not in ("l2", "linf"):
        raise ValueError(f"norm must be 'l2' or 'linf', not {norm!r}")
    return radius * 255 / (math.sqrt(image_size**dimensions * channels) if norm == "l2" else 1.0)
