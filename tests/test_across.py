"""Several views at once: worst cases and errors over shifts, against loops over images and kinds."""

import numpy as np
import pytest
from cases import make_run
from rtda.pipeline.evidence import bootstrap, metrics
from rtda.pipeline.evidence.across import (
    across,
    attacked_view,
    attacks_within,
    corruption_errors,
    kinds_of_shift,
    pgd_views,
    worst_shift,
)
from rtda.pipeline.evidence.answers import answers
from rtda.pipeline.evidence.outcomes import right
from sklearn.metrics import balanced_accuracy_score, recall_score

VIEWS = {
    "clean": ("clean", None, None, None),
    "fgsm_l2_0.25": ("attack", "l2", 0.25, None),
    "pgd20_l2_0.125": ("attack", "l2", 0.125, None),
    "pgd20_l2_0.25": ("attack", "l2", 0.25, None),
    "pgd20_l2_0.5": ("attack", "l2", 0.5, None),
    "pgd20_linf_0.01": ("attack", "linf", 0.01, None),
    "spatial": ("attack", None, None, None),
    "contrast_down_1": ("shift", None, None, 1),
    "contrast_down_5": ("shift", None, None, 5),
    "blur_5": ("shift", None, None, 5),
    "scanner": ("shift", None, None, None),
}
SHIFTS = {"contrast_down": ["contrast_down_1", "contrast_down_5"], "blur": ["blur_5"], "scanner": ["scanner"]}


def made(seed=0, **more):
    return make_run(seed=seed, views=VIEWS, n=60, strength=3.0, step=0.2, **more)


def predictions(table, view):
    """Labels and predicted classes, in order of image."""
    frame = table.to_pandas().query("split == 'test' and view == @view").sort_values("image_id")
    (rule,) = answers(table).rules
    limit = rule.threshold
    logits = np.stack(frame["logits"]).astype(float)
    return frame["label"].to_numpy(), (logits[:, 1] - logits[:, 0] >= np.log(limit / (1 - limit))).astype(int)


def test_the_attacks_that_count_are_in_the_training_norm_and_at_most_at_its_radius():
    assert attacks_within(answers(made())) == ["fgsm_l2_0.25", "pgd20_l2_0.125", "pgd20_l2_0.25"]
    wider = answers(made(training_radius=0.4999))  # names have three digits
    assert attacks_within(wider)[-1] == "pgd20_l2_0.5"


def test_the_attacked_view_is_pgd_20_at_the_training_radius():
    own = answers(made())
    views = own.views.reset_index()
    assert pgd_views(views, "l2")["epsilon"].tolist() == [0.125, 0.25, 0.5]
    assert attacked_view(views, own.facts) == "pgd20_l2_0.25"
    assert attacked_view(views, own.facts | {"training_radius": 0.3}) is None
    assert attacked_view(views, own.facts | {"training_norm": "linf", "training_radius": 0.01}) == "pgd20_linf_0.01"


def test_kinds_are_views_without_their_severity():
    assert kinds_of_shift(answers(made())) == SHIFTS


def test_an_image_is_right_in_the_worst_case_if_it_is_right_in_every_view():
    table = made()
    found = across(answers(table), bootstrap.once(60))
    for group, views in (
        ("attacks", ["fgsm_l2_0.25", "pgd20_l2_0.125", "pgd20_l2_0.25"]),
        ("shifts", [view for kind in SHIFTS.values() for view in kind]),
    ):
        labels = predictions(table, "clean")[0]
        always = np.ones(len(labels), bool)
        for view in views:
            always &= predictions(table, view)[1] == labels
        expected = balanced_accuracy_score(labels, np.where(always, labels, 1 - labels))
        assert found[group]["worst_case_accuracy"] == pytest.approx([always.mean()])
        assert found[group]["worst_case_balanced_accuracy"] == pytest.approx([expected])
        for view in views:
            assert found[group]["worst_case_balanced_accuracy"][0] <= balanced_accuracy_score(*predictions(table, view))


def error(table, view):
    return 1 - balanced_accuracy_score(*predictions(table, view))


