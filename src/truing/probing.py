"""A stage on a few rows, watched in a process of its own: what its steps take, without telling or saving anything.

`python -m truing.probing FOLDER` is that process: rows and settings are in the folder, and what it finds goes there.
"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from truing import formats
from truing.compute import machine
from truing.errors import MissingError, TruingError, describe_error
from truing.progress import Reporter, Task
from truing.recipe import device_of
from truing.signatures import validated
from truing.stages import settings_type, stage
from truing.stages.context import Context, Groups, Model
from truing.stages.training import peak_memory
from truing.store import Run, disk


def run(folder: Path, what: str) -> Any:
    """What a process of its own found: seconds of each step and of the reference, bytes, and whether it recomputed.

    Raises MissingError where memory runs out, TruingError with its words where it fails otherwise.
    """
    done = subprocess.run(
        [sys.executable, "-m", "truing.probing", str(folder)],
        env={**os.environ, "TRUING_CACHE": str(folder / "cache")}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode == -signal.SIGKILL or "OutOfMemoryError" in done.stderr or "not enough memory" in done.stderr:
        raise MissingError(
            f"{what}: memory ran out: lower forest_tokens, set checkpointing = true, or train an adapter with lora"
        )
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"it ended with status {done.returncode}"]
        raise TruingError(f"{what}: {said[-1]}")
    return json.loads((folder / "measured.json").read_text())


class _Enough(Exception):  # noqa: N818 - it is no error, only a way out
    """All steps are done."""


@dataclass(slots=True)
class _Watch(Reporter):
    """Listens to a stage instead of telling of it: seconds of each step and of the reference, and memory."""

    console: Console = field(default_factory=lambda: Console(file=io.StringIO()))
    seconds: list[float] = field(default_factory=list)
    reference: float = 0.0
    loading: float = 0.0

    @contextmanager
    def task(self, what: str, total: int, done: int = 0) -> Iterator[Task]:
        self.loading = self.loading or _restart_peak()
        began = time.perf_counter()
        yield _Step(self, total) if what == "probe" else _Quiet()
        self.reference += time.perf_counter() - began


class _Quiet(Task):
    def advance(self, done: int, note: str = "") -> None:
        pass


class _Step(Task):
    def __init__(self, watch: _Watch, total: int) -> None:
        self._watch, self._total, self._began = watch, total, time.perf_counter()

    def advance(self, done: int, note: str = "") -> None:
        now = time.perf_counter()
        self._watch.seconds.append(now - self._began)
        self._began = now
        if done == self._total:
            raise _Enough


def _restart_peak() -> float:
    """The largest size so far; from here it is counted anew, where the system can."""
    before = _peak()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    marks = Path("/proc/self/clear_refs")
    if marks.exists():
        marks.write_text("5")
    return before


def _peak() -> float:
    """Bytes at most, on CUDA of the device alone."""
    used = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return float(used or peak_memory())


def _probe(folder: Path) -> None:
    """The stage on the rows of the folder, up to its last step."""
    adjustment = Path("/proc/self/oom_score_adj")
    if adjustment.exists():
        adjustment.write_text("1000")  # where memory runs out, this process goes and no other
    spec = json.loads((folder / "spec.json").read_text())
    function = stage(spec["use"])
    settings = validated(settings_type(function), spec["settings"], spec["use"])
    groups = formats.read_groups(folder / "rows.jsonl", format="group")
    inputs: Mapping[str, Any] = {name: Model(key, spec["source"]) for name, key in spec["models"].items()}
    watch = _Watch()
    machine.keep_freed_memory()  # as every run does
    with Run.open(folder / "run", recipe="", resolved="", info={}) as run:
        context = Context(
            run, "probe", "probe", spec["seed"], device_of(spec["device"]), spec["precision"], watch,
            chat_template=Path(spec["chat_template"]) if spec["chat_template"] else None,
        )  # fmt: skip
        with suppress(_Enough):
            function(context, settings, **inputs, data=Groups("probe", lambda: groups))
        decided = [event["on"] for event in run.events("probe", "checkpointing")]
    found = {"seconds": watch.seconds, "reference": watch.reference, "loading": watch.loading, "training": _peak()}
    found["checkpointing"] = decided[-1] if decided else bool(settings.checkpointing)
    disk.write(folder / "measured.json", json.dumps(found).encode())


if __name__ == "__main__":
    try:
        _probe(Path(sys.argv[1]))
    except TruingError as error:
        print(describe_error(error)[0], file=sys.stderr)
        sys.exit(error.exit_code)
