"""Any classifier as one value: what ``rtda evaluate --model M`` evaluates, whoever trained it.

M is a bundle (folder, zip, installed name), a run folder, a TorchScript, torch.export or ONNX file, or
``module:function``, whose function takes no arguments and returns the network, an ``nn.Module`` or any callable of a
tensor. The network that comes of it takes images in [0, 1] and gives a logit for each class; where preprocessing ends
in a normalisation, that stands in front of the network. :mod:`.probe` checks all this on images before long work
begins.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import nn

from ..evidence.evaluation import weights_checksum
from ..views import seen
from .bundle import Bundle, Run, find_bundle, find_run, is_run
from .loaded import LoadedModel, Stated, assembled
from .pack import inference_config
from .programs import ModelError, first_line, read_program
from .stages import Called

PROGRAMS = (".onnx", ".pt", ".pt2", ".pth", ".ts")
"""Endings of files that hold a program; which one, their content tells."""


def load_model(
    name: str, stated: Stated | None = None, reader: Any = None, device: torch.device | None = None
) -> LoadedModel:
    """The model of a name or path; see the module.

    Args:
        name: bundle, run, file or ``module:function``.
        stated: what its user says of it.
        reader: MONAI reader giving images in [0, 1], for models without preprocessing of their own.
        device: None takes a GPU where there is one. An ONNX program is computed on the CPU.

    Raises:
        BundleError: there is no such model.
        ModelError: it cannot be read, or classes, value range or image size are not known.
    """
    stated, path = stated or Stated(), Path(name)
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if path.suffix.lower() in PROGRAMS:
        model = _of_program(path, stated, reader, device)
    elif re.fullmatch(r"[\w.]+:\w+", name) and not path.exists():
        model = _of_function(name, stated, reader)
    elif is_run(path):
        model = _of_run(find_run(name), stated)
    else:
        model = _of_bundle(find_bundle(name), stated)
    model.network.to(device)
    return model


def _of_program(path: Path, stated: Stated, reader: Any, device: torch.device) -> LoadedModel:
    if not path.is_file():
        raise ModelError(f"{path.name}: file: not found; give a file of TorchScript, torch.export or ONNX")
    program = read_program(path, device)
    metadata, config = (program.carried.get(f"{name}.json", {}) for name in ("metadata", "inference"))
    preprocessing = _made(path.name, config, "preprocessing", path.parent) if "preprocessing" in config else None
    if stated.output is None and _activates(config.get("postprocessing")):
        stated = replace(stated, output="logits")
    if program.shape is not None and preprocessing is None:
        channels, *size = program.shape
        stated = replace(stated, channels=stated.channels or channels, image_size=stated.image_size or tuple(size))
    model = assembled(
        path.stem,
        program.network,
        stated,
        preprocessing=preprocessing,
        reader=reader,
        metadata=metadata,
        config=config,
        facts={"kind": program.kind, "file_sha256": program.sha256},
    )
    return model if program.differentiable else model.without("random", f"{program.kind} gives no gradients")


def _of_function(name: str, stated: Stated, reader: Any) -> LoadedModel:
    module, _, function = name.partition(":")
    with importable(Path.cwd()):
        try:
            own = importlib.import_module(module)
            network = getattr(own, function)()
            if callable(network) and not isinstance(network, nn.Module):
                network = Called(network, hashlib.sha256(inspect.getsource(own).encode()).digest())
        except Exception as error:  # whatever a stranger's code raises
            cure = "name a function that takes nothing and returns the network"
            raise ModelError(f"{name}: network: cannot be made: {first_line(error)}; {cure}") from error
    if not isinstance(network, nn.Module):
        raise ModelError(f"{name}: network: {type(network).__name__} cannot be called; return a network")
    facts = {"kind": "function", "weights_sha256": weights_checksum(network.state_dict())}
    return assembled(name, network, stated, reader=reader, facts=facts)


def _of_run(run: Run, stated: Stated) -> LoadedModel:
    parser = ConfigParser(dict(run.settings))
    ball, size = parser.get_parsed_content("attack").ball, parser.get_parsed_content("image_size")
    own = {
        "attack": {"norm": ball.norm, "radius": ball.radius, "image_size": size},
        "seen": sorted(seen(parser.get_parsed_content("views"))),
    }
    facts = {"kind": "run", "recipe": run.facts["recipe"], "seed": run.settings.get("seed"), "checkpoint": "best"}
    return _of_config(run.bundle, inference_config(run), run.folder / "best.pt", stated, facts | {"rtda": own})


def _of_bundle(bundle: Bundle, stated: Stated) -> LoadedModel:
    found = [bundle.root / "configs" / f"inference.{ending}" for ending in ("yaml", "yml", "json")]
    file = next(filter(Path.is_file, found), None)
    if file is None:
        raise ModelError(f"{bundle.name}: configs/inference: missing; it says what network and preprocessing are")
    own = bundle.metadata.get("rtda", {})
    facts = {"kind": "bundle", "recipe": own.get("recipe"), "rtda": own}
    config = ConfigParser.load_config_file(file)
    return _of_config(bundle, config, bundle.root / "models" / "model.pt", stated, facts)


def _of_config(
    bundle: Bundle, config: dict[str, Any], weights: Path, stated: Stated, facts: dict[str, Any]
) -> LoadedModel:
    """Network and preprocessing as a bundle's inference configuration states them, with weights."""
    for option in ("image_size", "channels"):
        if getattr(stated, option) is not None:
            raise ModelError(f"{bundle.name}: {option}: its own preprocessing decides that; leave the option out")
    part = "preprocessing" if "preprocessing" in config else "dataset::transform"
    with torch.random.fork_rng(), importable(bundle.root):
        torch.manual_seed(0)
        network = _made(bundle.name, config, "network_def", bundle.root)
        preprocessing = _made(bundle.name, config, part, bundle.root)
    if not stated.random_weights:
        _load_weights(network, weights, bundle.name)
    if stated.output is None and _activates(config.get("postprocessing")):
        stated = replace(stated, output="logits")
    model = assembled(
        bundle.name,
        network,
        stated,
        preprocessing=preprocessing,
        metadata=bundle.metadata,
        config=config,
        facts=facts | {"weights_sha256": weights_checksum(network.state_dict())},
    )
    return model.noting("weights: random, by seed 0") if stated.random_weights else model


