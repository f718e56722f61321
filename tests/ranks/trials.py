"""Recipes by two ranks: beside one rank, killed, hung, and gone on with."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import tiny_model
from kills import runs
from ranks.forked import Blow, alone, leftovers, together
from safetensors.torch import load_file

from truing.pipeline import run_recipe
from truing.store import Run

HUNG = 2.0
"""Seconds after which a silent rank is given up, where one is to hang."""


def demand_done(work: Callable[[], object]) -> None:
    """Two ranks do it to its end."""
    ended = together(work)
    assert ended.codes == [0, 0], ended


def run_of(name: str, folder: Path, place: str) -> Callable[[], object]:
    """The recipe of an algorithm, to be run in a folder of this name."""
    recipe, out = runs.recipe(name, folder), folder / place / name
    return partial(run_recipe, recipe, out=out, reporter=tiny_model.quiet())


def recipe_by_ranks(name: str, folder: Path) -> dict[str, Any]:
    """How far weights are apart that two ranks and one make, and whether both say the same steps, each once."""
    demand_done(run_of(name, folder, "two"))
    assert alone(run_of(name, folder, "one")).codes == [0]
    one, two = (folder / place / name for place in ("one", "two"))
    return {"apart": apart(one, two), "same_events": said(one) == said(two), "steps": len(said(one))}


def blows(name: str, folder: Path) -> dict[str, Any]:
    """What becomes of the others when a rank is killed, hangs or is asked to stop, and of the run when it goes on.

    seconds: until the last one was down, that hung ones take beyond the time-out. stopped, kept: how both ended when
    one was asked to stop in the third step, and which steps' checkpoints they left. same_bits: of the weights of a run
    that two ranks go on with, beside one that nobody touched.
    """
    demand_done(run_of(name, folder, "unbroken"))
    expected = hashes(folder / "unbroken" / name)
    found: dict[str, Any] = {"killed": [], "hung": [], "codes": [], "leftovers": [], "same_bits": []}
    for number, (rank, kind) in enumerate(
        [(1, signal.SIGKILL), (0, signal.SIGKILL), (1, signal.SIGSTOP), (0, signal.SIGSTOP)]
    ):
        place = f"blow-{number}"
        timeout = HUNG if kind == signal.SIGSTOP else 60.0
        ended = together(run_of(name, folder, place), blow=Blow(rank, 4, kind), timeout=timeout)
        hung = kind == signal.SIGSTOP
        found["hung" if hung else "killed"].append(ended.seconds - (HUNG if hung else 0))
        assert ended.codes[rank] == -signal.SIGKILL, ended
        found["codes"].append(ended.codes[1 - rank])
        found["leftovers"] += leftovers(folder / place / name)
        demand_done(run_of(name, folder, place))
        found["same_bits"].append(hashes(folder / place / name) == expected)
    stopped = run_of(name, folder, "stopped")
    found["stopped"] = together(stopped, blow=Blow(1, 3, signal.SIGTERM)).codes
    found["kept"] = [checkpoint.step for checkpoint in Run.read(folder / "stopped" / name).checkpoints()]
    found["leftovers"] += leftovers(folder / "stopped" / name)
    demand_done(stopped)
    found["same_bits"].append(hashes(folder / "stopped" / name) == expected)
    return found


def resumed_alone(name: str, folder: Path) -> dict[str, Any]:
    """A run of two ranks that one goes on with."""
    run = run_of(name, folder, "fewer")
    together(run, blow=Blow(1, 4, signal.SIGKILL))
    assert alone(run).codes == [0]
    assert alone(run_of(name, folder, "one")).codes == [0]
    path = folder / "fewer" / name
    warnings = [event["message"] for event in Run.read(path).events(kind="warning")]
    return {"apart": apart(folder / "one" / name, path), "warnings": warnings}


def hashes(run: Path) -> list[str]:
    """Of the weights of each model that was made."""
    return [tiny_model.weights_hash(path) for path in made(run)]


def made(run: Path) -> Iterator[Path]:
    for checkpoint in Run.read(run).checkpoints():
        if checkpoint.meta["finished"]:
            yield checkpoint.path


def apart(one: Path, other: Path) -> float:
    """The largest difference of two runs' weights, of the largest weight."""
    pairs = list(zip(made(one), made(other), strict=True))
    assert pairs
    worst = 0.0
    for left, right in pairs:
        for file in sorted(left.glob("*.safetensors")):
            ours, theirs = load_file(file), load_file(right / file.name)
            most = max(float(tensor.abs().max()) for tensor in ours.values())
            worst = max(worst, *(float((ours[key] - theirs[key]).abs().max()) / most for key in ours))
    return worst


def said(run: Path) -> list[tuple[str, int]]:
    """The steps, looks and rollouts that were told."""
    return [(event["stage"], event["kind"], event["step"]) for event in Run.read(run).events() if "step" in event]
