"""The command ``rtda``: the whole way from films to a packed bundle, and what it refuses on the way."""

import contextlib
import csv
import io
import json
import os
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
import warnings
import zipfile
from importlib.metadata import version
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
import yaml
from fire.parser import DefaultParseValue
from PIL import Image
from rtda.pipeline.balls import L2
from rtda.pipeline.cli import main
from rtda.pipeline.commands import is_refusal, train
from rtda.pipeline.delivery.bundle import INSTALLED, RECIPE_IDS, Bundle, find_bundle, find_run
from rtda.pipeline.handlers import load_checkpoint
from rtda.pipeline.tracking import RunRecord

CORRUPT = b"this is no image" * 20


@pytest.fixture
def rtda(capsys, tmp_path, monkeypatch):
    """Run the command in an empty folder: (status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*argv):
        capsys.readouterr()
        status = main([str(word) for word in argv])
        return status, *capsys.readouterr()

    return run


def refused(result, *words):
    """Status 2, and one line that names what is wrong but nobody's folders."""
    status, _, error = result
    assert status == 2, error
    assert error.startswith("rtda: ")
    assert error.count("\n") == 1
    assert error.endswith("\n")
    assert "Traceback" not in error
    for word in words:
        assert word in error
    for path in (os.getcwd(), os.path.expanduser("~"), tempfile.gettempdir(), str(Path(__file__).parents[1])):
        assert path not in error, f"an absolute path stands in: {error}"


def in_process(*argv, cwd, environment=os.environ):
    environment = environment | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(argv, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600)


