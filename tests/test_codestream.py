"""The size that a compressed frame states, against real streams, and damaged ones."""

import struct
from pathlib import Path

import pydicom
import pydicom.data
import pytest
from rtda.transforms.codestream import Size, size_of

WHEEL = Path(pydicom.data.__file__).parent / "test_files"
SOF = struct.pack(">HHBHHB", 0xFFC0, 11, 8, 64, 48, 1) + b"\x01\x11\x00"
SOS = b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00"


def jpeg(*segments: bytes) -> bytes:
    return b"\xff\xd8" + b"".join(segments)


@pytest.mark.parametrize(
    "name",
    [
        *("SC_rgb_jpeg_gdcm.dcm", "SC_rgb_jpeg_dcmtk.dcm", "JPGExtended.dcm", "MR_small_jpeg_ls_lossless.dcm"),
        *("JPEGLSNearLossless_08.dcm", "JPEG2000.dcm", "GDCMJ2K_TextGBR.dcm", "SC_rgb_gdcm_KY.dcm"),
    ],
)
def test_a_sound_stream_states_what_the_header_says(name):
    header = pydicom.dcmread(WHEEL / name)
    size = size_of(pydicom.encaps.get_frame(header.PixelData, 0, number_of_frames=1))
    assert size[:3] == (header.Rows, header.Columns, header.SamplesPerPixel)
    assert header.BitsStored <= size.bits <= header.BitsAllocated


def test_size_of_a_generated_stream():
    assert size_of(jpeg(SOF, SOS)) == Size(rows=64, columns=48, samples=1, bits=8)


def test_fill_bytes_and_segments_before_the_frame_header_are_passed_over():
    segment = b"\xff\xfe\x00\x06text"
    assert size_of(jpeg(segment, b"\xff", SOF, SOS)) == Size(64, 48, 1, 8)


def test_huffman_tables_are_no_frame_header():
    table = struct.pack(">HHBHHB", 0xFFC4, 11, 0, 1, 1, 1) + bytes(3)
    assert size_of(jpeg(table, SOF, SOS)) == Size(64, 48, 1, 8)


@pytest.mark.parametrize(
    "stream",
    [
        b"",
        b"\xff\xd8",
        b"not a stream",
        jpeg(SOS),
        jpeg(SOF),
        jpeg(SOF[:-6]),
        jpeg(SOF, b"\x00\x01", SOS),
        jpeg(b"\xff\xe0\x00\x10JFIF\0\x20\x01\0\0\x01\0\x01\0\0", SOF, SOS),
        jpeg(b"\xff\xee\x00\x0eAdobe\0\x64\0\0\0\0\x07", SOF, SOS),
        b"\xff\x4f\xff\x51\x00\x2f",
    ],
    ids=[
        *("empty", "only a start", "text", "no frame header", "no scan", "cut", "bytes between segments"),
        *("JFIF 32", "Adobe transform 7", "JPEG 2000 cut"),
    ],
)
def test_a_damaged_stream_states_nothing(stream):
    assert size_of(stream) is None


def test_jpeg_2000_by_its_reference_grid_and_offset():
    siz = struct.pack(">HHH8IHBBB", 0xFF51, 41, 0, 110, 70, 10, 6, 110, 70, 0, 0, 1, 0x8B, 1, 1)
    assert size_of(b"\xff\x4f" + siz) == Size(rows=64, columns=100, samples=1, bits=12)


def test_jpeg_2000_inside_the_boxes_of_a_file():
    siz = struct.pack(">HHH8IHBBB", 0xFF51, 41, 0, 100, 64, 0, 0, 100, 64, 0, 0, 1, 7, 1, 1)
    assert size_of(b"\0\0\0\x0cjP  \r\n\x87\n" + b"\xff\x4f" + siz) == Size(64, 100, 1, 8)


@pytest.mark.parametrize(("bits", "largest"), [(8, 16), (16, 16), (17, 32)])
def test_the_largest_container_of_a_sample(bits, largest):
    assert Size(1, 1, 1, bits).largest == largest
