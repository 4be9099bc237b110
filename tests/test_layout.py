"""The rooms: who may import whom, and by which name."""

import ast
import pydoc
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
ROOMS = ("pipeline", "transforms")
MODULES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))

# Within pipeline, imports point downward: a layer may import those before it, and its own.
LAYERS = [
    {"balls", "losses", "seeding", "files", "networks", "provenance"},
    {"attacks"},
    {"views"},
    {"engine"},
    {"handlers", "laws", "mlflow_copy"},
    {"tracking"},
    {"data"},
    {"evidence"},
    {"delivery"},
    {"commands"},
    {"cli"},
    {"demo", "__main__"},
]


def imports(path: Path) -> list[tuple[int, str]]:
    """(level, dotted name) of every import in a file, those inside functions included."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(0, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module] if node.module else [alias.name for alias in node.names]
            found += [(node.level, name) for name in names]
    return found


def test_there_are_modules_to_check():
    assert len(MODULES) > 20


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_imports_itself_relatively_and_the_other_room_not_at_all(path):
    for level, name in imports(path):
        if path.name == "cli.py" and name.startswith("rtda.transforms"):
            continue
        assert level or not name.startswith(("rtda", "pipeline", "transforms")), f"{path.name} imports {name}"
        assert level <= len(path.relative_to(ROOT).parts) - 1, f"{path.name} imports above its room"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_in_pipeline_point_downward(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[0] != "pipeline" or parts == ("pipeline", "__init__"):
        return
    rank = {name: depth for depth, layer in enumerate(LAYERS) for name in layer}
    for level, name in imports(path):
        if level != len(parts) - 1:  # absolute, or within its own folder
            continue
        target = name.split(".")[0]
        assert rank[target] <= rank[parts[1]], f"{'/'.join(parts)} imports {target} above it"


@pytest.mark.parametrize("pattern", ["tests/**/*.py", "docs/**/*.md", "*.md", "bundles/**/*.yaml", "bundles/**/*.md"])
def test_nobody_uses_the_plain_names(pattern):
    plain = re.compile(r"(?:^\s*(?:from|import)\s+|_target_:\s*|\$import\s+)(?:pipeline|transforms)\b", re.MULTILINE)
    for path in ROOT.glob(pattern):
        assert not plain.search(path.read_text()), f"{path.relative_to(ROOT)} imports a plain name"


def test_every_package_is_declared():
    text = (ROOT / "pyproject.toml").read_text()
    for init in ROOT.glob("pipeline/**/__init__.py"):
        name = "rtda." + ".".join(init.parent.relative_to(ROOT).parts)
        assert f'"{name}"' in text, f"{name} is missing from [tool.setuptools] packages"


@pytest.mark.parametrize(
    "path", sorted((ROOT / "bundles").rglob("*.yaml")), ids=lambda path: str(path.relative_to(ROOT))
)
def test_every_target_of_ours_exists(path):
    for name in re.findall(r"rtda\.[a-z_.]+\.[A-Za-z_0-9]+", path.read_text()):
        assert pydoc.locate(name) is not None, f"{path.name} names {name}, which does not exist"


@pytest.mark.parametrize("path", sorted((ROOT / "bundles/recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_recipe_sets_exactly_the_five_ids_in_fifteen_lines(path):
    assert set(yaml.safe_load(path.read_text())) == {"views", "stack", "supervise", "weight", "divergence"}
    assert len(path.read_text().splitlines()) <= 15


def test_no_training_config_refers_to_evaluation_shifts():
    for path in [*ROOT.glob("bundles/*/configs/train.yaml"), *ROOT.glob("bundles/recipes/*.yaml")]:
        assert "shifts" not in path.read_text(), f"{path.relative_to(ROOT)} trains on an evaluation shift"
