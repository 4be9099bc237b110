"""From files to tensors: what is decoded, colour, frames, crop and mirror; what is refused, and in which words."""

from __future__ import annotations

import struct
import tracemalloc
import warnings

import numpy as np
import pydicom
import pytest
import torch
from monai.data import MetaTensor
from pydicom import uid
from pydicom.pixels.decoders.base import DecodeRunner
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from rtda.transforms import stored as stored_module
from rtda.transforms.dicom import read_stored, to_tensor
from rtda.transforms.display import Choices
from rtda.transforms.facts import NO_FACTS
from rtda.transforms.header import DicomError, NotAnImage
from rtda.transforms.stored import looks_like_dicom

SYNTAXES = [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian]
LUMA = np.array([0.299, 0.587, 0.114])
ULP = 2**-23


def tensor(pixels, fields, choices=None, **named):
    return to_tensor(np.asarray(pixels), fields, choices, **named)


def film(pixels, fields, choices=None, **named):
    return tensor(pixels, fields, choices, **named).as_tensor()[0].numpy()


def test_the_result_is_a_metatensor_of_one_channel(film_header):
    image = tensor(np.arange(6).reshape(2, 3), film_header())
    assert isinstance(image, MetaTensor)
    assert image.shape == (1, 2, 3)
    assert image.dtype == torch.float32
    assert set(NO_FACTS) <= set(image.meta)
    assert set(image.meta) - set(NO_FACTS) <= {"affine", "space"}  # MONAI's own
    assert (image.meta["rows"], image.meta["columns"]) == (2, 3)


# -- stored values: PS3.3 C.7.6.3 ------------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("kind", [np.int16, np.uint16, np.int8, np.uint8])
def test_stored_values_come_as_they_are(tmp_path, write_film, syntax, kind):
    pixels = (np.arange(12).reshape(3, 4) - 6 * np.issubdtype(kind, np.signedinteger)).astype(kind)
    bits, signed = pixels.itemsize * 8 - 1, int(np.issubdtype(kind, np.signedinteger))
    fields = {"BitsStored": bits, "PixelRepresentation": signed, "RescaleSlope": 7, "WindowCenter": 1}
    stored, fields = read_stored(write_film(tmp_path / "film", pixels, syntax, **fields))
    assert stored.tolist() == pixels.tolist()
    assert stored.dtype == kind
    assert fields.RescaleSlope == 7


def test_files_without_preamble_or_suffix_and_rle_files_are_read(tmp_path, write_film):
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    path = write_film(tmp_path / "plain", pixels)
    fields = pydicom.dcmread(path)
    fields.compress(uid.RLELossless)
    fields.save_as(tmp_path / "rle")
    bare = pydicom.dcmread(path)
    del bare.file_meta
    bare.preamble = None
    for name, implicit in [("bare", True), ("explicit", False)]:
        bare.save_as(tmp_path / name, implicit_vr=implicit, little_endian=True, enforce_file_format=False)
        assert not pydicom.misc.is_dicom(tmp_path / name)
    for name in ("rle", "bare", "explicit"):
        assert looks_like_dicom(tmp_path / name)
        assert read_stored(tmp_path / name)[0].tolist() == pixels.tolist()


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"HighBit": 7, "BitsStored": 12}, r"HighBit: 7 is not BitsStored - 1 = 11"),
        ({"HighBit": 15, "BitsStored": 12}, r"HighBit: 15 is not BitsStored - 1 = 11"),  # left-aligned
        ({"BitsStored": 17, "BitsAllocated": 16}, r"BitsStored: 17 does not lie in 1\.\.16"),
        ({"BitsAllocated": 12, "BitsStored": 12}, "BitsAllocated: 12 is not read"),
        ({"BitsAllocated": 64}, "BitsAllocated: 64 is not read"),
        ({"PixelRepresentation": 2}, "PixelRepresentation: is neither 0 nor 1"),
        ({"Rows": 4000}, "PixelData: 24 bytes, but 4000 x 4 x 1 pixels take 32000; the file is cut"),
        ({"Rows": 2}, "PixelData: 24 bytes, but 2 x 4 x 1 pixels take 16; more than that, correct the header"),
        ({"Rows": 65535, "Columns": 65535}, "Rows: 65535 x 65535 x 1 pixels are none or too many"),
        ({"Rows": 0}, "Rows: 0 x 4 x 1 pixels are none"),
        ({"Rows": None}, "Rows: missing"),
        ({"NumberOfFrames": 2}, "PixelData: 24 bytes, but 3 x 4 x 2 pixels take 48"),
        ({"NumberOfFrames": 0}, "NumberOfFrames: 0 is less than one"),
        ({"NumberOfFrames": -1}, "NumberOfFrames: -1 is less than one"),
        ({"PhotometricInterpretation": "ARGB"}, "PhotometricInterpretation: 'ARGB' is not read"),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "PixelData: 24 bytes, but 3 x 4 x 1"),
    ],
)
def test_unreadable_images_are_refused_before_decoding(tmp_path, write_film, monkeypatch, fields, match):
    monkeypatch.setattr(stored_module, "pixel_array", lambda header, index: pytest.fail("decoded"))
    monkeypatch.setattr(stored_module, "get_decoder", lambda syntax: pytest.fail("decoded"))
    pixels = np.zeros((3, 4), np.uint16)
    path = write_film(tmp_path / "plain", pixels, BitsStored=16)
    written = pydicom.dcmread(path)
    bits = fields.get("BitsStored", 16)
    for field, value in ({"BitsStored": bits, "HighBit": bits - 1} | fields).items():
        setattr(written, field, value)
        if value is None:
            delattr(written, field)
    written.save_as(tmp_path / "a film.dcm")
    with pytest.raises(DicomError, match=rf"^a film\.dcm: {match}"):
        read_stored(tmp_path / "a film.dcm")


def test_the_limit_of_pixels_can_be_set(tmp_path, write_film):
    path = write_film(tmp_path / "loop", np.zeros((5, 3, 4), np.uint8))
    assert read_stored(path, max_pixels=60)[0].shape == (5, 3, 4)
    with pytest.raises(DicomError, match=r"^loop: Rows: 3 x 4 x 5 pixels are none or too many.*, or name a frame"):
        read_stored(path, max_pixels=59)
    assert read_stored(path, frame=4, max_pixels=12)[0].shape == (3, 4)


