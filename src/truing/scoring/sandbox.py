"""Runs Python that nobody has read: in processes of their own, under limits, and with the verdict made outside.

What a test compares with a written value, and what a program prints, is compared here: the sandbox gets neither the
expected value nor the expected output. So neither a forged line nor an early exit, a patched module or an object that
is equal to everything passes such a test. What else a test asserts is asserted inside, next to the answer's code; that
it came to its end is shown by a number drawn for the run, which code that searches the process can find.

With namespaces (Linux, `unshare` of util-linux) the code sees no network and no other process; the home folder, the
current one and those for temporary files and sockets are empty, unless they lie where Python may (`NEEDED`), and it can
write nothing but 64 MiB of its own. It is not a virtual machine: the kernel is shared, what the user may read elsewhere
can be read, and the limit of memory is one for each process. On x86-64 and ARM64 a filter of system calls denies
memfd_create and shared memory, queues and semaphores of System V, which this limit does not count, and namespaces and
mounts of the code's own; elsewhere there is no filter. POSIX queues have no room; what pipes hold is not counted.
With limits alone the code has the network and all rights of the user, who may read files and environments and end
processes: that is for a machine which is itself a sandbox.
Where Truing runs as root, code runs as a user that nobody is.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import itertools
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from truing.errors import ConfigError
from truing.scoring import inside

Isolation = Annotated[Literal["namespaces", "limits"], "isolation"]
"""How code is kept apart. The mark is what a plan looks for, to try it before anything runs."""
NAMESPACES = ("--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--net", "--ipc", "--uts")
"""Options of `unshare`; who is not root needs a namespace of users for them."""
USERS = range(61184, 65520)
"""Numbers that no user of a system has: code runs as one of them where Truing runs as root."""
SHARED = ("/tmp", "/var/tmp", "/run", "/dev/shm")
NEEDED = ("/usr", "/lib", "/lib64", "/bin", "/etc", "/proc", "/opt")
"""What Python is made of; never covered, even where Truing runs from there."""
SPARE = 10.0
"""Seconds beyond its tests that a sandbox may take before it is ended from outside."""

_user = itertools.count(secrets.randbelow(len(USERS)))
"""Begins anywhere, so that two runs at one time hardly share users."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a test may use: seconds by the clock and of computing, MiB for each process, processes and threads."""

    seconds: float
    memory: int
    processes: int


