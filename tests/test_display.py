"""The grey-scale pipeline, step by step in its order, against values worked out by hand; and what each step refuses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from rtda.transforms.dicom import read_stored, to_tensor
from rtda.transforms.display import Choices, percentiles
from rtda.transforms.header import DicomError

ALL_8_BIT = np.arange(256).reshape(16, 16)
ALL_12_BIT = np.arange(4096).reshape(64, 64)
ULP = 2**-23


def tensor(pixels, header, choices=None):
    return to_tensor(np.asarray(pixels), header, choices)


def film(pixels, header, choices=None):
    return tensor(pixels, header, choices).as_tensor()[0].numpy()


# -- padding: PS3.3 C.7.5.1.1.2 --------------------------------------------------------------------------------------


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(("value", "limit"), [(10, 12), (12, 10)])
def test_padding_is_0_whatever_the_polarity(film_header, photometric, value, limit):
    """From PixelPaddingValue to PixelPaddingRangeLimit inclusive, in either order."""
    header = film_header(PhotometricInterpretation=photometric, PixelPaddingValue=value, PixelPaddingRangeLimit=limit)
    image = tensor([[9, 10, 11, 12, 13]], header)
    assert (image.as_tensor()[0, 0] == 0).tolist() == [False, True, True, True, False]
    assert image.meta["padding"] is True
    assert tensor([[9, 13]], header).meta["padding"] is False


def test_padding_without_a_limit_is_one_value(film_header):
    image = film([[9, 10, 11]], film_header(PixelPaddingValue=10))
    assert image[0].tolist() == [np.float32(9 / 255), 0, np.float32(11 / 255)]


def test_unsigned_padding_of_signed_pixels_is_reinterpreted(film_header):
    """Both fields reinterpreted as signed where PixelRepresentation is 1: a real file says 63536 and holds −2000."""
    header = film_header(BitsStored=16, PixelRepresentation=1, WindowCenter=0, WindowWidth=8000)
    header.add_new("PixelPaddingValue", "US", 63536)
    assert (film([[-2001, -2000, -1999]], header)[0] == 0).tolist() == [False, True, False]
    header.add_new("PixelPaddingRangeLimit", "US", 63534)
    assert (film([[-2003, -2002, -2001, -2000, -1999]], header)[0] == 0).tolist() == [False, True, True, True, False]


def test_padding_is_known_by_stored_values_before_any_transform(film_header):
    header = film_header(PixelPaddingValue=20, RescaleSlope=2, RescaleIntercept=0)
    assert film([[10, 20]], header)[0].tolist() == [np.float32(10 / 255), 0]


def test_padding_does_not_enter_percentiles(film_header):
    header = film_header(Modality="MR", PixelPaddingValue=0)
    image = film([[0] * 9 + [100, 150, 200]], header, Choices(intensity={"percentiles": [0, 100]}))
    assert image[0].tolist() == [0] * 9 + [0, 0.5, 1]


@pytest.mark.parametrize("pixels", [[[0, 0]], [[7, 7]]])
def test_percentiles_of_nothing_or_of_one_value_are_refused(film_header, pixels):
    header = film_header(Modality="MR", PixelPaddingValue=0)
    with pytest.raises(DicomError, match=r"^dataset: PixelData: the percentiles of its values are one"):
        film(pixels, header, Choices(intensity={"percentiles": [1, 99]}))


def test_a_damaged_padding_value_is_refused(film_header):
    header = film_header()
    header.add_new("PixelPaddingValue", "LO", "none")
    with pytest.raises(DicomError, match=r"^dataset: PixelPaddingValue: missing or not a finite number"):
        film(ALL_8_BIT, header)


@pytest.mark.parametrize("end", [200, 65536 - 56, -56])
def test_padding_of_signed_pixels_of_8_bits(film_header, end):
    """As the pixel's 8 bits or as the 16 of the element, unsigned or signed."""
    header = film_header(PixelRepresentation=1, WindowCenter=0, WindowWidth=256)
    header.add_new("PixelPaddingValue", "SS" if end < 0 else "US", end)
    assert (film([[-57, -56, -55]], header)[0] == 0).tolist() == [False, True, False]


@pytest.mark.parametrize(("bits", "end", "pixel"), [(8, -56, 200), (16, -2000, 63536)])
def test_signed_padding_of_unsigned_pixels(film_header, bits, end, pixel):
    header = film_header(BitsStored=bits)
    header.add_new("PixelPaddingValue", "SS", end)
    assert (film([[pixel - 1, pixel, pixel + 1]], header)[0] == 0).tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("fields", "ends"),
    [
        ({}, (65536 + 9, None)),  # cut to 16 bits it would be 9, which is a pixel of the image
        ({}, (-32769, None)),
        ({}, (9, 65536 + 9)),
        ({}, (300, None)),
        ({"BitsStored": 12}, (4096, None)),
        ({"BitsStored": 12, "PixelRepresentation": 1}, (-3000, None)),
        ({"BitsStored": 12, "PixelRepresentation": 1}, (65536 - 3000, -2000)),
        ({"PixelRepresentation": 1}, (300, None)),
    ],
)
def test_padding_outside_the_declared_values_is_refused(film_header, fields, ends):
    header = film_header(**fields, WindowCenter=0, WindowWidth=100)
    for field, end in zip(("PixelPaddingValue", "PixelPaddingRangeLimit"), ends, strict=True):
        header.add_new(field, "SL", end)
    with pytest.raises(
        DicomError, match=r"^dataset: PixelPaddingValue: or its limit lies outside the declared -?\d+\.\."
    ):
        film([[9, 10]], header)


