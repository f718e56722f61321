"""What runs inside the sandbox. `sandbox.py` starts this text as a program of its own; it needs Python and Linux alone.

One process of it guards; every test has a child of its own, forked from it, in which the answer's code runs under
limits. The guard says of each child how it ended, what it printed and what it reported. It judges nothing, and knows
no expected value: what does not lie in the sandbox cannot be read in it.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys
import time
import types
from typing import Any

PRINTED = 1 << 20
"""Bytes of output and of a report that are read; more is too much."""
FILE_BYTES = 16 << 20
SPACE = "64m"
"""Of all files together, where namespaces give the sandbox a file system of its own."""
OPEN_FILES = 64
MEMORY, RAISED, LEFT = 101, 102, 103
"""Exit statuses of a child. They are words for a report: no verdict rests on them."""
DEPTH = 60

MS_BIND, MS_REC = 4096, 16384
MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE, MOUNT_ATTR_RDONLY = 442, -100, 0x8000, 1
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 4, 36, 38
CAPABILITIES_3 = 0x20080522

PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2
LOAD, IF_EQUAL, IF_AT_LEAST, IF_ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
"""Instructions of a filter of system calls: classic BPF, of 32-bit words."""
NUMBER_AT, ARCHITECTURE_AT, FIRST_ARGUMENT_AT = 0, 4, 16
"""Bytes into what a filter is given of a call (struct seccomp_data of the kernel)."""
ALLOW, EPERM, ENOSYS = 0x7FFF0000, 0x50001, 0x50026
"""Answers of a filter: go on, or fail with this error."""
CLONE_NEWUSER, X32, CLONE3 = 0x10000000, 0x40000000, 435
CALLS = {
    "x86_64": (
        0xC000003E, 56,
        {"memfd_create": 319, "shmget": 29, "msgget": 68, "semget": 64, "unshare": 272, "setns": 308, "mount": 165},
    ),
    "aarch64": (
        0xC00000B7, 220,
        {"memfd_create": 279, "shmget": 194, "msgget": 186, "semget": 190, "unshare": 97, "setns": 268, "mount": 40},
    ),
}  # fmt: skip
"""Of each architecture: its mark, its number of `clone`, and those of the calls that are denied."""


def canonical(value: Any, depth: int = 0) -> str:
    """One line that is the same for values that Python calls equal: 2 and 2.0, sets in any order, lists not tuples."""
    if depth > DEPTH:
        raise ValueError("too deep to be compared")
    if value is None or value is Ellipsis:
        return str(value)
    if isinstance(value, float) and not value.is_integer():
        return float.hex(value)
    if isinstance(value, int | float):
        return hex(int(value))
    if isinstance(value, complex):
        parts = canonical(value.real), canonical(value.imag)
        return parts[0] if value.imag == 0 else f"({parts[0]}, {parts[1]}j)"
    if isinstance(value, str):
        return repr(str(value))
    if isinstance(value, bytes | bytearray):
        return repr(bytes(value))
    if isinstance(value, dict):
        pairs = (f"{canonical(key, depth + 1)}: {canonical(one, depth + 1)}" for key, one in value.items())
        return f"dict({', '.join(sorted(pairs))})"
    for kind, word in ((list, "list"), (tuple, "tuple"), ((set, frozenset), "set")):
        if isinstance(value, kind):
            inner = [canonical(one, depth + 1) for one in value]
            return f"{word}({', '.join(sorted(inner) if word == 'set' else inner)})"
    if hasattr(value, "tolist"):  # arrays and numbers of numpy
        return canonical(value.tolist(), depth + 1)
    raise TypeError(f"a {type(value).__name__} cannot be compared outside")


def main() -> None:
    """Reads a job on standard input, runs its tests one after the other, and writes what came of them."""
    job = json.load(sys.stdin)
    if job["namespaces"]:
        _seal(job)
    else:
        os.chmod(job["folder"], 0o711)
        _libc().prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    _libc().prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)  # the guard's memory and files are closed to its children
    print(json.dumps([_run(job, test, str(number)) for number, test in enumerate(job["tests"])]))


def _run(job: dict[str, Any], test: dict[str, str], name: str) -> dict[str, str]:
    """One test in a child of its own, and nothing left of it afterwards."""
    given, printed, reported = (os.memfd_create(name) for name in ("given", "printed", "reported"))
    os.write(given, test["input"].encode())
    os.lseek(given, 0, os.SEEK_SET)
    folder = os.path.join(job["folder"], name)
    os.mkdir(folder, 0o700)
    if job["uid"] is not None:
        os.chown(folder, job["uid"], job["uid"])
    most = _processes(os.getuid() if job["uid"] is None else job["uid"]) + job["processes"]
    child = os.fork()
    if child == 0:
        status = RAISED
        try:
            _enclose(job, folder, (given, printed, reported), most)
            status = _perform(job["code"], test, job["nonce"])
        except MemoryError:
            status = MEMORY
        finally:
            os._exit(status)
    outcome = _wait(child, job["seconds"])
    _sweep(child, job["namespaces"])
    said = [_read(file) for file in (printed, reported)]
    for file in (given, printed, reported):
        os.close(file)
    if max(map(len, said)) > PRINTED:
        return {"outcome": "output", "printed": "", "reported": ""}
    return {"outcome": outcome, "printed": said[0] if test["kind"] == "program" else "", "reported": said[1]}


def _enclose(job: dict[str, Any], folder: str, files: tuple[int, int, int], most_processes: int) -> None:
    """The child alone: its own session, files, limits and folder, and no privileges."""
    os.setsid()
    given, printed, reported = files
    nothing = os.open(os.devnull, os.O_WRONLY)
    for place, file in enumerate((given, printed, nothing, reported)):
        os.dup2(file, 100 + place)
    for place in range(4):
        os.dup2(100 + place, place)
    os.closerange(4, 1024)
    seconds = int(job["seconds"]) + 1
    for limit, value in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, job["memory"] << 20),
        (resource.RLIMIT_FSIZE, FILE_BYTES),
        (resource.RLIMIT_NPROC, most_processes),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
    ):
        resource.setrlimit(limit, (value, value))
    if job["uid"] is not None:
        os.setgroups([])
        os.setresgid(job["uid"], job["uid"], job["uid"])
        os.setresuid(job["uid"], job["uid"], job["uid"])
    else:
        _libc().capset((ctypes.c_uint32 * 2)(CAPABILITIES_3, 0), (ctypes.c_uint32 * 6)())
    _libc().prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _libc().prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    _deny_calls()
    os.chdir(folder)
    os.environ.update(HOME=folder, TMPDIR=folder)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115


def _deny_calls() -> None:
    """Closes the ways round the limits: memory that RLIMIT_AS does not count, and file systems of the code's own.

    Needs PR_SET_NO_NEW_PRIVS. Other architectures than those of `CALLS` get no filter.
    """
    if os.uname().machine not in CALLS or ctypes.sizeof(ctypes.c_void_p) != 8:
        return
    program = _filter(*CALLS[os.uname().machine])
    text = ctypes.create_string_buffer(program, len(program))
    described = (ctypes.c_uint64 * 2)(len(program) // 8, ctypes.addressof(text))  # struct sock_fprog
    _checked(_libc().prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(described), 0, 0), "filter of calls")


def _filter(architecture: int, clone: int, denied: dict[str, int]) -> bytes:
    """A filter's instructions, of 8 bytes each: code, how many to skip if it holds and if not, a value.

    Calls of another architecture are denied, for their numbers mean something else. Of `clone3` a filter cannot read
    the flags: it is said not to exist, so that the C library takes `clone`.
    """
    steps = [(LOAD, 0, 0, ARCHITECTURE_AT), (IF_EQUAL, 1, 0, architecture), (RETURN, 0, 0, EPERM)]
    steps += [(LOAD, 0, 0, NUMBER_AT), (IF_AT_LEAST, 0, 1, X32), (RETURN, 0, 0, EPERM)]
    for number in denied.values():
        steps += [(IF_EQUAL, 0, 1, number), (RETURN, 0, 0, EPERM)]
    steps += [(IF_EQUAL, 0, 1, CLONE3), (RETURN, 0, 0, ENOSYS)]
    steps += [(IF_EQUAL, 0, 3, clone), (LOAD, 0, 0, FIRST_ARGUMENT_AT)]
    steps += [(IF_ANY_BIT, 0, 1, CLONE_NEWUSER), (RETURN, 0, 0, EPERM), (RETURN, 0, 0, ALLOW)]
    return b"".join(
        code.to_bytes(2, "little") + bytes((holds, fails)) + value.to_bytes(4, "little")
        for code, holds, fails, value in steps
    )


def _perform(code: str, test: dict[str, str], nonce: str) -> int:
    """Runs the answer and its test; what the test reports and the nonce are written once it came to its end."""
    name = "__main__" if test["kind"] == "program" else "__answer__"
    module = sys.modules[name] = types.ModuleType(name)
    found: list[str] = []

    def report(value: Any) -> None:
        found.append(canonical(value))

    try:
        exec(compile(code, "answer.py", "exec"), module.__dict__)
        vars(module)["__report__"] = report
        exec(compile(test["source"], "test.py", "exec"), module.__dict__)
        sys.stdout.flush()
    except MemoryError:
        return MEMORY
    except SystemExit as left:
        sys.stdout.flush()
        return 0 if test["kind"] == "program" and left.code in (None, 0) else LEFT
    except BaseException as error:
        os.write(3, f"!{type(error).__name__[:40]}".encode())
        return RAISED
    os.write(3, "\n".join([*found, nonce]).encode())
    return 0


def _wait(child: int, seconds: float) -> str:
    """How a child ended, at the latest after some seconds."""
    end, pause = time.monotonic() + seconds, 0.0005
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        if time.monotonic() > end:
            return "time"
        time.sleep(pause)
        pause = min(2 * pause, 0.01)
    if os.WIFSIGNALED(status):
        words = {signal.SIGXCPU: "time", signal.SIGKILL: "time", signal.SIGXFSZ: "output"}
        return words.get(signal.Signals(os.WTERMSIG(status)), "crashed")
    return {0: "ended", MEMORY: "memory", RAISED: "raised"}.get(os.WEXITSTATUS(status), "left")


def _sweep(child: int, namespaces: bool) -> None:
    """Kills whatever a test left running. Without a namespace, orphans come to the guard and are killed as its own."""
    end = time.monotonic() + 5
    while time.monotonic() < end:
        try:
            if namespaces:
                os.kill(-1, signal.SIGKILL)  # the guard is the first process of its namespace: all but itself
            else:
                for one in (-child, *_children()):
                    _kill(one)
        except ProcessLookupError:
            pass
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.001)


def _kill(process: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(process, signal.SIGKILL)


def _statuses() -> list[dict[str, str]]:
    """What the kernel says of each process that can be seen."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/status", errors="replace") as file:
                lines = (line.partition(":") for line in file)
                found.append({key: value.strip() for key, _, value in lines})
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found


