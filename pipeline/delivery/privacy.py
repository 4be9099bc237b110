"""What must not travel in a bundle: images, places on somebody's disk, hosts, people.

Paths are not those of :mod:`..provenance`: that hides whatever may be one, and hides too much at no cost; here a good
bundle would be refused.
"""

from __future__ import annotations

import io
import pickletools
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

_PART = r"[^\s/\\'\"`<>|*?:,;()\[\]{}$@]+"
_SOURCE = "py|ya?ml|json|md|txt|conf|cpp|h"  # train.yaml:12 is a line of a file, and no port of a host
_ATTRIBUTE = (
    r"Patient(?:'?s)?[ _-]?(?:Name|ID|Birth[ _-]?(?:Date|Name|Time)|Address|Telephone\w*|Mother\w*)"
    r"|Other[ _-]?Patient[ _-]?(?:ID|Name)\w*|Accession[ _-]?Number|Issuer[ _-]?Of[ _-]?Patient[ _-]?ID"
    r"|(?:Referring|Performing|Requesting)[ _-]?Physician\w*|Operators?[ _-]?Name"
    r"|Institution[ _-]?(?:Name|Address)|Station[ _-]?Name|Device[ _-]?Serial[ _-]?Number"
)
TRACES = {
    "an absolute path": (
        rf"(?<!\bmodels:)(?<!\bruns:)(?<!\b[A-Za-z]:)(?<![\w.)\]}}/*%…-])/{_PART}/{_PART}"
        r"|\bfile:/+\w|(?<![\w.~/])~(?:/[\w.]|[a-z_][\w-]*/[A-Za-z])"
    ),
    "an absolute path of Windows": r"(?<!\w)[A-Za-z]:(?:\\{1,2}|/(?!/))[^\s\\/'\"]",
    "a share of a network": r"(?<!\\)(\\{1,2})\1[\w.-]+\1[\w$]|(?<![\w:/])//[\w.-]+/[\w$]|\b(?:nfs|smb|sftp|ssh)://\w",
    "a host": (
        # 4.7.0.68 is a version: networks below 10 are no hospital's
        r"\blocalhost\b|(?<![\d.])[1-9]\d{1,2}(?:\.\d{1,3}){3}(?!\.?\d)"
        r"|(?<![\w.-])(?:[\w-]+\.)+(?:internal|intranet|lan|local)\b"
        rf"|(?<![\w.-])[A-Za-z][\w-]*(?:\.[\w-]+)*\.(?!(?:{_SOURCE})\b)[A-Za-z]{{2,}}:\d{{2,5}}\b(?!\.\d)"
        r"|//[\w.-]+:\d{2,5}\b|\b[A-Za-z][\w-]*:(?:104|2762|4242|8042|11112)\b(?!\.\d)"
    ),
    "an e-mail address": r"(?<![\w.+-])[\w.+-]+@[\w-]+\.[\w.-]*\w",
    "a UID": r"(?<![\d.])(?!1\.2\.840\.10008\.)[0-2](?:\.\d+){6,}\b",
    "a person's name": r"(?<![\w\\])[^\W\d_]{2,}\^[^\W\d_]{2,}",
    "a patient's attribute": (
        rf"(?i)\b(?:{_ATTRIBUTE})\b[\\'\"]*[ \t]*[:=][ \t\[\\'\"]*(?!(?:null|none|true|false)\b)\w"
    ),
}
"""What is looked for in text, and in what a file of weights says of itself; UIDs of the DICOM standard are nobody's."""
ADDRESS = r"https?://[^\s\"')>\]]+"
MAY_NAME_ADDRESSES = ("LICENSE", "metadata.json", ".md")
IMAGES = {
    "DICOM": [(128, b"DICM"), (0, b"\2\0\0\0UL"), *((0, b"\x08\0%c\0" % element) for element in (5, 8, 0x16))],
    "PNG": [(0, b"\x89PNG")],
    "JPEG": [(0, b"\xff\xd8\xff")],
    "JPEG 2000": [(4, b"jP  "), (0, b"\xff\x4f\xff\x51")],
    "TIFF": [(0, b"II*\0"), (0, b"MM\0*"), (0, b"II+\0"), (0, b"MM\0+")],
    "GIF": [(0, b"GIF8")],
    "gzip": [(0, b"\x1f\x8b")],
    "NIfTI": [(344, b"n+1"), (344, b"ni1"), (4, b"n+2")],
    "NRRD": [(0, b"NRRD")],
    "NumPy": [(0, b"\x93NUMPY")],
}
"""Kind of file that a bundle has none of -> its signs, and where they stand; DICOM also without its preamble."""

