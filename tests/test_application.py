"""The deployed application in this process: which images are answered, what is written, and what is not told."""

import json
import logging
import shutil
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ImplicitVRLittleEndian
from rtda.pipeline.cli import main
from rtda.pipeline.delivery import application
from rtda.pipeline.delivery.application import run
from rtda.pipeline.delivery.bundle import find_bundle
from rtda.pipeline.delivery.infer import Classifier
from rtda.pipeline.delivery.structured_report import ReportError
from rtda.pipeline.delivery.studies import DONE, FAILED, REFUSED, File

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


@pytest.fixture(scope="module")
def guarded(bundle, tmp_path_factory):
    """A model that answers films of the chest only."""
    known = {"body_part": {"known": ["CHEST"], "unknown": "warn"}}
    return exported(bundle, tmp_path_factory.mktemp("guarded"), trained_on=known)


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


def state(path, field, value):
    """Put a value into a film that pydicom would not write of itself."""
    header = pydicom.dcmread(path)
    header[field] = pydicom.DataElement(field, pydicom.datadict.dictionary_VR(field), value, validation_mode=0)
    header.save_as(path)
    return path


def reasons(out):
    """Image -> why it was left out."""
    return {one["image"]: one["reason"] for study in results(out).values() for one in study["left_out"]}


def answered(out):
    return {image["sop_instance_uid"] for study in results(out).values() for image in study["images"]}


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
    assert [one["reason"] for one in study["left_out"]] == ["no image: Comprehensive 3D SR Storage"]
    assert len(study["images"]) == 1


@pytest.mark.parametrize(
    ("fields", "reason", "status"),
    [
        ({"BurnedInAnnotation": "YES"}, "BurnedInAnnotation: YES; a copy with text", DONE),
        ({"SeriesInstanceUID": ""}, "SeriesInstanceUID: missing, or no UID; correct it at the source", FAILED),
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
    assert [one["reason"] for one in study["left_out"]] == ["repeated: the last image of this view stands for it"]
    (report,) = reports(tmp_path / "out")
    assert str(report).count("Measurement Group") == 2


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ("other", "PatientID: several within one study; correct them at the source"),
        ("", "PatientID: missing in some files of the study; complete it at the source"),
    ],
)
def test_two_patients_within_one_study_are_an_error(other, reason, model, film, tmp_path):
    film()
    film(patient=other)
    assert run(tmp_path / "input", model, tmp_path / "out") == FAILED
    (study,) = results(tmp_path / "out").values()
    assert study["images"] == []
    assert study["structured_report"] is None
    assert {one["reason"] for one in study["left_out"]} == {reason}
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


def test_a_film_that_is_refused_does_not_stand_for_another_of_its_view(guarded, film, tmp_path):
    film(ViewPosition="AP", AcquisitionTime="100000", BodyPartExamined="CHEST")
    film(ViewPosition="AP", AcquisitionTime="110000", BodyPartExamined="ABDOMEN")
    assert run(tmp_path / "input", guarded, tmp_path / "out") == REFUSED
    assert answered(tmp_path / "out") == {"1.2.840.9.1.1.1"}
    assert "ABDOMEN" in reasons(tmp_path / "out")["1.2.840.9.1.1.2"]


def test_films_of_two_parts_of_the_body_are_of_two_views(model, film, tmp_path):
    for part in ("CHEST", "ABDOMEN"):
        film(ViewPosition="AP", BodyPartExamined=part)
    assert run(tmp_path / "input", model, tmp_path / "out") == DONE
    assert len(answered(tmp_path / "out")) == 2


def test_a_film_that_cannot_be_read_does_not_stand_for_another_of_its_view(model, film, tmp_path):
    film(ViewPosition="AP", AcquisitionTime="100000")
    broken = film(ViewPosition="AP", AcquisitionTime="110000")
    broken.write_bytes(broken.read_bytes()[:-600])
    assert run(tmp_path / "input", model, tmp_path / "out") == FAILED
    assert answered(tmp_path / "out") == {"1.2.840.9.1.1.1"}


def test_one_image_that_is_stored_twice_is_answered_once_and_called_so(model, film, tmp_path):
    path = film(ViewPosition="AP")
    shutil.copy(path, path.with_name("copy"))
    assert run(tmp_path / "input", model, tmp_path / "out") == DONE
    assert answered(tmp_path / "out") == {"1.2.840.9.1.1.1"}
    assert list(reasons(tmp_path / "out").values()) == [
        "SOPInstanceUID: the same image is stored twice; it is answered once"
    ]


