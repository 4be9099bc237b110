"""Two models on the same images, against closed forms, DeLong's variance, McNemar's table and closed testing."""

import itertools
import math

import numpy as np
import pyarrow as pa
import pytest
import scipy.stats
from cases import VIEWS, make_run
from hypothesis import given, settings
from hypothesis import strategies as st
from rtda.pipeline.evidence import bootstrap
from rtda.pipeline.evidence.answers import answers
from rtda.pipeline.evidence.comparison import (
    DETECTABLE,
    NOT_DECIDABLE,
    compare,
    endpoints,
    holm,
    paired,
    two_sided,
)
from rtda.pipeline.evidence.metrics import flat, intervals, summarise

N = 120


def pair(**more):
    return make_run("standard", n=N, strength=1.0, **more), make_run("rtda", n=N, strength=2.0, **more)


def rows_of(found):
    return found.rows.set_index(["view", "metric"])


def test_a_comparison_holds_both_values_and_their_difference():
    a, b = pair()
    rows = rows_of(compare(a, b, draws=100))
    of_a, of_b = flat(summarise(a)), flat(summarise(b))
    views = [key for key in rows.index if key[0] in VIEWS]
    assert {metric for _, metric in views} >= {"auroc", "balanced_accuracy", "brier", "brier_scaled", "nll_scaled"}
    for view, metric in views:
        row = rows.loc[(view, metric)]
        assert row["a"] == pytest.approx(of_a[f"{view}/{metric}"])
        assert row["b"] == pytest.approx(of_b[f"{view}/{metric}"])
    assert rows["difference"].to_numpy() == pytest.approx((rows["b"] - rows["a"]).to_numpy())
    assert {("attacks", "worst_case_accuracy"), ("shifts", "mce")} <= set(rows.index)
    assert rows.loc[("shifts", "mce"), "a"] == pytest.approx(1)  # A is the baseline


def test_the_other_way_round_all_signs_turn():
    """But for what is relative to the baseline."""
    a, b = pair()
    there, back = (rows_of(compare(*tables, draws=200)) for tables in ((a, b), (b, a)))
    keys = [key for key in there.index if not key[1].endswith("mce")]
    for key in keys:
        assert there.loc[key, ["difference", "low", "high"]].tolist() == pytest.approx(
            (-back.loc[key, ["difference", "high", "low"]]).tolist(), abs=1e-12
        )
        assert there.loc[key, "detectable"] == pytest.approx(back.loc[key, "detectable"])
        if there.loc[key, "verdict"] != NOT_DECIDABLE:
            assert there.loc[key, "verdict"][0] != back.loc[key, "verdict"][0]


def test_a_run_beside_itself_differs_in_nothing_and_nothing_is_decided():
    table = make_run(n=N)
    found = compare(table, table, draws=100)
    assert (found.rows["difference"] == 0).all()
    assert set(found.rows["verdict"]) == {NOT_DECIDABLE}
    assert found.endpoints["p"].tolist() == [1, 1, 1]


def test_draws_are_paired():
    """Two models of the same mistakes but for a constant: their metrics move together, the differences hardly."""
    a = make_run(n=N)
    rows = rows_of(compare(a, _with_logits(a, lambda z: z * 1.05), draws=300))
    alone = intervals(a, draws=300).set_index(["view", "metric"])
    row, brier = rows.loc[("clean", "brier")], alone.loc[("clean", "brier")]
    assert row["high"] - row["low"] < (brier["high"] - brier["low"]) / 4


def _with_logits(table, change, order=None):
    rows = table.to_pylist()
    for row in rows:
        row["logits"] = [float(value) for value in change(np.asarray(row["logits"]))]
    return pa.Table.from_pylist(rows, table.schema)


def test_the_order_of_images_does_not_matter():
    a, b = pair()
    order = np.random.default_rng(0).permutation(len(b))
    assert (
        compare(a, b, draws=50).rows.equals(compare(a, b.take(order.tolist()), draws=50).rows) is False
    )  # views' order
    one, other = (rows_of(compare(a, table, draws=50)) for table in (b, b.take(order.tolist())))
    assert one["difference"].to_numpy() == pytest.approx(other.loc[one.index, "difference"].to_numpy())
    assert one["low"].to_numpy() == pytest.approx(other.loc[one.index, "low"].to_numpy(), nan_ok=True)


