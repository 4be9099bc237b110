"""Packing a run as a MONAI bundle: the way of weights from a run folder to whoever uses them."""

from __future__ import annotations

import copy
import hashlib
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from ..files import write_whole
from .bundle import METADATA, Run, as_json, read_yaml

_EPOCH = (1980, 1, 1, 0, 0, 0)  # zip's first date: the same content gives the same bytes
_OF_THE_PLACE = ("bundle_root", "dataset_dir", "data_list", "output_dir", "run_name")
_OF_THE_MODEL = ("image_size", "choices", "network_def")


def halved(state: Mapping[str, Any]) -> dict[str, Any]:
    """Weights in float16, half as large; a network that loads them computes in float32 as before.

    Raises:
        ValueError: a weight that float16 cannot hold.

    Example:
        >>> halved({"weight": torch.tensor([0.1]), "steps": torch.tensor(3)})
        {'weight': tensor([0.1000], dtype=torch.float16), 'steps': tensor(3)}
    """
    made = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    for name, value in made.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise ValueError(f"{name}: weight: too large for float16; pack without --half")
    return made


def as_float32(state: Mapping[str, Any]) -> dict[str, Any]:
    """Weights as the network holds them once loaded; what :func:`halved` has rounded stays rounded."""
    return {name: value.float() if value.dtype == torch.float16 else value for name, value in state.items()}


def pack(run: Run, weights: Mapping[str, Mapping[str, Any]], evidence: Mapping[str, Any], out: Path) -> Path:
    """Write the bundle of a run with its weights as one zip, which unzips to one folder and runs elsewhere.

    Its configurations are those that the run was trained with, recipe and options merged; only folders and names of
    that place are the bundle's own again.

    Args:
        run: the trained and evaluated run.
        weights: name below ``models/`` -> state: ``model`` for the bundle's own, and others beside it.
        evidence: what its evaluation found, stated in the metadata under ``rtda``: threshold and its source,
            temperature, training prior and sampling, attack, choices, figures, checksums.
        out: the zip.
    """
    bundle = run.bundle
    models = {f"models/{name}.pt": _file_of(state) for name, state in weights.items()}
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in models.items()}
    files = {name: path.read_bytes() for name, path in bundle.files.items()} | {
        METADATA: as_json(metadata_of(run) | {"rtda": {**evidence, "files_sha256": sums}}),
        "configs/train.yaml": _as_trained(run),
        "configs/inference.yaml": _commented(bundle.config("inference"), inference_config(run)),
        **models,
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in sorted(files.items()):
            entry = zipfile.ZipInfo(f"{bundle.name}/{name}", _EPOCH)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, content)
    return write_whole(out, buffer.getvalue())


def inference_config(run: Run) -> dict[str, Any]:
    """The bundle's inference configuration with image size, choices and network of the run."""
    content = read_yaml(run.bundle.config("inference"))
    return content | {name: run.settings[name] for name in _OF_THE_MODEL if name in run.settings}


def _as_trained(run: Run) -> bytes:
    file = run.bundle.config("train")
    own = read_yaml(file)
    content = {name: value for name, value in run.settings.items() if name != "rtda"}
    return _commented(file, content | {name: own[name] for name in _OF_THE_PLACE})


def _commented(file: Path, content: Mapping[str, Any]) -> bytes:
    """YAML under the comment that heads the file: command, cost, expected figures."""
    head = []
    for line in file.read_text().splitlines(keepends=True):
        if not line.startswith("#"):
            break
        head.append(line)
    return "".join([*head, yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True, width=120)]).encode()


def metadata_of(run: Run) -> dict[str, Any]:
    """The metadata of the run's bundle, with its image size."""
    metadata = copy.deepcopy(run.bundle.metadata)
    image = metadata["network_data_format"]["inputs"]["image"]
    image["spatial_shape"] = [run.settings["image_size"]] * len(image["spatial_shape"])
    return metadata


def _file_of(state: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)  # alone, as MONAI's ckpt_export and the model zoo expect it
    return buffer.getvalue()
