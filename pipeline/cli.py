"""The command ``rtda``: arguments in, exit status out. What a verb does stands in ``commands/``.

Exit status: 0 done, 1 failed, 2 usage or input that was refused, 130 interrupted. Help and usage errors import neither
torch nor MONAI.
"""

from __future__ import annotations

import argparse
import importlib
import math
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import yaml

from .commands import is_refusal, root_cause
from .delivery.bundle import ROOT_IDS, Bundle, Run, find_bundle, find_evaluated, find_run, find_views, is_run, read_yaml


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    Example:
        >>> main(["train", "no_such_bundle", "--recipe", "rtda"])
        2
    """
    words = [_hyphenated(word) for word in (sys.argv[1:] if argv is None else argv)]
    try:
        arguments = _parser(words).parse_args(words)
        arguments.words = words
        _find(arguments)
        verb = importlib.import_module(f".commands.{arguments.module}", __package__)
        return int(verb.run(arguments) or 0)
    except SystemExit as stop:  # argparse has printed help or the usage error
        return int(stop.code or 0)
    except KeyboardInterrupt:
        print("rtda: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        cause = root_cause(error)
        if not (is_refusal(cause) or _names_a_file(cause)):
            traceback.print_exc()
            return 1
        print(f"rtda: {_told(cause)}", file=sys.stderr)
        return 2 if isinstance(cause, ValueError) else 1


def _find(arguments: argparse.Namespace) -> None:
    """Put in place of each name what it names: a wrong one is refused before torch and MONAI take their seconds."""
    for option, find in arguments.names.items():
        given = getattr(arguments, option)
        if given is None:
            continue
        setattr(arguments, option, [find(name) for name in given] if isinstance(given, list) else find(given))


def _hyphenated(word: str) -> str:
    """Options may be written with underscores, as MONAI writes them."""
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value if name.startswith("--") else word


def _names_a_file(error: BaseException) -> bool:
    return isinstance(error, OSError) and isinstance(error.filename, str)


def _told(error: BaseException) -> str:
    if not isinstance(error, OSError):
        return str(error)
    if not _names_a_file(error):  # our own, which names it in its message
        return error.strerror or str(error)
    return f"{Path(error.filename).name}: file: {error.strerror}; check that it is there and that you may use it"


class _Parser(argparse.ArgumentParser):
    """Usage errors in one line, like every other refusal, each told by the verb that it concerns."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:  # type: ignore[override]
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:  # a verb would hand them on to the parser above it
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return known, unknown

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"rtda: {' '.join(message.split()).removeprefix('argument ')}; see {self.prog} --help\n")


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    parser = _Parser(
        prog="rtda",
        description="Robust training for medical image classifiers, packaged as MONAI bundles.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"rtda {version('rtda')}")
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    _data(verbs)
    _train(verbs, argv)
    _evaluate(verbs)
    _report(verbs)
    _compare(verbs)
    _infer(verbs)
    _pack(verbs)
    _verify(verbs)
    _export(verbs)
    _register(verbs)
    _track(verbs)
    _deploy(verbs)
    return parser


def _verb(verbs: Any, name: str, module: str, help: str, **names: Callable[[str], Any]) -> argparse.ArgumentParser:
    """A verb, the module that does it, and the arguments that are names, each with what finds the thing named."""
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=help, description=help, allow_abbrev=False)
    parser.set_defaults(module=module, names=names)
    return parser


