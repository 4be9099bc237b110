"""What a compressed frame says of its own size, before a native decoder sees it.

Some decoders believe the DICOM header and some the stream. Where the two differ, GDCM aborts the whole process, and a
stream that claims 65,535 × 65,535 pixels gets the memory for them.
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


def size_of(stream: bytes) -> Size | None:
    """Size that a JPEG, JPEG-LS, JPEG 2000 or HTJ2K stream states; None where it is none of these or damaged.

    Source: ITU-T T.81 B.2.2 (JPEG), T.87 C.2.2 (JPEG-LS), T.800 A.5.1 (JPEG 2000).

    Example:
        >>> size_of(bytes.fromhex("ffd8 ffc0 0011 08 0040 0030 03 012200 021101 031101"))
        Size(rows=64, columns=48, samples=3, bits=8)
    """
    try:
        return _jpeg(stream) if stream.startswith(b"\xff\xd8") else _jpeg_2000(stream)
    except (struct.error, IndexError):  # it ends too early
        return None


def _jpeg(stream: bytes) -> Size | None:
    """Frame header, the first segment with a marker of its kind: SOF0 … SOF15, and SOF55 of JPEG-LS."""
    at = 2
    while stream[at] == 0xFF:
        marker = stream[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        length, bits, rows, columns, samples = struct.unpack_from(">HBHHB", stream, at + 2)
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            return Size(rows, columns, samples, bits)
        at += 2 + length
    return None


def _jpeg_2000(stream: bytes) -> Size | None:
    """SIZ, which follows the start of the code stream at once; the boxes of a JP2 file may stand before it."""
    at = stream.find(b"\xff\x4f\xff\x51")
    if at < 0:
        return None
    right, bottom, left, top = struct.unpack_from(">4I", stream, at + 8)
    samples, bits = struct.unpack_from(">HB", stream, at + 40)
    return Size(bottom - top, right - left, samples, (bits & 0x7F) + 1)
