"""What must not travel in a bundle: images, places on somebody's disk, hosts, people."""

from __future__ import annotations

import pickletools
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

PLACES = {
    "an absolute path": r"(?<![\w.:/@$}'-])/(?:data|home|media|mnt|opt|root|scratch|srv|tmp|Users|var|work)/[\w.-]+",
    "an absolute path of Windows": r"\b[A-Za-z]:\\\\?[\w.-]+",
    "a host": r"\blocalhost\b|\b(?:\d{1,3}\.){3}\d{1,3}\b|\b(?:[\w-]+\.)+(?:internal|intranet|lan|local)\b",
    "an e-mail address": r"[\w.+-]+@[\w-]+\.[\w.-]*\w",
    "a UID": r"\b[0-2](?:\.\d+){6,}\b",
}
"""What is looked for in text, and in what a file of weights says of itself."""
ADDRESS = r"https?://[^\s\"')>\]]+"
MAY_NAME_ADDRESSES = ("LICENSE", "metadata.json", ".md")
IMAGES = {
    "DICOM": (128, b"DICM"),
    "PNG": (0, b"\x89PNG"),
    "JPEG": (0, b"\xff\xd8\xff"),
    "gzip": (0, b"\x1f\x8b"),
    "NIfTI": (344, b"n+1"),
}
"""Kind of file that a bundle has none of -> where its sign stands, and the sign."""


def secrets(root: Path) -> Iterator[str]:
    """What in a bundle's files must not travel, a line each: file, what it is, cure. Values are not repeated.

    Args:
        root: the bundle's folder.
    """
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        content, name = path.read_bytes(), path.relative_to(root).as_posix()
        for kind, (place, sign) in IMAGES.items():
            if content[place : place + len(sign)] == sign:
                yield f"{name}: {kind}: images and archives do not belong into a bundle; remove it"
        for inside, text in _texts(path, content):
            for what, pattern in PLACES.items():
                if match := re.search(pattern, text):
                    line = text.count("\n", 0, match.start()) + 1
                    yield f"{name}: {inside or f'line {line}'}: {what}; remove it"
            if not name.endswith(MAY_NAME_ADDRESSES) and (match := re.search(ADDRESS, text)):
                yield f"{name}: line {text.count(chr(10), 0, match.start()) + 1}: an address; only docs may name one"


def _texts(path: Path, content: bytes) -> Iterator[tuple[str, str]]:
    """(member, text) of a text file, or of what a zip of weights holds beside its numbers."""
    if not zipfile.is_zipfile(path):
        yield "", content.decode("utf-8", "replace")
        return
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            inside = name.partition("/")[2] or name
            if name.endswith(".pkl"):
                strings = [value for _, value, _ in pickletools.genops(archive.read(name)) if isinstance(value, str)]
                yield inside, "\n".join(strings)
            elif "/data/" not in name:  # tensors are numbers
                yield inside, archive.read(name).decode("latin-1")