def test_errors_over_shifts_are_means_over_kinds_of_means_over_severities():
    table = made()
    found = across(answers(table), bootstrap.once(60))["shifts"]
    mean = np.mean([np.mean([error(table, view) for view in views]) for views in SHIFTS.values()])
    assert found["mean_error"] == pytest.approx([mean])
    assert found["relative_mean_error"] == pytest.approx([mean - error(table, "clean")])
    worst = max((view for views in SHIFTS.values() for view in views), key=lambda view: error(table, view))
    assert worst_shift(answers(table)) == worst
    assert found["worst_balanced_accuracy"] == pytest.approx([1 - error(table, worst)])


def test_corruption_errors_are_those_of_hendrycks_and_dietterich():
    own, base = made(seed=0), made(seed=1)
    ratios, relative = [], []
    for views in SHIFTS.values():
        ratios.append(sum(error(own, v) for v in views) / sum(error(base, v) for v in views))
        above = sum(error(own, v) - error(own, "clean") for v in views)
        relative.append(above / sum(error(base, v) - error(base, "clean") for v in views))
    found = corruption_errors(answers(own), answers(base), bootstrap.once(60))
    assert found["mce"] == pytest.approx([np.mean(ratios)])
    assert found["relative_mce"] == pytest.approx([np.mean(relative)])
    itself = corruption_errors(answers(base), answers(base), bootstrap.once(60))
    assert [itself["mce"][0], itself["relative_mce"][0]] == pytest.approx([1, 1])


def test_a_baseline_without_errors_leaves_nothing_to_compare_with():
    perfect = answers(make_run(strength=40.0))
    found = corruption_errors(answers(make_run()), perfect, bootstrap.once(40))
    assert np.isnan(found["mce"]).all()
    assert np.isnan(found["relative_mce"]).all()


def test_without_shifts_or_attacks_there_is_nothing_across_them():
    own = answers(make_run(views={"clean": VIEWS["clean"]}))
    assert across(own, bootstrap.once(40)) == {}
    assert corruption_errors(own, own, bootstrap.once(40)) == {}
    assert worst_shift(own) is None
    alone = answers(make_run(views={"blur_5": VIEWS["blur_5"]}))
    assert "relative_mean_error" not in across(alone, bootstrap.once(40))["shifts"]
    assert set(corruption_errors(alone, alone, bootstrap.once(40))) == {"mce"}


def test_replicates_are_the_values_of_repeated_images():
    own = answers(made())
    drawn = own.drawn(4)
    found = across(own, drawn)
    for k, times in enumerate(drawn):
        rows = np.repeat(np.arange(60), times)
        if worst_shift(own.of(rows)) != worst_shift(own):
            found["shifts"].pop("worst_balanced_accuracy", None)  # it stays that of the set itself
        expected = across(own.of(rows), bootstrap.once(60))
        for group, values in found.items():
            for name, value in values.items():
                assert value[k] == pytest.approx(expected[group][name][0])


def test_of_a_multi_label_set_each_label_is_right_or_wrong():
    own = answers(made(classes=3, multilabel=True))
    found = across(own, bootstrap.once(60))["attacks"]
    hits = np.all([right(own.labels, own.logits[view], own.rules) for view in attacks_within(own)], axis=0)
    assert hits.shape == (60, 3)
    assert found["worst_case_accuracy"] == pytest.approx([hits.mean()])
    predicted = np.where(hits, own.labels, 1 - own.labels)
    recalls = (
        recall_score(own.labels, predicted, average="macro"),
        recall_score(1 - own.labels, 1 - predicted, average="macro"),
    )
    assert found["worst_case_balanced_accuracy"] == pytest.approx([np.mean(recalls)])


def test_three_classes_have_worst_cases_too():
    own = answers(made(classes=3))
    found = across(own, bootstrap.once(60))
    assert 0 <= found["attacks"]["worst_case_balanced_accuracy"][0] <= found["attacks"]["worst_case_accuracy"][0] + 0.5
    assert {"mean_error", "worst_balanced_accuracy"} <= set(found["shifts"])


def test_intervals_hold_what_goes_across_views():
    found = metrics.intervals(made(), draws=200).set_index(["view", "metric"])
    whole = {"attacks": "worst_case_balanced_accuracy", "shifts": "mean_error"}
    for row in whole.items():
        value, low, high = found.loc[row]
        assert low <= value <= high
        assert low < high