def test_padding_that_decoding_would_make_white_is_refused(tmp_path, write_film):
    """-3000 in 12 bits is decoded as 1096, so the background would be a part of the image."""
    pixels = np.array([[-3000, 0, 7]], np.int16)
    path = write_film(tmp_path / "film", pixels, BitsStored=12, PixelRepresentation=1, PixelPaddingValue=-3000)
    with pytest.raises(DicomError, match=r"^film: PixelPaddingValue: .* outside the declared -2048\.\.2047"):
        film(*read_stored(path))


# -- modality: C.11.1 ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "x"),
    [
        ({}, 50),  # absent rescale = identity
        ({"RescaleSlope": 2}, 100),
        ({"RescaleIntercept": 7}, 57),
        ({"RescaleSlope": 2, "RescaleIntercept": -100}, 0),
        ({"RescaleSlope": "0.5", "RescaleIntercept": "1e1"}, 35),
    ],
)
def test_the_window_is_in_units_after_the_rescale(film_header, fields, x):
    header = film_header(WindowCenter=x, WindowWidth=4, VOILUTFunction="LINEAR_EXACT", **fields)
    slope = float(fields.get("RescaleSlope", 1))
    expected = [0.5 - slope / 4, 0.5, 0.5 + slope / 4]
    assert film([[49, 50, 51]], header)[0] == pytest.approx(expected, abs=ULP)


def test_a_modality_lut_maps_before_the_window(film_header, make_lut):
    """Inputs below the first mapped value take the first entry, above the last one the last."""
    lut = make_lut([100, 300, 200, 400], first=10, bits=16)
    header = film_header(ModalityLUTSequence=[lut], WindowCenter=200, WindowWidth=400, VOILUTFunction="LINEAR_EXACT")
    image = tensor([[0, 10, 11, 12, 13, 255]], header)
    assert image.as_tensor()[0, 0].tolist() == [0.25, 0.25, 0.75, 0.5, 1, 1]
    assert image.meta["rescale"] == "LUT of 4 entries"


def test_a_modality_lut_wins_over_a_rescale_with_a_warning(film_header, make_lut):
    lut = make_lut(range(256))
    header = film_header(ModalityLUTSequence=[lut], RescaleSlope=-1, RescaleIntercept=0)
    with pytest.warns(UserWarning, match=r"^dataset: ModalityLUTSequence: stands beside a rescale, .* LUT is applied"):
        assert film([[0, 255]], header).tolist() == [[0, 1]]


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"RescaleSlope": 0}, "RescaleSlope: 0 makes all values one"),
        ({"RescaleSlope": 1e-30, "RescaleIntercept": 1000}, "RescaleSlope: 1e-30 makes all values one"),
        ({"RescaleSlope": "1e308"}, "RescaleSlope: 1e.308 makes"),
        ({"RescaleSlope": float("inf")}, "RescaleSlope: missing or not a finite number"),
        ({"RescaleIntercept": float("nan")}, "RescaleIntercept: missing or not a finite number"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*VR DS")
def test_slope_0_or_not_finite_is_refused(film_header, fields, match):
    with pytest.raises(DicomError, match=f"^dataset: {match}"):
        film(ALL_8_BIT, film_header(**fields))


@pytest.mark.parametrize("name", ["XA", "RF"])
@pytest.mark.parametrize("relationship", ["LOG", "DISP"])
def test_the_rescale_of_angiograms_is_not_for_display(film_header, make_lut, name, relationship):
    """XA/XRF with PixelIntensityRelationship LOG or DISP: neither rescale nor LUT is applied."""
    header = film_header(Modality=name, PixelIntensityRelationship=relationship, RescaleSlope=-3)
    image = tensor([[0, 51, 255]], header)
    assert image.as_tensor()[0, 0] == pytest.approx([0, 0.2, 1])
    assert image.meta["rescale"] == f"not applied ({relationship})"
    header = film_header(Modality=name, PixelIntensityRelationship=relationship, ModalityLUTSequence=[make_lut([9, 8])])
    assert film([[0, 51, 255]], header)[0] == pytest.approx([0, 0.2, 1])


@pytest.mark.parametrize(("name", "relationship"), [("XA", "LIN"), ("XA", None), ("DX", "LOG")])
def test_other_relationships_and_modalities_are_rescaled(film_header, name, relationship):
    header = film_header(Modality=name, PixelIntensityRelationship=relationship, RescaleSlope=-3)
    assert film([[0, 51, 255]], header)[0] == pytest.approx([1, 0.8, 0])


@pytest.mark.parametrize("sign", [1, -1])
def test_intensity_relationship_sign_never_inverts(film_header, sign):
    header = film_header(PixelIntensityRelationshipSign=sign)
    assert film([[0, 255]], header).tolist() == [[0, 1]]


# -- CT --------------------------------------------------------------------------------------------------------------

CT = {"Modality": "CT", "BitsStored": 12, "RescaleSlope": 1, "RescaleIntercept": -1024}
SOFT = Choices(hu_window=(40, 400))


@pytest.mark.parametrize("kind", [{}, {"RescaleType": "HU"}, {"ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"]}])
def test_ct_goes_through_the_named_hu_window_alone(film_header, make_lut, kind):
    """CT needs the bundle's named HU window; the window and LUT of the file are not used."""
    header = film_header(**CT, **kind, WindowCenter=-600, WindowWidth=9, VOILUTSequence=[make_lut(range(256))])
    image = tensor([[1024 - 160, 1064, 1164, 1264]], header, SOFT)
    assert image.as_tensor()[0, 0].tolist() == [0, 0.5, 0.75, 1]
    assert image.meta["window"] == "40/400 HU of the bundle"


