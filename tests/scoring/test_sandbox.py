"""Code that nobody has read: right answers pass, wrong and hostile ones do not, and nothing is left of them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from truing.errors import ConfigError
from truing.scoring import inside, sandbox
from truing.scoring.sandbox import Isolation, Limits, Verdict, read_test, verdicts

SMALL = Limits(seconds=2.0, memory=256, processes=8)


@pytest.fixture(params=["namespaces", "limits"])
def isolation(request: pytest.FixtureRequest) -> Isolation:
    try:
        sandbox.check(request.param)
    except ConfigError as error:
        pytest.skip(str(error))
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def judged(isolation: Isolation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Verdicts of tests on code; whatever it did, no process of it is left, and it took no longer than it may.

    What runs it is told by a mark of this test from that of tests in other processes.
    """
    marked = tmp_path / "inside.py"
    marked.write_text(f"# {tmp_path}\n{Path(inside.__file__).read_text()}")
    monkeypatch.setattr(inside, "__file__", str(marked))

    def judge(code: str, *tests: Any, limits: Limits = SMALL) -> list[Verdict]:
        started = time.monotonic()
        found = verdicts(code, [read_test(test) for test in tests], limits, isolation)
        assert time.monotonic() - started < len(tests) * (limits.seconds + 5) + sandbox.SPARE
        return found

    yield judge
    left = [process for process in psutil.process_iter() if _runs(process, f"# {tmp_path}\n")]
    assert not left, left


