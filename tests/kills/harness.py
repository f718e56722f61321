"""Forks runs, kills them at any moment, lets them go on, and demands that they end to the bit as an unbroken one."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from itertools import zip_longest
from pathlib import Path
from typing import Any

import tiny_model
import torch
from kills import runs

from truing import report
from truing.compute.engine.local import LocalEngine
from truing.compute.generate.native import NativeGenerator
from truing.errors import Interrupted
from truing.pipeline import run_recipe
from truing.stages import play, training
from truing.stages.play import Play
from truing.stages.rollouts import Rollout
from truing.stages.watching import Watch
from truing.store import Run, disk
from truing.store.files import read_manifest

Change = Callable[[], None]
"""What is different in every session of a run, such as a mutation of the product."""

OPENING = {"start", "end", "data", "preview", "checkpointing", "one_base", "pretrain", "warning"}
"""Events that each session of a stage may write anew; of all others each stands once, in its place."""
BY_THE_CLOCK = {"time", "seconds", "seconds_before", "peak_memory_bytes", "needed_bytes", "free_bytes"}


class DivergedError(AssertionError):
    """A run that was killed did not end as one that was not."""


@dataclass(frozen=True)
class Moment:
    """When to kill: `delay` seconds after a session has begun something of this name for the `nth` time.

    delay: None for at once, by its own hand, so that nothing further is done. by: the signal.
    """

    place: str
    nth: int
    delay: float | None = None
    by: signal.Signals = signal.SIGKILL


@dataclass(frozen=True)
class Told:
    """That something began or, with a `<` before its name, ended. detail: which, such as the stage and the step."""

    place: str
    detail: str
    time: float


@dataclass
class Session:
    """What was seen of a process. code: how it ended, as the system says."""

    told: list[Told] = field(default_factory=list)
    code: int = 0

    @property
    def killed(self) -> bool:
        """Whether it did not come to its end."""
        return self.code != 0

    @property
    def stopped(self) -> bool:
        """Whether it was asked to stop and did so in order."""
        return self.code == Interrupted.exit_code

    @property
    def began(self) -> Counter[str]:
        """How often it began what."""
        return Counter(one.place for one in self.told if one.place[0] != "<")

    @property
    def under_way(self) -> set[str]:
        """What had begun and not ended, so that a kill fell there."""
        inside: list[str] = []
        for one in self.told:
            if one.place[0] == "<":
                inside.remove(one.place[1:])
            else:
                inside.append(one.place)
        return set(inside) or {"between"}

    def mean_seconds(self, place: str) -> float:
        """From the beginning of this to its end."""
        at: list[float] = []
        spent: list[float] = []
        for one in self.told:
            if one.place == place:
                at.append(one.time)
            elif one.place == f"<{place}":
                spent.append(one.time - at.pop())
        return sum(spent) / len(spent)


def killed(algorithm: str, folder: Path, kills: int, by: signal.Signals = signal.SIGKILL) -> dict[str, int]:
    """Kills runs until there were so many kills. How many fell where, and how many runs that took.

    The first ones come as a thing of each kind begins, so that none is left out, and all others a random while later.
    Raises DivergedError where a run does not go on from its last checkpoint, or ends otherwise than an unbroken one.
    """
    rng, path = random.Random(algorithm), folder / algorithm
    usual = forked(algorithm, folder, path)
    expected = left_by(path)
    places = list(usual.began)
    fell = Counter(dict.fromkeys(places, 0))
    done = number = 0
    while done < kills:
        number += 1
        clear(path)
        promised: dict[str, int] = {}
        ended = False
        while not ended:
            moment = None
            if done < kills:
                place = places[done % len(places)]
                delay = rng.uniform(0.0, usual.mean_seconds(place)) if done >= len(places) else None
                moment = Moment(place, rng.randint(1, -(-usual.began[place] // 3)), delay, by)
            session = forked(algorithm, folder, path, moment)
            demand_kept(session, promised, path)
            ended = not session.killed
            if session.killed:
                done += 1
                fell.update(session.under_way if by == signal.SIGKILL else {place})
        demand_same(path, expected)
    clear(path)
    return {"runs": number, "kills": done, **fell}


def killed_at(algorithm: str, folder: Path, moments: Sequence[Moment], change: Change | None = None) -> None:
    """As `killed`, at these moments of one run, one after the other."""
    path = folder / algorithm
    forked(algorithm, folder, path, change=change)
    expected = left_by(path)
    clear(path)
    promised: dict[str, int] = {}
    for moment in (*moments, None):
        session = forked(algorithm, folder, path, moment, change)
        demand_kept(session, promised, path)
        assert session.killed == (moment is not None), f"{path}: {moment} did not come"
    demand_same(path, expected)
    clear(path)


def demand_kept(session: Session, promised: dict[str, int], path: Path) -> None:
    """Raises DivergedError where a session began before a checkpoint that was there. Adds its own to what is promised.

    promised: the last step of each stage of which a checkpoint was published, which is every step of one that stopped.
    """
    fresh = dict(promised)
    for one in session.told:
        if one.detail:
            stage, number = one.detail.split()
            if one.place == "<save" or (one.place == "<step" and session.stopped):
                promised[stage] = int(number)
            elif one.place == "step" and int(number) <= fresh.pop(stage, 0):
                raise DivergedError(f"{path}: stage '{stage}' began at step {number} and had a later checkpoint")


def forked(
    algorithm: str, folder: Path, path: Path, moment: Moment | None = None, change: Change | None = None
) -> Session:
    """A session of the run at `path`, to its end or to that moment."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        try:
            _watch(writer, path.with_suffix(".learnt"), moment)
            if change:
                change()
            run_recipe(runs.recipe(algorithm, folder), out=path, reporter=tiny_model.quiet())
        except Interrupted as error:
            os._exit(error.exit_code)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    os.close(writer)
    session = Session()
    left = moment.nth if moment and moment.delay is not None else 0
    with open(reader, "rb", buffering=0) as pipe:
        while line := pipe.readline().decode().strip():
            place, _, detail = line.partition(":")
            session.told.append(Told(place, detail, time.monotonic()))
            if moment and place == moment.place and left:
                left -= 1
                if left == 0:
                    time.sleep(moment.delay or 0.0)
                    os.kill(child, moment.by)
    session.code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if session.code and (moment is None or session.code != -moment.by) and not session.stopped:
        raise DivergedError(f"{path}: a session ended with {session.code}")
    return session


