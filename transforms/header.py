"""Fields of a DICOM header, read so that a damaged one is refused by name and nothing is guessed."""

from __future__ import annotations

import logging
import math
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from pydicom import Dataset, config, uid
from pydicom.dataelem import RawDataElement
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.tag import Tag

FRAME_MACROS = (
    *("PixelMeasuresSequence", "PlanePositionSequence", "PlaneOrientationSequence", "FrameAnatomySequence"),
    *("PixelValueTransformationSequence", "FrameVOILUTSequence", "FramePixelDataPropertiesSequence"),
    *("CTImageFrameTypeSequence", "MRImageFrameTypeSequence", "XAXRFFrameCharacteristicsSequence"),
)
"""Functional group macros whose fields mean what the field of that name means in the root (PS3.3 C.7.6.16.2)."""
REPLACED = {
    "PixelValueTransformationSequence": ("ModalityLUTSequence", "RescaleSlope", "RescaleIntercept", "RescaleType"),
    "FrameVOILUTSequence": ("VOILUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction"),
}
"""Macro -> the fields that it replaces as a whole: half a transform of the root beside half of the frame's is none."""


class DicomError(ValueError):
    """A refused DICOM file, as one line ``<basename>: <Field>: <what is wrong; what to do>``."""


class NotAnImage(DicomError):  # noqa: N818 - what it is, not what went wrong
    """A sound DICOM file that holds no picture: a report, plan, directory, segmentation or presentation state."""


def one_line(path: str | Path, field: str, cure: str) -> str:
    """``<basename>: <field>: <cure>`` on one line, without the directory.

    Example:
        >>> one_line("/home/anna/a.dcm", "HighBit", "is 15, not 11")
        'a.dcm: HighBit: is 15, not 11'
    """
    return " ".join(f"{Path(path).name}: {field}: {cure}".split())


def name_of(header: Dataset) -> str:
    """Name of the file that a header was read from."""
    return Path(str(getattr(header, "filename", None) or "dataset")).name


def refuse(header: Dataset, field: str, cure: str) -> DicomError:
    """The error to raise about a field of this header."""
    return DicomError(one_line(name_of(header), field, cure))


def warn(header: Dataset, field: str, cure: str) -> None:
    """Warn of this header, once however many of its frames are read."""
    line, told = one_line(name_of(header), field, cure), _told(header)
    if line not in told:
        told.add(line)
        warnings.warn(line, stacklevel=3)


def _told(header: Dataset) -> set[str]:
    """What was warned of already; as an attribute, because Python's own memory ends with each ``catch_warnings``."""
    told: set[str] = header.__dict__.setdefault("told", set())
    return told


TERMS = frozenset(
    {"ARGB", "CMYK", "HSV", "YBR_PARTIAL_420", "YBR_PARTIAL_422", "LIN OD", "LOG"}
    | {"ED", "EDW", "HU_MOD", "MGML", "OD", "PCT", "US", "Z_EFF"}
)
"""Terms of the standard that we do not read (PS3.3 C.7.6.3.1.2, C.11.1.1.2, C.8.7.1.1.2, C.11.6.1)."""


def quoted(word: str) -> str:
    """A value as it may stand in a message: a term in quotes; anything else could, if misplaced, be a name.

    Example:
        >>> quoted("YBR_PARTIAL_420"), quoted("SMITH ANNA")
        ("'YBR_PARTIAL_420'", 'its value')
    """
    return repr(word) if word in TERMS else "its value"


def uid_name(word: str) -> str:
    """Name of a UID of the standard (PS3.6 annex A), empty for any other text.

    Example:
        >>> uid_name("1.2.840.10008.5.1.4.1.1.2"), uid_name("1.2.3"), uid_name("Anna^Smith")
        ('CT Image Storage', '', '')
    """
    name = _NEWER.get(word, uid.UID(word, config.IGNORE).name)
    return name if name != word else ""


_NEWER = {
    "1.2.840.10008.5.1.4.1.1.66.7": "Label Map Segmentation Storage",
    "1.2.840.10008.5.1.4.1.1.66.8": "Height Map Segmentation Storage",
}
"""Names that pydicom 3.0 does not know (PS3.6 annex A)."""


_QUIET = threading.RLock()
_LOGGER = logging.getLogger("pydicom")


@contextmanager
def quiet() -> Iterator[None]:
    """Silence pydicom: what it warns of and logs quotes values and paths.

    One thread at a time, because filters of warnings and pydicom's settings belong to the process.
    """
    with _QUIET, warnings.catch_warnings(), config.disable_value_validation():
        warnings.simplefilter("ignore")
        before, _LOGGER.disabled = _LOGGER.disabled, True
        try:
            yield
        finally:
            _LOGGER.disabled = before


