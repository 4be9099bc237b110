"""``rtda train``: a bundle and a recipe become a run folder."""

from __future__ import annotations

import argparse
import math
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from ..delivery.bundle import Bundle, BundleError, Run, find_bundle, find_recipe, find_run, read_yaml
from . import quieten


def run(arguments: argparse.Namespace) -> int:
    """Train; see ``rtda train --help``."""
    bundle, recipe = find_bundle(arguments.bundle), find_recipe(arguments.recipe)
    files = [bundle.config("train"), recipe]
    overrides = {
        name[3:]: value for name, value in vars(arguments).items() if name.startswith("id_") and value is not None
    }
    resumed = find_run(arguments.resume) if arguments.resume else None
    overrides = _named(bundle, recipe, overrides, resumed)
    _check_types(files, overrides)
    print(monai_command(bundle, files, overrides))
    if arguments.dry_run:
        return 0
    return _train(bundle, files, overrides, resumed)


def monai_command(bundle: Bundle, files: list[Path], overrides: Mapping[str, Any]) -> str:
    """The command by which MONAI alone runs the same training."""
    words = ["python", "-m", "monai.bundle", "run", "--config_file", str([str(file) for file in files])]
    words += ["--meta_file", str(bundle.root / "configs" / "metadata.json")]
    words += ["--logging_file", str(bundle.root / "configs" / "logging.conf"), "--bundle_root", str(bundle.root)]
    for name, value in overrides.items():
        words += [f"--{name}", str(value)]
    return shlex.join(words)


def _named(bundle: Bundle, recipe: Path, overrides: dict[str, Any], resumed: Run | None) -> dict[str, Any]:
    """Fill in run_name and output_dir, which no two runs share."""
    if resumed:
        fixed = {name: resumed.settings[name] for name in ("run_name", "output_dir")}
        for name, value in fixed.items():
            if overrides.get(name, value) != value:
                raise BundleError(f"{resumed.folder.name}: {name}: a resumed run keeps its own; leave the option out")
        return {**overrides, **fixed, "output_dir": str(resumed.folder)}
    seed = overrides.get("seed", read_yaml(bundle.config("train"))["seed"])
    name = overrides.get("run_name", f"{bundle.name}-{recipe.stem}-{seed}")
    folder = Path(overrides.get("output_dir", Path("runs") / name))
    if folder.exists() and any(folder.iterdir()):
        raise BundleError(f"{folder.name}: run: exists already; go on with --resume, or choose another --run-name")
    return {**overrides, "run_name": name, "output_dir": str(folder)}


def _check_types(files: list[Path], overrides: Mapping[str, Any]) -> None:
    """An option has the kind of value that stands in train.yaml, or is an expression; MONAI would accept anything."""
    defaults = read_yaml(files[0])
    for name, value in overrides.items():
        if name not in defaults:
            raise BundleError(f"{files[0].name}: {name}: no such id in this bundle; leave the option out")
        expected = type(defaults[name])
        expression = isinstance(value, str) and value.startswith(("$", "@"))
        number = expected in (int, float) and isinstance(value, (int, float)) and not isinstance(value, bool)
        whole = expected is not int or isinstance(value, int) or float(value).is_integer() if number else True
        derived = expected is str and str(defaults[name]).startswith(("$", "@"))
        other = isinstance(value, expected) and expected not in (int, float)  # to Python True is an int
        if not (expression or derived or (number and whole) or other):
            raise BundleError(f"{name}: {value!r} is not {expected.__name__}; its default is {defaults[name]!r}")
        if name in ("image_size", "max_epochs", "batch_size", "val_interval") and number and value < 1:
            raise BundleError(f"{name}: {value} is not at least 1; its default is {defaults[name]!r}")


def _train(bundle: Bundle, files: list[Path], overrides: dict[str, Any], resumed: Run | None) -> int:
    from monai.bundle import ConfigWorkflow

    from ..handlers import CheckpointChoice
    from ..provenance import environment, flatten
    from ..tracking import RunTracker

    quieten()
    workflow = ConfigWorkflow(
        config_file=[str(file) for file in files],
        meta_file=str(bundle.root / "configs" / "metadata.json"),
        logging_file=False,
        workflow_type="train",
        bundle_root=str(bundle.root),
        **overrides,
    )
    workflow.initialize()
    parser = workflow.parser
    _check_attack(parser)
    _check_batches(parser)
    settings = _settings(parser, bundle, files[1])
    folder = Path(parser.get_parsed_content("output_dir"))
    if resumed:
        _refuse_changes(resumed, settings)
    trainer = parser.get_parsed_content("train#trainer")
    keeper = next(h for h in parser.get_parsed_content("train#handlers") if isinstance(h, CheckpointChoice))
    keeper.resume = resumed is not None and (resumed.folder / "last.pt").is_file()
    _write_settings(folder, settings)
    optimizer = parser.get_parsed_content("optimizer")
    validation = _validation(keeper, trainer)
    _show_progress(trainer, validation)
    facts = {**flatten(_public(settings)), **attack_facts(parser)}
    RunTracker(
        folder,
        run_name=settings["run_name"],
        parameters=facts,
        tags=environment(),
        terms=lambda engine: {"loss": engine.state.output["loss"].detach(), **engine.loss_function.terms},
        learning_rate=lambda: optimizer.param_groups[0]["lr"],
        validation=validation,
    ).attach(trainer)
    workflow.run()
    print(f"{folder}: best epoch {_best(folder)} of {trainer.state.max_epochs}")
    return 0