def test_a_volume_has_at_most_so_many_frames(tmp_path, write_film):
    """Each takes its time however small it is, and 67 million of one pixel would be within the limit of pixels."""
    path = write_film(tmp_path / "loop", np.zeros((2**16 + 1, 1, 1), np.uint8))
    with pytest.raises(DicomError, match=r"^loop: NumberOfFrames: 65537 frames; at most 65536 are read as a volume"):
        read_stored(path)
    assert read_stored(path, frame=2**16)[0].tolist() == [[0]]


def deflated(path, size):
    """A film whose header holds so many zeros, deflated."""
    header = pydicom.Dataset()
    header.SOPClassUID = uid.DigitalXRayImageStorageForPresentation
    header.SOPInstanceUID = "1.2.3"
    header.add_new(0x00091010, "OB", bytes(size))
    header.file_meta = pydicom.dataset.FileMetaDataset()
    header.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    header.save_as(path, enforce_file_format=True)
    return path


def test_a_deflated_file_is_not_inflated_beyond_its_limit(tmp_path, monkeypatch):
    """A small file can say a thousand times as much: refused before there is memory taken for it."""
    monkeypatch.setattr(stored_module, "MAX_INFLATED", 2**20)
    bomb = deflated(tmp_path / "bomb", 2**24)
    assert bomb.stat().st_size < 2**16
    tracemalloc.start()
    with pytest.raises(DicomError, match=r"^bomb: file: not DICOM, or its header is damaged \(OverflowError\)"):
        read_stored(bomb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**22
    with pytest.raises(DicomError, match=r"^sound: PixelData: no pixel data in this Digital X-Ray"):
        read_stored(deflated(tmp_path / "sound", 2**19))


def test_a_file_shows_by_its_start_what_it_is(tmp_path, write_film, monkeypatch):
    """So that no length claimed by a file without preamble is believed, and no large file is read to be refused."""
    film = write_film(tmp_path / "film", np.zeros((64, 64), np.uint8)).read_bytes()
    bare = film[film.index(b"\x08\0\x16\0") :]
    (tmp_path / "bare").write_bytes(bare)
    (tmp_path / "late").write_bytes(struct.pack("<HH2sHI", 8, 8, b"UN", 0, 600) + bytes(600) + bare)
    (tmp_path / "claims").write_bytes(struct.pack("<HH2sHI", 8, 8, b"UN", 0, 0x7FFFFFF0) + bytes(99))  # two gigabytes
    names = ("film", "bare", "late", "claims")
    assert [looks_like_dicom(tmp_path / name) for name in names] == [True, True, True, False]
    monkeypatch.setattr(stored_module, "HEAD", 512)
    assert [looks_like_dicom(tmp_path / name) for name in names] == [True, True, False, False]


def test_pixels_beyond_the_declared_bits_are_refused(film_header):
    with pytest.raises(DicomError, match=r"^dataset: BitsStored: pixels lie outside the declared 0\.\.127"):
        film([[0, 128]], film_header(BitsStored=7))
    with pytest.raises(DicomError, match=r"^dataset: BitsStored: pixels lie outside the declared -2048\.\.2047"):
        film([[-2049]], film_header(BitsStored=12, PixelRepresentation=1))


@pytest.mark.parametrize("bits", [1, 32])
def test_grey_of_1_or_32_bits_is_decoded_but_not_shown(tmp_path, write_film, bits):
    pixels = np.zeros((2, 2 * bits), np.uint8)
    fields = {"Rows": 2, "Columns": 16, "BitsStored": bits, "BitsAllocated": bits}
    path = write_film(tmp_path / "film", pixels, **fields)
    stored, fields = read_stored(path)
    assert stored.shape == (2, 16)
    with pytest.raises(DicomError, match=r"^film: BitsAllocated: grey and palette images of 8 or 16 bits are read"):
        to_tensor(stored, fields)


def test_overlays_are_never_burnt_in(tmp_path, write_film):
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    path = write_film(tmp_path / "plain", pixels)
    fields = pydicom.dcmread(path)
    for element, vr, value in [
        *((0x10, "US", 8), (0x11, "US", 8), (0x40, "CS", "G"), (0x50, "SS", [1, 1])),
        *((0x100, "US", 1), (0x102, "US", 0), (0x3000, "OW", b"\xff" * 8)),
    ]:
        fields.add_new((0x6000, element), vr, value)
    fields.save_as(tmp_path / "overlaid")
    assert fields.overlay_array(0x6000).all()
    assert torch.equal(to_tensor(*read_stored(tmp_path / "overlaid")), to_tensor(*read_stored(path)))


def test_an_overlay_within_the_pixels_is_not_burnt_in_either(tmp_path, write_film):
    pixels = np.array([[0x0FFF, 0x1FFF, 0x2000]], np.uint16)  # bits 12 and 13 are retired overlay planes
    stored, _ = read_stored(write_film(tmp_path / "film", pixels, BitsStored=12))
    assert stored.tolist() == [[4095, 4095, 0]]


def test_real_world_values_and_presentation_states_are_not_applied(film_header, make_lut):
    mapping = pydicom.Dataset()
    mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept = -1.0, 7.0
    fields = film_header(RealWorldValueMappingSequence=[mapping], SoftcopyVOILUTSequence=[make_lut([255, 0])])
    assert film([[0, 255]], fields).tolist() == [[0, 1]]


# -- no images -------------------------------------------------------------------------------------------------------


def test_files_that_are_no_image_are_told_from_damaged_ones(tmp_path, write_film):
    with pytest.raises(DicomError, match=r"^none\.dcm: file: cannot be opened \(FileNotFoundError\)"):
        read_stored(tmp_path / "none.dcm")
    (tmp_path / "nothing").touch()
    with pytest.raises(DicomError, match=r"^nothing: file: empty; get a new copy"):
        read_stored(tmp_path / "nothing")
    (tmp_path / "text").write_text("Dear colleague, " * 99)
    with pytest.raises(DicomError, match=r"^text: file: not DICOM"):
        read_stored(tmp_path / "text")
    assert not looks_like_dicom(tmp_path / "text")
    fields = pydicom.dcmread(write_film(tmp_path / "film", np.zeros((2, 2), np.uint8)))
    del fields.PixelData
    for kind, error, match in [
        (uid.BasicTextSRStorage, NotAnImage, "PixelData: no pixel data, no image: Basic Text SR Storage"),
        (uid.KeyObjectSelectionDocumentStorage, NotAnImage, "PixelData: no pixel data, no image: Key Object"),
        (uid.GrayscaleSoftcopyPresentationStateStorage, NotAnImage, "PixelData: no pixel data, no image: Grayscale"),
        (uid.RTPlanStorage, NotAnImage, "PixelData: no pixel data, no image: RT Plan"),
        (uid.DigitalXRayImageStorageForPresentation, DicomError, "PixelData: no pixel data in this Digital X-Ray"),
    ]:
        fields.SOPClassUID = fields.file_meta.MediaStorageSOPClassUID = kind
        fields.save_as(tmp_path / "other.dcm")
        with pytest.raises(DicomError, match=rf"^other\.dcm: {match}") as caught:
            read_stored(tmp_path / "other.dcm")
        assert caught.type is error


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"SOPClassUID": uid.SegmentationStorage}, "SOPClassUID: .*: Segmentation Storage"),
        ({"SOPClassUID": uid.RTDoseStorage}, "SOPClassUID: .*: RT Dose Storage"),
        ({"SOPClassUID": uid.ParametricMapStorage, "Modality": "MR"}, "SOPClassUID: .*: Parametric Map Storage"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.7"}, "SOPClassUID: .*: Label Map Segmentation Storage"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.8"}, "SOPClassUID: .*: Height Map Segmentation Storage"),
        ({"SOPClassUID": "1.2.3", "Modality": "SEG"}, "Modality: .*: SEG"),
        ({"SOPClassUID": None, "Modality": "RTDOSE"}, "Modality: .*: RTDOSE"),
    ],
)
@pytest.mark.parametrize("photometric", ["MONOCHROME2", "PALETTE COLOR"])
def test_labels_doses_and_measures_are_no_pictures(film_header, fields, what, photometric):
    """However much they look like one: label maps have a palette, parametric maps a window."""
    shown = palette(range(256)) | {"WindowCenter": 1, "WindowWidth": 2, "PhotometricInterpretation": photometric}
    with pytest.raises(NotAnImage, match=f"^dataset: {what}$"):
        film([[0, 1]], film_header(**shown | fields))


