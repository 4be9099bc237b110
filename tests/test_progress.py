"""Progress: plain lines where there is no terminal, a bar where there is one."""

import io
import re
import sys

import pytest
import torch
from ignite.engine import Engine
from rtda.pipeline import progress as room
from rtda.pipeline.commands.train import _show_progress
from rtda.pipeline.progress import progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that the loop's body winds on."""
    clock = {"now": 100.0}
    monkeypatch.setattr(room.time, "monotonic", lambda: clock["now"])
    return clock


def test_without_a_terminal_there_is_a_line_at_the_start_every_half_minute_and_at_the_end(capsys, clock):
    seen = []
    for item in progress(range(8), "films"):
        seen.append(item)
        clock["now"] += 10
    assert seen == list(range(8))
    between = "films: 3/8 (30 s, about 50 s left)\nfilms: 6/8 (60 s, about 20 s left)\n"
    assert capsys.readouterr() == ("", f"films: 0/8\n{between}films: 8/8 (80 s)\n")


def test_the_first_line_stands_before_the_first_item_is_done(capsys, clock):
    next(progress("ab", "letters"))
    assert capsys.readouterr().err == "letters: 0/2\n"


def test_of_nothing_there_is_one_line(capsys):
    assert list(progress([], "films")) == []
    assert capsys.readouterr().err == "films: 0/0\n"


def terminal_in(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    return terminal


def test_on_a_terminal_there_is_a_bar(monkeypatch):
    terminal = terminal_in(monkeypatch)
    assert list(progress("abc", "letters")) == list("abc")
    assert "letters: 100%" in terminal.getvalue()
    assert re.search(r"letters: 100%.*\[\d\d:\d\d<\d\d:\d\d,", terminal.getvalue())  # taken, and left


def test_every_bar_of_training_has_its_epoch_in_its_title(monkeypatch):
    terminal = terminal_in(monkeypatch)
    trainer = Engine(lambda engine, batch: {"loss": torch.zeros(())})
    _show_progress(trainer, dict)
    trainer.run(range(4), max_epochs=2)
    bars = [bar for bar in terminal.getvalue().split("\r") if "%" in bar]
    assert len(bars) > 2
    assert all(bar.startswith(("epoch [1/2]: [", "epoch [2/2]: [")) for bar in bars)