def test_ct_without_a_named_window_is_refused(film_header):
    with pytest.raises(DicomError, match=r"^dataset: Modality: CT needs hu_window among the bundle's choices"):
        film(ALL_12_BIT, film_header(**CT, WindowCenter=40, WindowWidth=400))


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"RescaleType": "US"}, "values in 'US'"),
        ({"RescaleType": "hu"}, "values in a unit of another name"),
        ({"RescaleType": "HU", "ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localizer"),
        ({"FrameType": ["ORIGINAL", "PRIMARY", "LOCALIZER", "NONE"]}, "localizer"),
    ],
)
def test_ct_not_known_to_be_in_hu_is_refused_unless_allowed(film_header, fields, what):
    """RescaleType present and not HU, or ImageType LOCALIZER: real files say US and lie by 1024."""
    header = film_header(**CT, **fields)
    with pytest.raises(DicomError, match=f"^dataset: RescaleType: {what}, not known to be HU"):
        film([[1064]], header, SOFT)
    allowed = Choices(hu_window=(40, 400), allow_rescale_type=True)
    assert film([[1064]], header, allowed).tolist() == [[0.5]]


@pytest.mark.parametrize("kind", ["HU", "US", None])
def test_the_unit_of_ct_is_that_of_the_modality_lut_where_it_is_applied(film_header, make_lut, kind):
    """Not that of a rescale beside it; and a LUT has to say its unit."""
    lut = make_lut([0, 40], first=0, bits=16)
    lut.ModalityLUTType = kind
    header = film_header(**CT | {"RescaleSlope": None, "RescaleIntercept": None, "RescaleType": "HU"})
    header.ModalityLUTSequence = [lut]
    if kind == "HU":
        assert film([[1]], header, SOFT).tolist() == [[0.5]]
        return
    with pytest.raises(
        DicomError, match=r"^dataset: ModalityLUTType: values in ('US'|a unit of another name), not known"
    ):
        film([[1]], header, SOFT)
    assert film([[1]], header, Choices(hu_window=(40, 400), allow_rescale_type=True)).tolist() == [[0.5]]


# -- VOI LUT: C.11.2.1.1 ---------------------------------------------------------------------------------------------


def test_a_lut_goes_before_a_window_unless_the_bundle_names_one(film_header, make_lut):
    """LUT before window where both stand: first item, unless the bundle names one."""
    luts = [make_lut([0, 255]), make_lut([255, 51]), make_lut([102, 153])]
    header = film_header(VOILUTSequence=luts, WindowCenter=[1, 0], WindowWidth=[4, 2], VOILUTFunction="LINEAR_EXACT")
    for choices, expected, name in [
        (None, [0, 1], "LUT 0 of 2 entries"),
        (Choices(lut_item=1), [1, 0.2], "LUT 1 of 2 entries"),
        (Choices(lut_item=2), [0.4, 0.6], "LUT 2 of 2 entries"),
        (Choices(window_item=0), [0.25, 0.5], "1/4 LINEAR_EXACT"),
        (Choices(window_item=1), [0.5, 1], "0/2 LINEAR_EXACT"),
    ]:
        image = tensor([[0, 1]], header, choices)
        assert image.as_tensor()[0, 0] == pytest.approx(expected, abs=ULP)
        assert image.meta["window"] == name


