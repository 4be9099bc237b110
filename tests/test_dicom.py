"""The grey-scale pipeline of DICOM, against values worked out by hand, its symmetries, and what it refuses."""

from __future__ import annotations

import struct

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.sequence import Sequence
from rtda.transforms import dicom
from rtda.transforms.dicom import NO_FACTS, Choices, DicomError, read_stored, to_intensity

ALL_8_BIT = np.arange(256).reshape(16, 16)
ALL_12_BIT = np.arange(4096).reshape(64, 64)


def film(pixels, header, choices=None):
    return to_intensity(np.asarray(pixels), header, choices)[0]


# -- windows: PS3.3 C.11.2.1.2 and C.11.2.1.3 --


@pytest.mark.parametrize(
    ("window", "function", "x", "y"),
    [
        ((2048, 4096), None, [0, 4095], [0, 1]),  # the standard's own example: the whole range of 12 bits
        ((2048, 4096), "LINEAR", [1024], [1024 / 4095]),
        ((2048, 1), "LINEAR", [2047, 2048], [0, 1]),  # w = 1 is a step above c - 1/2
        ((100, 3), "LINEAR", [98, 99, 100, 101], [0, 0.25, 0.75, 1]),
        ((100, 4), "LINEAR_EXACT", [98, 99, 100, 102], [0, 0.25, 0.5, 1]),
        ((100, 0.5), "LINEAR_EXACT", [99, 100, 101], [0, 0.5, 1]),
        ((100, 4), "SIGMOID", [100, 101, 0], [0.5, 1 / (1 + np.exp(-1)), 0]),
    ],
)
def test_windows_by_hand(film_header, window, function, x, y):
    header = film_header(BitsStored=12, WindowCenter=window[0], WindowWidth=window[1], VOILUTFunction=function)
    assert film([x], header)[0] == pytest.approx(y, abs=1e-7)


def test_the_first_of_several_windows_counts_and_is_named(film_header):
    header = film_header(BitsStored=12, WindowCenter=[100, 900], WindowWidth=[3, 750])
    image, facts = to_intensity(np.array([[99, 100]]), header)
    assert image[0] == pytest.approx([0.25, 0.75])
    assert facts["window"] == "100/3 LINEAR"


def test_the_window_is_in_units_after_the_rescale(film_header):
    header = film_header(
        RescaleSlope=2, RescaleIntercept=-100, WindowCenter=0, WindowWidth=2, VOILUTFunction="LINEAR_EXACT"
    )
    assert film([[49, 50, 51]], header).tolist() == [[0, 0.5, 1]]


@pytest.mark.parametrize("relationship", ["LOG", "DISP"])
def test_the_rescale_of_angiograms_is_not_for_display(film_header, relationship):
    header = film_header(Modality="XA", PixelIntensityRelationship=relationship, RescaleSlope=-3)
    assert film([[0, 51, 255]], header)[0] == pytest.approx([0, 0.2, 1])


# -- declared range --


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_without_window_the_declared_range_is_the_unit(film_header, bits):
    top = 2**bits - 1
    image, facts = to_intensity(np.array([[0, 1, top]]), film_header(BitsStored=bits))
    assert image[0].tolist() == [0, np.float32(1 / top), 1]  # and never the image's own extremes
    assert film([[1, 2]], film_header(BitsStored=bits))[0].tolist() == [np.float32(1 / top), np.float32(2 / top)]
    assert facts["window"] == f"declared 0..{top}"


def test_a_negative_slope_turns_the_declared_range(film_header):
    assert film([[0, 255]], film_header(RescaleSlope=-1, RescaleIntercept=255)).tolist() == [[1, 0]]


@pytest.mark.parametrize(
    "fields", [{"Modality": "MR"}, {"Modality": "PT"}, {"Modality": None}, {"PixelRepresentation": 1}]
)
def test_the_declared_range_of_other_data_is_refused(film_header, fields):
    with pytest.raises(DicomError, match=r"^dataset: WindowCenter: missing"):
        film([[0, 1]], film_header(**fields))


# -- polarity --


@pytest.mark.parametrize(
    ("photometric", "shape", "inverted"),
    [
        ("MONOCHROME2", None, False),
        ("MONOCHROME1", None, True),
        ("MONOCHROME2", "IDENTITY", False),
        ("MONOCHROME1", "INVERSE", True),  # restated, not inverted twice
    ],
)
def test_polarity_is_applied_once(film_header, photometric, shape, inverted):
    header = film_header(PhotometricInterpretation=photometric, PresentationLUTShape=shape)
    image, facts = to_intensity(ALL_8_BIT, header)
    plain = film(ALL_8_BIT, film_header())
    assert image == pytest.approx(1 - plain if inverted else plain)
    assert facts["inverted"] is inverted