def _activates(postprocessing: Any) -> bool:
    """Whether postprocessing makes probabilities of what the network gives, which is then logits."""
    if isinstance(postprocessing, list):
        return any(map(_activates, postprocessing))
    if not isinstance(postprocessing, dict):
        return False
    own = "Activations" in str(postprocessing.get("_target_")) and bool(postprocessing.get("softmax"))
    return own or _activates(postprocessing.get("transforms"))


def _made(name: str, config: Mapping[str, Any], part: str, root: Path) -> Any:
    try:
        return ConfigParser({**config, "bundle_root": str(root)}).get_parsed_content(part)
    except Exception as error:  # whatever a stranger's components raise
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise ModelError(f"{name}: {part}: cannot be made: {first_line(cause)}; correct its config") from error


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """A folder's own modules can be imported, after those that are installed."""
    sys.path.append(str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _load_weights(network: nn.Module, file: Path, name: str) -> None:
    """Weights as MONAI's CheckpointLoader takes them: a state under ``model``, or alone. Nothing in it is executed."""
    where = f"{name}: {file.parent.name}/{file.name}"
    if not file.is_file():
        raise ModelError(f"{where}: missing; put the weights there, or evaluate random ones by --random-weights")
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
        network.load_state_dict(content.get("model", content))
    except Exception as error:  # torch raises unpickling, zip, key and runtime errors alike
        raise ModelError(f"{where}: not weights of its network: {first_line(error)}; restore it") from error
