"""The tables of docs/chest_xray.md: made from measured files alone, and refused where these do not fit together."""

import json
import runpy
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = runpy.run_path(str(ROOT / "docs/tables/recipes.py"))
VIEWS = ("clean", "pgd20_l2_0.571", "contrast_down_5")


def figures(recipe, score, **more):
    metrics = ("auroc", "balanced_accuracy", "balanced_accuracy_at_half", "brier", "nll")
    return {
        "bundle": "chest_xray_rtda",
        "recipe": recipe,
        "seed": 0,
        "split": "test",
        "images": 624,
        "patients": 400,
        "image_size": 64,
        "training_radius": 0.5714,
        "threshold": 0.25,
        "temperature": 1.5,
        "intervals": "95% percentile bootstrap over patients, 1000 draws, seed 0",
        "checksum_list": "ab" * 32,
        "checksum_weights": "cd" * 32,
        "views": {
            view: {**{metric: [score, score - 0.05, score + 0.05] for metric in metrics}, "severity": 5}
            for view in VIEWS
        },
        "constant": dict.fromkeys(metrics, 0.5),
        "attacks": {"worst_case_balanced_accuracy": [score, score - 0.05, score + 0.05]},
        "shifts": {
            **{name: [score, score - 0.05, score + 0.05] for name in ("mean_error", "worst_case_balanced_accuracy")},
            **{"of": {"contrast_down": ["contrast_down_5"]}, "worst": "contrast_down_5"},
            "worst_balanced_accuracy": [score, None, None],
        },
        "masking": {"verdict": "believable"} if recipe == "rtda" else None,
        "training": {"epochs": 12, "best_epoch": 9, "seconds": 1234, "computed_in": "float32"},
        **more,
    }


@pytest.fixture
def folder(tmp_path):
    for recipe, score in (("rtda", 0.9), ("standard", 0.7)):
        (tmp_path / f"{recipe}-0.json").write_text(json.dumps(figures(recipe, score)))
    return tmp_path


def test_rows_stand_in_the_order_of_recipes_and_the_best_is_bold(folder):
    made = SCRIPT["tables"](SCRIPT["read"](folder))
    auroc = made.split("**AUROC, %**")[1].split("\n\n")[1].splitlines()
    assert auroc[0] == "| recipe | clean | PGD-20 ε = 0.571 | contrast × 0.4 |"
    assert auroc[2:] == [
        "| standard | 70.0 (65.0–75.0) | 70.0 (65.0–75.0) | 70.0 (65.0–75.0) |",
        "| rtda | **90.0** (85.0–95.0) | **90.0** (85.0–95.0) | **90.0** (85.0–95.0) |",
        "| *constant (class prior)* | 50.0 | 50.0 | 50.0 |",
    ]
    brier = made.split("**Brier score**")[1].split("\n\n")[1].splitlines()
    assert brier[2].startswith("| standard | **0.700** (0.650–0.750) |")  # less is better


def test_the_floor_is_told_for_each_recipe_and_missed_where_it_is(folder):
    made = SCRIPT["tables"](SCRIPT["read"](folder))
    floor = made.split("**The floor**")[1].split("\n\n")[1].splitlines()[2:]
    assert "| standard | clean | AUROC, % | 70.0 | 89.5 | **missed** |" in floor
    assert "| standard | contrast × 0.4 | AUROC, % | 70.0 | 61.3 | reached |" in floor
    assert "| rtda | PGD-20 ε = 0.571 | Balanced accuracy at 0.5, % | 90.0 | 64.7 | reached |" in floor
    assert not any(row.startswith("| standard | PGD") for row in floor)


def test_what_holds_over_all_views_stands_in_a_table_of_its_own(folder):
    made = SCRIPT["tables"](SCRIPT["read"](folder))
    title, _, *rows = made.split("**Over attacks")[1].split("\n\n")[1].splitlines()
    assert "over 1 kinds of shift at one severity" in made
    assert title.split(" | ")[1] == "right under every attack"
    assert rows[0].startswith("| standard | 70.0 (65.0–75.0) | 70.0 (65.0–75.0) | contrast down 5: 70.0 (–––) |")
    assert [row.split(" | ")[-1] for row in rows] == ["not run |", "believable |"]