def test_a_parametric_map_of_floats_is_no_picture_either(tmp_path, write_film):
    fields = pydicom.dcmread(write_film(tmp_path / "film", np.zeros((2, 2), np.uint8)))
    del fields.PixelData
    fields.FloatPixelData = b"\0" * 16
    fields.SOPClassUID = fields.file_meta.MediaStorageSOPClassUID = uid.ParametricMapStorage
    fields.save_as(tmp_path / "map")
    with pytest.raises(NotAnImage, match=r"^map: PixelData: no pixel data, no image: Parametric Map Storage"):
        read_stored(tmp_path / "map")


def test_floating_point_pixels_are_refused(tmp_path, write_film):
    fields = pydicom.dcmread(write_film(tmp_path / "film", np.zeros((2, 2), np.uint8)))
    del fields.PixelData
    fields.FloatPixelData = b"\0" * 16
    fields.save_as(tmp_path / "map")
    with pytest.raises(DicomError, match=r"^map: FloatPixelData: floating-point pixels have no declared range"):
        read_stored(tmp_path / "map")


def test_pixels_of_another_vr_are_refused(tmp_path, write_film):
    data = write_film(tmp_path / "film", np.zeros((1, 2), np.uint8)).read_bytes()
    damaged = data.replace(b"\xe0\x7f\x10\0OB\0\0\2\0\0\0", b"\xe0\x7f\x10\0US\2\0\0\0")
    assert damaged != data
    (tmp_path / "film").write_bytes(damaged)
    with pytest.raises(DicomError, match=r"^film: PixelData: is not of bytes \(VR OB or OW\)"):
        read_stored(tmp_path / "film")


def test_for_processing_is_refused_unless_allowed(film_header):
    fields = film_header(PresentationIntentType="FOR PROCESSING")
    with pytest.raises(DicomError, match=r"^dataset: PresentationIntentType: FOR PROCESSING"):
        film([[0, 255]], fields)
    assert film([[0, 255]], fields, Choices(allow_for_processing=True)).tolist() == [[0, 1]]
    assert film([[0, 255]], film_header(PresentationIntentType="FOR PRESENTATION")).tolist() == [[0, 1]]


@pytest.mark.parametrize("intent", [None, "FOR PRESENTATION"])
def test_for_processing_may_be_said_by_the_sop_class_alone(film_header, intent):
    kind = uid.DigitalMammographyXRayImageStorageForProcessing
    fields = film_header(SOPClassUID=kind, Modality="MG", PresentationIntentType=intent)
    with pytest.raises(DicomError, match=r"^dataset: SOPClassUID: FOR PROCESSING is not meant to be looked at"):
        film([[0, 255]], fields)
    assert film([[0, 255]], fields, Choices(allow_for_processing=True)).tolist() == [[0, 1]]


# -- decoders --------------------------------------------------------------------------------------------------------


def test_an_rle_stream_too_short_for_its_pixels_never_reaches_the_decoder(tmp_path, write_film, monkeypatch):
    """It states no size; but two bytes give 128 at most (PS3.5 G.3.1)."""
    header = pydicom.dcmread(write_film(tmp_path / "plain", np.zeros((256, 256), np.uint8)))
    header.compress(uid.RLELossless)
    header.save_as(tmp_path / "film")
    assert not read_stored(tmp_path / "film")[0].any()  # as short as a sound one can be
    header.Rows = header.Columns = 8192
    header.save_as(tmp_path / "film")
    monkeypatch.setattr(stored_module, "pixel_array", lambda header, **named: pytest.fail("decoded"))
    with pytest.raises(DicomError, match=r"^film: PixelData: its stream is damaged or of another size than Rows x Col"):
        read_stored(tmp_path / "film")


@pytest.mark.parametrize("streams", [2, 4])
def test_as_many_streams_as_frames(tmp_path, write_film, monkeypatch, streams):
    header = pydicom.dcmread(write_film(tmp_path / "plain", np.zeros((3, 64, 64), np.uint8)))
    header.compress(uid.RLELossless)
    frames = [*pydicom.encaps.generate_frames(header.PixelData, number_of_frames=3)] * 2
    header.PixelData = pydicom.encaps.encapsulate(frames[:streams])
    header.save_as(tmp_path / "loop")
    monkeypatch.setattr(stored_module, "pixel_array", lambda header, **named: pytest.fail("decoded"))
    with pytest.raises(DicomError, match=rf"^loop: NumberOfFrames: 3, but there are {streams} streams; get a new copy"):
        read_stored(tmp_path / "loop")


