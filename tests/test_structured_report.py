"""The structured report: re-read item by item, and the same again from the same answers."""

import io
import json
import shutil
import subprocess
import warnings

import highdicom as hd
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset
from rtda.pipeline.cli import main
from rtda.pipeline.delivery.application import run
from rtda.pipeline.delivery.bundle import find_bundle
from rtda.pipeline.delivery.structured_report import (
    CLASSES,
    Reported,
    Reporter,
    ReportError,
    clean,
    derived_uid,
    structured_report,
)

CODES = {
    "procedure": ["399208008", "SCT", "Plain chest X-ray"],
    "certainty": ["111012", "DCM", "Certainty of Finding"],
    "findings": {
        "pneumonia": {"finding": ["233604007", "SCT", "Pneumonia"], "site": ["39607008", "SCT", "Lung structure"]}
    },
}
BY = Reporter("chest_xray_rtda", "0.2.0", "ab" * 32, CODES, 0.4, ["threshold 0.4, from clean validation"])
IDENTITY = {
    **{"PatientName": "Zebra^Quagga", "PatientID": "Z1", "PatientBirthDate": "19010203", "PatientSex": "F"},
    **{"StudyDate": "20200131", "StudyTime": "101500", "AccessionNumber": "A1", "StudyID": "S1"},
    **{"ReferringPhysicianName": "Doe^Ann", "Manufacturer": "Maker"},
    **{"StudyInstanceUID": "1.2.840.99.1", "SeriesInstanceUID": "1.2.840.99.2", "SOPInstanceUID": "1.2.840.99.3"},
}


@pytest.fixture
def header(write_film, tmp_path):
    path = write_film(tmp_path / "film", np.zeros((8, 8), np.uint8), **IDENTITY)
    return pydicom.dcmread(path, stop_before_pixels=True)


def made(header, probability=0.8, by=BY, **options):
    return structured_report([Reported(header, {"normal": 1 - probability, "pneumonia": probability})], by, **options)


