"""The command ``rtda``: the whole way from films to a packed bundle, and what it refuses on the way."""

import csv
import json
import os
import shlex
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image
from rtda.pipeline.cli import main
from rtda.pipeline.handlers import load_checkpoint

CORRUPT = b"this is no image" * 20


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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


def in_process(*argv, cwd, **kwargs):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
    return subprocess.run(argv, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600, **kwargs)


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
    held = {path.name for path in run.iterdir()} - {"parts"}
    expected = {"config.yaml", "metrics.jsonl", "best.pt", "last.pt", "predictions.parquet", "examples.npz"}
    assert held - {"mlflow_run_id"} == expected
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


def test_the_packed_bundle_states_what_its_user_must_know(workshop):
    with zipfile.ZipFile(workshop / "rtda.zip") as archive:
        names = archive.namelist()
        metadata = json.loads(archive.read("phantom_rtda/configs/metadata.json"))
    stated = metadata["rtda"]
    assert {"phantom_rtda/models/model.pt", "phantom_rtda/LICENSE", "phantom_rtda/configs/inference.yaml"} <= set(names)
    assert stated["threshold_source"] == "clean validation"
    assert 0 <= stated["threshold"] <= 1
    assert sum(stated["training_prior"]) == pytest.approx(1)
    assert {"clean/auroc", "pgd20_l2_0.125/auroc"} <= set(stated["evidence"])
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
    assert "2 of 5 files have errors" in told
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


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (missing_image, ["bad.json", "image", "none.dcm"]),
        (unknown_label, ["bad.json", "train[0]", "label", "7"]),
        (unknown_label_name, ["bad.json", "test[0]", "label", "lesion"]),
        (patient_in_two_splits, ["bad.json", "patient_id", "train and test"]),
        (empty_split, ["bad.json", "validation", "empty"]),
        (one_class_split, ["bad.json", "validation", "no lesion"]),
        (constant_image, ["flat.png", "one value"]),
        (not_a_number, ["hole.nii"]),
        (corrupt_image, ["broken.dcm"]),
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
}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--recipe", "nope"], ["nope", "recipe", "rtda"]),
        (["--recipe", "unknown_key.yaml"], ["unknown_key.yaml", "lambda", "unknown key"]),
        (["--recipe", "broken.yaml"], ["broken.yaml", "line"]),
        (["--recipe", "unknown_view.yaml"], ["stack", "augmented"]),
        (["--recipe", "absent.yaml"], ["absent.yaml", "recipe"]),
        ([], ["--recipe"]),
        (["--recipe", "rtda", "--radius-224", -1], ["radius"]),
        (["--recipe", "rtda", "--radius-224", "nan"], ["radius"]),
        (["--recipe", "rtda", "--radius-224", 0], ["radius"]),
        (["--recipe", "trades", "--radius", 0], ["radius"]),
        (["--recipe", "rtda", "--image-size", "abc"], ["image_size", "abc"]),
        (["--recipe", "rtda", "--max-epochs", "1.5"], ["max_epochs", "1.5"]),
        (["--recipe", "rtda", "--batch-size", "true"], ["batch_size"]),
        (["--recipe", "rtda", "--learning-rate", "fast"], ["learning_rate", "fast"]),
        (["--recipe", "rtda", "--precision", "half"], ["precision", "half"]),
        (["--recipe", "rtda", "--batch-size", 5000], ["batch_size"]),
        (["--recipe", "rtda", "--max-epochs", 0], ["max_epochs"]),
        (["--recipe", "rtda", "--image-size", 0], ["image_size"]),
        (["--recipe", "rtda", "--learning-rte", 1], ["--learning-rte"]),
        (["--recipe", "rtda", "--data-list", "absent.json"], ["absent.json", "data list"]),
        (["--recipe", "rtda", "--resume", "nowhere"], ["nowhere", "config.yaml"]),
    ],
    ids=lambda value: " ".join(map(str, value)) if value and str(value[0]).startswith("--") else "",
)
def test_a_bad_option_is_refused(rtda, tiny, options, words):
    for name, text in RECIPES.items():
        Path(name).write_text(text)
    refused(rtda(*TRAIN, *tiny, *options), *words)


def test_a_folder_that_holds_something_is_not_trained_into(rtda, workshop, tiny):
    options = ["--recipe", "rtda", "--output-dir", str(workshop / "runs/rtda")]
    refused(rtda(*TRAIN, *tiny, *options), "rtda: rtda: run", "--resume")


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
        (["evaluate", "{runs}/rtda", "--processes", "0"], ["processes"]),
        (["evaluate", "{runs}/rtda", "--split", "train"], ["--split"]),
        (["evaluate", "{runs}/rtda", "--dataset-dir", "elsewhere"], ["image", "--dataset-dir"]),
        (["report", "nowhere"], ["nowhere", "config.yaml"]),
        (["report", "run"], ["predictions.parquet", "rtda evaluate"]),
        (["pack", "run", "-o", "a.zip"], ["predictions.parquet", "rtda evaluate"]),
        (["infer", "{runs}/rtda", "absent.dcm"], ["absent.dcm"]),
        (["infer", "{runs}/rtda", "empty"], ["files"]),
        (["infer", "phantom_rtda", "absent.dcm"], ["absent.dcm"]),
        (["infer", "phantom_rtda", "film.dcm"], ["model.pt"]),
        (["infer", "nowhere", "film.dcm"], ["nowhere", "bundle"]),
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


# Processes


@pytest.mark.parametrize("argv", [["--help"], ["train", "phantom_rtda", "--help"], ["train", "phantom_rtda"]])
def test_help_and_usage_errors_import_neither_torch_nor_monai(argv, tmp_path):
    code = (
        "import sys; from rtda.pipeline.cli import main; status = main(sys.argv[1:]);"
        "print('imported', *({'torch', 'monai', 'mlflow'} & set(sys.modules))); sys.exit(status)"
    )
    done = in_process(sys.executable, "-c", code, *argv, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "imported"
    assert done.returncode == (0 if "--help" in argv else 2)


def test_help_shows_the_bundles_defaults(rtda):
    status, out, _ = rtda("train", "phantom_rtda", "--help")
    assert status == 0
    assert "--radius-224" in out
    assert "default: 0.875" in out


def test_a_refusal_is_one_line_in_a_process_of_its_own_too(cohort, tmp_path):
    options = ["--recipe", "rtda", "--dataset-dir", str(cohort), "--radius-224", "-1"]
    done = in_process(sys.executable, "-m", "rtda.pipeline", "train", "phantom_rtda", *options, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("rtda: radius")
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_the_printed_monai_command_trains_the_same_weights(rtda, cohort, tiny, tmp_path):
    train = ["train", "phantom_rtda", "--recipe", "rtda", *tiny, "--max-epochs", "1"]
    status, out, _ = rtda(*train, "--run-name", "by-monai", "--dry-run")
    assert status == 0
    assert not Path("runs").exists()
    words = shlex.split(out)
    assert words[:4] == ["python", "-m", "monai.bundle", "run"]
    done = in_process(sys.executable, *words[1:], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert rtda(*train, "--run-name", "by-rtda")[0] == 0
    assert same("runs/by-monai/best.pt", "runs/by-rtda/best.pt")
