"""``rtda data phantom``: the synthetic cohort."""

from __future__ import annotations

import argparse
from pathlib import Path

from rtda.transforms.facts import age_group

from ..data.phantom import Phantom, build


def run(arguments: argparse.Namespace) -> int:
    """Make the cohort, or find it made already; see ``rtda data phantom --help``."""
    print(build(Path(arguments.output), Phantom(films=arguments.films, seed=arguments.seed), age_group))
    return 0
