"""Inference on files, by the bundle's own preprocessing, network and postprocessing."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from ..attacks import frozen
from ..handlers import load_checkpoint
from ..views import plain
from .bundle import Bundle


@dataclass(frozen=True)
class Classifier:
    """A bundle ready to predict single files.

    Attributes:
        classes: names of the probabilities, in order.
        threshold: of the second class where there are two; else None, and the largest probability decides.
        threshold_source: how the threshold was chosen.
    """

    parser: ConfigParser
    classes: Sequence[str]
    threshold: float | None
    threshold_source: str

    @classmethod
    def load(cls, bundle: Bundle, weights: Path | None = None, stated: Mapping[str, Any] | None = None) -> Classifier:
        """From a packed bundle, or from a bundle with the checkpoint of a run and what is stated of it."""
        parser = ConfigParser()
        parser.read_config(str(bundle.config("inference")))
        parser["bundle_root"] = str(bundle.root)
        network = parser.get_parsed_content("network_def")
        network.load_state_dict(load_checkpoint(weights or bundle.root / "models" / "model.pt")["model"])
        network.to(parser.get_parsed_content("device"))
        stated = bundle.metadata.get("rtda", {}) if stated is None else stated
        threshold = stated.get("threshold", 0.5) if len(bundle.classes) == 2 else None
        return cls(parser, bundle.classes, threshold, stated.get("threshold_source", "0.5 (not evaluated)"))

    def probabilities(self, file: Path) -> list[float]:
        """Probability of each class for one file; raises what the reader raises."""
        image = self.parser.get_parsed_content("preprocessing")({"image": str(file)})["image"]
        x = plain(image)[None].to(self.parser.get_parsed_content("device"))
        with frozen(self.parser.get_parsed_content("network_def")) as network, torch.no_grad():
            pred = self.parser.get_parsed_content("inferer")(x, network)[0]
        processed = self.parser.get_parsed_content("postprocessing")({"image": image, "pred": pred})["pred"]
        return [float(p) for p in plain(processed)]

    def predicted(self, probabilities: Sequence[float]) -> str:
        """Name of the predicted class."""
        if self.threshold is not None:
            return self.classes[int(probabilities[1] >= self.threshold)]
        return self.classes[max(range(len(probabilities)), key=probabilities.__getitem__)]


def rows(classifier: Classifier, files: Iterable[Path]) -> Iterator[dict[str, Any]]:
    """One row a file; a file that cannot be read has its error there, and the next ones go on."""
    for file in files:
        row: dict[str, Any] = {"file": str(file), "threshold": classifier.threshold}
        try:
            probabilities = classifier.probabilities(file)
        except Exception as error:
            yield row | {"error": reason(error)}
            continue
        named = {name: f"{p:.6f}" for name, p in zip(classifier.classes, probabilities, strict=True)}
        yield row | {"predicted": classifier.predicted(probabilities), **named}


def reason(error: BaseException) -> str:
    """The first cause, in one line: MONAI wraps what a reader raises in the name of the transform."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split()) or type(error).__name__


def columns(classifier: Classifier) -> list[str]:
    """Columns of the CSV, in order."""
    return ["file", "frame", "predicted", *classifier.classes, "threshold", "warning", "error"]


def as_csv(classifier: Classifier, table: Iterable[dict[str, Any]]) -> str:
    """The rows as CSV text with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns(classifier), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return text.getvalue()


def found(paths: Iterable[str]) -> list[Path]:
    """Files as given, and every file below a folder, sorted; hidden ones left out.

    Raises:
        ValueError: a path does not exist, or there is no file at all.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        if not path.exists():
            raise ValueError(f"{path.name}: file: does not exist; give files or folders that do")
        inside = (file for file in sorted(path.rglob("*")) if file.is_file() and not file.name.startswith("."))
        files += inside if path.is_dir() else [path]
    if not files:
        raise ValueError("files: none below the folders given; give files or folders that hold some")
    return files
