"""Bundles and runs as folders: finding them by name, reading their YAML. Imports neither torch nor MONAI."""

from __future__ import annotations

import atexit
import copy
import json
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from ..files import write_whole

INSTALLED = Path(__file__).resolve().parents[2] / "bundles"

METADATA = "configs/metadata.json"

ROOT_IDS = {
    "seed": "whole number ≥ 0",
    "image_size": "whole number ≥ 1",
    "radius_224": "number",
    "radius": "number",
    "consistency_weight": "number",
    "trades_weight": "number",
    "learning_rate": "number",
    "max_epochs": "whole number ≥ 1",
    "batch_size": "whole number ≥ 1",
    "num_workers": "whole number ≥ 0",
    "val_interval": "whole number ≥ 1",
    "precision": "text",
    "data_list": "text",
    "dataset_dir": "text",
    "output_dir": "text",
    "run_name": "text",
    "choices": "mapping with _target_",
    "augmentation": "mapping with _target_",
    "attack": "mapping with _target_",
}
"""Ids at the root of every bundle's train.yaml, which a user may set, and what kind of value each takes."""

RECIPE_IDS = ("views", "stack", "supervise", "weight", "divergence")
"""Ids that a recipe sets, all of them and no others."""


PRESET_IDS = ("evaluation_views", "masking_images")
"""Ids of an evaluation preset: its views, and on how many images the gradient-masking checks are run, if at all."""


def as_json(content: Mapping[str, Any]) -> bytes:
    """As bundles have their metadata."""
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


class BundleError(ValueError):
    """A bundle, recipe, run or key that is not there, in one line with the cure."""


def class_names(metadata: Mapping[str, Any]) -> list[str]:
    """Names of the outputs in order, from the metadata's ``channel_def``."""
    try:
        channels = metadata["network_data_format"]["outputs"]["pred"]["channel_def"]
        return [channels[key] for key in sorted(channels, key=int)]
    except (KeyError, TypeError, ValueError) as error:
        place = "metadata.json: network_data_format: outputs: pred: channel_def"
        raise BundleError(f"{place}: missing or not numbered; name the outputs there, from 0") from error


@dataclass(frozen=True)
class Bundle:
    """A folder with ``configs/`` as MONAI defines it."""

    root: Path

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.root.name

    def config(self, name: str) -> Path:
        """Path of ``configs/<name>.yaml``."""
        path = self.root / "configs" / f"{name}.yaml"
        if not path.is_file():
            raise BundleError(f"{self.name}: configs/{name}.yaml: missing; not a bundle of rtda")
        return path

    @cached_property
    def metadata(self) -> dict[str, Any]:
        """``configs/metadata.json``."""
        path = self.root / "configs" / "metadata.json"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise BundleError(f"{self.name}: {METADATA}: missing; restore it") from error
        except ValueError as error:  # UnicodeDecodeError too
            line = f"line {error.lineno}: " if isinstance(error, json.JSONDecodeError) else ""
            raise BundleError(f"{self.name}: {METADATA}: {line}not JSON; correct it") from error
        if not isinstance(content, dict):
            raise BundleError(f"{self.name}: {METADATA}: not a JSON object; correct it")
        return content

    @property
    def classes(self) -> list[str]:
        """Names of the outputs in order; see :func:`class_names`."""
        return class_names(self.metadata)

    def metadata_of(self, listed: Mapping[str, Any]) -> dict[str, Any]:
        """The metadata of what is trained on a data list: its outputs are the list's classes, its data are the list's.

        What the bundle says of its own data does not hold for those of others.

        Args:
            listed: content of the list.

        Raises:
            BundleError: the network has another number of outputs.
        """
        classes = listed["classes"]
        if len(classes) != len(self.classes):
            raise BundleError(
                f"{self.name}: classes: {len(classes)} in the data list, {len(self.classes)} outputs in the bundle; "
                "give a copy of it with another num_classes in its configs and channel_def in its metadata.json"
            )
        content = copy.deepcopy(self.metadata)
        content.pop("rtda", None)  # of the weights that the bundle came with
        content["network_data_format"]["outputs"]["pred"]["channel_def"] = {
            str(label): name for label, name in enumerate(classes)
        }
        content["label_classes"] = ", ".join(f"{label}: {name}" for label, name in enumerate(classes))
        origin = ", ".join(listed[key] for key in ("source", "licence") if listed.get(key))
        if origin == content["data_source"]:
            return content
        for name in ("trained_on", "selection", "sr"):
            content.pop(name, None)
        return content | {
            "task": f"Classification: {', '.join(classes)}",
            "description": f"The network of {self.name}, trained on the data list {listed.get('name')!r}.",
            "data_source": origin or "not stated in the data list",
            "intended_use": "Research only. Not for clinical use.",
        }

    @property
    def files(self) -> dict[str, Path]:
        """Name within the bundle -> path of its own files; weights and outputs beside them are not among these."""
        inside = [path for folder in ("configs", "docs") for path in sorted((self.root / folder).rglob("*"))]
        paths = [path for path in (*inside, self.root / "LICENSE") if path.is_file()]
        return {path.relative_to(self.root).as_posix(): path for path in paths}


