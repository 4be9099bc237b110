"""Progress of long work: a bar on a terminal, plain lines elsewhere, on stderr in both cases."""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Iterator
from typing import TypeVar

from tqdm import tqdm

PAUSE = 30.0  # seconds between two plain lines

T = TypeVar("T")


def progress(items: Collection[T], title: str) -> Iterator[T]:
    """Go through ``items`` and say how far it is, and how long the rest will take at the same pace.

    Without a terminal there is a line at the start, at the end, and every half minute between.

    Example:
        >>> for letter in progress("abc", "letters"):
        ...     pass
    """
    if sys.stderr.isatty():
        yield from tqdm(items, desc=title, smoothing=0)
        return
    total, start = len(items), time.monotonic()
    _line(f"{title}: 0/{total}")
    due = start + PAUSE
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now >= due or done == total:
            left = f", about {(now - start) * (total - done) / done:.0f} s left" if done < total else ""
            _line(f"{title}: {done}/{total} ({now - start:.0f} s{left})")
            due = now + PAUSE


def _line(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