def _children() -> list[int]:
    me = str(os.getpid())
    return [int(one["Pid"]) for one in _statuses() if one.get("PPid") == me]


def _processes(uid: int) -> int:
    """Processes and threads that a user has already: the limit counts them too."""
    return sum(int(one["Threads"]) for one in _statuses() if one["Uid"].split()[0] == str(uid))


def _read(file: int) -> str:
    os.lseek(file, 0, os.SEEK_SET)
    return os.read(file, PRINTED + 1).decode(errors="replace")


def _seal(job: dict[str, Any]) -> None:
    """Everything read-only but a small file system in the folder; what the job names is covered by empty ones.

    Python itself may lie where it is covered, so its folders are opened before and mounted into the sandbox's own.
    """
    folder = job["folder"]
    opened = {prefix: os.open(prefix, os.O_PATH) for prefix in {sys.prefix, sys.base_prefix}}
    for covered in filter(os.path.isdir, job["hidden"]):
        _mount("tmpfs", covered, "tmpfs", 0, "size=1m,mode=755")
    os.makedirs(folder, exist_ok=True)
    read_only = (ctypes.c_uint64 * 4)(MOUNT_ATTR_RDONLY, 0, 0, 0)
    _checked(_libc().syscall(MOUNT_SETATTR, AT_FDCWD, b"/", AT_RECURSIVE, ctypes.byref(read_only), 32), "read-only")
    _mount("tmpfs", folder, "tmpfs", 0, f"size={SPACE},mode=755")
    moved: dict[str, str] = {}
    for prefix, file in opened.items():
        moved[prefix] = os.path.join(folder, f"python-{len(moved)}")
        os.mkdir(moved[prefix])
        _mount(f"/proc/self/fd/{file}", moved[prefix], "", MS_BIND | MS_REC, "")
        os.close(file)
    os.chdir(folder)

    def place(path: str) -> str:
        inside = [prefix for prefix in moved if path == prefix or path.startswith(f"{prefix}/")]
        prefix = max(inside, key=len, default="")
        return moved[prefix] + path[len(prefix) :] if prefix else path

    sys.path[:] = map(place, sys.path)
    sys.path_importer_cache.clear()
    for module in list(sys.modules.values()):
        if isinstance(vars(module).get("__path__"), list):
            module.__path__ = [place(path) for path in module.__path__]


def _mount(source: str, target: str, kind: str, flags: int, options: str) -> None:
    words = [word.encode() for word in (source, target, kind, options)]
    _checked(_libc().mount(words[0], words[1], words[2], ctypes.c_ulong(flags), words[3]), f"mount at {target}")


def _checked(result: int, what: str) -> None:
    if result:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


if __name__ == "__main__":
    main()
