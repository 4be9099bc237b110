"""Packing a run as a MONAI bundle: the way of weights from a run folder to whoever uses them."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..files import write_whole
from ..handlers import load_checkpoint
from .bundle import Bundle, Run

_EPOCH = (1980, 1, 1, 0, 0, 0)  # zip's first date: the same content gives the same bytes


def pack(run: Run, evidence: Mapping[str, Any], recipe: Path, out: Path) -> Path:
    """Write the bundle of a run with its best weights as one zip, which unzips to one folder and runs elsewhere.

    Args:
        run: the trained and evaluated run.
        evidence: what its evaluation found, stated in the metadata under ``rtda``: threshold and its source, training
            prior, figures, checksums.
        recipe: the recipe overlay, carried as ``configs/recipe.yaml``.
        out: the zip.

    Raises:
        ValueError: the run has no best checkpoint.
    """
    bundle, checkpoint = run.bundle, load_checkpoint(run.folder / "best.pt")
    weights = _weights(checkpoint["model"])
    metadata = bundle.metadata | {"rtda": {**evidence, "weights_file_sha256": hashlib.sha256(weights).hexdigest()}}
    files = _files(bundle) | {
        "configs/metadata.json": json.dumps(metadata, indent=2, ensure_ascii=False).encode(),
        "configs/recipe.yaml": recipe.read_bytes(),
        "models/model.pt": weights,
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in sorted(files.items()):
            entry = zipfile.ZipInfo(f"{bundle.name}/{name}", _EPOCH)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, content)
    return write_whole(out, buffer.getvalue())


def _files(bundle: Bundle) -> dict[str, bytes]:
    """The bundle's own files, without weights of another run."""
    folders = ("configs", "docs")
    paths = [path for folder in folders for path in sorted((bundle.root / folder).rglob("*")) if path.is_file()]
    return {str(path.relative_to(bundle.root)): path.read_bytes() for path in [*paths, bundle.root / "LICENSE"]}


def _weights(state: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save({"model": dict(state)}, buffer)
    return buffer.getvalue()
