"""What is decided and how well it is ranked: metrics of arrays, each label a class of its own.

Symbols: N images, K classes, y the label, p the probabilities. Recall, AUROC and the ROC curve are scikit-learn's; own
code stands only where it has none (the validation thresholds).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import accuracy_score, recall_score, roc_auc_score, roc_curve

SPECIFICITY = 0.9
"""What the second validation threshold is chosen for."""


def accuracy(labels: ArrayLike, predictions: ArrayLike) -> float:
    """Share of images whose predicted class (N,) equals the label (N,), in [0, 1]."""
    return float(accuracy_score(np.asarray(labels), np.asarray(predictions)))


def balanced_accuracy(labels: ArrayLike, predictions: ArrayLike) -> float:
    """Mean recall over the classes that occur among the labels; a constant prediction gives 1/K.

    Args:
        labels: (N,) int in [0, K).
        predictions: (N,) int, predicted classes.

    Returns:
        In [0, 1].

    Example:
        >>> balanced_accuracy([0, 1, 1, 1], [1, 1, 1, 1])
        0.5
    """
    labels = np.asarray(labels)
    return float(recall_score(labels, np.asarray(predictions), labels=np.unique(labels), average="macro"))


def auroc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve: of class 1 for K = 2, the macro mean of one-vs-rest for K >= 3.

    Args:
        labels: (N,) int in [0, K).
        scores: (N, K), higher is likelier: log-odds rather than probabilities, which tie where they saturate at 1.

    Returns:
        In [0, 1]; NaN where a class has no image or only one class occurs.

    Raises:
        ValueError: shapes, labels or scores that do not fit each other, or scores that are not finite.

    Example:
        >>> auroc([0, 1], [[0.9, 0.1], [0.4, 0.6]])
        1.0
    """
    y, s = fitting(labels, scores)
    truth = one_hot(y, s.shape[1])
    if not truth.any(axis=0).all():
        return math.nan
    return float(roc_auc_score(y, s[:, 1]) if s.shape[1] == 2 else roc_auc_score(truth, s, average="macro"))


def recall(labels: ArrayLike, predictions: ArrayLike, of: int) -> float:
    """Share of the images of class ``of`` whose prediction is right: sensitivity of class 1, specificity of class 0.

    NaN where the class has no image.

    Example:
        >>> recall([1, 1, 1, 0], [1, 0, 1, 1], of=1)
        0.6666666666666666
    """
    right = np.asarray(predictions)[np.asarray(labels) == of] == of
    return float(right.mean()) if right.size else math.nan


def predict(probabilities: ArrayLike, threshold: float | None = None) -> NDArray[np.int64]:
    """Predicted classes: p_1 >= threshold for K = 2 (None: 0.5), the argmax for K >= 3.

    Args:
        probabilities: (N, K).
        threshold: in [0, 1], K = 2 only.

    Returns:
        (N,) int64.

    Raises:
        ValueError: a threshold with K >= 3.

    Example:
        >>> predict([[0.6, 0.4], [0.2, 0.8]], threshold=0.3).tolist()
        [1, 1]
    """
    p = np.asarray(probabilities, dtype=np.float64)  # a float32 array would round the threshold to its own grid
    if p.shape[1] == 2:
        return (p[:, 1] >= (0.5 if threshold is None else threshold)).astype(np.int64)
    if threshold is not None:
        raise ValueError(f"a threshold is defined for two classes, not for {p.shape[1]}")
    return np.asarray(p.argmax(axis=1), dtype=np.int64)


def threshold(labels: ArrayLike, scores: ArrayLike) -> float:
    """The t that maximises the balanced accuracy of the rule `score >= t`: the midpoint of the tied thresholds.

    The rule changes only at a score, so the best t fill whole intervals; where these are several, the widest counts
    (of equally wide ones the highest).

    Args:
        labels: (N,) 0 or 1, both present.
        scores: (N,) probability of class 1, in [0, 1].

    Returns:
        In [0, 1].

    Raises:
        ValueError: other labels than 0 and 1, only one of them, or scores outside [0, 1].

    Example:
        >>> threshold([0, 0, 1], [0.25, 0.5, 0.75])
        0.625
    """
    y, s = _two_classes(labels, scores)
    fpr, tpr, cuts = roc_curve(y, s, drop_intermediate=False)  # cuts: inf, then the distinct scores, falling
    low, high = np.append(cuts[1:], 0.0), np.minimum(cuts, 1.0)  # the rule is the same for every t in (low, high]
    gain = tpr - fpr
    best = np.isclose(gain, gain.max(), rtol=0, atol=1e-12)
    best[0] &= low[0] < high[0]  # with a score of 1, no t <= 1 answers 0 for all
    runs = np.flatnonzero(np.diff(np.r_[False, best, False]))  # first, one past last, first, …
    low, high = low[runs[1::2] - 1], high[runs[::2]]
    widest = int(np.argmax(high - low))
    return float((low[widest] + high[widest]) / 2)


def threshold_at_specificity(labels: ArrayLike, scores: ArrayLike, specificity: float = SPECIFICITY) -> float:
    """The t of most sensitivity for which `score >= t` leaves at least that share of the images of class 0 out.

    The rule changes only at a score: of the lowest interval of such t, the midpoint.

    Args:
        labels: (N,) 0 or 1, both present.
        scores: (N,) probability of class 1, in [0, 1].
        specificity: in (0, 1].

    Returns:
        In [0, 1]; NaN where too many images of class 0 have the score 1, so that no t <= 1 leaves enough out.

    Raises:
        ValueError: as `threshold`.

    Example:
        >>> threshold_at_specificity([0, 0, 0, 0, 1, 1], [0.1, 0.2, 0.3, 0.8, 0.5, 0.9], specificity=0.75)
        0.4
    """
    y, s = _two_classes(labels, scores)
    healthy = np.sort(s[y == 0])
    below = float(healthy[math.ceil(specificity * len(healthy) - 1e-9) - 1])  # it and what is under it is left out
    if below == 1:
        return math.nan
    above = float(s[s > below].min(initial=1.0))
    middle = (below + above) / 2
    return middle if middle > below else above  # neighbouring floats have no middle


def _two_classes(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[Any], NDArray[np.float64]]:
    y, s = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    if not np.array_equal(np.unique(y), [0, 1]):
        raise ValueError(f"a threshold needs labels 0 and 1, both present; got {np.unique(y).tolist()}")
    if not ((s >= 0) & (s <= 1)).all():
        raise ValueError("scores must be probabilities in [0, 1]")
    return y, s


def one_hot(labels: NDArray[Any], classes: int) -> NDArray[np.bool_]:
    """Labels (N,) as (N, K) of True and False."""
    return np.asarray(labels[:, None] == np.arange(classes))


def fitting(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Labels (N,) and finite scores (N, K) that fit each other; ValueError else."""
    y, s = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    if y.ndim != 1 or s.ndim != 2 or len(y) != len(s) or not len(y) or s.shape[1] < 2:
        raise ValueError(f"labels must be (N,) and scores (N, K >= 2), not {y.shape} and {s.shape}")
    if not np.issubdtype(y.dtype, np.integer):
        raise ValueError(f"labels must be integers, not {y.dtype}")
    if y.min() < 0 or y.max() >= s.shape[1]:
        raise ValueError(f"labels {y.min()} to {y.max()} do not fit {s.shape[1]} classes")
    if not np.isfinite(s).all():
        raise ValueError(f"{int((~np.isfinite(s)).any(axis=1).sum())} of {len(s)} rows have non-finite values")
    return y, s
