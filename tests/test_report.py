"""The report: numbers of the tables, one file that fetches nothing, safe against hostile names, the same each time."""

import html
import json
import re
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pytest
from rtda.pipeline.evidence import pictures
from rtda.pipeline.evidence.gate import MEANINGS, Check, Gate, not_run
from rtda.pipeline.evidence.metrics import CONSTANT, intervals, summarise
from rtda.pipeline.evidence.report import finding, write_report
from rtda.pipeline.evidence.results import read
from rtda.pipeline.evidence.table import COLUMNS, MULTILABEL, facts_of, with_facts

SIZE, RADIUS = 28, 0.25
VIEWS = {
    "clean": ("clean", None, None, None),
    "fgsm_l2_0.25": ("attack", "l2", 0.25, None),
    "pgd20_l2_0.125": ("attack", "l2", 0.125, None),
    "pgd20_l2_0.25": ("attack", "l2", 0.25, None),
    "pgd20_l2_0.5": ("attack", "l2", 0.5, None),
    "contrast_down_5": ("shift", None, None, 5),
    "contrast_up_5": ("shift", None, None, 5),
    "gaussian_noise_5": ("shift", None, None, 5),
}
# How far the two classes lie apart in each view, in units of the noise.
STRENGTH = {
    "standard": (2.4, -0.6, 0.6, -1.4, -4.0, 0.8, 2.2, 1.8),
    "adversarial": (1.9, 1.2, 1.5, 1.1, 0.3, 0.9, 1.7, 1.8),
    "rtda": (2.2, 1.5, 1.8, 1.4, 0.6, 1.9, 2.1, 2.0),
}


def make_table(
    recipe="rtda", seed=0, n=90, classes=("normal", "pneumonia"), weight=12.0, views=VIEWS, reported="test", **facts
):
    rng = np.random.default_rng([len(recipe), seed])
    rows = []
    for split, names in {"validation": ["clean"], reported: views}.items():
        labels = (np.arange(n) * 7 % 10 >= 4).astype(int) if len(classes) == 2 else np.arange(n) % len(classes)
        for name in names:
            strength = STRENGTH[recipe][list(VIEWS).index(name)]
            logits = (
                rng.normal(size=(n, len(classes)))
                + strength * np.eye(len(classes))[labels]
                + [0.3, *[0] * (len(classes) - 1)]
            )
            p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
            for i in range(n):
                row = {"bundle": "phantom_rtda", "recipe": recipe, "seed": seed, "checkpoint": "best", "split": split}
                row |= {"image_id": f"secret-image-{split}-{i}", "patient_id": f"secret-patient-{split}-{i // 2}"}
                row |= {"label": int(labels[i]), "view": name, "logits": logits[i], "probabilities": p[i]}
                rows.append(row | dict(zip(("family", "norm", "epsilon", "severity"), VIEWS[name], strict=True)))
    known = {
        "classes": list(classes),
        "training_prior": [0.375, 0.625] if len(classes) == 2 else [1 / len(classes)] * len(classes),
        "image_size": SIZE,
        "channels": 1,
        "threads": 1,
        "checksum_list": "5f2b" * 16,
        "checksum_weights": f"{len(recipe)}{seed}a7" * 16,
        "consistency_weight": weight,
        "versions": {"rtda": "0.1.0", "torch": "2.9.0", "monai": "1.6.1"},
        "training_radius": RADIUS,
        "training_norm": "l2",
        "training_precision": "float32",
        "parameters": {"contrast_down_5": "factor 0.4", "contrast_up_5": "factor 1.6", "gaussian_noise_5": "σ 0.08"},
    }
    table = pa.Table.from_pylist([{name: row.get(name) for name in COLUMNS.names} for row in rows], COLUMNS)
    return table.replace_schema_metadata({b"rtda": json.dumps(known | facts).encode()})