def read_csv(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


# The way


def test_the_cohort_is_made_once(rtda):
    first = rtda("data", "phantom", "-o", "cohort", "--films", 40)
    made = Path("cohort/phantom.json").stat().st_mtime_ns
    assert first[:2] == (0, "cohort/phantom.json\n")
    assert rtda("data", "phantom", "-o", "cohort", "--films", 40)[0] == 0
    assert Path("cohort/phantom.json").stat().st_mtime_ns == made


@pytest.mark.parametrize("recipe", ["standard", "rtda"])
def test_a_run_folder_holds_what_the_documentation_says(workshop, recipe):
    run = workshop / "runs" / recipe
    held = {path.name for path in run.iterdir()}
    expected = {"config.yaml", "bundle", "metrics.jsonl", "mlflow_run_id", "best.pt", "last.pt"}
    assert held == expected | {"predictions.parquet", "metrics.json", "metrics.csv", "examples.npz"}
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert {"train/loss", "learning_rate", "validation/clean_auroc"} <= set(lines[0]["metrics"])
    assert ("validation/attacked_auroc" in lines[0]["metrics"]) == (recipe == "rtda")


def test_a_report_over_two_runs(rtda, workshop, tmp_path):
    runs = [workshop / "runs" / recipe for recipe in ("standard", "rtda")]
    status, out, _ = rtda("report", *runs, "-o", "out/report.html")
    page = (tmp_path / "out/report.html").read_text()
    assert (status, out) == (0, "out/report.html\n")
    assert "constant (class prior)" in page
    assert str(workshop) not in page


def test_two_runs_are_compared_on_the_terminal_in_markdown_and_in_json(rtda, workshop):
    runs = [workshop / "runs" / recipe for recipe in ("standard", "rtda")]
    status, out, _ = rtda("compare", *runs, "-o", "out/two.md")
    assert status == 0
    assert Path("out/two.md").read_text() == out
    assert "- A: standard: standard, seed 0, best.pt, weights" in out
    assert "not decidable on this set" in out
    assert str(workshop) not in out
    assert rtda("compare", *runs, "-o", "two.json")[:2] == (0, out)
    stated = json.loads(Path("two.json").read_text())
    assert stated["endpoints"] == ["pgd20_l2_0.125/balanced_accuracy", "clean/auroc", "contrast_down_5/brier"]
    of_a = json.loads((runs[0] / "metrics.json").read_text())["views"]
    for view, metrics in of_a.items():
        for metric, row in stated["differences"][view].items():
            assert row["a"] == pytest.approx(metrics[metric][0], rel=1e-5)
            assert ("p" in row) == (f"{view}/{metric}" in stated["endpoints"])
    assert {"mce", "worst_case_balanced_accuracy"} <= set(stated["differences"]["shifts"])
    assert str(workshop) not in json.dumps(stated)


def test_runs_of_other_views_are_not_compared(rtda, workshop, cohort):
    shutil.copytree(workshop / "runs/rtda", "runs/other")
    Path("clean.yaml").write_text("evaluation_views: [{_target_: rtda.pipeline.views.Clean}]\n")
    assert rtda("evaluate", "runs/other", "--preset", "clean.yaml")[0] == 0
    told = "views: not as in rtda/predictions.parquet; evaluate both with the same --preset"
    refused(rtda("compare", workshop / "runs/rtda", "runs/other"), f"rtda: other/predictions.parquet: {told}")


def test_the_packed_bundle_states_what_its_user_must_know(workshop):
    with zipfile.ZipFile(workshop / "rtda.zip") as archive:
        names = archive.namelist()
        metadata = json.loads(archive.read("phantom_rtda/configs/metadata.json"))
    stated = metadata["rtda"]
    assert {"phantom_rtda/models/model.pt", "phantom_rtda/LICENSE", "phantom_rtda/configs/inference.yaml"} <= set(names)
    assert stated["threshold_source"] == "clean validation"
    assert 0 <= stated["threshold"] <= 1
    assert sum(stated["training_prior"]) == pytest.approx(1)
    figures, evidence = json.loads((workshop / "runs/rtda/metrics.json").read_text()), stated["evidence"]
    assert set(evidence["views"]) == {"clean", "pgd20_l2_0.125", "contrast_down_5"}
    for view, metrics in evidence["views"].items():
        assert metrics == {name: figures["views"][view][name] for name in metrics}
        assert {"auroc", "balanced_accuracy", "brier"} <= set(metrics)
    for group in ("attacks", "shifts"):
        assert evidence[group] == {name: figures[group][name] for name in evidence[group]}
    assert evidence["images"] == figures["images"]
    assert evidence["worst_shift"] == figures["shifts"]["worst"]
    assert evidence["masking"] is None
    assert stated["recipe"] == "rtda"
    assert str(workshop) not in json.dumps(metadata)


def test_two_packs_are_the_same_bytes(rtda, workshop):
    assert rtda("pack", workshop / "runs/rtda", "-o", "again.zip")[0] == 0
    assert Path("again.zip").read_bytes() == (workshop / "rtda.zip").read_bytes()


def test_the_packed_bundle_and_the_run_predict_the_same_from_anywhere(rtda, workshop, cohort):
    for name, bundle in (("zip", workshop / "rtda.zip"), ("run", workshop / "runs/rtda")):
        assert rtda("infer", bundle, cohort / "films", "-o", f"{name}.csv")[0] == 0
    rows = read_csv("zip.csv")
    assert Path("zip.csv").read_text() == Path("run.csv").read_text()
    assert len(rows) == 96
    assert list(rows[0]) == ["file", "frame", "predicted", "no lesion", "lesion", "threshold", "warning", "error"]
    for row in rows:
        assert float(row["no lesion"]) + float(row["lesion"]) == pytest.approx(1, abs=2e-6)
        assert row["predicted"] == ("lesion" if float(row["lesion"]) >= float(row["threshold"]) else "no lesion")


def test_a_bad_file_has_an_error_row_and_the_rest_go_on(rtda, workshop, cohort, tmp_path):
    films = tmp_path / "films"
    films.mkdir()
    (films / "a.dcm").write_bytes((cohort / "films/00000.dcm").read_bytes())
    (films / "b.dcm").write_bytes(CORRUPT)
    (films / "c.dcm").write_bytes((cohort / "films/00001.dcm").read_bytes()[:2000])
    grey = np.random.default_rng(0).integers(0, 255, (48, 64), dtype=np.uint8)
    Image.fromarray(grey).save(films / "d.png")
    nibabel.save(nibabel.Nifti1Image(grey.T, np.eye(4)), films / "e.nii.gz")
    status, _, told = rtda("infer", workshop / "rtda.zip", films, "-o", "out.csv")
    rows = read_csv("out.csv")
    assert status == 1
    assert "2 of 5 images have errors" in told
    assert [Path(row["file"]).name for row in rows] == ["a.dcm", "b.dcm", "c.dcm", "d.png", "e.nii.gz"]
    assert [bool(row["error"]) for row in rows] == [False, True, True, False, False]
    assert [bool(row["predicted"]) for row in rows] == [True, False, False, True, True]
    assert all("\n" not in row["error"] for row in rows)


def test_without_output_the_table_goes_to_the_terminal(rtda, workshop, cohort):
    status, out, _ = rtda("infer", workshop / "rtda.zip", cohort / "films/00000.dcm")
    assert status == 0
    assert out.splitlines()[0] == "file,frame,predicted,no lesion,lesion,threshold,warning,error"
    assert len(out.splitlines()) == 2


def test_evaluating_again_makes_the_same_table(rtda, workshop):
    table = workshop / "runs/standard/predictions.parquet"
    before = table.read_bytes()
    assert rtda("evaluate", workshop / "runs/standard")[0] == 0
    assert table.read_bytes() == before


def test_validating_every_second_epoch_trains_the_same_weights(rtda, workshop, tiny):
    status, *_ = rtda("train", "phantom_rtda", "--recipe", "rtda", "--run-name", "other", *tiny, "--val-interval", 2)
    assert status == 0
    assert same(workshop / "runs/rtda/last.pt", "runs/other/last.pt")


def test_a_run_keeps_its_bundle_and_its_recipe(workshop):
    run, installed = find_run(str(workshop / "runs/rtda")), INSTALLED / "phantom_rtda"
    assert run.bundle.root == workshop / "runs/rtda/bundle/phantom_rtda"
    for folder in ("configs", "docs"):
        for path in (installed / folder).rglob("*.*"):
            if path.name != "metadata.json":
                assert (run.bundle.root / path.relative_to(installed)).read_bytes() == path.read_bytes()
    metadata = run.bundle.metadata
    assert set(metadata.pop("trained_on")["intensity"]) == {"mean", "deviation"}
    assert metadata == Bundle(installed).metadata
    assert (run.bundle.root / "LICENSE").read_bytes() == (installed / "LICENSE").read_bytes()
    recipe = yaml.safe_load((INSTALLED / "recipes/rtda.yaml").read_text())
    assert {name: run.settings[name] for name in RECIPE_IDS} == recipe
    assert run.facts["bundle"] == "phantom_rtda"


def test_a_run_trained_from_a_zip_needs_it_no_more(rtda, workshop, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "unzipped"))
    (tmp_path / "unzipped").mkdir()
    shutil.copy(workshop / "rtda.zip", "bundle.zip")
    options = ["--recipe", "rtda", "--run-name", "zipped", *tiny, "--max-epochs", "1"]
    assert rtda("train", "bundle.zip", *options)[0] == 0
    shutil.rmtree(tmp_path / "unzipped"), Path("bundle.zip").unlink()
    (tmp_path / "unzipped").mkdir()
    assert str(tmp_path / "unzipped") not in Path("runs/zipped/config.yaml").read_text()
    assert rtda("evaluate", "runs/zipped")[0] == 0
    assert rtda("train", "runs/zipped", *options, "--resume", "runs/zipped")[0] == 0
    assert rtda("pack", "runs/zipped", "-o", "again.zip")[0] == 0
    with zipfile.ZipFile("again.zip") as again, zipfile.ZipFile(workshop / "rtda.zip") as first:
        assert set(again.namelist()) == set(first.namelist())