_SUFFIX = r"(?<=\+)\s*\\?['\"]{1,2}/[^'\"\n]*"  # $@bundle_root + '/models/model.pt' is as relative as its root
_TENSOR = r"/(?:data|constants)/(?:\d+|(?:weights|constants)/[^/]+)$"
_ESCAPE = r"\\(?:u([\da-fA-F]{4})|x([\da-fA-F]{2}))"  # how JSON and YAML may write what is not ASCII
_BINARY = rb"[\x20-\x7e]{16,}"  # shorter ones stand among numbers by chance


def secrets(root: Path) -> Iterator[str]:
    """What in a bundle's files must not travel, a line each: file, what it is, cure. Values are not repeated.

    Args:
        root: the bundle's folder.
    """
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        name = path.relative_to(root).as_posix()
        try:
            parts = list(_parts("", path.read_bytes()))
        except (zipfile.BadZipFile, zlib.error, RuntimeError, EOFError):  # RuntimeError: it has a password
            yield f"{name}: zip: cannot be looked into; remove it"
            continue
        for inside, content in parts:
            yield from (f"{name}: {told}" for told in _told(name, inside, content))


def _parts(inside: str, content: bytes) -> Iterator[tuple[str, bytes]]:
    """(place within a zip, content) of a file and, where it is a zip, of all that it holds, zips in it included."""
    yield inside, content
    if zipfile.is_zipfile(io.BytesIO(content)):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for name in archive.namelist():
                yield from _parts(name, archive.read(name))


def _told(name: str, inside: str, content: bytes) -> Iterator[str]:
    place = inside.partition("/")[2] or inside
    for kind, signs in IMAGES.items():
        if any(content[start : start + len(sign)] == sign for start, sign in signs):
            yield f"{place and f'{place}: '}{kind}: images and archives do not belong into a bundle; remove it"
    text = _text(inside or name, content)
    for what, pattern in TRACES.items():
        if match := re.search(pattern, text):
            yield f"{place or _line(match)}: {what}; remove it"
    if not name.endswith(MAY_NAME_ADDRESSES) and (match := re.search(ADDRESS, text)):
        yield f"{place or _line(match)}: an address; only docs may name one"


def _line(match: re.Match[str]) -> str:
    return f"line {match.string.count(chr(10), 0, match.start()) + 1}"


def _text(name: str, content: bytes) -> str:
    """What a file says, with the suffixes of paths left out; the strings of a pickle or of another binary file."""
    if zipfile.is_zipfile(io.BytesIO(content)) or re.search(_TENSOR, name):
        return ""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = content.decode("utf-16", "replace")
    elif name.endswith(".pkl"):
        text = _strings(content)
    elif b"\0" in content:
        text = _runs(content)
    else:
        text = content.decode("utf-8", "replace")
    if name.endswith((".json", ".yaml", ".yml")):
        text = re.sub(_ESCAPE, lambda match: chr(int(match[1] or match[2], 16)), text)
    return re.sub(_SUFFIX, lambda match: "\n" * match.group().count("\n"), text)  # lines keep their numbers


def _strings(pickle: bytes) -> str:
    try:
        return "\n".join(value for _, value, _ in pickletools.genops(pickle) if isinstance(value, str))
    except ValueError:  # no pickle, for all its name
        return _runs(pickle)


def _runs(content: bytes) -> str:
    return "\n".join(run.decode() for run in re.findall(_BINARY, content))
