"""Metrics as pure functions of arrays, and of the table that evaluation writes (one row per image and view).

Symbols: N images, K classes, y the label, p the probabilities. AUROC, balanced accuracy and the ROC curve are
scikit-learn's; own code stands only where it has none (Brier for K classes in every supported version, ECE in
equal-mass bins, the validation threshold).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.metrics import accuracy_score, recall_score, roc_auc_score, roc_curve

from ..losses import log_odds
from . import bootstrap
from .table import facts_of

CONSTANT = "constant (class prior)"
METRICS = ("accuracy", "balanced_accuracy", "balanced_accuracy_at_half", "auroc", "brier", "ece", "nll")
RUN = ("bundle", "recipe", "seed", "checkpoint")
VIEW = ("family", "norm", "epsilon", "severity")
ECE_BINS = 15


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
    y, s = _fitting(labels, scores)
    truth = _one_hot(y, s.shape[1])
    if not truth.any(axis=0).all():
        return math.nan
    return float(roc_auc_score(y, s[:, 1]) if s.shape[1] == 2 else roc_auc_score(truth, s, average="macro"))


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
    y, p = _checked(labels, probabilities)
    return float(((p - _one_hot(y, p.shape[1])) ** 2).sum(axis=1).mean())


def nll(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Mean of −log p_y in nats, p_y not below the least normal float32 (so at most 87.3)."""
    y, p = _checked(labels, probabilities)
    return float(-np.log(np.maximum(p[np.arange(len(y)), y], np.finfo(np.float32).tiny)).mean())


def reliability(labels: ArrayLike, probabilities: ArrayLike, bins: int = ECE_BINS) -> pd.DataFrame:
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
    y, p = _checked(labels, probabilities)
    confidence, correct = p.max(axis=1), p.argmax(axis=1) == y
    edges = np.quantile(confidence, np.arange(1, bins) / bins, method="higher")
    groups = pd.DataFrame({"confidence": confidence, "accuracy": correct.astype(float)}).groupby(
        np.searchsorted(edges, confidence, side="right")
    )
    return groups.mean().assign(share=groups.size() / len(y)).reset_index(drop=True)


def ece(labels: ArrayLike, probabilities: ArrayLike, bins: int = ECE_BINS) -> float:
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
    y, s = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    if not np.array_equal(np.unique(y), [0, 1]):
        raise ValueError(f"a threshold needs labels 0 and 1, both present; got {np.unique(y).tolist()}")
    if not ((s >= 0) & (s <= 1)).all():
        raise ValueError("scores must be probabilities in [0, 1]")
    fpr, tpr, cuts = roc_curve(y, s, drop_intermediate=False)  # cuts: inf, then the distinct scores, falling
    low, high = np.append(cuts[1:], 0.0), np.minimum(cuts, 1.0)  # the rule is the same for every t in (low, high]
    gain = tpr - fpr
    best = np.isclose(gain, gain.max(), rtol=0, atol=1e-12)
    best[0] &= low[0] < high[0]  # with a score of 1, no t <= 1 answers 0 for all
    runs = np.flatnonzero(np.diff(np.r_[False, best, False]))  # first, one past last, first, …
    low, high = low[runs[1::2] - 1], high[runs[::2]]
    widest = int(np.argmax(high - low))
    return float((low[widest] + high[widest]) / 2)


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
    y, z = _fitting(labels, logits)

    def loss(log_t: float) -> float:
        return float(-log_softmax(z / math.exp(log_t), axis=1)[np.arange(len(y)), y].mean())

    found = minimize_scalar(loss, bounds=(math.log(0.05), math.log(20)), method="bounded", options={"xatol": 1e-6})
    return math.exp(found.x)


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


def rms_grey_levels(radius: float, image_size: int, channels: int = 1, norm: str = "l2") -> float:
    """Root mean square change, in grey levels of 255, of a perturbation on the sphere of that radius.

    ℓ2: radius / √(size² · channels) · 255. ℓ∞: radius · 255, an upper bound.

    Args:
        radius: in intensity units of an image in [0, 1].
        image_size: rows = columns, pixels.
        channels: of the image that is perturbed.
        norm: "l2" or "linf".

    Raises:
        ValueError: another norm.

    Example:
        >>> round(rms_grey_levels(2.0, 224), 2)
        2.28
    """
    if norm not in ("l2", "linf"):
        raise ValueError(f"norm must be 'l2' or 'linf', not {norm!r}")
    return radius * 255 / (math.sqrt(image_size**2 * channels) if norm == "l2" else 1.0)