def test_a_missing_decoder_is_named_with_its_package(tmp_path, write_film, monkeypatch):
    fields = pydicom.dcmread(write_film(tmp_path / "film", np.zeros((2, 2), np.uint8)))
    fields.compress(uid.RLELossless)
    for syntax, match in [
        (uid.JPEGLSLossless, r"no decoder for JPEG-LS Lossless.*; pip install python-gdcm"),
        (uid.HTJ2KLossless, r"no decoder for High-Throughput.*; pip install pylibjpeg pylibjpeg-openjpeg"),
        (uid.UID("1.2.840.113619.5.2"), "not one of the standard's"),  # GE private
        (uid.MPEG2MPML, r"MPEG2 .* is not supported; convert"),
    ]:
        fields.file_meta.TransferSyntaxUID = syntax
        fields.save_as(tmp_path / "coded")
        if "no decoder" in match:  # whatever is installed here
            monkeypatch.setattr(stored_module, "get_decoder", lambda uid: type("Decoder", (), {"is_available": False}))
        else:
            monkeypatch.undo()
        with pytest.raises(DicomError, match=f"^coded: TransferSyntaxUID: {match}"):
            read_stored(tmp_path / "coded")


def test_jpeg_extended_of_12_bits_lacks_a_decoder_and_nothing_else():
    """A sound file, which no new copy of it would mend."""
    path = pydicom.data.get_testdata_file("JPEG-lossy.dcm")
    with pytest.raises(DicomError, match=r": TransferSyntaxUID: JPEG Extended of 12 bits has no free decoder; convert"):
        read_stored(path)


@pytest.mark.parametrize("error", [struct.error, TypeError, NotImplementedError, MemoryError])
def test_whatever_a_decoder_raises_becomes_one_line(tmp_path, write_film, monkeypatch, error):
    def fail(header, **named):
        raise error("several\nlines")

    monkeypatch.setattr(stored_module, "pixel_array", fail)
    with pytest.raises(DicomError, match=rf"^film: PixelData: Explicit .* \({error.__name__}\)") as caught:
        read_stored(write_film(tmp_path / "film", np.zeros((2, 2), np.uint8)))
    assert "\n" not in str(caught.value)


# -- colour: C.7.6.3.1.2 ---------------------------------------------------------------------------------------------

RGB = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}
COLOURS = np.random.default_rng(3).integers(0, 256, (5, 6, 3), dtype=np.uint8)


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_rgb_becomes_luma_in_float(tmp_path, write_film, bits):
    """Y = 0.299R + 0.587G + 0.114B in float."""
    kind = np.uint8 if bits == 8 else np.uint16
    pixels = np.random.default_rng(4).integers(0, 2**bits, (5, 6, 3)).astype(kind)
    pixels[0, 0], pixels[0, 1] = 0, 2**bits - 1
    image = film(*read_stored(write_film(tmp_path / "film", pixels, BitsStored=bits, **RGB)))
    np.testing.assert_allclose(image, pixels / (2**bits - 1) @ LUMA, rtol=0, atol=ULP)
    assert image[0, :2].tolist() == [0, 1]


def test_planes_of_colour_are_read_as_pixels_of_colour(tmp_path, write_film):
    by_plane = np.ascontiguousarray(COLOURS.transpose(2, 0, 1)).reshape(5, 6, 3)
    path = write_film(tmp_path / "planes", by_plane, PlanarConfiguration=1, **RGB)
    assert film(*read_stored(path)) == pytest.approx(COLOURS / 255 @ LUMA, abs=ULP)


def test_ybr_becomes_rgb_first(tmp_path, write_film):
    """RGB by pydicom's default pixel_array: YBR_FULL is converted (C.7.6.3.1.2)."""
    grey = np.repeat(np.arange(30, dtype=np.uint8).reshape(5, 6, 1) * 8, 3, -1)
    grey[..., 1:] = 128  # no colour: Y alone
    stored, fields = read_stored(write_film(tmp_path / "film", grey, **RGB | {"PhotometricInterpretation": "YBR_FULL"}))
    assert (stored == grey[..., :1]).all()
    assert film(stored, fields) == pytest.approx(grey[..., 0] / 255, abs=ULP)
    red = np.array([[[76, 85, 255]]], np.uint8)
    stored, _ = read_stored(write_film(tmp_path / "red", red, **RGB | {"PhotometricInterpretation": "YBR_FULL"}))
    assert stored.tolist() == [[[254, 0, 0]]]


def test_voi_polarity_and_padding_are_for_monochrome_only(film_header, make_lut):
    """A real YBR_FULL file carries a window; padding 255 in a slide image is its background."""
    fields = film_header(
        **RGB, WindowCenter=1, WindowWidth=2, VOILUTSequence=[make_lut([255, 0])], RescaleSlope=-1, RescaleIntercept=0,
        PresentationLUTShape="INVERSE", PixelPaddingValue=255,
    )  # fmt: skip
    image = tensor([[[255, 255, 255], [255, 0, 0], [0, 0, 0]]], fields)
    assert image.as_tensor()[0, 0] == pytest.approx([1, 0.299, 0])
    decided = {key: image.meta[key] for key in ("rescale", "window", "polarity", "padding")}
    assert decided == {"rescale": "", "window": "", "polarity": "as stored (RGB)", "padding": False}


def palette(red, green=None, blue=None, first=0, bits=8, raw=False, little=True):
    fields = {"PhotometricInterpretation": "PALETTE COLOR"}
    for colour, entries in zip(("Red", "Green", "Blue"), (red, green or red, blue or red), strict=True):
        data = np.array(entries).astype(np.uint8 if raw else "<u2" if little else ">u2").tobytes()
        if raw and not little:
            data = np.frombuffer(data, "<u2").byteswap().tobytes()
        fields |= {
            f"{colour}PaletteColorLookupTableDescriptor": [len(entries) % 65536, first, bits],
            f"{colour}PaletteColorLookupTableData": data,
        }
    return fields


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize(("bits", "raw"), [(8, True), (8, False), (16, False)])
def test_palettes_are_divided_by_their_bits(tmp_path, write_film, syntax, bits, raw):
    """Palette entries divided by 2ⁿ − 1; entries of 8 bits in pairs or in words, in either byte order."""
    tables = [np.random.default_rng(k).integers(0, 2**bits, 40).tolist() for k in range(3)]
    fields = palette(*tables, first=7, bits=bits, raw=raw, little=syntax != ExplicitVRBigEndian)
    stored, fields = read_stored(write_film(tmp_path / "film", np.arange(60, dtype=np.uint8)[None], syntax, **fields))
    assert stored[0].tolist() == list(range(60))  # the palette is not applied to stored values
    entries = np.array(tables)[:, np.clip(np.arange(60) - 7, 0, 39)].T
    assert film(stored, fields)[0] == pytest.approx(entries / (2**bits - 1) @ LUMA, abs=ULP)


