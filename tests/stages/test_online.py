"""Online learning on a tiny model: what is exact at the first update, what it learns, and that going on is exact."""

from __future__ import annotations

import importlib
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import tiny_model
import torch
from safetensors.torch import load_file

from truing.algorithms import ALGORITHMS, bind
from truing.compute.engine.local import LocalEngine
from truing.errors import ConfigError, DataError, Interrupted
from truing.records import Group
from truing.scoring.score import Score
from truing.shaping import ShapingState
from truing.signatures import validated
from truing.stages import play as rollouts_of_a_run
from truing.stages.context import Judges, Stop
from truing.stages.correction import spelled_out
from truing.stages.judged import Judged
from truing.stages.online import online
from truing.stages.online_settings import Online
from truing.stages.rollouts import in_turn
from truing.stages.showing import is_sampled
from truing.store import Run, StoreWarning
from truing.store import run as run_module

REWARDS = """
def vowels(prompt, answer):
    return sum(letter in "aeiou" for letter in answer) / max(len(answer), 1)

def same(prompt, answer):
    return 1.0

def picky(prompt, answer):
    if "tea" in prompt[-1]["content"]:
        raise ValueError("no tea")
    return vowels(prompt, answer)

def half(prompt, answer):
    return vowels(prompt, answer) if int(prompt[-1]["content"].strip("?").split()[-1]) % 2 else 1.0

def odd(prompt, answer):
    if int(prompt[-1]["content"].strip("?").split()[-1]) % 2 == 0:
        raise ValueError("even")
    return vowels(prompt, answer)

def none(prompt, answer):
    raise ValueError("never")
"""
SETTINGS: dict[str, Any] = {
    "rollouts": 30, "prompts": 8, "max_new_tokens": 12, "learning_rate": 3e-3, "warmup": 0.0, "forest_tokens": 4096,
}  # fmt: skip
QUICK = {"rollouts": 2, "max_new_tokens": 6}
FREE = {
    "reinforce": {"reward_kl": 0.0},
    "rloo": {"reward_kl": 0.0},
    "remax": {"reward_kl": 0.0},
    "a2c": {"reward_kl": 0.0},
    "ppo": {"reward_kl": 0.0},
    "nash_md": {"reward_kl": 0.0},
}
"""Without the price of KL, which is high beside a reward of at most 1."""
WIDER = {name: {"prompts": 16, "batch_size": 16} for name in ("nash_md", "xpo")}
"""One answer to each prompt, compared with one other, says little of it."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "rewards.py").write_text(REWARDS)
    return tiny_model.save(tmp_path / "model")


def play(
    run: Run,
    folder: Path,
    name: str,
    reward: str = "vowels",
    *,
    asked: Stop | None = None,
    options: dict[str, Any] | None = None,
    **settings: Any,
) -> None:
    scorer = {"name": "function", "path": f"{folder.parent / 'rewards.py'}:{reward}"}
    own = {**SETTINGS, **settings, "algorithm": {"name": name, **(options or {})}, "scorer": scorer}
    if ALGORITHMS[name].needs_critic:
        own.setdefault("critic_rate", 1.0)
    context = tiny_model.context(run, name)
    online(
        context if asked is None else replace(context, stop=asked),
        validated(Online, own, "test"),
        tiny_model.model_of(folder),
        tiny_model.given(tiny_model.prompts(16)),
        Judges("none", {}),
        tiny_model.given(tiny_model.prompts(12, start=50)),
    )


def steps(run: Run, name: str) -> list[dict[str, float]]:
    return [event["metrics"] for event in run.events(name, "step")]


def rollouts(run: Run, name: str) -> list[dict[str, Any]]:
    return [{k: v for k, v in event.items() if k != "time"} for event in run.events(name, "rollout")]


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_each_algorithm_lifts_the_reward_of_held_out_prompts(name: str, folder: Path, runs: Callable[[], Run]) -> None:
    run = runs()
    play(run, folder, name, options=FREE.get(name), **WIDER.get(name, {}))
    (found,) = run.events(name, "held_out_reward")
    assert found["gain"]["low"] > 0.1, found


@pytest.mark.parametrize("name", ["grpo", "ppo"])
def test_at_the_first_update_the_policy_is_the_behaviour_and_the_reference(
    name: str, folder: Path, runs: Callable[[], Run]
) -> None:
    run = runs()
    play(run, folder, name, **QUICK)
    first = steps(run, name)[0]
    assert first["ratio"] == 1.0
    assert first["ratio/clipped"] == first["kl"] == first["kl/behaviour"] == 0.0


@pytest.mark.parametrize(
    ("name", "after", "own"),
    [
        *((name, after, {}) for name in ("grpo", "ppo_max", "remax") for after in (1, 3, 5)),
        *(("grpo", after, {"curriculum": {}}) for after in (1, 4, 7)),
        *((name, 6, {"curriculum": {"memory": 0.9}}) for name in ("xpo", "nash_md")),
    ],
)
def test_stopped_in_the_middle_of_a_rollout_and_gone_on_with_is_the_same_to_the_bit(
    name: str, after: int, own: dict[str, Any], folder: Path, runs: Callable[[], Run]
) -> None:
    whole = {**QUICK, "rollouts": 3, "batch_size": 4, "options": {"epochs": 2}, **own}
    unbroken, broken = runs(), runs()
    play(unbroken, folder, name, **whole)
    stop = Asked(broken, name, after)
    with pytest.raises(Interrupted):
        play(broken, folder, name, asked=stop, **whole)
    play(broken, folder, name, **whole)
    assert weights_of(broken) == weights_of(unbroken)
    kept = [{k: v for k, v in one.items() if k != "tokens_per_second"} for one in steps(broken, name)]
    assert kept == [{k: v for k, v in one.items() if k != "tokens_per_second"} for one in steps(unbroken, name)]
    assert rollouts(broken, name) == rollouts(unbroken, name)
    assert list(broken.samples()) == list(unbroken.samples())


class Asked(Stop):
    """Somebody asks to stop once so many steps are taken."""

    def __init__(self, run: Run, name: str, after: int) -> None:
        self.run, self.name, self.after = run, name, after

    @property  # type: ignore[override]
    def requested(self) -> bool:
        return len(steps(self.run, self.name)) >= self.after


class Struck(Asked):
    """It ends with an error after so many steps, before anything is saved."""

    @property  # type: ignore[override]
    def requested(self) -> bool:
        if super().requested:
            raise RuntimeError("struck")
        return False


def weights_of(run: Run) -> dict[str, list[float]]:
    (made,) = [artifact for artifact in run.artifacts() if "model" in artifact.meta]
    state = load_file(run.path / str(made.meta["model"]) / "model.safetensors")
    return {name: weight.flatten().tolist() for name, weight in state.items()}


@pytest.mark.parametrize("name", ["grpo", "online_dpo", "xpo", "best_of_n"])
def test_the_gradient_does_not_depend_on_how_a_step_is_cut(name: str, folder: Path, runs: Callable[[], Run]) -> None:
    options = {"group_size": 4} if name == "online_dpo" else {}
    norms = []
    for budget in (40, 200, 10_000):
        run = runs()
        play(run, folder, name, options=options, **{**QUICK, "rollouts": 1, "forest_tokens": budget})
        norms.append(steps(run, name)[0]["gradient_norm"])
    assert norms == pytest.approx([norms[0]] * 3, rel=1e-4)
    assert norms[0] > 0


def test_what_is_sampled_at_a_temperature_is_scored_at_it(folder: Path, runs: Callable[[], Run]) -> None:
    run = runs()
    play(run, folder, "grpo", temperature=0.7, **QUICK)
    assert all(one["generator_gap"] < 1e-4 for one in steps(run, "grpo"))


@pytest.mark.parametrize("name", ["dapo", "online_dpo", "xpo", "best_of_n"])
def test_groups_that_teach_nothing_are_dropped_and_change_no_weight(
    name: str, folder: Path, runs: Callable[[], Run]
) -> None:
    run = runs()
    play(run, folder, name, "same", **QUICK)
    assert [event["accepted"] for event in run.events(name, "rollout")] == [0.0, 0.0]
    before = load_file(folder / "model.safetensors")
    after = weights_of(run)
    assert all(before[name].flatten().tolist() == after[name] for name in before)


def test_prompts_on_which_the_scorer_fails_are_left_out_and_counted(folder: Path, runs: Callable[[], Run]) -> None:
    run = runs()
    play(run, folder, "grpo", "picky", **{**QUICK, "held_out_prompts": 2})
    told = [event["failed"] for event in run.events("grpo", "rollout")]
    assert sum(sum(one.values()) for one in told) == 2  # of 16 prompts two are of tea
    assert all("no tea" in reason for one in told for reason in one)
    with pytest.raises(DataError, match="never"):
        play(runs(), folder, "grpo", "none", **QUICK)


def test_no_prompt_is_skipped_or_doubled_in_a_pass() -> None:
    drawn = [place for number in range(6) for place in in_turn(9, 3, number, seed=4)]
    assert sorted(drawn[:9]) == sorted(drawn[9:18]) == list(range(9))
    assert drawn[:9] != drawn[9:18]


def test_rollouts_that_a_checkpoint_has_passed_are_not_kept(folder: Path, runs: Callable[[], Run]) -> None:
    run = runs()
    play(run, folder, "grpo", **{**QUICK, "rollouts": 4, "save_every": 1})
    assert not [artifact for artifact in run.artifacts() if "part" in artifact.meta]


@pytest.mark.parametrize(
    ("name", "options"),
    [("grpo", {"entropy_bonus_weight": 0.01}), ("dr_grpo", {}), ("remax", {"reward_kl": 0.0}),
     ("a2c", {"reward_kl": 0.0})],
)  # fmt: skip
def test_one_pass_that_reads_and_learns_says_what_two_passes_say_to_the_bit(
    name: str, options: dict[str, Any], folder: Path, runs: Callable[[], Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one step, cut into several forests: metrics, rollouts, samples and weights, and one pass less."""
    passes: list[bool] = []
    statistics = LocalEngine.statistics

    def counted(*given: Any, **named: Any) -> Any:
        passes.append(torch.is_grad_enabled())
        return statistics(*given, **named)

    monkeypatch.setattr(LocalEngine, "statistics", counted)
    found = []
    for once in (True, False):
        if not once:
            monkeypatch.setattr(Online, "reads_while_learning", False)
        run = runs()
        play(run, folder, name, options=options, **{**QUICK, "rollouts": 3, "forest_tokens": 200})
        metrics = [{k: v for k, v in one.items() if k != "tokens_per_second"} for one in steps(run, name)]
        found.append((metrics, rollouts(run, name), list(run.samples()), weights_of(run)))
        assert passes.count(True) > 3
        assert passes.count(False) == (0 if once else passes.count(True))
        passes.clear()
    assert found[0] == found[1]


