"""The examples in the docstrings of every module run, and give what they say."""

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMES = sorted(
    "rtda." + ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for room in ("pipeline", "transforms")
    for path in (ROOT / room).rglob("*.py")
)
PROGRAM = "rtda.pipeline.__main__"
"""Runs the command as it is imported, and has no example."""


@pytest.mark.parametrize("name", [name for name in NAMES if name != PROGRAM])
def test_the_examples_of_a_module_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_the_program_has_no_example_and_the_rooms_have_many():
    paths = [path for room in ("pipeline", "transforms") for path in (ROOT / room).rglob("*.py")]
    examples = {path: path.read_text().count(">>> ") for path in paths}
    assert examples[ROOT / "pipeline/__main__.py"] == 0
    assert sum(examples.values()) > 50
