"""What a run hands on: the same preprocessing, network and threshold as in training, whoever uses it."""

import csv
import dataclasses
import errno
import hashlib
import json
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
import scipy.special
import torch
import yaml
from monai.bundle import ConfigParser
from PIL import Image
from pydicom.data import get_testdata_file
from rtda.pipeline.cli import main
from rtda.pipeline.commands.evaluate import table_path, tables_of
from rtda.pipeline.data import lists
from rtda.pipeline.delivery.bundle import INSTALLED, find_bundle, find_run, read_yaml
from rtda.pipeline.delivery.infer import Answer, Classifier, found, rows
from rtda.pipeline.delivery.pack import halved
from rtda.pipeline.evidence import metrics
from rtda.pipeline.evidence.evaluation import weights_checksum
from rtda.pipeline.evidence.outcomes import METRICS
from rtda.pipeline.evidence.scores import predict
from rtda.pipeline.evidence.table import facts_of, read_table
from rtda.pipeline.handlers import load_weights
from rtda.transforms.display import Choices


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
    assert stated["choices"] == json.loads(json.dumps(dataclasses.asdict(Choices())))
    for field in ("temperature", "attack", "training_sampling", "choices"):
        broken = metadata | {"rtda": {k: v for k, v in stated.items() if k != field}}
        with pytest.raises(jsonschema.ValidationError, match=field):
            jsonschema.validate(broken, schema)


@pytest.fixture
def run_copy(workshop, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(workshop / "runs/rtda", tmp_path / "runs/rtda")
    return find_run("runs/rtda")


def test_evidence_of_other_weights_is_not_packed(run_copy, capsys):
    content = torch.load(run_copy.folder / "best.pt", weights_only=True)
    next(iter(content["model"].values())).add_(1)
    torch.save(content, run_copy.folder / "best.pt")
    assert main(["pack", "runs/rtda", "-o", "mine.zip"]) == 2
    assert capsys.readouterr().err == "rtda: rtda: predictions.parquet: of other weights; run rtda evaluate again\n"
    assert not Path("mine.zip").exists()


def test_the_verdict_of_the_checks_goes_into_the_bundle(run_copy):
    preset = read_yaml(INSTALLED / "views/quick.yaml") | {"masking_images": 16}
    Path("checked.yaml").write_text(yaml.safe_dump(preset))
    assert main(["evaluate", "runs/rtda", "--preset", "checked.yaml"]) == 0
    assert main(["pack", "runs/rtda", "-o", "mine.zip"]) == 0
    with zipfile.ZipFile("mine.zip") as archive:
        stated = json.loads(archive.read("phantom_rtda/configs/metadata.json"))["rtda"]
    figures = json.loads((run_copy.folder / "metrics.json").read_text())
    assert figures["masking"]["verdict"] in ("believable", "masked", "not decidable")
    assert stated["evidence"]["masking"] == {name: figures["masking"][name] for name in ("verdict", "failed")}
    assert (stated["weights_sha256"], stated["data_list_sha256"]) == (
        figures["checksum_weights"], figures["checksum_list"],
    )  # fmt: skip
    assert stated["seen"] == ["brightness", "contrast"]


def test_other_checkpoints_and_splits_have_tables_of_their_own(run_copy):
    usual = table_path(run_copy.folder, "test", "best")
    before = usual.read_bytes()
    assert usual.name == "predictions.parquet"
    assert main(["evaluate", "runs/rtda", "--checkpoint", "last"]) == 0
    assert main(["evaluate", "runs/rtda", "--split", "validation"]) == 0
    assert usual.read_bytes() == before
    assert {path.name for path in run_copy.folder.glob("*.parquet")} == {
        "predictions.parquet", "predictions-last.parquet", "predictions-validation.parquet",
    }  # fmt: skip
    assert [path.name for path in tables_of(run_copy.folder, "best", "last")] == [
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
    assert [path.name for path in tables_of(run_copy.folder, "best")] == ["predictions-validation.parquet"]


def test_a_report_leaves_the_table_of_the_run_it_is_written_into(run_copy, workshop):
    before = (run_copy.folder / "predictions.parquet").read_bytes()
    assert main(["report", str(workshop / "runs/standard"), "runs/rtda", "-o", "runs/rtda/both.html"]) == 0
    assert (run_copy.folder / "predictions.parquet").read_bytes() == before


def test_a_report_without_pictures_has_none(run_copy):
    assert main(["report", "runs/rtda", "--no-pictures", "-o", "out/report.html"]) == 0
    assert "data:image/png" not in Path("out/report.html").read_text()


def test_runs_that_cannot_be_compared_are_refused_by_name(run_copy, workshop, capsys):
    assert main(["evaluate", "runs/rtda", "--split", "validation"]) == 0
    (run_copy.folder / "predictions.parquet").unlink()
    capsys.readouterr()
    assert main(["report", str(workshop / "runs/standard"), "runs/rtda", "-o", "out/report.html"]) == 2
    told = "split: not as in standard/predictions.parquet; evaluate both on the same --split"
    assert capsys.readouterr().err == f"rtda: rtda/predictions-validation.parquet: {told}\n"


def test_a_burned_in_annotation_is_a_warning_in_its_row(workshop, cohort, write_film, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30)).astype(np.uint8)
    film = write_film(tmp_path / "burned.dcm", pixels, BurnedInAnnotation="YES")
    assert main(["infer", str(workshop / "rtda.zip"), str(film), str(cohort / "films/00000.dcm"), "-o", "out.csv"]) == 0
    burned, clean = read_csv("out.csv")
    assert burned["warning"].startswith("burned.dcm: BurnedInAnnotation: YES")
    assert clean["warning"] == ""
    assert burned["frame"] == clean["frame"] == "0"


def test_the_choices_of_a_run_reach_whoever_infers_with_it(workshop, cohort, tiny, write_film, tmp_path, monkeypatch):
    """The film contradicts itself, and the run was told what decides; percentiles must stand in the metadata."""
    monkeypatch.chdir(tmp_path)
    choices = "{_target_: rtda.transforms.display.Choices, polarity: shape, intensity: {percentiles: [1, 99]}}"
    train = ["train", "phantom_rtda", "--recipe", "standard", "--run-name", "own", *tiny, "--max-epochs", "1"]
    assert main([*train, "--choices", choices]) == 0
    assert main(["evaluate", "runs/own"]) == 0
    assert main(["pack", "runs/own", "-o", "own.zip"]) == 0
    with zipfile.ZipFile("own.zip") as archive:
        stated = json.loads(archive.read("phantom_rtda/configs/metadata.json"))["rtda"]["choices"]
    assert stated == dataclasses.asdict(Choices(polarity="shape", intensity={"percentiles": [1, 99]}))
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30)).astype(np.uint8)
    film = write_film(tmp_path / "film.dcm", pixels, PresentationLUTShape="INVERSE")
    for bundle, status in (("own.zip", 0), ("runs/own", 0), (str(workshop / "rtda.zip"), 1)):
        assert main(["infer", bundle, str(film), "-o", "out.csv"]) == status
    assert "PresentationLUTShape" in read_csv("out.csv")[0]["error"]