def test_outputs_are_named_as_the_data_list_names_its_classes(rtda, cohort, tiny, tmp_path):
    content = json.loads((cohort / "phantom.json").read_text())
    content |= {"classes": ["nodule", "clear"], "name": "mine", "source": "a hospital", "licence": ""}
    del content["checksum"]
    for item in (item for split in ("train", "validation", "test") for item in content[split]):
        item["label"] = 1 - item["label"]
    Path("turned.json").write_text(json.dumps(content))
    options = ["--recipe", "standard", *tiny, "--max-epochs", 1, "--data-list", "turned.json"]
    assert rtda("train", "phantom_rtda", *options, "--run-name", "turned")[0] == 0
    assert rtda("evaluate", "runs/turned")[0] == 0
    assert rtda("pack", "runs/turned", "-o", "turned.zip")[0] == 0
    film = str(cohort / content["test"][0]["image"])
    for model in ("runs/turned", "turned.zip"):
        assert rtda("infer", model, film, "-o", "out.csv")[0] == 0
        with Path("out.csv").open() as file:
            (row,) = csv.DictReader(file)
        assert list(row)[3:5] == ["nodule", "clear"]
    with zipfile.ZipFile("turned.zip") as archive:
        metadata = json.loads(archive.read("phantom_rtda/configs/metadata.json"))
    assert metadata["network_data_format"]["outputs"]["pred"]["channel_def"] == {"0": "nodule", "1": "clear"}
    assert metadata["label_classes"] == "0: nodule, 1: clear"
    assert metadata["task"] == "Classification: nodule, clear"
    assert metadata["data_source"] == "a hospital"
    assert metadata["description"] == "The network of phantom_rtda, trained on the data list 'mine'."
    assert metadata["intended_use"] == "Research only. Not for clinical use."


def test_a_list_of_another_number_of_classes_is_refused(bad_list):
    def third_class(content, folder):
        content["classes"].append("other")

    refused(bad_list(third_class), "phantom_rtda: classes: 3 in the data list, 2 outputs", "num_classes")
    assert not Path("runs/refused").exists()


def test_a_bundle_may_have_any_loss(rtda, tiny):
    bundle = changed_bundle("train.yaml", "_target_: rtda.pipeline.losses.ConsistencyLoss", LOSS)
    assert rtda("train", bundle, "--recipe", "standard", "--run-name", "plain", *tiny, "--max-epochs", 1)[0] == 0
    (line,) = Path("runs/plain/metrics.jsonl").read_text().splitlines()
    assert {"train/loss"} == {name for name in json.loads(line)["metrics"] if name.startswith("train/")}


LOSS = """_target_: torch.nn.CrossEntropyLoss
unused:"""


def changed_bundle(file, old, new):
    """The phantom's bundle in the working folder, with one text in its configuration replaced."""
    bundle = Path(shutil.copytree(INSTALLED / "phantom_rtda", "changed"))
    text = (bundle / "configs" / file).read_text()
    assert text.count(old) == 1
    (bundle / "configs" / file).write_text(text.replace(old, new))
    return bundle


def same(a, b):
    one, other = (load_checkpoint(Path(path))["model"] for path in (a, b))
    return all(torch.equal(one[name], other[name]) for name in one | other)


# What is refused

TRAIN = ("train", "phantom_rtda", "--run-name", "refused")


@pytest.fixture
def bad_list(rtda, cohort, tmp_path):
    """Train on the cohort's list after a change."""
    (tmp_path / "films").symlink_to(cohort / "films")

    def run(change):
        content = json.loads((cohort / "phantom.json").read_text())
        content.pop("checksum", None)
        change(content, tmp_path)
        (tmp_path / "bad.json").write_text(json.dumps(content))
        where = ("--data-list", tmp_path / "bad.json", "--dataset-dir", tmp_path)
        return rtda(*TRAIN, "--recipe", "standard", "--image-size", 32, "--batch-size", 16, "--max-epochs", 1, *where)

    return run