def _data(verbs: Any) -> None:
    kinds = verbs.add_parser("data", help="make cohorts and data lists, and check images", allow_abbrev=False)
    kinds = kinds.add_subparsers(metavar="phantom|build|check", required=True)
    phantom = _verb(kinds, "phantom", "phantom", "make the synthetic cohort: DICOM films and their data list")
    phantom.add_argument("-o", "--output", default="data/phantom", help="folder of the cohort (default: %(default)s)")
    phantom.add_argument("--films", type=int, default=1600, help="number of films (default: %(default)s)")
    phantom.add_argument("--seed", type=int, default=0)
    build = _verb(kinds, "build", "build", "make a data list from a CSV, from paths, or from DICOM headers and a CSV")
    build.add_argument(
        "csv",
        nargs="?",
        help="columns image, label, patient_id[, split, …]; with --dicom: PatientID or SOPInstanceUID, label; with "
        "--pattern: image (may hold * and ?) and what paths do not tell, such as group_id or projection",
    )
    build.add_argument("--dataset-dir", required=True, help="folder below which the images lie")
    build.add_argument("-o", "--output", required=True, help="data list to write (JSON)")
    build.add_argument(
        "--dicom", action="store_true", help="take images and facts from the DICOM headers below dataset-dir"
    )
    build.add_argument(
        "--pattern",
        metavar="REGEX",
        help="take images whose path fits, with groups (?P<label>…), (?P<patient_id>…) and, if told, (?P<split>…)",
    )
    build.add_argument("--classes", help="class names in label order, comma-separated (default: sorted)")
    build.add_argument(
        "--recut-validation", action="store_true", help="join the given validation split to train and cut it anew"
    )
    build.add_argument("--validation", type=float, default=0.1, help="share of train patients (default: %(default)s)")
    build.add_argument(
        "--test", type=float, default=0.2, help="share of patients where no split is given (default: %(default)s)"
    )
    build.add_argument("--key", help="'public', or a key file (default: rtda.key beside the list, made once)")
    build.add_argument("--name", help="name of the list (default: the file's)")
    build.add_argument("--licence", default="", help="licence of the images, written into the list")
    build.add_argument("--source", default="", help="where the images come from, written into the list")
    build.add_argument("--seed", type=int, default=0)
    check = _verb(kinds, "check", "check", "show what is decided about each image (window, polarity, crop …), and why")
    check.add_argument(
        "files",
        metavar="FILES|FOLDER|LIST.json",
        nargs="+",
        help="films, and folders of films at any depth; or one data list, whose images and splits are checked",
    )
    check.add_argument("--dataset-dir", help="of a data list: folder below which its images lie")
    check.add_argument("-o", "--output", metavar="PNG", help="contact sheet to write: thumbnails by number, no names")
    check.add_argument("--markdown", metavar="FILE", help="table to write (Markdown)")
    check.add_argument("--bundle", metavar="NAME", help="decide as this bundle does (default: as DICOM alone says)")
    check.add_argument(
        "--choose",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="a choice of rtda.transforms.display.Choices, above the bundle's: hu_window=[40,400]; repeatable",
    )


def _train(verbs: Any, argv: Sequence[str]) -> None:
    train = _verb(verbs, "train", "train", "train a bundle by a recipe; makes a run folder")
    train.add_argument(
        "bundle", metavar="NAME", help="bundle folder, zip, run folder (its bundle), or installed bundle"
    )
    train.add_argument("--recipe", help="recipe name or YAML file (default, with --resume: the run's own)")
    train.add_argument("--resume", metavar="RUN", help="go on with a run that was stopped, as it was begun")
    train.add_argument("--dry-run", action="store_true", help="print the MONAI command and stop")
    train.add_argument(
        "--register",
        action="store_true",
        help="then evaluate it on validation, and put it into MLflow's registry",
    )
    defaults = _defaults(argv) if {"-h", "--help"} & set(argv) else {}
    options = train.add_argument_group("ids of the bundle's train.yaml", "a value, or an expression: $@radius_224*2")
    for name, kind in ROOT_IDS.items():
        default = "the bundle's" if isinstance(defaults.get(name), dict) else defaults.get(name, "the bundle's")
        help = f"{kind} (default: {default})".replace("%", "%%")
        options.add_argument(
            f"--{name.replace('_', '-')}", dest=name, metavar="VALUE", type=_value_or_expression(kind), help=help
        )


def _defaults(argv: Sequence[str]) -> dict[str, Any]:
    """Root ids of the bundle named on the command line, for the help text."""
    name = _bundle_named(iter(argv[1:])) if argv[0] == "train" else None
    return read_yaml(find_bundle(name).config("train")) if name else {}


def _bundle_named(words: Iterator[str]) -> str | None:
    """The first word that is neither an option nor an option's value."""
    for word in words:
        if not word.startswith("-"):
            return word
        if "=" not in word and word not in ("-h", "--help", "--dry-run", "--register"):
            next(words, None)
    return None


def _value_or_expression(kind: str) -> Callable[[str], Any]:
    """Reader of an option's text: a value of this kind, or an expression, which MONAI evaluates."""
    value = _value(kind)
    return lambda text: text if text.startswith(("$", "@")) else value(text)