def _runs(process: psutil.Process, mark: str) -> bool:
    try:
        return any(mark in word for word in process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


def reasons(found: list[Verdict]) -> list[str]:
    return [one.reason for one in found]


DOUBLE = "def double(x):\n    return 2 * x\n"


def test_each_test_is_judged_by_itself(judged: Any) -> None:
    found = judged(
        DOUBLE, "assert double(2) == 4", "assert double(2) == 5", "assert [1, 2] == double([1])", "assert double()",
        "import math\nassert math.isclose(double(0.5), 1)\nassert double('a') == 'aa'", "assert double(2) != 4",
    )  # fmt: skip
    assert [one.passed for one in found] == [True, False, False, False, True, False]
    assert reasons(found) == ["", "wrong result", "wrong result", "raised TypeError", "", "raised AssertionError"]


def test_programs_are_judged_by_what_they_print(judged: Any) -> None:
    code = "import sys\nif __name__ == '__main__':\n    print(int(input()) + 1, ' ')\n    sys.exit(0)"
    found = judged(
        code, {"input": "4\n", "output": "5\n"}, {"input": "4\n", "output": "6"}, {"input": "", "output": ""}
    )
    assert found == [Verdict(True), Verdict(False, "wrong result"), Verdict(False, "raised EOFError")]


def test_imports_of_the_standard_library_and_recursion_work(judged: Any) -> None:
    code = (
        "import collections.abc, dataclasses, decimal, heapq, encodings.idna, json.encoder, re, threading\n"
        "@dataclasses.dataclass\nclass P:\n    x: int = 3\n"
        "def f(n):\n    return 0 if n == 0 else 1 + f(n - 1)\n"
        "t = threading.Thread(target=f, args=(3,)); t.start(); t.join()\n"
        "open('own', 'w').write('x')\n"
    )
    assert judged(code, "assert f(500) == 500\nassert P().x == 3\nassert open('own').read() == 'x'") == [Verdict(True)]


CALL = """import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *given):
    if libc[name](*given) < 0: raise OSError(ctypes.get_errno(), name)
"""
CLONE = {"x86_64": 56, "aarch64": 220}.get(os.uname().machine, -1)

HOSTILE = {
    "endless": ("while True: pass", "time limit"),
    "asleep": ("import time; time.sleep(100)", "time limit"),
    "fork bomb": ("import os\nwhile True:\n    try: os.fork()\n    except OSError: pass", "time limit"),
    "threads": ("import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(9,)).start()", "raised"),
    "10 GB": ("x = bytearray(10 << 30)", "memory limit"),
    "10 GB in pieces": ("x = []\nwhile True: x.append(bytearray(1 << 20))", "memory limit"),
    "giant output": ("while True: print('x' * 1000000)", "too much output|raised OSError"),
    "giant file": ("f = open('f', 'wb')\nwhile True: f.write(b'x' * 1000000)", "raised OSError"),
    "early exit": ("import sys; sys.exit(0)", "left"),
    "early end": ("import os; os._exit(0)", "wrong result"),
    "crash": ("import ctypes; ctypes.string_at(0)", "crashed"),
    "no Python": ("def f(:", "raised SyntaxError"),
    "deep": ("exec('(' * 100000)", "memory limit|raised|crashed"),
    "kills its own": ("import os; os.kill(os.getpid(), 9)", "time limit"),
    "kills all": ("import os\nos.kill(os.getppid(), 9)\nos.kill(-1, 9)", "time limit|ended|raised|wrong"),
    "forged line": ("print('passed'); print('1\\n2'); import os; os.write(1, b'ok'); os._exit(0)", "wrong result"),
    "forged report": ("import os; os.write(3, b'\\x34\\n0x4\\npassed'); os._exit(0)", "wrong result"),
    "equal to all": ("class E:\n    def __eq__(self, o): return True\ndouble = lambda x: E()", "raised TypeError"),
    "patched": (
        "import builtins, json, sys, os\nfor m in (json, os, sys):\n    pass\n"
        "builtins.repr = hex = lambda *a: '0x4'\nbuiltins.isinstance = lambda *a: True\n"
        "sys.modules['__main__'].canonical = lambda *a: '0x0'\ndouble = lambda x: 5",
        "wrong result|raised",
    ),
    "memory in files": (
        f"import os\nfor _ in range(40): os.write(os.memfd_create('m'), bytes(8 << 20))\n{DOUBLE}",
        "raised PermissionError",
    ),
    "memory that stays": (f"{CALL}call('shmget', 0, 1 << 20, 0o1600)\n{DOUBLE}", "raised PermissionError"),
    "messages that stay": (f"{CALL}call('msgget', 0, 0o1600)\n{DOUBLE}", "raised PermissionError"),
    "queues by name": (
        f"{CALL}libc.mq_open.argtypes = [ctypes.c_char_p, ctypes.c_int, ctypes.c_int, ctypes.c_void_p]\n"
        f"call('mq_open', b'/truing-test', 0o102, 0o600, None)\n{DOUBLE}",
        "raised OSError",
    ),
    "semaphores that stay": (f"{CALL}call('semget', 0, 1, 0o1600)\n{DOUBLE}", "raised PermissionError"),
    "a disk of its own": (
        f"{CALL}call('unshare', 0x10020000)\ncall('mount', b'none', b'.', b'tmpfs', 0, None)\n{DOUBLE}",
        "raised PermissionError",
    ),
    "a user of its own": (
        f"{CALL}call('syscall', {CLONE}, 0x10000000 | 17, 0, 0, 0, 0)\n{DOUBLE}",
        "raised PermissionError",
    ),
    "a user unseen": (
        f"{CALL}call('syscall', 435, (ctypes.c_uint64 * 8)(0x10000000, 0, 0, 0, 17), 64)\n{DOUBLE}",
        "raised OSError",
    ),
}  # fmt: skip

FILTERED = {
    "memory in files", "memory that stays", "messages that stay", "semaphores that stay", "a disk of its own",
    "a user of its own", "a user unseen",
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_code_gets_nothing(name: str, judged: Any, isolation: Isolation) -> None:
    if name == "kills all" and isolation == "limits" and os.geteuid() != 0:
        pytest.skip("limits alone let code end whatever its user runs, this test too; the module says so")
    if name in FILTERED and os.uname().machine not in inside.CALLS:
        pytest.skip("no filter of system calls on this architecture; the module says so")
    code, reason = HOSTILE[name]
    seconds = 1.0 if "time limit" in reason else 10.0
    (found,) = judged(f"{code}\n", "assert double(2) == 4", limits=Limits(seconds, 256, 8))
    assert not found.passed
    assert any(found.reason.startswith(word) or word in found.reason for word in reason.split("|")), found


def test_no_child_outlives_its_test(judged: Any, tmp_path: Path) -> None:
    """Not even one in a session of its own, whose parents are gone."""
    code = (
        "import os, time\n"
        "if os.fork() == 0:\n    os.setsid()\n"
        "    if os.fork() == 0:\n        time.sleep(60)\n    os._exit(0)\n" + DOUBLE
    )
    assert judged(code, "assert double(2) == 4") == [Verdict(True)]


def test_nothing_of_the_environment_is_inherited(judged: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUING_SECRET", "hunter2")
    read, write = os.pipe()
    os.set_inheritable(read, True)
    try:
        code = (
            "import os\nenvironment = ' '.join(map(str, os.environ.items()))\n"
            "parents = b''\n"
            "for name in filter(str.isdigit, os.listdir('/proc')):\n"
            "    try: parents += open(f'/proc/{name}/environ', 'rb').read()\n"
            "    except OSError: pass\n"
            "files = sorted(os.listdir('/proc/self/fd'))[:4]\n"
            f"try: os.fstat({max(read, 4)}); inherited = True\nexcept OSError: inherited = False\n"
        )
        found = judged(code, "assert ('hunter2' in environment) == False\nassert inherited == False")
        assert found == [Verdict(True)]
        hidden = judged(code, "assert (b'hunter2' in parents) == False")
    finally:
        os.close(read)
        os.close(write)
    if hidden != [Verdict(True)]:
        assert os.geteuid() != 0, "limits alone cannot hide a user's own processes; the module says so"


def test_a_namespace_lets_nothing_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    try:
        sandbox.check("namespaces")
    except ConfigError as error:
        pytest.skip(str(error))
    tmp_path.chmod(0o777)
    tests = [
        read_test(test)
        for test in (
            f"open('{tmp_path}/out', 'w')",
            "open('/tmp/truing-out', 'w')",
            "open('/proc/sys/kernel/hostname', 'w').write('x')",
            "import socket; socket.create_connection(('1.1.1.1', 53), timeout=1)",
            f"import os; assert os.path.exists('{tmp_path}') == False",
            f"import os; assert [os.listdir(p) for p in ('{Path.home()}', '/run') if os.path.isdir(p)][0] == []",
            f"import os; assert os.path.exists('{Path(__file__).resolve()}') == False",
            "import os; assert len([n for n in os.listdir('/proc') if n.isdigit()]) == 2",
            "import os; os.setuid(0); os.chroot('/')",
            "import ctypes, os; l = ctypes.CDLL(None)\nassert l.mount(b'none', b'/tmp', b'tmpfs', 0, b'') == -1",
            "b = bytes(1 << 20)\nfor i in range(99): open(f'f{i}', 'wb').write(b)",
        )
    ]
    found = verdicts("", tests, SMALL, "namespaces")
    assert [one.passed for one in found] == [False] * 4 + [True] * 4 + [False, True, False]
    assert not list(tmp_path.iterdir())
    assert not Path("/tmp/truing-out").exists()


@pytest.mark.parametrize("home", ["/library/run", "/options/x", "/process/x", "/etcetera"])
def test_a_folder_is_covered_whose_name_only_begins_like_a_needed_one(
    home: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", home)
    assert home in sandbox._hidden()


@pytest.mark.parametrize("home", ["/opt", "/opt/x", "/usr/src/x"])
def test_what_python_needs_is_not_covered(home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", home)
    assert home not in sandbox._hidden()


def test_the_sandbox_never_holds_what_is_expected() -> None:
    test = read_test("x = 1\nassert f(x) == {'a': [1, 2.5]}\nassert set([3]) == g()\nassert f(x) > 2, 'large'")
    assert test.source == "x = 1\n__report__(f(x))\n__report__(g())\nassert f(x) > 2, 'large'"
    assert test.expected == "dict('a': list(0x1, 0x1.4000000000000p+1))\nset(0x3)"
    for wrong in ("assert (", 3, {"input": "x"}):
        with pytest.raises(ValueError, match="a test"):
            read_test(wrong)


EQUAL = [
    (2, 2.0), (True, 1), (0.0, -0.0), ({1, 2}, frozenset({2, 1})), ({"a": 1, "b": 2}, {"b": 2, "a": 1}), (1 + 0j, 1),
    (10**5000, 10**5000), (b"x", bytearray(b"x")), ([(), [None]], [(), [None]]),
]  # fmt: skip
UNEQUAL = [
    ([1], (1,)), ("1", 1), (b"1", "1"), (0.1 + 0.2, 0.3), (None, "None"), ({}, set()), ([1, 2], [12]),
    (["a, b"], ["a", "b"]), (["a', 'b"], ["a", "b"]), (1j, 1), (float("nan"), 0.5),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), EQUAL, ids=range(len(EQUAL)))
def test_what_python_calls_equal_has_one_line(one: Any, other: Any) -> None:
    assert one == other
    assert inside.canonical(one) == inside.canonical(other)
    assert "\n" not in inside.canonical([one, "\n"])


@pytest.mark.parametrize(("one", "other"), UNEQUAL, ids=range(len(UNEQUAL)))
def test_what_differs_has_another(one: Any, other: Any) -> None:
    assert one != other
    assert inside.canonical(one) != inside.canonical(other)


def test_what_cannot_be_compared_is_an_error() -> None:
    with pytest.raises(TypeError, match="a object cannot be compared"):
        inside.canonical(object())
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(ValueError, match="too deep"):
        inside.canonical(endless)
