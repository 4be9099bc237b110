"""What may leave a DICOM header: a closed list of facts, none of which says who the patient is."""

from __future__ import annotations

import math

import numpy as np
import pydicom
import pytest
from pydicom.sr.codedict import codes
from rtda.transforms.dicom import read_stored, to_tensor
from rtda.transforms.facts import ALLOWED, COPIED, IDENTIFIERS, MEASURED, NO_FACTS, VIEWS, facts_of


def absent(count):
    return pytest.approx((math.nan,) * count, nan_ok=True)


def coded(value, scheme="SCT"):
    item = pydicom.Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, "meaning"
    return item


def test_facts_are_a_closed_list_without_identity(film_header):
    header = film_header(
        PatientName="Doe^Jane", PatientID="4711", StudyDate="20200131", PatientBirthDate="19500101",
        StudyInstanceUID="1.2.33", SeriesInstanceUID="1.2.44", AccessionNumber="A99", InstitutionName="St. Elsewhere",
        Manufacturer="ACME", ViewPosition="PA", Laterality="L", BodyPartExamined="CHEST", PatientSex="F",
        PatientAge="070Y", BurnedInAnnotation="NO", LossyImageCompression="01", PatientOrientation=["L", "F"],
        PresentationIntentType="FOR PRESENTATION",
    )  # fmt: skip
    image = to_tensor(np.arange(256).reshape(16, 16), header)
    found = {key: image.meta[key] for key in NO_FACTS}
    assert found == {
        "modality": "DX", "sop_class": "1.2.840.10008.5.1.4.1.1.1.1", "photometric": "MONOCHROME2",
        "body_part": "CHEST", "presentation_intent": "FOR PRESENTATION", "laterality": "L", "manufacturer": "ACME",
        "sex": "F", "burned_in": "NO", "lossy": "01", "pixel_spacing_calibration": "", "projection": "PA",
        "patient_orientation": "L\\F", "age_group": "70-79",
        "patient_id": "", "study_id": "", "series_id": "", "image_id": "",
        "pixel_spacing": absent(2), "imager_spacing": absent(2),
        "image_position": absent(3), "image_orientation": absent(6),
        "rows": 16, "columns": 16, "frame": 0,
        "rescale": "identity", "window": "declared 0..255", "polarity": "as stored (MONOCHROME2)",
        "padding": False, "crop": "", "mirrored": False,
    }  # fmt: skip
    assert all(type(found[key]) is type(NO_FACTS[key]) for key in NO_FACTS)
    for secret in ("Doe", "4711", "20200131", "1950", "1.2.33", "1.2.44", "1.2.3'", "A99", "Elsewhere"):
        assert secret not in str(image.meta)


def test_identifiers_leave_as_hashes_only(film_header):
    header = film_header(PatientID="4711", StudyInstanceUID="1.2", SeriesInstanceUID="1.2.3", SOPInstanceUID="1.2.3.4")
    image = to_tensor(np.array([[0, 1]]), header, hashed=lambda plain: f"h{len(plain)}")
    assert [image.meta[fact] for fact in IDENTIFIERS] == ["h4", "h3", "h5", "h7"]
    del header.PatientID
    assert facts_of(header, hashed=lambda plain: "h")["patient_id"] == ""


def test_facts_of_nothing_are_no_facts():
    empty = facts_of(pydicom.Dataset())
    assert empty.keys() == NO_FACTS.keys()
    assert all(type(empty[key]) is type(NO_FACTS[key]) for key in NO_FACTS)
    assert not any(empty[key] for key in NO_FACTS if key not in MEASURED)
    assert all(len(empty[key]) == count and all(map(math.isnan, empty[key])) for key, count in MEASURED.items())


