"""A process that tries whether the tests notice small mistakes in a module: each is made, and the module's tests run.

    python mutants.py COUNT SEED    prints which ones, drawn by chance from all, were noticed and which were not

Mistakes are other comparisons, `and` for `or`, a dropped `not`, other numbers, texts and operators, a condition turned
round, a statement or a value returned left out. Annotations, docstrings and the words of f-strings are left alone.
Packages are imported once; each mutant lives in a fork, and so do its tests, which see it in place of the module.
"""

from __future__ import annotations

import ast
import copy
import importlib.machinery
import importlib.util
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy  # noqa: F401
import orjson  # noqa: F401
import psutil  # noqa: F401
import pyarrow.parquet  # noqa: F401
import pytest
import torch  # noqa: F401
import transformers  # noqa: F401

ROOT = Path(__file__).parent.parent
SECONDS = 60
"""What the tests of one mutant may take; those that take longer have noticed it."""

STORE = "tests/store/test_{}.py"
TESTS = {
    "store/disk": [STORE.format(name) for name in ("disk", "files", "journal")],
    "store/files": [STORE.format(name) for name in ("files", "cache", "run", "crash", "power_loss")],
    "store/journal": [STORE.format(name) for name in ("journal", "run")],
    "store/run": [STORE.format(name) for name in ("run", "crash")],
    "store/cache": [STORE.format("cache")],
    "store/values": [STORE.format(name) for name in ("values", "journal", "run")],
    **{
        f"formats/{name}": [f"tests/formats/test_{one}.py" for one in ("formats", "trl", "sharegpt", "hh", "group")]
        for name in ("checks", "turns")
    },
}
"""By module or package, the tests that are to notice."""

COMPARISONS: dict[type, type] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
OPERATORS: dict[type, type] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult, ast.Div: ast.Mult,
    ast.Mod: ast.Mult, ast.BitOr: ast.BitAnd, ast.BitAnd: ast.BitOr,
}  # fmt: skip


def mistakes(node: ast.AST) -> Iterator[tuple[str, Callable[[Any], None]]]:
    """What may be done wrong at a node: in words, and what does it to a copy of the node."""
    match node:
        case ast.Compare(ops=[operator]) if type(operator) in COMPARISONS:
            other = COMPARISONS[type(operator)]
            yield f"{type(operator).__name__} -> {other.__name__}", lambda n: n.ops.__setitem__(0, other())
        case ast.BoolOp():
            other = ast.Or if isinstance(node.op, ast.And) else ast.And
            yield f"-> {other.__name__}", lambda n: setattr(n, "op", other())
        case ast.BinOp() if type(node.op) in OPERATORS:
            other = OPERATORS[type(node.op)]
            yield f"-> {other.__name__}", lambda n: setattr(n, "op", other())
        case ast.UnaryOp(op=ast.Not()):
            yield (
                "not dropped",
                lambda n: (
                    setattr(n, "op", ast.UAdd())
                    or setattr(n, "operand", ast.Call(ast.Name("bool", ast.Load()), [n.operand], []))
                ),
            )
        case ast.Constant(value=bool() as value):
            yield f"-> {not value}", lambda n: setattr(n, "value", not value)
        case ast.Constant(value=int() | float() as value):
            yield f"-> {value + 1}", lambda n: setattr(n, "value", value + 1)
        case ast.Constant(value=str() as value) if value:
            yield "-> another text", lambda n: setattr(n, "value", f"XX{value}")
        case ast.If() | ast.While() | ast.IfExp():
            yield "condition turned round", lambda n: setattr(n, "test", ast.UnaryOp(ast.Not(), n.test))
        case ast.Return(value=ast.expr() as value) if not isinstance(value, ast.Constant):
            yield "-> return None", lambda n: setattr(n, "value", ast.Constant(None))
        case ast.Expr(value=ast.Call()) | ast.AugAssign():
            yield "left out", lambda n: _become(n, ast.Pass())
        case ast.Raise():
            yield "left out", lambda n: _become(n, ast.Pass())


def _become(node: ast.AST, other: ast.AST) -> None:
    node.__class__ = type(other)  # type: ignore[assignment]


