"""``rtda evaluate``: a run's checkpoint on views; writes the table and the pictures of the report."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from monai.bundle import ConfigParser
from monai.transforms import Compose

from ..attacks import frozen
from ..data import lists
from ..delivery.bundle import BundleError, Run, find_run, find_views
from ..evidence.evaluation import Evaluation, exact, named, weights_checksum
from ..evidence.metrics import flat, rms_grey_levels, summarise
from ..evidence.table import facts_of, write_table
from ..files import write_whole
from ..handlers import load_checkpoint
from ..seeding import derived_seed, forked
from ..tracking import log_artifacts, log_metrics
from ..views import Augment, Clean
from . import made, quieten


def run(arguments: argparse.Namespace) -> int:
    """Evaluate; see ``rtda evaluate --help``."""
    if arguments.processes < 1 or arguments.threads < 1:
        raise BundleError("processes, threads: must be at least 1")
    quieten()
    run = find_run(arguments.run)
    parser = load(run, arguments)
    evaluations = [_evaluation(run, parser, split, arguments) for split in splits(arguments.split)]
    if arguments.rank is not None:
        for evaluation in evaluations:
            evaluation.run(arguments.rank, arguments.processes, arguments.num_workers)
        return 0
    for evaluation in evaluations:
        evaluation.claim()
    others = _start_others(arguments)
    try:
        for evaluation in evaluations:
            evaluation.run(0, arguments.processes, arguments.num_workers)
        if any(process.wait() for process in others):
            raise BundleError(f"{run.folder.name}: an evaluating process failed; its message stands above")
    finally:
        for process in others:
            process.terminate()
    table = pa.concat_tables([evaluation.table(facts(run, parser, evaluations[0])) for evaluation in evaluations])
    out = write_table(table, table_path(run, arguments.split, arguments.checkpoint))
    for evaluation in evaluations:
        evaluation.discard()
    _write_examples(run, parser, evaluations[0], out.with_name(out.name.replace("predictions", "examples")))
    summary = summarise(table)
    print(readable(summary, facts_of(table)))
    own = summary[(summary["recipe"] == run.facts["recipe"]) & (summary["split"] == arguments.split)]
    others_than_the_usual = out.stem.removeprefix("predictions").strip("-")
    prefix = f"{others_than_the_usual}/" if others_than_the_usual else ""
    log_metrics(run.folder, {f"{prefix}{name}": value for name, value in flat(own).items()})
    log_artifacts(run.folder, [out])
    return 0


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


def splits(reported: str) -> list[str]:
    """The reported split with all views; before a test split also clean validation, which sets the threshold."""
    return [reported] if reported == "validation" else [reported, "validation"]


def load(run: Run, arguments: Any) -> Any:
    """The run's configuration with the preset's views, network and checkpoint."""
    parser = ConfigParser()
    parser.read_config([str(run.config), str(find_views(arguments.preset))])
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
    network.load_state_dict(load_checkpoint(run.folder / f"{arguments.checkpoint}.pt")["model"])
    network.to(parser.get_parsed_content("device"))
    return parser


def _evaluation(run: Run, parser: Any, split: str, arguments: Any) -> Evaluation:
    views = named(made(parser, "evaluation_views"))
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
        run.folder / "parts" / f"{arguments.checkpoint}-{split}",
        identity={name: run.settings.get(name) for name in ("preprocessing", "reader", "choices")}
        | {"versions": _versions()},
        threads=arguments.threads,
    )


def _start_others(arguments: Any) -> list[subprocess.Popen[bytes]]:
    """The same command once more for each further rank; every rank takes whole shards."""
    command = [sys.executable, "-m", "rtda.pipeline", "evaluate", arguments.run, "--split", arguments.split]
    command += ["--preset", arguments.preset, "--checkpoint", arguments.checkpoint]
    command += ["--dataset-dir", arguments.dataset_dir] if arguments.dataset_dir else []
    for name in ("processes", "threads", "num_workers"):
        command += [f"--{name.replace('_', '-')}", str(getattr(arguments, name))]
    return [subprocess.Popen([*command, "--rank", str(rank)]) for rank in range(1, arguments.processes)]


def facts(run: Run, parser: Any, evaluation: Evaluation) -> dict[str, Any]:
    """What the table's metadata says of the model, the list and the computation."""
    attack = parser.get_parsed_content("attack")
    data_list, dataset_dir = parser.get_parsed_content("data_list"), parser.get_parsed_content("dataset_dir")
    return {
        "classes": lists.class_names(data_list),
        "training_prior": lists.prior(lists.load(data_list, dataset_dir, "train"), len(lists.class_names(data_list))),
        "image_size": parser.get_parsed_content("image_size"),
        "channels": run.bundle.metadata["network_data_format"]["inputs"]["image"]["num_channels"],
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


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("rtda", "torch", "monai", "pytorch-ignite", "numpy")}


def _write_examples(run: Run, parser: Any, evaluation: Evaluation, out: Path) -> None:
    """Two images of each class under the report's four views, drawn like everything else from a derived seed."""
    labels = [item["label"] for item in evaluation.items]
    rows = sorted(i for label in sorted(set(labels)) for i in _first(labels, label, 2))
    batch = [evaluation.transform(evaluation.items[i]) for i in rows]
    x = torch.stack([torch.as_tensor(item["image"]) for item in batch]).to(evaluation.device)
    y = torch.tensor([labels[i] for i in rows], device=evaluation.device)
    model, attack = evaluation.model, parser.get_parsed_content("attack")
    with exact(evaluation.threads), forked(derived_seed("examples"), evaluation.device):
        augmented = Augment(parser.get_parsed_content("augmentation"))(model, x, y)
        adversarial = attack(model, x, y)
        with frozen(model), torch.no_grad():
            predicted = {name: model(images).argmax(1) for name, images in (("clean", x), ("adversarial", adversarial))}
    arrays = {"clean": x, "augmented": augmented, "adversarial": adversarial, "labels": y}
    arrays |= {f"predicted_{name}": value for name, value in predicted.items()}
    named_facts = {"recipe": run.facts["recipe"], "epsilon": attack.ball.radius, "norm": attack.ball.norm}
    _save_arrays(out.with_suffix(".npz"), {k: v.cpu().numpy() for k, v in arrays.items()} | named_facts)


def _first(labels: list[int], label: int, n: int) -> list[int]:
    return [i for i, value in enumerate(labels) if value == label][:n]


def _save_arrays(path: Path, arrays: dict[str, Any]) -> None:
    import io

    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_whole(path, buffer.getvalue())


def readable(summary: Any, facts: Mapping[str, Any]) -> str:
    """The summary as lines for a terminal, under a line that says what ε is."""
    norm, radius, size = facts["training_norm"], facts["training_radius"], facts["image_size"]
    grey = rms_grey_levels(radius, size, facts["channels"], norm)
    head = f"training radius {norm} {radius:.3g} at {size} x {size}: RMS {grey:.2f} grey levels of 255"
    shown = ["recipe", "split", "view", "n", "auroc", "balanced_accuracy", "accuracy", "brier", "ece"]
    text: str = summary[shown].to_string(index=False, float_format=lambda value: f"{value:.3f}")
    return f"{head}\n{text}"
