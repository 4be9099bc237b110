"""Inference on files, by the bundle's own preprocessing, network and postprocessing."""

from __future__ import annotations

import csv
import io
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from ..attacks import frozen
from ..data.lists import file_of
from ..evidence.evaluation import exact
from ..handlers import load_weights
from ..views import plain
from .bundle import Bundle, Run, class_names, read_yaml
from .guard import Deviation, deviations
from .pack import inference_config
from .programs import CARRIED, ModelError, read_program


@dataclass(frozen=True)
class Answer:
    """What is answered on one image.

    Attributes:
        probabilities: of each class, in float64.
        deviations: in what it is unlike the images of training.
        meta: the reader's facts of the image.
    """

    probabilities: list[float]
    deviations: list[Deviation]
    meta: Mapping[str, Any]


@dataclass(frozen=True)
class Classifier:
    """A bundle ready to predict single files.

    Attributes:
        parser: the bundle's inference configuration.
        network: with its weights: (B, C, *spatial) -> logits.
        classes: names of the probabilities, in order.
        threshold: of the second class where there are two; else None, and the largest probability decides.
        trained_on: of the metadata; see :mod:`.guard`.
        metadata: of the bundle.
    """

    parser: ConfigParser
    network: torch.nn.Module
    classes: Sequence[str]
    threshold: float | None
    trained_on: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of_bundle(cls, bundle: Bundle) -> Classifier:
        """From a packed bundle: its weights, and what its metadata state of them."""
        config, weights = read_yaml(bundle.config("inference")), bundle.root / "models" / "model.pt"
        return cls._loaded(bundle, config, weights, bundle.metadata.get("rtda", {}))

    @classmethod
    def of_run(cls, run: Run, stated: Mapping[str, Any]) -> Classifier:
        """From a run's best checkpoint, and what its evaluation states of it; the same as the bundle that it packs."""
        return cls._loaded(run.bundle, inference_config(run), run.folder / "best.pt", stated)

    @classmethod
    def of_program(cls, path: Path) -> Classifier:
        """From a file that ``rtda export`` made: its program, and the metadata and configuration that it carries."""
        program = read_program(path, torch.device("cpu"))
        if lacking := [name for name in CARRIED if name not in program.carried]:
            raise ModelError(f"{path.name}: {lacking[0]}: not carried; make the file by rtda export")
        metadata, config = (program.carried[name] for name in CARRIED)
        parser = ConfigParser({**config, "device": "$torch.device('cpu')"})
        return cls._stating(parser, program.network, metadata, metadata.get("rtda", {}))

    @classmethod
    def _loaded(cls, bundle: Bundle, config: dict[str, Any], weights: Path, stated: Mapping[str, Any]) -> Classifier:
        parser = ConfigParser(config | {"bundle_root": str(bundle.root)})
        network = parser.get_parsed_content("network_def")
        network.load_state_dict(load_weights(weights))
        network.to(parser.get_parsed_content("device"))
        return cls._stating(parser, network, bundle.metadata, stated)

    @classmethod
    def _stating(
        cls, parser: ConfigParser, network: torch.nn.Module, metadata: Mapping[str, Any], stated: Mapping[str, Any]
    ) -> Classifier:
        classes = class_names(metadata)
        threshold = stated.get("threshold", 0.5) if len(classes) == 2 else None
        return cls(parser, network, classes, threshold, metadata.get("trained_on", {}), metadata)

    def frames(self, file: Path) -> Mapping[int, Path]:
        """Number of each image of a file, and the path that names it, as the bundle's ``reader`` says; else the file.

        Raises what the reader raises about the file as a whole.
        """
        reader: Any = self.parser.get_parsed_content("reader") if "reader" in self.parser else None
        frames: Mapping[int, Path] = reader.frames(file) if hasattr(reader, "frames") else {0: file}
        return frames

    def answer(self, image: Path) -> Answer:
        """The answer on one image; raises what the reader raises."""
        item = self.parser.get_parsed_content("preprocessing")({"image": str(image)})
        meta = getattr(item["image"], "meta", {})
        x = plain(item["image"])[None].to(self.parser.get_parsed_content("device"))
        with exact(torch.get_num_threads()), frozen(self.network) as network:
            pred = self._inferred(x, network)[0]
        processed = self.parser.get_parsed_content("postprocessing")(item | {"pred": pred})["pred"]
        return Answer([float(p) for p in plain(processed)], list(deviations(meta, x[0], self.trained_on)), meta)

    @torch.no_grad()
    def _inferred(self, x: torch.Tensor, network: torch.nn.Module) -> torch.Tensor:
        logits: torch.Tensor = self.parser.get_parsed_content("inferer")(x, network)
        return logits

    def predicted(self, probabilities: Sequence[float]) -> str:
        """Name of the predicted class."""
        if self.threshold is not None:
            return self.classes[int(probabilities[1] >= self.threshold)]
        return self.classes[max(range(len(probabilities)), key=probabilities.__getitem__)]


