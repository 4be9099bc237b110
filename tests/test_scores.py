"""What is decided and ranked, against scikit-learn, scipy and brute force."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats
from cases import outcomes
from hypothesis import given, settings
from hypothesis import strategies as st
from rtda.pipeline.evidence import scores
from sklearn.metrics import balanced_accuracy_score, recall_score, roc_auc_score, roc_curve

quick = settings(max_examples=50, deadline=None)


@quick
@given(outcomes())
def test_metrics_equal_scikit_learn(data):
    labels, p = data
    predictions = scores.predict(p)
    assert scores.accuracy(labels, predictions) == pytest.approx(np.mean(labels == predictions))
    assert scores.balanced_accuracy(labels, predictions) == pytest.approx(balanced_accuracy_score(labels, predictions))
    two = p.shape[1] == 2
    expected = roc_auc_score(labels, p[:, 1]) if two else roc_auc_score(labels, p, multi_class="ovr")
    assert scores.auroc(labels, p) == pytest.approx(expected)
    for k, share in enumerate(recall_score(labels, predictions, labels=range(p.shape[1]), average=None)):
        assert scores.recall(labels, predictions, of=k) == pytest.approx(share)


def test_recall_of_a_class_without_images_is_undefined():
    assert math.isnan(scores.recall([0, 0], [0, 1], of=1))


@quick
@given(outcomes())
def test_accuracy_equals_a_hand_count(data):
    labels, p = data
    right = 0
    for label, row in zip(labels.tolist(), p.tolist(), strict=True):
        said = int(row[1] >= 0.5) if len(row) == 2 else row.index(max(row))
        right += 1 if said == label else 0
    assert scores.accuracy(labels, scores.predict(p)) == right / len(labels)


@quick
@given(outcomes(classes=2))
def test_auroc_is_the_statistic_of_mann_and_whitney(data):
    labels, p = data
    ill, well = p[labels == 1, 1], p[labels == 0, 1]
    u = scipy.stats.mannwhitneyu(ill, well, method="asymptotic").statistic
    assert scores.auroc(labels, p) == pytest.approx(u / (len(ill) * len(well)))


def test_auroc_is_undefined_where_a_class_is_missing():
    assert math.isnan(scores.auroc([1, 1], [[0.5, 0.5], [0.4, 0.6]]))
    assert math.isnan(scores.auroc([0, 1], np.full((2, 3), 1 / 3)))


@quick
@given(outcomes(classes=2))
def test_threshold_is_the_midpoint_of_the_widest_interval_of_best_thresholds(data):
    labels, p = data
    likely = p[:, 1].astype(np.float64).clip(0, 1)

    def value(t):
        return ((likely >= t)[labels == 1].mean() + (likely < t)[labels == 0].mean()) / 2

    # The rule is constant between neighbouring scores: try a point in each gap, and every score itself.
    edges = np.unique(np.r_[0.0, likely, 1.0])
    gaps = [(a, b, value((a + b) / 2)) for a, b in itertools.pairwise(edges)]
    best = max(v for *_, v in gaps)
    merged = []
    for a, b, v in gaps:
        if v < best - 1e-12:
            continue
        if merged and merged[-1][1] == a:
            merged[-1] = (merged[-1][0], b)
        else:
            merged.append((a, b))
    found = scores.threshold(labels, likely)
    assert value(found) == pytest.approx(best)
    assert any(found == pytest.approx((a + b) / 2, abs=1e-12) for a, b in merged)
    at = next((a, b) for a, b in merged if a <= found <= b)
    assert at[1] - at[0] == pytest.approx(max(b - a for a, b in merged), abs=1e-12)


@pytest.mark.parametrize(
    ("labels", "likely", "expected"),
    [
        ([0, 0, 1, 1], [0.1, 0.2, 0.6, 0.9], 0.4),
        ([0, 1], [0.5, 0.5], 0.5),  # nothing to choose: every threshold ties
        ([0, 1], [0.0, 1.0], 0.5),
        ([1, 0, 1], [0.1, 0.2, 0.9], 0.55),
    ],
)
def test_threshold_by_hand(labels, likely, expected):
    assert scores.threshold(labels, likely) == pytest.approx(expected)


def test_threshold_between_neighbouring_float32_scores_separates_them():
    low = np.float32(0.7)
    high = np.nextafter(low, np.float32(1))
    p = np.array([[1 - low, low], [1 - high, high]], dtype=np.float32)
    assert scores.predict(p, scores.threshold([0, 1], p[:, 1])).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("labels", "likely", "match"),
    [([1, 1], [0.1, 0.2], "both present"), ([0, 2], [0.1, 0.2], "0 and 1"), ([0, 1], [0.1, math.nan], "probabilities")],
)
def test_threshold_refuses(labels, likely, match):
    with pytest.raises(ValueError, match=match):
        scores.threshold(labels, likely)


def test_predict():
    assert scores.predict([[0.5, 0.5], [0.51, 0.49]]).tolist() == [1, 0]
    assert scores.predict([[0.2, 0.5, 0.3]]).tolist() == [1]
    with pytest.raises(ValueError, match="two classes"):
        scores.predict([[0.2, 0.5, 0.3]], 0.5)


@quick
@given(outcomes(classes=2), st.sampled_from([0.5, 0.8, 0.9, 0.95, 1.0]))
def test_threshold_at_specificity_has_the_most_sensitivity_that_any_threshold_has(data, specificity):
    labels, p = data
    p1 = p[:, 1].astype(np.float64)
    found = scores.threshold_at_specificity(labels, p1, specificity)
    predictions = scores.predict(np.c_[1 - p1, p1], found)
    assert scores.recall(labels, predictions, of=0) >= specificity - 1e-9
    fpr, tpr, _ = roc_curve(labels, p1, drop_intermediate=False)
    assert scores.recall(labels, predictions, of=1) == pytest.approx(tpr[1 - fpr >= specificity - 1e-9].max())


@quick
@given(outcomes(classes=2))
def test_threshold_at_specificity_is_the_middle_of_its_interval(data):
    """Of the thresholds halfway between neighbouring scores it is the lowest that does it: tried one by one."""
    labels, p = data
    p1 = p[:, 1].astype(np.float64)
    middles = [(a + b) / 2 for a, b in itertools.pairwise(np.unique(np.r_[0.0, p1, 1.0]))]
    expected = next(t for t in middles if (p1[labels == 0] < t).mean() >= 0.9)
    assert scores.threshold_at_specificity(labels, p1) == pytest.approx(expected)


def test_threshold_at_specificity_where_scores_are_certain_or_neighbours():
    assert math.isnan(scores.threshold_at_specificity([0, 1], [1.0, 1.0]))
    assert scores.threshold_at_specificity([0] * 10 + [1], [0.5] * 9 + [1.0, 1.0]) == 0.75  # one in ten may be lost
    low = 0.7
    high = np.nextafter(low, 1)
    assert scores.threshold_at_specificity([0, 1], [low, high]) == high
