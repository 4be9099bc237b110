"""What a compressed frame says of its own size, before a native decoder sees it.

Some decoders believe the DICOM header and some the stream. Where the two differ, or where the stream's own header is
damaged, GDCM aborts the whole process; and a stream that claims 65,535 × 65,535 pixels gets the memory for them.
"""

from __future__ import annotations

import struct
from typing import NamedTuple


class Size(NamedTuple):
    """Size of a frame; ``bits`` are those of a sample."""

    rows: int
    columns: int
    samples: int
    bits: int

    @property
    def largest(self) -> int:
        """Bits of the largest container that a decoder fills from such samples."""
        return 16 if self.bits <= 16 else 32


def size_of(stream: bytes) -> Size | None:
    """Size that a JPEG, JPEG-LS, JPEG 2000 or HTJ2K stream states; None where it is none of these or damaged.

    Source: ITU-T T.81 B.2.2 (JPEG), T.87 C.2.2 (JPEG-LS), T.800 A.5.1 (JPEG 2000).

    Example:
        >>> size_of(bytes.fromhex("ffd8 ffc0 0011 08 0040 0030 03 012200 021101 031101 ffda"))
        Size(rows=64, columns=48, samples=3, bits=8)
    """
    try:
        return _jpeg(stream) if stream.startswith(b"\xff\xd8") else _jpeg_2000(stream)
    except (struct.error, IndexError):  # it ends too early
        return None


def rle_limit(stream: bytes) -> int:
    """Bytes that an RLE stream, which states no size, can give at most: 128 of two (PS3.5 G.3.1), after its header.

    Example:
        >>> rle_limit(bytes(64 + 2))
        128
    """
    return 64 * max(len(stream) - 64, 0)


def _jpeg(stream: bytes) -> Size | None:
    """From the frame header, SOF0 … SOF15 or SOF55 of JPEG-LS; all segments up to the scan must follow one another."""
    at, size = 2, None
    while stream[at] == 0xFF:
        marker = stream[at + 1]
        if marker == 0xDA:  # start of scan
            return size
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        (length,) = struct.unpack_from(">H", stream, at + 2)
        segment = stream[at + 4 : at + 2 + length]
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            bits, rows, columns, samples = struct.unpack_from(">BHHB", segment)
            size = Size(rows, columns, samples, bits)
        if _unknown(marker, segment):
            return None
        at += 2 + length
    return None


def _unknown(marker: int, segment: bytes) -> bool:
    """JFIF other than version 1, or an Adobe colour transform other than 0, 1 and 2: GDCM aborts on its own warning."""
    jfif = marker == 0xE0 and segment.startswith(b"JFIF\0") and segment[5] != 1
    return jfif or (marker == 0xEE and segment.startswith(b"Adobe") and segment[11] > 2)


def _jpeg_2000(stream: bytes) -> Size | None:
    """SIZ, which follows the start of the code stream at once; the boxes of a JP2 file may stand before it."""
    at = stream.find(b"\xff\x4f\xff\x51")
    if at < 0:
        return None
    right, bottom, left, top = struct.unpack_from(">4I", stream, at + 8)
    samples, bits = struct.unpack_from(">HB", stream, at + 40)
    return Size(bottom - top, right - left, samples, (bits & 0x7F) + 1)
