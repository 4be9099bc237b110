"""``rtda data check LIST.json``: what a data list holds, whether its images can be read, and whether splits leak."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rtda.transforms.header import DicomError
from rtda.transforms.reader import FilmReader, ImageError

from ..data import lists
from ..data.duplicates import Fingerprint, alike, fingerprint
from ..progress import progress

SHOWN = 20  # lines of a kind


@dataclass(frozen=True)
class Seen:
    """One image that was read."""

    split: str
    item: dict[str, Any]
    size: tuple[int, ...]
    ends: tuple[float, float]
    mark: Fingerprint


def run(arguments: argparse.Namespace, reader: FilmReader) -> int:
    """Check a list and its images.

    Status 1 if an image was refused, a split lacks a class, or nearly the same images stand in two splits.

    Raises:
        ListError: the list itself is refused, as where a patient or a group stands in two splits; there is no image.
    """
    path = Path(arguments.files[0])
    if not arguments.dataset_dir:
        raise lists.ListError(f"{path.name}: dataset-dir: missing; give the folder below which its images lie")
    content = lists.read(path)
    folder = Path(arguments.dataset_dir)
    print("\n".join(described(path.name, content)))
    images = [item["image"] for _, item in _items(content)]
    if not any(lists.file_of(folder / image).is_file() for image in images):
        lists.refuse_missing(images, folder, path.name)
    lacking = list(without_images(content))
    seen, refused = looked_at(content, folder, reader)
    pairs = [(seen[i], seen[j], likeness) for i, j, likeness in alike([one.mark for one in seen])]
    leaks = [pair for pair in pairs if pair[0].split != pair[1].split]
    print("\n".join([*lacking, *read_lines(seen, refused), *pair_lines(pairs, leaks)]))
    return int(bool(lacking or refused or leaks))


def described(name: str, content: dict[str, Any]) -> list[str]:
    """Name, origin and identity of a list; images, patients and classes of each split."""
    classes = content["classes"]
    origin = ", ".join(str(content[key]) for key in ("name", "source", "licence") if content.get(key))
    identity = content.get("identity") or "not stated, so ids are hashed as it is loaded"
    head = [f"{name}: {origin}", f"ids: {identity}; split: {content.get('split_rule') or 'no rule stated'}"]
    for split in lists.SPLITS:
        items = content[split]
        counts = Counter(classes[label] for item in items for label in lists.labels_of(item))
        shares = ", ".join(f"{label} {counts[label]} ({counts[label] / max(len(items), 1):.0%})" for label in classes)
        head.append(f"{split}: {len(items)} images of {len({item['patient_id'] for item in items})} patients: {shares}")
    return [*head, ""]


def without_images(content: dict[str, Any]) -> Iterator[str]:
    """Every class that a split which has images has none of."""
    for split in filter(content.get, lists.SPLITS):
        held = {label for item in content[split] for label in lists.labels_of(item)}
        for place, name in enumerate(content["classes"]):
            if place not in held:
                yield f"{split}: no image of the class '{name}'; give it images of every class"


def looked_at(content: dict[str, Any], folder: Path, reader: FilmReader) -> tuple[list[Seen], list[str]]:
    """Every image, read as training reads it: what was seen, and the refusals."""
    seen, refused = [], []
    for split, item in progress(list(_items(content)), "check"):
        try:
            image, _ = reader.get_data(reader.read(folder / item["image"]))
        except (DicomError, ImageError) as error:
            refused.append(f"{split}: {error}")
            continue
        ends = float(image.min()), float(image.max())
        seen.append(Seen(split, item, image.shape, ends, fingerprint(image)))
    return seen, refused


def _items(content: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    return ((split, item) for split in lists.SPLITS for item in content[split])


def read_lines(seen: Sequence[Seen], refused: Sequence[str]) -> list[str]:
    """How many images were read, of which sizes, and how much of [0, 1] they use; the refusals."""
    lines = [f"{len(seen)} images read, {len(refused)} refused", *refused[:SHOWN], *_more(refused)]
    if seen:
        sizes = Counter(" × ".join(map(str, one.size)) for one in seen).most_common()
        ends = np.array([one.ends for one in seen])
        shown = ", ".join(f"{size} ({count})" for size, count in sizes[:5])
        lines.append(f"sizes: {shown}" + (f" and {len(sizes) - 5} others" if len(sizes) > 5 else ""))
        narrow = int((np.diff(ends) < 0.5).sum())
        lines.append(
            f"intensities: {ends[:, 0].min():.3f} to {ends[:, 1].max():.3f}; {narrow} use less than half of [0, 1]"
        )
    return lines


def pair_lines(pairs: Sequence[tuple[Seen, Seen, float]], leaks: Sequence[tuple[Seen, Seen, float]]) -> list[str]:
    """How many pairs are nearly the same, and those that stand in two splits."""
    strangers = sum(one.item["patient_id"] != other.item["patient_id"] for one, other, _ in pairs)
    lines = [f"nearly the same: {len(pairs)} pairs, {strangers} of two patients, {len(leaks)} across splits"]
    told = [
        f"{one.split}: {Path(one.item['image']).name} and {other.split}: {Path(other.item['image']).name}: "
        f"correlation {likeness:.3f}; give both one group_id and build the list anew"
        for one, other, likeness in leaks
    ]
    return [*lines, *told[:SHOWN], *_more(told)]


def _more(lines: Sequence[str]) -> list[str]:
    return [f"… and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
