"""Watchdogs: limits as a recipe writes them, what is refused, and when they bark."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from truing.algorithms import ALGORITHMS
from truing.errors import ConfigError
from truing.report.health import HEALTHY, Range
from truing.signatures import validated
from truing.stages.online_settings import Online
from truing.stages.watchdogs import Watchdogs, beside_the_start, disagreement, range_of, spelled_out

ENSEMBLE = {"name": "ensemble", "of": ["length", {"name": "length"}]}


STEERED = {"name": "ppo", "group_size": 4, "reward_kl_target": 6.0}


def settings(stop: Any, algorithm: Any = "ppo_max", **more: Any) -> Online:
    found: Online = validated(Online, {"algorithm": algorithm, "scorer": "length", "stop": stop, **more}, "online")
    return found


def test_true_is_the_limit_of_the_table_and_false_is_none() -> None:
    every = dict.fromkeys(HEALTHY, True)
    table = spelled_out({**every, "finished": False})
    assert set(table) == set(HEALTHY) - {"finished"}
    assert table["kl"] == 50.0
    assert table["ratio"] == (0.5, 2.0)
    for name, limit in table.items():
        assert range_of(name, limit) == HEALTHY[name].limit


def test_a_limit_is_an_end_of_the_healthy_range_or_further_out() -> None:
    for one in HEALTHY.values():
        for inner, outer, sign in ((one.healthy.low, one.limit.low, 1), (one.healthy.high, one.limit.high, -1)):
            assert (inner is None) == (outer is None)
            assert inner is None or sign * inner >= sign * outer


def test_settings_keep_limits_as_they_are_meant_and_read_them_again() -> None:
    made = settings({"kl": True, "ratio": [0.4, 3], "entropy": 0.2})
    assert made.stop == {"kl": 50.0, "ratio": (0.4, 3.0), "entropy": 0.2}
    assert validated(Online, made.model_dump(mode="json"), "online") == made
    assert range_of("entropy", made.stop["entropy"]) == Range(0.2, None)
    assert range_of("kl", made.stop["kl"]) == Range(None, 50.0)


@pytest.mark.parametrize(
    ("stop", "words"),
    [
        ({"kll": 3}, r"stop.kll: no number of this name is watched; did you mean 'kl'\?"),
        ({"kl": [1, 2]}, "stop.kl: found .*: write a number, such as 50, or true for at most 50"),
        ({"kl": "much"}, "stop.kl: found 'much'"),
        ({"ratio": 2}, r"stop.ratio: found 2: write two numbers, such as \[0.5, 2\], or true for 0.5 to 2"),
        ({"ratio": [2, 0.5]}, "stop.ratio"),
        ("kl", "stop is a table of limits"),
    ],
)
def test_what_is_no_limit_is_refused(stop: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        settings(stop)


@pytest.mark.parametrize(
    ("name", "blind", "seeing"),
    [
        ("explained_variance", {"algorithm": "grpo"}, {"algorithm": "ppo"}),
        ("value/clipped", {"algorithm": "grpo"}, {"algorithm": "ppo"}),
        ("value/clipped", {"algorithm": {"name": "a2c", "epochs": 2}}, {"algorithm": "ppo"}),
        ("value/clipped", {"algorithm": {"name": "ppo", "epochs": 1}}, {"algorithm": "ppo"}),
        ("ratio", {"algorithm": {"name": "rloo", "epochs": 2}}, {"algorithm": {"name": "grpo", "epochs": 2}}),
        ("ratio/clipped", {"algorithm": "grpo"}, {"algorithm": "grpo", "batch_size": 4}),
        ("kl/behaviour", {"algorithm": "grpo"}, {"algorithm": "grpo", "batch_size": 4}),
        ("accepted", {"algorithm": "grpo"}, {"algorithm": "dapo"}),
        ("reward/disagreement", {"algorithm": "grpo"}, {"algorithm": "grpo", "scorer": ENSEMBLE}),
        (
            "reward/disagreement",
            {"scorer": {"name": "gate", "of": "length", "condition": "length"}},
            {"scorer": {"name": "gate", "of": ENSEMBLE, "condition": "length"}},
        ),
        ("reward/disagreement", {"scorer": "reward_model"}, {"scorer": {"name": "reward_model", "members": "mean"}}),
    ],
)
def test_a_number_that_a_run_does_not_measure_is_refused(
    name: str, blind: dict[str, Any], seeing: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match=f"stop.{name}: this run has no use for it: "):
        settings({name: True}, **blind)
    assert name in settings({name: True}, **seeing).stop


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"stop_after": 2}, "stop_after: changes nothing while stop names no number"),
        ({"critic_window": 2}, "critic_window: changes nothing while critic_settled is none"),
        ({"critic_warmup": 7, "critic_settled": 0.1}, "raise it to 8 or more"),
        ({"algorithm": "grpo", "critic_warmup": 2}, "algorithm 'grpo' has no critic"),
        ({"algorithm": "grpo", "critic_rate": 2.0}, "critic_rate: algorithm 'grpo' has no critic"),
        ({"ema_decay": 1.0}, "ema_decay: "),
        ({"prompts": 8, "algorithm": STEERED | {"reward_kl_horizon": 6.4}}, "32 answers.* set it above 6.4"),
    ],
)
def test_a_setting_that_would_change_nothing_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        settings({}, **given)


def test_a_price_that_stays_positive_is_none_of_them() -> None:
    assert settings({}, prompts=8, algorithm=STEERED | {"reward_kl_horizon": 6.5}).prompts == 8


@pytest.mark.parametrize("name", ALGORITHMS)
def test_several_steps_of_a_policy_gradient_without_a_ratio_are_warned_of(name: str) -> None:
    without = {"reinforce", "rloo", "remax", "a2c", "nash_md"}
    algorithm = {"name": name, "epochs": 1}
    for several in ({"algorithm": {"name": name, "epochs": 2}}, {"algorithm": algorithm, "batch_size": 4}):
        assert ("learns in 2 steps" in settings({}, **several).strays) == (name in without)
    assert not settings({}, algorithm=algorithm).strays


def barks(course: list[float], limit: float, patience: int) -> int | None:
    """The place in the course at which a watchdog of the KL barks."""
    dogs = Watchdogs({"kl": limit}, patience, {})
    for number, kl in enumerate(course):
        if dogs.alarm(number, {"kl": kl}, awake=True):
            return number
    return None


def test_so_many_in_a_row_are_needed() -> None:
    course = [1.0, 9.0, 1.0, 9.0, 9.0, 1.0, 9.0, 9.0, 9.0, 9.0]
    assert [barks(course, 5.0, patience) for patience in (1, 2, 3, 4, 5)] == [1, 4, 8, 9, None]
    assert barks(course, 9.0, 1) is None, "a limit itself is inside"
    assert barks([1.0, math.nan], 5.0, 1) == 1, "what is not finite never is"


def test_nothing_counts_while_the_critic_warms_up() -> None:
    dogs = Watchdogs({"kl": 5.0}, 2, {})
    alarms = [dogs.alarm(number, {"kl": 9.0}, awake=number >= 3) for number in range(6)]
    assert [one is not None for one in alarms] == [False] * 4 + [True] * 2


def test_the_updates_of_the_warm_up_do_not_count_either() -> None:
    """Three rollouts of one update; the policy awakes in the third, which is the first that counts."""
    dogs = Watchdogs({"ratio/clipped": 0.5}, 1, {})
    for number, (clipped, awake) in enumerate([(0.9, False), (0.9, False), (0.1, True)]):
        assert dogs.alarm(number, {}, awake=awake) is None
        dogs.learnt({"ratio/clipped": clipped}, awake=awake)
    assert dogs.alarm(3, {}, awake=True) is None


def test_an_alarm_says_what_was_measured_what_it_means_and_what_to_do() -> None:
    dogs = Watchdogs({"kl": 5.0, "entropy": 0.5}, 2, {})
    dogs.alarm(3, {"kl": 9.0, "entropy": 1.0}, awake=True)
    alarm = dogs.alarm(4, {"kl": 8.5, "entropy": 1.0}, awake=True)
    assert alarm is not None
    for words in (
        "rollout 5: kl (KL from the reference) is 8.5, as in the 1 before",
        "the limit stop.kl is at most 5:",
        HEALTHY["kl"].outside,
    ):
        assert words in alarm.words
    assert alarm.facts == {"reason": "kl", "rollout": 5, "value": 8.5, "low": None, "high": 5.0, "rollouts": 2}


UPDATES = [0.1, 0.2, 0.9, 0.8, 0.7, 0.6, 0.0, 0.0]


@pytest.mark.parametrize("stopped", [None, *range(1, 7)])
def test_numbers_of_updates_are_means_over_a_rollout_and_what_is_seen_goes_through_a_checkpoint(
    stopped: int | None, tmp_path: Path
) -> None:
    """Two updates a rollout; of .15, .85, .65 the last two lie out, which is seen as the fourth rollout begins.

    Going on after any update, also in the middle of a rollout, of which the watchdog is asked again, changes nothing.
    """
    memory: dict[str, Tensor] = {}
    dogs = Watchdogs({"ratio/clipped": 0.5}, 2, memory)
    for place, clipped in enumerate(UPDATES):
        alarm = dogs.alarm(place // 2, {}, awake=True)
        if alarm:
            break
        dogs.learnt({"ratio/clipped": clipped, "loss": 3.0}, awake=True)
        if place + 1 == stopped:
            save_file(memory, tmp_path / "memory")
            memory = {}
            dogs = Watchdogs({"ratio/clipped": 0.5}, 2, memory)
            memory |= load_file(tmp_path / "memory")
    assert alarm is not None
    assert (alarm.rollout, alarm.value) == (3, pytest.approx(0.65)), "told of the rollout in which it was so"


def test_the_table_of_limits_has_no_order() -> None:
    """What is remembered belongs to names, however the recipe is written when it goes on."""
    memory: dict[str, Tensor] = {}
    Watchdogs({"kl": 5.0, "entropy": 0.5}, 2, memory).alarm(0, {"kl": 9.0, "entropy": 1.0}, awake=True)
    other: dict[str, Tensor] = {}
    dogs = Watchdogs({"entropy": 0.5, "kl": 5.0}, 2, other)
    other |= memory
    alarm = dogs.alarm(1, {"kl": 9.0, "entropy": 0.1}, awake=True)
    assert alarm is not None
    assert alarm.name == "kl"


def test_disagreement_by_hand() -> None:
    """Scores 0, 2, 4, 6 have the variance 5; deviations 1, 3 the mean square 5."""
    score, nan = torch.tensor([0.0, 2.0, 4.0, 6.0]), math.nan
    assert disagreement(score, torch.tensor([1.0, 3.0, 1.0, 3.0])) == {"reward/disagreement": pytest.approx(0.5)}
    assert disagreement(score, torch.zeros(4)) == {"reward/disagreement": 0.0}
    assert disagreement(torch.ones(4), torch.ones(4)) == {"reward/disagreement": 1.0}
    assert disagreement(torch.ones(4), torch.zeros(4)) == {"reward/disagreement": 0.0}
    assert disagreement(score, torch.tensor([1.0, nan, nan, 3.0])) == {"reward/disagreement": pytest.approx(5 / 14)}
    assert disagreement(score, torch.full((4,), nan)) == {}


def test_of_judges_with_noise_it_is_the_share_of_the_noise() -> None:
    """Answers of variance 4, and many judges that err by a variance of 1 each: a fifth of what one of them says."""
    draw = torch.Generator().manual_seed(0)
    truth = 2 * torch.randn(4000, generator=draw)
    said = truth[:, None] + torch.randn(4000, 50, generator=draw)
    found = disagreement(said.mean(1), said.std(1, correction=0))
    assert found["reward/disagreement"] == pytest.approx(0.2, abs=0.01)
    one = statistics.variance(said[:, 0].tolist())
    assert found["reward/disagreement"] == pytest.approx(1 / one, abs=0.02)


def test_length_and_perplexity_are_told_beside_those_of_the_first_rollout() -> None:
    memory: dict[str, Tensor] = {}
    assert beside_the_start(0, {"length": 8.0, "kl": 1.0}, memory) == {"length/start": 1.0}
    assert beside_the_start(5, {"length": 20.0}, memory) == {"length/start": 2.5}
    both: dict[str, Tensor] = {}
    beside_the_start(0, {"length": 8.0, "perplexity": 1 / 3}, both)
    assert beside_the_start(1, {"length": 8.0, "perplexity": 1.0}, both)["perplexity/start"] == pytest.approx(3.0)
