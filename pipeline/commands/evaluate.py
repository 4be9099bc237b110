"""``rtda evaluate``: a run's checkpoint on views; writes the table, its figures and the pictures of the report."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
from monai.bundle import ConfigParser
from monai.transforms import Compose

from ..data import lists
from ..delivery.bundle import BundleError, Run
from ..delivery.pack import halved
from ..evidence.evaluation import Evaluation, named
from ..evidence.metrics import flat, summarise
from ..evidence.table import facts_of
from ..handlers import load_checkpoint
from ..tracking import log_artifacts, log_metrics
from ..views import Augment, Clean, seen
from . import evaluate_model, made, quieten
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
from .train import command_of, training_of


def run(arguments: argparse.Namespace) -> int:
    """Evaluate; see ``rtda evaluate --help``."""
    quieten()
    if (arguments.run is None) == (arguments.model is None):
        raise BundleError("evaluate: model: give either a RUN or --model M")
    if arguments.model is not None:
        return evaluate_model.run(arguments)
    run: Run = arguments.run
    parser = load(run, arguments)
    listed = lists.read(parser.get_parsed_content("data_list"))
    evaluations = [_evaluation(run, parser, split, arguments) for split in splits(arguments.split, listed)]
    if not compute(evaluations, arguments):
        return 0
    out = table_path(run.folder, arguments.split, arguments.checkpoint)
    stated = facts(run, parser, evaluations[0], listed)
    made_by = {"commands": [command_of(run), _command(run, arguments)], "training": training_of(run)}
    table = write(evaluations, stated, made_by, out)
    views = {
        "augmented": Augment(parser.get_parsed_content("augmentation")),
        "adversarial": parser.get_parsed_content("attack"),
        **worst_shift_view(evaluations[0], table),
    }
    reader = parser.get_parsed_content("reader") if "reader" in parser else None
    write_examples(evaluations[0], reader, run.facts["recipe"], views, examples_path(out))
    _tell(run, table, out)
    return 0


def _command(run: Run, arguments: argparse.Namespace) -> str:
    """The command of this evaluation, without places."""
    given = {"split": arguments.split, "checkpoint": arguments.checkpoint, "preset": preset_of(arguments)}
    options = [f"--{name} {value}" for name, value in given.items() if value not in ("test", "best", "quick")]
    return " ".join(["rtda evaluate", f"runs/{run.folder.name}", *options])


def _tell(run: Run, table: pa.Table, out: Path) -> None:
    """The summary on the terminal, and its numbers and the table in MLflow."""
    summary = summarise(table)
    print(readable(summary, facts_of(table)))
    unusual = out.stem.removeprefix("predictions").strip("-")  # such as last-validation; nothing for best.pt on test
    log_metrics(run.folder, {f"{unusual}/{name}".lstrip("/"): value for name, value in flat(summary).items()})
    log_artifacts(run.folder, [out, figures_path(out)])


def table_path(folder: Path, split: str, checkpoint: str) -> Path:
    """Where a table lies in its folder: ``predictions.parquet`` of best.pt on test, else named by what differs."""
    parts = [name for name, usual in ((checkpoint, "best"), (split, "test")) if name != usual]
    return folder / f"{'-'.join(['predictions', *parts])}.parquet"


def tables_of(folder: Path, *checkpoints: str) -> list[Path]:
    """The tables of these checkpoints that are there: on the test split, or where there are none, on validation."""
    for split in ("test", "validation"):
        found = [table_path(folder, split, checkpoint) for checkpoint in checkpoints]
        if any(path.is_file() for path in found):
            return [path for path in found if path.is_file()]
    return []


def weights(run: Run, checkpoint: str) -> Mapping[str, Any]:
    """The network's state of ``best`` or ``last``; ``half`` is that of best.pt in float16, as it may be packed."""
    if checkpoint == "half":
        return halved(weights(run, "best"))
    state: Mapping[str, Any] = load_checkpoint(run.folder / f"{checkpoint}.pt")["model"]
    return state


def load(run: Run, arguments: Any) -> Any:
    """The run's configuration with the preset's views, network and checkpoint."""
    parser = ConfigParser()
    parser.read_config([str(run.config), str(arguments.preset)])
    parser["bundle_root"], parser["output_dir"] = str(run.bundle.root), str(run.folder)
    if arguments.dataset_dir:
        parser["data_list"] = str(Path(arguments.dataset_dir) / Path(run.settings["data_list"]).name)
        if not Path(parser["data_list"]).is_file():  # lists of public data live apart from their images
            parser["data_list"] = run.settings["data_list"]
        parser["dataset_dir"] = arguments.dataset_dir
    checksum = lists.checksum(parser.get_parsed_content("data_list"))
    if checksum != run.facts["list_checksum"]:
        raise BundleError(f"{run.folder.name}: data_list: not the list that the run was trained on; restore it")
    network = parser.get_parsed_content("network_def")
    network.load_state_dict(weights(run, arguments.checkpoint))
    network.to(parser.get_parsed_content("device"))
    return parser


def _evaluation(run: Run, parser: Any, split: str, arguments: Any) -> Evaluation:
    views = named(list(flat_views(made(parser, "evaluation_views"))))
    record = {
        "bundle": run.bundle.name,
        "recipe": run.facts["recipe"],
        "seed": parser.get_parsed_content("seed"),
        "checkpoint": arguments.checkpoint,
        "split": split,
    }
    return Evaluation(
        parser.get_parsed_content("network_def"),
        views if split == arguments.split else {"clean": Clean()},
        lists.load(parser.get_parsed_content("data_list"), parser.get_parsed_content("dataset_dir"), split),
        Compose(parser.get_parsed_content("preprocessing")),
        record,
        run.folder / f"parts-{arguments.checkpoint}-{split}",
        identity={name: run.settings.get(name) for name in ("preprocessing", "reader", "choices")}
        | {"versions": versions()},
        threads=arguments.threads,
    )


def facts(run: Run, parser: Any, evaluation: Evaluation, listed: Mapping[str, Any]) -> dict[str, Any]:
    """What the table's metadata says of the model, the list and the computation."""
    attack, most = parser.get_parsed_content("attack"), parser.get("masking_images")
    return {
        **common_facts(evaluation, listed, run.facts["list_checksum"]),
        "image_size": parser.get_parsed_content("image_size"),
        "channels": run.bundle.metadata["network_data_format"]["inputs"]["image"]["num_channels"],
        "seen": sorted(seen(parser.get_parsed_content("views"))),
        "consistency_weight": parser.get_parsed_content("weight"),
        "training_radius": attack.ball.radius,
        "training_norm": attack.ball.norm,
        "training_precision": run.facts["computed_in"],
        "masking": masking(evaluation, attack, most) if most else None,
    }