def summarise(table: pa.Table) -> pd.DataFrame:
    """One row of metrics per run (bundle, recipe, seed, checkpoint), split and view, in order of appearance.

    Everything is computed from the logits in float64: float32 probabilities are 1 from a logit gap of 17 on, and ties
    look like robustness.

    The last rows, recipe `constant (class prior)`, are a classifier that answers the training prior for every image:
    its class is the prior's argmax, its balanced accuracy 1/K, its AUROC 0.5, whatever the view.

    Args:
        table: evaluation's table, of one bundle; several recipes, seeds and checkpoints may be concatenated.

    Returns:
        Columns bundle, recipe, seed, checkpoint, split, view, family, norm, epsilon, severity, n, threshold,
        threshold_source, accuracy, balanced_accuracy (both at the threshold), balanced_accuracy_at_half, auroc, brier,
        ece, nll, and parameter, by which a shift says how strong it is (else NaN). For K = 2 the threshold is that of
        the run's own clean validation images; without those it is 0.5, and `threshold_source` says so. For K >= 3 it is
        NaN (argmax), and so is balanced_accuracy_at_half.

    Raises:
        ValueError: no rows, no metadata, more than one bundle, the same image twice in one run and view, labels or
            probabilities that do not fit the classes, or probabilities that are not finite.
    """
    facts = facts_of(table)
    frame = _frame(table)
    if frame["bundle"].nunique() > 1:
        raise ValueError(f"one bundle at a time, not {', '.join(frame['bundle'].unique())}")
    classes = len(facts["classes"])
    rows = []
    for run, part in frame.groupby(list(RUN), sort=False, dropna=False):
        rule = _rule(part, classes)
        for _, view in part.groupby(["split", "view"], sort=False):
            logits = _logits(view, classes)
            at = predict(softmax(logits, axis=1), rule[0] if classes == 2 else None)
            rows.append(_row(view, dict(zip(RUN, run, strict=True)), rule, logits, at))
    rows += _constant(frame, np.asarray(facts["training_prior"], dtype=np.float64), classes)
    summary = pd.DataFrame(rows).astype({"seed": "Int64", "severity": "Int64", "epsilon": "float64"})
    return summary.assign(parameter=summary["view"].map(facts.get("parameters", {})))