# The standard error


def accuracies(seed=0, n=400):
    """Which of n images each of two models has right, one image a patient."""
    rng = np.random.default_rng(seed)
    hard = rng.random(n)
    return hard < 0.8 + 0.1 * rng.normal(size=n), hard < 0.7 + 0.1 * rng.normal(size=n)


def test_the_standard_error_of_a_difference_of_accuracies_is_that_of_mcnemars_table():
    right_a, right_b = accuracies()
    n, only_a, only_b = len(right_a), (right_a & ~right_b).sum(), (right_b & ~right_a).sum()
    error = math.sqrt((only_a + only_b - (only_a - only_b) ** 2 / n) / n**2)
    drawn = bootstrap.counts([None] * n, draws=4000)
    apart = bootstrap.mean(drawn, right_b) - bootstrap.mean(drawn, right_a)
    row = paired("accuracy", right_a.mean(), right_b.mean(), apart)
    assert row["detectable"] == pytest.approx((1.959964 + 0.841621) * error, rel=0.04)
    mcnemar = scipy.stats.binomtest(int(only_b), int(only_a + only_b)).pvalue
    assert two_sided(apart, row["difference"]) == pytest.approx(mcnemar, abs=0.02)


def test_the_standard_error_of_a_difference_of_aurocs_is_delongs():
    rng = np.random.default_rng(0)
    labels = np.arange(300) % 2
    shared = rng.normal(size=300)
    scores = [labels * s + 0.8 * shared + 0.6 * rng.normal(size=300) for s in (0.8, 1.2)]
    parts = []
    for score in scores:  # DeLong et al. 1988, by comparing every pair
        wins = (score[labels == 1][:, None] > score[labels == 0]).astype(float)
        parts.append((wins.mean(), wins.mean(axis=1), wins.mean(axis=0)))
    (auc_a, ill_a, well_a), (auc_b, ill_b, well_b) = parts
    error = math.sqrt(np.var(ill_b - ill_a, ddof=1) / 150 + np.var(well_b - well_a, ddof=1) / 150)
    drawn = bootstrap.counts([None] * 300, draws=4000)
    none = np.zeros((300, 2))
    found = [bootstrap.replicates(drawn, labels, none, np.c_[-score, score], {})["auroc"] for score in scores]
    row = paired("auroc", auc_a, auc_b, found[1] - found[0])
    assert row["detectable"] == pytest.approx(DETECTABLE * error, rel=0.05)


def test_the_smallest_detectable_difference_is_found_four_times_in_five():
    """A test at 5 % of an estimate that scatters by SE about (z_0.975 + z_0.8) SE."""
    estimates = np.random.default_rng(0).normal(DETECTABLE, 1, 200_000)
    assert (np.abs(estimates) > scipy.stats.norm.ppf(0.975)).mean() == pytest.approx(0.8, abs=0.005)


def test_a_smaller_difference_is_not_decidable_and_a_larger_one_says_whose_it_is():
    scatter = np.random.default_rng(0).normal(0, 0.01, 1000)
    for metric, b, verdict in (
        ("auroc", 0.52, NOT_DECIDABLE),
        ("auroc", 0.54, "B better"),
        ("auroc", 0.46, "A better"),
        ("brier", 0.54, "A better"),
        ("nll_scaled", 0.46, "B better"),
        ("mce", 0.54, "A better"),
        ("sensitivity_at_90", 0.54, "B higher"),
        ("specificity_at_90", 0.46, "A higher"),
    ):
        assert paired(metric, 0.5, b, scatter + b - 0.5)["verdict"] == verdict, metric
    unknown = paired("auroc", 0.5, 0.9, np.full(1000, np.nan))
    assert unknown["verdict"] == NOT_DECIDABLE
    assert math.isnan(unknown["detectable"])


