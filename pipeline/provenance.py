"""What a result was made with, fit to be shown: settings, versions and commit, without user, host or path."""

from __future__ import annotations

import platform
import re
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

_PLACES = ("bundle_root", "dataset_dir", "data_list", "output_dir")
_WHOLE_PATH = re.compile(r"(?:file:)?(?:~|/|\\\\|[A-Za-z]:[\\/]).+", re.DOTALL)
_PATH_WITHIN = re.compile(r"(?<![\w.:/)\]])(?:~|[A-Za-z]:(?=\\))?[/\\][^\s'\"/\\]+[/\\][^'\",)\n]*")


def masked(value: object) -> str:
    """``value`` as text; absolute paths, whole or within an expression, become ``<path>``."""
    text = str(value)
    return "<path>" if _WHOLE_PATH.fullmatch(text) else _PATH_WITHIN.sub("<path>", text)


def public(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration fit to be shown: places as placeholders, absolute paths elsewhere as ``<path>``.

    Example:
        >>> public({"dataset_dir": "/home/jane/films", "seed": 0, "sizes": ["/a/b", 2]})
        {'dataset_dir': '<dataset_dir>', 'seed': 0, 'sizes': ['<path>', 2]}
    """
    return {name: f"<{name}>" if name in _PLACES else _shown(value) for name, value in config.items()}


def _shown(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _shown(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_shown(item) for item in value]
    return masked(value) if isinstance(value, str) else value


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, str | float]:
    """Nested configuration to dotted keys; numbers stay, all else becomes ``masked`` text.

    Example:
        >>> flatten({"attack": {"steps": 7, "ball": "L2"}, "sizes": [1, 2], "dataset_dir": "/home/jane/films"})
        {'attack.steps': 7, 'attack.ball': 'L2', 'sizes': '[1, 2]', 'dataset_dir': '<path>'}
    """
    flat: dict[str, str | float] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{name}."))
        elif isinstance(value, (list, tuple)) and any(isinstance(item, (Mapping, list, tuple)) for item in value):
            flat.update(flatten({str(index): item for index, item in enumerate(value)}, f"{name}."))
        else:
            flat[name] = value if type(value) in (int, float) else masked(value)
    return flat


def environment() -> dict[str, str]:
    """Versions that a result depends on: packages, Python, kind of machine, commit of this code; no host, no user."""
    packages = ("rtda", "torch", "monai", "pytorch-ignite", "numpy", "pydicom")
    return {
        **{f"version.{package}": metadata.version(package) for package in packages},
        "version.python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "git_commit": _git_commit(),
    }


def _git_commit() -> str:
    """Commit of the checkout that this very file belongs to, ``-dirty`` if changed; ``unknown`` without one."""
    here = Path(__file__).resolve()
    git = ["git", "--no-optional-locks", "-C", str(here.parent)]
    try:
        subprocess.run([*git, "ls-files", "--error-unmatch", here.name], check=True, capture_output=True, timeout=5)
        describe = [*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        found = subprocess.run(describe, check=True, capture_output=True, timeout=5, text=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return found.stdout.strip()