def test_five_severities_have_a_row_for_each_kind_of_shift(tmp_path):
    names = [f"blur_{severity}" for severity in range(1, 6)]
    for recipe, score in (("rtda", 0.9), ("standard", 0.7)):
        one = figures(recipe, score)
        for severity, name in enumerate(names, 1):
            value = [score - 0.1 * severity, None, None]
            told = {"severity": severity, "parameter": f"kernel {severity}"}
            one["views"][name] = {**one["views"]["clean"], "balanced_accuracy": value, **told}
        one["shifts"]["of"] = {"blur": names}
        (tmp_path / f"{recipe}-0.json").write_text(json.dumps(one))
    made = SCRIPT["tables"](SCRIPT["read"](tmp_path))
    assert "over 1 kinds of shift at 5 severities" in made
    shown = made.split("**Under each shift at severity ")[1:]
    assert [text.split(" of 5: ")[0] for text in shown] == ["3", "3", "5", "5"]
    head, _, row = shown[1].split("\n\n")[1].splitlines()
    assert head == "| shift | standard | rtda |"
    assert row == "| blur: kernel 3 | 40.0 (–––) | **60.0** (–––) |"


def test_the_floor_is_of_its_own_image_size(folder):
    for path in folder.glob("*.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"image_size": 224}))
    assert "The floor" not in SCRIPT["tables"](SCRIPT["read"](folder))


@pytest.mark.parametrize("field", ["split", "checksum_list", "intervals"])
def test_files_that_do_not_fit_together_are_refused(folder, field):
    (folder / "augmix-0.json").write_text(json.dumps(figures("augmix", 0.8, **{field: "other"})))
    with pytest.raises(SystemExit, match=f"{field}: differs between the files"):
        SCRIPT["read"](folder)


def test_only_what_stands_between_the_marks_is_replaced():
    page = "before\n<!-- figures -->\nold\n<!-- /figures -->\nafter\n"
    assert SCRIPT["filled"](page, "new") == "before\n<!-- figures -->\n\nnew\n\n<!-- /figures -->\nafter\n"
    with pytest.raises(SystemExit, match="must stand once each"):
        SCRIPT["filled"]("no marks", "new")


def test_packed_weights_are_shipped_with_what_is_stated_of_them_and_nothing_else_changes(tmp_path):
    ship, bundle = runpy.run_path(str(ROOT / "docs/tables/weights.py"))["ship"], tmp_path / "mine"
    (bundle / "configs").mkdir(parents=True)
    own = {"version": "2", "trained_on": {"modality": {"known": ["CR"]}}}
    (bundle / "configs/metadata.json").write_text(json.dumps(own))
    stated = {"version": "1", "trained_on": {"intensity": {"mean": [0, 1]}}, "rtda": {"threshold": 0.5}}
    with zipfile.ZipFile(tmp_path / "mine.zip", "w") as archive:
        archive.writestr("mine/configs/metadata.json", json.dumps(stated))
        archive.writestr("mine/models/model.pt", b"weights")
    assert ship(tmp_path / "mine.zip", bundle) == ["models/model.pt", "configs/metadata.json"]
    assert (bundle / "models/model.pt").read_bytes() == b"weights"
    assert json.loads((bundle / "configs/metadata.json").read_text()) == {
        "version": "2",
        "trained_on": own["trained_on"] | stated["trained_on"],
        "rtda": stated["rtda"],
    }


@pytest.mark.parametrize("name", ["chest_xray", "chest_xray_224", "chest_xray_study", "chest_xray_full"])
def test_a_page_holds_the_tables_of_the_measured_files(name):
    page = (ROOT / f"docs/{name}.md").read_text()
    assert SCRIPT["filled"](page, SCRIPT["tables"](SCRIPT["read"](ROOT / "results" / name))) == page