def test_items_that_do_not_exist_are_refused(film_header, make_lut):
    header = film_header(VOILUTSequence=[make_lut([0, 255])], WindowCenter=[1, 2], WindowWidth=[3, 4])
    for choices, match in [
        (Choices(lut_item=1), "VOILUTSequence: has 1 items, not item 1"),
        (Choices(window_item=2), "WindowCenter: has no item 2"),
    ]:
        with pytest.raises(DicomError, match=f"^dataset: {match}"):
            film(ALL_8_BIT, header, choices)
    with pytest.raises(DicomError, match=r"^dataset: VOILUTSequence: has 0 items"):
        film(ALL_8_BIT, film_header(WindowCenter=1, WindowWidth=3), Choices(lut_item=0))
    with pytest.raises(DicomError, match=r"^dataset: WindowCenter: missing"):
        film(ALL_8_BIT, film_header(VOILUTSequence=[make_lut([0, 255])]), Choices(window_item=0))


def test_a_lut_is_divided_by_its_declared_bits(film_header, make_lut):
    """LUT/(2ⁿ − 1); inputs below the first mapped value take the first entry, above the last one the last."""
    lut = make_lut([1023, 2047, 3071, 4000], first=100, bits=12)
    image = film([[0, 100, 101, 102, 103, 104, 255]], film_header(VOILUTSequence=[lut]))
    expected = np.array([1023, 1023, 2047, 3071, 4000, 4000, 4000]) / 4095
    assert image[0] == pytest.approx(expected, abs=ULP)


def test_a_descriptor_of_0_means_65536_entries(film_header, make_lut):
    lut = make_lut(np.arange(65535, -1, -1, dtype="<u2").tobytes(), bits=16, count=65536)
    assert lut.LUTDescriptor[0] == 0
    header = film_header(BitsStored=16, VOILUTSequence=[lut])
    image = tensor([[0, 1, 65535]], header)
    assert image.as_tensor()[0, 0] == pytest.approx([1, 65534 / 65535, 0], abs=ULP)
    assert image.meta["window"] == "LUT 0 of 65536 entries"


ENTRIES = {8: [7, 255, 30, 200, 100], 12: [4095, 8, 3000], 16: [65535, 256, 255, 1]}


def as_ow(entries, bits, little):
    """Bytes of an OW of 16-bit words, in which entries of 8 bits lie in pairs, the first in the low byte (PS3.5 D)."""
    if bits == 8:
        entries = np.frombuffer(bytes(entries) + b"\0" * (len(entries) % 2), "<u2")
    return np.array(entries).astype("<u2" if little else ">u2").tobytes()


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("vr", ["US", "OW"])
@pytest.mark.parametrize("sequence", ["VOILUTSequence", "ModalityLUTSequence"])
def test_lut_data_may_be_us_or_ow(tmp_path, write_film, make_lut, syntax, bits, vr, sequence):
    """LUTData may be US or OW, of 8 or 16 bits, in either byte order."""
    entries, little = ENTRIES[bits], syntax != ExplicitVRBigEndian
    data = entries if vr == "US" else as_ow(entries, bits, little)
    fields = {sequence: [make_lut(data, bits=bits, count=len(entries))]}
    if sequence == "ModalityLUTSequence":
        fields |= {"WindowCenter": 2 ** (bits - 1), "WindowWidth": 2**bits}
    pixels = np.arange(len(entries), dtype=np.uint8)[None]
    path = write_film(tmp_path / "film", pixels, syntax, **fields)
    image = film(*read_stored(path))
    assert image[0] == pytest.approx(np.array(entries) / (2**bits - 1), abs=ULP)


def test_the_first_mapped_value_is_signed_where_inputs_can_be_negative(film_header, make_lut):
    lut = make_lut([0, 255], first=-1024)
    assert lut.LUTDescriptor[1] == 64512
    negative = film_header(BitsStored=12, RescaleIntercept=-1024, VOILUTSequence=[lut])
    assert film([[0, 1]], negative).tolist() == [[0, 1]]
    unsigned = film_header(BitsStored=16, VOILUTSequence=[lut])
    assert film([[64511, 64512, 64513]], unsigned).tolist() == [[0, 0, 1]]
    luts = {"ModalityLUTSequence": [lut], "VOILUTSequence": [make_lut(range(256))]}
    signed = film_header(BitsStored=16, PixelRepresentation=1, **luts)
    assert film([[-1025, -1024, -1023]], signed).tolist() == [[0, 0, 1]]


