"""A packed bundle as a MONAI Deploy application: its model, three files of code, and this package's own wheel.

The code that reads, chooses, predicts and reports is not copied but imported from the wheel beside it, as that is on
no index.
"""

from __future__ import annotations

import base64
import hashlib
import importlib
import io
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from importlib.metadata import distribution
from pathlib import Path, PurePosixPath
from string import Template
from typing import Any

from ..files import write_whole
from .application import reporter, selection
from .bundle import Bundle, BundleError, Run
from .export import export
from .infer import Classifier
from .structured_report import CLASSES

TEMPLATES = Path(__file__).parent / "deployed"
PACKAGES = ("pipeline", "transforms", "bundles", "data_lists")
LEFT_OUT = ("bundles/*/models/*", "data_lists/*.json")
"""Megabytes of the wheel that an application, which brings its own model, has no use for."""
EPOCH = (1980, 1, 1, 0, 0, 0)  # zip's first date: the same content gives the same bytes


def deploy(source: Bundle | Run, out: Path, sr_class: str = CLASSES[0]) -> Path:
    """Write the application of a bundle.

    Args:
        source: packed, with codes of a structured report in its metadata.
        out: folder to write; refused where it holds something.
        sr_class: of the reports that the application writes, one of ``structured_report.CLASSES``.

    Raises:
        BundleError: the folder is not empty; highdicom is not installed.
        ReportError: the metadata have no codes, or an unknown rule of selection.
    """
    if out.exists() and any(out.iterdir()):
        raise BundleError(f"{out.name}: output: not empty; give a new folder")
    try:
        importlib.import_module("highdicom")
    except ModuleNotFoundError as error:
        raise BundleError("deploy: highdicom: not installed; pip install 'rtda[deploy]'") from error
    program, metadata = _exported(source)
    by, _ = reporter(metadata), selection(metadata)
    wheel, content = package_wheel()
    facts = {"title": by.name, "version": by.version, "weights": by.weights[:16], "wheel": wheel, "sr_class": sr_class}
    files = {"model/model.ts": program, wheel: content, **_texts(facts)}
    for name, written in files.items():  # last: what is refused leaves nothing
        write_whole(out / name, written)
    return out


def _exported(source: Bundle | Run) -> tuple[bytes, Mapping[str, Any]]:
    """The model's file, and the metadata that it carries."""
    with tempfile.TemporaryDirectory() as folder:
        path = export(source, "ts", Path(folder) / "model.ts")
        return path.read_bytes(), Classifier.of_program(path).metadata


def _texts(facts: Mapping[str, str]) -> dict[str, bytes]:
    """Name within the application, and content, of each file that is made of a template."""
    templates = {path.relative_to(TEMPLATES).with_suffix(""): path for path in sorted(TEMPLATES.rglob("*.txt"))}
    return {
        name.as_posix(): Template(path.read_text(encoding="utf-8")).substitute(facts).encode()
        for name, path in templates.items()
    }


def package_wheel() -> tuple[str, bytes]:
    """Name and bytes of a wheel of this very package, as it is installed here, editable or not (PEP 427)."""
    own = distribution("rtda")
    info = f"rtda-{own.version}.dist-info"
    files = dict(_modules())
    told = {name: own.read_text(name) or "" for name in ("METADATA", "PKG-INFO", "entry_points.txt")}
    files[f"{info}/METADATA"] = (told["METADATA"] or told["PKG-INFO"]).encode()  # which a checkout's egg-info has
    files[f"{info}/entry_points.txt"] = told["entry_points.txt"].encode()
    files[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: rtda\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    lines = [f"{name},sha256={_digest(content)},{len(content)}" for name, content in files.items()]
    files[f"{info}/RECORD"] = "\n".join([*lines, f"{info}/RECORD,,", ""]).encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, content)
    return f"rtda-{own.version}-py3-none-any.whl", buffer.getvalue()


def _modules() -> Iterator[tuple[str, bytes]]:
    """Name within the wheel, and content, of every file of the packages that an application may need."""
    for package in PACKAGES:
        (folder, *_) = importlib.import_module(f"rtda.{package}").__path__
        for path in sorted(Path(folder).rglob("*")):
            name = PurePosixPath(package, path.relative_to(folder).as_posix())
            left_out = "__pycache__" in name.parts or any(map(name.match, LEFT_OUT))
            if path.is_file() and not left_out:
                yield f"rtda/{name}", path.read_bytes()


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
