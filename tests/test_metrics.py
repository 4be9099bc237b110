"""Each metric against scikit-learn or brute force, and the summary of a table against the definition of its rows."""

import itertools
import json
import math

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scipy.special
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from rtda.pipeline.evidence import metrics
from sklearn.calibration import calibration_curve
from sklearn.metrics import balanced_accuracy_score, brier_score_loss, log_loss, roc_auc_score

VIEWS = [
    ("clean", "clean", None, None, None),
    ("pgd20_l2_0.25", "attack", "l2", 0.25, None),
    ("contrast_down_5", "shift", None, None, 5),
]


def softmax(logits):
    p = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return (p / p.sum(axis=-1, keepdims=True)).astype(np.float32)


def make_run(recipe="rtda", seed=0, classes=2, splits=("validation", "test"), n=40, prior=None):
    rows = []
    for split in splits:
        for shift, (view, family, norm, epsilon, severity) in enumerate(VIEWS):
            if split == "validation" and view != "clean":
                continue
            rng = np.random.default_rng([len(recipe), seed, shift, len(split)])
            labels = np.arange(n) % classes
            logits = rng.normal(size=(n, classes)) + (1.5 - shift) * np.eye(classes)[labels]
            for i, (y, z) in enumerate(zip(labels, logits, strict=True)):
                rows.append(
                    {
                        "bundle": "b",
                        "recipe": recipe,
                        "seed": seed,
                        "fold": int(split == "test"),
                        "checkpoint": "best",
                        "split": split,
                    }
                    | {"image_id": f"{split}{i}", "patient_id": f"{split}{i // 3}", "label": int(y)}
                    | {"view": view, "family": family, "norm": norm}
                    | {"epsilon": epsilon, "severity": severity, "logits": z.tolist(), "probabilities": softmax(z)}
                )
    facts = {
        "classes": [f"c{k}" for k in range(classes)],
        "training_prior": prior or [0.3] + [0.7 / (classes - 1)] * (classes - 1),
    }
    types = {
        "epsilon": pa.float64(),
        "severity": pa.int64(),
        "logits": pa.list_(pa.float32()),
        "probabilities": pa.list_(pa.float32()),
    }
    schema = pa.schema(
        [(k, types.get(k, pa.int64() if isinstance(v, int) else pa.string())) for k, v in rows[0].items()]
    )
    return pa.Table.from_pylist(rows, schema=schema.with_metadata({b"rtda": json.dumps(facts).encode()}))


quick = settings(max_examples=50, deadline=None)


@st.composite
def outcomes(draw, classes=None):
    """Labels in which every class occurs, and probabilities in steps of 1/64: exact sums, many ties."""
    k = classes or draw(st.integers(2, 5))
    n = draw(st.integers(k, 40))
    labels = np.r_[np.arange(k), draw(hnp.arrays(np.int64, n - k, elements=st.integers(0, k - 1)))]
    cuts = np.sort(draw(hnp.arrays(np.int64, (n, k - 1), elements=st.integers(0, 64 - k))), axis=1)
    parts = np.diff(np.c_[np.zeros((n, 1), int), cuts, np.full((n, 1), 64 - k)], axis=1) + 1
    return labels, (parts / 64).astype(np.float32)


@quick
@given(outcomes())
def test_metrics_equal_scikit_learn(data):
    labels, p = data
    k = p.shape[1]
    predictions = metrics.predict(p)
    assert metrics.accuracy(labels, predictions) == pytest.approx(np.mean(labels == predictions))
    assert metrics.balanced_accuracy(labels, predictions) == pytest.approx(balanced_accuracy_score(labels, predictions))
    expected = roc_auc_score(labels, p[:, 1]) if k == 2 else roc_auc_score(labels, p, multi_class="ovr")
    assert metrics.auroc(labels, p) == pytest.approx(expected)
    assert metrics.nll(labels, p) == pytest.approx(log_loss(labels, p, labels=range(k)))


@quick
@given(outcomes())
def test_brier_is_the_multi_class_sum_and_twice_the_binary_form(data):
    labels, p = data
    by_hand = np.mean([sum((p[i, k] - (labels[i] == k)) ** 2 for k in range(p.shape[1])) for i in range(len(p))])
    assert metrics.brier(labels, p) == pytest.approx(by_hand, abs=1e-6)
    assert 0 <= metrics.brier(labels, p) <= 2
    if p.shape[1] == 2:
        assert metrics.brier(labels, p) == pytest.approx(2 * brier_score_loss(labels, p[:, 1].clip(0, 1)), abs=1e-6)


