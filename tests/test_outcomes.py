"""Every metric of one view: what clean validation decides, two classes, more, and labels of their own."""

import math

import numpy as np
import pytest
from rtda.pipeline.evidence import bootstrap, calibration, outcomes, scores
from rtda.pipeline.evidence.outcomes import METRICS, Rule
from scipy.special import expit, softmax
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss, recall_score, roc_auc_score

RULE = Rule(0.5, math.nan, math.nan, "prior")


def drawn_by(seed, n=120, classes=2, multilabel=False):
    rng = np.random.default_rng(seed)
    if multilabel:
        labels = rng.integers(0, 2, (n, classes))
        return labels, rng.normal(size=(n, classes)) + 2 * labels - 1
    labels = rng.integers(0, classes, n)
    return labels, rng.normal(size=(n, classes)) + 1.5 * np.eye(classes)[labels]


def test_what_clean_validation_decides():
    labels, logits = drawn_by(0)
    (rule,) = outcomes.rules(labels, logits)
    p1 = softmax(logits, axis=1)[:, 1]
    assert rule.threshold == scores.threshold(labels, p1)
    assert rule.at_90 == scores.threshold_at_specificity(labels, p1, 0.9)
    assert rule.temperature == calibration.temperature(labels, logits)
    assert rule.source == "clean validation"


@pytest.mark.parametrize(
    ("labels", "logits", "threshold", "source"),
    [
        (np.zeros(0, int), np.zeros((0, 2)), 0.5, "0.5 (no validation split)"),
        (np.zeros(0, int), np.zeros((0, 3)), math.nan, "argmax (no validation split)"),
        (np.ones(2, int), np.zeros((2, 2)), 0.5, "0.5 (one class in validation)"),
    ],
)
def test_without_validation_nothing_is_fitted_and_that_is_said(labels, logits, threshold, source):
    (rule,) = outcomes.rules(labels, logits)
    assert (rule.threshold, rule.source) == (pytest.approx(threshold, nan_ok=True), source)
    assert math.isnan(rule.at_90)
    assert math.isnan(rule.temperature)
    labels, logits = drawn_by(1, classes=logits.shape[1])
    values = outcomes.values(labels, logits, (rule,))
    undefined = {name for name, value in values.items() if math.isnan(value)}
    fitted = {name for name in METRICS if name.endswith("_scaled")} | {"sensitivity_at_90", "specificity_at_90"}
    assert undefined == fitted | ({"balanced_accuracy_at_half"} if logits.shape[1] > 2 else set())


def test_three_classes_have_a_temperature_and_no_threshold():
    (rule,) = outcomes.rules(*drawn_by(0, classes=3))
    assert math.isnan(rule.threshold)
    assert rule.source == "argmax"
    assert 0.05 < rule.temperature < 20


def test_sensitivity_is_that_at_the_threshold_of_validation_which_may_have_another_specificity_now():
    rules = outcomes.rules(*drawn_by(0))
    labels, logits = drawn_by(1)
    moved = logits + np.array([0.0, 1.5])  # as a shift that makes everybody look ill
    predictions = softmax(moved, axis=1)[:, 1] >= rules[0].at_90
    values = outcomes.values(labels, moved, rules)
    assert values["sensitivity_at_90"] == pytest.approx(recall_score(labels, predictions))
    assert values["specificity_at_90"] == pytest.approx(recall_score(labels, predictions, pos_label=0))
    assert values["sensitivity_at_90"] > outcomes.values(labels, logits, rules)["sensitivity_at_90"]
    assert values["specificity_at_90"] < 0.85


@pytest.mark.parametrize("classes", [2, 4])
def test_scaled_metrics_are_those_of_logits_over_the_temperature(classes):
    labels, logits = drawn_by(1, classes=classes)
    (rule,) = outcomes.rules(*drawn_by(0, classes=classes))
    p = softmax(logits / rule.temperature, axis=1)
    parts = calibration.brier_parts(labels, p).sum()
    expected = {"nll": log_loss(labels, p), "ece": calibration.ece(labels, p), "brier": calibration.brier(labels, p)}
    expected |= {f"brier_{name}": parts[name] for name in ("reliability", "resolution", "residual")}
    values = outcomes.values(labels, logits, (rule,))
    assert {name: values[f"{name}_scaled"] for name in expected} == pytest.approx(expected)
    undone = outcomes.values(labels, logits * rule.temperature, (rule,))
    for name in ("brier", "ece", "nll"):
        assert undone[f"{name}_scaled"] == pytest.approx(values[name])