@pytest.mark.parametrize(
    "other",
    [{"batch_size": 4}, {"correction": "truncate"}, {"stop": {"kl": 5.0}}, {"options": {"epochs": 2}},
     {"options": {"reward_kl": 0.1}}, {"name": "dapo"}, {"name": "online_dpo"}],
)  # fmt: skip
def test_a_rollout_is_read_before_it_is_learnt_from_where_something_asks_for_that(other: dict[str, Any]) -> None:
    algorithm = {"name": other.pop("name", "grpo"), **other.pop("options", {})}
    assert validated(Online, {}, "test").reads_while_learning
    assert not validated(Online, {"algorithm": algorithm, **other}, "test").reads_while_learning


def test_a_damaged_checkpoint_is_passed_over_in_the_middle_of_a_rollout_to_the_same_bits(
    folder: Path, runs: Callable[[], Run]
) -> None:
    """The rollouts that the checkpoint before it needs are still there, though the damaged one had passed them."""
    whole = {**QUICK, "rollouts": 3, "batch_size": 4, "options": {"epochs": 2}, "save_every": 3, "keep_checkpoints": 2}
    unbroken, broken = runs(), runs()
    play(unbroken, folder, "grpo", **whole)
    with pytest.raises(RuntimeError, match="struck"):
        play(broken, folder, "grpo", asked=Struck(broken, "grpo", 9), **whole)
    assert [one.step for one in broken.checkpoints()] == [3, 6]
    weights = broken.path / "checkpoint-6" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 4
    weights.write_bytes(content)
    with pytest.warns(StoreWarning, match="checkpoint-6"):
        play(broken, folder, "grpo", **whole)
    assert weights_of(broken) == weights_of(unbroken)
    assert rollouts(broken, "grpo") == rollouts(unbroken, "grpo")


