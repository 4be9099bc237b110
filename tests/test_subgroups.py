"""Subgroups: each with its numbers, and of few patients never a value alone."""

import math

import numpy as np
import pytest
from cases import make_run
from rtda.pipeline.evidence import bootstrap
from rtda.pipeline.evidence.answers import SUBGROUPS, answers
from rtda.pipeline.evidence.scores import auroc, balanced_accuracy
from rtda.pipeline.evidence.subgroups import FEW, NOT_STATED, SHOWN, subgroups
from scipy.special import expit

N = 180  # 60 patients of three images


def made(**columns):
    return answers(make_run(n=N, columns={name: values(np.arange(N)) for name, values in columns.items()}))


def test_a_subgroup_has_its_images_patients_and_metrics():
    own = made(sex=lambda i: np.where(i // 3 % 2, "F", "M").tolist())
    found = subgroups(own, ["clean", "pgd20_l2_0.25"])
    assert found[["column", "level"]].drop_duplicates().to_numpy().tolist() == [["sex", "F"], ["sex", "M"]]
    assert set(zip(found["images"], found["patients"], strict=True)) == {(90, 30)}
    assert found["metric"].tolist() == [*SHOWN] * 4
    rows = (own.images["sex"] == "F").to_numpy()
    part = found.query("level == 'F' and view == 'clean'").set_index("metric")
    margin = own.logits["clean"][rows] @ [-1, 1]
    assert part.loc["auroc", "value"] == pytest.approx(auroc(own.labels[rows], np.c_[-margin, margin]))
    (rule,) = own.rules  # the threshold is that of the run, not of the subgroup
    at = (margin >= math.log(rule.threshold / (1 - rule.threshold))).astype(int)
    assert part.loc["balanced_accuracy", "value"] == pytest.approx(balanced_accuracy(own.labels[rows], at))
    drawn = bootstrap.counts([name for name, of in zip(own.patients, rows, strict=True) if of])
    of_images = 2 * (expit(margin) - own.labels[rows]) ** 2
    expected = [of_images.mean(), *bootstrap.percentiles(bootstrap.mean(drawn, of_images))]
    assert part.loc["brier", ["value", "low", "high"]].tolist() == pytest.approx(expected)


def test_a_table_that_states_nothing_has_no_subgroups():
    assert subgroups(made(), ["clean"]).empty


def test_what_is_not_stated_is_a_level_of_its_own_and_the_last():
    own = made(site=lambda i: [None if k % 2 else ("b", "a")[k % 4 // 2] for k in i])
    assert subgroups(own, ["clean"])["level"].unique().tolist() == ["a", "b", NOT_STATED]


@pytest.mark.parametrize("column", SUBGROUPS)
def test_every_column_of_facts_makes_subgroups(column):
    found = subgroups(made(**{column: lambda i: np.where(i < N // 2, "x", "y").tolist()}), ["clean"])
    assert set(zip(found["column"], found["level"], strict=True)) == {(column, "x"), (column, "y")}


@pytest.mark.parametrize("patients", [1, 2, 6, FEW - 1])
def test_of_few_patients_no_value_stands_without_an_interval(patients):
    own = made(site=lambda i: np.where(i < 3 * patients, "small", "large").tolist())
    found = subgroups(own, list(own.logits)).query("level == 'small'")
    assert set(found["patients"]) == {patients}
    alone = found["value"].notna() & (found["low"].isna() | ~(found["low"] < found["high"]))
    assert not alone.any()
    assert found["value"].isna().any() if patients < 3 else found["value"].notna().any()


def test_of_one_patient_only_the_numbers_stand():
    found = subgroups(made(site=lambda i: np.where(i < 3, "small", "large").tolist()), ["clean"])
    assert found.query("level == 'small'")[["value", "low", "high"]].isna().all(axis=None)


def test_of_few_patients_without_a_mistake_only_the_numbers_stand():
    own = answers(
        make_run(n=N, strength=40.0, columns={"site": np.where(np.arange(N) < 30, "small", "large").tolist()})
    )
    found = subgroups(own, ["clean"]).query("metric == 'auroc'").set_index("level")["value"]
    assert found["large"] == 1
    assert math.isnan(found["small"])


@pytest.mark.parametrize("patients", [10, 25])
def test_a_subgroup_of_one_class_has_no_balanced_accuracy(patients):
    """A recall of the one class would be read as both."""
    ill = np.arange(N) % 2 == 1  # the label
    own = made(site=lambda i: np.where(ill & (i < 3 * patients), "ill", "others").tolist())
    found = subgroups(own, ["clean"]).query("level == 'ill'").set_index("metric")["value"]
    assert math.isnan(found["balanced_accuracy"])
    assert math.isnan(found["auroc"])
    assert math.isnan(found["specificity_at_90"])
    assert 0 <= found["sensitivity_at_90"] <= 1


def test_images_without_a_patient_are_their_own():
    own = answers(make_run(n=30, columns={"patient_id": [None] * 30, "sex": ["F"] * 30}))
    assert set(subgroups(own, ["clean"])["patients"]) == {30}
    drawn = own.drawn(50)
    assert (drawn[:, 0] != drawn[:, 1]).any()


def test_multi_label_sets_have_subgroups():
    columns = {"sex": np.where(np.arange(N) < 90, "F", "M").tolist()}
    own = answers(make_run(n=N, classes=3, multilabel=True, columns=columns))
    found = subgroups(own, ["clean"])
    assert found["value"].notna().all()
    assert (found["low"] < found["high"]).all()
