"""What a comparison of objectives allows one to say."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from truing import statistics
from truing.errors import DataError
from truing.report.contest import Entry, recommendation, rivals
from truing.report.sections.verdict import Evaluation, Side
from truing.statistics import Interval


def entry(name, outcomes, kl=2.0, judge="principle"):
    side = Side("", 10.0, Interval(0.5, 0.4, 0.6, 60))
    rate = statistics.win_rate(outcomes)
    counts = [sum(outcome == value for outcome in outcomes) for value in (1, 0.5, 0)]
    evaluation = Evaluation(
        f"{name}-evaluation", "", judge, "", "", len(outcomes), 1, *counts, rate, Interval(kl, kl, kl, 60), None,
        side, side, {}, [], list(outcomes), None, None, None,
    )  # fmt: skip
    return Entry(name, evaluation, 1.0, 1, list(outcomes))


def test_a_clear_leader_is_named_as_better():
    said = " ".join(recommendation([entry("a", [1.0] * 55 + [0.0] * 5), entry("b", [0.0] * 45 + [1.0] * 15)]))
    assert "a has the highest win rate" in said
    assert "it is better than b" in said
    assert "not distinguishable" not in said


def test_a_difference_within_chance_is_called_so_and_the_gentlest_is_taken():
    first, second = [1.0] * 50 + [0.0] * 10, [1.0] * 48 + [0.0] * 12
    said = " ".join(recommendation([entry("a", first, kl=9.0), entry("b", second, kl=3.0)]))
    assert "The difference from b is not distinguishable from chance" in said
    assert "b stays nearest to the base (3.0 nats" in said
    assert "prompts would tell a from b" in said


def test_a_leader_that_a_coin_could_be_is_no_better_than_the_base():
    said = " ".join(recommendation([entry("a", [1.0] * 32 + [0.0] * 28), entry("b", [1.0] * 30 + [0.0] * 30)]))
    assert "that does not show that any is better than the base" in said
    assert "take it" not in said


def test_only_prompts_that_differ_count_and_by_hand():
    (rival,) = rivals([entry("a", [1.0] * 8 + [0.0] * 2), entry("b", [1.0] * 2 + [0.0] * 8)])
    assert (rival.wins, rival.losses) == (6, 0)
    assert rival.chance == pytest.approx(2 * 0.5**6)
    assert rival.difference.value == pytest.approx(0.6)
    assert rival.told == (rival.chance < 0.05)


def test_several_rivals_ask_for_more():
    """What one comparison would tell is not told when it is one of many."""
    leader, other = [1.0] * 8 + [0.0] * 2, [1.0] * 2 + [0.0] * 8
    alone = rivals([entry("a", leader), entry("b", other)])[0]
    among = rivals([entry("a", leader), *(entry(name, other) for name in "bcd")])[0]
    assert among.chance == pytest.approx(6 * alone.chance), "any two of the four could have led"


def test_a_leader_by_ties_that_lost_more_prompts_is_not_called_better():
    """The mean of shares can lead while most prompts speak for the other one."""
    first = [1.0] * 30 + [0.0] * 58 + [0.5] * 12
    second = [0.0] * 30 + [0.5] * 58 + [0.5] * 12
    (rival,) = rivals([entry("a", first), entry("b", second)])
    assert rival.wins < rival.losses
    assert rival.chance < 0.05
    assert not rival.told


def test_the_best_of_many_needs_more_than_its_own_interval():
    """An interval that would do for one does not for the best of ten."""
    outcomes = [1.0] * 38 + [0.0] * 22
    assert statistics.win_rate(outcomes).low > 0.5
    assert "does not show" not in " ".join(recommendation([entry("a", outcomes)]))
    others = [entry(name, [1.0] * 30 + [0.0] * 30) for name in "bcdefghij"]
    assert "With 10 tried, that does not show" in " ".join(recommendation([entry("a", outcomes), *others]))


def test_prompts_needed_follow_from_those_that_differ():
    first = [1.0] * 33 + [0.0] * 27
    second = [1.0] * 27 + [0.0] * 27 + [0.0] * 3 + [1.0] * 3
    (rival,) = rivals([entry("a", first), entry("b", second)])
    assert (rival.wins, rival.losses) == (6, 3)
    assert rival.needed == round(statistics.comparisons_needed(6 / 9) / (9 / 60))
    three = rivals([entry("a", first), entry("b", second), entry("c", second)])[0]
    assert three.needed == round(statistics.comparisons_needed(6 / 9, confidence=1 - 0.05 / 3) / (9 / 60))


def test_the_judge_without_a_principle_is_named():
    ranked = [entry(name, [1.0] * 40 + [0.0] * 20, judge="likelihood") for name in "ab"]
    assert "knew no principle" in recommendation(ranked)[-1]
    assert any("trained once" in sentence for sentence in recommendation(ranked))


def test_different_prompts_are_refused():
    with pytest.raises(DataError, match="different prompts"):
        rivals([entry("a", [1.0] * 5), entry("b", [1.0] * 6)])


def test_without_a_kl_nothing_is_recommended_by_it():
    ranked = [entry(name, [1.0] * 50 + [0.0] * 10) for name in "ab"]
    ranked = [replace(one, evaluation=replace(one.evaluation, kl=None)) for one in ranked]
    assert not any("nearest" in sentence for sentence in recommendation(ranked))
    assert recommendation([]) == ["No objective was evaluated."]
    assert not math.isnan(rivals(ranked)[0].difference.value)
