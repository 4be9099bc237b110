"""Whether a bundle is whole, says what is true, and runs elsewhere: every check of :mod:`.checks`, a line each."""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path

from .bundle import Bundle
from .checks import ABOUT, CHECKS, Subject, cause_of, ours, what
from .models import importable


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
        check: its name.
        fault: in one line; empty where it passed.
    """

    check: str
    fault: str = ""


def verify(bundle: Bundle) -> Iterator[Finding]:
    """Every check in order, each as it is done.

    Args:
        bundle: with weights, as ``rtda pack`` makes it.
    """
    with tempfile.TemporaryDirectory(prefix="rtda-") as scratch:
        subject = Subject(bundle, Path(scratch))
        for name in CHECKS:
            yield found(subject, name)


def found(subject: Subject, name: str) -> Finding:
    """What one check found; whatever it raises is a fault."""
    try:
        with _quiet(), importable(subject.bundle.root):
            CHECKS[name](subject)
    except Exception as error:  # MONAI, torch and strangers' components raise anything
        return Finding(name, _told(subject, name, error))
    return Finding(name)


def _told(subject: Subject, name: str, error: BaseException) -> str:
    cause = cause_of(error)
    told = what(subject, cause)
    return told if ours(cause) else f"{ABOUT.get(name, 'configs/inference.yaml')}: {told}; correct it"


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings(), open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        warnings.simplefilter("ignore")
        yield


def as_json(bundle: Bundle, findings: list[Finding]) -> str:
    """All findings, for machines."""
    return json.dumps({"bundle": bundle.name, "findings": [asdict(one) for one in findings]}, indent=1) + "\n"