def reported_split(summary: pd.DataFrame) -> str:
    """The split that a summary reports: `test` where it is there, else the first other than `validation`, else that."""
    splits = summary["split"].unique().tolist()
    return "test" if "test" in splits else next((s for s in splits if s != "validation"), "validation")


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

    All views take the same draws. The threshold is that of :func:`summarise` and does not move with them.

    Args:
        table: evaluation's table of one run.
        draws: replicates.
        level: share of the replicates within the interval.

    Returns:
        Columns view, metric, value, low, high: a row for each view and metric in order; low and high are NaN for ECE
        (see :func:`bootstrap.replicates`) and where a metric is undefined.

    Raises:
        ValueError: as :func:`summarise` and :func:`flat`.
    """
    summary = summarise(table)
    values, split = flat(summary), reported_split(summary)
    classes = len(facts_of(table)["classes"])
    frame = _frame(table)
    frame = frame[frame["split"] == split]
    limit = float(summary["threshold"].iloc[0]) if classes == 2 else None
    clean = frame[frame["view"] == frame["view"].iloc[0]]
    drawn, order = bootstrap.counts(clean["patient_id"].tolist(), draws), clean["image_id"]
    rows = []
    for name, view in frame.groupby("view", sort=False):
        logits = _logits(view.set_index("image_id").loc[order], classes)
        found = _replicates(drawn, clean["label"].to_numpy(), logits, limit)
        for metric in METRICS:
            low, high = bootstrap.percentiles(found.get(metric, math.nan), level)
            value = values.get(f"{name}/{metric}", math.nan)
            rows.append({"view": name, "metric": metric, "value": value, "low": low, "high": high})
    return pd.DataFrame(rows)


def _replicates(
    drawn: bootstrap.Counts, labels: NDArray[Any], logits: NDArray[np.float64], limit: float | None
) -> dict[str, NDArray[np.float64]]:
    probabilities = softmax(logits, axis=1)
    at = predict(probabilities, limit)
    predictions = {"accuracy": at, "balanced_accuracy": at}
    if limit is not None:
        predictions["balanced_accuracy_at_half"] = predict(probabilities)
    scores = log_odds(torch.from_numpy(logits)).numpy()
    return bootstrap.replicates(drawn, labels, logits, scores, predictions)


def _frame(table: pa.Table) -> pd.DataFrame:
    columns = [*RUN, "split", "image_id", "patient_id", "label", "view", *VIEW, "logits"]
    frame = table.select(columns).to_pandas()
    if frame.empty:
        raise ValueError("the table has no rows")
    twice = frame.duplicated([*RUN, "split", "view", "image_id"])
    if twice.any():
        row = frame[twice].iloc[0]
        raise ValueError(
            f"the same image twice in view {row['view']!r} of recipe {row['recipe']!r}, seed {row['seed']}: "
            "two runs of one name?"
        )
    return frame


def _logits(rows: pd.DataFrame, classes: int) -> NDArray[np.float64]:
    """The logits (N, K) of these rows, refused unless K is the number of classes."""
    lengths = rows["logits"].map(len).unique().tolist()
    if lengths != [classes]:
        raise ValueError(f"{classes} classes, but rows with {', '.join(map(str, lengths))} logits")
    return np.stack(rows["logits"].tolist()).astype(np.float64)


def validated_temperature(table: pa.Table) -> float | None:
    """The temperature fitted on the clean validation images of a table of one run; None where it has none."""
    facts, frame = facts_of(table), _frame(table)
    clean = frame[(frame["split"] == "validation") & (frame["view"] == "clean")]
    return None if clean.empty else temperature(clean["label"], _logits(clean, len(facts["classes"])))


def _rule(run: pd.DataFrame, classes: int) -> tuple[float, str]:
    """The threshold of one run and where it comes from."""
    if classes != 2:
        return math.nan, "argmax"
    clean = run[(run["split"] == "validation") & (run["view"] == "clean")]
    if clean.empty:
        return 0.5, "0.5 (no validation split)"
    if clean["label"].nunique() < 2:
        return 0.5, "0.5 (one class in validation)"
    return threshold(clean["label"], softmax(_logits(clean, classes), axis=1)[:, 1]), "clean validation"


def _row(
    view: pd.DataFrame,
    run: dict[str, Any],
    rule: tuple[float, str],
    logits: NDArray[np.float64],
    at: NDArray[np.int64],
) -> dict[str, Any]:
    labels, probabilities = view["label"].to_numpy(), softmax(logits, axis=1)
    two = logits.shape[1] == 2
    return {
        **run,
        **view.iloc[0][["split", "view", *VIEW]].to_dict(),
        "n": len(view),
        "threshold": rule[0],
        "threshold_source": rule[1],
        "accuracy": accuracy(labels, at),
        "balanced_accuracy": balanced_accuracy(labels, at),
        "balanced_accuracy_at_half": balanced_accuracy(labels, predict(probabilities)) if two else math.nan,
        "auroc": auroc(labels, log_odds(torch.from_numpy(logits))),
        "brier": brier(labels, probabilities),
        "ece": ece(labels, probabilities),
        "nll": nll(labels, probabilities),
    }


def _constant(frame: pd.DataFrame, prior: NDArray[np.float64], classes: int) -> list[dict[str, Any]]:
    """The rows of the classifier that answers the prior, one per split and view, each image counted once."""
    if prior.shape != (classes,):
        raise ValueError(f"{classes} classes, but a training prior of {prior.size}")
    run = {"bundle": frame["bundle"].iloc[0], "recipe": CONSTANT, "seed": None, "checkpoint": None}
    rows = []
    for _, view in frame.drop_duplicates(["split", "view", "image_id"]).groupby(["split", "view"], sort=False):
        logits = np.tile(np.log(prior.clip(np.finfo(np.float64).tiny)), (len(view), 1))
        rows.append(_row(view, run, (math.nan, "prior"), logits, np.full(len(view), prior.argmax())))
    return rows


def _one_hot(labels: NDArray[Any], classes: int) -> NDArray[np.bool_]:
    return np.asarray(labels[:, None] == np.arange(classes))


def _fitting(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Labels (N,) and finite scores (N, K) that fit each other; ValueError else."""
    y, s = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    if y.ndim != 1 or s.ndim != 2 or len(y) != len(s) or not len(y) or s.shape[1] < 2:
        raise ValueError(f"labels must be (N,) and scores (N, K >= 2), not {y.shape} and {s.shape}")
    if not np.issubdtype(y.dtype, np.integer):
        raise ValueError(f"labels must be integers, not {y.dtype} (multi-label lists have no summary)")
    if y.min() < 0 or y.max() >= s.shape[1]:
        raise ValueError(f"labels {y.min()} to {y.max()} do not fit {s.shape[1]} classes")
    if not np.isfinite(s).all():
        raise ValueError(f"{int((~np.isfinite(s)).any(axis=1).sum())} of {len(s)} rows have non-finite values")
    return y, s


def _checked(labels: ArrayLike, probabilities: ArrayLike) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """The same, of probabilities, whose rows must sum to 1."""
    y, p = _fitting(labels, probabilities)
    if not np.allclose(p.sum(axis=1), 1, rtol=0, atol=1e-3):
        raise ValueError("the probabilities of a row must sum to 1: were these logits?")
    return y, p
