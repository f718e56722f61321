"""How often prompts come."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from truing.stages.curriculum import Curriculum, chances, draw, nothing_seen, seen


def after(rewards: dict[int, list[float]], prompts: int = 4, rounds: int = 1, memory: float = 0.5) -> torch.Tensor:
    """What is known once each of these prompts came with these rewards, so often."""
    known = nothing_seen(prompts)
    place = torch.tensor([prompt for prompt, values in rewards.items() for _ in values])
    reward = torch.tensor([value for values in rewards.values() for value in values])
    for _ in range(rounds):
        known = seen(known, place, place, reward, memory)
    return known


def test_what_is_known_by_hand() -> None:
    known = after({0: [1.0, 0.0], 2: [3.0]}, rounds=2)
    assert known.tolist() == [[3.0, 1.5, 1.5, 0.0], [0.0] * 4, [1.5, 4.5, 13.5, 0.0], [0.0] * 4]


def test_chances_by_hand() -> None:
    """To what is known comes one answer of the usual variance: squared deviations of 1/2 in all over six answers."""
    known = after({0: [1.0, 0.0], 1: [1.0, 1.0], 2: [0.0, 0.0]})
    usual = 0.5 / 6
    varies, solved = (0.5 + usual) / 3, usual / 3
    expected = [1.0, 0.2 + 0.8 * solved / varies, 0.2 + 0.8 * solved / varies, 1.0]
    assert chances(known, 0.2).tolist() == pytest.approx(expected)


def test_prompts_always_or_never_solved_come_less_often_the_surer_it_is() -> None:
    mixed = [0.0, 1.0] * 4
    once, often = (after({0: mixed, 1: [1.0] * 8, 2: [0.0] * 8}, rounds=rounds) for rounds in (1, 6))
    early, late = chances(once, 0.1).tolist(), chances(often, 0.1).tolist()
    assert early[0] == late[0] == max(early) == 1.0
    assert late[1] < early[1] < 0.6
    assert late[1:3] == pytest.approx([late[1]] * 2), "whether always or never is one"
    counts = Counter(place for number in range(2000) for place in draw(chances(often, 0.1), 1, number))
    shares = [chance / sum(late) for chance in late]
    assert [counts[place] / 2000 for place in range(4)] == pytest.approx(shares, abs=0.04)


@pytest.mark.parametrize("rewards", [{}, {0: [0.3, 0.3], 1: [0.3]}])
def test_where_no_reward_differs_all_come_alike(rewards: dict[int, list[float]]) -> None:
    known = after(rewards) if rewards else nothing_seen(4)
    assert chances(known, 0.1).tolist() == [1.0] * 4


def test_what_a_prompt_was_long_ago_is_forgotten() -> None:
    known = after({0: [0.0, 1.0] * 4, 1: [1.0, 0.0] * 4})
    for _ in range(8):
        known = seen(known, torch.tensor([0]), torch.zeros(8, dtype=torch.long), torch.ones(8), 0.5)
    first, second, *_ = chances(known, 0.1).tolist()
    assert first < 0.4 < second


@pytest.mark.parametrize("rewards", [{0: [1.0, 0.0], 1: [1.0, 1.0]}, {0: [1.0, 1.0], 1: [1.0]}])
def test_what_cannot_be_scored_comes_seldom_until_it_can(rewards: dict[int, list[float]]) -> None:
    known, nobody = after(rewards), torch.zeros(0, dtype=torch.long)
    failed = seen(known, torch.tensor([1, 2]), nobody, torch.zeros(0), 0.5)
    before, late = chances(known, 0.1).tolist(), chances(failed, 0.1).tolist()
    assert late == [before[0], 0.1, 0.1, 1.0]
    scored = seen(failed, torch.tensor([1, 2]), torch.tensor([1, 2]), torch.tensor([1.0, 1.0]), 0.5)
    assert min(chances(scored, 0.1).tolist()) > 0.1


def test_none_comes_twice_before_all_have_come() -> None:
    chance = torch.tensor([1.0, 0.1, 0.1, 0.5, 0.2]).double()
    assert sorted(draw(chance, 5, 3)) == [0, 1, 2, 3, 4]
    twice = Counter(draw(chance, 12, 3))
    assert set(twice.values()) == {2, 3}
    assert draw(chance, 3, 7) == draw(chance, 3, 7) != draw(chance, 3, 8)


def test_settings() -> None:
    assert Curriculum().floor > 0
    with pytest.raises(ValueError, match="less than or equal to 1"):
        Curriculum(floor=1.5)
