"""``rtda data build``: a data list from a CSV, from paths, or from DICOM headers and a CSV."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..data.build import from_csv, from_dicom, from_paths, make_splits, rejoin_validation, write_list
from ..data.lists import SPLITS, ListError, key_from

PRIVATE_KEY = "rtda.key"
"""Name of the key file beside the list, where no key is given."""


def run(arguments: argparse.Namespace) -> int:
    """Build the list; see ``rtda data build --help``."""
    folder, out = Path(arguments.dataset_dir), Path(arguments.output)
    if not folder.is_dir():
        raise ListError(f"{folder.name}: dataset-dir: not a folder; give the folder below which the images lie")
    if out.is_dir():
        raise ListError(f"{out.name or out}: output: a folder; give the JSON file to write")
    if not (0 <= arguments.validation < 1 and 0 <= arguments.test < 1):
        raise ListError("validation, test: must be shares from 0 to below 1")
    key = arguments.key or str(out.parent / PRIVATE_KEY)
    items, classes = _collector(arguments)(
        dataset_dir=folder, key=key_from(key), classes=arguments.classes.split(",") if arguments.classes else None
    )
    shares = {"test": arguments.test, "validation": arguments.validation}
    rules = [rejoin_validation(items)] if arguments.recut_validation else []
    rules.append(make_splits(items, shares, arguments.seed))
    facts = {
        "name": arguments.name or out.stem,
        "licence": arguments.licence,
        "source": arguments.source,
        "identity": "public" if key == "public" else "private",
        "split_rule": "; ".join(filter(None, rules)),
    }
    write_list(items, classes, out, facts)
    counts = Counter((item["split"], item["label"]) for item in items)
    print(f"{out}: labels {', '.join(f'{label} {name}' for label, name in enumerate(classes))}; ", end="")
    told = (", ".join(f"{name} {counts[split, label]}" for label, name in enumerate(classes)) for split in SPLITS)
    print("; ".join(f"{split}: {each}" for split, each in zip(SPLITS, told, strict=True)))
    if key != "public":
        print(f"ids are hashed with {key}: keep it, for the same ids next time, and keep it to yourself")
    return 0


def _collector(arguments: argparse.Namespace) -> Callable[..., tuple[list[dict[str, Any]], list[str]]]:
    file = Path(arguments.csv) if arguments.csv else None
    if arguments.pattern:
        return partial(from_paths, arguments.pattern, table=file)
    if file is None:
        raise ListError("csv: missing; give a CSV, or a --pattern that paths tell labels and patients by")
    return partial(from_dicom, file, facts=facts_of) if arguments.dicom else partial(from_csv, file)


def facts_of(path: Path, hashed: Callable[[str], str]) -> Sequence[Mapping[str, Any]]:
    """Facts of each frame of a DICOM image, as the reader states them; none of any other file."""
    from rtda.transforms.dicom import read_facts
    from rtda.transforms.header import DicomError
    from rtda.transforms.stored import looks_like_dicom

    try:
        return read_facts(path, hashed) if looks_like_dicom(path) else []
    except DicomError:
        return []
