"""Online learning with all roles over one base: the numbers of separate models, and what is told of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import tiny_model
import torch
from safetensors.torch import load_file
from torch import Tensor

from truing.compute.engine.local import LocalEngine
from truing.errors import Interrupted
from truing.models import roles, weights_of
from truing.signatures import validated
from truing.stages.context import Context, Judges, Model, Stop
from truing.stages.online import online
from truing.stages.online_settings import Online
from truing.stages.reward_model import RewardModel, reward_model
from truing.stages.sft import Sft, sft
from truing.store import Run

SETTINGS: dict[str, Any] = {
    "algorithm": {"name": "ppo", "epochs": 2}, "scorer": "reward_model", "rollouts": 3, "prompts": 6, "batch_size": 3,
    "max_new_tokens": 6, "learning_rate": 3e-3, "warmup": 0.0, "critic_rate": 1.0, "lora": {"rank": 2},
    "save_every": 2,
}  # fmt: skip


def made(run: Run, kind: str) -> Path:
    (found,) = [artifact for artifact in run.artifacts() if kind in artifact.meta]
    return run.path / str(found.meta[kind])


def judge_of(run: Run, start: Model, **settings: Any) -> Model:
    """A reward model that prefers short answers, trained from `start`."""
    own = {"epochs": 3, "batch_size": 4, "learning_rate": 5e-3, "lora": {"rank": 2}, **settings}
    reward_model(
        tiny_model.context(run, "rm", key="rm"),
        validated(RewardModel, own, "test"),
        start,
        tiny_model.given(tiny_model.pairs()),
    )
    return Model("rm", str(made(run, "reward")))


def play(
    run: Run, start: Model, judge: Model, *, stop: Stop | None = None, reward: bool = True, **settings: Any
) -> None:
    context = tiny_model.context(run, "online", key="online")
    online(
        context if stop is None else replace(context, stop=stop),
        validated(Online, {**SETTINGS, **settings}, "test"),
        start,
        tiny_model.given(tiny_model.prompts(12)),
        Judges("judge", {"": judge}),
        tiny_model.given(tiny_model.prompts(6, start=50)),
        judge if reward else None,
    )


def adapter(run: Run) -> dict[str, Tensor]:
    return load_file(made(run, "model") / "adapter_model.safetensors")


def metrics(run: Run) -> list[dict[str, float]]:
    return [event["metrics"] for event in tiny_model.step_events(run, "online")]


def told(run: Run) -> dict[str, bool]:
    return {event["role"].split()[0]: event["shared"] for event in run.events("online", "one_base")}


def unmerged(self: Context, model: Model, **_: Any) -> LocalEngine:
    """A reward model with weights of its own, its adapter beside them: merged, it would round otherwise."""
    own = self.load(Model("base", weights_of(model.source)))
    return LocalEngine(roles.beside(own, model.source, scores=True), trainable=False)


@pytest.mark.parametrize("reward", [True, False])
@pytest.mark.parametrize("start", ["model", "adapter"])
def test_a_whole_training_gives_the_numbers_of_separate_models(
    start: str, reward: bool, folder: Path, runs: Callable[[], Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit, from a model, and from an adapter, of which each stage writes the base in full by itself.

    reward: whether the critic begins as the reward model.
    """
    policy = tiny_model.model_of(folder)
    if start == "adapter":
        first = runs()
        settings = validated(Sft, {"lora": {"rank": 2}, "learning_rate": 1e-2, "epochs": 3}, "test")
        sft(tiny_model.context(first, "sft"), settings, policy, tiny_model.given(tiny_model.demonstrations()))
        policy = Model("sft", str(made(first, "model")))
    judge = judge_of(runs(), policy)
    together, apart = runs(), runs()
    play(together, policy, judge, reward=reward)
    monkeypatch.setattr(Context, "scorer", unmerged)
    play(apart, policy, judge, reward=reward, one_base=False)
    assert told(together) == {"critic": True, "scorer": True}
    assert told(apart) == {}
    assert metrics(together) == metrics(apart)
    one, other = adapter(together), adapter(apart)
    assert one.keys() == other.keys()
    assert all(torch.equal(weight, other[name]) for name, weight in one.items())
    assert any(weight.abs().max() > 1e-3 for name, weight in one.items() if "lora_B" in name)