def make_example(folder, recipe="rtda", n=3):
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE - 0.5
    clean = np.stack([0.15 + 0.6 * np.exp(-((x - s) ** 2) * 30 - y**2 * 8) for s in np.linspace(-0.2, 0.2, n)])[:, None]
    delta = rng.normal(size=clean.shape)
    delta *= RADIUS / np.sqrt((delta**2).sum(axis=(1, 2, 3), keepdims=True))
    path = folder / f"secret-file-{recipe}.npz"
    arrays = {
        "clean": clean,
        "augmented": 0.5 + 0.6 * (clean[..., ::-1] - 0.5),
        "adversarial": (clean + delta).clip(0, 1),
    }
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    labels = {"labels": np.arange(n) % 2, "predicted_clean": np.arange(n) % 2, "predicted_adversarial": np.ones(n, int)}
    np.savez(path, **arrays, **labels, recipe=recipe, epsilon=RADIUS, norm="l2")
    return path


@pytest.fixture(scope="module")
def tables():
    return [
        make_table(recipe, seed, weight=w)
        for recipe, w in (("standard", 0), ("adversarial", 0), ("rtda", 12))
        for seed in (0, 1)
    ]


@pytest.fixture(scope="module")
def page(tables, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    examples = [make_example(folder, "standard"), make_example(folder, "rtda")]
    return write_report(tables, examples, folder / "new" / "report.html", "Phantom: robustness report").read_text()


def plain(page):
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", page)))


def test_every_number_of_the_main_table_is_the_mean_over_seeds(tables, page):
    text = plain(page[page.index('id="results"') : page.index('id="curves"')])
    for recipe in STRENGTH:
        summaries = [summarise(t) for t in tables if t["recipe"][0].as_py() == recipe]
        for view in VIEWS:
            rows = [
                s[(s["recipe"] == recipe) & (s["split"] == "test") & (s["view"] == view)].iloc[0] for s in summaries
            ]
            cells = []
            for metric in ("auroc", "balanced_accuracy", "balanced_accuracy_at_half"):
                values = [100 * row[metric] for row in rows]
                cells.append(f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}")
            assert f"{recipe} {' '.join(cells)}" in text
    assert text.count("n = 90") == len(VIEWS)


def test_the_constant_stands_in_every_view(page):
    assert plain(page).count(f"{CONSTANT} 50.0 50.0 50.0") == len(VIEWS)


def test_facts_are_stated(page):
    text = plain(page)
    for fact in (
        "ℓ2 ε = 0.25 at 28 × 28, RMS 2.28 grey levels of 255",
        "28 × 28 pixels, 1 channel",
        "90 (36 normal, 54 pneumonia), 45 patients",
        "5f2b5f2b5f2b…",
        "torch 2.9.0",
        "RESEARCH USE ONLY",
        "The attacked numbers are upper bounds",
        "the binary form is half of it",
        "right for 60.0 % of them",
        "own clean validation images",
        "Means over 2 runs.",
    ):
        assert fact in text, fact


VOID = ("meta", "img", "br", "link", "path", "use")


class Links(HTMLParser):
    """Every address that the page would load, every id, every element left open."""

    def __init__(self):
        super().__init__()
        self.loaded, self.ids, self.open = [], [], []

    def handle_starttag(self, tag, attributes):
        self.loaded += [v for k, v in attributes if k in ("src", "href", "xlink:href", "srcset", "data", "action")]
        self.ids += [v for k, v in attributes if k == "id"]
        if tag not in VOID:
            self.open.append(tag)
        assert tag not in ("script", "iframe", "object", "link", "base")

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag


def test_the_page_fetches_nothing_and_is_well_formed(page):
    parser = Links()
    parser.feed(page)
    assert parser.open == []
    assert all(address.startswith(("data:image/png;base64,", "#")) for address in parser.loaded)
    assert {a[1:] for a in parser.loaded if a.startswith("#")} <= set(parser.ids)
    assert len(parser.ids) == len(set(parser.ids))
    assert all(address.startswith("#") for address in re.findall(r"url\(([^)]*)\)", page))
    assert not re.search(r"https?://|@import|//www", page)


def test_no_image_id_patient_or_file_name_reaches_the_page(page):
    assert "secret" not in page


def test_figures_have_titles_and_follow_the_style_sheet(page):
    figures = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert len(figures) == 6  # two curves; clean and attacked, before and after temperature
    for figure in figures:
        assert re.match(r'<svg viewBox="[^"]*" role="img"><title>\S', figure)
        assert "var(--series-3)" in figure
        assert not re.search(r"#0[0-9a-f]{5}\b", figure)
    assert all(re.search(r'alt="[^"]*"', image) for image in re.findall(r"<img[^>]*>", page))


def test_a_hostile_name_is_escaped(tmp_path):
    hostile = '<script>alert("x")</script>$\\frac'
    table = make_table(classes=("normal", hostile), n=30, versions={"<b>": "<i>"})
    page = write_report([table], [make_example(tmp_path)], tmp_path / "r.html", hostile).read_text()
    assert "<script" not in page
    assert "<i>" not in page
    assert "&lt;script&gt;" in page


def test_the_same_input_gives_the_same_bytes(tmp_path):
    example = make_example(tmp_path)
    pages = [write_report([make_table(n=30)], [example], tmp_path / f"{i}.html", "t").read_bytes() for i in range(2)]
    assert pages[0] == pages[1]


def test_the_finding_names_the_best_the_next_and_the_constant(tables):
    text = finding(read(tables))
    scores = read(tables).over_seeds("pgd20_l2_0.25", "balanced_accuracy")["mean"].sort_values(ascending=False)
    assert text == (
        "Under PGD-20 at the training radius, ℓ2 ε = 0.25 at 28 × 28, RMS 2.28 grey levels of 255, "
        f"{scores.index[0]} has the most balanced accuracy, "
        f"{scores.iloc[0]:.1%}; {scores.index[1]} has {scores.iloc[1]:.1%}, a constant answer has 50.0%."
    ).replace("%", "\u00a0%")


def test_the_finding_is_neutral(tables):
    few = [v for v in VIEWS if not v.startswith("pgd20_l2_0.25")]
    assert "no recipe has more balanced accuracy than a constant" in finding(read(tables[:1]))
    assert re.search(
        r"rtda has a balanced accuracy of \d+\.\d\s%, on clean images \d+\.\d\s%; a constant", finding(read(tables[4:]))
    )
    assert finding(read([make_table(views=few)])).startswith("On clean images rtda has")
    twin = make_table(checksum_weights="f" * 64)
    assert "rtda, weights 40a740 and rtda, weights ffffff have the same" in finding(read([make_table(), twin]))


def test_methods_are_told_apart_by_weight_and_checkpoint():
    last = make_table()
    last = last.set_column(4, "checkpoint", pa.array(["last"] * len(last)))
    assert [s.label for s in read([make_table(), last]).series] == ["rtda, best", "rtda, last"]
    other = make_table(weight=4.0, checksum_weights="e" * 64)
    assert [s.label for s in read([make_table(), other]).series] == ["rtda, λ = 12", "rtda, λ = 4"]


def test_three_classes_and_no_pictures(tmp_path):
    table = make_table(classes=("a", "b", "c"), n=60)
    text = plain(write_report([table], [], tmp_path / "r.html", "t").read_text())
    assert "Balanced accuracy at 0.5" not in text
    assert "none: the class of highest probability is predicted" in text
    assert "33.3" in text


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (
            {"training_radius": 0.5},
            "training radius: not as in a/predictions.parquet; a report compares like with like",
        ),
        ({"checksum_list": "0"}, "checksum list: not as in a/predictions.parquet; a report compares like with like"),
        ({"classes": ("a", "b", "c")}, "classes: not as in a/predictions.parquet; a report compares like with like"),
        ({"views": list(VIEWS)[:-1]}, "views: not as in a/predictions.parquet; evaluate both with the same --preset"),
        ({"parameters": {}}, "views: not as in a/predictions.parquet; evaluate both with the same --preset"),
        ({"reported": "validation"}, "split: not as in a/predictions.parquet; evaluate both on the same --split"),
        ({"recipe": "rtda"}, "run: stands twice in the report; give it once"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_tables_that_cannot_be_compared_are_refused_by_name(other, told):
    tables = [make_table(n=30), make_table(**{"recipe": "standard", "n": 30} | other)]
    with pytest.raises(ValueError, match=re.escape(f"b/predictions.parquet: {told}")):
        read(tables, ["a/predictions.parquet", "b/predictions.parquet"])
    with pytest.raises(ValueError, match=r"^table 2: "):
        read(tables)


def test_models_of_two_bundles_stand_side_by_side_under_their_names():
    first, second, foreign = make_table(n=30), make_table(n=30, weights="b"), make_table(n=30, weights="c")
    second = second.set_column(0, "bundle", pa.array(["other"] * len(second)))
    for place in (0, 1):  # a model that was not trained here has its name for both
        foreign = foreign.set_column(place, foreign.column_names[place], pa.array(["net"] * len(foreign)))
    recipe, bundle = first["recipe"][0].as_py(), first["bundle"][0].as_py()
    labels = [series.label for series in read([first, second, foreign]).series]
    assert labels == [f"{recipe}, {bundle}", f"{recipe}, other", "net"]


def test_no_table_and_pictures_of_another_shape_are_refused(tmp_path):
    with pytest.raises(ValueError, match="tables: none"):
        read([])
    (tmp_path / "run").mkdir()
    np.savez(tmp_path / "run/examples.npz", clean=np.zeros((2, 28, 28)))
    with pytest.raises(ValueError, match=r"^run/examples\.npz: clean: \(2, 28, 28\), not .*--no-pictures$"):
        write_report([make_table(n=30)], [tmp_path / "run/examples.npz"], tmp_path / "r.html", "t")


def test_a_list_without_train_or_validation_split_is_marked_so(tmp_path):
    table = make_table(n=30, prior_source="own images")
    table = table.filter(pa.compute.field("split") == "test")
    text = plain(write_report([table], [], tmp_path / "r.html", "t").read_text())
    assert "Threshold 0.5, as there is no validation split to choose it on; no temperature either" in text
    assert "Prior of the list’s own images, which has no train split normal 37.5 %, pneumonia 62.5 %" in text
    assert "Training prior" not in text
    assert "training prior" not in text


def test_the_classes_of_a_multi_label_set_are_counted_and_shown_as_labels(tmp_path):
    table = make_table(n=30)
    rows = [row | {"label": [int(k % 3 == 0), row["label"]]} for k, row in enumerate(table.to_pylist())]
    several = pa.Table.from_pylist(rows, MULTILABEL).replace_schema_metadata(table.schema.metadata)
    several = with_facts(several, facts_of(table) | {"multilabel": True})
    page = write_report([several], [], tmp_path / "r.html", "t").read_text()
    text = plain(page)
    assert "30 (10 normal, 18 pneumonia), 15 patients" in text
    assert "An image may have any number of the classes." in text
    assert "Always answering “" not in text
    assert len(re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)) == 4  # two curves; clean and attacked


def test_a_report_on_validation_says_that_it_was_chosen_there(tmp_path):
    told = "chosen on these very images"
    page = plain(write_report([make_table(reported="validation", n=30)], [], tmp_path / "v.html", "t").read_text())
    assert page.count(told) == 2  # of the checkpoint, and of the threshold
    assert "before the reported images are read" not in page
    page = plain(write_report([make_table(n=30)], [], tmp_path / "t.html", "t").read_text())
    assert told not in page
    assert "The threshold is fixed before the reported images are read" in page


def test_a_shift_states_its_parameter(page):
    text = plain(page)
    for view in ("Contrast down severity 5 of 5, factor 0.4", "Gaussian noise severity 5 of 5, σ 0.08"):
        assert f"{view} · n = 90" in text


@pytest.mark.parametrize(
    ("facts", "stated"),
    [({}, "not stated"), ({"seen": []}, "none"), ({"seen": ["blur", "contrast"]}, "blur, contrast")],
)
def test_a_run_states_the_groups_of_shifts_that_its_augmentation_has_seen(tmp_path, facts, stated):
    text = plain(write_report([make_table(n=30, **facts)], [], tmp_path / "r.html", "t").read_text())
    assert "Recipe λ Seed Shifts seen Checkpoint" in text
    assert f"rtda 12 0 {stated} best" in text


# Differences


def test_the_scale_of_differences_shows_nearly_all_of_them_and_says_what_it_cuts(tmp_path):
    """One pixel that changes by 0.2 does not make black of the others, which change by 0.004."""
    example = dict(np.load(make_example(tmp_path, n=2)))
    example["adversarial"] = example["clean"] + np.float32(0.004)
    example["adversarial"][0, 0, 3, 3] = example["clean"][0, 0, 3, 3] + np.float32(0.2)
    np.savez(tmp_path / "one.npz", **example)
    text = plain(write_report([make_table(n=30)], [tmp_path / "one.npz"], tmp_path / "r.html", "t").read_text())
    assert "The difference is adversarial − clean, × 200, on this scale" in text
    assert "0.1 % of the pixels change by more, by up to 51, and have the colour of its ends" in text
    assert "−1.27 0 +1.27" in text


def test_one_scale_serves_all_recipes(tmp_path):
    """A weaker attack looks weaker: beside a strong one its differences have the strong one's colours."""
    strong = pictures.load(make_example(tmp_path))
    weak = strong | {"adversarial": strong["clean"] + (strong["adversarial"] - strong["clean"]) / 8}
    results = read([make_table(n=30)])
    both, alone = (pictures.pictures(examples, results) for examples in ([weak, strong], [strong]))
    assert both["factor"] == alone["factor"] != pictures.pictures([weak], results)["factor"]
    assert both["groups"][1] == alone["groups"][0]
    assert both["groups"][0]["rows"][0]["images"][-1] != both["groups"][1]["rows"][0]["images"][-1]


def test_pictures_are_of_the_views_that_there_are_in_colour_too(tmp_path):
    example = {name: value for name, value in np.load(make_example(tmp_path)).items() if "a" not in name[:1]}
    example = {name: value for name, value in example.items() if not name.endswith(("adversarial", "epsilon", "norm"))}
    shifted = example["clean"] * np.float32(0.4)
    example |= {
        "worst_shift": shifted,
        "predicted_worst_shift": np.zeros(3, int),
        "view_worst_shift": "contrast_down_5",
    }
    np.savez(tmp_path / "grey.npz", **example)
    coloured = {name: np.repeat(example[name], 3, axis=1) for name in ("clean", "worst_shift")}
    np.savez(tmp_path / "colour.npz", **(example | coloured))
    results = read([make_table(n=30)])
    for name in ("grey", "colour"):
        (group,) = pictures.pictures([pictures.load(tmp_path / f"{name}.npz")], results)["groups"]
        assert group["heads"] == ["clean", "worst shift"]
        assert [len(row["images"]) for row in group["rows"]] == [2, 2, 2]
    text = plain(write_report([make_table(n=30)], [tmp_path / "grey.npz"], tmp_path / "r.html", "t").read_text())
    assert "worst shift: Contrast down, severity 5 of 5, factor 0.4" in text
    assert "on worst shift normal" in text
    assert "The difference is" not in text


def test_where_nothing_changes_the_factor_is_one():
    assert pictures._factor(np.zeros(9)) == 1
    assert pictures._factor(np.array([0.0] * 999 + [0.01])) == 100  # few pixels, as a sparse attack changes them


@pytest.mark.parametrize(("value", "expected"), [(0.3, 1), (1, 1), (4.9, 2), (7, 5), (83, 50), (1e9, 500000)])
def test_the_factor_of_the_difference_is_round(value, expected):
    assert pictures._round_down(value) == expected


# Many shifts

KINDS = {"blur": "blur", "low_dose": "noise"}


def with_shifts(table):
    """The same table with two kinds of shift at five severities, each of which takes more of the logits away."""
    frame, facts = table.to_pandas(), json.loads(table.schema.metadata[b"rtda"])
    clean = frame[(frame["view"] == "clean") & (frame["split"] == "test")]
    parts = [frame]
    for kind, least in (("blur", 0.1), ("low_dose", -0.8)):
        for severity in range(1, 6):
            share = 1 - (1 - least) * severity / 5
            logits = [np.float32(share * z) for z in clean["logits"]]
            shifted = {"view": f"{kind}_{severity}", "family": "shift", "severity": severity, "logits": logits}
            parts.append(clean.assign(**shifted))
    names = [f"{kind}_{severity}" for kind in KINDS for severity in range(1, 6)]
    facts |= {"groups": {name: KINDS[name.rpartition("_")[0]] for name in names}}
    facts["parameters"] |= dict.fromkeys(names, "σ 1")
    rows = pa.concat_tables([pa.Table.from_pandas(part, COLUMNS, preserve_index=False) for part in parts])
    return rows.replace_schema_metadata({b"rtda": json.dumps(facts).encode()})


def balanced(table):
    summary = summarise(table)
    return summary[summary["recipe"] != CONSTANT].set_index(["split", "view"])["balanced_accuracy"]


def with_attack(name):
    """A table with another attack in the place of FGSM."""
    frame = make_table().to_pandas()
    frame["view"] = frame["view"].replace("fgsm_l2_0.25", name)
    table = pa.Table.from_pandas(frame, COLUMNS, preserve_index=False)
    return table.replace_schema_metadata(make_table().schema.metadata)


def test_random_search_is_called_by_what_it_is(tmp_path):
    text = plain(write_report([with_attack("random100_l2_0.25")], [], tmp_path / "r.html", "t").read_text())
    assert "Worst of 100 random perturbations ℓ2 ε = 0.25 at 28 × 28" in text


def test_of_one_run_the_interval_over_patients_stands_beside_each_figure(tmp_path):
    table = make_table()
    page = write_report([table], [], tmp_path / "r.html", "t").read_text()
    rows = intervals(table).set_index(["view", "metric"])
    for view, metric in (("clean", "auroc"), ("pgd20_l2_0.25", "balanced_accuracy"), ("clean", "brier")):
        value, low, high = (rows.loc[(view, metric), name] for name in ("value", "low", "high"))
        texts = [f"{x:.3f}" if metric == "brier" else f"{100 * x:.1f}" for x in (value, low, high)]
        assert f'{texts[0]}<span class="spread">{texts[1]}–{texts[2]}</span>' in page
    several = write_report([table, make_table(seed=1)], [], tmp_path / "r.html", "t").read_text()
    assert '<span class="spread">±' in several
    assert re.search(r'<span class="spread">[\d.]+–', several) is None


def test_objective_and_restarts_of_an_attack_are_told(tmp_path):
    text = plain(write_report([with_attack("pgd100_margin_x5_l2_0.25")], [], tmp_path / "r.html", "t").read_text())
    assert "PGD-100 on the margin, 5 starts ℓ2 ε = 0.25 at 28 × 28" in text


@pytest.mark.parametrize("seen", [{}, {"seen": ["unstated"]}])
def test_where_nothing_says_what_was_seen_no_shift_counts_as_unforeseen(seen, tmp_path):
    page = write_report([with_shifts(make_table(**seen))], [], tmp_path / "r.html", "t").read_text()
    section = re.search('id="shifts".*?</section>', page, flags=re.DOTALL)[0]
    marks = re.findall(r"--share: [\d.]+\">[\d.]+([†?]?)<", section)
    assert marks[:3] == ["", "?", "?"]


def test_many_shifts_are_a_map_and_curves_and_not_in_the_table_of_results(tmp_path):
    tables = [with_shifts(make_table("standard", seen=[])), with_shifts(make_table("rtda", seen=["blur", "contrast"]))]
    page = write_report(tables, [], tmp_path / "r.html", "t").read_text()
    means = re.findall(r"mean over shifts.*?</tr>", page, flags=re.DOTALL)[0]
    expected = [np.mean([one.loc[("test", f"{kind}_3")] for kind in KINDS]) for one in map(balanced, tables)]
    assert [float(text) for text in re.findall(r">([\d.]+)<", means)] == pytest.approx(
        100 * np.array(expected), abs=0.051
    )
    results, shifts = (
        re.search(f'id="{name}".*?</section>', page, flags=re.DOTALL)[0] for name in ("results", "shifts")
    )
    assert "Blur" not in results
    assert "Contrast down" in results  # of which there is no severity 3
    assert "PGD-20" in results
    rows = re.findall(r"<tr><th[^>]*>(.*?)</th>(.*?)</tr>", shifts.split("</thead>")[1], flags=re.DOTALL)
    assert [plain(head).split(" σ")[0].strip() for head, _ in rows] == ["clean", "blur", "low dose"]
    summary = [summarise(table).set_index(["split", "view"])["balanced_accuracy"] for table in tables]
    for view, (_, cells) in zip(("clean", "blur_3", "low_dose_3"), rows, strict=True):
        found = re.findall(r"--share: ([\d.]+)\">([\d.]+)([†?]?)<", cells)
        expected = [one.loc["test", view].iloc[0] for one in summary]
        assert [float(text) for _, text, _ in found] == pytest.approx([100 * value for value in expected], abs=0.051)
        shares = [max(0, (value - 0.5) / 0.5) for value in expected]
        assert [float(share) for share, _, _ in found] == pytest.approx(shares, abs=0.0051)
        assert [mark for *_, mark in found] == ["", "†" if view == "blur_3" else ""]
    assert len(re.findall("<svg", shifts)) == 2


def test_shifts_that_are_not_all_at_severity_3_stand_in_the_table_of_results(tmp_path):
    table = with_shifts(make_table())
    frame = table.to_pandas()
    frame = frame[frame["view"] != "blur_3"]
    other = pa.Table.from_pandas(frame, COLUMNS, preserve_index=False).replace_schema_metadata(table.schema.metadata)
    page = write_report([other], [], tmp_path / "r.html", "t").read_text()
    assert 'id="shifts"' not in page  # what is left of them is few
    assert "Blur" in re.search('id="results".*?</section>', page, flags=re.DOTALL)[0]


def test_what_each_model_says_of_itself_stands_in_the_report_of_several(tmp_path):
    tables = [make_table("standard", notes=["one"]), make_table("rtda", left_out=["two"])]
    text = plain(write_report(tables, [], tmp_path / "r.html", "t").read_text())
    assert "Note standard: one" in text
    assert "Left out rtda: two" in text


def test_without_an_attack_there_is_no_curve_of_one(tmp_path):
    page = write_report([make_table(views=["clean", "contrast_down_5"])], [], tmp_path / "r.html", "t").read_text()
    assert "Under a growing attack" not in page
    assert "may be masked" not in page


def test_few_shifts_stand_in_the_table_of_results(page):
    assert 'id="shifts"' not in page
    assert "Contrast down" in page


def test_temperature_moves_confidence_and_no_answer(tmp_path):
    """A run of logits ten times too large: over-confident before, nearly calibrated after."""
    table = make_table(n=300)
    frame = table.to_pandas()
    frame["logits"] = [np.float32(10 * z) for z in frame["logits"]]
    large = pa.Table.from_pandas(frame, COLUMNS, preserve_index=False).replace_schema_metadata(table.schema.metadata)
    images = read([large]).images
    assert images["temperature"].unique() == pytest.approx(10 * read([table]).images["temperature"].unique(), rel=1e-3)
    page = write_report([large], [], tmp_path / "r.html", "t").read_text()
    assert page.count("After temperature: clean images") == 2  # title of the drawing, and its heading


# The verdict


def gate(**failing):
    """A gate as evaluation states it, with one check passed, one not run and those given."""
    checks = [Check("noise ≥ FGSM", 0.5, 0.6), not_run("PGD ≥ APGD", "the attack has not joined yet", needed=False)]
    checks += [Check(name, *values) for name, values in failing.items()]
    return Gate(tuple(checks), {}, {"norm": "l2"}).as_dict()


def test_the_verdict_stands_on_top_with_the_failed_checks_and_what_they_mean(tmp_path):
    masked = make_table("standard", masking=gate(ties=(0.4, 0.1)))
    text = plain(write_report([masked, make_table("rtda", masking=gate())], [], tmp_path / "r.html", "t").read_text())
    assert "Gradient-masking checks: standard masked (ties); rtda believable ." in text.split("What was evaluated")[0]
    section = text.split("Can the attacked numbers be believed")[1]
    assert "noise ≥ FGSM 0.500 ≤ 0.600 0.500 ≤ 0.600" in section
    assert "ties 0.400 > 0.100 failed" in section
    assert "not run: the attack has not joined yet" in section
    assert MEANINGS["ties"] in section
    assert MEANINGS["noise ≥ FGSM"] not in section


def test_a_run_without_checks_is_said_to_have_none(page, tmp_path):
    assert "Gradient-masking checks: not run ; the preset asks for none." in plain(page)
    tables = [make_table("standard"), make_table("rtda", masking=gate())]
    text = plain(write_report(tables, [], tmp_path / "r.html", "t").read_text())
    assert "standard not run ; rtda believable ." in text
    few = {
        "verdict": "not decidable",
        "failed": [],
        "checks": [],
        "accuracies": {},
        "facts": {"why": "images: too few"},
    }
    text = plain(write_report([make_table(masking=few)], [], tmp_path / "f.html", "t").read_text())
    assert "rtda not decidable (images: too few)." in text
    assert "Can the attacked numbers be believed" not in text
