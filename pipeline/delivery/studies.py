"""A folder of DICOM as studies: files opened by their content, and what may be told of their headers.

A header may hold a person's name anywhere, so nothing of it is told but what has the form that its field asks for.
"""

from __future__ import annotations

import hashlib
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread
from pydicom.multival import MultiValue
from pydicom.uid import UID

from .infer import Answer, found
from .structured_report import REQUIRED

DONE, REFUSED, FAILED = 0, 3, 1
"""Exit status, each worse than the one before: all done; images were left out, and that is all; something could not be
read, is inconsistent, or there is nothing."""
SIGNS = ("SOPClassUID", "Modality", "BitsAllocated")
"""Fields of which a DICOM file without preamble has one; the same as ``rtda.transforms.stored.looks_like_dicom``."""
STATED = {
    "LossyImageCompression": "00|01",
    "LossyImageCompressionRatio": r"[0-9]{1,8}(\.[0-9]{1,8})?",
    "LossyImageCompressionMethod": "ISO_[0-9_]{1,12}",
    "BurnedInAnnotation": "YES|NO",
}
"""Field that is told of each image -> the terms that the standard has for it (PS3.3 C.7.6.1.1.5, C.7.6.1.1.1)."""


@contextmanager
def silent() -> Iterator[None]:
    """Keep pydicom and highdicom from the terminal: what they warn of and log quotes values of headers."""
    loggers = [logging.getLogger(name) for name in ("pydicom", "highdicom")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.CRITICAL + 1)  # of their children too, which `disabled` would not reach
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def worst(*statuses: int) -> int:
    """The worst exit status: a failure is told before a refusal.

    Example:
        >>> worst(DONE, FAILED, REFUSED), worst(DONE, REFUSED)
        (1, 3)
    """
    return max(statuses, key=(DONE, REFUSED, FAILED).index)


def values(header: Dataset, name: str) -> list[str]:
    """Values of a field as text without blanks around; none where it is absent, empty or cannot be read."""
    try:
        value = header.get(name)
    except Exception:  # pydicom converts here, and its errors quote the value
        return []
    several = value if isinstance(value, MultiValue) else [value]
    return [text for one in several if one is not None and (text := str(one).strip())]


def uid(header: Dataset, name: str) -> str:
    """A UID that may be shown and name a file: digits and dots, at most 64 characters; else empty.

    Wider than PS3.5 section 9.1: zeros before a number and roots that nobody owns are common, and must be carried over.

    Example:
        >>> header = Dataset()
        >>> header.StudyInstanceUID, header.SOPInstanceUID = "1.2.840.9", "840"
        >>> uid(header, "StudyInstanceUID"), uid(header, "SOPInstanceUID"), uid(header, "SeriesInstanceUID")
        ('1.2.840.9', '', '')
    """
    word = "\\".join(values(header, name))
    return word if len(word) <= 64 and re.fullmatch(r"[0-9]+(\.[0-9]+)+", word) else ""


@dataclass(frozen=True)
class File:
    """One file of the input: its header, empty where that is damaged, and a mark that says nothing."""

    path: Path
    mark: str
    header: Dataset

    @property
    def name(self) -> str:
        """SOP instance UID, or what stands for it."""
        return uid(self.header, "SOPInstanceUID") or self.mark

    @property
    def taken(self) -> tuple[str, str, int, str]:
        """Day, time and number, by which images are sorted."""
        day, time = (
            "".join(values(self.header, f"Acquisition{what}") or values(self.header, f"Content{what}"))
            for what in ("Date", "Time")
        )
        number = "".join(values(self.header, "InstanceNumber"))
        return day, time, int(number) if number.isdecimal() else 0, self.name

    @property
    def other(self) -> str:
        """What the file is where it is no image, in the standard's words (PS3.6 annex A); empty of an image.

        A file whose header was cut before its SOP class counts as an image, so that it is not left out unnoticed.
        """
        meta = getattr(self.header, "file_meta", Dataset())
        kind = uid(self.header, "SOPClassUID") or uid(meta, "MediaStorageSOPClassUID")
        known = UID(kind).name
        if known != kind:
            return "" if "Image Storage" in known else known
        return "private, without pixels" if kind and "Rows" not in self.header else ""

    @property
    def stated(self) -> dict[str, str]:
        """Compression and burnt-in text as the header states them; ``other`` instead of what is no term for it."""
        return {
            name: ", ".join(one if re.fullmatch(term, one) else "other" for one in values(self.header, name))
            for name, term in STATED.items()
            if name in self.header
        }


@dataclass
class Study:
    """The files of one study, and what became of each."""

    name: str
    files: list[File] = field(default_factory=list)
    chosen: list[tuple[File, int | None, Answer]] = field(default_factory=list)
    rejected: list[dict[str, Any]] = field(default_factory=list)
    status: int = DONE

    def reject(self, file: File, why: str, status: int = DONE) -> None:
        """Leave a file out, and say why; the study has the worst status of its files."""
        self.rejected.append({"image": file.name, "reason": why})
        self.status = worst(self.status, status)

    def images(self) -> Iterator[File]:
        """The images that a report could refer to; every other file is rejected."""
        of_patients = _fault_of_patients({"".join(values(file.header, "PatientID")) for file in self.files})
        for file in self.files:
            lacking = next((name for name in REQUIRED if not uid(file.header, name)), "")
            if file.other:
                self.reject(file, f"no image: {file.other}")
            elif lacking:
                cure = "correct it at the source, or get a new copy if the file is cut"
                self.reject(file, f"{lacking}: missing, or no UID; {cure}", FAILED)
            elif of_patients:
                self.reject(file, of_patients, FAILED)
            else:
                yield file


def _fault_of_patients(stated: set[str]) -> str:
    """What is wrong with the PatientIDs of one study; empty where there is one, or none at all."""
    if len(stated - {""}) > 1:
        return "PatientID: several within one study; correct them at the source"
    return "PatientID: missing in some files of the study; complete it at the source" if len(stated) > 1 else ""


def grouped(folder: Path) -> tuple[list[Study], int]:
    """The studies below a folder by their UIDs, and how many files are not DICOM.

    A file without a StudyInstanceUID, or with a damaged header, is a study of its own, named by a hash of its path.
    """
    studies: dict[str, Study] = {}
    foreign = 0
    for path in found([str(folder)]):
        header = _header(path)
        if header is None:
            foreign += 1
            continue
        mark = hashlib.sha256(str(path.relative_to(folder)).encode(errors="surrogateescape")).hexdigest()[:16]
        name = uid(header, "StudyInstanceUID") or f"without-uid-{mark}"
        studies.setdefault(name, Study(name)).files.append(File(path, mark, header))
    return [studies[name] for name in sorted(studies)], foreign


def _header(path: Path) -> Dataset | None:
    """All of a file before its pixels, with or without preamble; empty where it is damaged, None if not of DICOM."""
    try:
        content = path.read_bytes()  # of a file on a disk, pydicom would allocate whatever its header claims
    except OSError:
        return Dataset()
    preamble = content[128:132] == b"DICM"  # PS3.10 section 7.1
    try:
        header = dcmread(BytesIO(content), force=True, stop_before_pixels=True)
    except Exception:  # damaged headers raise nearly anything, and so does what is not DICOM
        return Dataset() if preamble else None
    header.buffer = None  # or it would keep the pixels
    return header if preamble or any(name in header for name in SIGNS) else None
