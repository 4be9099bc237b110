"""What a run hands on: the same preprocessing, network and threshold as in training, whoever uses it."""

import csv
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import scipy.special
import yaml
from PIL import Image
from rtda.pipeline.cli import main
from rtda.pipeline.commands.evaluate import table_path, tables_of
from rtda.pipeline.data import lists
from rtda.pipeline.delivery.bundle import find_run
from rtda.pipeline.delivery.infer import found
from rtda.pipeline.evidence.table import facts_of, read_table


def read_csv(path):
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def unzipped(workshop, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unzipped")
    with zipfile.ZipFile(workshop / "rtda.zip") as archive:
        archive.extractall(folder)
    return folder / "phantom_rtda"


def test_inference_gives_the_probabilities_of_the_table(workshop, cohort, tmp_path, monkeypatch):
    """The run was trained at 32 x 32, which is not the bundle's own size."""
    monkeypatch.chdir(tmp_path)
    assert main(["infer", str(workshop / "rtda.zip"), str(cohort / "films"), "-o", "out.csv"]) == 0
    inferred = {Path(row["file"]).name: float(row["lesion"]) for row in read_csv("out.csv")}
    table = read_table(workshop / "runs/rtda/predictions.parquet").to_pandas()
    table = table[(table["view"] == "clean") & (table["split"] == "test")].set_index("image_id")
    items = lists.load(cohort / "phantom.json", cohort, "test")
    assert len(items) == len(table) > 10
    for item in items:
        expected = scipy.special.softmax(table.loc[item["image_id"], "logits"].astype(float))[1]
        assert inferred[Path(item["image"]).name] == pytest.approx(expected, abs=2e-5)


def test_a_packed_bundle_is_configured_as_the_run_was_trained(workshop, unzipped):
    run = find_run(str(workshop / "runs/rtda"))
    train, inference = (
        yaml.safe_load((unzipped / f"configs/{name}.yaml").read_text()) for name in ("train", "inference")
    )
    metadata = json.loads((unzipped / "configs/metadata.json").read_text())
    assert train["image_size"] == inference["image_size"] == 32
    assert metadata["network_data_format"]["inputs"]["image"]["spatial_shape"] == [32, 32]
    for name in ("views", "stack", "supervise", "weight", "max_epochs", "network_def"):
        assert train[name] == run.settings[name]
    assert (unzipped / "configs/train.yaml").read_text().startswith("# Phantom")
    text = "".join(path.read_text() for path in unzipped.rglob("*") if path.suffix in (".yaml", ".json"))
    assert str(workshop) not in text
    assert "rtda-" not in train["output_dir"]


def test_packed_metadata_fit_the_schema_and_say_what_its_user_must_know(unzipped):
    import jsonschema

    schema = json.loads((Path(__file__).parents[1] / "bundles/metadata.schema.json").read_text())
    metadata = json.loads((unzipped / "configs/metadata.json").read_text())
    jsonschema.validate(metadata, schema)
    stated = metadata["rtda"]
    assert stated["training_sampling"] == "classes equally often"
    assert 0.05 <= stated["temperature"] <= 20.01
    assert stated["attack"] == {
        "norm": "l2",
        "radius": 0.125,
        "image_size": 32,
        "rms_grey_levels": pytest.approx(0.9961),
    }
    for field in ("temperature", "attack", "training_sampling"):
        broken = metadata | {"rtda": {k: v for k, v in stated.items() if k != field}}
        with pytest.raises(jsonschema.ValidationError, match=field):
            jsonschema.validate(broken, schema)


@pytest.fixture
def run_copy(workshop, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(workshop / "runs/rtda", tmp_path / "runs/rtda")
    shutil.rmtree(tmp_path / "runs/rtda/parts", ignore_errors=True)
    return find_run("runs/rtda")


def test_other_checkpoints_and_splits_have_tables_of_their_own(run_copy):
    usual = table_path(run_copy, "test", "best")
    before = usual.read_bytes()
    assert usual.name == "predictions.parquet"
    assert main(["evaluate", "runs/rtda", "--checkpoint", "last"]) == 0
    assert main(["evaluate", "runs/rtda", "--split", "validation"]) == 0
    assert usual.read_bytes() == before
    assert {path.name for path in run_copy.folder.glob("*.parquet")} == {
        "predictions.parquet", "predictions-last.parquet", "predictions-validation.parquet",
    }  # fmt: skip
    assert [path.name for path in tables_of(run_copy, "best", "last")] == [
        "predictions.parquet",
        "predictions-last.parquet",
    ]
    assert main(["report", "runs/rtda", "-o", "out/report.html"]) == 0
    page = Path("out/report.html").read_text()
    assert "rtda, best" in page
    assert "rtda, last" in page
    facts = facts_of(read_table(Path("out/predictions.parquet")))["runs"]
    assert len({fact["checksum_weights"] for fact in facts}) == len(facts) == 2
    usual.unlink()
    assert [path.name for path in tables_of(run_copy, "best")] == ["predictions-validation.parquet"]


def test_a_report_leaves_the_table_of_the_run_it_is_written_into(run_copy, workshop):
    before = (run_copy.folder / "predictions.parquet").read_bytes()
    assert main(["report", str(workshop / "runs/standard"), "runs/rtda", "-o", "runs/rtda/both.html"]) == 0
    assert (run_copy.folder / "predictions.parquet").read_bytes() == before


def test_a_report_without_pictures_has_none(run_copy):
    assert main(["report", "runs/rtda", "--no-pictures", "-o", "out/report.html"]) == 0
    assert "data:image/png" not in Path("out/report.html").read_text()


def test_a_burned_in_annotation_is_a_warning_in_its_row(workshop, cohort, write_film, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30)).astype(np.uint8)
    film = write_film(tmp_path / "burned.dcm", pixels, BurnedInAnnotation="YES")
    assert main(["infer", str(workshop / "rtda.zip"), str(film), str(cohort / "films/00000.dcm"), "-o", "out.csv"]) == 0
    burned, clean = read_csv("out.csv")
    assert burned["warning"].startswith("burned.dcm: BurnedInAnnotation: YES")
    assert clean["warning"] == ""
    assert burned["frame"] == clean["frame"] == "0"


def test_an_error_row_says_what_the_reader_says(workshop, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cut.nii.gz").write_bytes(b"\x1f\x8b\x08\x00")
    assert main(["infer", str(workshop / "rtda.zip"), "cut.nii.gz", "-o", "out.csv"]) == 1
    assert read_csv("out.csv")[0]["error"].startswith("cut.nii.gz: ")


def test_files_are_found_once_and_hidden_ones_not(tmp_path):
    grey = Image.fromarray(np.zeros((4, 4), np.uint8))
    for name in ("a.png", ".hidden.png", ".checkpoints/b.png", "inside/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        grey.save(tmp_path / name)
    assert [path.name for path in found([str(tmp_path / "a.png"), str(tmp_path)])] == ["a.png", "c.png"]
    assert [path.name for path in found([str(tmp_path / ".hidden.png")])] == [".hidden.png"]