@quick
@given(outcomes(), st.randoms(use_true_random=False))
def test_ece_does_not_depend_on_the_order_of_images(data, random):
    labels, p = data
    order = list(range(len(p)))
    random.shuffle(order)
    assert metrics.ece(labels, p) == pytest.approx(metrics.ece(labels[order], p[order]), abs=1e-12)
    assert metrics.reliability(labels, p)["share"].sum() == pytest.approx(1)


@pytest.mark.parametrize("n", [15, 30, 150])
def test_ece_has_bins_of_equal_mass(n):
    rng = np.random.default_rng(n)
    labels, p = rng.integers(0, 3, n), softmax(rng.normal(size=(n, 3)))
    confidence, correct = p.max(axis=1).astype(float), p.argmax(axis=1) == labels
    bins = np.array_split(np.argsort(confidence), 15)
    expected = sum(len(b) / n * abs(correct[b].mean() - confidence[b].mean()) for b in bins)
    assert metrics.ece(labels, p) == pytest.approx(expected)


@pytest.mark.parametrize("n", [150, 300, 1500])
def test_ece_is_the_mean_gap_of_scikit_learns_calibration_curve(n):
    """In bins of equal mass without ties, as there n is a multiple of the bins."""
    rng = np.random.default_rng(n)
    labels, p = rng.integers(0, 2, n), softmax(2 * rng.normal(size=(n, 2))).astype(float)
    correct = p.argmax(axis=1) == labels
    accuracy, confidence = calibration_curve(correct, p.max(axis=1), n_bins=15, strategy="quantile")
    assert len(accuracy) == 15
    assert metrics.ece(labels, p) == pytest.approx(np.abs(accuracy - confidence).mean())


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
    assert metrics.ece(labels, p, bins) == pytest.approx(sum(gaps) / len(images))


@quick
@given(outcomes())
def test_accuracy_equals_a_hand_count(data):
    labels, p = data
    right = 0
    for label, row in zip(labels.tolist(), p.tolist(), strict=True):
        said = int(row[1] >= 0.5) if len(row) == 2 else row.index(max(row))
        right += 1 if said == label else 0
    assert metrics.accuracy(labels, metrics.predict(p)) == right / len(labels)


@quick
@given(outcomes(classes=2))
def test_auroc_is_the_statistic_of_mann_and_whitney(data):
    labels, p = data
    ill, well = p[labels == 1, 1], p[labels == 0, 1]
    u = scipy.stats.mannwhitneyu(ill, well, method="asymptotic").statistic
    assert metrics.auroc(labels, p) == pytest.approx(u / (len(ill) * len(well)))


def test_ece_of_a_constant_is_the_gap_to_its_accuracy():
    labels = np.r_[np.zeros(30, int), np.ones(70, int)]
    assert metrics.ece(labels, np.tile([0.4, 0.6], (100, 1))) == pytest.approx(0.1)


@quick
@given(outcomes(classes=2))
def test_threshold_is_the_midpoint_of_the_widest_interval_of_best_thresholds(data):
    labels, p = data
    scores = p[:, 1].astype(np.float64).clip(0, 1)

    def value(t):
        return ((scores >= t)[labels == 1].mean() + (scores < t)[labels == 0].mean()) / 2

    # The rule is constant between neighbouring scores: try a point in each gap, and every score itself.
    edges = np.unique(np.r_[0.0, scores, 1.0])
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
    found = metrics.threshold(labels, scores)
    assert value(found) == pytest.approx(best)
    assert any(found == pytest.approx((a + b) / 2, abs=1e-12) for a, b in merged)
    at = next((a, b) for a, b in merged if a <= found <= b)
    assert at[1] - at[0] == pytest.approx(max(b - a for a, b in merged), abs=1e-12)


@pytest.mark.parametrize(
    ("labels", "scores", "expected"),
    [
        ([0, 0, 1, 1], [0.1, 0.2, 0.6, 0.9], 0.4),
        ([0, 1], [0.5, 0.5], 0.5),  # nothing to choose: every threshold ties
        ([0, 1], [0.0, 1.0], 0.5),
        ([1, 0, 1], [0.1, 0.2, 0.9], 0.55),
    ],
)
def test_threshold_by_hand(labels, scores, expected):
    assert metrics.threshold(labels, scores) == pytest.approx(expected)


def test_threshold_between_neighbouring_float32_scores_separates_them():
    low = np.float32(0.7)
    high = np.nextafter(low, np.float32(1))
    p = np.array([[1 - low, low], [1 - high, high]], dtype=np.float32)
    assert metrics.predict(p, metrics.threshold([0, 1], p[:, 1])).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("labels", "scores", "match"),
    [([1, 1], [0.1, 0.2], "both present"), ([0, 2], [0.1, 0.2], "0 and 1"), ([0, 1], [0.1, math.nan], "probabilities")],
)
def test_threshold_refuses(labels, scores, match):
    with pytest.raises(ValueError, match=match):
        metrics.threshold(labels, scores)


