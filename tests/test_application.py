"""The deployed application in this process: which images are answered, what is written, and what is not told."""

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from rtda.pipeline.cli import main
from rtda.pipeline.delivery import application
from rtda.pipeline.delivery.application import DONE, FAILED, REFUSED, run
from rtda.pipeline.delivery.bundle import find_bundle
from rtda.pipeline.delivery.infer import Classifier
from rtda.pipeline.delivery.structured_report import ReportError

pytestmark = pytest.mark.filterwarnings("ignore")
TOLD = ("Zebra", "Quagga", "Z4711", "secret")


@pytest.fixture(scope="module")
def bundle(workshop, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle")
    with zipfile.ZipFile(workshop / "rtda.zip") as archive:
        archive.extractall(folder)
    return folder / "phantom_rtda"


def exported(bundle, folder, **changes):
    """The bundle with changed metadata as a program."""
    own = Path(shutil.copytree(bundle, folder / "phantom_rtda"))
    path = own / "configs/metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    assert main(["export", str(own), "--to", "ts", "-o", str(folder / "model.ts")]) == 0
    return folder / "model.ts"


@pytest.fixture(scope="module")
def model(bundle, tmp_path_factory):
    return exported(bundle, tmp_path_factory.mktemp("model"), trained_on={})


@pytest.fixture
def film(write_film, tmp_path):
    """Write a film as an archive would: in nested folders, without suffix, with a patient."""
    count = 0

    def write(study="1.2.840.9.1", patient="Z4711", folder="input/secret", **fields):
        nonlocal count
        count += 1
        where = tmp_path / folder / f"{count:03d}"
        where.mkdir(parents=True)
        pixels = np.random.default_rng(count).integers(0, 256, (40, 30)).astype(np.uint8)
        stated = {
            **{"PatientName": "Zebra^Quagga", "PatientID": patient, "PatientBirthDate": "19010203"},
            **{"StudyInstanceUID": study, "SeriesInstanceUID": f"{study}.1", "SOPInstanceUID": f"{study}.1.{count}"},
        }
        return write_film(where / f"secret-{count}", pixels, **(stated | fields))

    return write


def results(out):
    return {path.stem: json.loads(path.read_text()) for path in out.glob("*.json")}


def reports(out):
    return [pydicom.dcmread(path) for path in sorted(out.glob("*.dcm"))]


def test_each_study_has_one_json_and_one_report_under_the_right_patient(model, film, tmp_path, capsys):
    films = [film(), film(study="1.2.840.9.2", patient="other")]
    assert run(tmp_path / "input", model, tmp_path / "out") == DONE
    told = results(tmp_path / "out")
    assert set(told) == {"1.2.840.9.1", "1.2.840.9.2"}
    classifier = Classifier.of_program(model)
    for path, (uid, study) in zip(films, sorted(told.items()), strict=True):
        (image,) = study["images"]
        expected = classifier.answer(path).probabilities
        assert list(image["probabilities"].values()) == pytest.approx(expected, abs=1e-6)
        assert study["use"] == "RESEARCH USE ONLY"
        assert any(line.startswith("balanced accuracy, pgd20_l2_0.125: ") for line in study["model"]["about"])
        report = pydicom.dcmread(tmp_path / f"out/{study['structured_report']['sop_instance_uid']}.dcm")
        source = pydicom.dcmread(path)
        assert (report.StudyInstanceUID, report.PatientID, report.PatientName) == (
            uid, source.PatientID, source.PatientName,
        )  # fmt: skip
    written = "".join(path.read_text() for path in (tmp_path / "out").glob("*.json")) + capsys.readouterr().out
    assert not [word for word in (*TOLD, str(tmp_path)) if word in written]
    assert not [word for word in TOLD for path in (tmp_path / "out").iterdir() if word in path.name]


def test_the_same_tensor_reaches_the_model_in_training_inference_and_here(model, bundle, film, tmp_path):
    from monai.bundle import ConfigParser
    from monai.transforms import Compose
    from rtda.pipeline.delivery.bundle import read_yaml

    packed = Classifier.of_bundle(find_bundle(str(bundle)))
    here = Classifier.of_program(model)
    train = ConfigParser(read_yaml(bundle / "configs/train.yaml"))
    chain = Compose(train.get_parsed_content("preprocessing"))
    lut = pydicom.Dataset()
    lut.add_new("LUTDescriptor", "US", [256, 0, 8])
    lut.add_new("LUTData", "US", list(range(255, -1, -1)))
    films = [
        film(PhotometricInterpretation="MONOCHROME1"),
        film(PhotometricInterpretation="MONOCHROME2"),
        film(VOILUTSequence=[lut]),
        film(WindowCenter=100, WindowWidth=50, PhotometricInterpretation="MONOCHROME1"),
    ]
    for path in films:
        made = [
            torch.as_tensor(np.asarray(one.parser.get_parsed_content("preprocessing")({"image": str(path)})["image"]))
            for one in (packed, here)
        ]
        made.append(torch.as_tensor(np.asarray(chain({"image": str(path), "label": 0})["image"])))
        assert all(torch.equal(made[0], other) for other in made[1:])


def test_a_second_run_replaces_and_never_duplicates(model, film, tmp_path):
    film()
    uids = []
    for _ in range(2):
        assert run(tmp_path / "input", model, tmp_path / "out") == DONE
        uids.append([(report.SOPInstanceUID, report.SeriesInstanceUID) for report in reports(tmp_path / "out")])
    assert uids[0] == uids[1]
    assert len(uids[0]) == 1


def test_reports_of_an_earlier_run_and_other_objects_are_listed_not_read(model, film, tmp_path):
    path = film()
    run(tmp_path / "input", model, tmp_path / "out")
    for number, report in enumerate(reports(tmp_path / "out")):
        report.save_as(path.with_name(f"earlier-{number}"))
    (path.parent / "notes.txt").write_text("no DICOM")
    assert run(tmp_path / "input", model, tmp_path / "again") == DONE
    (study,) = results(tmp_path / "again").values()
    assert [one["reason"] for one in study["left_out"]] == ["no image: modality SR"]
    assert len(study["images"]) == 1


@pytest.mark.parametrize(
    ("fields", "reason", "status"),
    [
        ({"BurnedInAnnotation": "YES"}, "BurnedInAnnotation: YES; a copy with text", DONE),
        ({"SeriesInstanceUID": ""}, "SeriesInstanceUID: missing; a report could not refer to it", FAILED),
        ({"PixelSpacing": [1, 1], "VOILUTFunction": "NONSENSE", "WindowCenter": 1, "WindowWidth": 9}, "VOILUT", FAILED),
    ],
)
def test_an_image_is_left_out_with_its_reason_and_the_rest_answered(fields, reason, status, model, film, tmp_path):
    film()
    film(**fields)
    assert run(tmp_path / "input", model, tmp_path / "out") == status
    (study,) = results(tmp_path / "out").values()
    (left,) = study["left_out"]
    assert reason in left["reason"]
    assert len(study["images"]) == len(reports(tmp_path / "out")) == 1
    assert not [word for word in TOLD if word in json.dumps(study)]


def test_of_repeated_views_the_last_stands_for_all(model, film, tmp_path):
    film(ViewPosition="AP", AcquisitionTime="100000")
    last = film(ViewPosition="AP", AcquisitionTime="110000")
    film(ViewPosition="LL", AcquisitionTime="090000")
    assert run(tmp_path / "input", model, tmp_path / "out") == DONE
    (study,) = results(tmp_path / "out").values()
    assert len(study["images"]) == 2
    assert pydicom.dcmread(last).SOPInstanceUID in {image["sop_instance_uid"] for image in study["images"]}
    assert [one["reason"] for one in study["left_out"]] == ["repeated: a later image of the same view stands for it"]
    (report,) = reports(tmp_path / "out")
    assert str(report).count("Measurement Group") == 2


def test_two_patients_within_one_study_are_an_error(model, film, tmp_path):
    film()
    film(patient="other")
    assert run(tmp_path / "input", model, tmp_path / "out") == FAILED
    (study,) = results(tmp_path / "out").values()
    assert study["images"] == []
    assert study["structured_report"] is None
    assert {one["reason"] for one in study["left_out"]} == {
        "PatientID: several within one study; correct them at the source"
    }
    assert reports(tmp_path / "out") == []


def test_what_is_unlike_the_training_images_is_refused_after_the_other_studies_are_done(bundle, film, tmp_path):
    known = {"modality": {"known": ["DX"], "unknown": "refuse"}, "projection": {"known": ["AP"], "unknown": "warn"}}
    (tmp_path / "model").mkdir()
    model = exported(bundle, tmp_path / "model", trained_on=known)
    film(study="1.2.840.9.1", ViewPosition="LL")
    film(study="1.2.840.9.2")
    assert run(tmp_path / "input", model, tmp_path / "out") == REFUSED
    refused, answered = (study for _, study in sorted(results(tmp_path / "out").items()))
    assert refused["status"] == REFUSED
    assert refused["left_out"][0]["reason"] == (
        "unlike the training images: projection: LL, but the model was trained on AP"
    )
    assert answered["images"][0]["warnings"] == ["projection: not stated; the model was trained on AP"]
    assert len(reports(tmp_path / "out")) == 1


def test_a_folder_without_images_is_an_error(model, tmp_path):
    (tmp_path / "input").mkdir()
    with pytest.raises(ValueError, match="files: none below the folders given"):
        run(tmp_path / "input", model, tmp_path / "out")
    (tmp_path / "input/notes.txt").write_text("no DICOM")
    with pytest.raises(ReportError, match=r"^input: no DICOM image below the folder"):
        run(tmp_path / "input", model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_corrupt_file_is_told_without_its_name_and_the_rest_goes_on(model, film, tmp_path):
    film()
    broken = film(study="1.2.840.9.2")
    content = broken.read_bytes()
    broken.write_bytes(content[: len(content) - 600])
    assert run(tmp_path / "input", model, tmp_path / "out") == FAILED
    told = results(tmp_path / "out")
    assert len(told["1.2.840.9.1"]["images"]) == 1
    (left,) = told["1.2.840.9.2"]["left_out"]
    assert left["reason"]
    assert not [word for word in (*TOLD, broken.name) if word in json.dumps(told)]


def test_lossy_compression_and_burnt_in_text_are_told(model, film, tmp_path):
    film(LossyImageCompression="01", LossyImageCompressionRatio="10", BurnedInAnnotation="NO")
    run(tmp_path / "input", model, tmp_path / "out")
    (study,) = results(tmp_path / "out").values()
    stated = study["images"][0]["stated"]
    assert stated["LossyImageCompression"] == "01"
    assert float(stated["LossyImageCompressionRatio"]) == 10
    assert stated["BurnedInAnnotation"] == "NO"


def test_without_codes_there_is_nothing_to_report_by(bundle, film, tmp_path):
    (tmp_path / "model").mkdir()
    own = Path(shutil.copytree(bundle, tmp_path / "model/phantom_rtda"))
    path = own / "configs/metadata.json"
    content = json.loads(path.read_text())
    content.pop("sr")
    path.write_text(json.dumps(content))
    assert main(["export", str(own), "--to", "ts", "-o", str(tmp_path / "model.ts")]) == 0
    film()
    with pytest.raises(ReportError, match="sr: missing"):
        run(tmp_path / "input", tmp_path / "model.ts", tmp_path / "out")


def test_modalities_beside_images_are_no_images():
    assert {"SR", "KO", "SEG", "PR"} <= set(application.NO_IMAGES)


@pytest.mark.parametrize(
    ("name", "told", "left"),
    [
        ("doe.dcm", "doe.dcm: pixels: in doe.dcm, 3 of 9", "pixels: in it, 3 of 9"),
        ("1", "1: WindowWidth: 100 of 1", "WindowWidth: 100 of 1"),
    ],
)
def test_a_reason_is_told_without_the_name_of_its_file(name, told, left):
    assert application._without_name(told, Path(name)) == left
