"""How far a metric would move with other patients: the percentile bootstrap, over patients and not over images.

A replicate draws as many patients as there are, with replacement; a patient's images come together, since they resemble
each other. It is kept as counts, how often each image was drawn, so that all replicates of a metric are one sum. The
metrics are those of ``scores.py`` and ``calibration.py`` on repeated rows, which the tests hold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax

from .scores import one_hot

Counts = NDArray[np.int64]
Values = NDArray[np.float64]

DRAWS, LEVEL = 1000, 0.95
UNDEFINED = 0.1
"""Share of the replicates that may be undefined: an interval of what is left beyond that would flatter."""
STATED = f"{LEVEL:.0%} percentile bootstrap over patients, {DRAWS} draws, seed 0"


def counts(patients: Sequence[str | None], draws: int = DRAWS, seed: int = 0) -> Counts:
    """How often each image is drawn in each replicate, (draws, N); images without a patient (None) are their own.

    Example:
        >>> drawn = counts(["a", "a", "b", None], draws=3)
        >>> drawn.shape, bool((drawn[:, 0] == drawn[:, 1]).all()), (drawn[:, 1:].sum(1)).tolist()
        ((3, 4), True, [3, 3, 3])
    """
    names = [(name is None, str(i) if name is None else name) for i, name in enumerate(patients)]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    shares = np.full(len(numbers), 1 / len(numbers))
    drawn = np.random.default_rng(seed).multinomial(len(numbers), shares, size=draws)
    return drawn[:, [numbers[name] for name in names]]


def once(images: int) -> Counts:
    """The images as they are, as one replicate: each drawn once."""
    return np.ones((1, images), dtype=np.int64)


def percentiles(replicates: ArrayLike, level: float = LEVEL) -> tuple[float, float]:
    """The interval that holds the middle ``level`` of the replicates.

    Undefined replicates (NaN), such as an AUROC where a class was not drawn, are left out; where they are more than a
    tenth, so is the interval.

    Source: Efron 1979, "Bootstrap methods", percentile method. It is not corrected for bias.

    Example:
        >>> percentiles(np.arange(101), level=0.5)
        (25.0, 75.0)
    """
    found = np.asarray(replicates, dtype=np.float64)
    undefined = np.isnan(found)
    if undefined.mean() > UNDEFINED:
        return np.nan, np.nan
    found = found[~undefined]
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def replicates(
    drawn: Counts,
    labels: ArrayLike,
    logits: ArrayLike,
    scores: ArrayLike,
    predictions: Mapping[str, ArrayLike],
    temperature: float = np.nan,
) -> dict[str, Values]:
    """Each metric in each replicate.

    Args:
        drawn: (draws, N), see :func:`counts`.
        labels: (N,) int in [0, K).
        logits: (N, K).
        scores: (N, K) by which AUROC ranks.
        predictions: name -> (N,) predicted classes. The name is that of a metric (accuracy, balanced_accuracy,
            sensitivity or specificity), which may go on with ``_at_…``.
        temperature: of the metrics after scaling, ``…_scaled``; NaN for none.

    Returns:
        Metric -> (draws,): those of ``predictions``, auroc, brier, brier_uncertainty, nll, brier_scaled, nll_scaled;
        NaN where it is undefined. What is made of bins (ECE, the other parts of the Brier score) has none: repeated
        images make bins differ more from their confidence, so that its replicates would lie above it.
    """
    y, z, s = np.asarray(labels), np.asarray(logits, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    truth = one_hot(y, z.shape[1])
    classes = [1] if z.shape[1] == 2 else range(z.shape[1])
    rates = np.stack([mean(drawn, of) for of in truth.T])
    found = {
        "auroc": np.mean([_auroc(drawn, truth[:, k], s[:, k]) for k in classes], axis=0),
        "brier_uncertainty": (rates * (1 - rates)).sum(0),
        **_of_probabilities(drawn, truth, softmax(z, axis=1)),
    }
    if not np.isnan(temperature):
        scaled = _of_probabilities(drawn, truth, softmax(z / temperature, axis=1))
        found |= {f"{name}_scaled": values for name, values in scaled.items()}
    for name, predicted in predictions.items():
        found[name] = _of_predictions[name.partition("_at_")[0]](drawn, np.asarray(predicted) == y, truth)
    return found


def _of_probabilities(drawn: Counts, truth: NDArray[np.bool_], p: Values) -> dict[str, Values]:
    certainty = np.maximum(p[truth], np.finfo(np.float32).tiny)
    return {"brier": mean(drawn, ((p - truth) ** 2).sum(1)), "nll": mean(drawn, -np.log(certainty))}


def mean(drawn: Counts, values: ArrayLike) -> Values:
    """The mean of (N,) values in each replicate; NaN where nothing is drawn."""
    total = np.asarray(drawn @ np.asarray(values, dtype=np.float64))
    with np.errstate(invalid="ignore"):
        return np.asarray(total / drawn.sum(1))


def balanced(drawn: Counts, right: NDArray[np.bool_], truth: NDArray[np.bool_]) -> Values:
    """Mean recall in each replicate over the classes that are drawn; ``truth`` (N, K) holds one True a row."""
    recalls = np.stack([mean(drawn[:, of], right[of]) for of in truth.T if of.any()])
    there = ~np.isnan(recalls)
    return np.asarray(np.where(there, recalls, 0).sum(0) / there.sum(0))


_of_predictions: dict[str, Callable[[Counts, NDArray[np.bool_], NDArray[np.bool_]], Values]] = {
    "accuracy": lambda drawn, right, truth: mean(drawn, right),
    "balanced_accuracy": balanced,
    "sensitivity": lambda drawn, right, truth: mean(drawn[:, truth[:, 1]], right[truth[:, 1]]),
    "specificity": lambda drawn, right, truth: mean(drawn[:, truth[:, 0]], right[truth[:, 0]]),
}


def _auroc(drawn: Counts, positive: NDArray[np.bool_], score: Values) -> Values:
    """The share of pairs in which the positive image ranks above, ties as halves."""
    order = np.argsort(score, kind="stable")
    ties = np.flatnonzero(np.diff(score[order], prepend=-np.inf))
    above, below = (np.add.reduceat(drawn[:, order] * of[order], ties, axis=1) for of in (positive, ~positive))
    pairs = (above * (below.cumsum(1) - below / 2)).sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):  # a class not drawn: NaN
        return np.asarray(pairs / (above.sum(1) * below.sum(1)))