@dataclass(frozen=True, slots=True)
class Test:
    """One test of an answer's code.

    source: what is run after the code. input: what can be read from standard input.
    expected: lines that it must report, or what the code must print where `prints`.
    """

    source: str
    input: str
    expected: str
    prints: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a test passed, and if not, why."""

    passed: bool
    reason: str = ""


REASONS = {
    "time": "time limit",
    "memory": "memory limit",
    "output": "too much output",
    "crashed": "crashed",
    "left": "left before its end",
    "ended": "wrong result",
}


def read_test(given: object) -> Test:
    """A test as a row has it: statements of Python, or `{"input": ..., "output": ...}` for a whole program.

    Each `assert X == VALUE` at the outermost level becomes a report of X. Raises ValueError on anything else.
    """
    if isinstance(given, dict):
        if set(given) != {"input", "output"} or not all(isinstance(one, str) for one in given.values()):
            raise ValueError('a test of a program is {"input": text, "output": text}')
        return Test("", given["input"], _lines(given["output"]), prints=True)
    if not isinstance(given, str):
        raise ValueError(f"a test is a text or a table, and this one is a {type(given).__name__}")
    try:
        tree = ast.parse(given)
    except SyntaxError as error:
        raise ValueError(f"a test is no Python: {error.msg}") from None
    expected = []
    for place, statement in enumerate(tree.body):
        compared = _compared(statement)
        if compared is not None:
            tree.body[place], value = compared
            expected.append(value)
    return Test(ast.unparse(ast.fix_missing_locations(tree)), "", "\n".join(expected), prints=False)


def verdicts(code: str, tests: Sequence[Test], limits: Limits, isolation: Isolation) -> list[Verdict]:
    """What each test says of the code."""
    nonce = secrets.token_hex(16)
    ran = _ran(code, tests, limits, isolation, nonce)
    if ran is None:
        return [Verdict(False, "the sandbox was ended")] * len(tests)
    return [_judged(test, one, nonce) for test, one in zip(tests, ran, strict=True)]


@functools.cache
def check(isolation: Isolation) -> None:
    """Raises ConfigError where this machine cannot run code so."""
    advice = {
        "namespaces": 'allow user namespaces, or set isolation = "limits" where the machine is itself a sandbox',
        "limits": "if Truing runs as root, put Python where every user may read it, or run as an ordinary user",
    }[isolation]
    if sys.platform != "linux":
        raise ConfigError("code: answers are run on Linux only")
    if isolation == "namespaces" and shutil.which("unshare") is None:
        raise ConfigError(f"code: the command 'unshare' is not here: install util-linux, or {advice}")
    tried = verdicts(
        "import colorsys", [read_test("assert colorsys.ONE_THIRD * 3 == 1")], Limits(20, 512, 8), isolation
    )
    if tried != [Verdict(True)]:
        raise ConfigError(f"code: a sandbox with {isolation} does not work here ({tried[0].reason}): {advice}")


def _judged(test: Test, ran: dict[str, str], nonce: str) -> Verdict:
    if test.prints:
        passed = ran["outcome"] == "ended" and _lines(ran["printed"]) == test.expected
    else:
        passed = ran["reported"] == "\n".join(filter(None, (test.expected, nonce)))
    if passed:
        return Verdict(True)
    if ran["outcome"] == "raised":
        name = ran["reported"].removeprefix("!")
        return Verdict(False, f"raised {name if name.isidentifier() else 'an error'}")
    return Verdict(False, REASONS[ran["outcome"]])


def _ran(
    code: str, tests: Sequence[Test], limits: Limits, isolation: Isolation, nonce: str
) -> list[dict[str, str]] | None:
    """How each test ended, what it printed and reported; None where the sandbox itself came to no end."""
    root, namespaces = os.geteuid() == 0, isolation == "namespaces"
    command = [sys.executable, "-I", "-c", Path(inside.__file__).read_text(encoding="utf-8")]
    if namespaces:
        command = ["unshare", *([] if root else ["--user", "--map-root-user"]), *NAMESPACES, *command]
    with tempfile.TemporaryDirectory(prefix="truing-code-", ignore_cleanup_errors=True) as folder:
        job: dict[str, Any] = {
            "code": code,
            "tests": [
                {"kind": "program" if test.prints else "statements", "source": test.source, "input": test.input}
                for test in tests
            ],
            "nonce": nonce,
            "folder": folder,
            "hidden": _hidden(),
            "namespaces": namespaces,
            "uid": USERS[next(_user) % len(USERS)] if root else None,
            "seconds": limits.seconds,
            "memory": limits.memory,
            "processes": limits.processes,
        }
        environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "OPENBLAS_NUM_THREADS": "1"}
        process = subprocess.Popen(
            command, cwd=folder, env=environment, start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            said, _ = process.communicate(json.dumps(job).encode(), len(tests) * (limits.seconds + 5) + SPARE)
            return json.loads(said)  # type: ignore[no-any-return]
        except (subprocess.TimeoutExpired, ValueError):
            return None
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kills the sandbox with its group; in a namespace all processes end with its first."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def _hidden() -> list[str]:
    """Folders that a namespace covers: where secrets, sockets, and the rows with their expected values may lie."""
    places = {os.path.realpath(place) for place in (Path.home(), Path.cwd(), tempfile.gettempdir(), *SHARED)}
    return sorted(place for place in places if place != "/" and not _needed(place))


def _needed(place: str) -> bool:
    return any(place == needed or place.startswith(f"{needed}/") for needed in NEEDED)


def _compared(statement: ast.stmt) -> tuple[ast.stmt, str] | None:
    """`assert X == VALUE` as a report of X, and the line that it must report."""
    if not isinstance(statement, ast.Assert) or not isinstance(statement.test, ast.Compare):
        return None
    test = statement.test
    if len(test.ops) != 1 or not isinstance(test.ops[0], ast.Eq):
        return None
    for said, value in ((test.left, test.comparators[0]), (test.comparators[0], test.left)):
        try:
            line = inside.canonical(_value(value))
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            continue
        return ast.Expr(ast.Call(ast.Name("__report__", ast.Load()), [said], [])), line
    return None


def _value(node: ast.expr) -> Any:
    """A written value: a literal, or a plain collection made of one."""
    kinds = {"set": set, "frozenset": frozenset, "list": list, "tuple": tuple, "dict": dict}
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in kinds and not node.keywords:
        return kinds[node.func.id](*map(ast.literal_eval, node.args))
    return ast.literal_eval(node)


def _lines(text: str) -> str:
    """A text without spaces at the ends of its lines, or empty lines at its end."""
    return "\n".join(line.rstrip() for line in text.rstrip().splitlines())
