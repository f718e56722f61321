"""A process of its own that has imported all that a run needs, and forks runs to kill them.

    python -W error tests/kills FOLDER KILLS [NAME...]

NAME is an algorithm of `runs`, which is killed so often; or one with `-stopped` behind it, which is asked to stop by
SIGTERM a sixth as often; or `mutations`, each of which must be noticed. Without any it is all of them. Prints a line of
JSON for each.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import peft  # noqa: F401  what a run imports on its way is here before the first fork
import tiny_model
import torch
from kills import harness, runs
from kills.mutations import MUTATIONS, noise

from truing import pipeline
from truing.pipeline import run_recipe
from truing.store import disk

ALL = [*runs.ALGORITHMS, *(f"{name}-stopped" for name in runs.ALGORITHMS), "mutations"]


def main(folder: Path, kills: int, names: list[str]) -> None:
    """Everything asked for, after one run of each kind that nobody kills."""
    os.environ["TRUING_CACHE"] = str(folder / "cache")
    runs.prepare(folder)
    wanted = {one for name in names for one in (runs.ALGORITHMS if name == "mutations" else (name.split("-")[0],))}
    for name in sorted(wanted):
        run_recipe(runs.recipe(name, folder), out=folder / "warm" / name, reporter=tiny_model.quiet())
    for name in names:
        if name == "mutations":
            found: dict[str, Any] = noticed(folder)
        else:
            algorithm, _, stopped = name.partition("-")
            times, by = (kills // 6, signal.SIGTERM) if stopped else (kills, signal.SIGKILL)
            found = harness.killed(algorithm, folder, times, by)
        print(json.dumps({name: found}), flush=True)


def noticed(folder: Path) -> dict[str, str]:
    """How the harness says that each mutation is wrong; nothing where it does not notice."""
    harness.killed_at("sft", folder, [MUTATIONS["forgotten_random_numbers"].moment], noise)
    said = {}
    for name, mutation in MUTATIONS.items():
        try:
            harness.killed_at(mutation.algorithm, folder, [mutation.moment], mutation.change)
            said[name] = ""
        except harness.DivergedError as error:
            said[name] = str(error)
        harness.clear(folder / mutation.algorithm)
    return said


if __name__ == "__main__":
    torch.set_num_threads(1)
    # A killed process loses nothing that it has written, so that no time is to be spent syncing.
    disk.sync = lambda path: None
    # Nor on what every session would find out anew, and none differently.
    pipeline.version = functools.cache(pipeline.version)
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:] or ALL)
