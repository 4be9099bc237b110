"""The checks of a bundle: what the model zoo's CI asks, without a network, and what it does not ask.

Each takes a :class:`Subject` and raises where it fails. Films to run a bundle on are made here, so that no data set is
needed.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
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
from torch import Tensor, nn

from ..data import lists
from ..evidence.evaluation import weights_checksum
from ..views import plain
from .bundle import INSTALLED, METADATA, Bundle, read_yaml
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
        """Path of a configuration; BundleError names the line that is not YAML."""
        path = self.bundle.config(name)
        read_yaml(path)
        return str(path)

    @property
    def meta(self) -> str:
        """Path of the metadata; BundleError where they are not JSON, of which MONAI's own errors name no file."""
        self.stated()
        return str(self.bundle.root / METADATA)

    def stated(self, *names: str) -> Any:
        """What the metadata state under names, each within the one before; FaultError where one is missing."""
        value: Any = self.bundle.metadata
        for depth, name in enumerate(names, 1):
            if not isinstance(value, Mapping) or name not in value:
                raise FaultError(f"{METADATA}: {': '.join(names[:depth])}: missing; state it")
            value = value[name]
        return value

    def weights(self) -> Path:
        """The file of weights; FaultError where there is none."""
        path = self.bundle.root / "models/model.pt"
        if not path.is_file():
            raise FaultError("models/model.pt: missing; put the weights there, or pack a run: rtda pack RUN -o ZIP")
        return path

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
        file = self.weights()
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # pickle, zip and runtime errors alike
            told = brief(self, first_line(error))
            raise FaultError(f"models/model.pt: not weights alone: {told}; save a state_dict") from error
        if not isinstance(content, Mapping):
            raise FaultError(f"models/model.pt: {type(content).__name__}, no state of a network; save a state_dict")
        if "model" in content:
            raise FaultError("models/model.pt: the state lies under 'model'; save it alone, as ckpt_export reads it")
        state: Mapping[str, Tensor] = content
        return state

    def network(self) -> nn.Module:
        """The network as the inference configuration has it; FaultError where it cannot be made."""
        parser = self.parser("inference")
        try:
            network: nn.Module = parser.get_parsed_content("network_def")
        except Exception as error:  # whatever its components raise
            told = what(self, cause_of(error))
            raise FaultError(f"configs/inference.yaml: network_def: cannot be made: {told}; correct it") from error
        return network

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


def ours(error: BaseException) -> bool:
    """Whether an error is of one of this project's kinds, whose messages name file, field and cure."""
    return type(error).__module__.startswith("rtda.")


def cause_of(error: BaseException) -> BaseException:
    """The first cause, or the first error of ours on the way to it: MONAI wraps whatever a component raises."""
    while error.__cause__ is not None and not ours(error):
        error = error.__cause__
    return error


def what(s: Subject, error: BaseException) -> str:
    """What an error is and says, in one line; that of ours says enough."""
    return str(error) if ours(error) else f"{type(error).__name__}: {brief(s, first_line(error))}"


def brief(s: Subject, text: str) -> str:
    """What a library says, with files named within the bundle, and others without the folders that they lie in."""
    for folder in (s.bundle.root, s.bundle.root.resolve(), s.scratch):
        text = text.replace(f"{folder}/", "")
    return re.sub(r"(?<![\w.:/])/(?:[^\s/'\"]+/)+", "", text)


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
        raise FaultError(f"{METADATA}: changelog: nothing of version {version}; say what changed")


def _metadata(s: Subject) -> None:
    meta = s.meta
    try:
        verify_metadata(meta, filepath=str(SCHEMA))
    except Exception as error:
        cause = error.__cause__ or error
        place = getattr(cause, "json_path", "$").removeprefix("$.")
        raise FaultError(f"{METADATA}: {place}: {brief(s, first_line(cause))}; correct it") from error


def _network(s: Subject) -> None:
    s.network()  # else its fault is told as one of the metadata
    verify_net_in_out("network_def", meta_file=s.meta, config_file=s.file("inference"), device="cpu")


def _train(s: Subject) -> None:
    _properties(s, "train", "train")


def _evaluate(s: Subject) -> None:
    _properties(s, "train", "train", "evaluate")


def _inference(s: Subject) -> None:
    _properties(s, "inference", "inference")


def _properties(s: Subject, kind: str, *names: str) -> None:
    """MONAI's required properties of a workflow; there is none for evaluation, which is an overlay on training."""
    files = [s.file(name) for name in names]
    options = {"workflow_type": kind, "logging_file": False}
    overrides = s.overrides(s.parser(names[0]).config)
    workflow = ConfigWorkflow(config_file=files, meta_file=s.meta, **options, **overrides)
    workflow.initialize()
    if wrong := workflow.check_properties():
        raise FaultError(
            f"configs/{names[-1]}.yaml: {', '.join(map(str, wrong))}: not as MONAI's {kind} workflow has it; add it"
        )


def _ckpt_export(s: Subject) -> None:
    _weights(s)  # else torch's errors tell what is wrong with them, and name no file
    ckpt_export(
        net_id="network_def",
        filepath=str(s.scratch / "model.ts"),
        ckpt_file=str(s.weights()),
        meta_file=s.meta,
        config_file=s.file("inference"),
        bundle_root=str(s.bundle.root),
    )


# What they do not ask

PRED = ("network_data_format", "outputs", "pred")
OTHERS = "give the weights of configs/inference.yaml's network_def"


