"""Brier score and its parts, NLL, calibration error and temperature, against other code and slow loops."""

import math

import numpy as np
import pytest
from cases import outcomes, softmax
from hypothesis import given, settings
from hypothesis import strategies as st
from rtda.pipeline.evidence import calibration, scores
from scipy.optimize import minimize
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss

quick = settings(max_examples=50, deadline=None)
METRICS = [scores.auroc, calibration.brier, calibration.brier_parts, calibration.ece, calibration.nll]


@quick
@given(outcomes())
def test_nll_equals_scikit_learn(data):
    labels, p = data
    assert calibration.nll(labels, p) == pytest.approx(log_loss(labels, p, labels=range(p.shape[1])))


@quick
@given(outcomes())
def test_brier_is_the_multi_class_sum_and_twice_the_binary_form(data):
    labels, p = data
    by_hand = np.mean([sum((p[i, k] - (labels[i] == k)) ** 2 for k in range(p.shape[1])) for i in range(len(p))])
    assert calibration.brier(labels, p) == pytest.approx(by_hand, abs=1e-6)
    assert 0 <= calibration.brier(labels, p) <= 2
    if p.shape[1] == 2:
        assert calibration.brier(labels, p) == pytest.approx(2 * brier_score_loss(labels, p[:, 1].clip(0, 1)), abs=1e-6)


@quick
@given(outcomes(), st.randoms(use_true_random=False))
def test_ece_does_not_depend_on_the_order_of_images(data, random):
    labels, p = data
    order = list(range(len(p)))
    random.shuffle(order)
    assert calibration.ece(labels, p) == pytest.approx(calibration.ece(labels[order], p[order]), abs=1e-12)
    assert calibration.reliability(labels, p)["share"].sum() == pytest.approx(1)


@pytest.mark.parametrize("n", [15, 30, 150])
def test_ece_has_bins_of_equal_mass(n):
    rng = np.random.default_rng(n)
    labels, p = rng.integers(0, 3, n), softmax(rng.normal(size=(n, 3)))
    confidence, correct = p.max(axis=1).astype(float), p.argmax(axis=1) == labels
    bins = np.array_split(np.argsort(confidence), 15)
    expected = sum(len(b) / n * abs(correct[b].mean() - confidence[b].mean()) for b in bins)
    assert calibration.ece(labels, p) == pytest.approx(expected)


@pytest.mark.parametrize("n", [150, 300, 1500])
def test_ece_is_the_mean_gap_of_scikit_learns_calibration_curve(n):
    """In bins of equal mass without ties, as there n is a multiple of the bins."""
    rng = np.random.default_rng(n)
    labels, p = rng.integers(0, 2, n), softmax(2 * rng.normal(size=(n, 2))).astype(float)
    correct = p.argmax(axis=1) == labels
    accuracy, confidence = calibration_curve(correct, p.max(axis=1), n_bins=15, strategy="quantile")
    assert len(accuracy) == 15
    assert calibration.ece(labels, p) == pytest.approx(np.abs(accuracy - confidence).mean())


@quick
@given(outcomes(), st.integers(1, 20))
def test_ece_equals_a_slow_loop_with_ties_kept_together(data, bins):
    """A new bin begins with the first confidence at or above rank j(n − 1)/bins, and only where it differs."""
    labels, p = data
    images = sorted((max(map(float, row)), list(row).index(max(row)) == y) for row, y in zip(p, labels, strict=True))
    edges = [images[math.ceil((len(images) - 1) * j / bins - 1e-9)][0] for j in range(1, bins)]
    groups = {}
    for confidence, correct in images:
        groups.setdefault(sum(edge <= confidence for edge in edges), []).append((confidence, correct))
    gaps = [abs(sum(correct for _, correct in group) - sum(c for c, _ in group)) for group in groups.values()]
    assert calibration.ece(labels, p, bins) == pytest.approx(sum(gaps) / len(images))


def test_ece_of_a_constant_is_the_gap_to_its_accuracy():
    labels = np.r_[np.zeros(30, int), np.ones(70, int)]
    assert calibration.ece(labels, np.tile([0.4, 0.6], (100, 1))) == pytest.approx(0.1)


@pytest.mark.parametrize("metric", METRICS[1:])
def test_logits_are_refused_as_probabilities(metric):
    with pytest.raises(ValueError, match="were these logits"):
        metric([0], [[3.0, -1.0]])