def missing_image(content, folder):
    content["train"][0]["image"] = "films/none.dcm"


def unknown_label(content, folder):
    content["train"][0]["label"] = 7


def unknown_label_name(content, folder):
    content["test"][0]["label"] = "lesion"


def patient_in_two_splits(content, folder):
    content["test"][0]["patient_id"] = content["train"][0]["patient_id"]


def empty_split(content, folder):
    content["validation"] = []


def one_class_split(content, folder):
    content["validation"] = [item for item in content["validation"] if item["label"] == 0]


def constant_image(content, folder):
    Image.fromarray(np.full((64, 64), 77, np.uint8)).save(folder / "flat.png")
    content["train"][3]["image"] = "flat.png"


def not_a_number(content, folder):
    pixels = np.random.default_rng(0).random((64, 64)).astype(np.float32)
    pixels[5, 5] = np.nan
    nibabel.save(nibabel.Nifti1Image(pixels, np.eye(4)), folder / "hole.nii")
    content["train"][3]["image"] = "hole.nii"


def corrupt_image(content, folder):
    (folder / "broken.dcm").write_bytes(CORRUPT)
    content["validation"][0]["image"] = "broken.dcm"


def cut_jpeg(content, folder):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8)
    Image.fromarray(pixels).save(folder / "cut.jpeg")
    (folder / "cut.jpeg").write_bytes((folder / "cut.jpeg").read_bytes()[:1500])
    content["train"][3]["image"] = "cut.jpeg"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (missing_image, ["bad.json", "image", "none.dcm"]),
        (unknown_label, ["bad.json", "train[0]", "label", "7"]),
        (unknown_label_name, ["bad.json", "test[0]", "label", "lesion"]),
        (patient_in_two_splits, ["bad.json", "patient_id", "train[0]", "test[0]"]),
        (empty_split, ["bad.json", "validation", "empty"]),
        (one_class_split, ["bad.json", "validation", "no lesion"]),
        (constant_image, ["flat.png", "one value"]),
        (not_a_number, ["hole.nii"]),
        (corrupt_image, ["broken.dcm"]),
        (cut_jpeg, ["cut.jpeg"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_bad_list_is_refused(bad_list, change, words):
    refused(bad_list(change), *words)
    assert not Path("runs/refused/last.pt").exists()


RECIPES = {
    "unknown_key.yaml": "views: {}\nlambda: 3\n",
    "broken.yaml": "views: [\n",
    "unknown_view.yaml": "views: {clean: {_target_: rtda.pipeline.views.Clean}}\nstack: [clean, augmented]\n",
    "unknown_argument.yaml": "views: {clean: {_target_: rtda.pipeline.views.Clean, stepz: 3}}\nstack: [clean]\n",
    "unknown_replaced.yaml": "views: {adversarial: '$dataclasses.replace(@attack, stepz=3)'}\nstack: [adversarial]\n",
    "unknown_target.yaml": "views: {clean: {_target_: rtda.pipeline.views.Dirty}}\nstack: [clean]\n",
    "unknown_id.yaml": "views: {adversarial: '@attak'}\nstack: [adversarial]\n",
    "faulty.yaml": "weight: $3 +\n",
    "one_name.yaml": "stack: clean\n",
    "no_number.yaml": "weight: heavy\n",
}
CHOICES = "{_target_: rtda.transforms.display.Choices, %s}"
PGD = "{_target_: rtda.pipeline.attacks.PGD, ball: {_target_: rtda.pipeline.balls.L2, radius: %s}, %s: 2}"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--recipe", "nope"], ["nope", "recipe", "rtda"]),
        (["--recipe", "unknown_key.yaml"], ["unknown_key.yaml", "lambda", "unknown key"]),
        (["--recipe", "broken.yaml"], ["broken.yaml", "line"]),
        (["--recipe", "unknown_view.yaml"], ["stack", "augmented"]),
        (["--recipe", "absent.yaml"], ["absent.yaml", "recipe"]),
        (["--recipe", "unknown_argument.yaml"], ["views: ", "stepz"]),
        (["--recipe", "unknown_replaced.yaml"], ["views: ", "stepz"]),
        (["--recipe", "unknown_target.yaml"], ["views: ", "rtda.pipeline.views.Dirty"]),
        (["--recipe", "unknown_id.yaml"], ["views: ", "attak"]),
        (["--recipe", "faulty.yaml"], ["weight: ", "syntax"]),
        (["--recipe", "one_name.yaml"], ["stack: 'clean' is not a list of view names"]),
        (["--recipe", "no_number.yaml"], ["weight: 'heavy' is not a finite number"]),
        (["--recipe", "latin.yaml"], ["latin.yaml: byte 2: not UTF-8"]),
        (["--recipe", "folder.yaml"], ["folder.yaml: recipe: "]),
        (["--recipe", "."], ["recipe: "]),
        ([], ["train: recipe: missing; give --recipe"]),
        (["--recipe", "rtda", "--radius-224", -1], ["radius"]),
        (["--recipe", "rtda", "--radius-224", "nan"], ["--radius-224: 'nan' is not a number"]),
        (["--recipe", "rtda", "--radius-224", 0], ["radius"]),
        (["--recipe", "trades", "--radius", 0], ["radius"]),
        (["--recipe", "rtda", "--radius", "foo"], ["--radius: 'foo' is not a number"]),
        (["--recipe", "rtda", "--radius", "$foo"], ["radius: cannot be made: name 'foo' is not defined"]),
        (["--recipe", "rtda", "--attack", "PGD"], ["--attack: 'PGD' is not a mapping"]),
        (
            ["--recipe", "rtda", "--choices", "{polarity: shape}"],
            ["shape}' is not a mapping with _target_"],
        ),
        (["--recipe", "rtda", "--choices", CHOICES % "polarity: up"], ["polarity: 'up' is not one of 'agree'"]),
        (["--recipe", "rtda", "--choices", CHOICES % "polarty: shape"], ["choices: cannot be made", "polarty"]),
        (["--recipe", "rtda", "--attack", "{a: ["], ["--attack: '{a: [' is not a mapping"]),
        (["--recipe", "rtda", "--attack", PGD % (0, "steps")], ["views: adversarial: radius 0"]),
        (["--recipe", "adversarial_augmentation", "--attack", PGD % (0, "steps")], ["views: adversarial: radius 0"]),
        (["--recipe", "rtda", "--attack", PGD % (0.1, "stepz")], ["attack: ", "stepz"]),
        (["--recipe", "rtda", "--num-workers", -1], ["--num-workers: '-1' is not a whole number ≥ 0"]),
        (["--recipe", "rtda", "--val-interval", 3], ["val_interval: 3", "2 epochs"]),
        (["--recipe", "rtda", "--image-size", "abc"], ["--image-size: 'abc' is not a whole number"]),
        (["--recipe", "rtda", "--max-epochs", "1.5"], ["--max-epochs: '1.5' is not a whole number"]),
        (["--recipe", "rtda", "--batch-size", "true"], ["--batch-size: 'true' is not a whole number"]),
        (["--recipe", "rtda", "--learning-rate", "fast"], ["--learning-rate: 'fast' is not a number"]),
        (["--recipe", "rtda", "--precision", "half"], ["precision", "half"]),
        (["--recipe", "rtda", "--batch-size", 5000], ["batch_size"]),
        (["--recipe", "rtda", "--max-epochs", 0], ["--max-epochs: '0' is not a whole number ≥ 1"]),
        (["--recipe", "rtda", "--image-size", 0], ["--image-size: '0' is not a whole number ≥ 1"]),
        (["--recipe", "rtda", "--learning-rte", 1], ["--learning-rte"]),
        (["--recipe", "rtda", "--data-list", "absent.json"], ["absent.json", "data list"]),
        (["--recipe", "rtda", "--resume", "nowhere"], ["nowhere", "config.yaml"]),
    ],
    ids=lambda value: " ".join(map(str, value)) if value and str(value[0]).startswith("--") else "",
)
def test_a_bad_option_is_refused(rtda, tiny, options, words):
    for name, text in RECIPES.items():
        Path(name).write_text(text)
    Path("latin.yaml").write_bytes("# é\n".encode("latin-1"))
    Path("folder.yaml").mkdir()
    refused(rtda(*TRAIN, *tiny, *options), *words)