def _weights(s: Subject) -> None:
    given = s.state
    network = s.network()
    wanted = network.state_dict()
    if unlike := sorted(set(wanted) ^ set(given)):
        raise FaultError(
            f"models/model.pt: {unlike[0]}: only the {'network' if unlike[0] in wanted else 'file'} has it; {OTHERS}"
        )
    for name, value in wanted.items():
        if given[name].shape != value.shape:
            shapes = f"{list(given[name].shape)}, and {list(value.shape)} in the network"
            raise FaultError(f"models/model.pt: {name}: {shapes}; {OTHERS}")
    network.load_state_dict(given)


def _checksums(s: Subject) -> None:
    stated = s.bundle.metadata.get("rtda")
    if stated is None:
        raise FaultError("configs/metadata.json: rtda: missing; rtda pack states what the weights are")
    sums = s.stated("rtda", "files_sha256")
    files = sorted((s.bundle.root / "models").glob("*.pt"))
    for path in files:
        name = f"models/{path.name}"
        if sums.get(name) != hashlib.sha256(path.read_bytes()).hexdigest():
            raise FaultError(f"{name}: checksum: not that of the metadata; pack the bundle again")
    if absent := sorted(set(sums) - {f"models/{path.name}" for path in files}):
        raise FaultError(f"{absent[0]}: missing, though the metadata state its checksum; pack the bundle again")
    if s.stated("rtda", "weights_sha256") != weights_checksum(as_float32(s.state)):
        raise FaultError("configs/metadata.json: rtda: weights_sha256: its evidence is of other weights; pack it again")


def _classes(s: Subject) -> None:
    metadata, classes = s.bundle.metadata, s.bundle.classes
    pred = s.stated(*PRED)
    if sorted(pred["channel_def"], key=int) != [str(k) for k in range(len(classes))]:
        raise FaultError(
            f"configs/metadata.json: channel_def: {', '.join(pred['channel_def'])}, not 0 to {len(classes) - 1}"
        )
    if len(set(classes)) < len(classes):
        raise FaultError(f"configs/metadata.json: channel_def: {', '.join(classes)}; names must differ")
    network = s.network().eval()
    outputs = network(_images(s)[:1]).shape[1]
    counts = {
        "channel_def": len(classes),
        "num_channels": s.stated(*PRED, "num_channels"),
        "spatial_shape": s.stated(*PRED, "spatial_shape")[-1],
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
    low, high = s.stated("network_data_format", "inputs", "image", "value_range")
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
    if found := list(secrets(s.bundle.root)):
        raise FaultError(found[0] + (f"; after it, {len(found) - 1} more" if found[1:] else ""))


def _elsewhere(s: Subject) -> None:
    """Inference by the documented command, in a process of its own, in an empty folder."""
    films, out, empty = s.films, s.scratch / "elsewhere", s.scratch / "empty"
    empty.mkdir(exist_ok=True)
    s.weights()  # else MONAI takes its seconds to miss them
    file, root = Path(s.file("inference")).resolve(), s.bundle.root.resolve()
    words = ["--config_file", str(file), "--bundle_root", str(root)]
    words += ["--dataset_dir", str(films), "--output_dir", str(out)]
    environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"}
    command = [sys.executable, "-m", "monai.bundle", "run", *words]
    done = subprocess.run(command, cwd=empty, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        told = brief(s, raised(done.stderr) or f"exit status {done.returncode}")[:200].rstrip(". ")
        raise FaultError(f"configs/inference.yaml: fails in a process of its own: {told}; correct it")
    rows = [line.split(",") for table in out.rglob("*.csv") for line in table.read_text().splitlines()]
    images = len([path for path in films.iterdir() if path.suffix == ".png"])
    sums = [sum(map(float, row[1:])) for row in rows]
    if len(rows) != images or not np.allclose(sums, 1, atol=1e-4):
        raise FaultError(
            f"configs/inference.yaml: {len(rows)} rows of probabilities for {images} films; check its handlers"
        )


def raised(stderr: str) -> str:
    """The error that ended a process: the first cause of the last one, which MONAI wraps; empty where there is none.

    Example:
        >>> first = "Traceback (most recent call last):\\n  File 'a.py', line 1\\nKeyError: 'image'\\n"
        >>> link = "\\nThe above exception was the direct cause of the following exception:\\n\\n"
        >>> raised(first + link + first.replace("KeyError: 'image'", "RuntimeError: Failed to evaluate") + "more\\n")
        "KeyError: 'image'"
    """
    last = stderr.rpartition("During handling of the above exception, another exception occurred:")[2]
    found = re.search(r"^Traceback \(most recent call last\):\n(?:[ \t].*\n)+(\S.*)", last, re.MULTILINE)
    return found.group(1) if found else ""


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
ABOUT = {
    "metadata schema": METADATA,
    "checksums": f"{METADATA}: rtda",
    "network in and out": f"{METADATA}: network_data_format",
    "training workflow": "configs/train.yaml",
    "evaluation workflow": "configs/train.yaml with configs/evaluate.yaml",
    "ckpt_export": "configs/inference.yaml: network_def",
    "classes": f"{METADATA}: network_data_format: outputs",
    "value range": "configs/train.yaml or configs/inference.yaml: preprocessing",
}
"""Name -> file and field that a check is about, told where MONAI or torch raise errors of their own."""
