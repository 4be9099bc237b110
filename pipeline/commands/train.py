"""``rtda train``: a bundle and a recipe become a run folder."""

from __future__ import annotations

import argparse
import json
import math
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from ..delivery.bundle import (
    METADATA,
    RECIPE_IDS,
    ROOT_IDS,
    Bundle,
    BundleError,
    Run,
    as_json,
    find_bundle,
    find_recipe,
    find_run,
    is_run,
    read_yaml,
)
from . import made, quieten


def run(arguments: argparse.Namespace) -> int:
    """Train; see ``rtda train --help``."""
    bundle, resumed = find_bundle(arguments.bundle), find_run(arguments.resume) if arguments.resume else None
    recipe = find_recipe(arguments.recipe or _recipe_of(resumed))
    given = {name: getattr(arguments, name) for name in ROOT_IDS if getattr(arguments, name) is not None}
    _refuse_unknown(bundle, given)
    overrides = _of_run(bundle, resumed, given) if resumed else _named(bundle, recipe, given)
    files = [bundle.config("train"), recipe]
    command = monai_command(bundle, files, overrides)
    if arguments.dry_run:
        print(command)
        return 0
    print(f"# the same weights by MONAI alone: {command}")
    status = _train(bundle, files, overrides, resumed)
    if arguments.register:
        from .register import evaluated_and_registered

        evaluated_and_registered(find_run(overrides["output_dir"]))
    return status


def monai_command(bundle: Bundle, files: list[Path], overrides: Mapping[str, Any]) -> str:
    """The command by which MONAI alone trains the same weights.

    It imports mlflow before anything of ours can switch its telemetry off.
    """
    words = ["python", "-m", "monai.bundle", "run", "--config_file", _readable([str(file) for file in files])]
    words += ["--meta_file", str(bundle.root / "configs" / "metadata.json")]
    words += ["--logging_file", str(bundle.root / "configs" / "logging.conf"), "--bundle_root", str(bundle.root)]
    for name, value in overrides.items():
        words += [f"--{name}", _readable(value)]
    return f"MLFLOW_DISABLE_TELEMETRY=true {shlex.join(words)}"


def command_of(run: Run) -> str:
    """The command that made a run, without places: what it was given where that is not the bundle's own."""
    own = read_yaml(run.bundle.config("train"))
    words = ["rtda", "train", run.bundle.name, "--recipe", run.facts["recipe"]]
    for name in ROOT_IDS:
        value = run.settings.get(name)
        if name in own and value != own[name] and name not in ("data_list", "dataset_dir", "output_dir"):
            words += [f"--{name.replace('_', '-')}", _readable(value)]
    return f"{shlex.join(words)} --dataset-dir DIR"


def training_of(run: Run) -> dict[str, Any]:
    """How long a run trained, in what precision, and which epoch was chosen."""
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    seconds = sum(line["metrics"].get("epoch_seconds", 0) for line in lines)
    computed = {"computed_in": run.facts["computed_in"]}
    return {"epochs": len(lines), "best_epoch": _best(run), "seconds": round(seconds), **computed}


def _readable(value: Any) -> str:
    """A value as MONAI's command line takes it for itself, with double quotes where it may, as the shell's are single.

    Example:
        >>> print(_readable(["a", "b"]), _readable("2026"), _readable("$open('a')"))
        ["a", "b"] "2026" $open('a')
    """
    from fire.parser import DefaultParseValue  # by which MONAI reads it: to fire, 2026 is a number and '2026' a text

    texts = [str(value), repr(value)]
    texts = [*(text.replace("'", '"') for text in texts), *texts]
    return next(text for text in texts if DefaultParseValue(text) == value)


def _recipe_of(resumed: Run | None) -> str:
    """The name of a run's recipe; whether that still says the same is checked with all other settings."""
    if resumed is None:
        raise BundleError("train: recipe: missing; give --recipe with a name or a YAML file")
    name: str = resumed.facts["recipe"]
    return name


def _refuse_unknown(bundle: Bundle, given: Iterable[str]) -> None:
    """MONAI would take an id that the bundle does not have without a word."""
    known = read_yaml(bundle.config("train"))
    for name in given:
        if name not in known:
            raise BundleError(f"train.yaml: {name}: no such id in {bundle.name}; leave the option out")


def _of_run(bundle: Bundle, run: Run, given: dict[str, Any]) -> dict[str, Any]:
    """What the run was given where it is not the bundle's own, and what is given now, which must prove the same."""
    own = read_yaml(bundle.config("train"))
    for name in ("run_name", "output_dir"):
        if given.get(name, run.settings[name]) != run.settings[name]:
            raise BundleError(f"{run.folder.name}: {name}: a resumed run keeps its own; leave the option out")
    before = {name: run.settings[name] for name in ROOT_IDS if name in own and run.settings.get(name) != own[name]}
    return {**before, **given, "output_dir": str(run.folder)}