@pytest.fixture
def loop(write_film, tmp_path):
    """Three frames, of which the second is empty, with two warnings."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, 40, 30)).astype(np.uint8)
    pixels[1] = 7
    return write_film(tmp_path / "loop.dcm", pixels, BurnedInAnnotation="YES", Modality="US"), pixels


def test_every_frame_is_a_row_and_a_files_warnings_stand_once(workshop, loop, write_film, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rtda.pipeline.delivery.infer.deviations", lambda *about: [])  # random pixels are no films
    path, pixels = loop
    films = [write_film(tmp_path / f"{k}.dcm", pixels[k], Modality="US") for k in (0, 2)]
    (tmp_path / "notes.txt").write_text("seen")
    files = [str(one) for one in (path, *films, tmp_path / "notes.txt")]
    assert main(["infer", str(workshop / "rtda.zip"), *files, "-o", "out.csv"]) == 1
    rows = read_csv("out.csv")
    named = [(Path(row["file"]).name, row["frame"]) for row in rows]
    assert named == [*(("loop.dcm", f"{k}") for k in range(3)), ("0.dcm", "0"), ("2.dcm", "0"), ("notes.txt", "0")]
    assert [row["lesion"] for row in rows] == [
        rows[3]["lesion"],
        "",
        rows[4]["lesion"],
        *(r["lesion"] for r in rows[3:]),
    ]
    assert rows[3]["lesion"] != rows[4]["lesion"]
    assert rows[1]["error"].startswith("loop.dcm: pixels: all have one value")
    assert rows[5]["error"].startswith("notes.txt: format: ")
    assert [row["warning"].count("loop.dcm: ") for row in rows] == [2, 0, 0, 0, 0, 0]
    assert main(["infer", str(workshop / "rtda.zip"), f"{path}#frame=2", f"{path}#frame=9", "-o", "named.csv"]) == 1
    third, none = read_csv("named.csv")
    assert third == rows[2] | {"warning": rows[0]["warning"]}
    assert (none["file"], none["frame"]) == (str(path), "9")
    assert none["error"].startswith("loop.dcm: NumberOfFrames: 3, so there is no frame 9")


def test_a_frame_of_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"^loop\.dcm#frame=1: file: does not exist"):
        found([str(tmp_path / "loop.dcm#frame=1")])


def test_a_film_unlike_those_of_training_is_answered_with_a_warning(unzipped, tmp_path, write_film):
    metadata = json.loads((INSTALLED / "chest_xray_rtda/configs/metadata.json").read_text())
    classifier = dataclasses.replace(
        Classifier.of_bundle(find_bundle(str(unzipped))), trained_on=metadata["trained_on"]
    )
    pixels = np.arange(4096).reshape(64, 64).astype(np.uint8)
    told = {
        "alike": {"BodyPartExamined": "CHEST", "ViewPosition": "AP"},
        "unstated": {},
        "lateral": {"BodyPartExamined": "CHEST", "ViewPosition": "LL"},
        "hand": {"BodyPartExamined": "HAND", "ViewPosition": "PA", "Modality": "CR"},
    }
    films = [write_film(tmp_path / f"{name}.dcm", pixels, **fields) for name, fields in told.items()]
    alike, unstated, lateral, hand = rows(classifier, films)
    assert alike["warning"] == ""
    assert unstated["warning"] == (
        "unstated.dcm: body_part: not stated; the model was trained on CHEST, THORAX; "
        "unstated.dcm: projection: not stated; the model was trained on AP"
    )
    assert lateral["warning"] == "lateral.dcm: projection: LL, but the model was trained on AP"
    assert hand["warning"] == (
        "hand.dcm: body_part: HAND, but the model was trained on CHEST, THORAX; "
        "hand.dcm: projection: PA, but the model was trained on AP"
    )
    assert all(row["predicted"] for row in (alike, unstated, lateral, hand))
    (slice_,) = rows(classifier, [Path(get_testdata_file("CT_small.dcm"))])
    assert "hu_window" in slice_["error"]


@pytest.mark.data
def test_the_chest_bundle_answers_real_films_with_their_warnings_and_a_slice_with_an_error(
    real_data, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with (real_data / "dicom_reader/manifest.csv").open(newline="") as file:
        stated = [row for row in csv.DictReader(file) if row["modality"] in ("CR", "DX")]
    films = [real_data / "dicom_reader" / row["file"] for row in stated]
    jpeg = next((real_data / "xray_kermany/images/test/PNEUMONIA").iterdir())
    Image.open(jpeg).save("film.png")
    slice_ = get_testdata_file("CT_small.dcm")
    assert main(["infer", "chest_xray_rtda", *map(str, films), str(jpeg), "film.png", slice_, "-o", "out.csv"]) == 1
    *answered, refused = csv.DictReader(Path("out.csv").read_text().splitlines())
    assert len(answered) == 5 + 2
    threshold = json.loads((INSTALLED / "chest_xray_rtda/configs/metadata.json").read_text())["rtda"]["threshold"]
    for row in answered:
        assert row["error"] == ""
        assert float(row["normal"]) + float(row["pneumonia"]) == pytest.approx(1, abs=2e-6)
        assert float(row["threshold"]) == pytest.approx(threshold, rel=1e-5)
        assert row["predicted"] == ("pneumonia" if float(row["pneumonia"]) >= threshold else "normal")
    for path, row in zip(films, answered, strict=False):
        header = pydicom.dcmread(path, stop_before_pixels=True, force=True)
        assert ("body_part: " in row["warning"]) == (header.get("BodyPartExamined") not in ("CHEST", "THORAX"))
        assert ("projection: " in row["warning"]) == (header.get("ViewPosition") != "AP")
    assert answered[-1]["pneumonia"] == answered[-2]["pneumonia"]
    assert refused["predicted"] == ""
    assert "hu_window" in refused["error"]


@pytest.mark.parametrize("reader", [None, "PILReader"])
def test_a_bundle_without_our_reader_has_one_row_a_file(reader):
    config = {"preprocessing": [], "reader": reader} if reader else {"preprocessing": []}
    classifier = Classifier(ConfigParser(config), torch.nn.Identity(), ["a", "b"], 0.5)
    assert classifier.frames(Path("loop.dcm")) == {0: Path("loop.dcm")}


@pytest.mark.parametrize(
    ("threshold", "printed"), [(0.12345678901234567, "0.123457"), (4.2e-8, "4.2e-08"), (0.5, "0.5"), (None, "")]
)
def test_the_threshold_is_printed_in_six_digits_and_decides_with_all(threshold, printed, tmp_path, monkeypatch):
    """At the threshold is above it, as in evaluation; the least number below it is below it, though both look equal."""
    film = tmp_path / "film.png"
    film.write_bytes(b"")
    for p, predicted in ((threshold or 0.7, "b"), (np.nextafter(threshold or 0.3, 0), "a")):
        monkeypatch.setattr(Classifier, "answer", lambda self, image, p=p: Answer([1 - p, p], [], {}))
        (row,) = rows(Classifier(ConfigParser({}), torch.nn.Identity(), ["a", "b"], threshold), [film])
        assert (row["threshold"], row["predicted"], row["b"]) == (printed, predicted, f"{p:.6f}")
        assert predict([[1 - p, p]], threshold)[0] == ["a", "b"].index(predicted)


def test_an_error_row_says_what_the_reader_says(workshop, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cut.nii.gz").write_bytes(b"\x1f\x8b\x08\x00")
    assert main(["infer", str(workshop / "rtda.zip"), "cut.nii.gz", "-o", "out.csv"]) == 1
    assert read_csv("out.csv")[0]["error"].startswith("cut.nii.gz: ")


@pytest.mark.parametrize("name", ["chest  1.dcm", " chest.dcm", "chest\n1.dcm", "caf\udce9.dcm"])
def test_any_name_of_a_file_may_stand_in_a_row(workshop, write_film, tmp_path, monkeypatch, name):
    """Blanks, which the reader's messages hold once, a line break, and a byte that is no UTF-8."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "films").mkdir()
    write_film(tmp_path / "film", np.arange(12, dtype=np.uint8).reshape(3, 4), BurnedInAnnotation="YES")
    (tmp_path / "film").rename(tmp_path / "films" / name)
    (tmp_path / "films" / f"cut {name}").write_bytes(b"\x1f\x8b\x08\x00")  # refused because of what gzip raises
    assert main(["infer", str(workshop / "rtda.zip"), "films", "-o", "out.csv"]) == 1
    told = {row["file"]: row for row in read_csv("out.csv")}
    shown = name.encode(errors="backslashreplace").decode()
    film, cut = told[f"films/{shown}"], told[f"films/cut {shown}"]
    assert film["warning"].startswith(f"{' '.join(shown.split())}: BurnedInAnnotation: YES")
    assert cut["error"].startswith(f"cut {' '.join(shown.split())}: pixels: ")
    assert main(["infer", str(workshop / "rtda.zip"), "films"]) == 1