@pytest.mark.parametrize(("photometric", "shape"), [("MONOCHROME1", "IDENTITY"), ("MONOCHROME2", "INVERSE")])
def test_contradicting_polarity_needs_a_choice(film_header, photometric, shape):
    header = film_header(PhotometricInterpretation=photometric, PresentationLUTShape=shape)
    with pytest.raises(DicomError, match=f"PresentationLUTShape: {shape} contradicts .* {photometric}"):
        film([[0, 255]], header)
    by_shape = [[1, 0]] if shape == "INVERSE" else [[0, 1]]
    assert film([[0, 255]], header, Choices(polarity="shape")).tolist() == by_shape
    assert film([[0, 255]], header, Choices(polarity="photometric")).tolist() == np.subtract(1, by_shape).tolist()


@pytest.mark.parametrize("sign", [1, -1])
def test_intensity_relationship_sign_never_inverts(film_header, sign):
    header = film_header(PixelIntensityRelationshipSign=sign)
    assert film([[0, 255]], header).tolist() == [[0, 1]]


def test_a_mistyped_choice_is_refused():
    with pytest.raises(ValueError, match="polarity must be"):
        Choices(polarity="shapes")


slopes = st.sampled_from([1.0, 0.5, 2.0, -1.0])
centres = st.integers(-500, 5000)
widths = st.integers(1, 5000)
functions = st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID"])


@settings(max_examples=40, deadline=None)
@given(slope=slopes, intercept=st.integers(-1000, 1000), centre=centres, width=widths, function=functions)
def test_monochrome1_twin_is_equal(film_header, slope, intercept, centre, width, function):
    """M = lo + hi in modality units: complemented pixels, centre M - c + 1 (LINEAR) or M - c, give the same image."""
    rescale = {"BitsStored": 12, "RescaleSlope": slope, "RescaleIntercept": intercept, "VOILUTFunction": function}
    mirrored = slope * 4095 + 2 * intercept - centre + (function == "LINEAR")
    plain = film_header(**rescale, WindowCenter=centre, WindowWidth=width)
    twin = film_header(**rescale, WindowCenter=mirrored, WindowWidth=width, PhotometricInterpretation="MONOCHROME1")
    if width == 1 and function == "LINEAR":
        return  # a step is open at one end: its twin differs at the step itself
    np.testing.assert_allclose(film(ALL_12_BIT, plain), film(4095 - ALL_12_BIT, twin), atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    slope=slopes,
    centre=centres,
    width=widths,
    function=functions,
    signed=st.booleans(),
    mono1=st.booleans(),
)
def test_in_range_and_monotone_up_to_polarity(film_header, slope, centre, width, function, signed, mono1):
    header = film_header(
        BitsStored=12,
        PixelRepresentation=int(signed),
        RescaleSlope=slope,
        WindowCenter=centre,
        WindowWidth=width,
        VOILUTFunction=function,
        PhotometricInterpretation="MONOCHROME1" if mono1 else "MONOCHROME2",
    )
    image = film(ALL_12_BIT - 2048 * signed, header)
    assert image.dtype == np.float32
    assert image.min() >= 0
    assert image.max() <= 1
    direction = np.sign(slope) * (-1 if mono1 else 1)
    assert (direction * np.diff(image.ravel()) >= 0).all()


# -- padding: C.7.5.1.1.2 --


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(("value", "limit"), [(10, 12), (12, 10)])
def test_padding_is_0_whatever_the_polarity(film_header, photometric, value, limit):
    header = film_header(PhotometricInterpretation=photometric)
    header.add_new("PixelPaddingValue", "US", value)
    header.add_new("PixelPaddingRangeLimit", "US", limit)
    image, facts = to_intensity(np.array([[9, 10, 11, 12, 13]]), header)
    assert (image[0] == 0).tolist() == [False, True, True, True, False]
    assert facts["padding"] is True
    assert to_intensity(np.array([[9, 13]]), header)[1]["padding"] is False


