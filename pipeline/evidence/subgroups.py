"""Metrics of subgroups of the patients, each with its number of images and patients.

Of few patients a figure alone would be read as more than it is: below ``FEW`` patients a value stands with its
interval, or not at all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from . import bootstrap
from .answers import SUBGROUPS, Answers

FEW = 20
"""Patients below whom no value stands without an interval."""
SHOWN = ("auroc", "balanced_accuracy", "sensitivity_at_90", "specificity_at_90", "brier")
NOT_STATED = "not stated"


def subgroups(
    answers: Answers,
    views: Sequence[str],
    metrics: Sequence[str] = SHOWN,
    draws: int = bootstrap.DRAWS,
) -> pd.DataFrame:
    """Metrics of every subgroup by site, sex, age group, projection and manufacturer, where the table states these.

    Thresholds and temperature are those of the whole run. AUROC and balanced accuracy need images of every class.

    Args:
        answers: of one run.
        views: of these views.
        metrics: of these metrics, which have replicates.
        draws: replicates, over the patients of the subgroup.

    Returns:
        Columns column, level, images, patients, view, metric, value, low, high. Where nothing is stated of some images,
        they are the level "not stated". Value is NaN where it is undefined, and below ``FEW`` patients also where its
        interval is: where more than a tenth of the replicates are undefined, or all are the same, as those of a single
        patient, or of a group with no mistake, which say nothing of others.
    """
    rows = []
    for column, level, chosen in _levels(answers):
        own = answers.of(chosen)
        drawn, once = own.drawn(draws), bootstrap.once(len(own.labels))
        for view in views:
            values, found = own.replicates(view, once), own.replicates(view, drawn)
            for metric in (name for name in metrics if name in found):
                at = _figure(float(values[metric][0]), found[metric], own.number_of_patients)
                if metric == "balanced_accuracy" and not _every_class(own):
                    at = (math.nan,) * 3
                rows.append((column, level, len(own.labels), own.number_of_patients, view, metric, *at))
    names = ["column", "level", "images", "patients", "view", "metric", "value", "low", "high"]
    return pd.DataFrame(rows, columns=names)


def _levels(answers: Answers) -> Iterator[tuple[str, str, NDArray[np.bool_]]]:
    """Column, level and whose images, levels sorted; a column that says nothing has none."""
    for column in SUBGROUPS:
        if column not in answers.images or answers.images[column].isna().all():
            continue
        stated = answers.images[column].where(answers.images[column].notna(), NOT_STATED)
        for level in sorted(stated.unique(), key=lambda name: (name == NOT_STATED, name)):
            yield column, str(level), (stated == level).to_numpy()


def _figure(value: float, replicates: bootstrap.Values, patients: int) -> tuple[float, float, float]:
    low, high = bootstrap.percentiles(replicates)
    if patients < FEW and not low < high:
        return math.nan, math.nan, math.nan
    return value, low, high


def _every_class(answers: Answers) -> bool:
    labels = answers.labels
    if labels.ndim == 2:
        return bool((labels.any(axis=0) & ~labels.all(axis=0)).all())
    return len(np.unique(labels)) == len(answers.facts["classes"])