def test_files_are_found_once_and_hidden_ones_not(tmp_path):
    grey = Image.fromarray(np.zeros((4, 4), np.uint8))
    for name in ("a.png", ".hidden.png", ".checkpoints/b.png", "inside/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        grey.save(tmp_path / name)
    assert [path.name for path in found([str(tmp_path / "a.png"), str(tmp_path)])] == ["a.png", "c.png"]
    assert [path.name for path in found([str(tmp_path / ".hidden.png")])] == [".hidden.png"]


def test_a_folder_that_cannot_be_read_is_refused_not_passed_over(tmp_path, monkeypatch):
    for name in ("films", ".hidden"):
        (tmp_path / name).mkdir()
    (tmp_path / "a.png").touch()
    scandir, closed = os.scandir, ["films"]

    def denied(path):
        if Path(path).name in closed:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(ValueError, match=r"^films: folder: Permission denied; make it readable"):
        found([str(tmp_path)])
    closed[:] = [".hidden"]
    assert found([str(tmp_path)]) == [tmp_path / "a.png"]


def test_what_is_written_into_a_folder_is_not_read_from_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "out.csv"):
        (tmp_path / name).touch()
    assert found([str(tmp_path)], written=["out.csv", None]) == [tmp_path / "a.png"]
    assert found(["out.csv"], written=["out.csv"]) == [Path("out.csv")]  # given by name