@pytest.mark.parametrize(
    ("fields", "fact", "value"),
    [
        ({"ImageLaterality": "R", "FrameLaterality": "L", "Laterality": "L"}, "laterality", "R"),
        ({"FrameLaterality": "R", "Laterality": "L"}, "laterality", "R"),
        ({"Laterality": "L"}, "laterality", "L"),
        ({"ViewPosition": "MLO", "ViewCodeSequence": [coded("399162004")]}, "projection", "MLO"),
        ({"ViewCodeSequence": [coded("399162004")]}, "projection", "CC"),
        ({"ViewCodeSequence": [coded("R-10226", "SRT")]}, "projection", "MLO"),
        ({"ViewCodeSequence": [coded("272479007")]}, "projection", "PA"),
        ({"ViewCodeSequence": [coded("399162004", "99MINE")]}, "projection", ""),
        ({"ViewCodeSequence": [coded("1")]}, "projection", ""),
        ({"ViewCodeSequence": []}, "projection", ""),
        ({"PatientOrientation": ["P", "F"]}, "patient_orientation", "P\\F"),
        ({"BodyPartExamined": " CHEST  WALL "}, "body_part", "CHEST WALL"),
    ],
)
def test_projection_laterality_and_orientation(fields, fact, value):
    """View and laterality from flat attributes, else ViewCodeSequence, ImageLaterality, FrameLaterality."""
    header = pydicom.Dataset()
    for field, given in fields.items():
        setattr(header, field, given)
    assert facts_of(header)[fact] == value


def test_views_are_codes_of_the_standard():
    """PS3.16 CID 4010 (projections) and CID 4014 (mammography), by their names in pydicom."""
    film, breast = codes.cid4010, codes.cid4014
    assert {
        "AP": film.AnteroPosterior.value,
        "PA": film.PosteroAnterior.value,
        "LL": film.LeftLateral.value,
        "RL": film.RightLateral.value,
        "LATERAL": film.LateralProjection.value,
        "CC": breast.CranioCaudal.value,
        "MLO": breast.MedioLateralObliqueProjection.value,
        "ML": breast.MedioLateralProjection.value,
        "LM": breast.LateroMedial.value,
        "LMO": breast.LateroMedialOblique.value,
        "FB": breast.CaudoCranial.value,
        "XCCL": breast.CranioCaudalExaggeratedLaterally.value,
        "XCCM": breast.CranioCaudalExaggeratedMedially.value,
        "ISO": breast.InferomedialToSuperolateralOblique.value,
        "SIO": breast.SuperolateralToInferomedialOblique.value,
    } == {term: code for code, term in VIEWS.items()}


def test_view_and_laterality_of_a_frame(tmp_path, write_film):
    shared, anatomy = pydicom.Dataset(), pydicom.Dataset()
    anatomy.FrameLaterality = "R"
    shared.FrameAnatomySequence = [anatomy]
    fields = {"Modality": "MG", "ViewCodeSequence": [coded("399368009")], "SharedFunctionalGroupsSequence": [shared]}
    path = write_film(tmp_path / "loop", np.arange(8, dtype=np.uint8).reshape(2, 2, 2), **fields)
    meta = to_tensor(*read_stored(path)).meta
    assert (meta["laterality"], meta["projection"]) == ("R", "MLO")


def test_spacing_at_the_detector_and_calibrated_are_apart(film_header):
    """ImagerPixelSpacing and PixelSpacing with its calibration type apart, neither called patient scale."""
    header = film_header(
        ImagerPixelSpacing=[0.15, 0.14], PixelSpacing=[0.1, 0.09], PixelSpacingCalibrationType="GEOMETRY"
    )
    found = facts_of(header)
    assert found["imager_spacing"] == (0.15, 0.14)
    assert found["pixel_spacing"] == (0.1, 0.09)
    assert found["pixel_spacing_calibration"] == "GEOMETRY"
    del header.PixelSpacing
    assert facts_of(header)["pixel_spacing"] == absent(2)
    assert not any("patient" in fact and "spacing" in fact for fact in NO_FACTS)


