"""``rtda evaluate --model M``: any classifier, on any data list; a folder with table, figures and report."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from rtda.transforms.reader import FilmReader

from ..attacks import RandomSearch
from ..balls import L2, Ball, Linf
from ..data import lists
from ..delivery.bundle import BundleError
from ..delivery.loaded import LoadedModel, Stated
from ..delivery.models import load_model
from ..delivery.probe import checked
from ..evidence.evaluation import Evaluation, described, named
from ..evidence.metrics import flat, summarise
from ..evidence.report import write_report
from ..evidence.table import facts_of
from ..tracking import log_evaluation
from ..views import Clean, View
from . import made
from .evaluating import (
    common_facts,
    compute,
    examples_path,
    figures_path,
    flat_views,
    masking,
    preset_of,
    readable,
    splits,
    versions,
    worst_shift_view,
    write,
)
from .examples import write_examples

RADIUS_224 = 2.0
"""ε of a model that states none, as ℓ2 on one channel of 224 x 224: 2.28 grey levels of 255 RMS, at any size and with
any number of channels."""


def run(arguments: argparse.Namespace) -> int:
    """Evaluate any model; see ``rtda evaluate --help``."""
    for name in ("data_list", "dataset_dir", "output"):
        if getattr(arguments, name) is None:
            raise BundleError(f"evaluate: {name}: missing; --model needs --data-list, --dataset-dir and -o OUT")
    listed, out = lists.read(arguments.data_list), Path(arguments.output)
    if out.exists() and not out.is_dir():
        raise BundleError(f"{out.name}: output: a file; give a folder")
    names = splits(arguments.split, listed)
    items = {name: lists.load(arguments.data_list, arguments.dataset_dir, name) for name in names}
    loaded, several = load_model(arguments.model, _stated(arguments), FilmReader()), bool(listed.get("multilabel"))
    model = checked(loaded, items[arguments.split], listed["classes"], several)
    parser = _preset(model, arguments)
    attack = parser.get_parsed_content("attack")
    model, views = of_its_images(model, named(list(flat_views(made(parser, "evaluation_views")))))
    views = possible(views, model, attack.ball)
    if arguments.rank is None:
        _tell(model)
    evaluations = [
        Evaluation(
            model.network,
            views if name == arguments.split else {"clean": Clean()},
            items[name],
            model.transform,
            {**_record(model), "split": name},
            out / f"parts-{name}",
            identity={"settings": model.facts["settings_sha256"], "versions": versions()},
            threads=arguments.threads,
        )
        for name in names
    ]
    if not compute(evaluations, arguments):
        return 0
    most = parser.get("masking_images") if model.perturbed != "nothing" else None
    facts = {
        **common_facts(evaluations[0], listed, lists.checksum(arguments.data_list)),
        **_facts(model, attack.ball),
        "masking": masking(evaluations[0], attack, most) if most else None,
    }
    path = out / "predictions.parquet"
    table = write(evaluations, facts, {"commands": [_command(arguments)], "model": dict(model.facts)}, path)
    pictures = examples_path(path)
    shown = {"adversarial": attack} if model.perturbed == "gradient" else {}
    write_examples(evaluations[0], FilmReader(), model.name, shown | worst_shift_view(evaluations[0], table), pictures)
    shown_in = [pictures] if pictures.is_file() else []
    write_report([table], shown_in, out / "report.html", f"{model.name}: robustness report")
    summary = summarise(table)
    files = [path, figures_path(path), figures_path(path, ".csv"), out / "report.html"]
    log_evaluation(out, out.name, _parameters(model, facts, arguments), flat(summary), files)
    print(readable(summary, facts_of(table)))
    written = [file.name for file in (*files, *shown_in)]
    print(f"{path.parent}: {', '.join(written)}")
    return 0


def _stated(arguments: argparse.Namespace) -> Stated:
    """What the user says of the model."""
    size = arguments.image_size
    return Stated(
        classes=tuple(arguments.classes.split(",")) if arguments.classes else None,
        image_size=(size, size) if size else None,
        channels=arguments.channels,
        value_range=arguments.value_range,
        output=arguments.gives,
        random_weights=arguments.random_weights,
    )


def _tell(model: LoadedModel) -> None:
    for line in (*model.notes, *model.left_out):
        print(f"{model.name}: {line}", flush=True)


def _preset(model: LoadedModel, arguments: argparse.Namespace) -> ConfigParser:
    """The preset with what its expressions refer to: attack, radius, image size."""
    ball = reference(model)
    parser = ConfigParser()
    parser.read_config(str(arguments.preset))
    parser["imports"] = ["$import dataclasses", "$import rtda.pipeline.attacks as attacks"]
    parser["image_size"], parser["radius"] = side(model), ball.radius
    kind = f"rtda.pipeline.balls.{type(ball).__name__}"
    parser["attack"] = {
        "_target_": "rtda.pipeline.attacks.PGD",
        "ball": {"_target_": kind, "radius": "@radius"},
    }
    return parser


def side(model: LoadedModel) -> int:
    """Rows of its images, which must be square: ε is stated for square images."""
    if len(set(model.image_size)) > 1:
        shape = " x ".join(map(str, model.image_size))
        raise BundleError(f"{model.name}: image_size: {shape} is not square; only square images are evaluated yet")
    return model.image_size[0]


def reference(model: LoadedModel) -> Ball:
    """The ball that the model was trained for where it states one, else ``RADIUS_224`` in ℓ2 at its size."""
    stated = model.facts.get("rtda", {}).get("attack")
    if stated and stated["image_size"] == side(model):
        return (Linf if stated["norm"] == "linf" else L2)(stated["radius"])
    return L2(RADIUS_224 * math.sqrt(math.prod(model.image_size) * model.channels) / 224)


def of_its_images(model: LoadedModel, views: Mapping[str, View]) -> tuple[LoadedModel, dict[str, View]]:
    """The views that have a meaning on films, or on volumes; the model says what is left out."""
    flat = [name for name, view in views.items() if len(model.image_size) > 2 and described(view).get("flat")]
    if not flat:
        return model, dict(views)
    kinds = ", ".join(dict.fromkeys(name.rpartition("_")[0].replace("_", " ") for name in flat))
    line = f"shifts: {kinds}: of films, and its images are volumes"
    rest = {name: view for name, view in views.items() if name not in flat}
    return replace(model, left_out=(*model.left_out, line)), rest


def possible(views: Mapping[str, View], model: LoadedModel, ball: Ball) -> dict[str, View]:
    """The views that can be asked of a model: without gradients, random search stands in for all attacks."""
    if model.perturbed == "gradient":
        return dict(views)
    rest = {name: view for name, view in views.items() if not described(view).get("norm")}
    if model.perturbed == "nothing":
        return rest
    clean = {name: view for name, view in rest.items() if described(view)["family"] == "clean"}
    search = RandomSearch(ball)
    return {**clean, search.name: search, **{name: view for name, view in rest.items() if name not in clean}}


def _record(model: LoadedModel) -> dict[str, Any]:
    recipe, checkpoint = model.facts.get("recipe") or model.name, model.facts.get("checkpoint") or "model"
    return {"bundle": model.name, "recipe": recipe, "seed": model.facts.get("seed"), "checkpoint": checkpoint}


def _facts(model: LoadedModel, ball: Ball) -> dict[str, Any]:
    """What the table's metadata says of a model of which nothing but the file may be known."""
    own = model.facts.get("rtda", {})
    return {
        **({"seen": own["seen"]} if "seen" in own else {}),
        "image_size": side(model),
        "dimensions": len(model.image_size),
        "channels": model.channels,
        "consistency_weight": None,
        "training_radius": ball.radius,
        "training_norm": ball.norm,
        "reference": not own.get("attack"),
        "training_precision": "not stated",
        "left_out": list(model.left_out),
        "notes": list(model.notes),
    }


def _parameters(model: LoadedModel, facts: Mapping[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """What MLflow is told of the model and the evaluation."""
    own = {f"model.{name}": value for name, value in model.facts.items() if isinstance(value, (str, int, float))}
    stated = ("image_size", "training_norm", "training_radius", "checksum_list", "checksum_weights")
    return {**own, **{name: facts[name] for name in stated}, "preset": preset_of(arguments)}


def _command(arguments: argparse.Namespace) -> str:
    """The command, without places."""
    words = ["rtda evaluate --model", Path(arguments.model).name, "--data-list", Path(arguments.data_list).name]
    words += ["--dataset-dir DIR", f"--preset {preset_of(arguments)}", f"--split {arguments.split}"]
    for name in ("classes", "image_size", "channels", "value_range", "gives"):
        if (value := getattr(arguments, name)) is not None:
            text = ",".join(f"{number:g}" for number in value) if name == "value_range" else str(value)
            words.append(f"--{name.replace('_', '-')}={text}")
    return " ".join([*words, *(["--random-weights"] if arguments.random_weights else []), "-o OUT"])