def test_weights_packed_in_float16_are_those_that_were_evaluated(run_copy, workshop, capsys):
    """Rounded, evaluated as such, packed: the bundle predicts what its own evidence was measured on."""
    assert main(["pack", "runs/rtda", "--half", "-o", "half.zip"]) == 2
    assert "predictions-half.parquet: missing in 'rtda'; make it with rtda evaluate" in capsys.readouterr().err
    shutil.copytree(workshop / "runs/standard", "runs/standard")
    for run in ("runs/rtda", "runs/standard"):
        assert main(["evaluate", run, "--checkpoint", "half"]) == 0
    assert main(["pack", "runs/rtda", "--half", "--beside", "runs/standard", "-o", "half.zip"]) == 0
    with zipfile.ZipFile("half.zip") as archive:
        archive.extractall()
        sizes = {info.filename: info.file_size for info in archive.infolist() if info.filename.endswith(".pt")}
    assert list(sizes) == ["phantom_rtda/models/model.pt", "phantom_rtda/models/standard.pt"]
    with zipfile.ZipFile(workshop / "rtda.zip") as archive:
        whole = archive.getinfo("phantom_rtda/models/model.pt").file_size
    assert max(sizes.values()) < 0.6 * whole
    stated = json.loads(Path("phantom_rtda/configs/metadata.json").read_text())["rtda"]
    for name, recipe, own in (("model", "rtda", stated), ("standard", "standard", stated["beside"]["standard"])):
        network = ConfigParser(read_yaml(Path("phantom_rtda/configs/inference.yaml"))).get_parsed_content("network_def")
        content = Path(f"phantom_rtda/models/{name}.pt").read_bytes()
        assert hashlib.sha256(content).hexdigest() == stated["files_sha256"][f"models/{name}.pt"]
        network.load_state_dict(load_weights(Path(f"phantom_rtda/models/{name}.pt")))
        assert weights_checksum(network.state_dict()) == own["weights_sha256"]
        table = read_table(Path(f"runs/{recipe}/predictions-half.parquet"))
        assert facts_of(table)["checksum_weights"] == own["weights_sha256"]
        assert own["recipe"] == recipe