def _named(bundle: Bundle, recipe: Path, given: dict[str, Any]) -> dict[str, Any]:
    """Fill in run_name and output_dir, which no two runs share."""
    seed = given.get("seed", read_yaml(bundle.config("train"))["seed"])
    name = given.get("run_name", f"{bundle.name}-{recipe.stem}-{seed}")
    folder = Path(given.get("output_dir", Path("runs") / name))
    if is_run(folder):
        raise BundleError(f"{folder.name}: run: exists already; go on with --resume, or choose another --run-name")
    if folder.exists() and any(folder.iterdir()):
        cure = "remove it (a start that was killed leaves such a one), or choose another --run-name"
        raise BundleError(f"{folder.name}: run: the folder is not empty, and no run; {cure}")
    return {**given, "run_name": name, "output_dir": str(folder)}


def _train(bundle: Bundle, files: list[Path], overrides: dict[str, Any], resumed: Run | None) -> int:
    from monai.bundle import ConfigWorkflow

    from ..files import write_whole
    from ..handlers import CheckpointChoice

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
    _check_settings(parser, bundle)
    run = Run(Path(parser.get_parsed_content("output_dir")))
    settings = _settings(parser, bundle, files[1], run)
    if resumed:
        _refuse_changes(resumed, settings)
    trainer, handlers = (parser.get_parsed_content(f"train#{name}") for name in ("trainer", "handlers"))
    _check_warm_up(handlers, trainer.state.max_epochs)
    keeper = next(handler for handler in handlers if isinstance(handler, CheckpointChoice))
    keeper.resume = resumed is not None and (resumed.folder / "last.pt").is_file()
    if not resumed:
        run.keep(bundle, _listed(parser))  # first, since a folder with config.yaml is a run
    write_whole(run.config, yaml.safe_dump(dict(settings), sort_keys=False).encode())
    _keep_intensities(run, parser.get_parsed_content("train#dataset"))
    validation = _validation(keeper, trainer)
    _show_progress(trainer, validation)
    _track(run, parser, settings, trainer, validation)
    workflow.run()
    print(f"{run.folder}: best epoch {_best(run)} of {trainer.state.max_epochs}")
    return 0


def _keep_intensities(run: Run, images: Any) -> None:
    """State in the run's metadata what intensities its training images have, by which others are told from them."""
    from ..delivery.guard import intensities
    from ..files import write_whole
    from ..views import plain

    bundle = run.bundle
    known = bundle.metadata.get("trained_on", {})
    found = known | {"intensity": intensities(plain(item["image"]) for item in images)}  # epochs are seeded afresh
    write_whole(bundle.root / METADATA, as_json(bundle.metadata | {"trained_on": found}))


def _check_settings(parser: Any, bundle: Bundle) -> None:
    """Refuse in one line what a user may have written wrongly, before any image is read."""
    listed = _listed(parser)
    if listed.get("multilabel"):
        raise BundleError("data_list: multilabel: bundles train one class an image; give a list with one label each")
    bundle.metadata_of(listed)
    values = {name: made(parser, name) for name in (*ROOT_IDS, *RECIPE_IDS) if name in parser}
    for name in ("stack", "supervise"):
        if not isinstance(values[name], list):
            raise BundleError(f"{name}: {values[name]!r} is not a list of view names; write [clean, adversarial]")
    made(parser, "loss")
    _check_radii(values["views"])
    if values["val_interval"] > values["max_epochs"]:
        raise BundleError(
            f"val_interval: {values['val_interval']} is more than the {values['max_epochs']} epochs: none would be "
            "validated; give a smaller --val-interval"
        )
    _check_batches(parser, values["batch_size"])


def _listed(parser: Any) -> dict[str, Any]:
    from ..data import lists

    return lists.read(parser.get_parsed_content("data_list"))


def _check_radii(views: Mapping[str, Any]) -> None:
    """Radius 0 makes an attack the identity, which is surely a mistake where it is trained on."""
    from ..views import Chain

    for name, view in views.items():
        while isinstance(view, Chain):
            view = view.view
        if hasattr(view, "ball") and view.ball.radius == 0:
            raise BundleError(
                f"views: {name}: radius 0 makes the attack the identity; give --radius-224 > 0, or a recipe without"
            )


