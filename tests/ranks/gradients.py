"""Gradients of every objective and online algorithm by two ranks beside those of one.

The second step has one row, so that the second rank has nothing to do. Learning rates are next to nothing: the steps
are taken, and the weights stay.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import tiny_model
import torch
from torch import Tensor

from truing.algorithms import ALGORITHMS
from truing.compute.engine.local import LocalEngine
from truing.compute.ranks import ALONE, Ranks, joined
from truing.objectives import OBJECTIVES, bind
from truing.records import AnswerStep, Completion, Group, assistant, user
from truing.signatures import validated
from truing.stages import training
from truing.stages.context import Context, Judges
from truing.stages.online import online
from truing.stages.online_settings import Online
from truing.stages.preference import Preference, fit, prepared
from truing.stages.reward_model import RewardModel
from truing.stages.sft import Sft, sft
from truing.stages.training import load_trainable
from truing.store import FollowedRun, Run

PLAN = {"batch_size": 5, "learning_rate": 1e-12, "warmup": 0.0, "forest_tokens": 100, "schedule": "constant"}
PLAYED = {"rollouts": 1, "prompts": 5, "max_new_tokens": 6, "learning_rate": 1e-12, "forest_tokens": 100}
NAMES = (*OBJECTIVES, *(f"online {name}" for name in ALGORITHMS))
WORDS = ("yes", "nope", "a long answer with many words in it", "perhaps", "hm")


def rows(count: int, *, steps: bool = False) -> list[Group]:
    """Of prompts and answers of very different lengths, with everything said of them that an objective may ask for."""
    found = []
    for i in range(count):
        texts = [f"{WORDS[(i + place) % len(WORDS)]} {i}" for place in range(2)]
        answers = tuple(
            Completion(
                (assistant(text),),
                score=(0.9, 0.3)[place],
                source="reference" if place == 1 else None,
                steps=(AnswerStep(1, place == 0), AnswerStep(len(text), i % 2 == 0)) if steps else (),
            )
            for place, text in enumerate(texts)
        )
        found.append(Group((user(f"{'why so, ' * (i * i % 7)}{i}?"),), answers, weight=1.0 + i % 3))
    return found


def gradients(name: str, folder: Path, run: Run, ranks: Ranks) -> list[dict[str, Tensor]]:
    """Those of both steps, as the optimizer sees them."""
    seen: list[dict[str, Tensor]] = []

    class Recording(LocalEngine):
        def discard(self) -> None:
            seen.append({name: gradient.clone() for name, gradient in self.gradients().items()})
            super().discard()

    model, base = (tiny_model.model_of(folder / one) for one in ("model", "base"))
    key = f"{name.replace(' ', '-')}-{ranks.count}"
    context: Context = replace(
        tiny_model.context(run, key=key, first_step=10 * (2 * NAMES.index(name) + ranks.count)), ranks=ranks
    )
    if name.startswith("online"):
        settings = validated(Online, PLAYED | {"algorithm": name.split()[1], "scorer": {"name": "length"}}, "t")
        with mock.patch("truing.stages.online.LocalEngine", Recording):
            online(context, settings, model, tiny_model.given(tiny_model.prompts(7)), Judges("none", {}))
        return seen
    objective = bind({"name": name})
    with mock.patch.object(training, "LocalEngine", Recording), mock.patch.object(training, "save_checkpoint"):
        if objective.stage == "sft":
            with mock.patch("truing.stages.sft.finish"):
                sft(context, validated(Sft, PLAN | {"objective": name}, "t"), model, tiny_model.given(rows(6)))
            return seen
        # another model as the reference: beside itself the policy has log-ratios of 0, and so has the KL
        apart = objective.needs("reference") and not objective.needs("divergence")
        schema = Preference if objective.stage == "preference" else RewardModel
        about: dict[str, Any] = {"objective": name} | ({"reference": "base"} if apart else {})
        settings = validated(schema, PLAN | about, "t")
        given = tiny_model.given(rows(6, steps=objective.kind == "step"))
        some, judged = prepared(context, settings, model, given)
        fit(context, settings, load_trainable(context, model, settings), model, some, judged, base=base)
    return seen


def apart(one: Sequence[dict[str, Tensor]], other: Sequence[dict[str, Tensor]]) -> list[float]:
    """|g - g'| / |g| of each step, over all weights."""
    found = []
    for left, right in zip(one, other, strict=True):
        assert left.keys() == right.keys()
        whole, rest = (
            torch.stack([tensor.double().square().sum() for tensor in tensors]).sum().sqrt()
            for tensors in (left.values(), [left[name] - right[name] for name in left])
        )
        found.append(float(rest / whole))
    return found


def compare(folder: Path) -> None:
    """Run by each of two processes; the first one writes what it finds."""
    found = {}
    with joined(torch.device("cpu")) as ranks:
        run = tiny_model.open_run(folder / "run") if ranks.rank == 0 else None
        ranks.wait()
        for name in NAMES:
            several = gradients(name, folder, run or FollowedRun.read(folder / "run"), ranks)
            if run is not None:
                found[name] = apart(gradients(name, folder, run, ALONE), several)
            ranks.wait()
        if run is not None:
            run.close()
            (folder / "found.json").write_text(json.dumps(found))