def reread(report):
    """Written and read by highdicom, where a warning is an error."""
    buffer = io.BytesIO()
    report.save_as(buffer, enforce_file_format=True)
    buffer.seek(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return hd.sr.srread(buffer)


@pytest.mark.parametrize("sr_class", CLASSES)
def test_every_item_is_read_back(sr_class, header):
    report, emptied = made(header, sr_class=sr_class)
    found = reread(report)
    assert emptied == []
    kind = {"comprehensive3d": "Comprehensive3DSR", "comprehensive": "ComprehensiveSR", "enhanced": "EnhancedSR"}
    assert type(found).__name__ == kind[sr_class]
    for name, value in IDENTITY.items():
        if name.startswith(("Patient", "Study", "Accession", "Referring")):
            assert str(found[name].value) == value
    assert (found.CompletionFlag, found.VerificationFlag, found.PreliminaryFlag) == (
        "COMPLETE", "UNVERIFIED", "PRELIMINARY",
    )  # fmt: skip
    assert found.SeriesDescription == "RESEARCH USE ONLY: chest_xray_rtda 0.2.0"
    assert found.Manufacturer == "RTDA for MONAI"
    (group,) = found.content.get_image_measurement_groups()
    assert group.finding_type.value == "233604007"
    assert group.finding_sites[0].topographical_modifier is None
    assert group.finding_sites[0].value.value == "39607008"
    (certainty,) = group.get_measurements()
    assert (certainty.name.value, certainty.value, certainty.unit.value) == ("111012", 80.0, "%")
    (presence,) = group.get_qualitative_evaluations()
    assert (presence.name.value, presence.value.value) == ("705057003", "52101004")
    (source,) = group.source_images
    assert source.referenced_sop_instance_uid == IDENTITY["SOPInstanceUID"]
    assert source.referenced_sop_class_uid == header.SOPClassUID
    texts = [str(element.value) for element in found.iterall() if element.keyword == "TextValue"]
    assert {"threshold 0.4, from clean validation", "RESEARCH USE ONLY"} <= set(texts)
    evidence = found.CurrentRequestedProcedureEvidenceSequence[0]
    assert evidence.StudyInstanceUID == IDENTITY["StudyInstanceUID"]


@settings(max_examples=20, deadline=None)
@given(st.floats(0, 1))
def test_presence_follows_the_threshold(probability):
    header = Dataset()
    for name, value in IDENTITY.items():
        setattr(header, name, value)
    header.SOPClassUID, header.Modality = pydicom.uid.DigitalXRayImageStorageForPresentation, "DX"
    header.file_meta = pydicom.dataset.FileMetaDataset()
    header.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    report, _ = made(header, probability)
    (group,) = hd.sr.Comprehensive3DSR.from_dataset(report).content.get_image_measurement_groups()
    (presence,), (certainty,) = group.get_qualitative_evaluations(), group.get_measurements()
    assert presence.value.value == ("52101004" if probability >= BY.threshold else "272519000")
    assert certainty.value == pytest.approx(100 * probability, abs=1e-4)


def test_the_same_answers_give_the_same_uids_and_other_weights_other_ones(header):
    def uids(by=BY):
        report, _ = made(header, by=by)
        (group,) = hd.sr.Comprehensive3DSR.from_dataset(report).content.get_image_measurement_groups()
        return report.SeriesInstanceUID, report.SOPInstanceUID, group.tracking_uid

    assert uids() == uids()
    other = Reporter(BY.name, BY.version, "cd" * 32, CODES, 0.4)
    assert not set(uids()) & set(uids(other))
    assert all(uid.startswith("2.25.") and len(uid) <= 64 for uid in uids())


def test_several_images_have_a_group_each_and_a_frame_is_named(header):
    second = clean(header)[0]
    second.SOPInstanceUID = "1.2.840.99.4"
    answers = [Reported(header, {"pneumonia": 0.1}), Reported(second, {"pneumonia": 0.9}, frame=2)]
    report, _ = structured_report(answers, BY)
    groups = reread(report).content.get_image_measurement_groups()
    assert [group.source_images[0].referenced_frame_numbers for group in groups] == [None, [2]]
    assert [group.get_measurements()[0].value for group in groups] == [10.0, 90.0]


@pytest.mark.parametrize(
    ("changes", "emptied"),
    [
        ({"PatientBirthDate": "00000000"}, ["PatientBirthDate"]),
        ({"PatientAge": "62"}, ["PatientAge"]),
        ({"PatientSex": "W"}, ["PatientSex"]),
        ({"StudyTime": "noon"}, ["StudyTime"]),
        ({"PatientID": None}, []),
        ({"PatientName": None, "StudyID": None}, []),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_is_not_valid_of_the_patient_is_empty_and_named(changes, emptied, header):
    for name, value in changes.items():
        if value is None:
            delattr(header, name) if name in header else None
        else:
            header[name] = pydicom.DataElement(name, pydicom.datadict.dictionary_VR(name), value, validation_mode=0)
    report, names = made(header)
    assert names == emptied
    assert all(not report.get(name) for name in emptied)
    reread(report)


def test_private_codes_say_whose_they_are(header):
    own = {"finding": ["LESION", "99RTDA", "Synthetic lesion"], "site": ["FIELD", "99RTDA", "Synthetic field"]}
    report, _ = made(
        header, by=Reporter(BY.name, BY.version, BY.weights, CODES | {"findings": {"pneumonia": own}}, 0.5)
    )
    (item,) = [one for one in report.CodingSchemeIdentificationSequence if one.CodingSchemeDesignator == "99RTDA"]
    assert item.CodingSchemeResponsibleOrganization == "RTDA for MONAI"
    reread(report)


def test_what_a_report_could_not_refer_to_is_refused(header):
    for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"):
        broken = clean(header)[0]
        delattr(broken, name)
        with pytest.raises(ReportError, match=f"^{name}: missing in the source"):
            made(broken)
    other = clean(header)[0]
    other.PatientID = "somebody else"
    with pytest.raises(ReportError, match=r"^PatientID: several among the images of one report"):
        structured_report([Reported(header, {"pneumonia": 0.1}), Reported(other, {"pneumonia": 0.1})], BY)
    with pytest.raises(ReportError, match="findings: no code for any of normal"):
        structured_report([Reported(header, {"normal": 1.0})], BY)


def test_a_derived_uid_is_one(header):
    assert derived_uid("a", 1).is_valid
    assert derived_uid("a", "b") != derived_uid("ab")


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.skipif(
    not (shutil.which("dciodvfy") and shutil.which("dsr2html")), reason="apt-get install dicom3tools dcmtk"
)
@pytest.mark.parametrize("sr_class", CLASSES)
def test_dicom3tools_finds_no_error_and_dcmtk_renders_it(sr_class, header, tmp_path):
    report, _ = made(header, sr_class=sr_class)
    report.save_as(tmp_path / "sr.dcm", enforce_file_format=True)
    checked = subprocess.run(["dciodvfy", tmp_path / "sr.dcm"], capture_output=True, text=True, check=False)
    assert [line for line in checked.stderr.splitlines() if line.startswith("Error")] == []
    rendered = subprocess.run(["dsr2html", tmp_path / "sr.dcm"], capture_output=True, text=True, check=True)
    for words in ("80", "Present", "Pneumonia", "Plain chest X-ray", "RESEARCH USE ONLY"):
        assert words in rendered.stdout


@pytest.mark.data
@pytest.mark.process
@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="apt-get install dicom3tools")
def test_on_real_films_dicom3tools_finds_nothing_but_uids_that_must_be_carried_over(real_data, tmp_path):
    """Whatever the guard would say: every film that can be read is answered."""
    bundle = tmp_path / "chest_xray_rtda"
    shutil.copytree(find_bundle("chest_xray_rtda").root, bundle)
    path = bundle / "configs/metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"trained_on": {}, "selection": {"repeats": "all"}}))
    assert main(["export", str(bundle), "--to", "ts", "-o", str(tmp_path / "net.ts")]) == 0
    run(real_data / "dicom_reader/files", tmp_path / "net.ts", tmp_path / "out")
    reports = sorted((tmp_path / "out").glob("*.dcm"))
    assert len(reports) >= 20
    for report in reports:
        checked = subprocess.run(["dciodvfy", report], capture_output=True, text=True, check=False, errors="replace")
        errors = [line for line in checked.stderr.splitlines() if line.startswith("Error")]
        assert not [line for line in errors if "UID" not in line and "contains invalid data values" not in line]