def test_a_lut_filled_by_less_than_half_is_refused(film_header, make_lut):
    """max(LUT) < (2ⁿ − 1)/2 is refused unless the bundle says lut_range 'data'."""
    half = film_header(VOILUTSequence=[make_lut([0, 128])])
    assert film([[0, 1]], half)[0] == pytest.approx([0, 128 / 255])
    less = film_header(VOILUTSequence=[make_lut([51, 127])])
    with pytest.raises(DicomError, match=r"^dataset: VOILUTSequence: fills less than half of its 8 bits"):
        film([[0, 1]], less)
    assert film([[0, 1]], less, Choices(lut_range="data"))[0] == pytest.approx([51 / 127, 1])


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"LUTDescriptor": [3, 0, 8]}, "LUTData: has 2 entries, the descriptor says 3"),
        ({"LUTDescriptor": [2, 0, 17]}, "LUTDescriptor: states entries of 17 bits"),
        ({"LUTDescriptor": [2, 0, 0]}, "LUTDescriptor: states entries of 0 bits"),
        ({"LUTDescriptor": [2, 0]}, "LUTDescriptor: is not three whole numbers"),
        ({"LUTDescriptor": None}, "LUTDescriptor: is not three whole numbers"),
        ({"LUTData": None}, "LUTData: has 0 entries"),
        ({"LUTData": [0, 256]}, "LUTData: exceeds its 8 bits"),
        ({"LUTData": b"\0\1\2\3\4\5"}, "LUTData: has 3 entries, the descriptor says 2"),
    ],
)
def test_damaged_luts_are_refused(film_header, make_lut, change, match):
    lut = make_lut([0, 255])
    for field, value in change.items():
        lut[field].VR = "OW" if isinstance(value, bytes) else "US"
        lut[field].value = value
    for sequence in ("VOILUTSequence", "ModalityLUTSequence"):
        with pytest.raises(DicomError, match=f"^dataset: {match}"):
            film(ALL_8_BIT, film_header(**{sequence: [lut]}))


def test_bytes_of_8_bits_are_no_entries_of_16(film_header, make_lut):
    header = film_header(VOILUTSequence=[make_lut(b"\0\xff", bits=16, count=2)])
    with pytest.raises(DicomError, match=r"^dataset: LUTData: has 1 entries, the descriptor says 2"):
        film(ALL_8_BIT, header, Choices(lut_range="data"))


def test_a_lut_of_zeros_is_refused(film_header, make_lut):
    header = film_header(VOILUTSequence=[make_lut([0, 0])])
    with pytest.raises(DicomError, match=r"^dataset: LUTData: is all 0"):
        film(ALL_8_BIT, header, Choices(lut_range="data"))


def test_an_empty_sequence_is_absent(film_header):
    assert film([[0, 255]], film_header(VOILUTSequence=[], ModalityLUTSequence=[])).tolist() == [[0, 1]]


# -- windows: C.11.2.1.2 and C.11.2.1.3 ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("window", "function", "x", "y"),
    [
        ((2048, 4096), None, [0, 4095], [0, 1]),  # the standard's own example: the whole range of 12 bits
        ((2048, 4096), "LINEAR", [1024], [1024 / 4095]),
        ((2048, 1), "LINEAR", [2047, 2048], [0, 1]),  # w = 1 is a step above c - 1/2
        ((2048.5, 1), "LINEAR", [2047, 2048, 2049], [0, 0, 1]),
        ((100, 3), "LINEAR", [98, 99, 100, 101], [0, 0.25, 0.75, 1]),
        ((100, 4), "LINEAR_EXACT", [98, 99, 100, 102], [0, 0.25, 0.5, 1]),
        ((100, 0.5), "LINEAR_EXACT", [99, 100, 101], [0, 0.5, 1]),
        ((100, 1e-320), "LINEAR_EXACT", [99, 100, 101], [0, 0.5, 1]),
        ((100, 4), "SIGMOID", [100, 101, 0], [0.5, 1 / (1 + np.exp(-1)), 0]),
        ((100, 0.001), "SIGMOID", [99, 100, 4095], [0, 0.5, 1]),
    ],
)
def test_windows_by_hand(film_header, window, function, x, y):
    header = film_header(BitsStored=12, WindowCenter=window[0], WindowWidth=window[1], VOILUTFunction=function)
    assert film([x], header)[0] == pytest.approx(y, abs=1e-7)


def test_the_first_of_several_windows_counts_and_is_named(film_header):
    header = film_header(BitsStored=12, WindowCenter=[100, 900], WindowWidth=[3, 750])
    image = tensor([[99, 100]], header)
    assert image.as_tensor()[0, 0] == pytest.approx([0.25, 0.75])
    assert image.meta["window"] == "100/3 LINEAR"


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"WindowCenter": 40}, "WindowWidth: missing"),
        ({"WindowWidth": 40}, "WindowCenter: missing"),
        ({"WindowCenter": 40, "WindowWidth": 0.5}, "WindowWidth: 0.5 is too small for LINEAR"),
        ({"WindowCenter": 40, "WindowWidth": -9}, "WindowWidth: -9 is too small for LINEAR"),
        ({"WindowCenter": 40, "WindowWidth": 0, "VOILUTFunction": "LINEAR_EXACT"}, "WindowWidth: 0 is too small"),
        ({"WindowCenter": 40, "WindowWidth": 0, "VOILUTFunction": "SIGMOID"}, "WindowWidth: 0 is too small"),
        ({"WindowCenter": 40, "WindowWidth": 9, "VOILUTFunction": "LOG"}, "VOILUTFunction: 'LOG' is not one of"),
    ],
)
def test_any_other_name_or_width_is_refused(film_header, fields, match):
    with pytest.raises(DicomError, match=f"^dataset: {match}"):
        film(ALL_8_BIT, film_header(**fields))