def test_long_palettes_of_8_bits_do_not_wrap(tmp_path, write_film):
    pixels = np.array([[0, 255, 256, 300, 1023, 4095]], np.uint16)
    fields = palette([k // 4 for k in range(1024)], raw=True)
    image = film(*read_stored(write_film(tmp_path / "film", pixels, BitsStored=12, **fields)))
    assert image[0] == pytest.approx(np.array([0, 63, 64, 75, 255, 255]) / 255, abs=ULP)


def segmented(fields):
    """The table written as one discrete segment (C.7.9.2)."""
    for colour in ("Red", "Green", "Blue"):
        data = np.frombuffer(fields.pop(f"{colour}PaletteColorLookupTableData"), "<u2")
        fields[f"Segmented{colour}PaletteColorLookupTableData"] = struct.pack("<2H", 0, len(data)) + data.tobytes()
    return fields


def test_segmented_palettes(tmp_path, write_film):
    tables = [np.random.default_rng(k).integers(0, 65536, 40).tolist() for k in range(3)]
    pixels = np.arange(60, dtype=np.uint8)[None]
    plain = palette(*tables, first=7, bits=16)
    path = write_film(tmp_path / "film", pixels, **segmented(dict(plain)))
    expected = film(*read_stored(write_film(tmp_path / "plain", pixels, **plain)))
    assert np.array_equal(film(*read_stored(path)), expected)


@pytest.mark.parametrize("data", [b"\7\0\1\0\0\0", b"\0\0"])
def test_segments_that_cannot_be_read_are_refused(tmp_path, write_film, data):
    fields = segmented(palette(range(40), bits=16))
    fields |= dict.fromkeys([name for name in fields if name.startswith("Segmented")], data)
    stored, fields = read_stored(write_film(tmp_path / "film", np.arange(60, dtype=np.uint8)[None], **fields))
    with pytest.raises(DicomError, match=r"^film: SegmentedRedPaletteColorLookupTableData: segments that are not read"):
        film(stored, fields)


def test_segments_of_8_bits_beyond_256_entries_are_refused(film_header):
    """There pydicom's index would wrap, and give a wrong picture."""
    fields = film_header(**segmented(palette([k // 4 for k in range(1024)], raw=True)))
    with pytest.raises(DicomError, match=r"^dataset: SegmentedRedPaletteColorLookupTableData: segments"):
        film([[0]], fields)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"GreenPaletteColorLookupTableDescriptor": [9, 0, 16]}, "GreenPaletteColorLookupTableData: has 40 entries"),
        ({"BluePaletteColorLookupTableData": None}, "BluePaletteColorLookupTableData: has 0 entries"),
        ({"RedPaletteColorLookupTableDescriptor": None}, "RedPaletteColorLookupTableDescriptor: is not three"),
        ({"BitsAllocated": 32}, "BitsAllocated: grey and palette images of 8 or 16 bits"),
    ],
)
def test_damaged_palettes_are_refused(film_header, change, match):
    fields = film_header(**palette(range(40), bits=16) | change)
    with pytest.raises(DicomError, match=f"^dataset: {match}"):
        film([[0, 1]], fields)


def test_colour_below_0_is_refused(tmp_path, write_film):
    """A colour of 200, read as signed, is -56: cut at 0 it would be a wrong picture."""
    path = write_film(tmp_path / "film", COLOURS, PixelRepresentation=1, **RGB)
    with pytest.raises(DicomError, match=r"^film: BitsStored: pixels are not three samples of 0\.\.255"):
        to_tensor(*read_stored(path))


def test_samples_and_interpretation_must_agree(tmp_path, write_film):
    grey = COLOURS[..., 0]
    for pixels, fields in [
        (COLOURS, RGB | {"PhotometricInterpretation": "MONOCHROME2"}),
        (grey, {"PhotometricInterpretation": "RGB"}),
        (COLOURS, RGB | palette(range(256), bits=8)),
    ]:
        path = write_film(tmp_path / "film", np.ascontiguousarray(pixels), **fields)
        with pytest.raises(DicomError, match=r"^film: SamplesPerPixel: "):
            read_stored(path)


# -- ultrasound regions: C.8.5.5 -------------------------------------------------------------------------------------


def region(left, top, right, bottom, space=1, data=1):
    item = pydicom.Dataset()
    item.RegionSpatialFormat, item.RegionDataType = space, data
    item.RegionLocationMinX0, item.RegionLocationMinY0 = left, top
    item.RegionLocationMaxX1, item.RegionLocationMaxY1 = right, bottom
    return item


SCREEN = np.arange(80).reshape(8, 10)


@pytest.mark.parametrize(
    ("regions", "rows", "columns"),
    [
        ([region(2, 1, 5, 3)], (1, 3), (2, 5)),  # both ends inclusive
        ([region(2, 1, 5, 3), region(4, 2, 7, 6)], (1, 6), (2, 7)),  # bounding box
        ([region(2, 1, 10, 8)], (1, 7), (2, 9)),  # clamped: a real file says 800 in 800 columns
        ([region(2, 1, 5, 3), region(0, 0, 9, 7, space=2), region(0, 0, 9, 7, data=2)], (1, 3), (2, 5)),
        ([region(0, 0, 9, 7)], (0, 7), (0, 9)),
    ],
)
@pytest.mark.parametrize("photometric", ["MONOCHROME2", "RGB"])
def test_ultrasound_is_cropped_to_its_tissue(film_header, regions, rows, columns, photometric):
    """Bounding box of regions with RegionSpatialFormat 1 and RegionDataType 1, both ends inclusive, clamped."""
    pixels = SCREEN if photometric == "MONOCHROME2" else np.repeat(SCREEN[..., None], 3, -1)
    fields = film_header(Modality="US", PhotometricInterpretation=photometric, SequenceOfUltrasoundRegions=regions)
    image = tensor(pixels, fields)
    expected = SCREEN[rows[0] : rows[1] + 1, columns[0] : columns[1] + 1] / 255
    assert image.as_tensor()[0].numpy() == pytest.approx(expected, abs=ULP)
    assert (image.meta["rows"], image.meta["columns"]) == expected.shape
    whole = expected.shape == SCREEN.shape
    assert image.meta["crop"] == (
        "" if whole else f"rows {rows[0]}..{rows[1]}, columns {columns[0]}..{columns[1]}"
    )  # fmt: skip


def test_a_region_can_be_picked(film_header):
    regions = [region(2, 1, 5, 3), region(0, 0, 1, 1, data=2)]
    fields = film_header(Modality="US", SequenceOfUltrasoundRegions=regions)
    assert film(SCREEN, fields, Choices(region=1)).shape == (2, 2)
    assert film(SCREEN, fields, Choices(region=0)).shape == (3, 4)
    with pytest.raises(DicomError, match=r"^dataset: SequenceOfUltrasoundRegions: has 2 items, none numbered 2"):
        film(SCREEN, fields, Choices(region=2))


@pytest.mark.parametrize("regions", [None, [], [region(0, 0, 3, 3, data=3)]])
def test_ultrasound_without_tissue_regions_stays_whole_with_a_warning(film_header, regions):
    fields = film_header(Modality="US", SequenceOfUltrasoundRegions=regions)
    with pytest.warns(UserWarning, match=r"^dataset: SequenceOfUltrasoundRegions: no region of 2-D tissue"):
        assert film(SCREEN, fields).shape == SCREEN.shape
    assert film(SCREEN, film_header(SequenceOfUltrasoundRegions=regions)).shape == SCREEN.shape  # no ultrasound


def test_damaged_regions_are_refused_by_the_name_of_the_file(tmp_path, write_film):
    broken = region(2, 1, 5, 3)
    del broken.RegionLocationMinX0
    for item, match in [
        (region(20, 1, 30, 3), "SequenceOfUltrasoundRegions: lies outside the image"),
        (region(5, 1, 2, 3), "SequenceOfUltrasoundRegions: lies outside the image"),
        (region(5, 1, 5, 3), "SequenceOfUltrasoundRegions: .* or is a single line of it"),
        (broken, "RegionLocationMinX0: missing or not a finite number"),
    ]:
        fields = {"Modality": "US", "SequenceOfUltrasoundRegions": [item]}
        stored, fields = read_stored(write_film(tmp_path / "scan", SCREEN.astype(np.uint8), **fields))
        with pytest.raises(DicomError, match=f"^scan: {match}"):
            to_tensor(stored, fields)


# -- frames: C.7.6.6, C.7.6.16 ---------------------------------------------------------------------------------------

LOOP = np.random.default_rng(5).integers(0, 256, (4, 3, 5), dtype=np.uint8)


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("colour", [False, True])
def test_one_frame_is_that_slice_of_the_volume(tmp_path, write_film, syntax, colour):
    pixels = np.random.default_rng(6).integers(0, 256, (4, 3, 5, 3), dtype=np.uint8) if colour else LOOP
    path = write_film(tmp_path / "loop", pixels, syntax, **RGB if colour else {})
    volume = to_tensor(*read_stored(path))
    assert volume.shape == (1, 4, 3, 5)
    assert (volume.meta["frame"], volume.meta["rows"], volume.meta["columns"]) == (0, 3, 5)
    for frame in range(4):
        stored, fields = read_stored(path, frame)
        assert np.array_equal(stored, pixels[frame])
        alone = to_tensor(stored, fields, frame=frame)
        assert alone.shape == (1, 3, 5)
        assert torch.equal(alone.as_tensor()[0], volume.as_tensor()[0, frame])
        assert alone.meta["frame"] == frame


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, uid.RLELossless, uid.JPEGLSLossless])
def test_one_frame_does_not_decode_the_rest(tmp_path, write_film, monkeypatch, syntax):
    header = pydicom.dcmread(write_film(tmp_path / "plain", np.repeat(LOOP, 4, 1)))
    if syntax != ExplicitVRLittleEndian:
        header.compress(syntax)
    header.save_as(tmp_path / "loop")
    decoded = []  # bytes where they are native, else frames
    get_data, set_decoders = DecodeRunner.get_data, DecodeRunner.set_decoders

    def counted(decode):
        return lambda stream, runner: decoded.append(1) or decode(stream, runner)

    monkeypatch.setattr(DecodeRunner, "get_data", lambda *args: decoded.append(args[-1]) or get_data(*args))
    monkeypatch.setattr(
        DecodeRunner,
        "set_decoders",
        lambda runner, known: set_decoders(runner, {name: counted(decode) for name, decode in known.items()}),
    )
    read_stored(tmp_path / "loop")
    every = sum(decoded)
    decoded.clear()
    read_stored(tmp_path / "loop", frame=2)
    assert sum(decoded) == every / 4 > 0


