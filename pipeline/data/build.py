"""Building data lists: from a CSV that names images, from paths that tell label and patient, or from DICOM headers."""

from __future__ import annotations

import csv
import json
import logging
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..files import write_whole
from .lists import FACTS, SPLITS, ListError, checked, checksum_of, file_of, hashed

log = logging.getLogger(__name__)
Item = dict[str, Any]
SPLIT_NAMES = {"train": "train", "training": "train", "val": "validation", "valid": "validation"} | {
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
JOINED = {"dup_group": "group_id", "view": "projection"}
"""Column of a CSV -> column of the list, where the names differ."""
ID_OF = {"PatientID": "patient_id", "SOPInstanceUID": "image_id"}
"""Column of a CSV for DICOM headers -> fact that it must be, once hashed."""
FactsOf = Callable[[Path, Callable[[str], str]], Sequence[Mapping[str, Any]]]


def from_csv(
    file: Path, dataset_dir: Path, key: bytes, classes: Sequence[str] | None = None
) -> tuple[list[Item], list[str]]:
    """Items with ``split`` (or none) and class names, from a CSV with the columns image, label, patient_id.

    Ids are hashed with the key. Labels are names, or whole numbers from 0; ``classes``, else a column ``label_name``,
    names the numbers, and ``classes``, else the alphabet, orders names.

    Raises:
        ListError: a column or value is missing, a split unknown, an image not below ``dataset_dir``.
    """
    rows = _rows(file, ("image", "label", "patient_id"))
    items = []
    for number, row in enumerate(rows, start=2):
        image = Path(row["image"])  # its normal form: without ./ and //
        if not file_of(dataset_dir / image).is_file():
            raise ListError(f"{file.name}: line {number}: image: {image.name} not found; check --dataset-dir")
        items.append(_item(row | {"image": image.as_posix()}, key, f"{file.name}: line {number}"))
    return items, _number(items, rows, classes, file.name)


def from_paths(
    pattern: str, dataset_dir: Path, key: bytes, classes: Sequence[str] | None = None, *, table: Path | None = None
) -> tuple[list[Item], list[str]]:
    """Items and class names from the paths of images below a folder, as archives arrange them.

    Args:
        pattern: regular expression of a whole path below the folder, with groups named label, patient_id and, if paths
            tell it, split. Files that it does not match are left out, and the log says which.
        dataset_dir: the folder.
        key: by which ids are hashed.
        classes: names in label order, which may differ from the labels in case; else the alphabet orders labels.
        table: CSV of what paths do not tell, with the columns image (a path, or a pattern such as ``*``) and any of
            ``lists.FACTS``; of two lines that fit an image the later one counts.

    Raises:
        ListError: the pattern is none or lacks a group; no path matches; a split or a column is unknown.

    Example:
        ``from_paths("(?P<split>train|test)/(?P<label>[a-z]+)/(?P<patient_id>p[0-9]+)_.*", folder, PUBLIC)``
    """
    try:
        shape = re.compile(pattern)
    except re.error as error:
        raise ListError(f"pattern: {error}; correct the regular expression") from error
    if absent := sorted({"label", "patient_id"} - set(shape.groupindex)):
        raise ListError(f"pattern: {', '.join(absent)}: no group of this name; write (?P<{absent[0]}>…)")
    further = _rows(table, ("image",)) if table else []
    rows, left_out = [], []
    for image in (path.relative_to(dataset_dir).as_posix() for path in _files(dataset_dir)):
        if found := shape.fullmatch(image):
            rows.append({"image": image, **{name: told or "" for name, told in found.groupdict().items()}})
            for more in (more for more in further if fnmatchcase(image, more["image"])):
                rows[-1] |= {name: told for name, told in more.items() if told and name != "image"}
        else:
            left_out.append(image)
    _tell(left_out, "not of the pattern")
    if not rows:
        raise ListError(f"pattern: matches no path below {dataset_dir.name}; check it and --dataset-dir")
    items = [_item(row, key, Path(row["image"]).name) for row in rows]
    return items, _number(items, rows, classes, "pattern")


def _item(row: Mapping[str, str], key: bytes, where: str) -> Item:
    """Item of a row with image, label and patient_id, and whatever else a list may hold."""
    item: Item = {"image": row["image"], "label": row["label"], "split": _split_name(row.get("split"), where)}
    item |= {"patient_id": hashed(key, row["patient_id"]), "image_id": hashed(key, row["image"])}
    for column, told in row.items():
        name = JOINED.get(column, column)
        if name in FACTS and told:
            item[name] = _fact(name, told, key, where)
    return item


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def from_dicom(
    file: Path, dataset_dir: Path, key: bytes, classes: Sequence[str] | None = None, *, facts: FactsOf
) -> tuple[list[Item], list[str]]:
    """Items and class names from the headers of all DICOM images below a folder, and a CSV of labels.

    The CSV's columns are label and PatientID or SOPInstanceUID (and split, if there is one). Non-images and images that
    the CSV does not name are left out, and the log says which. Every frame of a file with several is an item.

    Args:
        file: the CSV.
        dataset_dir: the folder.
        key: by which ids are hashed, those of the CSV and those of the headers.
        classes: as in :func:`from_csv`.
        facts: of each frame of a file, identifiers hashed by the function given; none where it is no DICOM image.

    Raises:
        ListError: a column is missing; an id stands twice with different labels or splits; an image has no PatientID;
            no image matches.
    """
    rows = _rows(file, ("label",))
    column = next((name for name in ("SOPInstanceUID", "PatientID") if name in rows[0]), None)
    if column is None:
        raise ListError(f"{file.name}: PatientID: missing; give a column PatientID or SOPInstanceUID")
    wanted = _by_id(rows, column, file, key)
    items: list[Item] = []
    unnamed: list[str] = []
    no_images: list[str] = []
    for path in _files(dataset_dir):
        frames = facts(path, partial(hashed, key))
        number, row = wanted.get(frames[0][ID_OF[column]] if frames else "", (0, {}))
        if row:
            label = {"label": row["label"], "split": _split_name(row.get("split"), f"{file.name}: line {number}")}
            items += [item | label for item in _items_of(path.relative_to(dataset_dir), frames, key)]
        else:
            (unnamed if frames else no_images).append(path.name)
    _tell(no_images, "no DICOM images")
    _tell(unnamed, f"not named in {file.name}")
    if not items:
        raise ListError(
            f"{file.name}: {column}: names no DICOM image below the folder; check the column and --dataset-dir"
        )
    return items, _number(items, rows, classes, file.name)


def write_list(items: Sequence[Item], classes: Sequence[str], out: Path, facts: Mapping[str, Any]) -> Path:
    """Write the list.

    Args:
        items: each with its ``split``, see :func:`make_splits`.
        classes: names in label order.
        out: JSON to write.
        facts: name, description, licence, source, identity, split_rule: written as they are.

    Raises:
        ListError: the list would be refused when read, as where given splits share a patient; nothing is written then.
    """
    content: dict[str, Any] = {**facts, "classes": list(classes)}
    for name in SPLITS:
        own = [{k: v for k, v in item.items() if k != "split"} for item in items if item["split"] == name]
        content[name] = sorted(own, key=lambda item: str(item["image"]))
    content["checksum"] = checksum_of(checked(content, out.name))
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    return write_whole(out, text.encode(errors="backslashreplace"))  # JSON's own escape, of file names not in UTF-8


def rejoin_validation(items: Sequence[Item]) -> str:
    """Put the given validation images back into train, so that a split is cut anew; returns the rule in words."""
    own = [item for item in items if item["split"] == "validation"]
    for item in own:
        item["split"] = "train"
    return "given validation joined to train" if own else ""


def make_splits(items: Sequence[Item], shares: Mapping[str, float], seed: int) -> str:
    """Fill in missing splits, patient-disjoint and stratified; returns the rule in words.

    Args:
        items: with ``split`` None where it is to be made; those beside given splits become train.
        shares: share of patients for ``test`` (used only where no item has a split) and, of the train patients, for
            ``validation`` (used only where no item is in validation).
        seed: of the draw.
    """
    given = {item["split"] for item in items}
    parts = []
    if given == {None}:
        _move(items, None, "test", shares["test"], seed)
        parts.append(f"test: {shares['test']:.0%} of patients, stratified, seed {seed}")
    else:
        others = ["all others train"] if None in given else []
        parts.append("splits as given: " + ", ".join([*sorted(filter(None, given)), *others]))
    for item in items:
        item["split"] = item["split"] or "train"
    if "validation" not in {item["split"] for item in items} and shares["validation"] > 0:
        _move(items, "train", "validation", shares["validation"], seed)
        parts.append(f"validation: {shares['validation']:.0%} of train patients, stratified, seed {seed}")
    return "; ".join(parts)


def _move(items: Sequence[Item], source: str | None, target: str, share: float, seed: int) -> None:
    """Move whole patients from one split to another, the same share of patients of every label."""
    own = [item for item in items if item["split"] == source]
    unit = patients(own)
    places = split([unit[item["image_id"]] for item in own], [item["label"] for item in own], {target: share}, seed)
    for item, place in zip(own, places, strict=True):
        item["split"] = target if place == target else source


def split(patients: Sequence[str], labels: Sequence[int], fractions: Mapping[str, float], seed: int) -> list[str]:
    """The split of each image: whole patients, the same fraction of the patients of every label.

    (scikit-learn's StratifiedGroupKFold cuts into equal folds only, so 10 % and 20 % would need fractions 1/k.)

    Args:
        patients: of each image.
        labels: of each image; a patient counts under the highest label of its images.
        fractions: share of patients for each named split, at least one patient of a label where the share is not 0;
            the rest, also at least one patient of a label, is ``train``.
        seed: of the draw; the order of images does not matter.

    Raises:
        ValueError: a fraction is negative, or together they leave nothing.

    Example:
        >>> split(["a", "a", "b", "c", "d"], [0, 0, 0, 1, 1], {"test": 0.5}, seed=0)
        ['test', 'test', 'train', 'test', 'train']
    """
    if min(fractions.values(), default=0) < 0 or sum(fractions.values()) >= 1:
        raise ValueError(f"fractions: {dict(fractions)} must be 0 or more and together less than 1")
    highest: dict[str, int] = {}
    for patient, label in zip(patients, labels, strict=True):
        highest[patient] = max(label, highest.get(patient, label))
    of_label: dict[int, list[str]] = defaultdict(list)
    for patient, label in sorted(highest.items()):
        of_label[label].append(patient)
    generator = np.random.default_rng(seed)
    places: dict[str, str] = {}
    for _, names in sorted(of_label.items()):
        left = [names[i] for i in generator.permutation(len(names))]
        for name, fraction in fractions.items():
            count = min(max(1, round(fraction * len(names))), len(left) - 1) if fraction > 0 else 0
            places |= dict.fromkeys(left[:count], name)
            left = left[count:]
    return [places.get(patient, "train") for patient in patients]


def patients(items: Sequence[Item]) -> dict[str, str]:
    """image_id -> name of its unit of splitting: patients that share a group (near-duplicate images) are one unit.

    Example:
        >>> patients([{"image_id": "a", "patient_id": "p"}, {"image_id": "b", "patient_id": "q"}])
        {'a': 'p', 'b': 'q'}
    """
    root: dict[str, str] = {}

    def find(name: str) -> str:
        while root.setdefault(name, name) != name:
            name = root[name]
        return name

    for item in items:
        if group := item.get("group_id"):
            a, b = sorted((find(item["patient_id"]), find(f"group {group}")), key=lambda n: (n.startswith("group "), n))
            root[b] = a
    return {item["image_id"]: find(item["patient_id"]) for item in items}


def _rows(file: Path, required: Sequence[str]) -> list[dict[str, str]]:
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            rows = [{k: (v or "").strip() for k, v in row.items() if k} for row in csv.DictReader(stream)]
    except FileNotFoundError as error:
        raise ListError(f"{file.name}: CSV: not found; check the path") from error
    except OSError as error:
        raise ListError(f"{file.name}: CSV: {error.strerror}; give a CSV file that you may read") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise ListError(f"{file.name}: CSV: cannot be read as UTF-8 CSV; save it as such") from error
    if not rows:
        raise ListError(f"{file.name}: CSV: has no rows below the header")
    for column in required:
        if column not in rows[0]:
            raise ListError(f"{file.name}: {column}: column missing; it has {', '.join(rows[0])}")
        empty = next((number for number, row in enumerate(rows, start=2) if not row[column]), None)
        if empty:
            raise ListError(f"{file.name}: line {empty}: {column}: empty; fill it in or remove the line")
    return rows


def _split_name(value: str | None, where: str) -> str | None:
    if not value:
        return None
    if value.lower() not in SPLIT_NAMES:
        raise ListError(f"{where}: split: '{value}' is unknown; use train, validation or test")
    return SPLIT_NAMES[value.lower()]


def _fact(name: str, value: str, key: bytes, where: str) -> str | int:
    if name == "group_id":
        return hashed(key, value)
    if name != "fold":
        return value
    if not value.isdecimal():
        raise ListError(f"{where}: fold: '{value}' is not a whole number from 0; number the folds")
    return int(value)


def _by_id(
    rows: Sequence[dict[str, str]], column: str, file: Path, key: bytes
) -> dict[str, tuple[int, dict[str, str]]]:
    """Line number and row of each hashed id; lines that repeat an id must agree."""
    found: dict[str, tuple[int, dict[str, str]]] = {}
    for number, row in enumerate(rows, start=2):
        line, first = found.setdefault(hashed(key, " ".join(row[column].split())), (number, row))
        for field in ("label", "split"):
            if first.get(field) != row.get(field):
                raise ListError(f"{file.name}: line {number}: {field}: differs from that of line {line}; keep one")
    return found


def _tell(names: Sequence[str], why: str, shown: int = 20) -> None:
    if names:
        more = f" and {len(names) - shown} more" if len(names) > shown else ""
        log.warning("left out, %s: %s%s", why, ", ".join(names[:shown]), more)


def _number(
    items: Sequence[Item], rows: Sequence[Mapping[str, str]], order: Sequence[str] | None, where: str
) -> list[str]:
    """Replace the labels of items by numbers; returns the class names in label order."""
    names = {row["label"]: row.get("label_name") or row["label"] for row in rows}
    if all(label.isdecimal() for label in names):
        numbers = {label: int(label) for label in names}
        if not order and sorted(set(numbers.values())) != list(range(len(names))):
            raise ListError(f"{where}: label: {sorted(names)} do not number classes from 0 on; give --classes a,b")
        classes = list(order or [names[label] for label in sorted(names, key=int)])
    else:
        classes = list(order or sorted(names))
        alike = str.casefold if order else str  # classes given may be written otherwise than the labels
        places = {alike(name): number for number, name in enumerate(classes)}
        numbers = {label: places[alike(label)] for label in names if alike(label) in places}
    unknown = [label for label in names if numbers.get(label, len(classes)) >= len(classes)]
    if unknown or len(classes) < 2:
        raise ListError(f"{where}: label: {unknown or classes} do not make two or more classes; give --classes a,b")
    for item in items:
        item["label"] = numbers[item["label"]]
    return classes


def _items_of(path: Path, frames: Sequence[Mapping[str, Any]], key: bytes) -> Iterator[Item]:
    """An item for each frame, without label; the file itself where it has one."""
    for facts in frames:
        if not facts["patient_id"]:  # else all such films would count as one patient
            raise ListError(f"{path.name}: PatientID: missing, so its patient cannot be kept in one split; fill it in")
        image = path.as_posix() if len(frames) == 1 else f"{path.as_posix()}#frame={facts['frame']}"
        own = facts["image_id"] if len(frames) == 1 else ""  # frames share that of their file
        item = {"image": image, "patient_id": facts["patient_id"], "image_id": own or hashed(key, image)}
        yield item | {name: facts[name] for name in FACTS if facts.get(name)}
