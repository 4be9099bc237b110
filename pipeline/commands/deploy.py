"""``rtda deploy``: a bundle as a MONAI Deploy application that reads DICOM and writes DICOM SR."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..delivery.deploy import deploy
from . import quieten


def run(arguments: argparse.Namespace) -> int:
    """Deploy; see ``rtda deploy --help``."""
    quieten()
    print(deploy(arguments.bundle, Path(arguments.output), arguments.sr_class))
    return 0