@pytest.mark.parametrize("colour", [False, True])
def test_a_frame_read_alone_must_be_named(tmp_path, write_film, colour):
    pixels = np.random.default_rng(6).integers(0, 256, (4, 3, 5, 3), dtype=np.uint8) if colour else LOOP
    stored, header = read_stored(write_film(tmp_path / "loop", pixels, **RGB if colour else {}), frame=2)
    with pytest.raises(ValueError, match=r"^frame: stored is one frame of several; say which"):
        to_tensor(stored, header)


@pytest.mark.parametrize("frame", [4, -1])
def test_frames_count_from_0(tmp_path, write_film, frame):
    path = write_film(tmp_path / "loop", LOOP)
    with pytest.raises(DicomError, match=f"^loop: NumberOfFrames: 4, so there is no frame {frame}; they count from 0"):
        read_stored(path, frame)


def group(**macros):
    """One item of a functional groups sequence: macro -> its fields."""
    item = pydicom.Dataset()
    for macro, fields in macros.items():
        inner = pydicom.Dataset()
        for field, value in fields.items():
            setattr(inner, field, value)
        setattr(item, macro, [inner])
    return item


def window(centre, width=2):
    return {"WindowCenter": centre, "WindowWidth": width, "VOILUTFunction": "LINEAR_EXACT"}