# -- neither LUT nor window ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_without_window_the_declared_range_is_the_unit(film_header, bits):
    """(x − lo)/(hi − lo), the declared stored range: never the image's own extremes."""
    top = 2**bits - 1
    image = tensor([[0, 1, top]], film_header(BitsStored=bits))
    assert image.as_tensor()[0, 0].tolist() == [0, np.float32(1 / top), 1]
    assert film([[1, 2]], film_header(BitsStored=bits))[0].tolist() == [np.float32(1 / top), np.float32(2 / top)]
    assert image.meta["window"] == f"declared 0..{top}"


@pytest.mark.parametrize("name", ["CR", "DX", "MG", "IO", "RF", "XA", "US", "ES", "XC", "OT", "SC"])
@pytest.mark.filterwarnings("ignore:dataset. SequenceOfUltrasoundRegions")
def test_these_modalities_are_shown_by_their_declared_range(film_header, name):
    header = film_header(Modality=name, SmallestImagePixelValue=100, LargestImagePixelValue=101)
    assert film([[0, 51, 255]], header)[0] == pytest.approx([0, 0.2, 1], abs=ULP)  # Smallest/Largest… lie: never used


def test_the_declared_range_goes_through_the_rescale_and_is_sorted(film_header):
    image = tensor([[0, 255]], film_header(RescaleSlope=-1, RescaleIntercept=255))
    assert image.as_tensor()[0].tolist() == [[1, 0]]
    assert image.meta["window"] == "declared 0..255"
    assert film([[0, 51]], film_header(RescaleSlope=10, RescaleIntercept=-7))[0] == pytest.approx([0, 0.2])


def test_after_a_modality_lut_its_data_are_the_declared_range(film_header, make_lut):
    header = film_header(ModalityLUTSequence=[make_lut([300, 100, 500, 200], bits=12)])
    image = tensor([[0, 1, 3]], header)
    assert image.as_tensor()[0, 0] == pytest.approx([0.5, 0, 0.25])
    assert image.meta["window"] == "declared 100..500"
    with pytest.raises(DicomError, match=r"^dataset: ModalityLUTSequence: makes all values one"):
        film([[0, 1]], film_header(ModalityLUTSequence=[make_lut([7, 7])]))


REFUSED = [
    *({"Modality": name} for name in ("MR", "PT", "NM", "SM", None)),
    {"PixelRepresentation": 1},
]


@pytest.mark.parametrize("fields", REFUSED)
def test_the_declared_range_of_other_data_is_refused(film_header, fields):
    """Signed data, MR, PT, NM and all else: refused, unless the bundle names an intensity."""
    with pytest.raises(DicomError, match=r"^dataset: WindowCenter: missing"):
        film([[0, 1]], film_header(**fields))


@pytest.mark.parametrize("fields", [*REFUSED, {}])
def test_the_bundle_may_name_a_range_in_modality_units(film_header, fields):
    header = film_header(**fields, RescaleSlope=2, RescaleIntercept=-100)
    image = tensor([[40, 50, 60, 100]], header, Choices(intensity={"range": [0, 40]}))
    assert image.as_tensor()[0, 0].tolist() == [0, 0, 0.5, 1]
    assert image.meta["window"] == "range 0..40 of the bundle"


def test_the_bundle_may_name_percentiles_which_the_metadata_state(film_header):
    pixels = np.arange(101) + 20
    header = film_header(Modality="MR", RescaleSlope=3)
    image = tensor([pixels], header, Choices(intensity={"percentiles": [10, 90]}))
    assert image.as_tensor()[0, 0] == pytest.approx(np.clip((np.arange(101) - 10) / 80, 0, 1), abs=ULP)
    assert image.meta["window"] == "percentiles 10..90 of the bundle"


@settings(max_examples=60, deadline=None)
@given(
    pairs=st.lists(st.tuples(st.floats(-1e6, 1e6), st.integers(0, 5)), min_size=1, max_size=30),
    percents=st.tuples(st.floats(0, 100), st.floats(0, 100)),
)
def test_percentiles_by_counts_are_those_of_the_values_one_by_one(pairs, percents):
    x, counts = np.array([one for one, _ in pairs]), np.array([count for _, count in pairs])
    assume(counts.any())
    expected = np.percentile(np.repeat(x, counts), percents)
    np.testing.assert_allclose(percentiles(x, counts, percents), expected, rtol=1e-12, atol=1e-9)


def test_a_window_of_the_file_goes_before_the_bundles_intensity(film_header):
    header = film_header(Modality="MR", WindowCenter=51, WindowWidth=102, VOILUTFunction="LINEAR_EXACT")
    assert film([[51]], header, Choices(intensity={"range": [0, 255]})).tolist() == [[0.5]]