def test_position_and_orientation_of_a_slice(film_header):
    place = {"ImagePositionPatient": [1, -2, 3.5], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
    found = facts_of(film_header(**place))
    assert found["image_position"] == (1, -2, 3.5)
    assert found["image_orientation"] == (1, 0, 0, 0, 1, 0)


@pytest.mark.parametrize("spacing", [["0.1"], ["0.1", "0.2", "0.3"], ["nan", "1"], ["1", "inf"], ["wide", "1"]])
def test_a_damaged_measure_is_no_fact(spacing):
    header = pydicom.Dataset()
    header.add_new("PixelSpacing", "LO", spacing)
    assert facts_of(header)["pixel_spacing"] == absent(2)


@pytest.mark.parametrize(
    ("age", "group"),
    [
        *(("000Y", "0-9"), ("009Y", "0-9"), ("010Y", "10-19"), ("089Y", "80-89"), ("090Y", "90+"), ("101Y", "90+")),
        *(("018M", "0-9"), ("600M", "50-59"), ("520W", "10-19"), ("364D", "0-9"), ("", ""), ("62", ""), ("045y", "")),
    ],
)
def test_ages_are_decades_up_to_90(age, group):
    header = pydicom.Dataset()
    header.add_new("PatientAge", "LO", age)
    assert facts_of(header)["age_group"] == group


CODED = {fact: fields for fact, fields in COPIED.items() if fact != "manufacturer"}
CODED |= {"projection": ("ViewPosition",), "patient_orientation": ("PatientOrientation",)}


@pytest.mark.parametrize("fact", CODED)
@pytest.mark.parametrize("misplaced", ["Geheim^Anna", "anna", "ANNA MARIA GEHEIM", "19500101-4711"])
def test_misplaced_text_is_no_fact(fact, misplaced):
    """A name in a field of terms stays in the file."""
    header = pydicom.Dataset()
    for field in CODED[fact]:
        header.add_new(field, "LO", misplaced)
    assert facts_of(header)[fact] == ""


@pytest.mark.parametrize("fact", ["modality", "laterality", "sex", "burned_in", "lossy", "photometric", "sop_class"])
def test_a_code_that_is_no_term_of_a_closed_set_is_no_fact(fact):
    header = pydicom.Dataset()
    for field in CODED[fact]:
        header.add_new(field, "LO", "ANNA")
    assert facts_of(header)[fact] == ""


@pytest.mark.parametrize(
    ("fact", "terms"),
    [
        ("modality", ["CR", "DX", "MG", "IO", "RF", "XA", "US", "ES", "XC", "OT", "CT", "MR", "PT", "NM", "SM", "SR"]),
        ("sex", ["M", "F", "O"]),
        ("laterality", ["L", "R", "B", "U"]),
        ("burned_in", ["YES", "NO"]),
        ("lossy", ["00", "01"]),
        ("presentation_intent", ["FOR PRESENTATION", "FOR PROCESSING"]),
        ("photometric", ["MONOCHROME1", "PALETTE COLOR", "RGB", "YBR_FULL_422", "YBR_RCT"]),
        ("body_part", ["CHEST", "CHEST WALL", "C_SPINE"]),
        ("manufacturer", ["ACME Imaging (Köln)"]),  # free text
    ],
)
def test_terms_pass_as_they_stand(fact, terms):
    header = pydicom.Dataset()
    for term in terms:
        setattr(header, COPIED[fact][0], term)
        assert facts_of(header)[fact] == term


def test_a_misplaced_value_does_not_hide_the_next_field():
    header = pydicom.Dataset()
    header.add_new("ImageLaterality", "LO", "Anna")
    header.Laterality = "L"
    assert facts_of(header)["laterality"] == "L"


def test_every_fact_of_the_list_has_its_fields():
    assert ALLOWED.keys() <= NO_FACTS.keys()
    fields = [field for names in COPIED.values() for field in names] + list(IDENTIFIERS.values())
    assert all(pydicom.datadict.tag_for_keyword(field) for field in fields)
