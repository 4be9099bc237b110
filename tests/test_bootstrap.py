"""Intervals over patients: every replicate is the metric of repeated rows, and patients, not images, are drawn."""

import json

import numpy as np
import pyarrow as pa
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from rtda.pipeline.evidence import bootstrap, calibration, metrics, scores
from rtda.pipeline.evidence.outcomes import METRICS
from scipy.special import softmax

quick = settings(max_examples=40, deadline=None)


@st.composite
def outcomes(draw):
    """Labels in which every class occurs, and logits in steps of a half: many ties."""
    classes = draw(st.integers(2, 4))
    n = draw(st.integers(classes, 25))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    labels = np.r_[np.arange(classes), rng.integers(0, classes, n - classes)]
    return labels, rng.integers(-4, 5, (n, classes)) / 2


@quick
@given(outcomes(), st.integers(0, 2**32))
def test_a_replicate_is_the_metric_of_repeated_rows(data, seed):
    labels, logits = data
    drawn = bootstrap.counts([None] * len(labels), draws=4, seed=seed)
    p, scaled, at = softmax(logits, axis=1), softmax(logits / 1.7, axis=1), logits.argmax(1)
    predictions = dict.fromkeys(("accuracy", "balanced_accuracy", "sensitivity_at_90", "specificity_at_90"), at)
    found = bootstrap.replicates(drawn, labels, logits, logits, predictions, temperature=1.7)
    for k, times in enumerate(drawn):
        rows = np.repeat(np.arange(len(labels)), times)
        expected = {
            "accuracy": scores.accuracy(labels[rows], at[rows]),
            "balanced_accuracy": scores.balanced_accuracy(labels[rows], at[rows]),
            "sensitivity_at_90": scores.recall(labels[rows], at[rows], of=1),
            "specificity_at_90": scores.recall(labels[rows], at[rows], of=0),
            "auroc": scores.auroc(labels[rows], logits[rows]),
            "brier": calibration.brier(labels[rows], p[rows]),
            "brier_uncertainty": calibration.brier_parts(labels[rows], p[rows])["uncertainty"].sum(),
            "nll": calibration.nll(labels[rows], p[rows]),
            "brier_scaled": calibration.brier(labels[rows], scaled[rows]),
            "nll_scaled": calibration.nll(labels[rows], scaled[rows]),
        }
        assert {name: values[k] for name, values in found.items()} == pytest.approx(expected, nan_ok=True, abs=1e-12)


@quick
@given(st.integers(1, 30), st.integers(0, 2**32))
def test_patients_are_drawn_with_their_images(n, seed):
    patients = [f"p{i % n}" for i in range(3 * n)]
    drawn = bootstrap.counts(patients, draws=5, seed=seed).reshape(5, 3, n)
    assert (drawn == drawn[:, :1]).all()
    assert (drawn[:, 0].sum(1) == n).all()
    assert np.array_equal(drawn[:, 0], bootstrap.counts(patients[:n], draws=5, seed=seed))


def test_each_patient_is_drawn_once_on_average():
    drawn = bootstrap.counts([f"p{i}" for i in range(20)], draws=4000)
    assert np.abs(drawn.mean(0) - 1).max() < 5 * np.sqrt(0.95 / 4000)


def test_images_without_a_patient_are_drawn_singly():
    drawn = bootstrap.counts([None, None, "0", "0"], draws=200)
    assert (drawn[:, 2] == drawn[:, 3]).all()
    assert (drawn[:, 0] != drawn[:, 1]).any()
    assert (drawn[:, :3].sum(1) == 3).all()


def test_the_interval_of_an_accuracy_is_that_of_scipy():
    right = np.random.default_rng(0).random(200) < 0.8
    labels = np.arange(200) % 2
    drawn = bootstrap.counts([None] * 200, draws=20000)
    at = np.where(right, labels, 1 - labels)
    found = bootstrap.replicates(drawn, labels, np.eye(2)[labels], np.eye(2)[labels], {"accuracy": at})["accuracy"]
    theirs = scipy.stats.bootstrap((right,), np.mean, n_resamples=20000, method="percentile", rng=1).confidence_interval
    assert bootstrap.percentiles(found) == pytest.approx((theirs.low, theirs.high), abs=0.0051)  # one image of 200


def test_images_of_few_patients_say_less_than_images_of_many():
    labels = np.arange(240) % 2
    wrong = (np.arange(240) // 12) % 5 == 0  # patients of twelve images, all right or all wrong
    at = np.where(wrong, 1 - labels, labels)
    widths = []
    for patients in ([f"p{i // 12}" for i in range(240)], [None] * 240):
        drawn = bootstrap.counts(patients)
        found = bootstrap.replicates(drawn, labels, np.eye(2)[labels], np.eye(2)[labels], {"accuracy": at})
        low, high = bootstrap.percentiles(found["accuracy"])
        widths.append(high - low)
    assert widths[0] / widths[1] == pytest.approx(np.sqrt(12), rel=0.15)


def test_replicates_without_a_class_are_left_out_and_many_of_them_leave_no_interval():
    labels = np.array([0, 1])
    found = bootstrap.replicates(np.array([[2, 0], [1, 1], [0, 2]]), labels, np.eye(2), np.eye(2), {})
    assert np.isnan(found["auroc"][[0, 2]]).all()
    assert np.isnan(bootstrap.percentiles(found["auroc"])).all()
    assert bootstrap.percentiles([np.nan] + [1] * 9) == (1, 1)
    assert np.isnan(bootstrap.percentiles([np.nan] * 2 + [1] * 9)).all()
    assert np.isnan(bootstrap.percentiles([np.nan])).all()


def table(logits, labels, patients, split="test", **more):
    rows = [
        {"bundle": "b", "recipe": "rtda", "seed": 0, "checkpoint": "best", "split": split, "view": "clean"}
        | {"image_id": str(i), "patient_id": patient, "label": int(y), "family": "clean", "norm": None}
        | {"epsilon": None, "severity": None, "logits": z.tolist()}
        for i, (y, z, patient) in enumerate(zip(labels, logits, patients, strict=True))
    ]
    facts = {"classes": [f"c{k}" for k in range(logits.shape[1])], "training_prior": [1 / logits.shape[1]] * 2, **more}
    return pa.Table.from_pylist(rows).replace_schema_metadata({b"rtda": json.dumps(facts).encode()})


def test_intervals_hold_the_metrics_of_the_summary_and_none_is_stated_for_ece():
    rng = np.random.default_rng(0)
    labels = np.arange(90) % 2
    made = table(rng.normal(size=(90, 2)) + np.eye(2)[labels], labels, [f"p{i // 2}" for i in range(90)])
    found, summary = metrics.intervals(made), metrics.flat(metrics.summarise(made))
    assert found["metric"].tolist() == list(METRICS)
    defined = found.dropna(subset="value")
    assert dict(zip(defined["view"] + "/" + defined["metric"], defined["value"], strict=True)) == summary
    inside = (defined["low"] < defined["value"]) & (defined["value"] < defined["high"])
    without = ["brier_reliability", "brier_resolution", "brier_residual", "ece"]
    assert defined["metric"][~inside].tolist() == [*without[:2], "brier_uncertainty", *without[2:]]
    assert defined[defined["metric"].isin(without)][["low", "high"]].isna().all(axis=None)
    assert found.equals(metrics.intervals(made))
    assert not found.equals(metrics.intervals(made, draws=500))
