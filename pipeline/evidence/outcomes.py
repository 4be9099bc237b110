"""Every metric of one model on one view: as a value, and in every bootstrap replicate.

Labels are (N,) classes of logits (N, K), or (N, L) of 0 and 1, each column with a logit of its own in (N, L). Of such
multi-label sets each label is a problem of two classes with the logits (0, z), and a metric is the mean over labels of
that of two classes: so accuracy counts labels and not whole images, and the Brier score is twice the binary form.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax

from ..losses import log_odds
from . import bootstrap
from .calibration import brier_parts, ece, nll, temperature
from .scores import accuracy, auroc, balanced_accuracy, predict, recall, threshold, threshold_at_specificity

PARTS = ("reliability", "resolution", "uncertainty", "residual")
CALIBRATION = ("brier", *(f"brier_{part}" for part in PARTS), "ece", "nll")
METRICS = (
    "accuracy",
    "balanced_accuracy",
    "balanced_accuracy_at_half",
    "auroc",
    "sensitivity_at_90",
    "specificity_at_90",
    *CALIBRATION,
    *(f"{name}_scaled" for name in CALIBRATION if name != "brier_uncertainty"),  # that knows no probabilities
)
"""In order. ``_at_90``: at the threshold that had 90 % specificity on clean validation, where it may now have another;
``_scaled``: after the temperature of clean validation."""

Labels = NDArray[np.int64]
Logits = NDArray[np.float64]


@dataclass(frozen=True)
class Rule:
    """What a model's own clean validation images decide for one problem.

    Attributes:
        threshold: of most balanced accuracy, for two classes; NaN for more.
        at_90: of 90 % specificity, for two classes; NaN for more, and without validation.
        temperature: of least NLL; NaN without validation.
        source: where the threshold is from.
    """

    threshold: float
    at_90: float
    temperature: float
    source: str


def problems(labels: NDArray[Any], logits: Logits) -> list[tuple[Labels, Logits]]:
    """Labels (N,) and logits (N, K) of the set itself, or of each label of a multi-label set.

    Example:
        >>> [(y.tolist(), z.tolist()) for y, z in problems(np.array([[0, 1]]), np.array([[-2.0, 3.0]]))]
        [([0], [[0.0, -2.0]]), ([1], [[0.0, 3.0]])]
    """
    if labels.ndim == 1:
        return [(labels, logits)]
    if labels.shape != logits.shape:
        raise ValueError(f"multi-label labels and logits must be (N, L) both, not {labels.shape} and {logits.shape}")
    return [(y, np.stack([np.zeros_like(z), z], axis=1)) for y, z in zip(labels.T, logits.T, strict=True)]


def rules(labels: NDArray[Any], logits: Logits) -> tuple[Rule, ...]:
    """The rule of each problem, from clean validation images, of which there may be none."""
    return tuple(_rule(*problem) for problem in problems(labels, logits))


def _rule(labels: Labels, logits: Logits) -> Rule:
    half, name = (0.5, "0.5") if logits.shape[1] == 2 else (math.nan, "argmax")
    if not len(labels):
        return Rule(half, math.nan, math.nan, f"{name} (no validation split)")
    if len(np.unique(labels)) < 2:
        return Rule(half, math.nan, math.nan, f"{name} (one class in validation)")
    fitted = temperature(labels, logits)
    if logits.shape[1] > 2:
        return Rule(math.nan, math.nan, fitted, name)
    scores = softmax(logits, axis=1)[:, 1]
    return Rule(threshold(labels, scores), threshold_at_specificity(labels, scores), fitted, "clean validation")


def source_of(rules: Sequence[Rule]) -> str:
    """Where the thresholds of all problems are from, in words."""
    sources = list(dict.fromkeys(rule.source for rule in rules))
    return "; ".join(sources) + (", a threshold for each label" if len(rules) > 1 else "")


def values(labels: NDArray[Any], logits: Logits, rules: Sequence[Rule]) -> dict[str, float]:
    """Every metric of ``METRICS``, NaN where it is undefined.

    Everything is computed from the logits in float64: float32 probabilities are 1 from a logit gap of 17 on, and ties
    look like robustness.
    """
    each = [_values(*problem, rule) for problem, rule in zip(problems(labels, logits), rules, strict=True)]
    return {name: float(np.mean([one.get(name, math.nan) for one in each])) for name in METRICS}


def _values(y: Labels, z: Logits, rule: Rule) -> dict[str, float]:
    p, at = softmax(z, axis=1), _predictions(z, rule)
    found = {"auroc": auroc(y, _scores(z)), **_calibration(y, p)}
    if not math.isnan(rule.temperature):
        scaled = _calibration(y, softmax(z / rule.temperature, axis=1))
        found |= {f"{name}_scaled": value for name, value in scaled.items()}
    for name, predicted in at.items():
        found[name] = _OF_PREDICTIONS[name.partition("_at_")[0]](y, predicted)
    return found


_OF_PREDICTIONS: dict[str, Callable[[Labels, Labels], float]] = {
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    "sensitivity": partial(recall, of=1),
    "specificity": partial(recall, of=0),
}


def _calibration(y: Labels, p: NDArray[np.float64]) -> dict[str, float]:
    parts = brier_parts(y, p).sum()
    return {
        "brier": float(parts["brier"]),
        **{f"brier_{part}": float(parts[part]) for part in PARTS},
        "ece": ece(y, p),
        "nll": nll(y, p),
    }


def _predictions(z: Logits, rule: Rule) -> dict[str, Labels]:
    """Metric -> the predicted classes that it counts."""
    p = softmax(z, axis=1)
    if z.shape[1] > 2:
        return dict.fromkeys(("accuracy", "balanced_accuracy"), predict(p))
    at = predict(p, rule.threshold)
    found = {"accuracy": at, "balanced_accuracy": at, "balanced_accuracy_at_half": predict(p)}
    if not math.isnan(rule.at_90):
        found |= dict.fromkeys(("sensitivity_at_90", "specificity_at_90"), predict(p, rule.at_90))
    return found


def _scores(z: Logits) -> NDArray[np.float64]:
    return np.asarray(log_odds(torch.from_numpy(z)).numpy())


def replicates(
    drawn: bootstrap.Counts, labels: NDArray[Any], logits: Logits, rules: Sequence[Rule]
) -> dict[str, bootstrap.Values]:
    """Each metric that :func:`bootstrap.replicates` has, in each replicate; the rules do not move with them."""
    each = [
        bootstrap.replicates(drawn, y, z, _scores(z), _predictions(z, rule), rule.temperature)
        for (y, z), rule in zip(problems(labels, logits), rules, strict=True)
    ]
    common = [name for name in METRICS if all(name in one for one in each)]
    return {name: np.mean([one[name] for one in each], axis=0) for name in common}


def right(labels: NDArray[Any], logits: Logits, rules: Sequence[Rule]) -> NDArray[np.bool_]:
    """Whether each problem of each image is decided rightly at the threshold, (N, problems)."""
    each = zip(problems(labels, logits), rules, strict=True)
    return np.stack([_predictions(z, rule)["accuracy"] == y for (y, z), rule in each], axis=1)