def test_unsigned_padding_of_signed_pixels_is_reinterpreted(film_header):
    header = film_header(BitsStored=16, PixelRepresentation=1, WindowCenter=0, WindowWidth=5000)
    header.add_new("PixelPaddingValue", "US", 63536)  # -2000, as in a real file
    image = film([[-2000, -1999]], header)
    assert image[0, 0] == 0
    assert image[0, 1] > 0


# -- refusals of the pipeline --


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"RescaleSlope": 0}, "RescaleSlope: 0 makes all values one"),
        ({"RescaleSlope": 1e-30, "RescaleIntercept": 1000}, "RescaleSlope: 1e-30 makes all values one"),
        ({"RescaleSlope": "1e308"}, "RescaleSlope: 1e.308 makes"),
        ({"RescaleIntercept": float("nan")}, "RescaleIntercept: missing or not a finite number"),
        ({"WindowCenter": 40}, "WindowWidth: missing"),
        ({"WindowWidth": 40}, "WindowCenter: missing"),
        ({"WindowCenter": 40, "WindowWidth": 0.5}, "WindowWidth: 0.5 is too small for LINEAR"),
        ({"WindowCenter": 40, "WindowWidth": 0, "VOILUTFunction": "SIGMOID"}, "WindowWidth: 0 is too small"),
        ({"WindowCenter": 40, "WindowWidth": 9, "VOILUTFunction": "LOG"}, "VOILUTFunction: 'LOG' is not one of"),
        ({"PresentationLUTShape": "LIN OD"}, "PresentationLUTShape: 'LIN OD' is not IDENTITY or INVERSE"),
        ({"Modality": "CT", "WindowCenter": 40, "WindowWidth": 400}, "Modality: CT needs"),
        ({"PresentationIntentType": "FOR PROCESSING"}, "PresentationIntentType: FOR PROCESSING"),
        ({"BitsStored": 7}, "BitsStored: pixels lie outside the declared 0..127"),
        ({"VOILUTSequence": Sequence([pydicom.Dataset()])}, "VOILUTSequence: not read yet"),
        ({"ModalityLUTSequence": Sequence([pydicom.Dataset()])}, "ModalityLUTSequence: not read yet"),
        ({"SharedFunctionalGroupsSequence": Sequence([pydicom.Dataset()])}, "SharedFunctionalGroupsSequence: not read"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*VR DS")
def test_ambiguous_headers_are_refused(film_header, fields, match):
    with pytest.raises(DicomError, match=f"^dataset: {match}"):
        film(ALL_8_BIT, film_header(**fields))


def test_an_empty_sequence_is_absent(film_header):
    assert film([[0, 255]], film_header(VOILUTSequence=Sequence([]))).tolist() == [[0, 1]]


def test_for_processing_may_be_allowed(film_header):
    header = film_header(PresentationIntentType="FOR PROCESSING")
    assert film([[0, 255]], header, Choices(allow_for_processing=True)).tolist() == [[0, 1]]


# -- facts --


def test_facts_are_a_closed_list_without_identity(film_header):
    header = film_header(
        PatientName="Doe^Jane", PatientID="4711", StudyDate="20200131", PatientBirthDate="19500101",
        Manufacturer="ACME", ViewPosition="PA", Laterality="L", BodyPartExamined="CHEST", PatientSex="F",
        PatientAge="070Y", BurnedInAnnotation="NO",
    )  # fmt: skip
    facts = to_intensity(ALL_8_BIT, header)[1]
    assert facts == {
        "modality": "DX", "manufacturer": "ACME", "projection": "PA", "laterality": "L", "body_part": "CHEST",
        "photometric": "MONOCHROME2", "window": "declared 0..255", "inverted": False, "padding": False,
        "rows": 16, "columns": 16, "sex": "F", "age_group": "70-79", "burned_in": "NO",
    }  # fmt: skip
    assert facts.keys() == NO_FACTS.keys()
    assert all(type(facts[key]) is type(NO_FACTS[key]) for key in NO_FACTS)


# -- files --


def test_stored_values_come_as_they_are(tmp_path, write_film):
    pixels = np.arange(-6, 6, dtype=np.int16).reshape(3, 4)
    path = write_film(tmp_path / "film", pixels, BitsStored=12, PixelRepresentation=1, RescaleSlope=7, WindowCenter=1)
    stored, header = read_stored(path)
    assert stored.tolist() == pixels.tolist()
    assert header.RescaleSlope == 7


def test_a_file_without_preamble_and_an_rle_file_are_read(tmp_path, write_film):
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    path = write_film(tmp_path / "plain", pixels)
    header = pydicom.dcmread(path)
    header.compress(pydicom.uid.RLELossless)
    header.save_as(tmp_path / "rle")
    bare = pydicom.dcmread(path)
    del bare.file_meta
    bare.preamble = None
    bare.save_as(tmp_path / "bare", implicit_vr=True, little_endian=True, enforce_file_format=False)
    assert not pydicom.misc.is_dicom(tmp_path / "bare")
    for name in ("rle", "bare"):
        assert read_stored(tmp_path / name)[0].tolist() == pixels.tolist()


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"HighBit": 7, "BitsStored": 12}, r"HighBit: 7 is not BitsStored - 1 = 11"),
        ({"BitsStored": 17, "BitsAllocated": 16}, r"BitsStored: 17 does not lie in 1\.\.16"),
        ({"BitsAllocated": 32}, "BitsAllocated: 32 is not read"),
        ({"PixelRepresentation": 2}, "PixelRepresentation: 2 is neither"),
        ({"Rows": 4000}, "PixelData: shorter than 4000 x 4 pixels"),
        ({"Rows": 65535, "Columns": 65535}, "Rows: 65535 x 65535 pixels are none or too many"),
        ({"Rows": 0}, "Rows: 0 x 4 pixels are none"),
        ({"Rows": None}, "Rows: missing"),
        ({"NumberOfFrames": 2}, "NumberOfFrames: several frames are not read yet"),
        ({"PhotometricInterpretation": "RGB"}, "PhotometricInterpretation: 'RGB' is not read yet"),
    ],
)
def test_unreadable_images_are_refused_before_decoding(tmp_path, write_film, monkeypatch, fields, match):
    monkeypatch.setattr(dicom, "pixel_array", lambda header: pytest.fail("decoded"))
    path = write_film(tmp_path / "a film.dcm", np.zeros((3, 4), np.uint16), **{"BitsStored": 16} | fields)
    with pytest.raises(DicomError, match=rf"^a film\.dcm: {match}"):
        read_stored(path)