def test_weights_beside_the_bundles_own_must_fit_it(run_copy, workshop, tiny, capsys):
    assert main(["pack", "runs/rtda", "--beside", str(workshop / "runs/rtda"), "-o", "x.zip"]) == 2
    assert "rtda: recipe: rtda stands twice; pack one run of each recipe" in capsys.readouterr().err
    shutil.copytree(workshop / "runs/standard", "runs/standard")
    config = Path("runs/standard/config.yaml")
    config.write_text(config.read_text().replace("image_size: 32", "image_size: 64"))
    assert main(["pack", "runs/rtda", "--beside", "runs/standard", "-o", "x.zip"]) == 2
    assert "standard: image_size: not that of rtda; pack it as a bundle of its own" in capsys.readouterr().err


def test_weights_too_large_for_float16_are_refused():
    with pytest.raises(ValueError, match=r"^weight: weight: too large for float16; pack without"):
        halved({"weight": torch.tensor([1e5])})


def test_what_is_trained_from_a_packed_bundle_does_not_state_its_evidence(unzipped, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--recipe", "standard", "--run-name", "again", *tiny, "--max-epochs", "1"]
    assert main(["train", str(unzipped), *options]) == 0
    assert "rtda" not in find_run("runs/again").bundle.metadata
    assert not (find_run("runs/again").bundle.root / "models").exists()


def test_the_figures_of_a_run_hold_its_metrics_intervals_and_commands(workshop):
    run = workshop / "runs/rtda"
    stated = json.loads((run / "metrics.json").read_text())
    table = read_table(run / "predictions.parquet")
    summary = metrics.flat(metrics.summarise(table))
    found = {
        f"{view}/{metric}": numbers[metric][0]
        for view, numbers in stated["views"].items()
        for metric in METRICS
        if numbers[metric][0] is not None
    }
    assert found == pytest.approx(summary, rel=1e-5)
    low, value, high = (stated["views"]["clean"]["brier"][i] for i in (1, 0, 2))
    assert low < value < high
    assert stated["checksum_weights"] == facts_of(table)["checksum_weights"]
    assert stated["constant"]["balanced_accuracy"] == 0.5
    assert stated["attacks"]["of"] == ["fgsm_l2_0.125", "pgd20_l2_0.0625", "pgd20_l2_0.125"]
    assert stated["shifts"]["worst"] in {"contrast_down_5", "contrast_up_5", "gaussian_noise_5"}
    value, low, high = stated["shifts"]["mean_error"]
    assert low < value < high
    assert {"site", "sex"} <= set(stated["subgroups"])
    levels = stated["subgroups"]["sex"].values()
    assert sum(level["images"] for level in levels) == stated["images"]
    assert all(set(level["views"]) == {"clean", "pgd20_l2_0.125", "contrast_down_5"} for level in levels)
    assert stated["commands"] == [
        "rtda train phantom_rtda --recipe rtda --image-size 32 --max-epochs 2 --precision float32 "
        "--run-name rtda --dataset-dir DIR",
        "rtda evaluate runs/rtda",
    ]
    assert stated["training"]["epochs"] == 2
    assert str(workshop) not in (run / "metrics.json").read_text()