def test_films_that_state_no_projection_stand_for_themselves(model, film, tmp_path):
    for _ in range(2):
        film(Laterality="R")
    assert run(tmp_path / "input", model, tmp_path / "out") == DONE
    assert len(answered(tmp_path / "out")) == 2


@pytest.mark.parametrize("uid", ["../evil", "Zebra^Quagga", "1.2.840.9/..", "1." * 33 + "1", "19010203", "1.2\\1.3"])
def test_what_is_no_uid_names_no_file_and_is_not_shown(uid, model, film, tmp_path, capsys):
    state(film(), "StudyInstanceUID", uid)
    state(film(study="1.2.840.9.2"), "SOPInstanceUID", uid)
    state(film(study="1.2.840.9.3"), "SOPClassUID", uid)
    assert run(tmp_path / "input", model, tmp_path / "out") == FAILED
    files = [path for path in tmp_path.rglob("*.json") if "model" not in path.parts]
    assert {path.parent for path in files} == {tmp_path / "out"}
    assert sorted(path.stem[:12] for path in files) == ["1.2.840.9.2", "1.2.840.9.3", "without-uid-"]
    written = "".join(path.read_text() for path in files) + "".join(capsys.readouterr())
    assert f'"{uid}' not in written
    assert not [word for word in (*TOLD, "evil", "1901") if word in written]
    assert [reason.split(":")[0] for _, reason in sorted(reasons(tmp_path / "out").items())].count("SOPClassUID") == 1


def test_nothing_of_a_header_reaches_either_stream(model, film, tmp_path, capsys):
    fields = {"PatientBirthDate": "born Zebra", "StudyTime": "noon Quagga", "PatientAge": "sixty Zebra"}
    fields |= {"InstanceNumber": "Quagga", "LossyImageCompressionRatio": "Zebra", "Modality": "Zebra^Quagga"}
    fields |= {"StudyInstanceUID": "Zebra^Quagga", "SeriesInstanceUID": "Zebra^Quagga", "PatientID": "Z4711 " * 20}
    for number, (field, value) in enumerate(fields.items()):
        path = film(study=f"1.2.840.9.{number}", syntax=ImplicitVRLittleEndian)  # by which no VR is written
        header = pydicom.dcmread(path)
        header.add_new(field, "LT", value)  # so that it is not checked, and read as what it should be
        header.save_as(path)
    handler = logging.StreamHandler(sys.stderr)
    logging.getLogger().addHandler(handler)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            run(tmp_path / "input", model, tmp_path / "out")
    finally:
        logging.getLogger().removeHandler(handler)
    told = capsys.readouterr()
    texts = [told.out, told.err, *(str(one.message) for one in caught), json.dumps(results(tmp_path / "out"))]
    assert "studies" in told.out
    assert not [word for text in texts for word in TOLD if word in text]


def test_a_failure_is_told_before_a_refusal(guarded, film, tmp_path):
    broken = film(study="1.2.840.9.1")
    broken.write_bytes(broken.read_bytes()[:-600])
    film(study="1.2.840.9.2", BodyPartExamined="HAND")
    assert run(tmp_path / "input", guarded, tmp_path / "out") == FAILED
    assert [study["status"] for _, study in sorted(results(tmp_path / "out").items())] == [FAILED, REFUSED]


@pytest.mark.parametrize("kept", [140, 300, 500, 700])
def test_a_file_that_is_cut_inside_its_header_is_an_error(kept, model, film, tmp_path):
    film()
    broken = film(study="1.2.840.9.2")
    broken.write_bytes(broken.read_bytes()[:kept])
    assert run(tmp_path / "input", model, tmp_path / "out") == FAILED
    assert answered(tmp_path / "out") == {"1.2.840.9.1.1.1"}
    assert len(reasons(tmp_path / "out")) == 1


def test_a_film_without_preamble_is_answered(model, film, tmp_path):
    path = film()
    path.write_bytes(path.read_bytes()[132:])
    (path.parent / "notes.txt").write_text("no DICOM, though long enough to be forced into fields " * 9)
    assert run(tmp_path / "input", model, tmp_path / "out") == DONE
    assert answered(tmp_path / "out") == {"1.2.840.9.1.1.1"}


def test_a_run_that_answers_nothing_is_no_success(model, film, tmp_path):
    film(BurnedInAnnotation="YES")
    assert run(tmp_path / "input", model, tmp_path / "out") == REFUSED
    film(study="1.2.840.9.2")
    assert run(tmp_path / "input", model, tmp_path / "again") == DONE


