"""What evaluating a run and any other model have in common: processes, checks, facts, and what is written."""

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
from monai.transforms import Transform

from ..attacks import PGD
from ..data import lists
from ..delivery.bundle import INSTALLED, BundleError
from ..evidence.across import worst_shift
from ..evidence.answers import answers
from ..evidence.evaluation import Evaluation, described, weights_checksum
from ..evidence.figures import figures
from ..evidence.gate import Gate
from ..evidence.masking import balanced_rows, check_masking
from ..evidence.metrics import intervals, rms_grey_levels
from ..evidence.table import merge, read_table
from ..files import write_whole
from ..views import View, plain


def compute(evaluations: Sequence[Evaluation], arguments: argparse.Namespace) -> bool:
    """Compute the parts of all evaluations; False in a process that only helps and has nothing more to do."""
    if arguments.rank is not None:
        _compute(evaluations, arguments, arguments.rank)
        return False
    for evaluation in evaluations:
        evaluation.claim()
    others = _start_others(arguments)
    try:
        _compute(evaluations, arguments)
        if any(process.wait() for process in others):
            name = evaluations[0].record["bundle"]
            raise BundleError(f"{name}: processes: one of them failed; its message stands above, mend what it names")
    finally:
        for process in others:
            process.terminate()
    return True


def _compute(evaluations: Sequence[Evaluation], arguments: argparse.Namespace, rank: int = 0) -> None:
    for evaluation in evaluations:
        evaluation.run(rank, arguments.processes, arguments.num_workers, arguments.batch_size)


def _start_others(arguments: argparse.Namespace) -> list[subprocess.Popen[bytes]]:
    """The same command once more for each further rank; every rank takes whole shards."""
    command = [sys.executable, "-m", "rtda.pipeline", *arguments.words]
    return [subprocess.Popen([*command, "--rank", str(rank)]) for rank in range(1, arguments.processes)]


def write(
    evaluations: Sequence[Evaluation], facts: Mapping[str, Any], made_by: Mapping[str, Any], out: Path
) -> pa.Table:
    """Write the table, and its figures as JSON and CSV; return the table."""
    table = read_table(merge([part for evaluation in evaluations for part in evaluation.written], facts, out))
    for evaluation in evaluations:
        evaluation.discard()
    content = json.dumps({**figures(table), **made_by}, indent=1, ensure_ascii=False)
    write_whole(figures_path(out), f"{content}\n".encode())
    write_whole(figures_path(out, ".csv"), intervals(table).to_csv(index=False).encode())
    return table


def figures_path(table: Path, ending: str = ".json") -> Path:
    """Where the figures of a table lie: ``metrics.json`` beside ``predictions.parquet``, and so on."""
    return table.with_name(table.name.replace("predictions", "metrics")).with_suffix(ending)


def examples_path(table: Path) -> Path:
    """Where the pictures lie that belong to a table: ``examples.npz`` beside ``predictions.parquet``, and so on."""
    return table.with_name(table.name.replace("predictions", "examples")).with_suffix(".npz")


def worst_shift_view(evaluation: Evaluation, table: pa.Table) -> dict[str, View]:
    """The shift with the least balanced accuracy, as ``worst_shift``; nothing where no shift was evaluated."""
    worst = worst_shift(answers(table))
    return {} if worst is None else {"worst_shift": evaluation.views[worst]}


def splits(reported: str, listed: Mapping[str, Any]) -> list[str]:
    """The reported split with all views; beside a test split clean validation, if any, which sets the threshold."""
    return [reported, "validation"] if reported != "validation" and listed["validation"] else [reported]


def flat_views(views: Any) -> Iterator[Any]:
    """A preset's views, the lists among them opened; a transform of images that is no view is refused."""
    for view in views:
        if isinstance(view, Transform):
            name = type(view).__name__
            raise BundleError(
                f"evaluation_views: {name}: a transform, not a view; put it into rtda.pipeline.views.PerImage"
            )
        yield from flat_views(view) if isinstance(view, list) else [view]


def masking(evaluation: Evaluation, attack: PGD, most: int) -> dict[str, Any]:
    """The gradient-masking checks on at most so many of the reported images."""
    if isinstance(evaluation.items[0]["label"], list):
        return undecided("not run: the checks ask which of several classes is answered, and here each is a label")
    rows = balanced_rows([item["label"] for item in evaluation.items], most, evaluation.seed)
    items = [evaluation.transform(evaluation.items[row]) for row in rows]
    x = torch.stack([plain(torch.as_tensor(item["image"])) for item in items]).to(evaluation.device)
    y = torch.tensor([int(item["label"]) for item in items], device=evaluation.device)
    print(f"gradient-masking checks on {len(rows)} images", file=sys.stderr, flush=True)
    how: dict[str, Any] = {"bounds": attack.bounds, "images": most, "seed": evaluation.seed}
    try:
        return check_masking(evaluation.model, x, y, attack.ball, **how, threads=evaluation.threads).as_dict()
    except ValueError as error:  # of the images, which are too few or of one class: the rest of the table stands
        return undecided(str(error))


def undecided(why: str) -> dict[str, Any]:
    """The gate where no check could be run."""
    return Gate((), {}, {"why": why}).as_dict() | {"verdict": "not decidable"}


def common_facts(evaluation: Evaluation, listed: Mapping[str, Any], checksum: str) -> dict[str, Any]:
    """What the table's metadata says of the list and the computation, whosever the model."""
    return {
        "classes": listed["classes"],
        **({"multilabel": True} if listed.get("multilabel") else {}),
        **_prior(listed),
        "parameters": _stated(evaluation.views, "parameter"),
        "groups": _stated(evaluation.views, "group"),
        "threads": evaluation.threads,
        "device": evaluation.device.type,
        "checksum_list": checksum,
        "checksum_weights": weights_checksum(evaluation.model.state_dict()),
        "versions": versions(),
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


def versions() -> dict[str, str]:
    """Of the packages that a number depends on."""
    return {name: version(name) for name in ("rtda", "torch", "monai", "pytorch-ignite", "numpy")}


def readable(summary: Any, facts: Mapping[str, Any]) -> str:
    """The summary as lines for a terminal, under lines that say what ε and the shifts are."""
    norm, radius, size = facts["training_norm"], facts["training_radius"], facts["image_size"]
    dimensions = facts.get("dimensions", 2)
    grey = rms_grey_levels(radius, size, facts["channels"], norm, dimensions)
    word, shape = "reference" if facts.get("reference") else "training", " x ".join([str(size)] * dimensions)
    head = [f"{word} radius {norm} {radius:.3g} at {shape}: RMS {grey:.2f} grey levels of 255"]
    if gate := facts.get("masking"):
        head.append(
            f"gradient-masking checks: {gate['verdict']}{': ' if gate['failed'] else ''}{', '.join(gate['failed'])}"
        )
    shifts = summary.drop_duplicates("view").dropna(subset="parameter")
    head += [f"{view}: {parameter}" for view, parameter in zip(shifts["view"], shifts["parameter"], strict=True)]
    shown = ["recipe", "split", "view", "n", "auroc", "balanced_accuracy", "accuracy", "brier", "ece"]
    text: str = summary[shown].to_string(index=False, float_format=lambda value: f"{value:.3f}")
    return "\n".join([*head, text])


def preset_of(arguments: argparse.Namespace) -> str:
    """Name of the preset: of a shipped one, or of the file."""
    return str(arguments.preset.stem if arguments.preset.is_relative_to(INSTALLED) else arguments.preset.name)