def test_an_id_that_the_bundle_does_not_have_is_refused(rtda, tiny):
    bundle = changed_bundle("train.yaml", "trades_weight: 6", "")
    refused(rtda("train", bundle, "--recipe", "rtda", *tiny, "--trades-weight", 3), "train.yaml: trades_weight: ")


def test_a_run_that_ends_before_the_radius_is_full_is_refused(rtda, tiny):
    bundle = changed_bundle("train.yaml", "epochs: $min(6, @max_epochs)", "epochs: 6")
    refused(rtda("train", bundle, "--recipe", "rtda", *tiny), "max_epochs: 2 end before the radius is full, in epoch 6")
    assert not Path("runs").exists()


def test_a_folder_that_holds_something_is_not_trained_into(rtda, workshop, tiny):
    options = ["--recipe", "rtda", "--output-dir", str(workshop / "runs/rtda")]
    refused(rtda(*TRAIN, *tiny, *options), "rtda: rtda: run", "--resume")
    Path("started/bundle").mkdir(parents=True)  # as a start leaves it that was killed before config.yaml
    options = ["--recipe", "rtda", "--output-dir", "started"]
    refused(rtda(*TRAIN, *tiny, *options), "rtda: started: run: the folder is not empty, and no run; remove it")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ([], ["VERB"]),
        (["trian"], ["trian"]),
        (["train", "no_such_bundle", "--recipe", "rtda"], ["no_such_bundle", "phantom_rtda"]),
        (["train", "broken.zip", "--recipe", "rtda"], ["broken.zip", "zip"]),
        (["evaluate", "nowhere"], ["nowhere", "config.yaml"]),
        (["evaluate", "{runs}/rtda", "--preset", "nope"], ["nope", "preset", "quick"]),
        (["evaluate", "{runs}/rtda", "--preset", "views.yaml"], ["views.yaml", "radius", "unknown key"]),
        (["evaluate", "{runs}/rtda", "--processes", "0"], ["--processes: '0' is not a whole number ≥ 1"]),
        (["evaluate", "{runs}/rtda", "--split", "train"], ["--split"]),
        (["evaluate", "{runs}/rtda", "--dataset-dir", "elsewhere"], ["dataset-dir", "elsewhere is no folder"]),
        (["report", "nowhere"], ["nowhere", "metrics.json"]),
        (["report", "run"], ["predictions.parquet", "rtda evaluate"]),
        (["compare", "{runs}/rtda"], ["B", "see rtda compare --help"]),
        (["compare", "{runs}/rtda", "nowhere"], ["nowhere", "metrics.json"]),
        (["compare", "{runs}/rtda", "run"], ["predictions.parquet", "rtda evaluate"]),
        (["compare", "{runs}/rtda", "{runs}/standard", "-o", "a.csv"], ["a.csv: output: neither .json nor .md"]),
        (["compare", "{runs}/rtda", "{runs}/standard", "-o", "folder.md"], ["folder.md: output: a folder"]),
        (["pack", "run", "-o", "a.zip"], ["predictions.parquet", "rtda evaluate"]),
        (["infer", "{runs}/rtda", "absent.dcm"], ["absent.dcm"]),
        (["infer", "{runs}/rtda", "empty"], ["files"]),
        (["infer", "phantom_rtda", "absent.dcm"], ["absent.dcm"]),
        (["infer", "phantom_rtda", "film.dcm"], ["model.pt"]),
        (["infer", "nowhere", "film.dcm"], ["nowhere", "bundle"]),
        (["evaluate", "{runs}/rtda", "--num-workers", "-1"], ["--num-workers: '-1' is not a whole number ≥ 0"]),
        (["evaluate", "{runs}/rtda", "--threads", "$1"], ["--threads: '$1' is not a whole number ≥ 1"]),
        (["--nope"], ["VERB", "see rtda --help"]),
        (["--nope", "report", "run"], ["unrecognized arguments: --nope; see rtda --help"]),
        (["report", "run", "--nope"], ["unrecognized arguments: --nope; see rtda report --help"]),
        (["train", "a", "--recipe", "b", "--nope=1"], ["unrecognized arguments: --nope=1; see rtda train --help"]),
        (["data", "check", ".", "--nope"], ["unrecognized arguments: --nope; see rtda data check --help"]),
        (["data", "phantom", "--films", "3"], ["films"]),
        (["data", "phantom", "--films", "many"], ["--films", "many"]),
        (["data", "build", "absent.csv", "--dataset-dir", ".", "-o", "a.json"], ["absent.csv"]),
        (["data", "build", "absent.csv", "--dataset-dir", "nowhere", "-o", "a.json"], ["nowhere", "dataset-dir"]),
    ],
    ids=lambda value: "_".join(value[:4]).replace("/", "-") or "nothing",
)
def test_a_bad_command_is_refused(rtda, workshop, tmp_path, command, words):
    (tmp_path / "broken.zip").write_bytes(CORRUPT)
    (tmp_path / "views.yaml").write_text("evaluation_views: []\nradius: 3\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "film.dcm").write_bytes(CORRUPT)
    (tmp_path / "folder.md").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").write_text((workshop / "runs/rtda/config.yaml").read_text())
    refused(rtda(*(word.format(runs=workshop / "runs") for word in command)), *words)


def test_weights_that_were_trained_on_another_list_are_not_evaluated(rtda, workshop, cohort, tmp_path):
    run = tmp_path / "runs/rtda"
    run.mkdir(parents=True)
    for name in ("config.yaml", "best.pt"):
        (run / name).write_bytes((workshop / "runs/rtda" / name).read_bytes())
    content = json.loads((cohort / "phantom.json").read_text())
    content.pop("checksum", None)
    content["test"].pop()
    (tmp_path / "films").symlink_to(cohort / "films")
    (tmp_path / "phantom.json").write_text(json.dumps(content))
    refused(rtda("evaluate", "runs/rtda", "--dataset-dir", tmp_path), "rtda: data_list")


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=[pytest.mark.process, pytest.mark.slow])])
def test_an_image_that_cannot_be_evaluated_is_refused_whoever_loads_it(rtda, workshop, cohort, workers):
    shutil.copytree(cohort, "cohort")
    shutil.copytree(workshop / "runs/rtda", "runs/rtda")
    first = json.loads(Path("cohort/phantom.json").read_text())["test"][0]["image"]
    Path("cohort", first).write_bytes(CORRUPT)
    result = rtda("evaluate", "runs/rtda", "--dataset-dir", "cohort", "--num-workers", workers)
    told = [line for line in result[2].splitlines(keepends=True) if not line.startswith("evaluate ")]  # the progress
    refused((*result[:2], "".join(told)), f"rtda: {Path(first).name}: ")


