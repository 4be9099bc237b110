"""``rtda data check``: what the reader decides about each file and why, in lines, a table, and a sheet to look at."""

from __future__ import annotations

import argparse
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml
from monai.bundle import ConfigParser
from rtda.transforms.display import Choices
from rtda.transforms.header import DicomError, NotAnImage
from rtda.transforms.reader import FilmReader, ForeignFile, ImageError, VolumeFile

from ..data.lists import file_of
from ..delivery.bundle import BundleError, find_bundle, read_yaml
from ..delivery.infer import found, prefix_of
from ..files import write_whole
from ..progress import progress
from ..sheet import MUTED, Tile, contact_sheet, evenly, thumbnail
from . import check_list, made, quieten

READ, VOLUME, NO_IMAGE, REFUSED = "read", "volume", "not an image", "refused"
TURNED, BAD = "#f0b35a", "#e8776b"
"""Colours of captions: an image that was inverted on the way, and a file that was refused."""


@dataclass(frozen=True)
class Row:
    """What is said of one file; of an image also modality, polarity and window in few words, and whether to hide it."""

    name: str
    outcome: str
    what: str
    decided: str
    modality: str = ""
    polarity: str = ""
    window: str = ""
    burned_in: bool = False


def run(arguments: argparse.Namespace) -> int:
    """Check; see ``rtda data check --help``. Status 1 if a file was refused."""
    quieten()
    if [Path(name).suffix for name in arguments.files] == [".json"]:
        if arguments.output or arguments.markdown:
            raise ValueError(f"{Path(arguments.files[0]).name}: output: a list is told in lines only; leave it out")
        return check_list.run(arguments, FilmReader(chosen(arguments.bundle, arguments.choose)))
    for out in (Path(out) for out in (arguments.output, arguments.markdown) if out):
        if out.is_dir():
            raise ValueError(f"{out.name or out}: output: a folder; give the file to write")
    choices = chosen(arguments.bundle, arguments.choose)
    files = found(arguments.files, written=(arguments.output, arguments.markdown))
    roots = [Path(path) for path in arguments.files if Path(path).is_dir()]
    drawn, reader = set(evenly(len(files)) if arguments.output else ()), FilmReader(choices)
    seen = (checked(file, roots, reader, k in drawn) for k, file in enumerate(progress(files, "check")))
    rows, pictures = zip(*seen, strict=True)
    summary = summarised(rows, choices)
    for number, row in enumerate(rows, 1):
        print(f"{number:>{len(str(len(rows)))}}  {row.name}  {row.what}: {row.decided}")
    print("", *summary, sep="\n")
    if arguments.markdown:
        write_whole(Path(arguments.markdown), as_markdown(rows, summary).encode())
    if arguments.output:
        tiles = [tile_of(k + 1, rows[k], pictures[k]) for k in sorted(drawn)]
        part = f"; {len(tiles)} of {len(rows)} files drawn, evenly spaced" if len(tiles) < len(rows) else ""
        write_whole(Path(arguments.output), contact_sheet(tiles, [summary[0] + part, summary[2]]))
        print(f"{arguments.output}{part}")
    return int(any(row.outcome == REFUSED for row in rows))


# Choices


def chosen(bundle: str | None, words: Iterable[str]) -> Choices:
    """Choices of a bundle, the id ``choices`` of its inference.yaml, and above them those given as NAME=VALUE.

    Raises:
        ValueError: a field or a value that does not exist, or a bundle whose choices are none.

    Example:
        >>> chosen(None, ["hu_window=[40, 400]", "polarity=shape"]).hu_window
        [40, 400]
    """
    return replace(_of_bundle(bundle) if bundle else Choices(), **dict(_choice(word) for word in words))


def _of_bundle(name: str) -> Choices:
    config = read_yaml(find_bundle(name).config("inference"))
    choices = made(ConfigParser(config), "choices") if "choices" in config else Choices()
    if not isinstance(choices, Choices):
        raise BundleError("inference.yaml: choices: not rtda.transforms.display.Choices; correct its _target_")
    return choices