def _value(kind: str) -> Callable[[str], Any]:
    """Reader of an option's text."""

    def value(text: str) -> Any:
        try:
            return _READERS[kind](text)
        except (ValueError, yaml.YAMLError):
            raise argparse.ArgumentTypeError(f"{text!r} is not a {kind}") from None

    return value


def _whole(text: str, least: int) -> int:
    if int(text) < least:
        raise ValueError
    return int(text)


def _number(text: str) -> int | float:
    number = float(text)  # YAML takes 1e-3 for a word
    if not math.isfinite(number):
        raise ValueError
    return int(text) if text.strip("+-").isdecimal() else number


def _mapping(text: str) -> dict[str, Any]:
    content = yaml.safe_load(text)
    if not isinstance(content, dict) or "_target_" not in content:
        raise ValueError
    return content


_READERS: dict[str, Callable[[str], Any]] = {
    "whole number ≥ 0": partial(_whole, least=0),
    "whole number ≥ 1": partial(_whole, least=1),
    "number": _number,
    "text": str,
    "mapping with _target_": _mapping,
}


def _evaluate(verbs: Any) -> None:
    evaluate = _verb(
        verbs,
        "evaluate",
        "evaluate",
        "evaluate a run, or any classifier, on views; writes predictions.parquet, metrics.json and metrics.csv",
        run=find_run,
        preset=find_views,
    )
    evaluate.add_argument("run", metavar="RUN", nargs="?", help="run folder")
    evaluate.add_argument("--split", choices=["test", "validation"], default="test", help="default: %(default)s")
    evaluate.add_argument("--preset", default="quick", help="views: preset name or YAML file (default: %(default)s)")
    evaluate.add_argument(
        "--checkpoint",
        choices=["best", "last", "half"],
        default="best",
        help="half: the best in float16, as rtda pack --half packs it (default: %(default)s)",
    )
    evaluate.add_argument("--dataset-dir", help="folder of the images, if it moved since training")
    count, size = _value("whole number ≥ 1"), _value("whole number ≥ 0")
    evaluate.add_argument(
        "--processes", type=count, default=1, help="processes (default: %(default)s); the table is the same"
    )
    evaluate.add_argument("--threads", type=count, default=1, help="CPU threads of each process (default: %(default)s)")
    evaluate.add_argument(
        "--num-workers", type=size, default=0, help="loader workers of each process (default: %(default)s)"
    )
    evaluate.add_argument(
        "--batch-size",
        type=count,
        default=64,
        help="images loaded at once (default: %(default)s); the table is the same",
    )
    evaluate.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    foreign = evaluate.add_argument_group("any classifier, instead of a run")
    foreign.add_argument(
        "--model", metavar="M", help="bundle, run, TorchScript, torch.export or ONNX file, or module:function"
    )
    foreign.add_argument("--data-list", metavar="LIST.json", help="data list to evaluate on")
    foreign.add_argument("-o", "--output", metavar="OUT", help="folder to write: table, figures, report")
    foreign.add_argument("--classes", help="names of its outputs in order, comma-separated (default: its metadata's)")
    foreign.add_argument("--image-size", type=count, help="rows and columns that it takes (default: its own)")
    foreign.add_argument("--channels", type=count, help="channels that it takes (default: its own)")
    foreign.add_argument(
        "--value-range", type=_range, metavar="LOW,HIGH", help="of the images that it takes (default: its metadata's)"
    )
    foreign.add_argument(
        "--gives", choices=["logits", "probabilities"], help="what it returns (default: its outputs on images tell)"
    )
    foreign.add_argument("--random-weights", action="store_true", help="of a bundle without weights")


def _range(text: str) -> tuple[float, float]:
    """Two numbers, the first below the second."""
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not LOW,HIGH, such as 0,255") from None
    return low, high


def _report(verbs: Any) -> None:
    report = _verb(verbs, "report", "report", "write one HTML report over evaluations", folders=find_evaluated)
    report.add_argument("folders", metavar="RUN", nargs="+", help="run folders, or what rtda evaluate --model wrote")
    report.add_argument("-o", "--output", help="HTML file (default: report.html in the first folder)")
    report.add_argument("--no-pictures", action="store_true", help="leave the pictures of test images out")