@pytest.mark.parametrize("fields", [{"WindowCenter": 51, "WindowWidth": 102}, {"VOILUTSequence": True}, {}])
def test_a_bundle_may_say_that_its_intensity_goes_first(film_header, make_lut, fields):
    fields = {"VOILUTSequence": [make_lut([0, 255])]} if "VOILUTSequence" in fields else fields
    header = film_header(Modality="MR", RescaleSlope=2, **fields)
    image = tensor([[0, 51]], header, Choices(intensity={"range": [0, 204]}, voi="intensity"))
    assert image.as_tensor()[0, 0].tolist() == [0, 0.5]
    assert image.meta["window"] == "range 0..204 of the bundle"


def test_ct_has_its_window_in_hu_whatever_the_intensity(film_header):
    choices = Choices(hu_window=(40, 400), intensity={"range": [0, 1]}, voi="intensity")
    assert tensor([[1064]], film_header(**CT), choices).meta["window"] == "40/400 HU of the bundle"


# -- polarity: C.8.11.3, C.7.6.3.1.2 ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("photometric", "shape", "polarity"),
    [
        ("MONOCHROME2", None, "as stored (MONOCHROME2)"),
        ("MONOCHROME1", None, "inverted (MONOCHROME1)"),
        ("MONOCHROME2", "IDENTITY", "as stored (PresentationLUTShape IDENTITY)"),
        ("MONOCHROME1", "INVERSE", "inverted (PresentationLUTShape INVERSE)"),  # restated, not inverted twice
    ],
)
@pytest.mark.parametrize("window", [{}, {"WindowCenter": 90, "WindowWidth": 77}])
def test_polarity_is_applied_once(film_header, photometric, shape, polarity, window):
    """Exactly once, as 1 − y; INVERSE restates MONOCHROME1, it is no second inversion."""
    header = film_header(PhotometricInterpretation=photometric, PresentationLUTShape=shape, **window)
    image = tensor(ALL_8_BIT, header)
    plain = film(ALL_8_BIT, film_header(**window))
    assert image.as_tensor()[0].numpy() == pytest.approx(1 - plain if "inverted" in polarity else plain, abs=ULP)
    assert image.meta["polarity"] == polarity


@pytest.mark.parametrize(("photometric", "shape"), [("MONOCHROME1", "IDENTITY"), ("MONOCHROME2", "INVERSE")])
def test_contradicting_polarity_needs_a_choice(film_header, photometric, shape):
    """If the two disagree: refused, naming both, unless the bundle says which counts."""
    header = film_header(PhotometricInterpretation=photometric, PresentationLUTShape=shape)
    with pytest.raises(DicomError, match=f"^dataset: PresentationLUTShape: {shape} contradicts .* {photometric}"):
        film([[0, 255]], header)
    by_shape = [[1, 0]] if shape == "INVERSE" else [[0, 1]]
    assert film([[0, 255]], header, Choices(polarity="shape")).tolist() == by_shape
    assert film([[0, 255]], header, Choices(polarity="photometric")).tolist() == np.subtract(1, by_shape).tolist()
    for choice, reason, other in [
        ("shape", f"PresentationLUTShape {shape}", photometric),
        ("photometric", photometric, f"PresentationLUTShape {shape}"),
    ]:
        told = tensor([[0, 255]], header, Choices(polarity=choice)).meta["polarity"]
        assert told.endswith(f" ({reason}, against {other})")
        assert told.startswith("inverted" if reason.endswith(("MONOCHROME1", "INVERSE")) else "as stored")


def test_shapes_other_than_identity_and_inverse_are_refused(film_header):
    with pytest.raises(DicomError, match=r"^dataset: PresentationLUTShape: 'LIN OD' is not IDENTITY or INVERSE"):
        film(ALL_8_BIT, film_header(PresentationLUTShape="LIN OD"), Choices(polarity="photometric"))


# -- laws ------------------------------------------------------------------------------------------------------------

slopes = st.sampled_from([1.0, 0.5, 2.0, -1.0])
centres = st.integers(-500, 5000)
widths = st.integers(1, 5000)
functions = st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID"])


