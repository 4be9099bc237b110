"""Two models on the same images: paired differences, what is tested of them, and what the set could have shown.

Both models take the same draws of patients, so that what makes a patient hard for both cancels out. Only the endpoints
that were declared beforehand have p-values, corrected by Holm; every difference has an interval, and beside it the
smallest that a set like this one detects.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import ArrayLike
from scipy.stats import norm

from . import bootstrap
from .across import across, attacked_view, corruption_errors
from .answers import Answers, answers, reported_split
from .bootstrap import Counts, Values
from .table import facts_of

SHARED = ("classes", "checksum_list", "image_size", "channels", "training_radius", "training_norm")
"""Facts that tables must agree in, to be compared."""
LOW_CONTRAST = "contrast_down_5"
SIGNIFICANCE, POWER = 0.05, 0.8
DETECTABLE = float(norm.ppf(1 - SIGNIFICANCE / 2) + norm.ppf(POWER))
"""Standard errors to the smallest detectable difference: z_0.975 + z_0.8."""
NOT_DECIDABLE = "not decidable on this set"
TRADED = ("sensitivity_at_90", "specificity_at_90")
"""Each is had for the other, so that more of one is not better."""
LESS_IS_BETTER = ("brier", "nll", "mean_error", "relative_mean_error", "mce", "relative_mce")


@dataclass(frozen=True)
class Comparison:
    """Two runs on the same images.

    Attributes:
        a: answers of the first run, which is the baseline of mCE.
        b: answers of the second run, its images in the order of the first.
        rows: a row for each view and metric that has replicates: view, metric, a, b, difference (B − A), low, high,
            detectable, verdict, p, p_holm. NaN where undefined; p and p_holm are those of endpoints alone.
    """

    a: Answers
    b: Answers
    rows: pd.DataFrame

    @property
    def endpoints(self) -> pd.DataFrame:
        """The rows of the endpoints, in their order."""
        return self.rows.set_index(["view", "metric"], drop=False).loc[endpoints(self.a)]


def endpoints(answers: Answers) -> list[tuple[str, str]]:
    """View and metric of what was declared beforehand, as far as it was evaluated; nothing else has a p-value.

    They are balanced accuracy under PGD-20 at the training ε, AUROC on clean images, and the Brier score at low
    contrast (severity 5).
    """
    attacked = attacked_view(answers.views.reset_index(), answers.facts)
    declared = [(attacked, "balanced_accuracy"), ("clean", "auroc"), (LOW_CONTRAST, "brier")]
    return [(view, metric) for view, metric in declared if view in answers.logits]


def compare(a: pa.Table, b: pa.Table, names: Sequence[str] = ("A", "B"), draws: int = bootstrap.DRAWS) -> Comparison:
    """Differences B − A of two runs' tables, paired, on the reported split.

    Intervals are percentiles of the differences in each replicate. The smallest detectable difference is
    (z_0.975 + z_0.8) · SE, SE the standard deviation of these differences: a test at 5 % finds it with a power of 80 %.
    Where the difference is not above it, the verdict is "not decidable on this set".

    Args:
        a: evaluation's table of one run.
        b: of another, on the same images.
        names: what a refusal calls them.
        draws: replicates.

    Raises:
        ValueError: naming the second table, where it is of another list, split, views, classes, image size or training
            radius, or of other images; or as :func:`answers.answers`.
    """
    refuse_unlike(names, [shared_facts(a), shared_facts(b)], "only answers to the same question can be compared")
    one = answers(a)
    other = _in_order_of(one, answers(b), names)
    drawn, once = one.drawn(draws), bootstrap.once(len(one.labels))
    value, value_b = _metrics(one, one, once), _metrics(other, one, once)
    found, found_b = _metrics(one, one, drawn), _metrics(other, one, drawn)
    apart = {key: found_b[key] - found[key] for key in value if key in value_b}
    tests = {key: two_sided(apart[key], float(value_b[key][0] - value[key][0])) for key in endpoints(one)}
    tests = {key: p for key, p in tests.items() if not math.isnan(p)}
    adjusted = dict(zip(tests, holm(list(tests.values())), strict=True))
    rows = [
        {"view": key[0], "metric": key[1]}
        | paired(key[1], float(value[key][0]), float(value_b[key][0]), replicates)
        | {"p": tests.get(key, math.nan), "p_holm": adjusted.get(key, math.nan)}
        for key, replicates in apart.items()
    ]
    return Comparison(one, other, pd.DataFrame(rows))


def paired(metric: str, a: float, b: float, replicates: ArrayLike) -> dict[str, Any]:
    """A difference b − a of a metric, with its interval, the smallest detectable one, and what follows.

    Args:
        metric: its name, by which less or more is better.
        a: value of the first model.
        b: value of the second.
        replicates: (draws,) differences.

    Example:
        >>> paired("auroc", 0.75, 0.875, [0.0, 0.125, 0.25])["verdict"]
        'not decidable on this set'
    """
    low, high = bootstrap.percentiles(replicates)
    error = math.nan if math.isnan(low) else float(np.nanstd(np.asarray(replicates, dtype=np.float64), ddof=1))
    decided = abs(b - a) > DETECTABLE * error  # never, where that is undefined
    return {
        **{"a": a, "b": b, "difference": b - a, "low": low, "high": high, "detectable": DETECTABLE * error},
        "verdict": _leads(metric, a, b) if decided else NOT_DECIDABLE,
    }


def _leads(metric: str, a: float, b: float) -> str:
    if metric in TRADED:
        return "A higher" if a > b else "B higher"
    return "A better" if (a > b) != (metric.removesuffix("_scaled") in LESS_IS_BETTER) else "B better"


def two_sided(replicates: ArrayLike, difference: float) -> float:
    """The p-value of a difference by the centred bootstrap: how often replicates lie as far from it as it from 0.

    p = (1 + #{|d* − d| ≥ |d|}) / (1 + draws), so it is never 0. NaN where more than a tenth of the replicates are.

    Source:
        Hall and Wilson 1991, "Two guidelines for bootstrap hypothesis testing", first guideline; the 1 after Davison
        and Hinkley 1997, "Bootstrap methods and their application", Eq. 4.11.

    Example:
        >>> two_sided([0.5, 1.0, 1.5], 1.0)
        0.25
    """
    found = np.asarray(replicates, dtype=np.float64)
    undefined = np.isnan(found)
    if undefined.mean() > bootstrap.UNDEFINED:
        return math.nan
    as_far = np.abs(found[~undefined] - difference) >= abs(difference) - 1e-12  # equal ones, but for rounding
    return float((1 + as_far.sum()) / (1 + as_far.size))


def holm(p: Sequence[float]) -> list[float]:
    """P-values adjusted by Holm's step-down procedure: the error rate of the family holds for each that is below it.

    Source:
        Holm 1979, "A simple sequentially rejective multiple test procedure".

    Example:
        >>> holm([0.25, 0.015625])
        [0.25, 0.03125]
    """
    adjusted, least = [0.0] * len(p), 0.0
    for rank, place in enumerate(sorted(range(len(p)), key=lambda place: p[place])):
        least = adjusted[place] = max(least, min(1.0, (len(p) - rank) * p[place]))
    return adjusted


def shared_facts(table: pa.Table) -> dict[str, Any]:
    """What tables must agree in, so that like is compared with like."""
    facts, columns = facts_of(table), table.select(["split", "view"]).to_pandas()
    return {
        **{name: facts[name] for name in SHARED},
        "split": reported_split(columns),
        "views": (set(columns["view"]), facts.get("parameters")),
    }


def refuse_unlike(names: Sequence[str], shared: Sequence[Mapping[str, Any]], cure: str) -> None:
    """Raise ValueError, in one line, for the first of the named whose facts are not those of the first of all."""
    cures = {
        "split": "evaluate both on the same --split",
        "views": "evaluate both with the same --preset, and models without gradients beside their like",
    }
    for name, own in zip(names, shared, strict=True):
        for field, value in own.items():
            if value != shared[0][field]:
                raise ValueError(f"{name}: {field.replace('_', ' ')}: not as in {names[0]}; {cures.get(field, cure)}")


def _in_order_of(first: Answers, second: Answers, names: Sequence[str]) -> Answers:
    """The answers of the second, its images in the order of the first."""
    places = pd.Index(second.images["image_id"]).get_indexer(first.images["image_id"])
    if len(places) != len(second.images) or (places < 0).any():
        raise ValueError(f"{names[1]}: images: not those of {names[0]}; evaluate both again")
    ordered = second.of(places)
    if not np.array_equal(ordered.labels, first.labels):
        raise ValueError(f"{names[1]}: labels: not those of {names[0]}; evaluate both again")
    return ordered


def _metrics(own: Answers, baseline: Answers, drawn: Counts) -> dict[tuple[str, str], Values]:
    """View and metric -> (draws,), of all that can differ and has replicates."""
    views = {view: own.replicates(view, drawn) for view in own.logits} | across(own, drawn)
    if errors := corruption_errors(own, baseline, drawn):
        views["shifts"] |= errors
    found = {(view, metric): values for view, metrics in views.items() for metric, values in metrics.items()}
    return {key: values for key, values in found.items() if key[1] != "brier_uncertainty"}  # that is of the labels
