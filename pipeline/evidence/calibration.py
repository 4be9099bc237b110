"""How far probabilities can be believed: Brier score and its parts, NLL, calibration error, temperature.

Symbols: N images, K classes, y the label, p the probabilities. Own code, as scikit-learn has the Brier score for K
classes in some supported versions only, and no equal-mass bins that keep ties together.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from .scores import fitting, one_hot

BINS = 15


def brier(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Brier score as the multi-class sum: mean over images of Σ_k (p_k − 1[y = k])².

    For K = 2 the binary form, mean (p_1 − y)², is half of it.

    Args:
        labels: (N,) int in [0, K).
        probabilities: (N, K), rows sum to 1.

    Returns:
        In [0, 2]; 0 is best, 2 is certain and always wrong.

    Raises:
        ValueError: as `auroc`.

    Source:
        Brier 1950, "Verification of forecasts expressed in terms of probability", Eq. 2.

    Example:
        >>> brier([1], [[0.5, 0.5]])
        0.5
    """
    y, p = checked(labels, probabilities)
    return float(((p - one_hot(y, p.shape[1])) ** 2).sum(axis=1).mean())


def brier_parts(labels: ArrayLike, probabilities: ArrayLike, bins: int = BINS) -> pd.DataFrame:
    """The Brier score of each class in four parts: brier = reliability − resolution + uncertainty + residual, exactly.

    Each class k is a forecast p_k of the event y = k, in bins of equal mass of p_k; images of equal p_k share a bin.
    Over the bins, of share w, mean forecast f and observed rate o, and with the rate ō of all images:

        reliability Σ w (f − o)², resolution Σ w (o − ō)², uncertainty ō (1 − ō),
        residual    variance of the forecasts within bins, less twice their covariance with the outcomes there.

    A low Brier score under attack may be mere flattening: that has little resolution. In a small sample reliability and
    resolution are both too high, as rates of few images scatter.

    Args:
        labels: (N,) int in [0, K).
        probabilities: (N, K), rows sum to 1.
        bins: the largest number of bins.

    Returns:
        A row for each class; columns brier, reliability, resolution, uncertainty, residual. Their sums over classes are
        those of `brier`.

    Raises:
        ValueError: as `auroc`.

    Source:
        Murphy 1973, "A new vector partition of the probability score"; the residual after Stephenson, Coelho and
        Jolliffe 2008, "Two extra components in the Brier score decomposition".

    Example:
        >>> brier_parts([0, 1, 1, 1], [[0.5, 0.5], [0.5, 0.5], [0.0, 1.0], [0.0, 1.0]]).loc[1].to_dict()
        {'brier': 0.125, 'reliability': 0.0, 'resolution': 0.0625, 'uncertainty': 0.1875, 'residual': 0.0}
    """
    y, p = checked(labels, probabilities)
    return pd.DataFrame([_parts(y == k, p[:, k], bins) for k in range(p.shape[1])])


def _parts(event: NDArray[np.bool_], p: NDArray[np.float64], bins: int) -> dict[str, float]:
    group = _groups(p, bins)
    share = np.bincount(group) / len(p)
    forecast, rate = (np.bincount(group, values) / len(p) / share for values in (p, event))
    within, base = p - forecast[group], event.mean()
    return {
        "brier": float(((p - event) ** 2).mean()),
        "reliability": float((share * (forecast - rate) ** 2).sum()),
        "resolution": float((share * (rate - base) ** 2).sum()),
        "uncertainty": float(base * (1 - base)),
        "residual": float((within**2).mean() - 2 * (within * (event - rate[group])).mean()),
    }


def _groups(values: NDArray[np.float64], bins: int) -> NDArray[np.int64]:
    """The bin of each value, 0, 1, …, rising and none empty: bins of equal mass, equal values together."""
    edges = np.quantile(values, np.arange(1, bins) / bins, method="higher")
    return np.asarray(np.unique(np.searchsorted(edges, values, side="right"), return_inverse=True)[1])


def nll(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Mean of −log p_y in nats, p_y not below the least normal float32 (so at most 87.3)."""
    y, p = checked(labels, probabilities)
    return float(-np.log(np.maximum(p[np.arange(len(y)), y], np.finfo(np.float32).tiny)).mean())


def reliability(labels: ArrayLike, probabilities: ArrayLike, bins: int = BINS) -> pd.DataFrame:
    """Accuracy against confidence, max_k p_k, in bins of equal mass.

    Images of equal confidence always share a bin, so that the result does not depend on the order of the images; a
    constant classifier fills one bin.

    Args:
        labels: (N,) int in [0, K).
        probabilities: (N, K), rows sum to 1.
        bins: the largest number of bins.

    Returns:
        One row per filled bin, confidence rising: `confidence` and `accuracy` (means) and `share` of the images, all
        in [0, 1].

    Raises:
        ValueError: as `auroc`.

    Example:
        >>> reliability([0, 0], [[0.75, 0.25], [0.75, 0.25]]).to_dict("records")
        [{'confidence': 0.75, 'accuracy': 1.0, 'share': 1.0}]
    """
    y, p = checked(labels, probabilities)
    confidence, correct = p.max(axis=1), p.argmax(axis=1) == y
    frame = pd.DataFrame({"confidence": confidence, "accuracy": correct.astype(float)})
    groups = frame.groupby(_groups(confidence, bins))
    return groups.mean().assign(share=groups.size() / len(y)).reset_index(drop=True)


def ece(labels: ArrayLike, probabilities: ArrayLike, bins: int = BINS) -> float:
    """Expected calibration error of the top label: Σ_b share_b · |accuracy_b − confidence_b|, bins of equal mass.

    Args:
        labels: (N,) int in [0, K).
        probabilities: (N, K), rows sum to 1.
        bins: the largest number of bins.

    Returns:
        In [0, 1].

    Raises:
        ValueError: as `auroc`.

    Source:
        Guo et al. 2017, "On calibration of modern neural networks", Eq. 3; equal mass after Nguyen and O'Connor 2015.

    Example:
        >>> ece([0, 1], [[0.75, 0.25], [0.75, 0.25]])
        0.25
    """
    table = reliability(labels, probabilities, bins)
    return float((table["share"] * (table["accuracy"] - table["confidence"]).abs()).sum())


def temperature(labels: ArrayLike, logits: ArrayLike) -> float:
    """The T in [0.05, 20] for which softmax(logits / T) has the least NLL; > 1 where the model is over-confident.

    A bound is met where every image is classified rightly (T falls) or the logits tell nothing (T rises).

    Args:
        labels: (N,) int in [0, K).
        logits: (N, K).

    Raises:
        ValueError: as `auroc`.

    Source:
        Guo et al. 2017, "On calibration of modern neural networks", §4.2.

    Example:
        >>> round(temperature([0, 0, 0, 1], [[3.0, 0.0]] * 4), 2)  # right in 3 of 4: p should be 0.75
        2.73
    """
    y, z = fitting(labels, logits)

    def loss(log_t: float) -> float:
        return float(-log_softmax(z / math.exp(log_t), axis=1)[np.arange(len(y)), y].mean())

    found = minimize_scalar(loss, bounds=(math.log(0.05), math.log(20)), method="bounded", options={"xatol": 1e-6})
    return math.exp(found.x)


def checked(labels: ArrayLike, probabilities: ArrayLike) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """As `scores.fitting`, of probabilities, whose rows must sum to 1."""
    y, p = fitting(labels, probabilities)
    if not np.allclose(p.sum(axis=1), 1, rtol=0, atol=1e-3):
        raise ValueError("the probabilities of a row must sum to 1: were these logits?")
    return y, p
