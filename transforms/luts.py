"""Lookup tables of a DICOM header: Modality LUT, VOI LUT and palettes, as functions of their input.

Source: PS3.3 C.11.1.1 (Modality LUT), C.11.2.1.1 (VOI LUT), C.7.6.3.1.5 and C.7.6.3.1.6 (palettes).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.pixels import apply_color_lut  # type: ignore[attr-defined]  # not in its __all__

from .header import refuse, value, values

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Lut:
    """One item of a Modality or VOI LUT Sequence: entries, the first mapped input, and bits of an entry."""

    entries: Floats
    first: int
    bits: int

    def __call__(self, x: Floats) -> Floats:
        """Entries of inputs; inputs below the first mapped one take the first entry, above the last the last one.

        Example:
            >>> Lut(np.array([0.0, 10.0, 20.0]), first=5, bits=8)(np.array([0.0, 6.0, 99.0]))
            array([ 0., 10., 20.])
        """
        taken: Floats = self.entries[np.clip(np.rint(x) - self.first, 0, len(self.entries) - 1).astype(np.int64)]
        return taken


def read_lut(header: Dataset, field: str, item: int, *, signed: bool) -> Lut:
    """One item of a LUT sequence.

    Args:
        header: of the image.
        field: ``"ModalityLUTSequence"`` or ``"VOILUTSequence"``.
        item: from 0.
        signed: whether inputs may be negative; then the first mapped value is a signed 16-bit number.

    Returns:
        Entries 0 … 2ⁿ − 1 of n bits: modality units, HU in CT, of a Modality LUT; of a VOI LUT without unit.

    Raises:
        DicomError: there is no such item, or descriptor and data disagree.

    Source: PS3.3 C.11.1.1, C.11.2.1.1.

    Example:
        >>> header, item = Dataset(), Dataset()
        >>> item.LUTDescriptor, item.LUTData = [2, 100, 8], [7, 255]
        >>> header.VOILUTSequence = [item]
        >>> read_lut(header, "VOILUTSequence", 0, signed=False)
        Lut(entries=array([  7., 255.]), first=100, bits=8)
    """
    items = values(header, field)
    if item >= len(items):
        raise refuse(header, field, f"has {len(items)} items, not item {item}; name another one")
    return _lut(header, items[item], "LUT", signed=signed)


def read_palette(header: Dataset, *, signed: bool) -> list[Lut]:
    """The tables of red, green and blue of a PALETTE COLOR image.

    Args:
        header: of the image.
        signed: whether stored values may be negative.

    Raises:
        DicomError: there are none, or a descriptor and its data disagree.

    Source: PS3.3 C.7.6.3.1.5 and C.7.6.3.1.6; C.7.9.2 (segmented tables).
    """
    names = [f"{colour}PaletteColorLookupTable" for colour in ("Red", "Green", "Blue")]
    if value(header, f"Segmented{names[0]}Data") is None:
        return [_lut(header, header, name, signed=signed) for name in names]
    count, first, bits = _descriptor(header, header, names[0], signed=signed)
    try:
        if bits == 8 and count > 256:
            raise ValueError("pydicom would take the wrong entries beyond 256")
        inputs = np.arange(count) + values(header, f"{names[0]}Descriptor")[1]
        entries = apply_color_lut(inputs, header).astype(np.float64)
    except Exception as error:  # pydicom raises nearly anything on damaged tables
        cure = f"segments that are not read ({type(error).__name__}); write the table without segments"
        raise refuse(header, f"Segmented{names[0]}Data", cure) from error
    return [Lut(entries[:, colour], first, bits) for colour in range(3)]


def _lut(header: Dataset, holder: Dataset, name: str, *, signed: bool) -> Lut:
    """Table of this name in a header or an item of it. PS3.3 C.11.1.1, C.11.2.1.1, C.7.6.3.1.5 and .6."""
    count, first, bits = _descriptor(header, holder, name, signed=signed)
    data: Any = values(holder, f"{name}Data")
    if len(data) == 1 and isinstance(data[0], bytes):
        data = _words(header, data[0], count, bits)
    if len(data) != count:
        raise refuse(header, f"{name}Data", f"has {len(data)} entries, the descriptor says {count}; correct the header")
    try:
        entries = np.array(data, np.float64) % 65536  # US read as SS would be negative
    except (TypeError, ValueError):
        raise refuse(header, f"{name}Data", "is not of numbers; correct the header") from None
    if not (entries <= 2**bits - 1).all():
        raise refuse(header, f"{name}Data", f"exceeds its {bits} bits; correct the header")
    return Lut(entries, first, bits)


def _descriptor(header: Dataset, holder: Dataset, name: str, *, signed: bool) -> tuple[int, int, int]:
    """Count of entries, first mapped value, bits of an entry. PS3.3 C.11.1.1.1, C.7.6.3.1.5."""
    field = f"{name}Descriptor"
    try:
        count, first, bits = (int(one) for one in values(holder, field))
    except (TypeError, ValueError, OverflowError):
        raise refuse(header, field, "is not three whole numbers; correct the header") from None
    if not 1 <= bits <= 16:
        raise refuse(header, field, f"states entries of {bits} bits; only 1 to 16 exist, correct the header")
    count = count % 65536 or 65536  # 0 means 65,536; some writers say it as a signed number
    return count, (first + 32768) % 65536 - 32768 if signed else first % 65536, bits


def _words(header: Dataset, data: bytes, count: int, bits: int) -> npt.NDArray[np.integer[Any]]:
    """Entries of an OW: words in the file's byte order; 8-bit ones may lie in pairs, the first in the low byte.

    Source: PS3.5 section 6.2 (VR OW) and 7.3; PS3.3 C.7.6.3.1.6.
    """
    little = getattr(header, "original_encoding", (None, True))[1] is not False
    words = np.frombuffer(data + b"\0" * (len(data) % 2), "<u2" if little else ">u2")
    pairs = bits <= 8 and len(words) == (count + 1) // 2
    return words.astype("<u2").view(np.uint8)[:count] if pairs else words
