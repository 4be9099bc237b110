"""``rtda evaluate``: a run's checkpoint on views; writes the table, its figures and the pictures of the report."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from monai.bundle import ConfigParser
from monai.transforms import Compose

from ..data import lists
from ..delivery.bundle import INSTALLED, BundleError, Run
from ..delivery.pack import halved
from ..evidence.evaluation import Evaluation, described, named, weights_checksum
from ..evidence.figures import figures
from ..evidence.gate import Gate
from ..evidence.masking import balanced_rows, check_masking
from ..evidence.metrics import flat, rms_grey_levels, summarise
from ..evidence.table import facts_of, write_table
from ..files import write_whole
from ..handlers import load_checkpoint
from ..tracking import log_artifacts, log_metrics
from ..views import Clean, plain, seen
from . import made, quieten
from .examples import write_examples
from .train import command_of, training_of


def run(arguments: argparse.Namespace) -> int:
    """Evaluate; see ``rtda evaluate --help``."""
    quieten()
    run: Run = arguments.run
    parser = load(run, arguments)
    listed = lists.read(parser.get_parsed_content("data_list"))
    evaluations = [_evaluation(run, parser, split, arguments) for split in splits(arguments.split, listed)]
    if arguments.rank is not None:  # one of the processes that the first one has started
        _compute(evaluations, arguments, arguments.rank)
        return 0
    _compute_all(evaluations, arguments)
    out = table_path(run, arguments.split, arguments.checkpoint)
    write_examples(evaluations[0], parser, run.facts["recipe"], examples_path(out))
    stated = facts(run, parser, evaluations[0]) | {"masking": masking(parser, evaluations[0])}
    table = pa.concat_tables([evaluation.table(stated) for evaluation in evaluations])
    write_table(table, out)
    for evaluation in evaluations:
        evaluation.discard()
    _write_figures(run, table, arguments, figures_path(out))
    _tell(run, table, out)
    return 0


def _compute(evaluations: Sequence[Evaluation], arguments: argparse.Namespace, rank: int = 0) -> None:
    for evaluation in evaluations:
        evaluation.run(rank, arguments.processes, arguments.num_workers)


def _compute_all(evaluations: Sequence[Evaluation], arguments: argparse.Namespace) -> None:
    """All ranks: the first here, the others in processes of their own."""
    for evaluation in evaluations:
        evaluation.claim()
    others = _start_others(arguments)
    try:
        _compute(evaluations, arguments)
        if any(process.wait() for process in others):
            name = arguments.run.folder.name
            raise BundleError(f"{name}: processes: one of them failed; its message stands above, mend what it names")
    finally:
        for process in others:
            process.terminate()


def _write_figures(run: Run, table: pa.Table, arguments: argparse.Namespace, path: Path) -> None:
    """The numbers with their intervals, and what they were made by."""
    made_by = {"commands": [command_of(run), _command(run, arguments)], "training": training_of(run)}
    write_whole(path, (json.dumps({**figures(table), **made_by}, indent=1, ensure_ascii=False) + "\n").encode())


def _command(run: Run, arguments: argparse.Namespace) -> str:
    """The command of this evaluation, without places."""
    preset = arguments.preset.stem if arguments.preset.is_relative_to(INSTALLED) else arguments.preset.name
    given = {"split": arguments.split, "checkpoint": arguments.checkpoint, "preset": preset}
    options = [f"--{name} {value}" for name, value in given.items() if value not in ("test", "best", "quick")]
    return " ".join(["rtda evaluate", f"runs/{run.folder.name}", *options])


def _tell(run: Run, table: pa.Table, out: Path) -> None:
    """The summary on the terminal, and its numbers and the table in MLflow."""
    summary = summarise(table)
    print(readable(summary, facts_of(table)))
    unusual = out.stem.removeprefix("predictions").strip("-")  # such as last-validation; nothing for best.pt on test
    log_metrics(run.folder, {f"{unusual}/{name}".lstrip("/"): value for name, value in flat(summary).items()})
    log_artifacts(run.folder, [out, figures_path(out)])


def table_path(run: Run, split: str, checkpoint: str) -> Path:
    """Where the table of an evaluation lies: ``predictions.parquet`` of best.pt on test, else named by what differs."""
    parts = [name for name, usual in ((checkpoint, "best"), (split, "test")) if name != usual]
    return run.folder / f"{'-'.join(['predictions', *parts])}.parquet"


def tables_of(run: Run, *checkpoints: str) -> list[Path]:
    """The tables of these checkpoints that are there: on the test split, or where there are none, on validation."""
    for split in ("test", "validation"):
        found = [table_path(run, split, checkpoint) for checkpoint in checkpoints]
        if any(path.is_file() for path in found):
            return [path for path in found if path.is_file()]
    return []


def examples_path(table: Path) -> Path:
    """Where the pictures lie that belong to a table: ``examples.npz`` beside ``predictions.parquet``, and so on."""
    return table.with_name(table.name.replace("predictions", "examples")).with_suffix(".npz")


def figures_path(table: Path) -> Path:
    """Where the figures of a table lie: ``metrics.json`` beside ``predictions.parquet``, and so on."""
    return table.with_name(table.name.replace("predictions", "metrics")).with_suffix(".json")


def weights(run: Run, checkpoint: str) -> Mapping[str, Any]:
    """The network's state of ``best`` or ``last``; ``half`` is that of best.pt in float16, as it may be packed."""
    if checkpoint == "half":
        return halved(weights(run, "best"))
    state: Mapping[str, Any] = load_checkpoint(run.folder / f"{checkpoint}.pt")["model"]
    return state