def _choice(word: str) -> tuple[str, Any]:
    name, equals, value = word.partition("=")
    known = [field.name for field in fields(Choices)]
    if not equals or name not in known:
        raise ValueError(f"choose: {word!r} is not NAME=VALUE with a NAME of {', '.join(known)}")
    try:
        return name, yaml.safe_load(value)
    except yaml.YAMLError:
        raise ValueError(f"choose: {word!r}: the value is not YAML; write it as in a bundle") from None


# One file


def checked(file: Path, roots: Iterable[Path], reader: FilmReader, draw: bool) -> tuple[Row, Any]:
    """Read one file as training does, frame by frame: what is said of it, and its thumbnail if one is due and may be.

    Named by its path below the folder that was given, as many series have an IM0001.
    """
    inside = next((file.relative_to(root) for root in roots if file.is_relative_to(root)), Path(file.name))
    name = "".join(letter if letter.isprintable() else "?" for letter in inside.as_posix())
    prefix = prefix_of(file_of(file))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            frames = reader.frames(file)
            facts, picture, faults = _looked_at(frames, reader, draw)
        except (NotAnImage, ForeignFile) as error:
            return Row(name, NO_IMAGE, NO_IMAGE, str(error).removeprefix(prefix).rpartition(": ")[2]), None
        except VolumeFile as error:
            return Row(name, VOLUME, VOLUME, str(error).removeprefix(prefix).partition(": ")[2]), None
        except (DicomError, ImageError) as error:
            return Row(name, REFUSED, REFUSED, str(error).removeprefix(prefix)), None
    if faults:
        return Row(name, REFUSED, REFUSED, _reason(faults, len(frames)).removeprefix(prefix)), None
    said = [text.removeprefix(prefix) for one in told if (text := str(one.message)).startswith(prefix)]
    row = _row(name, facts, list(frames), dict.fromkeys(said))  # what is said of each frame, once
    return row, None if row.burned_in else picture


def _reason(faults: Mapping[int, str], frames: int) -> str:
    """Why the first of the refused frames is, and which it is, unless all are for the same reason."""
    first, reason = next(iter(faults.items()))
    alike = len(faults) == frames and set(faults.values()) == {reason}
    return reason if alike else f"{reason} (#frame={first}; {len(faults)} of {frames} frames refused)"