def _check_batches(parser: Any, size: int) -> None:
    """The training loader drops the last, short batch: a batch above the split's size would leave none."""
    if not len(parser.get_parsed_content("train#dataloader")):
        images = len(parser.get_parsed_content("train#dataset"))
        raise BundleError(f"batch_size: {size} is more than the {images} images of train; give a smaller --batch-size")


def _check_warm_up(handlers: Iterable[Any], max_epochs: int) -> None:
    """A run that ends within the warm-up would never have seen the full radius, though it is said to have."""
    from ..handlers import RadiusWarmUp

    for handler in handlers:
        if isinstance(handler, RadiusWarmUp) and handler.epochs > max_epochs:
            raise BundleError(
                f"max_epochs: {max_epochs} end before the radius is full, in epoch {handler.epochs}; give more epochs, "
                "or a shorter warm-up"
            )


def _settings(parser: Any, bundle: Bundle, recipe: Path, run: Run) -> dict[str, Any]:
    """The merged configuration, and what identifies the run."""
    from importlib.metadata import version

    from ..data import lists
    from ..networks import computed_in

    facts = {
        "bundle": bundle.name,
        "recipe": recipe.stem,
        "version": version("rtda"),
        "list_checksum": lists.checksum(parser.get_parsed_content("data_list")),
        "computed_in": computed_in(*(parser.get_parsed_content(name) for name in ("precision", "device"))),
    }
    settings = {key: value for key, value in parser.get().items() if key != "_meta_"}
    for name in ("data_list", "dataset_dir"):
        settings[name] = str(Path(parser.get_parsed_content(name)).resolve())
    return {**settings, "bundle_root": str(run.folder / "bundle" / bundle.name), "rtda": facts}


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


def _track(
    run: Run,
    parser: Any,
    settings: Mapping[str, Any],
    trainer: Any,
    validation: Callable[[], Mapping[str, float]],
) -> None:
    """Record the run in its folder and in MLflow; attached last, see the tracker."""
    from ..handlers import loss_of
    from ..tracking import RunTracker

    optimizer = parser.get_parsed_content("optimizer")
    RunTracker(
        run.folder,
        **described(run, parser, settings),
        terms=lambda engine: {"loss": loss_of(engine), **getattr(engine.loss_function, "terms", {})},
        learning_rate=lambda: optimizer.param_groups[0]["lr"],
        validation=validation,
    ).attach(trainer)


def described(run: Run, parser: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What MLflow is told of a run besides its numbers: name, parameters, tags, and files of text."""
    from ..provenance import environment, public

    return {
        "run_name": settings["run_name"],
        "parameters": {**_parameters(parser, settings), **environment()},
        "tags": environment(),  # as parameters they are those of the start; whoever resumes the run may have others
        "texts": {
            "config.yaml": yaml.safe_dump(public({**settings, **_resolved(parser)}), sort_keys=False),
            "metadata.json": (run.bundle.root / "configs" / "metadata.json").read_text(encoding="utf-8"),
        },
    }


def _resolved(parser: Any) -> dict[str, Any]:
    """Root ids and recipe as they came out, where that is a number, a text or a list; components stay as written."""
    made = {name: parser.get_parsed_content(name) for name in (*ROOT_IDS, *RECIPE_IDS) if name in parser}
    return {name: value for name, value in made.items() if isinstance(value, (int, float, str, list))}


def _parameters(parser: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Root ids and recipe as they stand, without folders; what is a number in the end, as a number."""
    from ..provenance import flatten, public

    shown = {key: value for key, value in public(settings).items() if key in (*ROOT_IDS, *RECIPE_IDS)}
    numbers = [*(name for name, kind in ROOT_IDS.items() if "number" in kind and name in settings), "weight"]
    resolved = {name: parser.get_parsed_content(name) for name in numbers}
    return {**flatten(shown), **settings["rtda"], **resolved, **attack_facts(parser)}


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

    from ..handlers import loss_of

    if sys.stderr.isatty():
        ProgressBar(desc="epoch", persist=False, delay=1e-9).attach(trainer)  # undelayed, it is drawn before its title

    @trainer.on(Events.EPOCH_COMPLETED)  # type: ignore[untyped-decorator]
    def line(engine: Any) -> None:
        parts = [f"loss {float(loss_of(engine)):.3f}"]
        parts += [f"{name.removeprefix('validation/')} {value:.3f}" for name, value in validation().items()]
        seconds = math.ceil(engine.state.times[Events.EPOCH_COMPLETED.name] or 0)
        print(f"epoch {engine.state.epoch}/{engine.state.max_epochs}: {', '.join(parts)} ({seconds} s)", flush=True)


def _best(run: Run) -> int:
    from ..handlers import load_checkpoint

    return int(load_checkpoint(run.folder / "best.pt")["epoch"])
