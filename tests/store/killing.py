"""A process of its own that forks runs, kills them, and looks at what is left.

    python killing.py nth START FOLDER    at every deed on the disk, one after the other
    python killing.py random N FOLDER     N times at random moments, over as many runs as that takes

START is one of scenario.STARTS.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))

from store import scenario
from store.faults import FaultyDisk, die, no_wait
from truing.store import disk

SYNC = disk.sync


def killed_at_each(start: str, folder: Path) -> int:
    """Number of kills."""
    begin, promised = scenario.STARTS[start]
    number, finished = 0, False
    while not finished:
        number += 1
        path = folder / str(number)
        begin(path)
        finished, kept = _forked(path, when=number)
        scenario.check(path, promised | kept)
        shutil.rmtree(path)
    return number - 1


def killed_at_random(kills: int, folder: Path) -> int:
    """Number of runs that it took."""
    random.seed(0)
    began = time.monotonic()
    _forked(folder / "whole")
    duration = time.monotonic() - began
    run = 0
    while kills:
        run += 1
        path, promised = folder / str(run), {}
        finished = False
        while kills and not finished:
            finished, kept = _forked(path, patience=random.uniform(0.0, duration))
            kills -= not finished
            promised = {**promised, "event": 0, **kept}  # going on from a checkpoint drops the events after it
            if path.exists() and random.random() < 0.5:
                shutil.copytree(path, folder / "copy")
                scenario.check(folder / "copy", promised)
                shutil.rmtree(folder / "copy")
        scenario.check(path, promised)
    return run


def _forked(path: Path, *, when: int = 0, patience: float | None = None) -> tuple[bool, dict[str, int]]:
    """Whether the run ended of itself, and what it had promised. Killed at deed `when`, or after a while, or never."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        disk.sync = no_wait if when else SYNC
        FaultyDisk(when, die).install(pytest.MonkeyPatch())
        scenario.play(path, lambda what, step: os.write(writer, f"{what} {step}\n".encode()) and None)
        os.write(writer, b"end 0\n")
        os._exit(0)
    os.close(writer)
    if patience is not None:
        time.sleep(patience)
        os.kill(child, signal.SIGKILL)
    with open(reader) as pipe:
        told = [line.split() for line in pipe]
    os.waitpid(child, 0)
    kept = {what: int(step) for what, step in told}
    return kept.pop("end", None) is not None, kept


if __name__ == "__main__":
    # A killed process loses nothing that it has written. Only for kills at random moments is time to be spent syncing.
    disk.sync = no_wait
    kind, how, where = sys.argv[1:]
    print(killed_at_each(how, Path(where)) if kind == "nth" else killed_at_random(int(how), Path(where)))