def test_the_parts_of_a_view_add_up_to_its_brier_score():
    for classes, multilabel in ((2, False), (5, False), (3, True)):
        rules = outcomes.rules(*drawn_by(0, classes=classes, multilabel=multilabel))
        values = outcomes.values(*drawn_by(1, classes=classes, multilabel=multilabel), rules)
        for end in ("", "_scaled"):
            added = values[f"brier_reliability{end}"] - values[f"brier_resolution{end}"] + values["brier_uncertainty"]
            assert added + values[f"brier_residual{end}"] == pytest.approx(values[f"brier{end}"], abs=1e-12)


# Multi-label sets


def test_multi_label_metrics_are_the_means_over_labels_of_scikit_learns():
    validation, (labels, logits) = drawn_by(0, classes=4, multilabel=True), drawn_by(1, classes=4, multilabel=True)
    rules = outcomes.rules(*validation)
    assert len({rule.threshold for rule in rules}) == 4
    p = expit(logits)
    values = outcomes.values(labels, logits, rules)
    assert values["auroc"] == pytest.approx(roc_auc_score(labels, p, average="macro"))
    assert values["brier"] == pytest.approx(2 * np.mean([brier_score_loss(labels[:, k], p[:, k]) for k in range(4)]))
    assert values["nll"] == pytest.approx(np.mean([log_loss(labels[:, k], p[:, k]) for k in range(4)]))
    at = p >= [rule.threshold for rule in rules]
    assert values["accuracy"] == pytest.approx(accuracy_score(labels.ravel(), at.ravel()))
    ill = recall_score(labels, at, average="macro")
    well = recall_score(1 - labels, ~at, average="macro")
    assert values["balanced_accuracy"] == pytest.approx((ill + well) / 2)
    at_90 = p >= [rule.at_90 for rule in rules]
    assert values["sensitivity_at_90"] == pytest.approx(recall_score(labels, at_90, average="macro"))


def test_one_label_is_a_problem_of_two_classes():
    labels, logits = drawn_by(0, classes=1, multilabel=True)
    both = labels[:, 0], np.c_[np.zeros(len(logits)), logits]
    rules = outcomes.rules(labels, logits)
    assert rules == outcomes.rules(*both)
    assert outcomes.values(labels, logits, rules) == outcomes.values(*both, rules)


def test_a_label_that_nobody_has_leaves_the_macro_auroc_undefined():
    labels, logits = drawn_by(0, classes=3, multilabel=True)
    labels[:, 1] = 0
    values = outcomes.values(labels, logits, (RULE,) * 3)
    assert math.isnan(values["auroc"])
    assert values["brier"] > 0


def test_labels_that_do_not_fit_the_logits_are_refused():
    with pytest.raises(ValueError, match=r"\(N, L\) both, not \(2, 3\) and \(2, 2\)"):
        outcomes.problems(np.zeros((2, 3), int), np.zeros((2, 2)))


@pytest.mark.parametrize(("classes", "multilabel"), [(2, False), (3, False), (3, True)])
def test_replicates_are_the_values_of_repeated_rows(classes, multilabel):
    rules = outcomes.rules(*drawn_by(0, classes=classes, multilabel=multilabel))
    labels, logits = drawn_by(1, classes=classes, multilabel=multilabel)
    drawn = bootstrap.counts([None] * len(labels), draws=3)
    found = outcomes.replicates(drawn, labels, logits, rules)
    once = outcomes.replicates(bootstrap.once(len(labels)), labels, logits, rules)
    assert {"auroc", "brier", "nll_scaled"} <= set(found)
    for k, times in enumerate(drawn):
        rows = np.repeat(np.arange(len(labels)), times)
        expected = outcomes.values(labels[rows], logits[rows], rules)
        assert {name: values[k] for name, values in found.items()} == pytest.approx(
            {name: expected[name] for name in found}, abs=1e-9
        )
    values = outcomes.values(labels, logits, rules)
    assert {name: value[0] for name, value in once.items()} == pytest.approx({name: values[name] for name in once})