@dataclass(frozen=True)
class Run:
    """A run folder: ``config.yaml``, ``bundle/``, ``metrics.jsonl``, ``best.pt``, ``last.pt`` and what came of them."""

    folder: Path

    @property
    def config(self) -> Path:
        """The configuration as it ran: bundle, recipe and options merged."""
        return self.folder / "config.yaml"

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Contents of ``config.yaml``."""
        return read_yaml(self.config)

    @property
    def facts(self) -> dict[str, Any]:
        """What the run says of itself: names of bundle and recipe, version, checksum of the list."""
        facts: dict[str, Any] | None = self.settings.get("rtda")
        if facts is None:
            raise BundleError(f"{self.folder.name}: config.yaml: not of a run; give a folder that rtda train made")
        return facts

    @property
    def bundle(self) -> Bundle:
        """The run's own copy of the bundle that it was trained from; what becomes of the original does not reach it."""
        return Bundle(self.folder / "bundle" / self.facts["bundle"])

    def keep(self, bundle: Bundle, listed: Mapping[str, Any]) -> None:
        """Copy a bundle's own files into the run, as its bundle, with metadata of what is trained on the data list."""
        contents = {name: path.read_bytes() for name, path in bundle.files.items()}
        for name, content in (contents | {METADATA: as_json(bundle.metadata_of(listed))}).items():
            write_whole(self.folder / "bundle" / bundle.name / name, content)


def is_run(path: Path) -> bool:
    """Whether a folder is a run's."""
    return (path / "config.yaml").is_file()


def is_evaluated(path: Path) -> bool:
    """Whether a folder keeps an evaluation of its own: a run's, or one that ``rtda evaluate --model`` has written."""
    return is_run(path) or (path / "metrics.json").is_file()


def find_evaluated(name: str) -> Path:
    """A folder that keeps evaluations; raises :class:`BundleError` if it is none."""
    if not is_evaluated(Path(name)):
        raise BundleError(f"{Path(name).name}: metrics.json: missing, and no run folder; make it with rtda evaluate")
    return Path(name)


def find_run(name: str) -> Run:
    """The run in a folder; raises :class:`BundleError` if it is none."""
    if not is_run(Path(name)):
        raise BundleError(f"{Path(name).name}: config.yaml: missing; not a run folder (rtda train makes one)")
    return Run(Path(name))


def run_of(bundle: Bundle) -> Run | None:
    """The run whose own copy the bundle is; None where it is nobody's."""
    folder = bundle.root.parent.parent
    return Run(folder) if bundle.root.parent.name == "bundle" and is_run(folder) else None


def find_bundle(name: str) -> Bundle:
    """A bundle folder, a run's bundle, a packed zip, else an installed one; else :class:`BundleError` names these."""
    path = Path(name)
    if (path / "configs").is_dir():
        return Bundle(path.resolve())
    if is_run(path):
        return Run(path).bundle
    if path.suffix == ".zip" and path.is_file():
        return Bundle(_unzipped(path))
    if (INSTALLED / name / "configs").is_dir():
        return Bundle(INSTALLED / name)
    if path.is_dir():
        raise BundleError(f"{path.resolve().name}: configs/: missing; give a folder that has it, or a packed zip")
    known = sorted(folder.parent.name for folder in INSTALLED.glob("*/configs"))
    raise BundleError(
        f"{path.name}: bundle: not found; give a bundle folder, a packed zip, or one of {', '.join(known)}"
    )


def _unzipped(path: Path) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="rtda-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    try:
        with zipfile.ZipFile(path) as archive:
            archive.extractall(folder)
    except zipfile.BadZipFile as error:
        raise BundleError(f"{path.name}: not a zip; pack the run again with rtda pack") from error
    roots = [configs.parent for configs in folder.glob("*/configs")]
    if len(roots) != 1:
        raise BundleError(
            f"{path.name}: configs: a packed bundle holds one folder with configs/, this one {len(roots)}"
        )
    return roots[0]


def find_recipe(name: str) -> Path:
    """Path of a recipe overlay: a shipped one by its name, or a YAML file."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else INSTALLED / "recipes" / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in (INSTALLED / "recipes").glob("*.yaml")))
        raise BundleError(f"{Path(name).name}: recipe: not found; choose one of {known}, or give a YAML file")
    _refuse_unknown(path.name, read_yaml(path), RECIPE_IDS)
    return path


def find_views(name: str) -> Path:
    """Path of an evaluation preset: a shipped one by its name, or a YAML file."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else INSTALLED / "views" / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in (INSTALLED / "views").glob("*.yaml")))
        raise BundleError(f"{Path(name).name}: preset: not found; choose one of {known}, or give a YAML file")
    content = read_yaml(path, f"a preset has {' and '.join(PRESET_IDS)}")
    _refuse_unknown(path.name, content, PRESET_IDS)
    return path


def _refuse_unknown(file: str, content: dict[str, Any], known: Iterable[str]) -> None:
    for key in content:
        if key not in known:
            raise BundleError(f"{file}: {key}: unknown key; allowed are {', '.join(known)}")


def read_yaml(path: Path, cure: str = "correct it") -> dict[str, Any]:
    """A YAML mapping; raises :class:`BundleError` naming the file and line."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise BundleError(f"{path.name}: byte {error.start}: not UTF-8; save it as UTF-8 text") from error
    except yaml.YAMLError as error:
        line = getattr(getattr(error, "problem_mark", None), "line", -1) + 1
        raise BundleError(f"{path.name}: line {line}: not YAML; correct it") from error
    if not isinstance(content, dict):
        raise BundleError(f"{path.name}: not a mapping of ids; {cure}")
    return content
