"""How far a metric would move with other patients: the percentile bootstrap, over patients and not over images.

A replicate draws as many patients as there are, with replacement; a patient's images come together, since they resemble
each other. It is kept as counts, how often each image was drawn, so that all replicates of a metric are one sum. The
metrics are those of ``metrics.py`` on repeated rows, which the tests hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax

Counts = NDArray[np.int64]
Values = NDArray[np.float64]

DRAWS, LEVEL = 1000, 0.95


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


def percentiles(replicates: ArrayLike, level: float = LEVEL) -> tuple[float, float]:
    """The interval that holds the middle ``level`` of the replicates; undefined ones (NaN) are left out.

    Source: Efron 1979, "Bootstrap methods", percentile method. It is not corrected for bias.

    Example:
        >>> percentiles(np.arange(101), level=0.5)
        (25.0, 75.0)
    """
    found = np.asarray(replicates, dtype=np.float64)
    found = found[~np.isnan(found)]
    if not found.size:
        return np.nan, np.nan
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def replicates(
    drawn: Counts, labels: ArrayLike, logits: ArrayLike, scores: ArrayLike, predictions: Mapping[str, ArrayLike]
) -> dict[str, Values]:
    """Each metric in each replicate.

    Args:
        drawn: (draws, N), see :func:`counts`.
        labels: (N,) int in [0, K).
        logits: (N, K).
        scores: (N, K) by which AUROC ranks.
        predictions: name -> (N,) predicted classes: ``accuracy`` and what else begins with ``balanced_accuracy``.

    Returns:
        Metric -> (draws,): those of ``predictions``, ``auroc``, ``brier`` and ``nll``. NaN where it is undefined. ECE
        has none: repeated images make bins differ more from their confidence, so its replicates would lie above it.
    """
    y, s = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    p = softmax(np.asarray(logits, dtype=np.float64), axis=1)
    truth = y[:, None] == np.arange(p.shape[1])
    certainty = np.maximum(p[np.arange(len(y)), y], np.finfo(np.float32).tiny)
    classes = [1] if p.shape[1] == 2 else range(p.shape[1])
    found = {
        "auroc": np.mean([_auroc(drawn, truth[:, k], s[:, k]) for k in classes], axis=0),
        "brier": _mean(drawn, ((p - truth) ** 2).sum(1)),
        "nll": _mean(drawn, -np.log(certainty)),
    }
    for name, predicted in predictions.items():
        right = np.asarray(predicted) == y
        found[name] = _mean(drawn, right) if name == "accuracy" else _balanced(drawn, right, truth)
    return found


def _mean(drawn: Counts, values: ArrayLike) -> Values:
    total = np.asarray(drawn @ np.asarray(values, dtype=np.float64))
    with np.errstate(invalid="ignore"):  # nothing drawn: NaN
        return np.asarray(total / drawn.sum(1))


def _balanced(drawn: Counts, right: NDArray[np.bool_], truth: NDArray[np.bool_]) -> Values:
    recalls = np.stack([_mean(drawn[:, of], right[of]) for of in truth.T if of.any()])
    there = ~np.isnan(recalls)
    return np.asarray(np.where(there, recalls, 0).sum(0) / there.sum(0))


def _auroc(drawn: Counts, positive: NDArray[np.bool_], score: Values) -> Values:
    """The share of pairs in which the positive image ranks above, ties as halves."""
    order = np.argsort(score, kind="stable")
    ties = np.flatnonzero(np.diff(score[order], prepend=-np.inf))
    above, below = (np.add.reduceat(drawn[:, order] * of[order], ties, axis=1) for of in (positive, ~positive))
    pairs = (above * (below.cumsum(1) - below / 2)).sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):  # a class not drawn: NaN
        return np.asarray(pairs / (above.sum(1) * below.sum(1)))