def test_predict():
    assert metrics.predict([[0.5, 0.5], [0.51, 0.49]]).tolist() == [1, 0]
    assert metrics.predict([[0.2, 0.5, 0.3]]).tolist() == [1]
    with pytest.raises(ValueError, match="two classes"):
        metrics.predict([[0.2, 0.5, 0.3]], 0.5)


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
@pytest.mark.parametrize("metric", [metrics.auroc, metrics.brier, metrics.ece, metrics.nll])
def test_metrics_refuse(metric, labels, p, match):
    with pytest.raises(ValueError, match=match):
        metric(labels, p)


@pytest.mark.parametrize("metric", [metrics.brier, metrics.ece, metrics.nll])
def test_logits_are_refused_as_probabilities(metric):
    with pytest.raises(ValueError, match="were these logits"):
        metric([0], [[3.0, -1.0]])


def test_certain_mistakes_are_no_ties():
    """In float32 every one of these probabilities is 0 or 1."""
    table = make_run(n=40).to_pandas()
    table["logits"] = [[0.0, 30.0 - 2 * y + i / 100] for i, y in enumerate(table["label"])]
    stored = pa.Table.from_pandas(table, schema=make_run().schema, preserve_index=False)
    rows = metrics.summarise(stored.replace_schema_metadata(make_run().schema.metadata))
    assert (rows[rows["recipe"] == "rtda"]["auroc"] < 0.1).all()


def test_auroc_is_undefined_where_a_class_is_missing():
    assert math.isnan(metrics.auroc([1, 1], [[0.5, 0.5], [0.4, 0.6]]))
    assert math.isnan(metrics.auroc([0, 1], np.full((2, 3), 1 / 3)))


def test_rms_grey_levels():
    assert metrics.rms_grey_levels(2.0, 224) == pytest.approx(2.28, abs=0.005)
    assert metrics.rms_grey_levels(0.571, 64) == pytest.approx(metrics.rms_grey_levels(2.0, 224), rel=1e-3)
    assert metrics.rms_grey_levels(1, 64, channels=4) == pytest.approx(metrics.rms_grey_levels(1, 64) / 2)
    assert metrics.rms_grey_levels(8 / 255, 28, norm="linf") == pytest.approx(8)
    with pytest.raises(ValueError, match="l1"):
        metrics.rms_grey_levels(1, 28, norm="l1")


def test_summary_has_one_row_per_run_split_and_view_in_order_and_the_constant_at_the_end():
    table = pa.concat_tables([make_run("rtda", 0), make_run("rtda", 1), make_run("standard", 0)])
    summary = metrics.summarise(table)
    assert list(summary.columns)[:6] == ["bundle", "recipe", "seed", "checkpoint", "split", "view"]
    places = [("validation", "clean")] + [("test", view[0]) for view in VIEWS]
    runs = [("rtda", 0), ("rtda", 1), ("standard", 0), (metrics.CONSTANT, None)]
    found = [
        (r.recipe, None if pd.isna(r.seed) else int(r.seed), r.split, r.view) for r in summary.itertuples(index=False)
    ]
    assert found == [(*run, *place) for run in runs for place in places]
    assert (summary["n"] == 40).all()


