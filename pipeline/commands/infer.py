"""``rtda infer``: probabilities of images as CSV."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..delivery.bundle import Bundle, Run
from ..delivery.infer import Classifier, as_csv, found, rows
from ..files import write_whole
from ..progress import progress
from . import quieten
from .evaluate import tables_of
from .pack import evidence


def run(arguments: argparse.Namespace) -> int:
    """Predict; see ``rtda infer --help``. Status 1 if an image had an error."""
    quieten()
    files = found(arguments.files, written=[arguments.output])
    classifier = _classifier(arguments.bundle)
    table = list(rows(classifier, progress(files, "infer")))
    text = as_csv(classifier, table)
    if arguments.output:
        write_whole(Path(arguments.output), text.encode())
    else:
        print(text, end="")
    failed = sum("error" in row for row in table)
    if failed:
        print(f"rtda: {failed} of {len(table)} images have errors; see the column 'error'", file=sys.stderr)
    return 1 if failed else 0


def _classifier(source: Run | Bundle) -> Classifier:
    if isinstance(source, Bundle):
        return Classifier.of_bundle(source)
    return Classifier.of_run(source, evidence(source) if tables_of(source.folder, "best") else {})
