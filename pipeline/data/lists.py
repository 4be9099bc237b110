"""Data lists: which image, which label, which patient, which split. JSON, readable and writable by hand.

    {"name": …, "classes": ["normal", "pneumonia"],
     "train": [{"image": "a/1.dcm", "label": 0, "patient_id": "p1", "image_id": "i1", "sex": "F", …}, …],
     "validation": […], "test": […]}

Paths are relative to a dataset folder given at use, and may name a frame of a file: ``a/loop.dcm#frame=12``, from 0.
Patients (and groups) stand in one split only. A key ``identity`` states that ids are hashed, ``public``ly or
``private``ly; ids of a list without it could be names, and are hashed as it is loaded. With ``"multilabel": true``
each class is a label of its own, and ``label`` is a list of 0 and 1, one for each: ``[0, 1, 1]``.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ..files import writing

SPLITS = ("train", "validation", "test")
FACTS = ("group_id", "site", "sex", "age_group", "projection", "manufacturer", "fold")
"""Optional columns of an item; each becomes a column of the evaluation table."""
REQUIRED = ("image", "label", "patient_id", "image_id")
IDS = ("patient_id", "image_id", "group_id")
IDENTITIES = ("public", "private")
PUBLIC = b"public"
"""The published key: lists of public data are hashed with it, so that everybody gets the same ids and checksums."""
Place = tuple[str, int]
"""Split, and number of an item in it, from 0."""


class ListError(ValueError):
    """A fault of a data list, in one line: file, field, cure."""


def read(path: str | Path) -> dict[str, Any]:
    """A data list, checked as a whole: its classes, its items, and that nobody stands in two splits.

    Returns:
        The JSON object. ``validation`` and ``test`` are empty where the file has none: :func:`load` refuses those.

    Raises:
        ListError: the file is missing or not JSON; a key, class, label or identity is missing or unknown; an image
            stands twice, a patient or group in two splits; a stored checksum disagrees.
    """
    path = Path(path)
    return checked(_parsed(path), path.name)


def checked(content: dict[str, Any], name: str) -> dict[str, Any]:
    """The content of the list called ``name``, refused as in :func:`read`; so a faulty list is not even written."""
    _check_classes(content.get("classes"), name)
    if content.get("identity") not in (None, *IDENTITIES):
        raise ListError(
            f"{name}: identity: {content['identity']!r} is unknown; state public or private, or leave it out"
        )
    if not isinstance(several := content.get("multilabel", False), bool):
        raise ListError(f"{name}: multilabel: {several!r} is unknown; state true or false, or leave it out")
    if "train" not in content:
        raise ListError(f"{name}: train: missing; a list has the splits {', '.join(SPLITS)}")
    check_label = _check_labels if several else _check_label
    for split in SPLITS:
        items = content.setdefault(split, [])
        if not isinstance(items, list):
            raise ListError(f"{name}: {split}: must be a list of items")
        for number, item in enumerate(items):
            _check_item(item, f"{name}: {split}[{number}]")
            check_label(item["label"], len(content["classes"]), f"{name}: {split}[{number}]")
    _refuse_repeats(content, name)
    for field in ("patient_id", "group_id"):
        _refuse_overlap(content, field, name)
    if content.get("checksum") not in (None, checksum_of(content)):
        raise ListError(f"{name}: checksum: disagrees with ids, labels and splits; restore the list or build it anew")
    return content


def load(path: str | Path, dataset_dir: str | Path, split: str) -> list[dict[str, Any]]:
    """The items of one split, images as absolute paths below ``dataset_dir``, ready for a MONAI ``Dataset``.

    Returns:
        Items in order of path, whatever their order in the file: it decides what is sampled when, and the checksum does
        not count it. Ids are hashed: here with the published key, where the list does not state its ``identity``.

    Raises:
        ListError: as :func:`read`; there is no such split, or it is empty or has one class only; images are missing.
    """
    path, content = Path(path), read(path)
    if split not in SPLITS:
        raise ListError(f"{path.name}: {split}: no such split; use {', '.join(SPLITS)}")
    folder = Path(dataset_dir).absolute()
    own = sorted(content[split], key=lambda item: str(item["image"]))
    if content.get("identity") is None:
        own = [_without_names(item) for item in own]
    items = [item | {"image": str(folder / item["image"])} for item in own]
    if not items:
        raise ListError(f"{path.name}: {split}: empty; give it images of every class")
    shares = prior(items, len(content["classes"]))
    if all(share in (0, 1) for share in shares):
        names = [name for name, share in zip(content["classes"], shares, strict=True) if share]
        only = ", ".join(names) or "none of them"
        raise ListError(f"{path.name}: {split}: only the class '{only}'; give it images of every class")
    refuse_missing([item["image"] for item in own], folder, path.name)
    return items


def refuse_missing(images: Sequence[str], folder: Path, name: str) -> None:
    """Refuse a folder that is none, or that lacks images of the list called ``name``, given by their paths below it."""
    if not folder.is_dir():
        raise ListError(f"{name}: dataset-dir: {folder.name} is no folder; give the one below which the images lie")
    missing = [image for image in images if not file_of(folder / image).is_file()]
    if missing:
        first = Path(missing[0]).name
        told = f"{len(missing)} of {len(images)} missing, first {first}"
        raise ListError(f"{name}: image: {told}; check --dataset-dir, below which the list's paths lie")


def file_of(image: Path) -> Path:
    """The file of an image, which may be one of its frames; a file that is called so stands for itself.

    Example:
        >>> file_of(Path("a/loop.dcm#frame=12")), file_of(Path("a/film#1.dcm"))
        (PosixPath('a/loop.dcm'), PosixPath('a/film#1.dcm'))
    """
    found = re.fullmatch(r"(.+)#frame=(?:0|[1-9][0-9]*)", image.name, re.DOTALL)
    return image if found is None or os.path.isfile(image) else image.with_name(found[1])


def shipped(name: str) -> str:
    """Path of a list that comes with the package, see ``data_lists/README.md``.

    Example:
        >>> len(read(shipped("chest_xray_kermany"))["test"])
        624
    """
    return str(Path(__file__).parents[2] / "data_lists" / f"{name}.json")


def class_names(path: str | Path) -> list[str]:
    """Names of the classes in label order."""
    names: list[str] = read(path)["classes"]
    return names


def checksum(path: str | Path) -> str:
    """SHA-256 over classes, ids, labels and splits: two lists of one checksum train and test on the same images."""
    return checksum_of(read(path))


def checksum_of(content: Mapping[str, Any]) -> str:
    """As :func:`checksum`, of a list in memory: the order of items, paths and other facts do not count."""
    rows = sorted(
        [split, item["image_id"], item["patient_id"], item["label"]] for split in SPLITS for item in content[split]
    )
    return hashlib.sha256(json.dumps([content["classes"], rows]).encode()).hexdigest()


def prior(items: Sequence[Mapping[str, Any]], classes: int) -> list[float]:
    """Share of each of the ``classes`` among items, in label order; 0 of one that does not occur.

    Example:
        >>> prior([{"label": 0}, {"label": 1}, {"label": 1}, {"label": 1}], classes=3)
        [0.25, 0.75, 0.0]
        >>> prior([{"label": [1, 0]}, {"label": [1, 1]}], classes=2)
        [1.0, 0.5]
    """
    counts = Counter(label for item in items for label in labels_of(item))
    return [counts[label] / len(items) for label in range(classes)]


def labels_of(item: Mapping[str, Any]) -> list[int]:
    """Numbers of the classes that an item has: one, or of a multi-label set any number.

    Example:
        >>> labels_of({"label": 2}), labels_of({"label": [1, 0, 1]})
        ([2], [0, 2])
    """
    label = item["label"]
    return [k for k, has in enumerate(label) if has] if isinstance(label, list) else [label]


def balanced_weights(items: Sequence[Mapping[str, Any]]) -> list[float]:
    """A sampling weight for each item, 1 / (count of its label), so that classes are drawn equally often.

    Example:
        >>> balanced_weights([{"label": 0}, {"label": 1}, {"label": 1}])
        [1.0, 0.5, 0.5]
    """
    counts = Counter(item["label"] for item in items)
    return [1 / counts[item["label"]] for item in items]


def hashed(key: bytes, value: str) -> str:
    """HMAC-SHA256 of an identifier, as 16 hex digits.

    64 bits keep even ten million identifiers apart (a collision has a chance of 3 in a million), and without the key
    nobody can look up whether a given PatientID is among them. With the published key anybody can: it is for public
    data, whose ids are public.

    Source: HMAC, RFC 2104; the birthday bound n²/2⁶⁵.

    Example:
        >>> hashed(b"public", "patient 1")
        '7c9b7ffd7d38e91f'
    """
    return hmac.new(key, value.encode(errors="surrogateescape"), hashlib.sha256).hexdigest()[:16]


def key_from(name: str) -> bytes:
    """The published key for ``public``, else what :func:`key_file` says of the file of that name."""
    return PUBLIC if name == "public" else key_file(name)


def key_file(path: str | Path) -> bytes:
    """The content of a key file; where it is absent, 32 random bytes are put there, readable by its owner only.

    Raises:
        ListError: the file is there but empty, or cannot be read.
        OSError: it cannot be written; the message names it, and nothing half-written is left.
    """
    path = Path(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:  # O_EXCL: of two processes one makes the key, and the mode is right from the first moment
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return _key_in(path)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(key := os.urandom(32))
        except OSError:
            path.unlink()
            raise
    return key


def _key_in(path: Path) -> bytes:
    try:
        key = path.read_bytes()
    except OSError as error:
        raise ListError(f"{path.name}: key: {error.strerror}; give a key file that you may read") from error
    if not key:
        raise ListError(f"{path.name}: key: empty; remove the file to have a new key made")
    return key


def _without_names(item: Mapping[str, Any]) -> dict[str, Any]:
    """An item whose ids, which may be names as somebody wrote them, are hashed with the published key."""
    return {**item, **{field: hashed(PUBLIC, item[field]) for field in IDS if item.get(field)}}


def _parsed(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ListError(
            f"{path.name}: data list: not found; check --data-list, or make one: rtda data build of your images, "
            "rtda data phantom of synthetic ones"
        ) from error
    except OSError as error:
        raise ListError(f"{path.name}: data list: {error.strerror}; give a JSON file that you may read") from error
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        raise ListError(f"{path.name}: line {line}: not JSON; correct it") from error
    if not isinstance(content, dict):
        raise ListError(f"{path.name}: data list: not a JSON object with classes and splits; see the README")
    return content


def _check_classes(classes: Any, name: str) -> None:
    named = isinstance(classes, list) and all(isinstance(one, str) and one for one in classes)
    if not named or len(set(classes)) < max(2, len(classes)):
        raise ListError(f"{name}: classes: must be a list of at least two different names, in label order")


def _check_item(item: Any, where: str) -> None:
    for key in REQUIRED:
        if not isinstance(item, dict) or key not in item:
            raise ListError(f"{where}: {key}: missing; every item has {', '.join(REQUIRED)}")
        if key != "label" and not (isinstance(item[key], str) and item[key]):
            raise ListError(f"{where}: {key}: must be a text, in quotes and not empty")
    for key in FACTS:  # the evaluation table's columns have these types
        kind = int if key == "fold" else str
        if item.get(key) is not None and type(item[key]) is not kind:
            raise ListError(f"{where}: {key}: must be {'a whole number' if kind is int else 'a text, in quotes'}")
    image = PurePosixPath(item["image"])
    if image.is_absolute() or ".." in image.parts:
        raise ListError(f"{where}: image: must be a path below the dataset folder, like films/1.dcm")
    if str(image) != item["image"]:  # one file under two names would count as two images
        raise ListError(f"{where}: image: not in normal form; write it without '.' and '//', like films/1.dcm")


def _check_label(label: Any, classes: int, where: str) -> None:
    if type(label) is not int or not 0 <= label < classes:
        raise ListError(f"{where}: label: {label!r} is unknown; labels are 0 to {classes - 1}")


def _check_labels(labels: Any, classes: int, where: str) -> None:
    stated = isinstance(labels, list) and all(type(one) is int and one in (0, 1) for one in labels)
    if not stated or len(labels) != classes:
        raise ListError(f"{where}: label: {labels!r} is not {classes} of 0 and 1, one for each class")


def _refuse_repeats(content: Mapping[str, Any], name: str) -> None:
    for field in ("image", "image_id"):
        seen: dict[str, Place] = {}
        for place, item in _items(content):
            first = seen.setdefault(item[field], place)
            if first != place:
                raise ListError(f"{name}: {field}: the same in {_both(content, first, place)}; every image stands once")


def _refuse_overlap(content: Mapping[str, Any], field: str, name: str) -> None:
    seen: dict[str, Place] = {}
    for place, item in _items(content):
        value = item.get(field)
        if value is not None and (first := seen.setdefault(value, place))[0] != place[0]:
            raise ListError(f"{name}: {field}: the same in {_both(content, first, place)}; keep it in one split")


def _items(content: Mapping[str, Any]) -> Iterator[tuple[Place, Mapping[str, Any]]]:
    for split in SPLITS:
        yield from (((split, number), item) for number, item in enumerate(content[split]))


def _both(content: Mapping[str, Any], *places: Place) -> str:
    """Two items by place and file: their ids could be names."""
    return " and ".join(f"{split}[{n}] ({Path(content[split][n]['image']).name})" for split, n in places)