def test_per_frame_groups_go_before_shared_ones_and_these_before_the_root(tmp_path, write_film):
    """Per-frame functional groups, then shared, then the root."""
    fields = {"RescaleSlope": 2, "RescaleIntercept": 0, **window(0)}
    shared = group(FrameVOILUTSequence=window(100), PixelMeasuresSequence={"PixelSpacing": [0.5, 0.5]})
    each = [
        group(FrameVOILUTSequence=window(20)),
        group(PixelMeasuresSequence={"PixelSpacing": [0.25, 0.125]}),
        group(PixelValueTransformationSequence={"RescaleSlope": 10, "RescaleIntercept": 0, "RescaleType": "US"}),
    ]
    fields |= {"SharedFunctionalGroupsSequence": [shared], "PerFrameFunctionalGroupsSequence": each}
    path = write_film(tmp_path / "loop", np.full((3, 1, 3), [9, 10, 50], np.uint8), **fields)
    volume = to_tensor(*read_stored(path))
    assert volume.as_tensor()[0, :, 0].tolist() == [[0, 0.5, 1], [0, 0, 0.5], [0, 0.5, 1]]
    assert volume.meta["window"] == volume.meta["rescale"] == "differs by frame"
    facts = [to_tensor(*read_stored(path, frame), frame=frame).meta for frame in range(3)]
    assert [f["window"] for f in facts] == ["20/2 LINEAR_EXACT", *["100/2 LINEAR_EXACT"] * 2]
    assert [f["rescale"] for f in facts] == ["2 x + 0", "2 x + 0", "10 x + 0"]
    assert [f["pixel_spacing"] for f in facts] == [(0.5, 0.5), (0.25, 0.125), (0.5, 0.5)]


@pytest.mark.parametrize("where", ["SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"])
def test_a_macro_replaces_what_the_root_says_as_a_whole(film_header, make_lut, where):
    """Else a LUT of the root would go before the window or the rescale of the frame."""
    of_root = {"VOILUTSequence": [make_lut([255, 0])], "VOILUTFunction": "SIGMOID"}
    of_root |= {"ModalityLUTSequence": [make_lut([255, 0])]}
    item = group(
        FrameVOILUTSequence={"WindowCenter": 20, "WindowWidth": 3},
        PixelValueTransformationSequence={"RescaleSlope": 2, "RescaleIntercept": 0},
    )
    image = tensor([[9, 10, 11]], film_header(**of_root, **{where: [item]}), frame=0)
    assert (image.meta["rescale"], image.meta["window"]) == ("2 x + 0", "20/3 LINEAR")
    assert image.as_tensor()[0, 0].tolist() == [0, 0.75, 1]
    window_of_root = film_header(
        **window(3), **{where: [group(FrameVOILUTSequence={"VOILUTSequence": [make_lut([0, 255])]})]}
    )
    assert tensor([[0, 1]], window_of_root, Choices(), frame=0).meta["window"] == "LUT 0 of 2 entries"
    with pytest.raises(DicomError, match=r"^dataset: WindowCenter: missing"):
        film([[0, 1]], window_of_root, Choices(window_item=0), frame=0)


def test_an_empty_macro_says_nothing(film_header):
    header = film_header(**window(100), SharedFunctionalGroupsSequence=[group(FrameVOILUTSequence={})])
    assert tensor([[99, 100]], header, frame=0).meta["window"] == "100/2 LINEAR_EXACT"


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_luts_of_frames_are_read_in_the_byte_order_of_the_file(tmp_path, write_film, make_lut, syntax):
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    lut = make_lut(np.array([256, 65535, 1]).astype(f"{order}u2").tobytes(), bits=16, count=3)
    item = group(FrameVOILUTSequence={"VOILUTSequence": [lut]})
    path = write_film(
        tmp_path / "loop", np.array([[[0, 1, 2]]], np.uint8), syntax, SharedFunctionalGroupsSequence=[item]
    )
    image = film(*read_stored(path, 0), frame=0)
    assert image[0] == pytest.approx(np.array([256, 65535, 1]) / 65535, abs=ULP)


def test_the_rules_of_ct_hold_by_frame(tmp_path, write_film):
    soft = Choices(hu_window=(40, 400))
    each = [
        group(PixelValueTransformationSequence={"RescaleSlope": 1, "RescaleIntercept": -1024, "RescaleType": kind})
        for kind in ("HU", "US")
    ]
    each.append(group(CTImageFrameTypeSequence={"FrameType": ["ORIGINAL", "PRIMARY", "LOCALIZER", "NONE"]}))
    fields = {"Modality": "CT", "BitsStored": 12, "PerFrameFunctionalGroupsSequence": each}
    path = write_film(tmp_path / "ct", np.full((3, 1, 1), 1064, np.uint16), **fields)
    assert film(*read_stored(path, 0), soft, frame=0).tolist() == [[0.5]]
    for frame, what in [(1, "values in 'US'"), (2, "localizer")]:
        with pytest.raises(DicomError, match=f"^ct: RescaleType: {what}"):
            film(*read_stored(path, frame), soft, frame=frame)
    with pytest.raises(DicomError, match=r"^ct: RescaleType: values in 'US'"):
        film(*read_stored(path), soft)


def test_a_frame_without_its_group_is_refused(tmp_path, write_film):
    each = [group(FrameVOILUTSequence=window(20))] * 2
    path = write_film(tmp_path / "loop", LOOP, PerFrameFunctionalGroupsSequence=each)
    with pytest.raises(DicomError, match=r"^loop: PerFrameFunctionalGroupsSequence: has 2 items, none for frame 2"):
        to_tensor(*read_stored(path, 2), frame=2)


def test_padding_in_any_frame_is_told(tmp_path, write_film):
    path = write_film(tmp_path / "loop", np.array([[[1, 2]], [[1, 9]]], np.uint8), PixelPaddingValue=9)
    volume = to_tensor(*read_stored(path))
    assert volume.as_tensor()[0, 1, 0, 1] == 0
    assert volume.meta["padding"] is True


# -- mammograms ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("along", "wall"), [("A\\L", "left"), ("P\\R", "right"), ("P\\FR", "right"), ("AF", "left")])
@pytest.mark.parametrize("side", ["left", "right", None])
def test_mammograms_can_be_mirrored_to_one_side(film_header, along, wall, side):
    """Rows that run to the anterior begin at the chest wall (C.7.6.1.1.1)."""
    fields = film_header(Modality="MG", PatientOrientation=along.split("\\"), ImageLaterality="R")
    image = tensor([[0, 51, 255]], fields, Choices(chest_wall=side))
    mirrored = side is not None and side != wall
    assert image.as_tensor()[0, 0].tolist() == pytest.approx([1, 0.2, 0] if mirrored else [0, 0.2, 1])
    assert image.meta["mirrored"] is mirrored
    assert image.meta["laterality"] == "R"