# What is no refusal


def test_a_bug_is_told_with_its_traceback(rtda, tiny, monkeypatch, caplog):
    """In the same line of ours and of the same type as a refusal, but raised by Python."""
    monkeypatch.setattr(train, "_validation", lambda *_: lambda: {"validation/clean_auroc": "no number"})
    status, _, error = rtda("train", "phantom_rtda", "--recipe", "standard", *tiny)
    assert status == 1
    assert "Traceback" in error
    assert "ValueError: Unknown format code 'f'" in error
    assert not [record for record in caplog.records if record.name.startswith("ignite")]  # told once is enough


def test_a_refusal_is_what_a_raise_of_this_project_raised():
    def raised(function):
        with pytest.raises(ValueError) as caught:  # noqa: PT011
            function()
        return is_refusal(caught.value)

    assert raised(lambda: L2(-1.0))
    assert raised(lambda: find_bundle("nowhere"))
    assert not raised(lambda: RunRecord("nowhere").append(epoch=1, step=1, metrics={"loss": "no number"}))
    assert not raised(lambda: int("no number"))


# Faults of the system


def test_a_fault_of_the_system_names_the_file(rtda, tiny):
    Path("taken").write_text("a file where a folder is wanted")
    status, _, error = rtda(
        "train", "phantom_rtda", "--recipe", "standard", *tiny, "--output-dir", Path.cwd() / "taken"
    )
    assert status == 1
    assert error == "rtda: taken: file: Not a directory; check that it is there and that you may use it\n"


