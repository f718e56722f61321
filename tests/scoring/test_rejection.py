"""Statistical rejection sampling, beside the distribution that it aims at and beside closed forms."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest

from truing.scoring.rejection import accepted, tournament

POLICY = (0.5, 0.3, 0.2)
REWARD = (0.0, 1.0, 0.4)


@pytest.mark.parametrize("beta", [0.5, 2.0])
def test_the_first_accepted_answer_is_drawn_from_the_tilted_policy(beta: float) -> None:
    """policy exp(r / beta) / Z over three answers, from 32 that the policy drew."""
    source, tries = random.Random(0), 20_000
    found: Counter[int] = Counter()
    for _ in range(tries):
        drawn = source.choices(range(3), POLICY, k=32)
        (first,) = accepted([REWARD[answer] for answer in drawn], beta, 1, source)
        found[drawn[first]] += 1
    tilted = [p * math.exp(r / beta) for p, r in zip(POLICY, REWARD, strict=True)]
    for answer, weight in enumerate(tilted):
        exact = weight / sum(tilted)
        assert abs(found[answer] / tries - exact) < 4 * math.sqrt(exact * (1 - exact) / tries)


def test_of_two_given_answers_the_worse_one_comes_first_as_often_as_it_must() -> None:
    """The worse one stands before the best, which is always accepted: once in 1 / exp((r - r_max) / beta)."""
    source, tries, chance = random.Random(1), 20_000, math.exp(-1.0 / 0.7)
    first = sum(accepted([0.0, 1.0], 0.7, 1, source) == [0] for _ in range(tries))
    assert abs(first / tries - chance) < 4 * math.sqrt(chance * (1 - chance) / tries)


def test_small_and_large_temperatures_take_the_best_and_the_first() -> None:
    scores = [0.1, 3.0, 2.0, -1.0]
    assert accepted(scores, 1e-3, 3, random.Random(0)) == [1, 2, 0]  # by score: r_max falls with each
    assert accepted(scores, 1e9, 3, random.Random(0)) == [0, 1, 2]
    assert accepted(scores, 0.5, 9, random.Random(0)) != []
    assert sorted(accepted(scores, 0.5, 9, random.Random(0))) == [0, 1, 2, 3]
    assert accepted([], 0.5, 9, random.Random(0)) == []


def test_a_tournament_has_a_comparison_less_than_answers() -> None:
    scores = [1.0, 4.0, 3.0, 2.0, 5.0]
    assert tournament([0, 1, 2, 3, 4], scores) == [(1, 0), (2, 3), (1, 2), (4, 1)]
    assert tournament([3, 1], scores) == [(1, 3)]
    assert tournament([3], scores) == []


def test_equals_make_no_comparison_and_the_first_goes_on() -> None:
    assert tournament([0, 1, 2], [1.0, 1.0, 0.0]) == [(0, 2)]
    assert tournament([0, 1], [1.0, 1.0]) == []