def test_files_that_are_no_image_are_refused(tmp_path, write_film):
    with pytest.raises(DicomError, match=r"^none\.dcm: file: cannot be opened \(FileNotFoundError\)"):
        read_stored(tmp_path / "none.dcm")
    header = pydicom.dcmread(write_film(tmp_path / "film", np.zeros((2, 2), np.uint8)))
    del header.PixelData
    header.save_as(tmp_path / "report.dcm")
    with pytest.raises(DicomError, match=r"^report\.dcm: PixelData: missing"):
        read_stored(tmp_path / "report.dcm")


def test_a_missing_decoder_is_named_with_its_package(tmp_path, write_film, monkeypatch):
    header = pydicom.dcmread(write_film(tmp_path / "film", np.zeros((2, 2), np.uint8)))
    header.compress(pydicom.uid.RLELossless)
    for syntax, match in [
        (pydicom.uid.JPEGLSLossless, r"no decoder for JPEG-LS Lossless.*; pip install python-gdcm"),
        (pydicom.uid.HTJ2KLossless, r"no decoder for High-Throughput.*; pip install pylibjpeg pylibjpeg-openjpeg"),
        (pydicom.uid.UID("1.2.840.113619.5.2"), "not one of the standard's"),  # GE private
        (pydicom.uid.MPEG2MPML, r"MPEG2 .* is not supported; convert"),
    ]:
        header.file_meta.TransferSyntaxUID = syntax
        header.save_as(tmp_path / "coded")
        if "no decoder" in match:  # whatever is installed here
            monkeypatch.setattr(dicom, "get_decoder", lambda uid: type("Decoder", (), {"is_available": False}))
        else:
            monkeypatch.undo()
        with pytest.raises(DicomError, match=f"^coded: TransferSyntaxUID: {match}"):
            read_stored(tmp_path / "coded")


@pytest.mark.parametrize("error", [struct.error, TypeError, NotImplementedError, MemoryError])
def test_whatever_a_decoder_raises_becomes_one_line(tmp_path, write_film, monkeypatch, error):
    def fail(header):
        raise error("several\nlines")

    monkeypatch.setattr(dicom, "pixel_array", fail)
    with pytest.raises(DicomError, match=rf"^film: PixelData: Explicit .* \({error.__name__}\)") as caught:
        read_stored(write_film(tmp_path / "film", np.zeros((2, 2), np.uint8)))
    assert "\n" not in str(caught.value)