def test_only_mammograms_are_mirrored_and_only_if_they_say_how(film_header):
    assert film([[0, 255]], film_header(PatientOrientation=["P", "F"]), Choices(chest_wall="left")).tolist() == [[0, 1]]
    for orientation in (None, ["L", "F"]):
        fields = film_header(Modality="MG", PatientOrientation=orientation)
        with pytest.raises(DicomError, match=r"^dataset: PatientOrientation: does not say where the chest wall is"):
            film([[0, 255]], fields, Choices(chest_wall="left"))


# -- warnings and refusals -------------------------------------------------------------------------------------------


def test_burned_in_annotation_warns_once_a_file(tmp_path, write_film):
    path = write_film(tmp_path / "loop", LOOP, BurnedInAnnotation="YES")
    with pytest.warns(UserWarning, match=r"^loop: BurnedInAnnotation: YES, so names may stand in the pixels") as caught:
        assert to_tensor(*read_stored(path)).meta["burned_in"] == "YES"
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        to_tensor(*read_stored(write_film(tmp_path / "no", LOOP, BurnedInAnnotation="NO")))


@pytest.mark.parametrize("field", ["VOILUTSequence", "ModalityLUTSequence", "SequenceOfUltrasoundRegions"])
def test_text_where_a_sequence_should_stand_is_refused(film_header, field):
    fields = film_header()
    fields[field] = pydicom.DataElement(field, "LO", "Zoe")
    with pytest.raises(DicomError, match=f"^dataset: {field}: cannot be read; correct the header$"):
        film([[0, 1]], fields)


def test_unreadable_fields_are_refused_by_name_without_their_values(tmp_path, write_film):
    path = write_film(tmp_path / "film", np.zeros((2, 2), np.uint8), WindowCenter=1, WindowWidth=2)
    sound = path.read_bytes()
    damaged = sound.replace(b"\x28\x00\x50\x10DS\x04\x001.0 ", b"\x28\x00\x50\x10DS\x04\x00Zoe ")
    assert damaged != sound
    path.write_bytes(damaged)
    stored, fields = read_stored(path)
    with pytest.raises(DicomError, match=r"^film: WindowCenter: missing or not a finite number; correct the header$"):
        to_tensor(stored, fields)


# -- by pixel, and small ---------------------------------------------------------------------------------------------

WINDOW = {"WindowCenter": 900, "WindowWidth": 1500}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        WINDOW,
        WINDOW | {"VOILUTFunction": "SIGMOID", "PhotometricInterpretation": "MONOCHROME1"},
        WINDOW | {"PixelRepresentation": 1, "RescaleSlope": -0.7, "RescaleIntercept": 3},
        WINDOW | {"PixelPaddingValue": 100, "PixelPaddingRangeLimit": 700},
        {"SamplesPerPixel": 1, "PhotometricInterpretation": "PALETTE COLOR"},
    ],
    ids=["declared", "linear", "sigmoid", "signed", "padding", "palette"],
)
def test_a_pixel_is_the_same_whatever_stands_beside_it(film_header, fields):
    """Up to the crop all is pointwise, in float64, and cast once: no bit depends on the image's own extremes."""
    if fields.get("PhotometricInterpretation") == "PALETTE COLOR":
        fields = fields | palette(range(0, 40000, 10), bits=16)
    header = film_header(BitsStored=12, **fields)
    every = np.arange(4096, dtype=np.int16).reshape(64, 64) - 2048 * fields.get("PixelRepresentation", 0)
    image = film(every, header)
    for part in [np.s_[9:10, 5:6], np.s_[:2, :], np.s_[30:33, 10:60], np.s_[:, ::63]]:
        assert np.array_equal(film(every[part], header), image[part])
    assert len(np.unique(image)) > 900


def test_the_cast_is_the_only_rounding(film_header):
    """Float64 to the end: of 4,096 values, float32 arithmetic would miss hundreds."""
    x = np.arange(4096.0)
    linear = np.clip((x - 899.5) / 1499 + 0.5, 0, 1)
    assert np.array_equal(film([x.astype(int)], film_header(BitsStored=12, **WINDOW))[0], linear.astype(np.float32))


def test_percentiles_are_those_of_what_is_shown(film_header):
    """Text beside an ultrasound image is no part of it."""
    fields = film_header(Modality="US", PixelRepresentation=1, SequenceOfUltrasoundRegions=[region(2, 1, 5, 3)])
    image = film(SCREEN.astype(np.int8), fields, Choices(intensity={"percentiles": [0, 100]}))
    assert (image.min(), image.max()) == (0, 1)


FILM = (np.add.outer(np.arange(3000), np.arange(2400)) * 0.7).astype(np.uint16) % 4096
LARGE = {
    "native": {},
    "big endian": {"syntax": ExplicitVRBigEndian},
    "RLE": {"syntax": uid.RLELossless},
    "JPEG-LS": {"syntax": uid.JPEGLSLossless},
    "mirrored mammogram": {"Modality": "MG", "PatientOrientation": ["P", "F"], "PixelPaddingValue": 7},
    "percentiles": {"Modality": "MR", "PixelPaddingValue": 7},
    "signed": {"Modality": "MR", "PixelRepresentation": 1, "BitsStored": 16, **WINDOW},
}


@pytest.mark.parametrize("kind", LARGE)
def test_a_large_film_takes_at_most_three_times_its_result(tmp_path, write_film, kind):
    """File bytes and stored pixels included; tracemalloc counts Python's bytes and NumPy's arrays."""
    fields = dict(LARGE[kind])
    syntax = uid.UID(fields.pop("syntax", ExplicitVRLittleEndian))
    native = ExplicitVRLittleEndian if syntax.is_encapsulated else syntax
    path = write_film(tmp_path / "film", FILM, native, **{"BitsStored": 12} | fields)
    if syntax.is_encapsulated:
        header = pydicom.dcmread(path)
        header.compress(syntax)
        header.save_as(path)
    choices = Choices(chest_wall="left", intensity={"percentiles": [1, 99]} if kind == "percentiles" else None)
    to_tensor(*read_stored(path), choices)  # what the first call imports is not the film's
    tracemalloc.start()
    image = to_tensor(*read_stored(path), choices)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert image.shape == (1, 3000, 2400)
    assert peak <= 3 * image.nbytes