def splits(reported: str, listed: Mapping[str, Any]) -> list[str]:
    """The reported split with all views; beside a test split clean validation, if any, which sets the threshold."""
    return [reported, "validation"] if reported != "validation" and listed["validation"] else [reported]


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
        | {"versions": _versions()},
        threads=arguments.threads,
    )


def masking(parser: Any, evaluation: Evaluation) -> dict[str, Any] | None:
    """The gradient-masking checks on some of the reported images, as the preset asks; None where it does not."""
    if "masking_images" not in parser:
        return None
    attack, most = parser.get_parsed_content("attack"), parser.get_parsed_content("masking_images")
    rows = balanced_rows([item["label"] for item in evaluation.items], most, evaluation.seed)
    items = [evaluation.transform(evaluation.items[row]) for row in rows]
    x = torch.stack([plain(torch.as_tensor(item["image"])) for item in items]).to(evaluation.device)
    y = torch.tensor([int(item["label"]) for item in items], device=evaluation.device)
    print(f"gradient-masking checks on {len(rows)} images", file=sys.stderr, flush=True)
    how: dict[str, Any] = {"bounds": attack.bounds, "images": most, "seed": evaluation.seed}
    try:
        return check_masking(evaluation.model, x, y, attack.ball, **how, threads=evaluation.threads).as_dict()
    except ValueError as error:  # of the images, which are too few or of one class: the rest of the table stands
        return Gate((), {}, {"why": str(error)}).as_dict() | {"verdict": "not decidable"}


def flat_views(views: Any) -> Iterator[Any]:
    """A preset's views, the lists among them opened."""
    for view in views:
        yield from flat_views(view) if isinstance(view, list) else [view]


def _start_others(arguments: Any) -> list[subprocess.Popen[bytes]]:
    """The same command once more for each further rank; every rank takes whole shards."""
    command = [sys.executable, "-m", "rtda.pipeline", "evaluate", str(arguments.run.folder), "--split", arguments.split]
    command += ["--preset", str(arguments.preset), "--checkpoint", arguments.checkpoint]
    command += ["--dataset-dir", arguments.dataset_dir] if arguments.dataset_dir else []
    for name in ("processes", "threads", "num_workers"):
        command += [f"--{name.replace('_', '-')}", str(getattr(arguments, name))]
    return [subprocess.Popen([*command, "--rank", str(rank)]) for rank in range(1, arguments.processes)]


def facts(run: Run, parser: Any, evaluation: Evaluation) -> dict[str, Any]:
    """What the table's metadata says of the model, the list and the computation."""
    attack = parser.get_parsed_content("attack")
    listed = lists.read(data_list := parser.get_parsed_content("data_list"))
    return {
        "classes": listed["classes"],
        **_prior(listed),
        "image_size": parser.get_parsed_content("image_size"),
        "channels": run.bundle.metadata["network_data_format"]["inputs"]["image"]["num_channels"],
        "parameters": _stated(evaluation.views, "parameter"),
        "groups": _stated(evaluation.views, "group"),
        "seen": sorted(seen(parser.get_parsed_content("views"))),
        "threads": evaluation.threads,
        "device": evaluation.device.type,
        "checksum_list": lists.checksum(data_list),
        "checksum_weights": weights_checksum(evaluation.model.state_dict()),
        "consistency_weight": parser.get_parsed_content("weight"),
        "training_radius": attack.ball.radius,
        "training_norm": attack.ball.norm,
        "training_precision": run.facts["computed_in"],
        "versions": _versions(),
    }


def _prior(listed: Mapping[str, Any]) -> dict[str, Any]:
    """Shares of the classes in training; of a list that has no train split, in the list's own images."""
    items = listed["train"] or [*listed["validation"], *listed["test"]]
    source = "train" if listed["train"] else "own images"
    return {"training_prior": lists.prior(items, len(listed["classes"])), "prior_source": source}


def _stated(views: Mapping[str, Any], fact: str) -> dict[str, str]:
    """View -> what it states as a fact, such as the parameter it was made with; of those that do."""
    stated = {name: described(view).get(fact) for name, view in views.items()}
    return {name: text for name, text in stated.items() if text}


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("rtda", "torch", "monai", "pytorch-ignite", "numpy")}


def readable(summary: Any, facts: Mapping[str, Any]) -> str:
    """The summary as lines for a terminal, under lines that say what ε and the shifts are."""
    norm, radius, size = facts["training_norm"], facts["training_radius"], facts["image_size"]
    grey = rms_grey_levels(radius, size, facts["channels"], norm)
    head = [f"training radius {norm} {radius:.3g} at {size} x {size}: RMS {grey:.2f} grey levels of 255"]
    shifts = summary.drop_duplicates("view").dropna(subset="parameter")
    head += [f"{view}: {parameter}" for view, parameter in zip(shifts["view"], shifts["parameter"], strict=True)]
    shown = ["recipe", "split", "view", "n", "auroc", "balanced_accuracy", "accuracy", "brier", "ece"]
    text: str = summary[shown].to_string(index=False, float_format=lambda value: f"{value:.3f}")
    return "\n".join([*head, text])
