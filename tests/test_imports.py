"""Every module imports, imports point down only, and what must start at once does not load torch."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import truing

ROOT = Path(truing.__file__).parent
MODULES = sorted(m.name for m in pkgutil.walk_packages([str(ROOT)], "truing."))

LAYERS: tuple[frozenset[str], ...] = (
    frozenset({"errors", "records", "environment"}),
    frozenset(
        {"formats", "store", "report", "statistics", "progress", "watch", "blending", "rounds", "curation", "selection"}
        | {"signatures", "tensors", "objectives", "advantages", "algorithms", "reductions", "shaping", "rivals"}
    ),
    frozenset({"templates", "template_process", "rendering", "packing", "models", "compute", "costs"}),
    frozenset({"scoring"}),
    frozenset({"stages"}),
    frozenset(
        {
            "recipe",
            "data",
            "planning",
            "estimates",
            "fitting",
            "probing",
            "measuring",
            "pipeline",
            "describing",
            "handbook",
        }
    ),
    frozenset({"comparing", "evaluating"}),
    frozenset({"cli", "web", "__main__"}),
)
"""Each part may import its own layer and those before it."""

WITHOUT_TORCH = (
    "errors",
    "records",
    "environment",
    "formats",
    "store",
    "report",
    "statistics",
    "progress",
    "watch",
    "blending",
    "rounds",
    "selection",
    "signatures",
    "curation",
    "cli",
)


def part(module: str) -> str:
    return module.split(".")[1]


def layer(name: str) -> int:
    places = [place for place, names in enumerate(LAYERS) if name in names]
    assert places, f"truing.{name} has no layer: add it to LAYERS where it belongs"
    return places[0]


def imported_parts(module: str) -> set[str]:
    """Parts of truing that a module names in an import, wherever in the file it stands."""
    path = ROOT.joinpath(*module.split(".")[1:])
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        found |= {part(name) for name in names if name.startswith("truing.") and (ROOT / part(name)).exists()}
        found |= {part(name) for name in names if name.startswith("truing.") and (ROOT / f"{part(name)}.py").exists()}
    return found


def test_there_are_modules():
    assert {"truing.records", "truing.compute.engine.local", "truing.stages.preference"} <= set(MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_imports(module):
    importlib.import_module(module)


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module):
    own = layer(part(module))
    upwards = {name for name in imported_parts(module) if layer(name) > own}
    assert not upwards, f"{module} imports {sorted(upwards)}, which stand above it"


def test_web_never_touches_compute():
    for module in (m for m in MODULES if part(m) == "web"):
        assert not imported_parts(module) & {"compute", "models", "stages", "objectives"}, module


def test_what_must_start_at_once_does_not_load_torch():
    wanted = [m for m in MODULES if part(m) in WITHOUT_TORCH]
    assert {part(m) for m in wanted} == set(WITHOUT_TORCH)
    code = (
        "import importlib, sys\n"
        f"for name in {wanted!r}:\n"
        "    importlib.import_module(name)\n"
        "    heavy = {'torch', 'transformers', 'peft'} & set(sys.modules)\n"
        "    assert not heavy, f'{name} loads {sorted(heavy)}'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