@pytest.mark.parametrize(
    ("labels", "p", "match"),
    [
        ([0], [[math.nan, 1.0]], "1 of 1 rows have non-finite"),
        ([2], [[0.5, 0.5]], "do not fit 2 classes"),
        ([0, 1], [[0.5, 0.5]], r"\(N,\)"),
        ([0.0], [[0.5, 0.5]], "integers"),
        ([], np.zeros((0, 2)), r"\(0,\)"),
    ],
)
@pytest.mark.parametrize("metric", METRICS)
def test_metrics_refuse(metric, labels, p, match):
    with pytest.raises(ValueError, match=match):
        metric(labels, p)


@quick
@given(outcomes(), st.integers(1, 20))
def test_the_four_parts_add_up_to_the_brier_score(data, bins):
    labels, p = data
    parts = calibration.brier_parts(labels, p, bins)
    added = parts["reliability"] - parts["resolution"] + parts["uncertainty"] + parts["residual"]
    assert added.to_numpy() == pytest.approx(parts["brier"].to_numpy(), abs=1e-12)
    assert parts["brier"].sum() == pytest.approx(calibration.brier(labels, p), abs=1e-12)
    assert (parts[["reliability", "resolution", "uncertainty"]] >= 0).all(axis=None)
    assert (parts["resolution"] <= parts["uncertainty"] + 1e-12).all()


@quick
@given(outcomes(), st.integers(1, 12))
def test_the_parts_equal_a_slow_loop(data, bins):
    """Bins begin at the confidence of rank j(n − 1)/bins, rounded up, and only where it differs."""
    labels, p = data
    for k, row in calibration.brier_parts(labels, p, bins).iterrows():
        images = sorted(zip(p[:, k].astype(float).tolist(), (labels == k).tolist(), strict=True))
        edges = [images[math.ceil((len(images) - 1) * j / bins - 1e-9)][0] for j in range(1, bins)]
        groups = {}
        for forecast, event in images:
            groups.setdefault(sum(edge <= forecast for edge in edges), []).append((forecast, event))
        base = sum(event for _, event in images) / len(images)
        reliability = resolution = residual = 0.0
        for group in groups.values():
            forecast = sum(f for f, _ in group) / len(group)
            rate = sum(e for _, e in group) / len(group)
            reliability += len(group) * (forecast - rate) ** 2 / len(images)
            resolution += len(group) * (rate - base) ** 2 / len(images)
            for f, e in group:
                residual += ((f - forecast) ** 2 - 2 * (f - forecast) * (e - rate)) / len(images)
        expected = {"reliability": reliability, "resolution": resolution, "residual": residual}
        assert row[list(expected)].to_dict() == pytest.approx(expected, abs=1e-12)
        assert row["uncertainty"] == pytest.approx(base * (1 - base))


def test_of_few_distinct_forecasts_there_is_no_residual():
    rng = np.random.default_rng(0)
    p1 = rng.choice([0.1, 0.4, 0.8], 300)
    parts = calibration.brier_parts(rng.integers(0, 2, 300), np.c_[1 - p1, p1])
    assert parts["residual"].to_numpy() == pytest.approx([0, 0], abs=1e-12)


def test_the_prior_of_the_set_itself_is_reliable_and_resolves_nothing():
    labels = np.r_[np.zeros(30, int), np.ones(70, int)]
    parts = calibration.brier_parts(labels, np.tile([0.3, 0.7], (100, 1)))
    assert parts[["reliability", "resolution", "residual"]].to_numpy() == pytest.approx(np.zeros((2, 3)), abs=1e-12)
    assert parts["brier"].to_numpy() == pytest.approx([0.21, 0.21])


def test_flattened_probabilities_lose_reliability_and_no_resolution():
    """Of two classes a temperature moves no image to another bin: what it mends is reliability alone."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 600)
    logits = rng.normal(size=(600, 2)) + 2 * np.eye(2)[labels]
    sharp, flat = (calibration.brier_parts(labels, softmax(logits / t).astype(float)).sum() for t in (0.5, 20))
    assert flat["resolution"] == pytest.approx(sharp["resolution"])
    assert flat["reliability"] > sharp["reliability"] + 0.1


@pytest.mark.parametrize(("classes", "true"), [(2, 0.5), (2, 3.0), (4, 2.0)])
def test_temperature_is_the_one_by_which_labels_were_drawn(classes, true):
    rng = np.random.default_rng(0)
    logits = 3 * rng.normal(size=(6000, classes))
    p = softmax(logits / true).astype(float)
    labels = (rng.random((6000, 1)) > p.cumsum(axis=1)).sum(axis=1).clip(0, classes - 1)
    found = calibration.temperature(labels, logits)
    assert found == pytest.approx(true, rel=0.1)
    by_another = minimize(lambda t: log_loss(labels, softmax(logits / t[0])), [1.0], method="Nelder-Mead")
    assert found == pytest.approx(by_another.x[0], rel=1e-3)