_tag = cache(Tag)  # the dictionary search takes longer than most fields do


def values(header: Dataset, field: str) -> list[Any]:
    """All values of a field, none where it is absent or empty; pydicom converts here, so here it may fail."""
    tag = _tag(field)
    element = header.get_item(tag, keep_deferred=True)
    if element is None:
        return []
    try:
        if isinstance(element, RawDataElement):  # asked for the first time
            with quiet():
                element = header[tag]
        value = element.value
        if isinstance(value, Sequence):
            return _items(value, getattr(header, "filename", None))
        if value and "Sequence" in field:
            raise TypeError("of another VR")
        if isinstance(value, (MultiValue, list)):
            return [one for one in value if one is not None and one != ""]
    except Exception:  # its text quotes the value: not chained
        raise refuse(header, field, "cannot be read; correct the header") from None
    return [] if value is None or value == "" else [value]


def _items(sequence: Sequence, filename: str | None) -> list[Dataset]:
    """Items of a sequence, each with the name of the file, so that an error about it names that too."""
    items = list(sequence)
    if items and getattr(items[-1], "filename", None) != filename:  # once: there may be thousands, asked for by frame
        for item in items:
            item.filename = filename
    return items


def value(header: Dataset, field: str, item: int = 0) -> Any:
    """One value of a field, by default the first; None where there is none."""
    found = values(header, field)
    return found[item] if item < len(found) else None


def text(header: Dataset, field: str) -> str:
    """The first value as text of single blanks; empty where there is none.

    Example:
        >>> header = Dataset()
        >>> header.BodyPartExamined = "CHEST "
        >>> text(header, "BodyPartExamined"), text(header, "Manufacturer")
        ('CHEST', '')
    """
    return " ".join(str(value(header, field) or "").split())


def number(header: Dataset, field: str, default: float | None = None, item: int = 0) -> float:
    """A finite number; absent: the default, and without one a refusal."""
    found = value(header, field, item)
    try:
        result = float(default if found is None else found)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        result = math.nan
    if not math.isfinite(result):
        raise refuse(header, field, "missing or not a finite number; correct the header")
    return result


def whole(header: Dataset, field: str, default: int | None = None) -> int:
    """A whole number; see :func:`number`."""
    result = number(header, field, default)
    if result != int(result):
        raise refuse(header, field, f"{result:g} is not a whole number; correct the header")
    return int(result)


def numbers(header: Dataset, field: str, count: int) -> tuple[float, ...]:
    """That many finite numbers, or none at all: a fact that is damaged is no fact.

    Example:
        >>> header = Dataset()
        >>> header.PixelSpacing = [0.2, 0.2]
        >>> numbers(header, "PixelSpacing", 2), numbers(header, "ImagerPixelSpacing", 2)
        ((0.2, 0.2), (nan, nan))
    """
    try:
        found = tuple(float(one) for one in values(header, field))
    except (TypeError, ValueError, OverflowError):
        found = ()
    sound = len(found) == count and all(map(math.isfinite, found))
    return found if sound else (math.nan,) * count


def of_frame(header: Dataset, frame: int) -> Dataset:
    """The header as it holds for one frame: per-frame functional groups, then shared ones, then the root; by macro.

    Args:
        header: of the file.
        frame: number of the frame from 0.

    Returns:
        The header itself where it has no functional groups; else a copy without pixels whose root fields are those of
        the frame.

    Raises:
        DicomError: the per-frame sequence does not describe this frame.

    Source: PS3.3 C.7.6.16 (Multi-frame Functional Groups Module).
    """
    shared, each = values(header, "SharedFunctionalGroupsSequence"), values(header, "PerFrameFunctionalGroupsSequence")
    if not shared and not each:
        return header
    if each and frame >= len(each):
        raise refuse(header, "PerFrameFunctionalGroupsSequence", f"has {len(each)} items, none for frame {frame}")
    flat = Dataset({tag: element for tag, element in header.items() if tag not in _HEAVY})
    for group in [*shared[:1], *each[frame : frame + 1]]:
        for macro in FRAME_MACROS:
            for fields in filter(len, values(group, macro)[:1]):
                for field in REPLACED.get(macro, ()):
                    flat.pop(field, None)
                flat.update(fields)
    flat.filename = getattr(header, "filename", None)  # type: ignore[attr-defined]
    flat.told = _told(header)  # type: ignore[attr-defined]
    flat.set_original_encoding(*header.original_encoding)  # the byte order of LUTs
    return flat


_HEAVY = {0x7FE00010, 0x52009229, 0x52009230}  # PixelData and the functional groups themselves