def test_a_merged_reward_model_is_the_same_but_for_rounding(folder: Path, runs: Callable[[], Run]) -> None:
    """As runs without one base have it. AdamW makes more of a last bit: weights have moved by about 0.03."""
    judge = judge_of(runs(), tiny_model.model_of(folder))
    together, apart = runs(), runs()
    for run, shared in ((together, True), (apart, False)):
        play(run, tiny_model.model_of(folder), judge, one_base=shared)
    first, other = metrics(together)[0], metrics(apart)[0]
    assert first["reward"] == pytest.approx(other["reward"], abs=1e-6)
    assert first["loss"] == pytest.approx(other["loss"], rel=2e-6)
    for name, weight in adapter(together).items():
        torch.testing.assert_close(weight, adapter(apart)[name], rtol=0, atol=3e-5)


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
def test_roles_over_a_base_in_4_bits(folder: Path, runs: Callable[[], Run]) -> None:
    """As apart where nothing is merged; what is saved is an adapter of the full base."""
    judge = judge_of(runs(), tiny_model.model_of(folder), lora=None)
    together, apart, full = runs(), runs(), runs()
    for run, own in ((together, {"base_bits": 4}), (apart, {"base_bits": 4, "one_base": False}), (full, {})):
        play(run, tiny_model.model_of(folder), judge, reward=False, **own)
    assert told(together) == {"critic": True, "scorer": False}
    assert metrics(together) == metrics(apart) != metrics(full)
    first = metrics(together)[0]
    assert first["ratio"] == 1.0
    assert first["kl"] == 0.0
    assert json.loads((made(together, "model") / "adapter_config.json").read_text())["base_model_name_or_path"] == str(
        folder
    )


def test_a_critic_that_begins_as_another_model_has_weights_of_its_own(folder: Path, runs: Callable[[], Run]) -> None:
    judge = judge_of(runs(), tiny_model.model_of(folder), lora=None)
    run = runs()
    play(run, tiny_model.model_of(folder), judge)
    assert told(run) == {"critic": False, "scorer": False}


def test_a_critic_begins_with_the_scores_of_the_reward_model(folder: Path, runs: Callable[[], Run]) -> None:
    """Its adapter and head are those of the reward model, and not drawn anew."""
    judge = judge_of(runs(), tiny_model.model_of(folder))
    run = runs()
    play(run, tiny_model.model_of(folder), judge, learning_rate=1e-9, rollouts=1)
    fresh = runs()
    play(fresh, tiny_model.model_of(folder), judge, learning_rate=1e-9, rollouts=1, reward=False)
    (sample,), (other,) = list(run.samples())[:1], list(fresh.samples())[:1]
    values, plain = (one["answers"][0]["numbers"]["value"] for one in (sample, other))
    assert values != pytest.approx(plain, abs=1e-2)


class Asked(Stop):
    """Somebody asks to stop once so many steps are taken."""

    def __init__(self, run: Run, after: int) -> None:
        self.run, self.after = run, after

    @property  # type: ignore[override]
    def requested(self) -> bool:
        return len(metrics(self.run)) >= self.after


@pytest.mark.parametrize("after", [1, 4])
def test_stopped_and_gone_on_with_is_the_same_to_the_bit(after: int, folder: Path, runs: Callable[[], Run]) -> None:
    judge = judge_of(runs(), tiny_model.model_of(folder))
    unbroken, broken = runs(), runs()
    play(unbroken, tiny_model.model_of(folder), judge)
    with pytest.raises(Interrupted):
        play(broken, tiny_model.model_of(folder), judge, stop=Asked(broken, after))
    play(broken, tiny_model.model_of(folder), judge)
    assert metrics(broken) == metrics(unbroken)
    assert all(torch.equal(weight, adapter(unbroken)[name]) for name, weight in adapter(broken).items())


def test_the_base_is_frozen_while_roles_learn(
    folder: Path, runs: Callable[[], Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And each role's masters are its own adapter and head."""
    engines: list[LocalEngine] = []
    begin = LocalEngine.__init__

    def noted(self: LocalEngine, *given: Any, **named: Any) -> None:
        begin(self, *given, **named)
        engines.append(self)

    judge = judge_of(runs(), tiny_model.model_of(folder))
    monkeypatch.setattr(LocalEngine, "__init__", noted)
    run = runs()
    play(run, tiny_model.model_of(folder), judge)
    scorer, policy, critic = engines
    assert not scorer._masters
    assert all("lora_" in name for name in policy._masters)
    assert all("lora_" in name or "score.modules_to_save" in name for name in critic._masters)
    base = [
        {name.replace(".base_layer", ""): weight for name, weight in engine.model.get_base_model().named_parameters()}
        for engine in (policy, critic)
    ]
    start = load_file(folder / "model.safetensors")
    shared = start.keys() & base[0].keys() & base[1].keys()
    assert len(shared) == len(start)
    assert all(base[0][name] is base[1][name] and torch.equal(base[0][name], start[name]) for name in shared)
