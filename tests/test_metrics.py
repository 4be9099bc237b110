"""The summary of a table, against the definition of its rows and scikit-learn."""

import json
import math

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scipy.special
from cases import VIEWS, make_run
from rtda.pipeline.evidence import metrics, scores
from rtda.pipeline.evidence.answers import answers
from rtda.pipeline.evidence.outcomes import METRICS
from sklearn.metrics import balanced_accuracy_score, roc_auc_score


def test_certain_mistakes_are_no_ties():
    """In float32 every one of these probabilities is 0 or 1."""
    table = make_run(n=40).to_pandas()
    table["logits"] = [[0.0, 30.0 - 2 * y + i / 100] for i, y in enumerate(table["label"])]
    stored = pa.Table.from_pandas(table, schema=make_run().schema, preserve_index=False)
    rows = metrics.summarise(stored.replace_schema_metadata(make_run().schema.metadata))
    assert (rows[rows["recipe"] == "rtda"]["auroc"] < 0.1).all()


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
    places = [("validation", "clean")] + [("test", view) for view in VIEWS]
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
        cut = scores.threshold(valid["label"], scipy.special.softmax(np.stack(valid["logits"]).astype(float), 1)[:, 1])
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
    assert rows[[*METRICS]].drop_duplicates().shape[0] == 1
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
    assert set(values) == {f"{view}/{metric}" for view in VIEWS for metric in METRICS}
    assert values["pgd20_l2_0.25/auroc"] == test.loc["pgd20_l2_0.25", "auroc"]
    assert "clean/balanced_accuracy_at_half" not in metrics.flat(metrics.summarise(make_run(classes=3)))
    with pytest.raises(ValueError, match="one run"):
        metrics.flat(metrics.summarise(pa.concat_tables([make_run(seed=0), make_run(seed=1)])))


def test_summary_states_the_temperature_and_what_it_mends():
    summary = metrics.summarise(make_run())
    rows = summary[summary["recipe"] == "rtda"]
    assert set(rows["temperature"]) == {metrics.validated_temperature(make_run())}
    assert rows[["brier_scaled", "ece_scaled", "nll_scaled", "sensitivity_at_90"]].notna().all(axis=None)
    constant = summary[summary["recipe"] == metrics.CONSTANT]
    assert constant[["temperature", "nll_scaled", "sensitivity_at_90"]].isna().all(axis=None)
    validation = rows[rows["split"] == "validation"].iloc[0]
    assert validation["nll_scaled"] <= validation["nll"]  # it was fitted there
    assert validation["specificity_at_90"] >= 0.9
    without = metrics.summarise(make_run(splits=("test",)))
    assert (
        without[["temperature", "brier_scaled", "ece_scaled", "nll_scaled", "specificity_at_90"]].isna().all(axis=None)
    )
    assert metrics.validated_temperature(make_run(splits=("test",))) is None


def test_a_multi_label_table_has_a_threshold_for_each_label_and_macro_metrics():
    table = make_run(classes=3, multilabel=True, n=60)
    summary = metrics.summarise(table)
    row = summary.query("recipe == 'rtda' and split == 'test' and view == 'clean'").iloc[0]
    frame = table.to_pandas().query("split == 'test' and view == 'clean'")
    labels, p = np.stack(frame["label"]), np.stack(frame["probabilities"])
    assert row["auroc"] == pytest.approx(roc_auc_score(labels, p, average="macro"))
    assert row["threshold_source"] == "clean validation, a threshold for each label"
    assert math.isnan(row["threshold"])
    assert metrics.validated_temperature(table) is None
    rules = answers(table).rules
    at = p >= [rule.threshold for rule in rules]
    each = [balanced_accuracy_score(labels[:, k], at[:, k]) for k in range(3)]
    assert row["balanced_accuracy"] == pytest.approx(np.mean(each))
    found = metrics.intervals(table, draws=100).set_index(["view", "metric"])
    assert found.loc[("clean", "auroc"), "value"] == pytest.approx(row["auroc"])
    assert (found["low"].dropna() <= found["high"].dropna()).all()


def test_the_constant_of_a_multi_label_table_answers_the_rate_of_each_label():
    prior = [0.2, 0.6, 0.9]
    summary = metrics.summarise(make_run(classes=3, multilabel=True, prior=prior, n=60))
    row = summary.query("recipe == @metrics.CONSTANT").iloc[0]
    labels = answers(make_run(classes=3, multilabel=True, n=60)).labels
    assert row["brier"] == pytest.approx(2 * np.mean((np.array(prior) - labels) ** 2))
    assert row["auroc"] == 0.5
    assert row["balanced_accuracy"] == pytest.approx(0.5)
    assert row["accuracy"] == pytest.approx(np.mean(labels == [0, 1, 1]))


def test_views_of_other_images_are_refused():
    table = make_run()
    with pytest.raises(ValueError, match=r"^view 'contrast_down_5': not the images of the first view"):
        metrics.intervals(table.slice(0, len(table) - 1))
    with pytest.raises(ValueError, match=r"^one run at a time"):
        metrics.intervals(pa.concat_tables([make_run(seed=0), make_run(seed=1)]))