def test_a_checkpoint_is_not_hashed_at_every_rollout(
    folder: Path, runs: Callable[[], Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[Path] = []
    verify = run_module.verify_folder
    monkeypatch.setattr(run_module, "verify_folder", lambda path: hashed.append(path) or verify(path))
    play(runs(), folder, "grpo", **{**QUICK, "rollouts": 8, "save_every": 1})
    assert len(hashed) < 8


def test_a_critic_warms_up_alone(folder: Path, runs: Callable[[], Run]) -> None:
    run = runs()
    read = mock.patch.object(LocalEngine, "statistics", autospec=True, side_effect=LocalEngine.statistics)
    with read as policy:
        play(run, folder, "ppo", **{**QUICK, "critic_warmup": 2}, options={"epochs": 3})
    assert policy.call_count == 2  # once for each rollout as it is drawn, and never while the critic learns alone
    before = load_file(folder / "model.safetensors")
    after = weights_of(run)
    assert all(torch.equal(before[name], torch.tensor(after[name]).view_as(before[name])) for name in before)
    errors = [one["value/error"] for one in steps(run, "ppo")]
    assert errors[-1] < errors[0]


def test_the_greedy_answer_is_the_baseline_and_is_not_learnt_from(folder: Path, runs: Callable[[], Run]) -> None:
    """Where all answers are greedy, as at next to no temperature, none is better than the baseline."""
    run = runs()
    free = {"reward_kl": 0.0}
    play(run, folder, "remax", temperature=1e-4, options={**free, "group_size": 3}, **{**QUICK, "rollouts": 1})
    (cold,) = steps(run, "remax")
    assert cold["reward"] == pytest.approx(cold["reward/rival"])
    assert (cold["loss"], cold["gradient_norm"]) == (0.0, 0.0)
    play(other := runs(), folder, "remax", options=free, **{**QUICK, "rollouts": 1})
    (warm,) = steps(other, "remax")
    assert warm["reward/rival"] == cold["reward/rival"]
    assert warm["gradient_norm"] > 0


def test_the_entropy_of_a_rollout_is_logged_and_an_entropy_bonus_raises_it(
    folder: Path, runs: Callable[[], Run]
) -> None:
    late = {}
    for weight in (0.0, 1.0):
        run = runs()
        options = {"reward_kl": 0.0, **({"entropy_bonus_weight": weight} if weight else {})}
        play(run, folder, "reinforce", options=options, temperature=0.5, **{**QUICK, "rollouts": 8})
        told = [one["entropy"] for one in steps(run, "reinforce")]
        late[weight] = told[-1]
        if weight:
            assert steps(run, "reinforce")[0]["entropy/update"] == pytest.approx(told[0], rel=0.1)
            assert told[-1] > told[0]
    assert late[1.0] > late[0.0]


@pytest.mark.parametrize("name", ["grpo", "dr_grpo"])
def test_training_ends_where_the_policy_has_gone_too_far(name: str, folder: Path, runs: Callable[[], Run]) -> None:
    """With and without an algorithm that reads the reference by itself."""
    free, bound = runs(), runs()
    play(free, folder, name, stop={"kl": 1e9}, **{**QUICK, "rollouts": 12})
    course = [one["kl"] for one in steps(free, name)]
    limit = max(course) / 2
    play(bound, folder, name, stop={"kl": limit}, stop_after=1, **{**QUICK, "rollouts": 12})
    taken = next(place for place, kl in enumerate(course) if kl > limit)
    assert [one["kl"] for one in steps(bound, name)] == course[:taken]
    (told,) = bound.events(name, "stopped")
    assert (told["rollout"], told["value"], told["high"]) == (taken + 1, course[taken], limit)
    (warned,) = bound.events(name, "warning")
    assert "stop.kl" in warned["message"]
    (made,) = [artifact for artifact in bound.artifacts() if "model" in artifact.meta]
    assert (made.meta["steps"], made.meta["model"]) == (taken, f"checkpoint-{taken}")
    assert weights_of(bound) != weights_of(free)


def test_the_best_and_the_worst_answer_of_each_rollout_are_told(folder: Path, runs: Callable[[], Run]) -> None:
    run = runs()
    play(run, folder, "grpo", **QUICK)
    told = rollouts(run, "grpo")
    assert [one["rollout"] for one in told] == [1, 2]
    assert [one["step"] for one in told] == [1, 2]
    for one in told:
        best, worst = one["shown"]
        assert best["score"] > one["reward"] > worst["score"]
        assert best["prompt"][-1]["role"] == "user"
        assert best["score"] == pytest.approx(sum(letter in "aeiou" for letter in best["text"]) / len(best["text"]))


@pytest.mark.parametrize("name", ["grpo", "ppo"])
def test_sampled_rollouts_are_written_token_by_token(name: str, folder: Path, runs: Callable[[], Run]) -> None:
    run = runs()
    play(run, folder, name, **QUICK)
    first, last = run.samples()
    assert (first["rollout"], last["rollout"]) == (1, 2)
    for answer in first["answers"]:
        pieces, numbers = answer["pieces"], answer["numbers"]
        assert "".join(pieces).startswith(answer["text"])
        assert {len(values) for values in numbers.values()} == {answer["tokens"]}
        assert numbers["kl"] == [0.0] * len(pieces)  # the policy is the reference still
        assert numbers["reward"][:-1] == [0.0] * (len(pieces) - 1)
        assert numbers["reward"][-1] == pytest.approx(answer["score"], rel=1e-3)
        assert ("value" in numbers) == (name == "ppo")
    if name == "grpo":
        best, worst = (answer["numbers"]["advantage"] for answer in first["answers"])
        assert min(best) > 0 > max(worst)


def test_about_eight_rollouts_are_sampled_the_first_and_the_last_among_them() -> None:
    for rollouts in (1, 2, 8, 9, 100, 1001):
        taken = [number for number in range(rollouts) if is_sampled(number, rollouts)]
        assert {0, rollouts - 1} <= set(taken)
        assert min(rollouts, 5) <= len(taken) <= 9


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> list[Judged]:
    """The rollouts of a run as they were judged."""
    real, found = rollouts_of_a_run.judge, []

    def judge(*given: Any) -> Any:
        made = real(*given)
        found.append(made[0])
        return made

    monkeypatch.setattr(rollouts_of_a_run, "judge", judge)
    return found


@pytest.mark.parametrize(
    ("name", "lora"), [("online_dpo", None), ("xpo", None), ("xpo", {"rank": 2, "alpha": 8.0})], ids=str
)
def test_pairs_at_the_first_update_have_no_margin(
    name: str, lora: dict[str, Any] | None, folder: Path, runs: Callable[[], Run]
) -> None:
    run = runs()
    options = {"alpha": 0.0} if name == "xpo" else {}
    play(run, folder, name, options=options, lora=lora, **QUICK)
    first, second = steps(run, name)
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert first["reward/margin"] == pytest.approx(0.0, abs=1e-6)
    assert first["kl"] == 0.0
    assert second["reward/margin"] != 0.0
    assert second["gradient_norm"] > 0


def test_xpo_meets_the_reference_and_what_is_told_is_of_the_policy(
    folder: Path, runs: Callable[[], Run], judged: list[Judged]
) -> None:
    run = runs()
    play(run, folder, "xpo", **{**QUICK, "rollouts": 5, "save_every": 100})
    rollout, judgement = judged[-1].rollout, judged[-1].judgement
    theirs = rollout.by_reference
    assert theirs.tolist() == [False, True] * len(rollout.groups)
    of_them = theirs[rollout.completion]
    read, drawn = rollout.read, rollout.sampled
    torch.testing.assert_close(drawn[of_them], read["reference"][of_them], atol=1e-4, rtol=0)
    torch.testing.assert_close(drawn[~of_them], read["behaviour"][~of_them], atol=1e-4, rtol=0)
    assert (read["behaviour"] - read["reference"]).abs().max() > 0.01, "the policy has moved"
    own = [group.completions[0] for group in rollout.groups]
    (*_, told) = run.events("xpo", "rollout")
    assert told["reward"] == pytest.approx(sum(one.score or 0.0 for one in own) / len(own), rel=1e-5)
    assert told["generator_gap"] < 1e-4
    assert judgement.kl is not None
    assert told["kl"] == pytest.approx(float(judgement.kl.sum[~theirs].mean()))
    assert {one["text"] for one in told["shown"]} <= {one.text for one in own}
    first = judged[0].rollout
    assert any(one.completions[0].text != one.completions[1].text for one in first.groups), "not the same numbers"


def test_nash_md_meets_one_rival_for_each_answer_and_learns_from_its_own(
    folder: Path, runs: Callable[[], Run], judged: list[Judged]
) -> None:
    run = runs()
    play(run, folder, "nash_md", options={"link": "linear", "mixture": 0.5}, **QUICK)
    for one in judged:
        rollout = one.rollout
        assert [len(group.completions) for group in rollout.groups] == [1] * len(rollout.groups)
        assert len(rollout.rival) == len(rollout.groups)
        rival = torch.tensor([answer.score for answer in rollout.rival])
        assert one.judgement.win_rate is not None
        torch.testing.assert_close(one.judgement.win_rate, (1 + rollout.score - rival) / 2)
    told = [event["win_rate"] for event in run.events("nash_md", "rollout")]
    assert told == pytest.approx(
        [float(one.judgement.win_rate.mean()) for one in judged if one.judgement.win_rate is not None]
    )


@pytest.mark.parametrize(("name", "learnt"), [("best_of_n", 1), ("online_dpo", 2)])
def test_only_answers_that_are_learnt_from_are_run_again(
    name: str, learnt: int, folder: Path, runs: Callable[[], Run], judged: list[Judged]
) -> None:
    play(runs(), folder, name, options={"group_size": 4}, **QUICK)
    for one in judged:
        assert [len(row.answers) for row in one.rollout.rows] == [4] * len(one.rollout.rows)
        assert {len(row.answers) for row in one.rows} <= {0, learnt}
        for row, group in zip(one.rows, one.rollout.groups, strict=True):
            scores = [answer.score or 0.0 for answer in group.completions]
            best = group.completions[scores.index(max(scores))]
            assert not row.answers or any(
                best.sampled is not None and a.tokens == best.sampled.tokens for a in row.answers
            )


def test_a_curriculum_asks_more_often_where_rewards_differ(
    folder: Path, runs: Callable[[], Run], judged: list[Judged]
) -> None:
    """Answers to prompts of odd number are rewarded by their vowels, all to those of even number by 1."""
    settings = {"prompts": 4, "max_new_tokens": 4, "rollouts": 40, "options": {"group_size": 3}, "held_out_prompts": 1}
    play(runs(), folder, "best_of_n", "half", curriculum={"floor": 0.05}, **settings)
    asked = Counter(_number(group) % 2 for one in judged[5:] for group in one.rollout.groups)
    assert asked[1] > 1.5 * asked[0]


def _number(group: Group) -> int:
    """Of a prompt, as it stands at its end."""
    return int(group.prompt[-1].content.strip("?").split()[-1])


def test_a_curriculum_asks_prompts_that_cannot_be_scored_as_seldom_as_can_be(
    folder: Path, runs: Callable[[], Run], judged: list[Judged]
) -> None:
    """The rewards of the others differ, and these give none. Without it they would be half of all."""
    settings = {"prompts": 4, "max_new_tokens": 4, "rollouts": 40, "options": {"group_size": 3}, "held_out_prompts": 1}
    run = runs()
    play(run, folder, "best_of_n", "odd", curriculum={"floor": 0.05}, **settings)
    failed = sum(sum(event["failed"].values()) for event in rollouts(run, "best_of_n")[5:])
    assert failed < 0.2 * 35 * settings["prompts"]
    assert all(_number(group) % 2 for one in judged for group in one.rollout.groups)


def test_a_gradient_without_a_ratio_over_several_steps_is_warned_of(folder: Path, runs: Callable[[], Run]) -> None:
    run = runs()
    play(run, folder, "rloo", batch_size=4, **QUICK)
    assert "rloo' has no ratio, and learns in 2 steps" in next(run.events("rloo", "warning"))["message"]


def test_what_is_learnt_is_corrected_for_the_generator_within_the_bounds_that_are_set(
    folder: Path, runs: Callable[[], Run], judged: list[Judged]
) -> None:
    """Had the generator drawn each token at a third of the engine's chance, the weight of each would be 3."""
    play(runs(), folder, "grpo", correction={"name": "truncate", "limit": 2.5}, **QUICK)
    plain = judged[0].judgement.advantage
    assert plain is not None
    assert plain.token.any()
    off = replace(
        judged[0].rollout, read=judged[0].rollout.read | {"behaviour": judged[0].rollout.sampled + math.log(3)}
    )
    algorithm = bind({"name": "grpo"})
    for table, weight in (({"name": "truncate", "limit": 2.5}, 2.5), ({"name": "mask", "high": 3.5}, 3.0),
                          ({"name": "mask", "high": 2.5}, 0.0), (None, 1.0)):  # fmt: skip
        found, _ = rollouts_of_a_run.judge(
            algorithm, off, ShapingState.of(algorithm.shaping), 6, table and spelled_out(table)
        )
        torch.testing.assert_close(found.advantage, weight * plain.token)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"algorithm": "online_dpo", "correction": "mask"}, "correction: algorithm 'online_dpo' has no advantages"),
        ({"algorithm": "grpo", "curriculum": {"flor": 0.2}}, "curriculum.flor: there is no such setting"),
    ],
)
def test_refusals(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        validated(Online, settings, "online")


@pytest.mark.parametrize("name", ["xpo", "nash_md"])
def test_a_scorer_that_reads_side_by_side_sees_an_answer_with_its_rival_alone(
    name: str, folder: Path, runs: Callable[[], Run], judged: list[Judged], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says that the first wins by 3 in 4, whatever is written, and has nothing to say of an answer alone."""

    def scorer(groups: Sequence[Group]) -> list[tuple[Score, ...]]:
        alone = [len(group.completions) == 1 for group in groups]  # held-out prompts, which are answered once
        assert all(alone) or all(len(group.completions) == 2 for group in groups)
        return [(Score.failed("alone"),) if one else (Score.of(0.75), Score.of(0.25)) for one in alone]

    monkeypatch.setattr(importlib.import_module("truing.stages.online"), "make", lambda spec, tools: scorer)
    options = {"link": "linear"} if name == "nash_md" else {}
    play(runs(), folder, name, options=options, **QUICK)
    for one in judged:
        if name == "nash_md":
            assert one.judgement.win_rate is not None
            assert one.judgement.win_rate.tolist() == [0.75] * len(one.rollout.groups)
        else:
            assert one.judgement.pairs is not None
            assert one.judgement.pairs.tolist() == [[2 * row, 2 * row + 1] for row in range(len(one.rollout.groups))]
