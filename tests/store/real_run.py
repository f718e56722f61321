"""A process of its own in which `truing run` meets disks that refuse: by strace, by size limits, by a full or a
read-only file system.

    python real_run.py syscalls EVERY FOLDER    one in EVERY of the calls that write, sync, rename, remove or make
    python real_run.py limits 1 FOLDER          files may not grow beyond a size
    python real_run.py mounted 1 FOLDER         a file system of 256 KiB, and one that is read-only for a while

It imports torch once and forks every command. After each refusal the run folder must be sound, the exit code 74, and
the words must name a path; and the same command, without the fault, must end with the bits of a run without faults.
"""

from __future__ import annotations

import functools
import io
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
os.environ["OMP_NUM_THREADS"] = "1"  # a fork has none of the threads that its parent computed with, and waits for them

import tiny_model

from truing import cli
from truing.store import Run
from truing.store.files import verify_folder

CALLS = ("write", "fsync", "rename", "unlink", "mkdir", "rmdir")
ERRORS = ("ENOSPC", "EIO")


class Folder:
    """Where the runs of one experiment lie, and the recipe of all of them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self.recipe = path / "recipe.toml"
        data = tiny_model.write_pairs(path / "pairs.jsonl", 4)
        stage = "batch_size = 2\nlearning_rate = 1e-3\nsave_every = 1\n"
        self.recipe.write_text(
            f'model = "{tiny_model.save(path / "model")}"\nprecision = "fp32"\ndevice = "cpu"\n'
            f'[data]\npath = "{data}"\n[[stage]]\nuse = "sft"\n{stage}[[stage]]\nuse = "preference"\n{stage}'
        )
        self.whole = path / "whole"
        with self.cache(path / "cache"):
            assert command(self.recipe, self.whole) == 0  # in this process, so that its children have all modules
        self.count = 0

    @contextmanager
    def cache(self, path: Path) -> Iterator[None]:
        os.environ["TRUING_CACHE"] = str(path)
        yield
        del os.environ["TRUING_CACHE"]

    def next(self) -> Path:
        """A folder that holds the run and its cache, and nothing yet."""
        self.count += 1
        path = self.path / str(self.count)
        path.mkdir()
        return path

    def attempt(self, at: Path, *, before: Callable[[], None] = lambda: None, strace: list[str] | None = None) -> Done:
        """The command in a child, which first does `before`, and is traced once it has begun."""
        ready, go = os.pipe()
        heard, said = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(go)
            os.read(ready, 1)
            with self.cache(at / "cache"):
                before()
                # What is said is kept till the end, lest a write of words be the one that fails.
                sys.stdout = sys.stderr = words = io.StringIO()
                code = 1
                try:
                    code = command(self.recipe, at / "run")
                finally:
                    os.write(said, words.getvalue().encode())
                    os._exit(code)
        os.close(ready)
        os.close(said)
        tracer = traced(child, strace) if strace else None
        os.write(go, b".")
        os.close(go)
        with open(heard) as pipe:
            words = pipe.read()
        _, status = os.waitpid(child, 0)
        if tracer is not None:
            tracer.communicate()
        return Done(os.waitstatus_to_exitcode(status), words)

    def go_on(self, at: Path, what: object) -> None:
        """The same command ends, and what it leaves is what a run without faults leaves."""
        done = self.attempt(at)
        assert done.code == 0, f"{what}: and then: {done.said}"
        run, whole = Run.read(at / "run"), Run.read(self.whole)
        assert tiny_model.step_events(run) == tiny_model.step_events(whole), what
        assert [c.step for c in run.checkpoints()] == [c.step for c in whole.checkpoints()], what
        for checkpoint in whole.checkpoints():
            own = run.path / checkpoint.path.name
            assert tiny_model.weights_hash(own) == tiny_model.weights_hash(checkpoint.path), what
        left = [path.name for path in at.rglob("*") if path.name.startswith((".tmp-", ".old-"))]
        assert not left, f"{what}: left behind: {left}"

    def refused(self, at: Path, done: Done, what: object) -> bool:
        """Whether it was refused; if it was, it said so, and what is committed is sound all the same."""
        sound(at, what)
        if done.code == 0:
            return False
        assert done.code == 74, f"{what}: exit code {done.code}: {done.said}"
        assert str(at) in done.said, f"{what}: no path: {done.said}"
        assert "Traceback" not in done.said, f"{what}: {done.said}"
        return True


class Done:
    """Exit code and words of a command."""

    def __init__(self, code: int, said: str) -> None:
        self.code, self.said = code, said


def command(recipe: Path, out: Path) -> int:
    """What `truing run` would exit with."""
    sys.argv = ["truing", "run", str(recipe), "--out", str(out)]
    try:
        cli.main()
    except SystemExit as end:
        sys.stdout.flush()
        return int(end.code or 0)
    return 0


def traced(child: int, options: list[str]) -> subprocess.Popen[str]:
    tracer = subprocess.Popen(["strace", "-p", str(child), *options], stderr=subprocess.PIPE, text=True)
    assert tracer.stderr is not None
    said = tracer.stderr.readline()
    assert "attached" in said, said
    return tracer


def sound(at: Path, what: object) -> None:
    """All that has the name of something committed is whole."""
    folders = [*(at / "run").glob("checkpoint-*"), *(at / "run" / "artifacts").glob("[!.]*")]
    folders += (at / "cache" / "reference").glob("[!.]*")
    problems = [problem for folder in folders for problem in verify_folder(folder)]
    assert not problems, f"{what}: {problems}"


def syscalls(folder: Folder, every: int) -> dict[str, int]:
    """Faults by call, and how many of them were told; the rest befell what is only swept up, and did no harm."""
    places = found(folder)
    counted: Counter[str] = Counter()
    for place, (call, number) in list(enumerate(places))[::every]:
        error = ERRORS[place // every % 2] if every > 1 else None
        for code in [error] if error else ERRORS:
            what = f"{code} at {call} {number}"
            at = folder.next()
            inject = ["-e", f"trace={call}", "-e", f"inject={call}:error={code}:when={number}", "-o", "/dev/null"]
            done = folder.attempt(at, strace=inject)
            refused = folder.refused(at, done, what)
            if refused and code == "ENOSPC":
                assert "free some space" in done.said, f"{what}: {done.said}"
                # of a stage's memory there are no tensors here, so it needs no bytes that are worth telling
                told = call != "write" or re.search(r"\([\d,]+ bytes needed\)|memory\.safetensors", done.said)
                assert told, f"{what}: {done.said}"
            counted[f"{code} in {call}"] += 1
            counted["told with exit code 74"] += refused
            folder.go_on(at, what)
            shutil.rmtree(at)
    return dict(counted)


def found(folder: Folder) -> list[tuple[str, int]]:
    """All calls that a run makes on its own files, each with its number among those of its name."""
    at = folder.next()
    log = at.with_suffix(".log")
    done = folder.attempt(at, strace=["-y", "-e", f"trace={','.join(CALLS)}", "-o", str(log)])
    assert done.code == 0, done.said
    numbers: Counter[str] = Counter()
    own = []
    for line in log.read_text().splitlines():
        if match := re.match(r"(\w+)\((.*)", line):
            numbers[match[1]] += 1
            if f"{at}/" in match[2]:
                own.append((match[1], numbers[match[1]]))
    return sorted(own)


def limits(folder: Folder, every: int) -> dict[str, int]:
    """Sizes beyond which no file may grow, until all fit."""
    size, refused = 64, 0
    while True:
        at = folder.next()
        done = folder.attempt(at, before=functools.partial(limit_files, size))
        if not folder.refused(at, done, f"files of {size} bytes"):
            return {"sizes beyond which no file may grow": refused}
        assert re.search(r"File too large \([\d,]+ bytes needed\)", done.said), done.said
        folder.go_on(at, f"files of {size} bytes")
        refused += 1
        size *= 4


def limit_files(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def mounted(folder: Folder, every: int) -> dict[str, int]:
    """One run on a file system that is too small and grows, and that is closed to writing on the way."""
    at = folder.next()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(at)], check=True)
    try:
        size, refused = 256, 0
        while folder.refused(at, done := folder.attempt(at), f"a file system of {size} KiB"):
            assert re.search(r"No space left on device.*free some space", done.said), done.said
            refused += 1
            subprocess.run(["mount", "-o", "remount,ro", str(at)], check=True)
            closed = folder.attempt(at)
            assert folder.refused(at, closed, "a read-only file system")
            assert "make the folder writable" in closed.said, closed.said
            size += 128
            subprocess.run(["mount", "-o", f"remount,rw,size={size}k", str(at)], check=True)
        folder.go_on(at, "a file system that grew")
        assert refused > 0
    finally:
        subprocess.run(["umount", str(at)], check=True)
    return {"full file systems of 256 KiB and more": refused, "read-only file systems": refused}


PARTS: dict[str, Callable[[Folder, int], dict[str, Any]]] = {
    "syscalls": syscalls, "limits": limits, "mounted": mounted
}  # fmt: skip


if __name__ == "__main__":
    part, every, where = sys.argv[1:]
    output = os.dup(1)
    os.dup2(2, 1)
    counted = PARTS[part](Folder(Path(where)), int(every))
    os.write(output, json.dumps(counted).encode())
