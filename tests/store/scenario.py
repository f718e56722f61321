"""A small run, told step by step, and what must hold of its folder whatever interrupted it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from truing.store import Run
from truing.store.files import verify_folder

STEPS = 4
KEY = "train-key"
Told = Callable[[str, int], None]


def play(path: Path, told: Told) -> None:
    """Trains to the end, going on from what is there. What has been promised to last is `told`."""
    with Run.open(path, recipe="# mine\n", resolved="steps = 4\n", info={"seed": 1}) as run:
        if run.artifact("made"):
            return
        checkpoint = run.latest_checkpoint(KEY)
        done = checkpoint.step if checkpoint else 0
        run.rewind("train", done)
        if done:
            save(run, done)  # once more, so that one takes another's place
        for step in range(done + 1, STEPS + 1):
            run.event("train", "step", step=step)
            told("event", step)
            run.sample({"stage": "train", "step": step})
            if step % 2 == 0:
                save(run, step)
                told("checkpoint", step)
                run.prune(KEY, keep=1)
        run.event("train", "done")
        with run.new_artifact("made", stage="train", meta={"model": f"checkpoint-{STEPS}"}) as folder:
            (folder / "result").write_bytes(weights(STEPS))
        told("artifact", STEPS)


def save(run: Run, step: int) -> None:
    with run.new_checkpoint(step, stage_key=KEY, meta={"done": step}) as folder:
        (folder / "weights").write_bytes(weights(step))
        (folder / "trainer").mkdir()
        (folder / "trainer" / "state").write_bytes(weights(step + 1000))


def weights(step: int) -> bytes:
    return f"weights after step {step};".encode() * 50


def check(path: Path, kept: dict[str, int]) -> None:
    """The folder is in an old state or a new one, no older than what was promised, and the run can be finished."""
    with Run.open(path, recipe="# mine\n", resolved="steps = 4\n", info={"seed": 1}) as run:
        left = [p.name for p in path.rglob("*") if p.name.startswith((".tmp-", ".old-"))]
        assert not left, f"left behind: {left}"
        damaged = [problem for folder in path.glob("checkpoint-*") for problem in verify_folder(folder)]
        assert not damaged, damaged
        checkpoint = run.latest_checkpoint(KEY)
        done = checkpoint.step if checkpoint else 0
        assert done >= kept.get("checkpoint", 0), f"checkpoint {kept['checkpoint']} was promised, {done} is there"
        if checkpoint:
            assert checkpoint.meta == {"done": done}
            assert (checkpoint.path / "weights").read_bytes() == weights(done)
            assert (checkpoint.path / "trainer" / "state").read_bytes() == weights(done + 1000)
        steps = [event["step"] for event in run.events("train", "step")]
        assert steps == list(range(1, len(steps) + 1)), steps
        assert len(steps) >= max(done, kept.get("event", 0)), f"{steps} after checkpoint {done}, promised {kept}"
        artifact = run.artifact("made")
        assert artifact or "artifact" not in kept
        if artifact:
            assert (artifact.path / "result").read_bytes() == weights(STEPS)
            assert list(run.events("train", "done"))
    play(path, unheard)
    run = Run.read(path)
    assert [event["step"] for event in run.events("train", "step")] == [1, 2, 3, 4]
    assert [sample["step"] for sample in run.samples()] == [1, 2, 3, 4]
    assert [artifact.key for artifact in run.artifacts()] == ["made"]


class StopHereError(Exception):
    pass


def play_half(path: Path, told: Told) -> None:
    """A run that stopped after step 4, whose last checkpoint is that of step 2."""

    def told_until(what: str, step: int) -> None:
        told(what, step)
        if (what, step) == ("event", 4):
            raise StopHereError

    with suppress(StopHereError):
        play(path, told_until)


def unheard(what: str, step: int) -> None:
    pass


STARTS: dict[str, tuple[Callable[[Path], None], dict[str, int]]] = {
    "new": (lambda path: None, {}),
    "half": (lambda path: play_half(path, unheard), {"checkpoint": 2}),
}
"""Where a test may begin: what makes the folder, and what is promised by then."""
