"""``rtda data build``: a data list from a CSV, or from DICOM headers and a CSV."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from ..data.build import from_csv, from_dicom, write_list
from ..data.lists import ListError, key_from


def run(arguments: argparse.Namespace) -> int:
    """Build the list; see ``rtda data build --help``."""
    folder, out = Path(arguments.dataset_dir), Path(arguments.output)
    if not folder.is_dir():
        raise ListError(f"{folder.name}: dataset-dir: not a folder; give the folder below which the images lie")
    if not (0 <= arguments.validation < 1 and 0 <= arguments.test < 1):
        raise ListError("validation, test: must be shares from 0 to below 1")
    collect = from_dicom if arguments.dicom else from_csv
    classes = arguments.classes.split(",") if arguments.classes else None
    items, classes = collect(Path(arguments.csv), folder, key_from(arguments.key), classes)
    if arguments.recut_validation:
        for item in items:
            item["split"] = "train" if item["split"] == "validation" else item["split"]
    facts = {
        "name": arguments.name or out.stem,
        "licence": arguments.licence,
        "source": arguments.source,
        "identity": "public" if arguments.key == "public" else "private",
    }
    shares = {"test": arguments.test, "validation": arguments.validation}
    write_list(items, classes, out, facts, arguments.seed, shares)
    counts = Counter((item["split"], classes[item["label"]]) for item in items)
    print(f"{out}: " + ", ".join(f"{split} {name} {n}" for (split, name), n in sorted(counts.items())))
    return 0
