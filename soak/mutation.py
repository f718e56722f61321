"""Small mistakes made in the store and the readers of data: the share that their tests notice."""

from __future__ import annotations

import json
import subprocess
import sys

from soak.__main__ import ROOT

MUTANTS = 300


def run() -> dict[str, int | float]:
    """Of this many, drawn by chance. Those that nobody noticed are named on stderr."""
    command = [sys.executable, str(ROOT / "tests" / "mutants.py"), str(MUTANTS), "0"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout)
    noticed, tried = len(found["noticed"]), len(found["noticed"]) + len(found["unseen"])
    return {
        "mutants there are": int(found["all"][0]),
        "mutants tried": tried,
        "noticed by the tests": noticed,
        "percent": round(100 * noticed / tried, 1),
    }