def in_fork(prepare, argv):
    """Status and stderr of a command in a forked process, which may limit itself first."""
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork beside torch's idle threads
        child = os.fork()
    if child == 0:
        torch.cuda.is_available = lambda: False  # CUDA does not survive a fork
        status, told = 99, io.StringIO()
        with contextlib.suppress(BaseException), contextlib.redirect_stderr(told):
            prepare()
            status = main([str(word) for word in argv])
        os.write(write, told.getvalue().encode()[:60_000])
        os._exit(status)
    os.close(write)
    with os.fdopen(read) as pipe:
        told = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), told


@pytest.fixture
def open_cohort(cohort, monkeypatch):
    """The cohort in a working folder that every user can reach, as pytest's own is closed to others."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        shutil.copytree(cohort, folder / "cohort")
        monkeypatch.chdir(folder)
        yield ["--dataset-dir", "cohort", "--image-size", 32, "--batch-size", 16, "--max-epochs", 1]


@pytest.mark.process
def test_a_full_disk_under_the_record_of_metrics_is_told_with_its_name(open_cohort, monkeypatch):
    append = RunRecord.append

    def full(self, **line):
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))
        return append(self, **line)

    command = ["train", "phantom_rtda", "--recipe", "standard", "--run-name", "full", *open_cohort]
    status, told = in_fork(lambda: monkeypatch.setattr(RunRecord, "append", full), command)
    last = [line for line in told.splitlines() if line.startswith("rtda: ")]
    cure = "free space or choose another folder"
    assert (status, last) == (1, [f"rtda: metrics.jsonl: cannot be written (File too large); {cure}"])
    assert "Traceback" not in told
    assert not Path("runs/full/last.pt").exists()  # an epoch is recorded before it is saved, so this one is repeated
    assert main([str(word) for word in [*command, "--resume", "runs/full"]]) == 0
    assert [line["epoch"] for line in RunRecord("runs/full").read()] == [1]


def unprivileged():
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)


@pytest.mark.process
def test_a_folder_without_permission_is_told_with_the_file_that_could_not_be_written(open_cohort):
    Path("runs").mkdir(mode=0o555)
    command = ["train", "phantom_rtda", "--recipe", "standard", "--run-name", "mine", *open_cohort]
    status, told = in_fork(unprivileged, command)
    assert status == 1
    assert told.splitlines()[-1].startswith("rtda: ")
    assert "cannot be written (Permission denied); free space or choose another folder" in told
    assert str(Path.cwd()) not in told
    assert "Traceback" not in told


@pytest.mark.slow
@pytest.mark.process
def test_a_file_without_permission_is_told_with_its_name(open_cohort):
    shutil.copy(INSTALLED / "recipes/standard.yaml", "mine.yaml")
    Path("mine.yaml").chmod(0)
    status, told = in_fork(unprivileged, ["train", "phantom_rtda", "--recipe", "mine.yaml", *open_cohort])
    cure = "check that it is there and that you may use it"
    assert (status, told) == (1, f"rtda: mine.yaml: file: Permission denied; {cure}\n")


# Options


def printed(rtda, *options):
    """What MONAI's own command line makes of the options in the command that ``rtda train --dry-run`` prints."""
    status, out, error = rtda("train", "phantom_rtda", "--recipe", "rtda", "--dry-run", *options)
    assert status == 0, error
    words = shlex.split(out)[5:]
    return {
        name.removeprefix("--"): DefaultParseValue(text) for name, text in zip(words[::2], words[1::2], strict=True)
    }


@pytest.mark.parametrize(
    ("option", "text", "value"),
    [
        ("run-name", "2026", "2026"),
        ("run-name", "1e3", "1e3"),
        ("run-name", "true", "true"),
        ("dataset-dir", "2024", "2024"),
        ("data-list", "[1]", "[1]"),
        ("seed", "3", 3),
        ("learning-rate", "1e-3", 0.001),
        ("radius", "1", 1),
        ("radius", "$@radius_224*2", "$@radius_224*2"),
        ("max-epochs", "$2*3", "$2*3"),
        ("attack", "$attacks.FGSM(@ball)", "$attacks.FGSM(@ball)"),
        ("augmentation", "{_target_: rtda.pipeline.views.Clean}", {"_target_": "rtda.pipeline.views.Clean"}),
    ],
)
def test_an_option_is_of_its_kind(rtda, option, text, value):
    name = option.replace("-", "_")
    for spelled in (f"--{option}", f"--{name}"):
        found = printed(rtda, spelled, text)[name]
        assert (found, type(found)) == (value, type(value))
        assert printed(rtda, f"{spelled}={text}")[name] == value


