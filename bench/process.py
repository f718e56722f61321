"""Runs a function in a process of its own, which is alone in memory and leaves nothing behind.

`python -m bench.process MODULE:FUNCTION IN.json OUT.json` is the child's side. Where the work is a GPU's, the process
is forked from one that has imported everything and touched no device: importing TRL takes longer there than the steps.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.rows import ROOT
from truing.environment import BEFORE_TORCH

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",
    "TRL_EXPERIMENTAL_SILENCE": "1",
}

PEERS = "bench.theirs:"
"""Functions of this module run as their libraries come, unless told otherwise; others as the command `truing` does."""


class WorkerError(Exception):
    """A worker ended with an error; the message is its last line."""


def run(function: str, spec: Mapping[str, Any]) -> Any:
    """What `function` ("module:name") returns for `spec`, both as plain JSON values."""
    with tempfile.TemporaryDirectory() as name:
        given, made, said = (Path(name) / part for part in ("in.json", "out.json", "said.txt"))
        given.write_text(json.dumps({**spec, "folder": name}))
        began = time.monotonic()
        start = _forked if spec.get("device") == "cuda" else _fresh
        status = start(function, spec, [str(given), str(made)], said)
        if status == -signal.SIGKILL:
            raise WorkerError(f"{spec.get('name', function)}: killed, which the kernel does when memory is out")
        if status:
            lines = said.read_text().strip().splitlines() or [f"it ended with status {status}"]
            raise WorkerError(f"{spec.get('name', function)}: {lines[-1]}")
        print(f"  {spec.get('name', function)}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        return json.loads(made.read_text())


def _fresh(function: str, spec: Mapping[str, Any], files: Sequence[str], said: Path) -> int:
    """A new interpreter; its exit status."""
    folder = str(Path(files[0]).parent)
    settings = BEFORE_TORCH if spec.get("threads", not function.startswith(PEERS)) else {}
    environment = {**os.environ, **ENVIRONMENT, **settings, "HF_DATASETS_CACHE": f"{folder}/datasets"}
    with said.open("w") as errors:
        return subprocess.run(
            [sys.executable, "-m", "bench.process", function, *files],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            check=False,
        ).returncode


def _forked(function: str, spec: Mapping[str, Any], files: Sequence[str], said: Path) -> int:
    """A fork of the server that has imported both sides, with the same threads for both; its exit status."""
    os.environ.update(ENVIRONMENT | {"PYTORCH_NVML_BASED_CUDA_CHECK": "1"})  # the server and its forks inherit it
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["bench.ours", "bench.theirs"])
    child = server.Process(target=_child, args=(function, *files, str(said)))
    child.start()
    child.join()
    assert child.exitcode is not None
    return child.exitcode


def _child(function: str, given: str, made: str, said: str | None = None) -> None:
    if said is not None:
        os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT), sys.stderr.fileno())
    Path("/proc/self/oom_score_adj").write_text("1000")  # where memory runs out, this process goes and no other
    module, name = function.split(":")
    result = getattr(importlib.import_module(module), name)(json.loads(Path(given).read_text()))
    Path(made).write_text(json.dumps(result))


if __name__ == "__main__":
    _child(*sys.argv[1:])
