"""Runs a function in a process of its own, which is alone in memory and leaves nothing behind.

`python -m bench.process MODULE:FUNCTION IN.json OUT.json` is the child's side.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.rows import ROOT
from truing.environment import THREADS

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
        given, made = Path(name) / "in.json", Path(name) / "out.json"
        given.write_text(json.dumps({**spec, "folder": name}))
        began = time.monotonic()
        ended = subprocess.run(
            [sys.executable, "-m", "bench.process", function, str(given), str(made)],
            cwd=ROOT,
            env={
                **os.environ,
                **ENVIRONMENT,
                **(THREADS if spec.get("threads", not function.startswith(PEERS)) else {}),
                "HF_DATASETS_CACHE": f"{name}/datasets",
            },
            capture_output=True,
            text=True,
            check=False,
        )
        if ended.returncode == -signal.SIGKILL:
            raise WorkerError(f"{spec.get('name', function)}: killed, which the kernel does when memory is out")
        if ended.returncode:
            said = ended.stderr.strip().splitlines() or [f"it ended with status {ended.returncode}"]
            raise WorkerError(f"{spec.get('name', function)}: {said[-1]}")
        print(f"  {spec.get('name', function)}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        return json.loads(made.read_text())


def _child(function: str, given: str, made: str) -> None:
    Path("/proc/self/oom_score_adj").write_text("1000")  # where memory runs out, this process goes and no other
    module, name = function.split(":")
    result = getattr(importlib.import_module(module), name)(json.loads(Path(given).read_text()))
    Path(made).write_text(json.dumps(result))


if __name__ == "__main__":
    _child(*sys.argv[1:])
