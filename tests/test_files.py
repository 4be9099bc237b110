"""Files that are whole or absent, whatever stops the writing."""

import os

import pytest
from rtda.pipeline.files import write_whole

DEAD = 2**22 + 1  # above the largest process id of Linux


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_who_reads_the_old_file_is_not_disturbed_by_the_new(tmp_path):
    """A rename puts another file in its place; writing into it would cut it short under the reader."""
    path = write_whole(tmp_path / "last.pt", b"old")
    with path.open("rb") as old:
        write_whole(path, b"new")
        assert old.read() == b"old"
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, OSError, ValueError])
def test_whatever_stops_the_writing_leaves_the_old_file_alone(tmp_path, monkeypatch, stop):
    path = write_whole(tmp_path / "last.pt", b"old")

    def stopped(descriptor):
        raise stop

    monkeypatch.setattr(os, "fsync", stopped)
    with pytest.raises(stop):
        write_whole(path, b"new and longer")
    assert names(tmp_path) == ["last.pt"]
    assert path.read_bytes() == b"old"


def test_what_a_killed_process_left_is_removed_by_the_next_writing(tmp_path):
    left = [f"last.pt.{DEAD}.tmp", "last.pt.1.tmp", "last.pt.mine.tmp", f"best.pt.{DEAD}.tmp", f"last.pt.{DEAD}"]
    for name in left:
        (tmp_path / name).write_bytes(b"half")
    write_whole(tmp_path / "last.pt", b"new")
    assert names(tmp_path) == sorted(["last.pt", *left[1:]])  # of a living process, of another file, of no process


def test_a_name_is_no_pattern(tmp_path):
    for name in ("a", "[a]"):
        (tmp_path / f"{name}.{DEAD}.tmp").write_bytes(b"half")
    write_whole(tmp_path / "[a]", b"new")
    assert names(tmp_path) == sorted(["[a]", f"a.{DEAD}.tmp"])
