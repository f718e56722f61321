"""A model beside its base: hand values, closed forms of others, and how often a guard is wrong."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from truing.errors import DataError
from truing.statistics import Interval, exact_proportion, mcnemar, share_difference, t_test, win_rate
from truing.statistics.suites import Measured, guarded, means, shares, verdict, wins


class TestTTest:
    def test_equals_scipy(self):
        values = np.random.default_rng(0).normal(0.3, 1, 17).tolist()
        assert t_test(values) == pytest.approx(stats.ttest_1samp(values, 0).pvalue)

    def test_prompts_count_once(self):
        assert t_test([1, 3, 0, 2, 5, 3], prompts=[0, 0, 1, 1, 2, 2]) == pytest.approx(
            stats.ttest_1samp([2, 1, 4], 0).pvalue
        )

    def test_weights_by_hand(self):
        """Mean (3 - 1) / 4; away (1/2)(3/4) and (-3/2)(1/4); error sqrt(2 * 2 * 9/64) = 3/4; t = 2/3."""
        assert t_test([1, -1], weights=[3, 1]) == pytest.approx(2 * stats.t.sf(2 / 3, 1))

    def test_without_scatter_it_is_the_sign_test(self):
        assert t_test([-0.1] * 5) == pytest.approx(2 / 32)
        assert t_test([0.0] * 5) == t_test([3.0]) == t_test([]) == 1


class TestShareDifference:
    def test_by_hand(self):
        """Gaps 1, 0, 0, and 1, -1 added: squares 0.64 + 2 * 0.04 + 0.64 + 1.44 = 2.8; error sqrt(2.8 / 20)."""
        found = share_difference([1, 1, 0], [0, 1, 0])
        half = stats.t.ppf(0.975, 4) * math.sqrt(2.8 / 20)
        assert (found.value, found.n) == (pytest.approx(1 / 3), 3)
        assert (found.low, found.high) == (pytest.approx(1 / 3 - half), 1.0)

    def test_models_that_never_differ_may_yet(self):
        found = share_difference([1] * 20, [1] * 20)
        assert found.value == 0
        assert 0.05 < found.high < 0.2
        assert found.low == -found.high

    def test_covers(self):
        """Both right 60 %, the model alone 15 %, the base alone 5 %: the difference is 10 points."""
        rng = np.random.default_rng(0)
        hits = 0
        for _ in range(400):
            cell = rng.choice(4, size=40, p=[0.6, 0.15, 0.05, 0.2])
            found = share_difference(
                np.isin(cell, (0, 1)).astype(float).tolist(), np.isin(cell, (0, 2)).astype(float).tolist()
            )
            hits += found.low <= 0.1 <= found.high
        assert 0.93 <= hits / 400 <= 0.985

    def test_what_is_no_share(self):
        assert share_difference([], []) == Interval(0, -1, 1, 0)
        with pytest.raises(DataError, match="1 or 0"):
            share_difference([0.5], [1])


ONE, OTHER = [1.0] * 6 + [0.0] * 4, [0.0] * 5 + [1.0] * 2 + [0.0] * 3


class TestShares:
    def test_one_answer_is_exact_and_mcnemar(self):
        found = shares("sums", "accuracy", "higher", ONE, OTHER, list(range(10)))
        assert found.model == exact_proportion(6, 10)
        assert found.base == exact_proportion(2, 10)
        assert found.difference == share_difference(ONE, OTHER)
        assert (
            found.chance == mcnemar([bool(x) for x in ONE], [bool(x) for x in OTHER]).chance == pytest.approx(14 / 64)
        )

    def test_several_answers_count_by_prompt(self):
        """Prompts 0 and 1 get better, 2 worse: a coin of three falls at least this unevenly always."""
        prompts = [0, 0, 1, 1, 2, 2]
        found = shares("sums", "accuracy", "higher", [1, 1, 1, 0, 0, 0], [1, 0, 0, 0, 1, 0], prompts)
        assert found.chance == 1
        assert found.model == win_rate([1, 1, 1, 0, 0, 0], prompts=prompts)

    def test_alone(self):
        found = shares("sums", "accuracy", "higher", ONE, None, list(range(10)))
        assert (found.base, found.difference, found.chance, found.gain) == (None, None, None, None)


def test_means_by_hand():
    found = means("text", "nats per byte", "lower", [1.0, 2.0], [0.5, 2.0], [0, 1], [1, 3])
    assert found.model.value == pytest.approx(1.75)
    assert found.base is not None
    assert found.base.value == pytest.approx(1.625)
    assert found.difference is not None
    assert found.difference.value == pytest.approx(0.125)
    assert found.gain is not None
    assert found.gain.value == pytest.approx(-0.125)
    assert found.gain.low == -found.difference.high


def test_wins_are_against_a_coin():
    found = wins("judge", [1, 1, 0.5, 0], [0, 1, 2, 3], {})
    assert found.model == win_rate([1, 1, 0.5, 0])
    assert found.difference is not None
    assert found.difference.value == pytest.approx(0.125)
    assert found.chance == 1


def row(name: str, gap: tuple[float, float, float], chance: float, better: str = "higher") -> Measured:
    model = Interval(0.4, 0.3, 0.5, 50)
    return Measured(name, "accuracy", "share", better, model, model, Interval(*gap, 50), chance)  # type: ignore[arg-type]


WORSE = row("sums", (-0.2, -0.3, -0.1), 0.01)
OPEN = row("form", (0.0, -0.1, 0.1), 1.0)
OVER = row("over-refusal", (-0.2, -0.3, -0.1), 0.001, "lower")
LONG = row("length", (0.5, 0.4, 0.6), 1e-9, "neither")


def test_the_guard_names_what_is_lost_in_the_right_direction():
    found = guarded([WORSE, OPEN, OVER, LONG])
    assert found.adjusted == [pytest.approx(0.02), 1.0, pytest.approx(0.003), None]
    assert (found.lost, found.gained) == ([0], [2])
    assert verdict([WORSE, OPEN, OVER, LONG]) == (
        "lost against the base: sums (accuracy -20 points [-30, -10], p = 0.02); "
        "gained: over-refusal (accuracy -20 points [-30, -10], p = 0.003)"
    )


def test_a_loss_that_many_tests_explain_is_none():
    many = [WORSE, *[OPEN] * 5]
    assert guarded(many).adjusted[0] == pytest.approx(0.06)
    assert guarded(many).lost == []
    assert verdict(many) == "no loss shown in 6 tests; least ruled out: sums (accuracy -20 points [-30, -10])"


def test_a_loss_within_its_margin_is_accepted():
    assert guarded([replace(WORSE, margin=0.05)]).lost == [0]
    assert guarded([replace(WORSE, margin=0.1)]).lost == []


def test_without_a_base_the_verdict_says_the_numbers():
    alone = shares("sums", "accuracy", "higher", ONE, None, list(range(10)))
    assert verdict([alone]) == "sums: accuracy 60 % [26, 88]"
    with pytest.raises(DataError, match="no measurement"):
        verdict([])


def test_equal_models_are_seldom_said_to_have_lost():
    rng = np.random.default_rng(1)
    wrong = 0
    for _ in range(300):
        rows = [means(str(n), "score", "higher", *rng.normal(size=(2, 12)).tolist(), list(range(12))) for n in range(5)]
        found = guarded(rows)
        wrong += bool(found.lost or found.gained)
    assert wrong / 300 < 0.08


def test_stored_and_read_again():
    about = {"ties": Interval(0.1, 0.0, 0.3, 9)}
    for one in (WORSE, wins("judge", [1, 0], [0, 1], about), shares("a", "b", "higher", ONE, None, list(range(10)))):
        assert Measured.stored(json.loads(json.dumps(one.plain))) == one