def _settings(parser: Any, bundle: Bundle, recipe: Path) -> dict[str, Any]:
    """The merged configuration, and what identifies the run."""
    from importlib.metadata import version

    from ..data import lists

    facts = {
        "bundle": bundle.name if bundle == find_installed(bundle.name) else str(bundle.root),
        "recipe": recipe.stem,
        "version": version("rtda"),
        "list_checksum": lists.checksum(parser.get_parsed_content("data_list")),
    }
    settings = {key: value for key, value in parser.get().items() if key != "_meta_"}
    for name in ("data_list", "dataset_dir"):
        settings[name] = str(Path(parser.get_parsed_content(name)).resolve())
    return {**settings, "rtda": facts}


def find_installed(name: str) -> Bundle | None:
    """The installed bundle of this name, if there is one."""
    from ..delivery.bundle import INSTALLED

    return Bundle(INSTALLED / name) if (INSTALLED / name / "configs").is_dir() else None


def _refuse_changes(run: Run, settings: Mapping[str, Any]) -> None:
    before, now = run.settings, settings
    for key in sorted({*before, *now} - {"bundle_root", "output_dir", "dataset_dir", "data_list"}):
        if before.get(key) != now.get(key):
            changed = _first_change(before.get(key), now.get(key), key)
            raise BundleError(f"{run.folder.name}: {changed}; resume with what the run began with, or start a new run")


def _first_change(before: Any, now: Any, key: str) -> str:
    if isinstance(before, dict) and isinstance(now, dict):
        name = next(k for k in sorted({*before, *now}, key=str) if before.get(k) != now.get(k))
        return _first_change(before.get(name), now.get(name), f"{key}: {name}")
    return f"{key}: was {str(before)[:60]!r}, is {str(now)[:60]!r}"


def _write_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    from ..files import write_whole

    write_whole(folder / "config.yaml", yaml.safe_dump(dict(settings), sort_keys=False).encode())


def _public(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What the tracker may show: the root ids and the recipe; folders stand as placeholders."""
    from ..delivery.bundle import RECIPE_IDS, ROOT_IDS

    hidden = {name: f"<{name}>" for name in ("dataset_dir", "data_list", "output_dir")}
    shown = {key: settings[key] for key in (*ROOT_IDS, *RECIPE_IDS) if key in settings}
    return {**shown, **hidden, **settings["rtda"]}


def attack_facts(parser: Any) -> dict[str, Any]:
    """ε as it must be stated wherever it is shown: norm, radius, image size, RMS in grey levels of 255, steps."""
    from ..evidence.metrics import rms_grey_levels

    attack, size = parser.get_parsed_content("attack"), parser.get_parsed_content("image_size")
    return {
        "attack.norm": attack.ball.norm,
        "attack.radius": attack.ball.radius,
        "attack.image_size": size,
        "attack.rms_grey_levels": rms_grey_levels(attack.ball.radius, size, norm=attack.ball.norm),
        "attack.steps": attack.steps,
    }


def _check_attack(parser: Any) -> None:
    """Radius 0 is the identity for an attack, but surely a mistake for a recipe that trains on attacks."""
    if "adversarial" in parser["views"] and parser.get_parsed_content("radius") == 0:
        raise BundleError(
            "radius: 0 makes every attack the identity; give --radius-224 > 0, or a recipe without attack"
        )


def _check_batches(parser: Any) -> None:
    """The training loader drops the last, short batch: a batch above the split's size would leave none."""
    if not len(parser.get_parsed_content("train#dataloader")):
        images, size = len(parser.get_parsed_content("train#dataset")), parser.get_parsed_content("batch_size")
        raise BundleError(f"batch_size: {size} is more than the {images} images of train; give a smaller --batch-size")


def _validation(keeper: Any, trainer: Any) -> Callable[[], dict[str, float]]:
    def measured() -> dict[str, float]:
        evaluators = {"clean": keeper.clean, "attacked": keeper.attacked}
        fresh = {name: e for name, e in evaluators.items() if e is not None and e.state.epoch == trainer.state.epoch}
        return {f"validation/{name}_auroc": float(e.state.metrics["auroc"]) for name, e in fresh.items()}

    return measured


def _show_progress(trainer: Any, validation: Callable[[], Mapping[str, float]]) -> None:
    """A bar within each epoch on a terminal, and one plain line after it everywhere."""
    from ignite.engine import Events
    from ignite.handlers import ProgressBar

    if sys.stderr.isatty():
        ProgressBar(desc="epoch", persist=False).attach(trainer)

    @trainer.on(Events.EPOCH_COMPLETED)  # type: ignore[untyped-decorator]
    def line(engine: Any) -> None:
        parts = [f"loss {float(engine.state.output['loss'].detach()):.3f}"]
        parts += [f"{name.removeprefix('validation/')} {value:.3f}" for name, value in validation().items()]
        seconds = math.ceil(engine.state.times[Events.EPOCH_COMPLETED.name] or 0)
        print(f"epoch {engine.state.epoch}/{engine.state.max_epochs}: {', '.join(parts)} ({seconds} s)", flush=True)


def _best(folder: Path) -> int:
    from ..handlers import load_checkpoint

    return int(load_checkpoint(folder / "best.pt")["epoch"])