def clear(path: Path) -> None:
    """Removes a run and what its sessions wrote down, so that the next one has the very same path."""
    shutil.rmtree(path, ignore_errors=True)
    path.with_suffix(".learnt").unlink(missing_ok=True)


# What a session tells of itself.


def _watch(writer: int, learnt: Path, moment: Moment | None) -> None:
    """Tells what begins and ends, and writes down what is learnt from and what it makes of the model."""
    left = moment.nth if moment and moment.delay is None else 0
    starting = True

    def tell(place: str, detail: str = "") -> None:
        nonlocal left, starting
        if starting and place not in ("start", "<start"):
            starting = False
            tell("<start")
        os.write(writer, f"{place}:{detail}\n".encode())
        if moment and place == moment.place and left:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), moment.by)

    def within(place: str, deed: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(deed)
        def told(*given: Any, **named: Any) -> Any:
            tell(place)
            found = deed(*given, **named)
            tell(f"<{place}")
            return found

        return told

    def note(*words: object) -> None:
        disk.append(learnt, f"{' '.join(map(str, words))}\n".encode())

    tell("start")
    for owner, name, place in (
        (NativeGenerator, "generate", "rollout"), (Watch, "look", "evaluation"), (Play, "rewards", "evaluation"),
        (Run, "prune", "prune"), (report, "build", "report"),
    ):  # fmt: skip
        setattr(owner, name, within(place, getattr(owner, name)))
    new_checkpoint, event, kept, step = Run.new_checkpoint, Run.event, play.kept, LocalEngine.step
    under_way: list[training.Step] = []

    @contextmanager
    def saved(self: Run, number: int, *, stage_key: str, meta: Mapping[str, Any]) -> Iterator[Path]:
        tell("save")
        with new_checkpoint(self, number, stage_key=stage_key, meta=meta) as made:
            yield made
            tell("seal")
        tell("<seal")
        tell("<save", "" if meta["finished"] else f"{meta['stage']} {meta['step']}")

    def written(self: Run, stage: str, kind: str, **values: Any) -> None:
        event(self, stage, kind, **values)
        if kind in ("start", "end"):
            before = "<" if kind == "end" else ""
            if stage == "evaluate":
                tell(f"{before}evaluation")
            if stage.startswith("self.2/"):
                tell(f"{before}second round")
        if kind == "step":
            tell("<step", f"{under_way[0].stage} {under_way[0].number}")

    class Watched(training.Step):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            under_way[:] = [self]
            tell("step", f"{self.stage} {self.number}")
            note(self.stage, self.number, "rows", *(row.index for row in self.rows))

    def moved(self: LocalEngine, *given: Any) -> float:
        norm = step(self, *given)
        note(under_way[0].stage, under_way[0].number, "state", _state_hash(self))
        return norm

    def drawn(context: Any, number: int, *given: Any) -> Rollout:
        found = kept(context, number, *given)
        note(context.stage, number, "rollout", _rollout_hash(found))
        return found

    Run.new_checkpoint, Run.event, play.kept = saved, written, drawn  # type: ignore[method-assign,assignment]
    training.Step, LocalEngine.step = Watched, moved  # type: ignore[misc,method-assign]


def _state_hash(engine: LocalEngine) -> str:
    """Of weights, optimizer and random numbers after a step."""
    digest = hashlib.sha256(torch.get_rng_state().numpy().tobytes())
    for name, master in engine._masters.items():
        digest.update(name.encode() + master.detach().numpy().tobytes())
        for kind, value in sorted(engine._optimizer.state[master].items()):
            digest.update(kind.encode() + value.numpy().tobytes())
    return digest.hexdigest()


def _rollout_hash(rollout: Rollout) -> str:
    """Of all its answers, their tokens, log-probabilities and scores, and of what each model says of them."""
    answers = [(a.sampled, a.score) for group in rollout.groups for a in group.completions]
    digest = hashlib.sha256(repr(answers).encode())
    for name, values in sorted(rollout.read.items()):
        digest.update(name.encode() + values.numpy().tobytes())
    return digest.hexdigest()


# What a run leaves.


def left_by(path: Path) -> dict[str, Any]:
    """All that a run leaves and the clock does not decide.

    learnt: of each step its rows and the hash of weights, optimizer and random numbers after it, and of each rollout
    all of it, as often as there were different ones.
    """
    run = Run.read(path)
    events = [(event["kind"] in OPENING, _timeless(event)) for event in run.events()]
    return {
        "events": [event for opening, event in events if not opening],
        "openings": sorted({repr(event) for opening, event in events if opening}),
        "samples": list(run.samples()),
        "artifacts": {one.key: (one.stage, dict(one.meta), _files(one.path)) for one in run.artifacts()},
        "checkpoints": {one.step: (one.stage_key, dict(one.meta), _files(one.path)) for one in run.checkpoints()},
        "names": sorted(one.name for one in path.iterdir()),
        "learnt": sorted(set(path.with_suffix(".learnt").read_text().splitlines())),
    }


def _files(folder: Path) -> dict[str, str]:
    return {name: about["sha256"] for name, about in read_manifest(folder)["files"].items()}


def _timeless(event: dict[str, Any]) -> dict[str, Any]:
    found = {name: value for name, value in event.items() if name not in BY_THE_CLOCK}
    if "metrics" in found:
        found["metrics"] = {name: value for name, value in found["metrics"].items() if name != "tokens_per_second"}
    return found


def demand_same(path: Path, expected: dict[str, Any]) -> None:
    """Raises DivergedError where a run left something else."""
    found = left_by(path)
    if found != expected:
        raise DivergedError(f"{path}: {_first_difference(found, expected)}")


def _first_difference(found: Any, expected: Any) -> str:
    """Where two values differ first, and how."""
    if isinstance(found, dict) and isinstance(expected, dict):
        pairs = {str(name): (found.get(name), expected.get(name)) for name in [*expected, *found]}
    elif isinstance(found, list | tuple) and isinstance(expected, list | tuple):
        pairs = {str(place): pair for place, pair in enumerate(zip_longest(found, expected))}
    else:
        return f"{found!r} instead of {expected!r}"
    name, (one, other) = next((name, pair) for name, pair in pairs.items() if pair[0] != pair[1])
    return f"{name}: {_first_difference(one, other)}"
