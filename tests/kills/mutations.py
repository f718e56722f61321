"""Bugs that the harness must notice: each is put into every session of a run that is killed at chosen moments."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from kills.harness import Change, Moment

from truing.compute.engine.local import LocalEngine
from truing.stages import play, training
from truing.store import Run, disk
from truing.store import run as store
from truing.store.files import discard, publish, remove_tree, write_manifest


@dataclass(frozen=True)
class Mutation:
    """A bug, the algorithm that is to show it, and where that is killed."""

    change: Change
    algorithm: str
    moment: Moment


def noise() -> None:
    """No bug: training that draws on torch's random numbers at every step, as dropout would."""
    backward = LocalEngine.backward
    LocalEngine.backward = lambda self, loss: backward(self, loss * torch.rand(()))  # type: ignore[method-assign]


def forgotten_random_numbers() -> None:
    """Training that draws on them, and goes on with those of a fresh process."""
    noise()
    load_state = LocalEngine.load_state

    def forgetful(self: LocalEngine, folder: Path) -> None:
        fresh = torch.get_rng_state()
        load_state(self, folder)
        torch.set_rng_state(fresh)

    LocalEngine.load_state = forgetful  # type: ignore[method-assign]


def forgotten_moments() -> None:
    """The optimizer begins anew."""
    load_state = LocalEngine.load_state

    def forgetful(self: LocalEngine, folder: Path) -> None:
        load_state(self, folder)
        self._optimizer.state.clear()

    LocalEngine.load_state = forgetful  # type: ignore[method-assign]


def forgotten_cursor() -> None:
    """The rows begin anew."""
    done, step_rows = _steps_done(), training.step_rows
    training.step_rows = lambda rows, number, *given: step_rows(rows, number - done(), *given)


def forgotten_schedule() -> None:
    """The learning rate begins anew."""
    done, learning_rate = _steps_done(), training.learning_rate
    training.learning_rate = lambda number, *given: learning_rate(number - done(), *given)


def forgotten_price() -> None:
    """The scale of the rewards and the price of KL that adapts to it begin anew."""
    load_file = training.load_file
    training.load_file = lambda path: {  # type: ignore[assignment]
        name: value for name, value in load_file(path).items() if name not in ("before", "after")
    }


def forgotten_rollout() -> None:
    """A rollout that is learnt from is drawn again, by a policy that has moved on."""
    kept = play.kept

    def again(context: Any, number: int, *given: Any) -> Any:
        key = f"{context.key}-rollout-{number}"
        if context.run.artifact(key) is not None:
            context.run.discard_artifact(key)
        return kept(context, number, *given)

    play.kept = again


def steps_told_twice() -> None:
    """Events of steps that are taken again stay."""
    Run.rewind = lambda self, stage, step: None  # type: ignore[method-assign]


def saved_in_place() -> None:
    """A checkpoint has its name before it is whole."""

    @contextmanager
    def straight(
        target: Path, *, kind: str, meta: Mapping[str, Any], commit: Callable[..., None] = publish
    ) -> Iterator[Path]:
        remove_tree(target)
        disk.make_folder(target)
        yield target
        write_manifest(target, kind=kind, meta=meta)

    store.staged_folder = straight


def pruned_first() -> None:
    """The last checkpoint is removed before the next one is there."""
    new_checkpoint = Run.new_checkpoint

    @contextmanager
    def hasty(self: Run, step: int, *, stage_key: str, meta: Mapping[str, Any]) -> Iterator[Path]:
        for checkpoint in self.checkpoints(stage_key):
            discard(checkpoint.path)
        with new_checkpoint(self, step, stage_key=stage_key, meta=meta) as made:
            yield made

    Run.new_checkpoint = hasty  # type: ignore[method-assign]


def _steps_done() -> Callable[[], int]:
    """Of the stage that is trained, those of earlier sessions."""
    done, go_on = 0, training._go_on

    def noting(*given: Any) -> int:
        nonlocal done
        done = go_on(*given)
        return done

    training._go_on = noting
    return lambda: done


STEP = Moment("step", 5)
"""After checkpoints at steps 2 and 4; in online learning after one at step 3, in the middle of a rollout."""
MUTATIONS = {
    mutation.change.__name__: mutation
    for mutation in (
        Mutation(forgotten_random_numbers, "sft", STEP),
        Mutation(forgotten_moments, "dpo_lora", STEP),
        Mutation(forgotten_cursor, "reward_model", STEP),
        Mutation(forgotten_schedule, "sft", STEP),
        Mutation(forgotten_price, "ppo", STEP),
        Mutation(forgotten_rollout, "grpo", STEP),
        Mutation(steps_told_twice, "kto", Moment("step", 4)),
        Mutation(saved_in_place, "sft", Moment("seal", 2)),
        Mutation(pruned_first, "sft", Moment("seal", 2)),
    )
}
