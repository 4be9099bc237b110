"""The README: what it shows, runs."""

import ast
import json
import re
import shlex
from pathlib import Path

import pytest
from rtda.pipeline.cli import _parser, main
from rtda.pipeline.data import lists
from torch import nn

README = (Path(__file__).parents[1] / "README.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands():
    """Every `rtda …` of the shell blocks and of the running text, but for those with an ellipsis."""
    lines = [line.split("#")[0].strip() for block in blocks("sh") for line in block.splitlines()]
    text = re.sub(r"^```.*?^```", "", README, flags=re.MULTILINE | re.DOTALL)
    found = [line for line in lines + re.findall(r"`([^`]+)`", text) if line.startswith("rtda ")]
    return [line for line in found if "…" not in line]


def test_the_ten_lines_of_python_run_and_use_what_they_import():
    (block,) = blocks("python")
    namespace = {}
    exec(compile(block, "README.md", "exec"), namespace)
    assert namespace["x"].shape == (24, 1, 32, 32)
    assert namespace["network"].weight.grad.any()
    lines = [line for line in block.splitlines() if line.strip() and not line.startswith(("import ", "from "))]
    assert len(lines) == 10
    assert "## Ten lines of Python" in README
    tree = ast.parse(block)
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert {"PGD", "StackViews", "ConsistencyLoss", "RobustTrainer"} <= imported <= used
    (own,) = [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
    assert issubclass(namespace[own], nn.Module)
    assert isinstance(namespace["network"], namespace[own])


def test_the_version_of_torch_is_that_of_the_constraints():
    pins = (Path(__file__).parents[1] / "constraints.txt").read_text().splitlines()
    (stated,) = re.findall(r"torch (\d+\.\d+\.\d+)", README)
    assert f"torch=={stated}" in pins


def test_there_are_commands_to_check():
    assert len(commands()) >= 6


@pytest.mark.parametrize("command", commands())
def test_every_command_parses(command):
    argv = shlex.split(command)[1:]
    if "--help" in argv:
        assert main(argv) == 0
    else:
        _parser(argv).parse_args(argv)


def test_the_list_is_one_and_lacks_images_of_every_class_only(tmp_path):
    (block,) = blocks("json")
    path = tmp_path / "mine.json"
    path.write_text(block)
    content = lists.read(path)
    for item in (item for split in lists.SPLITS for item in content[split]):
        (tmp_path / item["image"]).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / item["image"]).touch()
    assert len(lists.load(path, tmp_path, "train")) == 2
    for split in ("validation", "test"):
        with pytest.raises(lists.ListError, match=f"{split}: only the class '.*'; give it images of every class"):
            lists.load(path, tmp_path, split)
        (item,) = content[split]
        other = {key: f"{item[key]} 2" for key in ("image", "patient_id", "image_id")} | {"label": 1 - item["label"]}
        content[split].append(other)
        (tmp_path / other["image"]).touch()
    path.write_text(json.dumps(content))
    for split in lists.SPLITS:
        assert len(lists.load(path, tmp_path, split)) == 2


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)#]+)\)", README))
def test_every_relative_link_leads_somewhere(link):
    if "://" not in link:
        assert (Path(__file__).parents[1] / link).exists()


def test_the_recipes_named_are_those_that_exist():
    section = README.split("## Recipes")[1].split(": see")[0]
    recipes = (Path(__file__).parents[1] / "bundles/recipes").glob("*.yaml")
    assert sorted(re.findall(r"`([a-z_]+)`", section)) == sorted(path.stem for path in recipes)