def test_a_model_is_a_file_or_the_folder_that_holds_it(model, film, tmp_path):
    film()
    (tmp_path / "models/deeper").mkdir(parents=True)
    for missing in ("models", "nowhere", "input"):
        with pytest.raises(ReportError, match=rf"^{missing}: model: no TorchScript files .* -m APP/model/model\.ts$"):
            run(tmp_path / "input", tmp_path / missing, tmp_path / "out")
    shutil.copy(model, tmp_path / "models/deeper/model.ts")
    assert run(tmp_path / "input", tmp_path / "models", tmp_path / "out") == DONE
    shutil.copy(model, tmp_path / "models/other.ts")
    with pytest.raises(ReportError, match=r"^models: model: 2 TorchScript files"):
        run(tmp_path / "input", tmp_path / "models", tmp_path / "out")


@pytest.mark.parametrize(
    ("stated", "told"),
    [
        ({"repeats": "lats"}, "repeats: 'lats'; state last or all"),
        ({"burned_in": True}, "burned_in: True; state reject or keep"),
        ({"burnt_in": "keep"}, "burnt_in is unknown; state burned_in or repeats"),
    ],
)
def test_a_rule_of_selection_that_is_mistyped_is_refused(stated, told):
    with pytest.raises(ReportError) as refused:
        application.selection({"selection": stated})
    assert str(refused.value) == f"metadata.json: selection: {told}"


@pytest.mark.parametrize("name", ["phantom_rtda", "chest_xray_rtda"])
def test_each_bundle_states_its_rule_of_selection(name):
    stated = find_bundle(name).metadata["selection"]
    assert application.selection({"selection": stated}) == stated


def test_the_rule_of_selection_is_the_metadatas(bundle, film, tmp_path):
    (tmp_path / "model").mkdir()
    model = exported(bundle, tmp_path / "model", trained_on={}, selection={"burned_in": "keep", "repeats": "all"})
    for _ in range(2):
        film(ViewPosition="AP", BurnedInAnnotation="YES")
    assert run(tmp_path / "input", model, tmp_path / "out") == DONE
    assert len(answered(tmp_path / "out")) == 2


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


def test_only_the_terms_of_the_standard_are_told(model, film, tmp_path):
    path = film(LossyImageCompression="01", LossyImageCompressionRatio=["10", "20"])
    state(path, "BurnedInAnnotation", "Zebra Quagga")
    state(path, "LossyImageCompressionMethod", ["ISO_10918_1", "ZEBRA"])
    state(film(study="1.2.840.9.2"), "BurnedInAnnotation", "")
    run(tmp_path / "input", model, tmp_path / "out")
    first, second = (study["images"][0]["stated"] for _, study in sorted(results(tmp_path / "out").items()))
    assert (first["BurnedInAnnotation"], second["BurnedInAnnotation"]) == ("other", "")
    assert first["LossyImageCompressionMethod"] == "ISO_10918_1, other"
    assert first["LossyImageCompressionRatio"] == "10, 20"


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


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.33"}, "Comprehensive SR Storage"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.4", "Rows": 9}, "Segmentation Storage"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.59"}, "Key Object Selection Document Storage"),
        ({"MediaStorageSOPClassUID": "1.2.840.10008.1.3.10"}, "Media Storage Directory Storage"),
        ({"SOPClassUID": "1.3.12.2.1107.5.9.1"}, "private, without pixels"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.1"}, ""),  # an image that is cut before its rows
        ({"SOPClassUID": "1.3.12.2.1107.5.9.1", "Rows": 9}, ""),
        ({"SOPClassUID": "Zebra^Quagga"}, ""),
        ({}, ""),
    ],
)
def test_what_is_no_image_is_known_by_its_sop_class(fields, told):
    header = pydicom.Dataset()
    header.file_meta = FileMetaDataset()
    for name, value in fields.items():
        setattr(header.file_meta if name.startswith("Media") else header, name, value)
    assert File(Path("x"), "mark", header).other == told


@pytest.mark.parametrize(
    ("name", "told", "left"),
    [
        ("doe.dcm", "doe.dcm: pixels: in doe.dcm, 3 of 9", "pixels: in it, 3 of 9"),
        ("1", "1: WindowWidth: 100 of 1", "WindowWidth: 100 of 1"),
    ],
)
def test_a_reason_is_told_without_the_name_of_its_file(name, told, left):
    assert application._without_name(told, Path(name)) == left
