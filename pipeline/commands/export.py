"""``rtda export``: a bundle's network as TorchScript, torch.export or ONNX."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..delivery.bundle import Bundle, Run
from ..delivery.export import export
from . import quieten


def run(arguments: argparse.Namespace) -> int:
    """Export; see ``rtda export --help``."""
    quieten()
    source: Bundle | Run = arguments.bundle
    name = source.folder.resolve().name if isinstance(source, Run) else source.name
    print(export(source, arguments.to, Path(arguments.output or f"{name}.{arguments.to}")))
    return 0