# P-values


def test_p_values_are_uniform_where_there_is_no_difference():
    """In 300 worlds without one, each with 60 patients."""
    found = []
    for seed in range(300):
        apart = np.random.default_rng(seed).normal(size=60)
        drawn = bootstrap.counts([None] * 60, draws=300, seed=seed)
        found.append(two_sided(bootstrap.mean(drawn, apart), apart.mean()))
    assert scipy.stats.kstest(found, "uniform").pvalue > 0.01
    assert 0.02 < np.mean(np.array(found) < 0.05) < 0.09


def test_a_p_value_is_never_0_and_not_stated_where_replicates_are_undefined():
    assert two_sided(np.ones(999), 1.0) == 1 / 1000
    assert two_sided(np.zeros(9), 0.0) == 1
    assert math.isnan(two_sided([1.0, 1.0, np.nan], 1.0))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=0, max_size=5))
def test_holm_is_closed_testing_with_bonferroni(p):
    """An adjusted p-value is the largest of the Bonferroni ones of all intersections that a hypothesis belongs to."""
    sets = [s for size in range(1, len(p) + 1) for s in itertools.combinations(range(len(p)), size)]
    expected = [max(min(1, len(s) * min(p[i] for i in s)) for s in sets if k in s) for k in range(len(p))]
    assert holm(p) == pytest.approx(expected)


def test_only_the_endpoints_declared_beforehand_have_p_values():
    a, b = pair()
    found = compare(a, b, draws=300)
    declared = [("pgd20_l2_0.25", "balanced_accuracy"), ("clean", "auroc"), ("contrast_down_5", "brier")]
    assert endpoints(answers(a)) == declared
    assert found.endpoints.index.tolist() == declared
    assert found.rows["p"].notna().sum() == 3
    assert found.endpoints["p_holm"].tolist() == pytest.approx(holm(found.endpoints["p"].tolist()))
    assert (found.endpoints["p_holm"] >= found.endpoints["p"]).all()


def test_an_endpoint_that_was_not_evaluated_is_not_tested():
    views = {"clean": VIEWS["clean"]}
    found = compare(*pair(views=views), draws=50)
    assert found.endpoints.index.tolist() == [("clean", "auroc")]
    assert found.endpoints["p"].tolist() == found.endpoints["p_holm"].tolist()


@pytest.mark.parametrize("more", [{"classes": 3}, {"classes": 3, "multilabel": True}, {"splits": ("test",)}])
def test_other_sets_are_compared_too(more):
    found = compare(*pair(**more), draws=100)
    assert len(found.endpoints) == 3
    assert found.endpoints["p"].between(0, 1).all()
    scaled = {metric for metric in found.rows["metric"] if metric.endswith("_scaled")}
    assert bool(scaled) == (more.get("splits") != ("test",))


# What is refused


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"checksum_list": "0"}, "checksum list: not as in A; only answers to the same question can be compared"),
        ({"training_radius": 0.5}, "training radius: not as in A; only"),
        ({"image_size": 64}, "image size: not as in A; only"),
        ({"splits": ("validation",)}, "split: not as in A; evaluate both on the same --split"),
        ({"views": {"clean": VIEWS["clean"]}}, "views: not as in A; evaluate both with the same --preset"),
        ({"parameters": {"contrast_down_5": "factor 0.5"}}, "views: not as in A; evaluate both with the same --preset"),
        ({"n": N + 1}, "images: not those of A; evaluate both again"),
        ({"columns": {"label": [0] * (N - 1) + [1]}}, "labels: not those of A; evaluate both again"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_is_not_alike_is_refused_in_one_line(more, told):
    with pytest.raises(ValueError, match="^B: " + told) as caught:
        compare(make_run(n=N), make_run(**{"n": N, **more}))
    assert "\n" not in str(caught.value)


def test_tables_of_several_runs_are_refused():
    both = pa.concat_tables([make_run(seed=0), make_run(seed=1)])
    with pytest.raises(ValueError, match=r"^one run at a time"):
        compare(make_run(), both)