def _looked_at(
    frames: Mapping[int, Path], reader: FilmReader, draw: bool
) -> tuple[dict[str, Any], Any, dict[int, str]]:
    """Facts of the first frame and what differs in others, the thumbnail of the middle one, and why any is refused."""
    facts: dict[str, Any] = {}
    picture, faults = None, {}
    middle = list(frames)[len(frames) // 2]
    for frame, path in frames.items():
        try:
            stated, seen = _frame(path, reader, draw and frame == middle)
        except (DicomError, ImageError) as error:
            if len(frames) == 1:
                raise
            faults[frame] = str(error)
            continue
        facts, picture = _together(facts or stated, stated), seen or picture
    return facts, picture, faults


def _frame(path: Path, reader: FilmReader, draw: bool) -> tuple[dict[str, Any], Any]:
    """Facts of one frame, and its thumbnail; its pixels end here, before the next one's are decoded."""
    image, meta = reader.get_data(reader.read(path))
    return {key.removeprefix("film_"): fact for key, fact in meta.items()}, thumbnail(image) if draw else None


def _together(facts: dict[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    differing = [key for key in ("rescale", "window", "polarity", "crop") if facts[key] != other[key]]
    return facts | dict.fromkeys(differing, "differs by frame") | {"padding": facts["padding"] or other["padding"]}


def _row(name: str, facts: Mapping[str, Any], frames: Sequence[int], said: Iterable[str]) -> Row:
    form, modality = facts["format"], facts["modality"]
    if form == "DICOM":  # a Code String, as anything else, if misplaced, could be a name
        modality = modality if re.fullmatch("[A-Z]{2,16}", modality) else "no modality"
    loop = f"{len(frames)} frames (#frame={frames[0]}..{frames[-1]})" if len(frames) > 1 else ""
    what = ", ".join(filter(None, (modality, form, f"{facts['rows']} × {facts['columns']}", loop)))
    polarity = facts["polarity"] or f"as stored ({form})"
    kind, window = _window(facts)
    decided = [_transform(facts["rescale"]), window, polarity, *_applied(facts), *(f"warning: {one}" for one in said)]
    told = "; ".join(filter(None, decided))
    return Row(name, READ, what, told, modality or form, polarity, kind, burned_in=facts["burned_in"] == "YES")


def _transform(rescale: str) -> str:
    if rescale in ("", "identity"):
        return "no rescale" if rescale else ""
    return f"Modality {rescale}" if rescale.startswith("LUT") else f"rescale {rescale.replace('+ -', '- ')}"


def _window(facts: Mapping[str, str]) -> tuple[str, str]:
    """How values came to [0, 1], and whose decision it was: in two words, and in full."""
    window, chosen = facts["window"], " of the bundle"
    if not window and facts["format"] != "DICOM":
        return "full scale", "full scale of its type"
    if not window:
        return "luma", "luma of colour, no window"
    if window.startswith("declared"):
        return "declared range", f"{window.replace('declared', 'declared range')}, no window in the header"
    if window.endswith(chosen):
        given = window.removesuffix(chosen)
        return "chosen", f"window {given}, chosen" if given.endswith("HU") else f"{given}, chosen"
    if window == "differs by frame":
        return window, f"window {window}"
    if window.startswith("LUT"):
        return "header LUT", f"VOI {window} of the header"
    return "header window", f"window {window} of the header"


def _applied(facts: Mapping[str, Any]) -> list[str]:
    """What is done to few images only."""
    said = {
        "padding is black (PixelPaddingValue)": facts["padding"],
        f"crop {facts['crop']} (ultrasound regions)": facts["crop"],
        "mirrored (chest_wall)": facts["mirrored"],
        "lossy (LossyImageCompression 01)": facts["lossy"] == "01",
    }
    return [text for text, holds in said.items() if holds]


# All files


def summarised(rows: Sequence[Row], choices: Choices) -> list[str]:
    """Six lines: outcomes, modalities, polarities, windows, refusals by field, choices."""
    outcomes, images = Counter(row.outcome for row in rows), [row for row in rows if row.outcome == READ]
    volumes = f", {outcomes[VOLUME]} volumes" if outcomes[VOLUME] else ""
    lines = [f"{outcomes[READ]} read{volumes}, {outcomes[NO_IMAGE]} not images, {outcomes[REFUSED]} refused"]
    counted = {
        "modality": [row.modality for row in images],
        "polarity": [row.polarity for row in images],
        "window": [row.window for row in images],
        "refused for": [row.decided.partition(": ")[0] for row in rows if row.outcome == REFUSED],
    }
    for name, words in counted.items():
        lines.append(f"{name}: {', '.join(f'{word} {n}' for word, n in Counter(words).most_common()) or 'none'}")
    names = [field.name for field in fields(choices) if getattr(choices, field.name) != field.default]
    given = ", ".join(f"{name}={getattr(choices, name)}" for name in names)
    return [*lines, f"choices: {given or 'none, so what is ambiguous is refused'}"]


def as_markdown(rows: Sequence[Row], summary: Sequence[str]) -> str:
    """The same as a table, and the summary as a list."""
    lines = ["| | file | is | decided |", "|---|---|---|---|"]
    for number, row in enumerate(rows, 1):
        cells = (str(number), f"`{row.name.replace('`', '?')}`", row.what, row.decided)
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join([*lines, "", *(f"- {line}" for line in summary), ""])


def tile_of(number: int, row: Row, picture: Any) -> Tile:
    """A file's place on the sheet, which holds no name."""
    if row.outcome != READ:
        reason = re.split("[:;] ", row.decided)[0]
        return Tile(str(number), reason, note=row.outcome, colour=BAD if row.outcome == REFUSED else MUTED)
    turned = row.polarity.startswith("inverted")
    caption = f"{row.window}, {'inverted' if turned else 'as stored'}"
    return Tile(f"{number}  {row.modality}", caption, picture, "text burnt in,\nnot drawn", TURNED if turned else MUTED)
