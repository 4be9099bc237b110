"""Programs in files: TorchScript, torch.export and ONNX, told apart by content, with what they say of themselves.

Beside the program a file may hold ``metadata.json``, and ``inference.json`` with the preprocessing, as MONAI's
``ckpt_export`` puts them there: extra files of the torch formats, metadata properties of ONNX under the same names.
Programs and configurations execute what they hold, so only files that are trusted may be opened.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export.passes import move_to_device_pass

from .stages import Exported, InBatches, WithoutGradients

CARRIED = ("metadata.json", "inference.json")
"""Files that a program may carry."""

_CONTENTS = {"torch.export": "*/archive_format", "TorchScript": "*/constants.pkl", "weights": "*/data.pkl"}


class ModelError(ValueError):
    """A model that cannot be evaluated, in one line with the cure."""


@dataclass(frozen=True)
class Program:
    """What a file holds.

    Attributes:
        kind: ``TorchScript``, ``torch.export`` or ``ONNX``.
        network: as it was written, held away from mode changes; for batches of any size.
        sha256: of the file.
        carried: name of each file in :data:`CARRIED` that it has -> content.
        shape: (C, *spatial) that it is fixed to; None where it says nothing, or leaves one of these open.
    """

    kind: str
    network: nn.Module
    sha256: str
    carried: Mapping[str, Any] = field(default_factory=dict)
    shape: tuple[int, ...] | None = None

    @property
    def differentiable(self) -> bool:
        """Whether gradients pass through it."""
        return self.kind != "ONNX"


def read_program(path: Path, device: torch.device) -> Program:
    """The program in a file, on a device.

    Raises:
        ModelError: the file is of none of the formats, holds weights alone, or cannot be read.
    """
    kind = _kind_of(path)
    try:
        program, carried, batch = _READERS[kind](path, device)
    except ModelError:
        raise
    except Exception as error:  # each library has errors of its own
        raise ModelError(f"{path.name}: {kind}: cannot be read: {first_line(error)}; export it again") from error
    digest = _digest(path)
    size, *shape = batch
    exported = Exported(program, digest)
    network = InBatches(exported, size) if isinstance(size, int) else exported
    fixed = tuple(shape) if shape and all(isinstance(length, int) for length in shape) else None
    return Program(kind, network, digest.hex(), _parsed(carried, path), fixed)


def first_line(error: BaseException) -> str:
    """What an error says first, in one line; the rest of what libraries say is a trace."""
    lines = [" ".join(line.split()) for line in str(error).splitlines()]
    return next(filter(None, lines), type(error).__name__)[:200].rstrip(".")


def _kind_of(path: Path) -> str:
    if path.suffix.lower() == ".onnx":
        return "ONNX"
    names = zipfile.ZipFile(path).namelist() if zipfile.is_zipfile(path) else []
    kind = next((kind for kind, sign in _CONTENTS.items() if any(fnmatch(name, sign) for name in names)), None)
    if kind is None:
        raise ModelError(f"{path.name}: file: neither TorchScript, torch.export nor ONNX; export the network to one")
    if kind == "weights":
        raise ModelError(f"{path.name}: file: weights without a network; give the bundle or run that they belong to")
    return kind


def _torchscript(path: Path, device: torch.device) -> tuple[nn.Module, Mapping[str, Any], Sequence[Any]]:
    carried = dict.fromkeys(CARRIED, "")  # MONAI's load_net_with_metadata fails where there are none
    return torch.jit.load(str(path), map_location=device, _extra_files=carried), carried, [None]


def _torch_export(path: Path, device: torch.device) -> tuple[nn.Module, Mapping[str, Any], Sequence[Any]]:
    carried = dict.fromkeys(CARRIED, "")
    exported = torch.export.load(str(path), extra_files=carried)
    inputs = exported.graph_signature.user_inputs
    nodes = [node for node in exported.graph.nodes if node.op == "placeholder" and node.name in inputs]
    _refuse_more_than_one(path, [node.name for node in nodes])
    return move_to_device_pass(exported, str(device)).module(), carried, list(nodes[0].meta["val"].shape)


def _onnx(path: Path, device: torch.device) -> tuple[nn.Module, Mapping[str, Any], Sequence[Any]]:
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise ModelError(f"{path.name}: onnxruntime: not installed; pip install 'rtda[onnx]'") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # sums differ in the last bit between thread counts
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    inputs, output = session.get_inputs(), session.get_outputs()[0].name
    _refuse_more_than_one(path, [one.name for one in inputs])
    if inputs[0].type != "tensor(float)":
        raise ModelError(f"{path.name}: input: {inputs[0].type}, not tensor(float); export it in float32")
    network = WithoutGradients(lambda x: session.run([output], {inputs[0].name: x})[0])
    return network, session.get_modelmeta().custom_metadata_map, inputs[0].shape


_READERS = {"TorchScript": _torchscript, "torch.export": _torch_export, "ONNX": _onnx}


def _refuse_more_than_one(path: Path, inputs: Sequence[str]) -> None:
    if len(inputs) != 1:
        raise ModelError(f"{path.name}: inputs: {', '.join(inputs) or 'none'}; export a network of one image tensor")


def _digest(path: Path) -> bytes:
    """SHA-256 of the file, followed by the weights that ONNX may put beside it."""
    digest = hashlib.sha256()
    for part in filter(Path.is_file, (path, path.with_name(f"{path.name}.data"))):
        with part.open("rb") as file:
            hashlib.file_digest(file, lambda: digest)
    return digest.digest()


def _parsed(carried: Mapping[str, Any], path: Path) -> dict[str, Any]:
    found = {}
    for name in CARRIED:
        if text := carried.get(name):
            try:
                found[name] = json.loads(text)
            except ValueError as error:
                raise ModelError(f"{path.name}: {name}: not JSON; export it again") from error
            if not isinstance(found[name], dict):
                raise ModelError(f"{path.name}: {name}: not a JSON object; export it again")
    return found