@settings(max_examples=40, deadline=None)
@given(slope=slopes, intercept=st.integers(-1000, 1000), centre=centres, width=widths, function=functions)
def test_monochrome1_twin_is_equal(film_header, slope, intercept, centre, width, function):
    """M = lo + hi in modality units: complemented pixels, centre M − c + 1 (LINEAR) or M − c, give the same image."""
    assume(not (width == 1 and function == "LINEAR"))  # a step is open at one end: its twin differs at the step itself
    rescale = {"BitsStored": 12, "RescaleSlope": slope, "RescaleIntercept": intercept, "VOILUTFunction": function}
    mirrored = slope * 4095 + 2 * intercept - centre + (function == "LINEAR")
    plain = film_header(**rescale, WindowCenter=centre, WindowWidth=width)
    twin = film_header(**rescale, WindowCenter=mirrored, WindowWidth=width, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_allclose(film(ALL_12_BIT, plain), film(4095 - ALL_12_BIT, twin), rtol=0, atol=ULP)


@settings(max_examples=40, deadline=None)
@given(
    entries=st.lists(st.integers(0, 1023), min_size=1, max_size=300).filter(lambda e: max(e) >= 512 > min(e)),
    first=st.integers(-300, 600),
    slope=st.sampled_from([1, 2, -1]),
    intercept=st.integers(-300, 300),
    signed=st.booleans(),
)
def test_monochrome1_twin_of_a_lut_is_equal(film_header, make_lut, entries, first, slope, intercept, signed):
    """The twin LUT is reversed, complemented (2ⁿ − 1 − entry), its first mapped value M − (first + entries − 1)."""
    stored = ALL_8_BIT - 128 * signed
    ends = [slope * int(end) + intercept for end in (stored.min(), stored.max())]
    first_of_twin = sum(ends) - (first + len(entries) - 1)
    assume(min(ends) < 0 or min(first, first_of_twin) >= 0)  # first mapped values below 0 cannot be written
    rescale = {"PixelRepresentation": int(signed), "RescaleSlope": slope, "RescaleIntercept": intercept}
    complement = [1023 - entry for entry in reversed(entries)]
    plain = film_header(**rescale, VOILUTSequence=[make_lut(entries, first, 10)])
    twin = film_header(**rescale, VOILUTSequence=[make_lut(complement, first_of_twin, 10)])
    twin.PhotometricInterpretation = "MONOCHROME1"
    np.testing.assert_allclose(film(stored, plain), film(stored[::-1, ::-1], twin), rtol=0, atol=ULP)


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


# -- choices ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choice", "match"),
    [
        ({"polarity": "shapes"}, "polarity: 'shapes' is not one of 'agree', 'shape', 'photometric'"),
        ({"lut_range": "own"}, "lut_range: 'own' is not one of 'declared', 'data'"),
        ({"chest_wall": "up"}, "chest_wall: 'up' is not one of None, 'left', 'right'"),
        ({"hu_window": (40, 0)}, "hu_window: .40, 0. is not .centre, width > 0. in HU"),
        ({"hu_window": (40,)}, "hu_window: .40,. is not"),
        ({"hu_window": (float("nan"), 400)}, "hu_window: .nan, 400. is not"),
        ({"intensity": {}}, "intensity: {} is neither"),
        ({"intensity": {"range": [1, 1]}}, r"intensity: {'range': \[1, 1\]} is neither"),
        ({"intensity": {"range": [0, float("inf")]}}, r"intensity: {'range': \[0, inf\]} is neither"),
        ({"intensity": {"range": [0, 1, 2]}}, "intensity: .* is neither"),
        ({"intensity": {"percentiles": [-1, 99]}}, "intensity: .* is neither"),
        ({"intensity": {"percentiles": [1, 101]}}, "intensity: .* is neither"),
        ({"intensity": {"percentile": [1, 99]}}, "intensity: .* is neither"),
        ({"intensity": {"range": [0, 1], "percentiles": [1, 99]}}, "intensity: .* is neither"),
        ({"lut_item": -1}, "lut_item: -1 is no item; they count from 0"),
        ({"window_item": -1}, "window_item: -1 is no item; they count from 0"),
        ({"region": -2}, "region: -2 is no item; they count from 0"),
        ({"lut_item": "first"}, "lut_item: 'first' is no item"),
        ({"hu_window": 400}, "hu_window: 400 is not"),
        ({"hu_window": ["40", "400"]}, r"hu_window: \['40', '400'\] is not"),
        ({"intensity": 5}, "intensity: 5 is neither"),
        ({"intensity": {"range": [0, "1"]}}, "intensity: .* is neither"),
        ({"allow_for_processing": "no"}, "allow_for_processing: 'no' is not one of False, True"),
        ({"allow_rescale_type": None}, "allow_rescale_type: None is not one of False, True"),
        ({"max_pixels": "many"}, "max_pixels: 'many' is not a whole number above 0"),
        ({"max_pixels": 0}, "max_pixels: 0 is not a whole number above 0"),
        ({"lut_item": 0, "window_item": 0}, "lut_item: a LUT and a window are named; name one"),
        ({"voi": "bundle"}, "voi: 'bundle' is not one of 'header', 'intensity'"),
        ({"voi": "intensity"}, "voi: 'intensity' needs one, and neither lut_item nor window_item"),
        (
            {"voi": "intensity", "intensity": {"range": [0, 1]}, "lut_item": 0},
            "voi: 'intensity' needs one, and neither",
        ),
        ({"voi": "intensity", "intensity": {"range": [0, 1]}, "window_item": 0}, "voi: 'intensity' needs one"),
    ],
)
def test_a_mistyped_choice_is_refused(choice, match):
    with pytest.raises(ValueError, match=f"^{match}"):
        Choices(**choice)


def test_choices_come_from_yaml_as_lists(film_header):
    header = film_header(**CT)
    assert film([[1064]], header, Choices(hu_window=[40, 400])).tolist() == [[0.5]]