def rows(classifier: Classifier, files: Iterable[Path]) -> Iterator[dict[str, Any]]:
    """One row a frame; a file or frame that cannot be read has its error there, and the next ones go on."""
    for given in files:
        file = file_of(given)
        row = {"file": str(file), "frame": 0, "threshold": _printed(classifier.threshold)}
        try:
            frames = classifier.frames(given)
        except Exception as error:
            yield row | {"error": reason(error, file)}
            continue
        for frame, image in frames.items():
            yield row | {"frame": frame} | _predicted(classifier, image, file)


def _printed(threshold: float | None) -> str:
    """Six digits, as probabilities have; significant ones, as a confident network's threshold may be 1e-8.

    Only print is rounded. What decides is not, as it was not in evaluation: a film at the threshold is predicted here
    as there, though it may look equal to it either way.
    """
    return "" if threshold is None else f"{threshold:.6g}"


def _predicted(classifier: Classifier, image: Path, file: Path) -> dict[str, Any]:
    """What the columns say of one frame: prediction or error, and what the reader warned of the file."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            answer = classifier.answer(image)
        except Exception as error:
            found, unlike = {"error": reason(error, file)}, []
        else:
            named = {name: f"{p:.6f}" for name, p in zip(classifier.classes, answer.probabilities, strict=True)}
            found = {"predicted": classifier.predicted(answer.probabilities), **named}
            unlike = [one.told for one in answer.deviations]
    texts = [text for text in (str(one.message) for one in caught) if text.startswith(prefix_of(file))]
    texts += [f"{prefix_of(file)}{text}" for text in unlike]
    return found | {"warning": "; ".join(dict.fromkeys(texts))}


def reason(error: BaseException, file: Path) -> str:
    """What the reader says of the file, in one line, else the first cause: MONAI wraps what a transform raises."""
    while error.__cause__ is not None and not str(error).startswith(prefix_of(file)):
        error = error.__cause__
    return " ".join(str(error).split()) or type(error).__name__


def prefix_of(file: Path) -> str:
    """What begins whatever the reader says of a file: its name, in one line of single blanks.

    Example:
        >>> prefix_of(Path("films/chest  1.dcm"))
        'chest 1.dcm: '
    """
    return " ".join(f"{file.name}:".split()) + " "


def columns(classifier: Classifier) -> list[str]:
    """Columns of the CSV, in order."""
    return ["file", "frame", "predicted", *classifier.classes, "threshold", "warning", "error"]


def as_csv(classifier: Classifier, table: Iterable[dict[str, Any]]) -> str:
    """The rows as CSV text with a header; bytes of a file's name that are not UTF-8 as ``\\udce9``."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns(classifier), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return text.getvalue().encode(errors="backslashreplace").decode()


def found(paths: Iterable[str], written: Iterable[str | None] = ()) -> list[Path]:
    """Files and frames (``loop.dcm#frame=3``) as given, and every file below a folder, sorted, each once.

    Hidden files and folders are left out, and so is, below a folder, what the command itself writes.

    Raises:
        ValueError: a path does not exist, a folder cannot be read, or there is no file at all.
    """
    own = {Path(one).resolve() for one in written if one}
    files: list[Path] = []
    for path in map(Path, paths):
        if not file_of(path).exists():
            raise ValueError(f"{path.name}: file: does not exist; give files or folders that do")
        files += (file for file in _below(path) if file.resolve() not in own) if path.is_dir() else [path]
    if not files:
        raise ValueError("files: none below the folders given; give files or folders that hold some")
    return list(dict.fromkeys(files))


def _below(folder: Path) -> list[Path]:
    """Files below a folder, sorted; one that cannot be read is refused, as its files would be missed unnoticed."""
    files: list[Path] = []
    for inside, folders, names in os.walk(folder, onerror=_unreadable):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += (Path(inside, name) for name in names if not name.startswith("."))
    return sorted(file for file in files if file.is_file())


def _unreadable(error: OSError) -> None:
    name = Path(str(error.filename)).name
    raise ValueError(f"{name}: folder: {error.strerror}; make it readable, or give what lies beside it") from None