def _compare(verbs: Any) -> None:
    does = "compare two evaluations on the same images: paired differences, and what the images can decide"
    compare = _verb(verbs, "compare", "compare", does, a=find_evaluated, b=find_evaluated)
    compare.add_argument("a", metavar="A", help="run folder, or what rtda evaluate --model wrote; the baseline")
    compare.add_argument("b", metavar="B", help="another, evaluated on the same images and views")
    compare.add_argument("-o", "--output", metavar="FILE.json|FILE.md", help="file to write, too; JSON has all metrics")


def _infer(verbs: Any) -> None:
    does = "predict DICOM, PNG, JPEG and NIfTI: a row, or an error row, for each frame"
    infer = _verb(verbs, "infer", "infer", does, bundle=_run_or_bundle)
    infer.add_argument("bundle", metavar="NAME", help="packed zip, bundle folder, run folder, or installed bundle")
    infer.add_argument("files", metavar="FILES|FOLDER", nargs="+", help="a frame of a file is FILE#frame=3, from 0")
    infer.add_argument("-o", "--output", help="CSV to write (default: the terminal)")


def _run_or_bundle(name: str) -> Run | Bundle:
    return find_run(name) if is_run(Path(name)) else find_bundle(name)


def _register(verbs: Any) -> None:
    does = "put an evaluated run's model into MLflow's registry, with its evidence"
    register = _verb(verbs, "register", "register", does, run=find_run)
    register.add_argument("run", metavar="RUN", help="run folder")
    register.add_argument("--name", help="of the registered model (default: the bundle's)")
    register.add_argument("--alias", default="candidate", help="that the new version takes (default: %(default)s)")


def _track(verbs: Any) -> None:
    does = "send a run to MLflow (again), as its folder has it: what MLflow missed, or all of it to another server"
    _verb(verbs, "track", "track", does, run=find_run).add_argument("run", metavar="RUN", help="run folder")


def _deploy(verbs: Any) -> None:
    does = "write a MONAI Deploy application of a bundle: DICOM in, JSON and DICOM SR out"
    deploy = _verb(verbs, "deploy", "deploy", does, bundle=_run_or_bundle)
    deploy.add_argument("bundle", metavar="NAME", help="packed zip, bundle folder or run folder")
    deploy.add_argument("-o", "--output", metavar="APP", required=True, help="folder to write")
    classes, told = ("comprehensive3d", "comprehensive", "enhanced"), "of the reports (default: comprehensive3d)"
    deploy.add_argument(
        "--sr-class", choices=classes, default=classes[0], help=f"{told}; the others for older archives"
    )


def _export(verbs: Any) -> None:
    does = "write a bundle's network as one file: TorchScript, torch.export or ONNX"
    export = _verb(verbs, "export", "export", does, bundle=_run_or_bundle)
    export.add_argument("bundle", metavar="NAME", help="packed zip, bundle folder or run folder")
    export.add_argument("--to", choices=["ts", "pt2", "onnx"], required=True)
    export.add_argument("-o", "--output", help="file to write (default: NAME with the form as its ending)")


def _verify(verbs: Any) -> None:
    does = "check that a bundle is whole, says what is true, and runs elsewhere; offline"
    verify = _verb(verbs, "verify", "verify", does, bundle=find_bundle)
    verify.add_argument("bundle", metavar="NAME", help="packed zip, bundle folder, or installed bundle")
    verify.add_argument("--json", action="store_true", help="print the findings as JSON")


def _pack(verbs: Any) -> None:
    does = "pack a run as a MONAI bundle: weights, threshold and evidence in one zip"
    pack = _verb(verbs, "pack", "pack", does, run=find_run, beside=find_run)
    pack.add_argument("run", metavar="RUN", help="run folder")
    pack.add_argument("-o", "--output", required=True, help="zip to write")
    pack.add_argument(
        "--half", action="store_true", help="weights in float16, half the size; first rtda evaluate --checkpoint half"
    )
    pack.add_argument(
        "--beside", metavar="RUN", action="append", default=[], help="its weights too, as models/RECIPE.pt; repeatable"
    )


if __name__ == "__main__":
    sys.exit(main())
