"""``rtda verify``: whether a bundle is whole, says what is true, and runs elsewhere; a line a check."""

from __future__ import annotations

import argparse

from ..delivery.bundle import BundleError, run_of
from ..delivery.checks import CHECKS
from ..delivery.verify import as_json, verify
from . import quieten


def run(arguments: argparse.Namespace) -> int:
    """Verify; see ``rtda verify --help``. Status 1 where a check failed."""
    if run := run_of(arguments.bundle):
        name = run.folder.resolve().name
        raise BundleError(f"{name}: bundle: not packed yet; pack the run first: rtda pack RUN -o ZIP, and verify that")
    quieten()
    findings, width = [], max(map(len, CHECKS))
    for finding in verify(arguments.bundle):
        findings.append(finding)
        if not arguments.json:
            words = f"FAILED  {finding.fault}" if finding.fault else "passed"
            print(f"{finding.check:{width}}  {words}", flush=True)
    if arguments.json:
        print(as_json(arguments.bundle, findings), end="")
    return int(any(finding.fault for finding in findings))