def test_summary_takes_the_threshold_of_the_runs_own_clean_validation():
    tables = [make_run("rtda", 0), make_run("rtda", 1)]
    summary = metrics.summarise(pa.concat_tables(tables))
    for seed, table in enumerate(tables):
        frame = table.to_pandas()
        valid = frame[frame["split"] == "validation"]
        cut = metrics.threshold(valid["label"], scipy.special.softmax(np.stack(valid["logits"]).astype(float), 1)[:, 1])
        rows = summary[(summary["recipe"] == "rtda") & (summary["seed"] == seed)]
        assert set(rows["threshold"]) == {cut}
        assert set(rows["threshold_source"]) == {"clean validation"}
        part = frame[(frame["split"] == "test") & (frame["view"] == "pgd20_l2_0.25")]
        row = rows[(rows["split"] == "test") & (rows["view"] == "pgd20_l2_0.25")].iloc[0]
        p1 = scipy.special.softmax(np.stack(part["logits"]).astype(float), 1)[:, 1]
        assert row["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(part["label"], p1 >= cut))
        assert row["balanced_accuracy_at_half"] == pytest.approx(balanced_accuracy_score(part["label"], p1 >= 0.5))
        assert (row["family"], row["norm"], row["epsilon"]) == ("attack", "l2", 0.25)
        assert summary[summary["view"] == "contrast_down_5"]["severity"].tolist() == [5, 5, 5]


def test_summary_says_how_strong_a_shift_is_where_the_metadata_do():
    table = make_run()
    facts = json.loads(table.schema.metadata[b"rtda"]) | {"parameters": {"contrast_down_5": "factor 0.4"}}
    stated = metrics.summarise(table.replace_schema_metadata({b"rtda": json.dumps(facts).encode()}))
    assert set(stated[stated["view"] == "contrast_down_5"]["parameter"]) == {"factor 0.4"}
    assert stated[stated["view"] != "contrast_down_5"]["parameter"].isna().all()
    assert metrics.summarise(table)["parameter"].isna().all()


@pytest.mark.parametrize("classes", [2, 3])
def test_constant_answers_the_prior_for_every_image(classes):
    prior = [0.2, 0.8] if classes == 2 else [0.2, 0.5, 0.3]
    rows = metrics.summarise(make_run(classes=classes, prior=prior, n=30)).query("recipe == @metrics.CONSTANT")
    assert len(rows) == 1 + len(VIEWS)
    assert rows[[*metrics.METRICS]].drop_duplicates().shape[0] == 1
    row = rows.iloc[0]
    assert row["balanced_accuracy"] == pytest.approx(1 / classes)
    assert row["auroc"] == 0.5
    assert row["accuracy"] == pytest.approx(1 / classes)  # the classes are equally frequent here
    expected = np.mean([sum((prior[k] - (y == k)) ** 2 for k in range(classes)) for y in range(classes)])
    assert row["brier"] == pytest.approx(expected)
    assert row["ece"] == pytest.approx(max(prior) - 1 / classes)
    assert row["nll"] == pytest.approx(-np.mean(np.log(prior)))


def test_without_validation_the_threshold_is_a_half_and_says_so():
    summary = metrics.summarise(make_run(splits=("test",)))
    rows = summary[summary["recipe"] == "rtda"]
    assert set(rows["threshold"]) == {0.5}
    assert set(rows["threshold_source"]) == {"0.5 (no validation split)"}
    assert (rows["balanced_accuracy"] == rows["balanced_accuracy_at_half"]).all()


def test_three_classes_are_decided_by_argmax():
    table = make_run(classes=3, n=60)
    rows = metrics.summarise(table)
    row = rows[(rows["recipe"] == "rtda") & (rows["split"] == "test") & (rows["view"] == "clean")].iloc[0]
    frame = table.to_pandas()
    part = frame[(frame["split"] == "test") & (frame["view"] == "clean")]
    p = np.stack(part["probabilities"])
    assert row["threshold_source"] == "argmax"
    assert math.isnan(row["threshold"])
    assert math.isnan(row["balanced_accuracy_at_half"])
    assert row["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(part["label"], p.argmax(axis=1)))
    assert row["auroc"] == pytest.approx(roc_auc_score(part["label"], p.astype(float), multi_class="ovr"), abs=1e-6)


def test_summary_refuses():
    table = make_run()
    with pytest.raises(ValueError, match="same image twice"):
        metrics.summarise(pa.concat_tables([table, table]))
    with pytest.raises(ValueError, match="no rows"):
        metrics.summarise(table.slice(0, 0))
    with pytest.raises(ValueError, match="metadata"):
        metrics.summarise(table.replace_schema_metadata(None))
    with pytest.raises(ValueError, match="3 classes, but rows with 2 logits"):
        metrics.summarise(table.replace_schema_metadata(make_run(classes=3).schema.metadata))
    other = table.set_column(0, "bundle", pa.array(["other"] * len(table)))
    with pytest.raises(ValueError, match="one bundle"):
        metrics.summarise(pa.concat_tables([table, other]))


def test_flat_gives_mlflow_keys_of_the_reported_split():
    summary = metrics.summarise(make_run())
    values = metrics.flat(summary)
    test = summary[(summary["recipe"] == "rtda") & (summary["split"] == "test")].set_index("view")
    assert set(values) == {f"{view[0]}/{metric}" for view in VIEWS for metric in metrics.METRICS}
    assert values["pgd20_l2_0.25/auroc"] == test.loc["pgd20_l2_0.25", "auroc"]
    assert "clean/balanced_accuracy_at_half" not in metrics.flat(metrics.summarise(make_run(classes=3)))
    with pytest.raises(ValueError, match="one run"):
        metrics.flat(metrics.summarise(pa.concat_tables([make_run(seed=0), make_run(seed=1)])))
