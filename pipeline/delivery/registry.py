"""A run in MLflow's model registry: the exported network with its signature, an example, and what was measured of it.

The model takes images in [0, 1] as the bundle's preprocessing gives them, and gives a probability for each class. Its
format is torch.export's, so that it loads without rtda and without pickle.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import warnings
from collections.abc import Iterable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..mlflow_copy import MlflowRun
from .bundle import BundleError, Run
from .export import parts

FOLDER = "model"


def register(run: Run, name: str, alias: str, evidence: Mapping[str, Any], measured: Iterable[Path]) -> int:
    """Log the model under the run and register it; returns the number of its version.

    Args:
        run: evaluated, and known to MLflow.
        name: of the registered model, made where it is absent.
        alias: that the new version takes, from another one if need be.
        evidence: what ``rtda pack`` would state of the weights; part of the model's metadata.
        measured: files of the evaluation, figures and table, which the model carries.

    Raises:
        BundleError: the run is not in MLflow, or MLflow does not answer.
    """
    copy = MlflowRun(run.folder)
    try:
        copy.open(create=False)
    except Exception as error:  # no such run, no server: whatever mlflow raises
        told = f"not in MLflow at {copy.place}; rtda track {run.folder.name} sends it there"
        raise BundleError(f"{run.folder.name}: {told}") from error
    with tempfile.TemporaryDirectory() as scratch:
        folder = save_model(run, Path(scratch) / FOLDER, evidence)
        for file in measured:
            shutil.copyfile(file, folder / file.name)
        source = copy.log_folder(folder)
    return copy.register(source, name, alias, {"recipe": run.facts["recipe"], "verdict": _verdict(evidence)})


def save_model(run: Run, folder: Path, evidence: Mapping[str, Any]) -> Path:
    """The run's best network as a folder in MLflow's format."""
    import mlflow.pytorch
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    network, metadata, _ = parts(run)
    image = metadata["network_data_format"]["inputs"]["image"]
    shape = (image["num_channels"], *image["spatial_shape"])
    spec = [Schema([TensorSpec(np.dtype("float32"), (-1, *rest))]) for rest in (shape, (len(run.bundle.classes),))]
    example = np.random.default_rng(0).random((2, *shape), dtype=np.float32)
    with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()), torch.no_grad():
        warnings.simplefilter("ignore")
        mlflow.pytorch.save_model(
            nn.Sequential(network, nn.Softmax(1)),
            str(folder),
            signature=ModelSignature(*spec),
            input_example=example,
            pip_requirements=[f"torch=={version('torch')}"],
            metadata=_plain({"rtda": dict(evidence), "classes": run.bundle.classes, **_named(metadata)}),
        )
    return folder


def _named(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {name: metadata[name] for name in ("bundle", "version", "intended_use") if name in metadata}


def _plain(content: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON has it: tuples are lists."""
    made: dict[str, Any] = json.loads(json.dumps(content))
    return made


def _verdict(evidence: Mapping[str, Any]) -> str:
    masking = evidence["evidence"]["masking"]
    return str(masking["verdict"]) if masking else "not run"