def places(tree: ast.AST) -> Iterator[ast.AST]:
    """Nodes that are run: no annotation, docstring, literal part of an f-string or `__all__`."""
    for name, value in ast.iter_fields(tree):
        if name in ("annotation", "returns", "type_comment") or isinstance(tree, ast.JoinedStr):
            continue
        for node in value if isinstance(value, list) else [value]:
            if not isinstance(node, ast.AST):
                continue
            words = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            listed = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
            if not words and not listed and not isinstance(node, ast.Import | ast.ImportFrom):
                yield node
                yield from places(node)


def mutants(path: Path) -> list[tuple[int, int, str]]:
    """All of a file: which place, which mistake there, and what it is in words."""
    found = []
    for place, node in enumerate(places(ast.parse(path.read_text()))):
        for number, (words, _) in enumerate(mistakes(node)):
            where = f"{path.relative_to(ROOT / 'src')}:{getattr(node, 'lineno', 0)}"
            found.append((place, number, f"{where}: {ast.unparse(node).splitlines()[0][:70]}: {words}"))
    return found


def mutated(path: Path, place: int, number: int) -> ast.AST:
    tree = copy.deepcopy(ast.parse(path.read_text()))
    node = list(places(tree))[place]
    list(mistakes(node))[number][1](node)
    return ast.fix_missing_locations(tree)


class Mutant(importlib.machinery.SourceFileLoader):
    """Finds and loads one module otherwise than it is written."""

    def __init__(self, name: str, path: Path, tree: ast.AST) -> None:
        super().__init__(name, str(path))
        self.tree = tree

    def find_spec(self, name: str, *where: Any) -> Any:
        package = Path(self.path).name == "__init__.py"
        search = [str(Path(self.path).parent)] if package else None
        return (
            importlib.util.spec_from_file_location(name, self.path, loader=self, submodule_search_locations=search)
            if name == self.name
            else None
        )

    def get_code(self, name: str) -> Any:
        return compile(self.tree, self.path, "exec")


def noticed(path: Path, tests: list[str], tree: ast.AST) -> bool:
    """Whether the tests fail."""
    child = os.fork()
    if child == 0:
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDWR)
        for place in range(3):
            os.dup2(nothing, place)
        parts = path.relative_to(ROOT / "src").with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        sys.meta_path.insert(0, Mutant(name, path, tree))
        leave_out = "not real_data and not killed and not harness"  # processes of their own, which have no mutant
        options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--assert=plain", "-k", leave_out]
        os._exit(int(pytest.main([*options, *tests])))
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status) != 0
        time.sleep(0.01)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def tests_of(path: Path) -> list[str]:
    name = path.relative_to(ROOT / "src" / "truing").with_suffix("").as_posix()
    if name in TESTS:
        return TESTS[name]
    own = ROOT / "tests" / "formats" / f"test_{path.stem}.py"
    contract = ["tests/formats/test_formats.py", "tests/formats/test_format.py"]
    return [*([str(own)] if own.exists() else []), *contract]


def main(count: int, seed: int) -> dict[str, list[str]]:
    """The mutants that were noticed and those that were not."""
    files = [path for part in ("store", "formats") for path in sorted((ROOT / "src" / "truing" / part).glob("*.py"))]
    files = [path for path in files if mutants(path) and path.as_posix()[-17:] != "store/__init__.py"]
    everything = [(path, *mutant) for path in files for mutant in mutants(path)]
    found: dict[str, list[str]] = {"all": [str(len(everything))], "noticed": [], "unseen": []}
    for path, place, number, words in random.Random(seed).sample(everything, min(count, len(everything))):
        if path in files:
            files.remove(path)
            if noticed(path, tests_of(path), ast.parse(path.read_text())):
                raise AssertionError(f"{path}: its tests fail as it is: {tests_of(path)}")
        seen = noticed(path, tests_of(path), mutated(path, place, number))
        found["noticed" if seen else "unseen"].append(words)
        print("noticed" if seen else "UNSEEN ", words, file=sys.stderr, flush=True)
    return found


if __name__ == "__main__":
    os.chdir(ROOT)
    print(json.dumps(main(int(sys.argv[1]), int(sys.argv[2]))))
