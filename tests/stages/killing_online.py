"""A process of its own that forks runs of stage `online`, kills them in the middle of things, and lets them go on.

    python killing_online.py ALGORITHM KILLS FOLDER

In FOLDER lie `model` and `rewards.py`. Kills come a random while after a rollout, an update or a save has begun, each
in its turn, over as many runs as that takes. Every run must leave what an unbroken one leaves, to the bit. Prints the
number of runs.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import peft  # noqa: F401  what a run imports on its way is here before the first fork
import tiny_model
import torch

from truing.compute.engine.local import LocalEngine
from truing.compute.generate.native import NativeGenerator
from truing.models import load
from truing.signatures import validated
from truing.stages import online as stage
from truing.stages import play
from truing.stages.context import Judges
from truing.stages.online_settings import Online
from truing.stages.rollouts import Rollout
from truing.store import Run
from truing.store import run as store

STEPS = 12
SETTINGS: dict[str, Any] = {
    "rollouts": 3, "prompts": 8, "batch_size": 4, "max_new_tokens": 6, "learning_rate": 3e-3, "warmup": 0.0,
    "forest_tokens": 200, "save_every": 5,
}  # fmt: skip
"""Four updates of each rollout, and checkpoints in the middle of them."""
ALGORITHMS: dict[str, dict[str, Any]] = {
    "grpo": {"algorithm": {"name": "grpo", "epochs": 2, "group_size": 4}},
    "ppo_max": {"algorithm": {"name": "ppo_max", "epochs": 2}, "critic_warmup": 1},
}
PHASES = ("rollout", "update", "save")


@dataclass(frozen=True)
class Moment:
    """When to kill: `delay` seconds after a session has begun something of this phase for the `nth` time."""

    phase: str
    nth: int
    delay: float


@dataclass
class Session:
    """What was seen of a process. began: what it was about, and when. killed: whether that is how it ended."""

    began: list[tuple[str, float]] = field(default_factory=list)
    killed: bool = False

    def mean_seconds(self, phase: str) -> float:
        """From the beginning of this to that of the next thing."""
        spent = [
            after - at for (what, at), (_, after) in zip(self.began, self.began[1:], strict=False) if what == phase
        ]
        return sum(spent) / len(spent)


def killed(algorithm: str, kills: int, folder: Path) -> int:
    """Number of runs that it took."""
    rng = random.Random(0)
    usual = _forked(algorithm, folder, folder / "whole", None)
    often = Counter(what for what, _ in usual.began)
    expected = left_by(folder / "whole")
    assert [one["step"] for one in expected["events"] if one["kind"] == "step"] == list(range(1, STEPS + 1))
    run, done = 0, 0
    while done < kills:
        run += 1
        path = folder / str(run)
        ended = False
        while not ended:
            moment = None
            if done < kills:
                phase = PHASES[done % len(PHASES)]
                delay = rng.uniform(0.0, usual.mean_seconds(phase))
                moment = Moment(phase, rng.randint(1, -(-often[phase] // 2)), delay)
            session = _forked(algorithm, folder, path, moment)
            done += session.killed
            ended = not session.killed
        for name, value in left_by(path).items():
            assert value == expected[name], f"{path}: other {name}: {value} instead of {expected[name]}"
    return run


def left_by(path: Path) -> dict[str, Any]:
    """All that a run leaves and the clock does not decide. rollouts: every one that was learnt from, each time."""
    run = Run.read(path)
    (made,) = [artifact for artifact in run.artifacts() if "model" in artifact.meta]
    return {
        "events": [_timeless(event) for event in run.events()],
        "samples": list(run.samples()),
        "artifact": dict(made.meta),
        "weights": tiny_model.weights_hash(run.path / str(made.meta["model"])),
        "rollouts": sorted(set(path.with_suffix(".rollouts").read_text().splitlines())),
    }


def _timeless(event: dict[str, Any]) -> dict[str, Any]:
    found = {name: value for name, value in event.items() if name != "time"}
    if "metrics" in found:
        found["metrics"] = {name: value for name, value in found["metrics"].items() if name != "tokens_per_second"}
    return found


def _forked(algorithm: str, folder: Path, path: Path, moment: Moment | None) -> Session:
    """A session of the run, to its end or to that moment."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        try:
            _watch(writer, path.with_suffix(".rollouts"))
            _play(algorithm, folder, path)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    os.close(writer)
    session = Session()
    left = moment.nth if moment else 0
    with open(reader, "rb", buffering=0) as pipe:
        while phase := pipe.readline().decode().strip():
            session.began.append((phase, time.monotonic()))
            if moment and phase == moment.phase:
                left -= 1
                if left == 0:
                    time.sleep(moment.delay)
                    os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -signal.SIGKILL), f"{path}: a session ended with {code}"
    session.killed = code != 0
    return session


def _watch(writer: int, rollouts: Path) -> None:
    """Tells what begins, and keeps a hash of every rollout that is learnt from."""

    def telling(phase: str, deed: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(deed)
        def told(*given: Any, **named: Any) -> Any:
            os.write(writer, f"{phase}\n".encode())
            return deed(*given, **named)

        return told

    NativeGenerator.generate = telling("rollout", NativeGenerator.generate)  # type: ignore[method-assign]
    for name in ("backward", "step"):
        setattr(LocalEngine, name, telling("update", vars(LocalEngine)[name]))
    store.staged_folder = telling("save", store.staged_folder)
    kept = play.kept

    def noted(context: Any, number: int, *given: Any) -> Rollout:
        found = kept(context, number, *given)
        with rollouts.open("a") as file:
            file.write(f"{number} {_hash(found)}\n")
        return found

    play.kept = noted


def _hash(rollout: Rollout) -> str:
    """Of all its answers, their tokens, log-probabilities and scores, and of what each model says of them."""
    answers = [(a.sampled, a.score) for group in rollout.groups for a in group.completions]
    digest = hashlib.sha256(repr(answers).encode())
    for name, values in sorted(rollout.read.items()):
        digest.update(name.encode() + values.numpy().tobytes())
    return digest.hexdigest()


def _play(algorithm: str, folder: Path, path: Path) -> None:
    """The stage as a recipe would run it, unless it is done."""
    table = {
        **SETTINGS,
        **ALGORITHMS[algorithm],
        "scorer": {"name": "function", "path": f"{folder / 'rewards.py'}:vowels"},
    }
    with tiny_model.open_run(path) as run:
        context = tiny_model.context(run, algorithm)
        if run.artifact(context.key) is None:
            stage.online(
                context,
                validated(Online, table, "test"),
                tiny_model.model_of(folder / "model"),
                tiny_model.given(tiny_model.prompts(16)),
                Judges("none", {}),
                tiny_model.given(tiny_model.prompts(4, start=50)),
            )


if __name__ == "__main__":
    torch.set_num_threads(1)
    name, count, where = sys.argv[1:]
    warm = load(str(Path(where) / "model"), dtype=torch.float32, device=torch.device("cpu"))
    LocalEngine(warm)
    print(killed(name, int(count), Path(where)))
