"""The checks of a bundle: what the model zoo's CI asks, without a network, and what it does not ask.

Each takes a :class:`Subject` and raises where it fails. Films to run a bundle on are made here, so that no data set is
needed.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser, ConfigWorkflow, ckpt_export, verify_metadata, verify_net_in_out
from monai.transforms import Compose
from PIL import Image
from torch import Tensor

from ..data import lists
from ..evidence.evaluation import weights_checksum
from ..views import plain
from .bundle import INSTALLED, Bundle
from .pack import as_float32
from .privacy import secrets
from .programs import first_line

SCHEMA = INSTALLED / "metadata.schema.json"
REQUIRED = ("LICENSE", "configs/metadata.json", "configs/inference.yaml", "docs/README.md", "models/model.pt")
FILMS = 4  # of each class and split
PIXELS = 96


class FaultError(ValueError):
    """What is wrong with a bundle, in one line: file, field, cure."""


@dataclass(frozen=True)
class Subject:
    """A bundle, and a folder in which it may be run."""

    bundle: Bundle
    scratch: Path

    def file(self, name: str) -> str:
        """Path of a configuration."""
        return str(self.bundle.config(name))

    @cached_property
    def films(self) -> Path:
        """Folder of made films, with a data list of the bundle's classes."""
        folder = self.scratch / "films"
        folder.mkdir(exist_ok=True)
        content: dict[str, Any] = {"name": "made to verify a bundle", "classes": self.bundle.classes}
        for split in lists.SPLITS:
            places = itertools.product(range(len(self.bundle.classes)), range(FILMS))
            content[split] = [_film(folder, split, label, number) for label, number in places]
        self.list.write_text(json.dumps(content))
        return folder

    @property
    def list(self) -> Path:
        """The data list of the made films."""
        return self.scratch / "list.json"

    @cached_property
    def state(self) -> Mapping[str, Tensor]:
        """The weights, read without executing anything; FaultError where that cannot be."""
        try:
            content = torch.load(self.bundle.root / "models/model.pt", map_location="cpu", weights_only=True)
        except Exception as error:  # pickle, zip and runtime errors alike
            raise FaultError(f"models/model.pt: not weights alone: {first_line(error)}; save a state_dict") from error
        if "model" in content:
            raise FaultError("models/model.pt: the state lies under 'model'; save it alone, as ckpt_export reads it")
        state: Mapping[str, Tensor] = content
        return state

    def parser(self, name: str) -> ConfigParser:
        """A configuration with the made films in place of its data."""
        parser = ConfigParser()
        parser.read_config(self.file(name))
        for key, value in self.overrides(parser.config).items():
            parser[key] = value
        return parser

    def overrides(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Root ids of this place, those of them that the configuration has."""
        own = {
            "bundle_root": str(self.bundle.root),
            "dataset_dir": str(self.films),
            "data_list": str(self.list),
            "output_dir": str(self.scratch / "out"),
            "device": "$torch.device('cpu')",
            "precision": "float32",
            **{"batch_size": FILMS, "max_epochs": 1, "val_interval": 1, "num_workers": 0},
        }
        return {name: value for name, value in own.items() if name in config}


def _film(folder: Path, split: str, label: int, number: int) -> dict[str, Any]:
    """A film with black, white and noise, written; its item."""
    name = f"{split}-{label}-{number}.png"
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    pixels = np.random.default_rng(seed).integers(0, 256, (PIXELS, PIXELS)).astype(np.uint8)
    pixels[: PIXELS // 3], pixels[-PIXELS // 3 :] = 0, 255
    Image.fromarray(pixels).save(folder / name)
    return {"image": name, "label": label, "patient_id": name, "image_id": name}


# What the zoo's checks ask


def _files(s: Subject) -> None:
    if missing := [name for name in REQUIRED if not (s.bundle.root / name).is_file()]:
        raise FaultError(f"{missing[0]}: missing; a bundle has {', '.join(REQUIRED)}")


def _changelog(s: Subject) -> None:
    version, changes = s.bundle.metadata.get("version"), s.bundle.metadata.get("changelog", {})
    if version not in changes:
        raise FaultError(f"configs/metadata.json: changelog: nothing of version {version}; say what changed")


def _metadata(s: Subject) -> None:
    try:
        verify_metadata(str(s.bundle.root / "configs/metadata.json"), filepath=str(SCHEMA))
    except Exception as error:
        cause = error.__cause__ or error
        place = getattr(cause, "json_path", "$").removeprefix("$.")
        raise FaultError(f"configs/metadata.json: {place}: {first_line(cause)}") from error


def _network(s: Subject) -> None:
    meta = str(s.bundle.root / "configs/metadata.json")
    verify_net_in_out("network_def", meta_file=meta, config_file=s.file("inference"), device="cpu")


def _train(s: Subject) -> None:
    _properties(s, "train", "train")


def _evaluate(s: Subject) -> None:
    _properties(s, "train", "train", "evaluate")


def _inference(s: Subject) -> None:
    _properties(s, "inference", "inference")


def _properties(s: Subject, kind: str, *names: str) -> None:
    """MONAI's required properties of a workflow; there is none for evaluation, which is an overlay on training."""
    files = [s.file(name) for name in names]
    meta = str(s.bundle.root / "configs/metadata.json")
    options = {"workflow_type": kind, "logging_file": False}
    overrides = s.overrides(s.parser(names[0]).config)
    workflow = ConfigWorkflow(config_file=files, meta_file=meta, **options, **overrides)
    workflow.initialize()
    if wrong := workflow.check_properties():
        raise FaultError(
            f"configs/{names[-1]}.yaml: {', '.join(map(str, wrong))}: not as MONAI's {kind} workflow has it"
        )


def _ckpt_export(s: Subject) -> None:
    ckpt_export(
        net_id="network_def",
        filepath=str(s.scratch / "model.ts"),
        ckpt_file=str(s.bundle.root / "models/model.pt"),
        meta_file=str(s.bundle.root / "configs/metadata.json"),
        config_file=s.file("inference"),
        bundle_root=str(s.bundle.root),
    )


# What they do not ask


def _weights(s: Subject) -> None:
    network = s.parser("inference").get_parsed_content("network_def")
    wanted, given = network.state_dict(), s.state
    if unlike := sorted(set(wanted) ^ set(given)):
        raise FaultError(
            f"models/model.pt: {unlike[0]}: only the {'network' if unlike[0] in wanted else 'file'} has it"
        )
    network.load_state_dict(given)


def _checksums(s: Subject) -> None:
    stated = s.bundle.metadata.get("rtda")
    if stated is None:
        raise FaultError("configs/metadata.json: rtda: missing; rtda pack states what the weights are")
    sums = stated["files_sha256"]
    files = sorted(path for path in (s.bundle.root / "models").iterdir() if path.suffix == ".pt")
    for path in files:
        name = f"models/{path.name}"
        if sums.get(name) != hashlib.sha256(path.read_bytes()).hexdigest():
            raise FaultError(f"{name}: checksum: not that of the metadata; pack the bundle again")
    if absent := sorted(set(sums) - {f"models/{path.name}" for path in files}):
        raise FaultError(f"{absent[0]}: missing, though the metadata state its checksum; pack the bundle again")
    if stated["weights_sha256"] != weights_checksum(as_float32(s.state)):
        raise FaultError("configs/metadata.json: rtda: weights_sha256: its evidence is of other weights; pack it again")


def _classes(s: Subject) -> None:
    metadata, classes = s.bundle.metadata, s.bundle.classes
    pred = metadata["network_data_format"]["outputs"]["pred"]
    if sorted(pred["channel_def"], key=int) != [str(k) for k in range(len(classes))]:
        raise FaultError(
            f"configs/metadata.json: channel_def: {', '.join(pred['channel_def'])}, not 0 to {len(classes) - 1}"
        )
    if len(set(classes)) < len(classes):
        raise FaultError(f"configs/metadata.json: channel_def: {', '.join(classes)}; names must differ")
    network = s.parser("inference").get_parsed_content("network_def").eval()
    outputs = network(_images(s)[:1]).shape[1]
    counts = {
        "channel_def": len(classes),
        "num_channels": pred["num_channels"],
        "spatial_shape": pred["spatial_shape"][-1],
    }
    for field, count in counts.items():
        if count != outputs:
            raise FaultError(f"configs/metadata.json: {field}: {count} classes, but the network has {outputs} outputs")
    said = ", ".join(f"{k}: {name}" for k, name in enumerate(classes))
    if metadata.get("label_classes", said) != said:
        raise FaultError(f"configs/metadata.json: label_classes: {metadata['label_classes']}; channel_def has {said}")
    _classes_of_the_list(s, classes)


def _classes_of_the_list(s: Subject, classes: list[str]) -> None:
    """The bundle's own data list, where it comes with one, names the classes in the same order."""
    parser = ConfigParser()
    parser.read_config(s.file("train"))
    path = Path(parser.get_parsed_content("data_list"))
    if path.is_file() and (own := lists.class_names(path)) != classes:
        raise FaultError(
            f"configs/metadata.json: channel_def: {', '.join(classes)}; its data list has {', '.join(own)}"
        )


def _value_range(s: Subject) -> None:
    """One range: what the metadata state, what both chains give, and within what the attack stays."""
    low, high = s.bundle.metadata["network_data_format"]["inputs"]["image"]["value_range"]
    train = s.parser("train")
    for name, x in (("inference", _images(s)), ("train", _made(s, Compose(train.get_parsed_content("preprocessing"))))):
        ends, near = (float(x.min()), float(x.max())), 0.01 * (high - low)
        if abs(ends[0] - low) > near or abs(ends[1] - high) > near:
            told = f"[{ends[0]:g}, {ends[1]:g}] of films from black to white"
            raise FaultError(f"configs/{name}.yaml: preprocessing: {told}, but value_range is [{low}, {high}]")
    bounds = train.get_parsed_content("attack").bounds
    if tuple(bounds) != (low, high):
        raise FaultError(f"configs/train.yaml: attack: bounds {list(bounds)}, but value_range is [{low}, {high}]")


def _images(s: Subject) -> Tensor:
    return _made(s, s.parser("inference").get_parsed_content("preprocessing"))


def _made(s: Subject, chain: Callable[[Any], Any]) -> Tensor:
    films = s.films  # made before their list can be read
    items = lists.load(s.list, films, "test")
    return torch.stack([plain(torch.as_tensor(chain(dict(item))["image"])) for item in items])


def _private(s: Subject) -> None:
    if found := next(secrets(s.bundle.root), None):
        raise FaultError(found)


def _elsewhere(s: Subject) -> None:
    """Inference by the documented command, in a process of its own, in an empty folder."""
    films, out, empty = s.films, s.scratch / "elsewhere", s.scratch / "empty"
    empty.mkdir(exist_ok=True)
    words = ["--config_file", s.file("inference"), "--bundle_root", str(s.bundle.root.resolve())]
    words += ["--dataset_dir", str(films), "--output_dir", str(out)]
    environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"}
    command = [sys.executable, "-m", "monai.bundle", "run", *words]
    done = subprocess.run(command, cwd=empty, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise FaultError(f"configs/inference.yaml: fails in a process of its own: {last[:200]}")
    rows = [line.split(",") for table in out.rglob("*.csv") for line in table.read_text().splitlines()]
    images = len([path for path in films.iterdir() if path.suffix == ".png"])
    sums = [sum(map(float, row[1:])) for row in rows]
    if len(rows) != images or not np.allclose(sums, 1, atol=1e-4):
        raise FaultError(
            f"configs/inference.yaml: {len(rows)} rows of probabilities for {images} films; check its handlers"
        )


CHECKS: dict[str, Callable[[Subject], None]] = {
    "files": _files,
    "changelog": _changelog,
    "metadata schema": _metadata,
    "weights": _weights,
    "checksums": _checksums,
    "network in and out": _network,
    "training workflow": _train,
    "evaluation workflow": _evaluate,
    "inference workflow": _inference,
    "ckpt_export": _ckpt_export,
    "classes": _classes,
    "value range": _value_range,
    "privacy": _private,
    "inference elsewhere": _elsewhere,
}
"""Name -> check, in the order in which they are shown."""
