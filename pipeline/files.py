"""Files that are either whole or absent: written under a temporary name, flushed, and renamed."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


def write_whole(path: Path, content: bytes) -> Path:
    """Write a file atomically; see :func:`whole`.

    Example:
        >>> import tempfile
        >>> write_whole(Path(tempfile.mkdtemp()) / "note.txt", b"whole").read_bytes()
        b'whole'
    """
    with whole(path) as file:
        file.write(content)
    return path


@contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write piece by piece, that is there once all are: a reader, or a later run after a kill, sees the old
    content or the new, nothing between.

    Raises:
        OSError: the file could not be written (full disk, no permission); the message names it, and what stood there
            before still stands.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with writing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _discard_stale(path)
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:  # an interrupt leaves nothing either
            _discard(temporary)
            raise


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a fault of writing ``path`` into one whose message names the file, without its folders, and a cure."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(
            error.errno, f"{path.name}: cannot be written ({reason}); free space or choose another folder"
        ) from error


def _discard_stale(path: Path) -> None:
    """Remove what was left by processes that were killed while they wrote this very file."""
    for temporary in path.parent.glob(f"{glob.escape(path.name)}.*.tmp"):
        pid = temporary.name.removeprefix(f"{path.name}.").removesuffix(".tmp")
        if pid.isdecimal() and not _alive(int(pid)):
            _discard(temporary)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        pass
    return True


def _discard(path: Path) -> None:
    with suppress(OSError):  # the folder itself may be the fault; the first error is the one to report
        path.unlink(missing_ok=True)