def test_a_person_can_read_the_printed_command(rtda):
    status, out, _ = rtda("train", "phantom_rtda", "--recipe", "rtda", "--dry-run", "--run-name", "2026")
    assert status == 0
    assert out.startswith("MLFLOW_DISABLE_TELEMETRY=true python -m monai.bundle run --config_file '[\"/")
    assert out.endswith("--run_name '\"2026\"' --output_dir runs/2026\n")
    assert '"\'"' not in out


def test_a_name_that_looks_like_a_number_names_the_run(rtda, tiny):
    options = ["--recipe", "standard", *tiny, "--max-epochs", 1]
    assert rtda("train", "phantom_rtda", *options, "--run-name", "2026")[0] == 0
    assert yaml.safe_load(Path("runs/2026/config.yaml").read_text())["run_name"] == "2026"
    assert rtda("train", "phantom_rtda", *options, "--resume", "runs/2026")[0] == 0


@pytest.mark.parametrize(
    "argv",
    [
        ["data", "build", "absent.csv", "--dataset_dir", ".", "-o", "a.json", "--recut_validation"],
        ["evaluate", "nowhere", "--dataset_dir", ".", "--num_workers", "0"],
        ["train", "nowhere", "--recipe", "rtda", "--dry_run", "--run_name=a_b"],
    ],
    ids=lambda argv: argv[0],
)
def test_every_verbs_options_may_have_underscores(rtda, argv):
    refused(rtda(*argv), argv[1] if argv[0] != "data" else argv[2])


def test_the_bundle_may_stand_anywhere_on_the_command_line(rtda):
    status, _, error = rtda("train", "--recipe", "rtda", "--dry-run", "phantom_rtda")
    assert status == 0, error
    for argv in (["--recipe", "rtda", "phantom_rtda", "-h"], ["--help", "--dry-run", "--seed=1", "phantom_rtda"]):
        status, out, _ = rtda("train", *argv)
        assert status == 0
        assert "default: 0.875" in out
    status, out, _ = rtda("train", "--help")
    assert status == 0
    assert "--radius-224" in out


def test_the_version_is_told(rtda):
    assert rtda("--version") == (0, f"rtda {version('rtda')}\n", "")


# Processes


@pytest.mark.process
def test_help_usage_errors_and_names_of_nothing_import_neither_torch_nor_monai(tmp_path):
    code = (
        "import sys; from rtda.pipeline.cli import main;"
        "train = ['train', 'phantom_rtda'];"
        "names = [['evaluate', 'no'], ['report', 'no'], ['compare', 'no', 'no'], ['pack', 'no', '-o', 'x']];"
        "names += [['infer', 'no', 'x']];"
        "told = [main(words) for words in (['--help'], [*train, '--help'], train, *names)];"
        "print(*told, 'imported', *({'torch', 'monai', 'mlflow'} & set(sys.modules)))"
    )
    done = in_process(sys.executable, "-c", code, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "0 0 2 2 2 2 2 2 imported"


def test_help_shows_the_bundles_defaults(rtda):
    status, out, _ = rtda("train", "phantom_rtda", "--help")
    assert status == 0
    assert "--radius-224" in out
    assert "default: 0.875" in out


@pytest.mark.process
@pytest.mark.slow
def test_a_refusal_is_one_line_in_a_process_of_its_own_too(cohort, tmp_path):
    options = ["--recipe", "rtda", "--dataset-dir", str(cohort), "--radius-224", "-1"]
    done = in_process(sys.executable, "-m", "rtda.pipeline", "train", "phantom_rtda", *options, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("rtda: radius")
    assert done.stderr.count("\n") == 1


@pytest.mark.process
@pytest.mark.slow
def test_the_printed_monai_command_trains_the_same_weights(rtda, cohort, tiny, tmp_path):
    train = ["train", "phantom_rtda", "--recipe", "rtda", *tiny, "--max-epochs", "1"]
    status, out, _ = rtda(*train, "--run-name", "by-monai", "--dry-run")
    assert status == 0
    assert not Path("runs").exists()
    home, path = tmp_path / "home", f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    silencing = {"MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK", "PYTEST_CURRENT_TEST", "CI"}
    environment = {key: value for key, value in os.environ.items() if key not in silencing}
    environment |= {"HOME": str(home), "PATH": path}
    done = in_process("sh", "-c", out, cwd=tmp_path, environment=environment)
    assert done.returncode == 0, done.stderr
    assert not (home / ".config" / "mlflow").exists()  # mlflow's telemetry id
    assert rtda(*train, "--run-name", "by-rtda")[0] == 0
    assert same("runs/by-monai/best.pt", "runs/by-rtda/best.pt")
