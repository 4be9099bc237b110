"""The rooms: who may import whom, and by which name; and what is stated in more than one file."""

import ast
import importlib.metadata
import itertools
import pydoc
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
ROOMS = ("pipeline", "transforms")
MODULES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))

# Within pipeline, imports point downward: a layer may import those before it, and its own.
LAYERS = [
    {"balls", "losses", "seeding", "files", "networks", "normalisation", "progress", "provenance", "sheet"},
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
def test_a_room_imports_itself_relatively_and_the_other_room_only_from_the_command(path):
    """What a command does may need both rooms; everything below it receives callables or dotted names."""
    command = path.relative_to(ROOT).parts[:2] == ("pipeline", "commands")
    for level, name in imports(path):
        if command and name.startswith("rtda.transforms."):
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


PLAIN = re.compile(
    r"""
    (?: (?:^|["'$;>]) \s* import \s+ (?:[\w.]+ (?:\s+as\s+\w+)? \s*,\s*)*  # import os, ROOM
      | \b from \s+ (?= \S+ \s+ import\b)                                # from ROOM.views import Clean
      | _target_["']? \s*:\s* ["']?                                      # _target_: "ROOM.views.Clean"
    ) (?:pipeline|transforms) \b""",
    re.MULTILINE | re.VERBOSE,
)
"""A room by its plain name, where Python or a config would import it."""


@pytest.mark.parametrize(
    "pattern", ["tests/**/*.py", "docs/**/*.md", "*.md", "bundles/**/*.yaml", "bundles/**/*.json", "bundles/**/*.md"]
)
def test_nobody_uses_the_plain_names(pattern):
    for path in ROOT.glob(pattern):
        found = PLAIN.search(path.read_text())
        assert not found, f"{path.relative_to(ROOT)} imports a plain name: {found.group()}"


@pytest.mark.parametrize("room", ROOMS)
@pytest.mark.parametrize(
    "text",
    [
        "import {}",
        "import {}.views as views",
        "import os, {}",
        "import os as o, {}.views, sys",
        "    from {}.views import Clean",
        "from {} import views",
        ">>> import {}",
        "x = 1; import {}",
        "- $import {}",
        '- "$import {}.views"',
        "- $import os, {}.views",
        "$from {}.views import Clean",
        "_target_: {}.views.Clean",
        '_target_: "{}.views.Clean"',
        "{{_target_: '{}.views.Clean'}}",
        '"_target_": "{}.views.Clean"',
    ],
)
def test_a_plain_name_is_found(text, room):
    assert PLAIN.search("first line\n" + text.format(room))


@pytest.mark.parametrize("room", ROOMS)
@pytest.mark.parametrize(
    "text",
    [
        "import rtda.{}",
        "import rtda.{}.data.lists as lists",
        "import os, rtda.{}",
        "from rtda.{}.views import Clean",
        "from rtda import {}",
        "from monai.{} import Compose",
        "import monai.{}",
        "from .{} import x",
        "- $import rtda.{}.losses as losses",
        "_target_: rtda.{}.views.Clean",
        '_target_: "monai.{}.Compose"',
        "No import crosses from {} to the other room.",
    ],
)
def test_other_names_are_left_alone(text, room):
    assert not PLAIN.search("first line\n" + text.format(room))


def imported_with(path: Path) -> set[str]:
    """Top-level names of the foreign modules that come with one of ours, before any function of it is called."""
    foreign, seen, todo = set(), set(), [path]
    while todo:
        module = todo.pop()
        if module in seen or not module.is_file():
            continue
        seen.add(module)
        for node in ast.parse(module.read_text()).body:
            if isinstance(node, ast.Import):
                foreign |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                foreign.add(node.module.split(".")[0])
            elif isinstance(node, ast.ImportFrom):
                base = module.parents[node.level - 1].joinpath(*(node.module or "").split("."))
                inside = [base / f"{alias.name}.py" for alias in node.names]
                todo += [base.with_suffix(".py"), base / "__init__.py", *inside]
    return foreign


def test_what_comes_with_a_module_is_found():
    assert {"csv", "hmac", "numpy"} <= imported_with(ROOT / "pipeline/commands/build.py")
    assert {"torch", "monai"} <= imported_with(ROOT / "pipeline/engine.py")


@pytest.mark.parametrize("path", ["pipeline/data/lists.py", "pipeline/data/build.py", "pipeline/cli.py"])
def test_lists_and_usage_errors_wait_for_no_heavy_import(path):
    assert not imported_with(ROOT / path) & {"torch", "monai", "ignite", "mlflow", "sklearn", "pandas", "pydicom"}


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


# What stands in more than one file


@pytest.mark.parametrize(
    "path", sorted(ROOT.glob("bundles/*/configs/*.yaml")), ids=lambda path: "-".join(path.parts[-3::2])
)
def test_a_config_states_command_cost_and_where_its_figures_stand(path):
    header = list(itertools.takewhile(lambda line: line.startswith("#"), path.read_text().splitlines()))
    assert any(line.startswith("#   MLFLOW_DISABLE_TELEMETRY=true python -m monai.bundle run ") for line in header)
    assert any(re.match(r"#   rtda (train|evaluate|infer) ", line) for line in header)
    (cost,) = [line for line in header if line.startswith("# Cost: ")]
    assert re.search(r"\b(seconds|minutes?)\b.*\bcores?\b", cost)
    (figures,) = [line for line in header if line.startswith("# Figures: ")]
    assert "docs/README.md" in figures
    assert (path.parents[1] / "docs/README.md").is_file()


def test_every_monai_command_that_we_write_down_sends_nothing_home():
    """MONAI imports mlflow before anything of ours could switch its telemetry off."""
    patterns = ("*.md", "docs/*.md", "bundles/*/docs/*.md", "bundles/*/configs/*.yaml")
    text = "\n".join(path.read_text() for pattern in patterns for path in ROOT.glob(pattern))
    lines = [line for line in text.splitlines() if "python -m monai.bundle " in line]
    assert len(lines) > 6
    for line in lines:
        assert "MLFLOW_DISABLE_TELEMETRY=true python -m monai.bundle " in line


def test_make_clean_leaves_the_runs():
    (recipe,) = re.findall(r"^clean:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert "runs" not in recipe


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REQUIREMENTS = [
    Requirement(text)
    for group in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
    for text in group
    if not text.startswith("rtda")
]
PINS = {
    canonicalize_name(name): version
    for name, version in re.findall(r"^(\S+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
}


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=lambda requirement: requirement.name)
def test_every_requirement_is_pinned_within_its_range(requirement):
    assert requirement.specifier.contains(PINS[canonicalize_name(requirement.name)])


def test_the_lowest_torch_that_we_take_is_one_that_monai_takes():
    (ours,) = [requirement for requirement in REQUIREMENTS if requirement.name == "torch"]
    (floor,) = [part.version for part in ours.specifier if part.operator == ">="]
    stated = [Requirement(text) for text in importlib.metadata.requires("monai")]
    (theirs,) = [requirement for requirement in stated if requirement.name == "torch" and requirement.marker is None]
    assert theirs.specifier.contains(floor)


# Tests that start a process

STARTS = re.compile(
    r"\bsubprocess\b|\bos\.fork\b|\bmultiprocessing\b|(\bnum_workers=|--(num-workers|processes)', ')[1-9]"
)
"""What starts a process, as `ast.unparse` writes it."""


def unmarked(text: str) -> list[str]:
    """Tests that start a process, themselves or through a helper or fixture, and do not bear the mark.

    A fixture of wider scope starts one process for all its tests: one of them bears the mark, or the fixture is named.
    """
    nodes = [node for node in ast.parse(text).body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    around = {node.name: " ".join(map(ast.unparse, node.decorator_list)) for node in nodes}
    used = {node.name: used_by(node) for node in nodes}
    shared = {name for name in around if "scope=" in around[name]}
    starting = {node.name for node in nodes if any(STARTS.search(ast.unparse(part)) for part in node.body)}
    while more := {name for name in used if used[name] & (starting - shared)} - starting:
        starting |= more
    bare = {name for name in around if "mark.process" not in around[name]}
    missing = {name for name in starting & bare if name.startswith("test_")}
    return sorted(
        missing | {name for name in starting & shared if {user for user in used if name in used[user]} <= bare}
    )


def used_by(node: ast.FunctionDef | ast.ClassDef) -> set[str]:
    """Names in its body, and of its arguments, which may be fixtures."""
    inside = {part.id for top in node.body for part in ast.walk(top) if isinstance(part, ast.Name)}
    return inside | ({one.arg for one in node.args.args} if isinstance(node, ast.FunctionDef) else set())


def test_at_most_ten_fast_tests_start_a_process(request):
    """Counted among the tests of this very session, case by case: that of `make test` counts them all."""
    marked = [item for item in request.session.items if item.get_closest_marker("process")]
    fast = [item.nodeid for item in marked if not item.get_closest_marker("slow")]
    assert len(fast) <= 10, "\n".join(fast)


@pytest.mark.parametrize("path", sorted((ROOT / "tests").glob("test_*.py")), ids=lambda path: path.stem)
def test_a_test_that_starts_a_process_is_marked(path):
    assert unmarked(path.read_text()) == []


SOME_TESTS = """
class Worker:
    def ask(self): os.fork()
@pytest.fixture
def worker(): return Worker()
@pytest.fixture(scope="module")
def one_for_all(): return Worker()
def helper(given: Worker): return os.fork()
def test_by_a_fixture(worker): ...
@pytest.mark.parametrize("n", [1, pytest.param(2, marks=pytest.mark.process)])
def test_marked(n): helper()
def test_by_a_helper(): helper()
def test_by_an_option(): main(["evaluate", "run", "--num-workers", "2"])
def test_by_a_loader(): DataLoader(films, num_workers=1)
def test_none(): DataLoader(films, num_workers=0)
def test_shared(one_for_all): ...
"""


def test_what_starts_a_process_is_found():
    tests = ["test_by_a_fixture", "test_by_a_helper", "test_by_a_loader", "test_by_an_option"]
    assert unmarked(SOME_TESTS) == ["one_for_all", *tests]
    assert unmarked(SOME_TESTS.replace("def test_shared", "@pytest.mark.process\ndef test_shared")) == tests


def test_conda_installs_what_make_does():
    """One source of dependencies: conda brings Python, and pip the project with the same extra and constraints."""
    *conda, pip = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    (install,) = re.findall(r"pip install (--constraint .*)", (ROOT / "Makefile").read_text())
    assert " ".join(pip["pip"]) == install.replace('"', "")
    (python,) = (name.removeprefix("python=") for name in conda if name.startswith("python="))
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    assert f"Programming Language :: Python :: {python}" in known
