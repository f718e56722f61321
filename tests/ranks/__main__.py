"""A process of its own that has imported all that ranks need, and forks them.

    python -W error tests/ranks FOLDER gradients|recipes|blows|fewer[:NAME,...] ...

NAME is an algorithm of `kills.runs`; without one it is all of them. Prints a line of JSON for each thing tried.
"""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import peft  # noqa: F401  what a run imports on its way is here before the first fork
import tiny_model
import torch
from kills import runs
from ranks import gradients, trials

from truing.store import disk

TRIALS = {"recipes": trials.recipe_by_ranks, "blows": trials.blows, "fewer": trials.resumed_alone}


def main(folder: Path, asked: list[str]) -> None:
    """Tries what is asked for."""
    os.environ["TRUING_CACHE"] = str(folder / "cache")
    for what, _, names in (one.partition(":") for one in asked):
        place = folder / what
        place.mkdir()
        if what == "gradients":
            tiny_model.save(place / "model")
            tiny_model.save(place / "base", seed=9)
            trials.demand_done(partial(gradients.compare, place))
            print(json.dumps({what: json.loads((place / "found.json").read_text())}), flush=True)
            continue
        runs.prepare(place)
        some = names.split(",") if names else runs.ALGORITHMS
        print(json.dumps({what: {name: TRIALS[what](name, place) for name in some}}), flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    # A killed process loses nothing that it has written, so that no time is to be spent syncing.
    disk.sync = lambda path: None
    main(Path(sys.argv[1]), sys.argv[2:])
