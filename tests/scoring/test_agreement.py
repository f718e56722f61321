"""Every figure on a reward model against plain loops, closed forms, and data that are calibrated by construction."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from scipy import stats

from truing import statistics
from truing.errors import DataError
from truing.scoring.agreement import (
    Comparisons,
    Scored,
    accuracy,
    balanced_accuracy,
    best_temperature,
    by_length,
    by_source,
    by_strength,
    findings,
    length_correlation,
    log_losses,
    of_rankings,
    over_longer,
    reliability,
    verdict,
)
from truing.statistics import calibration_error, calibration_error_by_chance, equal_mass


def pair(chosen: float, rejected: float, tokens: tuple[int, int] = (5, 5), **said: Any) -> Scored:
    """A comparison with a prompt of its own, unless one is given."""
    prompt = said.pop("prompt", f"{random.random()}")
    return Scored(prompt, (chosen, rejected), tokens, ((0, 1),), **said)


def drawn(count: int, temperature: float = 1.0, seed: int = 0, spread: float = 1.5) -> list[Scored]:
    """Labels drawn with the very probability that the scores, divided by the temperature, say."""
    draw = np.random.default_rng(seed)
    gaps = draw.normal(0, spread, count)
    right = draw.random(count) < 1 / (1 + np.exp(-gaps))
    shown = np.where(right, gaps, -gaps) * temperature
    lengths = draw.integers(1, 60, (count, 2)).tolist()
    return [
        pair(float(gap), 0.0, (one, other), prompt=str(i))
        for i, (gap, (one, other)) in enumerate(zip(shown, lengths, strict=True))
    ]


def rankings(count: int, seed: int = 0) -> list[Scored]:
    """Rows of three or four answers, of different weights, some on one prompt, with ties of scores and lengths."""
    draw = random.Random(seed)
    rows = []
    for number in range(count):
        size = draw.choice([2, 3, 4])
        rows.append(
            Scored(
                prompt=str(number // 2) if number % 3 == 0 else f"own {number}",
                scores=tuple(float(draw.randint(-2, 2)) for _ in range(size)),
                tokens=tuple(draw.randint(1, 6) for _ in range(size)),
                pairs=tuple((i, j) for i in range(size) for j in range(i + 1, size)),
                strength=tuple(float(draw.randint(1, 4)) for _ in range(size * (size - 1) // 2)),
                weight=draw.choice([0.5, 1.0, 2.0]),
                source=draw.choice(["a", "b"]),
            )
        )
    return rows


def loop_over(rows: Sequence[Scored], of: Callable[[Scored, int, int, int], float | None]) -> float:
    """The weighted mean of something over all comparisons, where it is not None."""
    total = weight = 0.0
    for row in rows:
        for number, (chosen, rejected) in enumerate(row.pairs):
            value = of(row, number, chosen, rejected)
            if value is not None:
                total += row.weight / len(row.pairs) * value
                weight += row.weight / len(row.pairs)
    return total / weight


def right(row: Scored, chosen: int, rejected: int) -> float:
    a, b = row.scores[chosen], row.scores[rejected]
    return 1.0 if a > b else 0.0 if a < b else 0.5


class TestAccuracy:
    def test_by_hand(self) -> None:
        rows = [pair(2, 1), pair(0, 1), pair(1, 1), pair(3, 1, weight=3.0)]
        found = accuracy(Comparisons.of(rows))
        assert found.value == pytest.approx((1 + 0 + 0.5 + 3) / 6)
        assert found.n == 4
        plain = accuracy(Comparisons.of(rows[:3]))
        assert plain == statistics.win_rate([1, 0, 0.5])

    def test_equals_a_loop(self) -> None:
        rows = rankings(60)
        found = accuracy(Comparisons.of(rows))
        assert found.value == pytest.approx(loop_over(rows, lambda row, _, i, j: right(row, i, j)))
        assert found.n == sum(len(row.pairs) for row in rows)

    def test_a_ranking_counts_as_much_as_a_comparison(self) -> None:
        ranking = Scored("q", (3.0, 2.0, 1.0), (1, 2, 3), ((0, 1), (0, 2), (1, 2)))
        assert accuracy(Comparisons.of([ranking, pair(0, 1)])).value == pytest.approx(0.5)

    def test_a_row_twice_widens_nothing_and_narrows_nothing(self) -> None:
        rows = drawn(80)
        once, twice = accuracy(Comparisons.of(rows)), accuracy(Comparisons.of([*rows, *rows]))
        assert (twice.low, twice.high) == pytest.approx((once.low, once.high), abs=1e-12)

    def test_rows_that_count_nothing_are_left_out(self) -> None:
        assert len(Comparisons.of([pair(1, 0), pair(0, 1, weight=0.0)])) == 1

    def test_by_source(self) -> None:
        rows = rankings(40)
        found = by_source(Comparisons.of(rows))
        assert list(found) == list(dict.fromkeys(row.source for row in rows))
        for name, rate in found.items():
            own = [row for row in rows if row.source == name]
            assert rate.value == pytest.approx(loop_over(own, lambda row, _, i, j: right(row, i, j)))


class TestBins:
    def test_pieces_of_like_size_and_no_value_in_two(self) -> None:
        values = np.array([3.0, 1, 1, 1, 1, 2, 5, 4, 3, 0])
        pieces = equal_mass(values, 4)
        assert sorted(place for piece in pieces for place in piece) == list(range(10))
        seen = [set(values[piece]) for piece in pieces]
        assert all(max(a) < min(b) for a, b in pairwise(seen))
        assert [len(piece) for piece in equal_mass(np.arange(100.0), 7)] == [14, 14, 14, 15, 14, 14, 15]
        assert len(equal_mass(np.ones(9), 5)) == 1
        assert equal_mass(np.array([]), 5) == []

    def test_strengths(self) -> None:
        rows = [pair(1 if i >= 40 else -1, 0, strength=(float(i),)) for i in range(100)]
        bins = by_strength(Comparisons.of([*rows, pair(1, 0)]))
        assert [(one.low, one.high, one.accuracy.value) for one in bins] == [
            (0, 19, 0), (20, 39, 0), (40, 59, 1), (60, 79, 1), (80, 99, 1),
        ]  # fmt: skip
        assert [one.accuracy.n for one in bins] == [20] * 5, "the one without a strength is in no bin"

    def test_all_of_one_strength_and_none(self) -> None:
        (one,) = by_strength(Comparisons.of([pair(1, 0, strength=(2.0,)), pair(0, 0, strength=(2.0,))]))
        assert (one.low, one.high, one.ties, one.accuracy.value) == (2, 2, 1, 0.75)
        assert by_strength(Comparisons.of([pair(1, 0)])) == []

    def test_lengths_keep_their_sign(self) -> None:
        rows = [pair(float(n), 0, (20 + n, 20)) for n in range(-9, 13)]
        bins = by_length(Comparisons.of(rows))
        assert [(one.low, one.high) for one in bins] == [(-9, -7), (-6, -4), (-3, -1), (0, 0), (1, 4), (5, 8), (9, 12)]
        assert [one.accuracy.value for one in bins] == [0, 0, 0, 0.5, 1, 1, 1]
        assert [one.ties for one in bins] == [0, 0, 0, 1, 0, 0, 0]
        assert bins[-1].mean == 10.5


class TestCalibration:
    def test_scores_that_say_what_is_so(self) -> None:
        some = Comparisons.of(drawn(20_000))
        curve = reliability(some, bins=10, seed=0)
        assert calibration_error(curve) < 0.02
        assert calibration_error(curve) < 2 * calibration_error_by_chance(curve)
        found = best_temperature(some)
        assert found is not None
        assert found.value == pytest.approx(1, abs=0.05)
        inside = sum(one.observed.low <= one.predicted <= one.observed.high for one in curve)
        assert inside >= 8

    def test_chance_alone_makes_an_error_of_this_size(self) -> None:
        errors, expected = [], []
        for seed in range(60):
            curve = reliability(Comparisons.of(drawn(300, seed=seed)), bins=10, seed=seed)
            errors.append(calibration_error(curve))
            expected.append(calibration_error_by_chance(curve))
        assert np.mean(errors) == pytest.approx(np.mean(expected), rel=0.07)

    @pytest.mark.parametrize("temperature", [0.4, 3.0])
    def test_a_temperature_is_found_again(self, temperature: float) -> None:
        some = Comparisons.of(drawn(5000, temperature))
        found = best_temperature(some)
        assert found is not None
        assert found.low < temperature < found.high
        assert found.high / found.low < 1.25
        mended = log_losses(some, found.value).mean()
        assert mended < log_losses(some).mean() - 0.005
        for other in (0.98, 1.02):
            assert log_losses(some, other * found.value).mean() > mended
        assert calibration_error(reliability(some, bins=10, seed=0)) > 0.05

    def test_the_temperature_holds_the_truth_as_often_as_it_says(self) -> None:
        hits = 0
        for seed in range(300):
            found = best_temperature(Comparisons.of(drawn(150, 2.0, seed=seed)))
            hits += found is not None and found.low <= 2.0 <= found.high
        assert 0.92 <= hits / 300 <= 0.98

    def test_copies_of_a_row_make_no_temperature_surer(self) -> None:
        rows = drawn(100, 2.0)
        once, twice = best_temperature(Comparisons.of(rows)), best_temperature(Comparisons.of([*rows, *rows]))
        assert once is not None
        assert twice is not None
        assert (twice.low, twice.high) == pytest.approx((once.low, once.high))

    def test_no_temperature(self) -> None:
        """Never wrong, always wrong, blind, or wrong more surely than right."""
        for gaps in ([1, 2], [-1, -2], [0, 0], [1, -2], [0, 3]):
            assert best_temperature(Comparisons.of([pair(gap, 0) for gap in gaps])) is None

    def test_equals_a_loop(self) -> None:
        rows = rankings(50)
        some = Comparisons.of(rows)
        curve = reliability(some, bins=5, seed=3)
        chosen_first = np.random.default_rng(3).random(len(some)) < 0.5
        said, so, weights = [], [], []
        flat = [(row, i, j) for row in rows for i, j in row.pairs]
        for (row, i, j), first in zip(flat, chosen_first, strict=True):
            gap = row.scores[i] - row.scores[j] if first else row.scores[j] - row.scores[i]
            said.append(1 / (1 + math.exp(-gap)))
            so.append(float(first))
            weights.append(row.weight / len(row.pairs))
        error = start = 0.0
        order = sorted(range(len(said)), key=lambda place: said[place])
        for one in curve:
            own = order[int(start) : int(start) + one.observed.n]
            start += one.observed.n
            mass = sum(weights[place] for place in own)
            predicted = sum(weights[place] * said[place] for place in own) / mass
            observed = sum(weights[place] * so[place] for place in own) / mass
            assert (one.predicted, one.observed.value, one.weight) == pytest.approx((predicted, observed, mass))
            error += mass * abs(predicted - observed)
        assert start == len(said)
        assert calibration_error(curve) == pytest.approx(error / sum(weights))

    def test_both_orders_come_as_often(self) -> None:
        """Without the draw every label would be 'the first', and a scorer that knows nothing would look biased."""
        (blind,) = reliability(Comparisons.of([pair(0, 0) for _ in range(2000)]), bins=10, seed=1)
        assert blind.predicted == 0.5
        assert blind.observed.low < 0.5 < blind.observed.high


class TestLength:
    def test_a_scorer_that_is_the_length(self) -> None:
        rows = [
            Scored(str(n), tuple(float(t) for t in tokens), tokens, ((0, 1), (1, 2)))
            for n, tokens in enumerate([(3, 9, 4), (8, 1, 2), (5, 6, 7)])
        ]
        found = length_correlation(rows)
        assert found is not None
        assert found.value == pytest.approx(1)
        assert accuracy(Comparisons.of(rows)).value == loop_over(
            rows, lambda row, _, i, j: float(row.tokens[i] > row.tokens[j])
        )
        assert over_longer(Comparisons.of(rows)).value == 0
        assert -1 < found.low < 0.5, "three rows that agree are not beyond doubt"
        assert found.high == 1
        back = length_correlation([Scored(name, (-3.0, -9.0), (3, 9), ((0, 1),)) for name in "ab"])
        assert back is not None
        assert (back.value, back.low) == (-1, -1)

    def test_of_one_prompt_or_without_any_order_no_correlation_is_said(self) -> None:
        assert length_correlation([Scored("q", (3.0, 9.0), (3, 9), ((0, 1),))] * 2) is None
        assert length_correlation([pair(1, 1, (3, 9)), pair(2, 2, (3, 9))]) is None
        assert length_correlation([pair(1, 1, (3, 9)), pair(2, 1, (3, 9))]) is not None

    def test_the_correlation_is_the_mean_over_rows(self) -> None:
        rows = rankings(40)
        total = weight = 0.0
        for row in rows:
            if len(set(row.tokens)) > 1:
                value = stats.spearmanr(row.scores, row.tokens).statistic if len(set(row.scores)) > 1 else 0.0
                total += row.weight * value
                weight += row.weight
        found = length_correlation(rows)
        assert found is not None
        assert found.value == pytest.approx(total / weight)
        assert length_correlation([pair(1, 0)]) is None, "equal lengths say nothing"

    def test_balanced_by_hand(self) -> None:
        """Right on all four of the longer ones and on none of the single shorter one: one half of each."""
        rows = [*(pair(1, 0, (9, 2)) for _ in range(4)), pair(0, 1, (2, 9)), pair(1, 0)]
        found = balanced_accuracy(Comparisons.of(rows))
        assert found is not None
        assert found.value == pytest.approx(0.5)
        assert found.n == 5
        assert balanced_accuracy(Comparisons.of(rows[:4])) is None

    def test_balanced_equals_a_loop(self) -> None:
        rows = rankings(60)
        kinds = []
        for sign in (1, -1):

            def of(row: Scored, _: int, i: int, j: int, sign: int = sign) -> float | None:
                return right(row, i, j) if sign * (row.tokens[i] - row.tokens[j]) > 0 else None

            kinds.append(loop_over(rows, of))
        found = balanced_accuracy(Comparisons.of(rows))
        assert found is not None
        assert found.value == pytest.approx(sum(kinds) / 2)

    def test_balanced_covers(self) -> None:
        """Right in 80 % where the longer one is chosen, in 55 % where the shorter one is."""
        draw = np.random.default_rng(1)
        hits = 0
        for _ in range(300):
            rows = []
            for _ in range(120):
                longer = draw.random() < 0.7
                rows.append(
                    pair(float(draw.random() < (0.8 if longer else 0.55)) - 0.5, 0, (9, 2) if longer else (2, 9))
                )
            found = balanced_accuracy(Comparisons.of(rows))
            assert found is not None
            hits += found.low <= 0.675 <= found.high
        assert 0.93 <= hits / 300 <= 0.99

    def test_the_lead_over_the_longer_one(self) -> None:
        rows = rankings(60)

        def lead(row: Scored, _: int, i: int, j: int) -> float:
            a, b = row.tokens[i], row.tokens[j]
            return right(row, i, j) - (1.0 if a > b else 0.0 if a < b else 0.5)

        assert over_longer(Comparisons.of(rows)).value == pytest.approx(loop_over(rows, lead))
        plain = [pair(1, 0, (2, 9)), pair(1, 0, (9, 2)), pair(0, 1, (9, 2))]
        found, expected = over_longer(Comparisons.of(plain)), statistics.bounded_mean([1, 0, -1], -1, 1)
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


class TestFindings:
    def test_what_is_written(self) -> None:
        rows = rankings(60)
        found = findings(rows, bins=5, seed=0)
        assert json.loads(json.dumps(found)) == found
        assert (found["rows"], found["comparisons"]) == (60, sum(len(row.pairs) for row in rows))
        assert found["prompts"] == len({row.prompt for row in rows})
        assert found["ties"] == sum(row.scores[i] == row.scores[j] for row in rows for i, j in row.pairs) > 0
        calibration = found["calibration"]

        def p(row: Scored, i: int, j: int) -> float:
            return 1 / (1 + math.exp(row.scores[j] - row.scores[i]))

        losses = loop_over(rows, lambda row, _, i, j: -math.log(p(row, i, j)))
        assert calibration["log_loss"]["value"] == pytest.approx(losses)
        brier = loop_over(rows, lambda row, _, i, j: (1 - p(row, i, j)) ** 2)
        assert calibration["brier"]["value"] == pytest.approx(brier)
        scores = [score for row in rows for score in row.scores]
        assert found["scores"]["answers"] == len(scores)
        assert found["scores"]["mean"] == pytest.approx(np.mean(scores))
        assert found["scores"]["deviation"] == pytest.approx(np.std(scores))
        gap = loop_over(rows, lambda row, _, i, j: row.scores[i] - row.scores[j])
        assert found["scores"]["gap"]["value"] == pytest.approx(gap)
        assert found["length"]["constant"] == 0.5

    def test_one_comparison_and_none(self) -> None:
        found = findings([pair(1, 0)], bins=10, seed=0)
        assert found["accuracy"]["value"] == 1
        assert found["length"]["correlation"] is None
        assert "these are too few" in verdict(found)
        with pytest.raises(DataError, match="no comparison"):
            findings([], bins=10, seed=0)

    def test_a_scorer_that_sees_no_difference(self) -> None:
        found = findings([pair(0, 0, (n + 1, 3)) for n in range(20)], bins=10, seed=0)
        assert found["ties"] == 20
        assert found["accuracy"]["value"] == 0.5
        assert found["calibration"]["log_loss"]["value"] == pytest.approx(math.log(2))
        assert found["calibration"]["brier"]["value"] == 0.25
        assert "which a coin may do too" in verdict(found)
        assert "20 ties" in verdict(found)

    def test_without_torch(self) -> None:
        code = "import sys, truing.scoring.agreement; print('torch' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "False"


class TestVerdict:
    def said(self, rows: Sequence[Scored], **more: Any) -> str:
        return verdict({**findings(rows, bins=10, seed=0), **more})

    def test_words(self) -> None:
        line = self.said(drawn(1000, 3.0))
        rate = accuracy(Comparisons.of(drawn(1000)))
        assert line.startswith(
            f"the reward model orders {rate.percent} of 1,000 held-out comparisons as people did, better than 'the"
        )
        assert "where length does not tell; its probabilities are off by 19 points (2 by chance alone): " in line
        assert "too sure of itself, scores divided by 3.5 would be right" in line
        assert "not sure enough, scores times" in self.said(drawn(1000, 0.3))
        assert "neither too sure nor too unsure" in self.said(drawn(1000, seed=1))

    def test_a_lover_of_length_is_not_told_from_length(self) -> None:
        draw = random.Random(0)
        rows = [
            pair(float(a), float(b), (a, b))
            for a, b in ((draw.randint(1, 99), draw.randint(1, 90)) for _ in range(500))
        ]
        assert "not to be told from 'the longer one'" in self.said(rows)
        worse = [pair(-1.0, 0.0, (9, 2)) for _ in range(100)]
        assert "worse than a coin, worse than 'the longer one' (100 %)" in self.said(worse)

    def test_categories(self) -> None:
        one = {"value": 0.7, "low": 0.6, "high": 0.8, "n": 50}
        line = self.said(drawn(100), categories={"accuracy": {"chat": one, "code": one}, "mean": one})
        assert line.endswith("70 % [60, 80] in the mean of 2 categories")


class TestWholeRankings:
    THREE = ((0, 1), (0, 2), (1, 2))

    def row(self, prompt: str, *scores: float, pairs: tuple[tuple[int, int], ...] = THREE) -> Scored:
        return Scored(prompt, scores, (5,) * len(scores), pairs)

    def test_by_hand(self) -> None:
        """Four rankings of three: right, exchanged at its end, tied, and turned round."""
        rows = [self.row("a", 5, 3, 1), self.row("b", 5, 1, 3), self.row("c", 2, 2, 2), self.row("d", 0, 4, 5)]
        found = of_rankings(rows, 5.0)
        assert found is not None
        assert found["exact"]["value"] == 1 / 4
        assert (found["best_of_highest"]["value"], found["best_of_highest"]["n"]) == (pytest.approx(2 / 3), 3)
        assert found["spearman"]["value"] == pytest.approx((1 + 0.5 + 0 - 1) / 4)
        assert found["kendall"]["value"] == pytest.approx((1 + 1 / 3 + 0 - 1) / 4)

    def test_each_row_is_as_scipy_has_it(self) -> None:
        draw = random.Random(0)
        rows = [self.row(str(n), *(draw.randint(0, 5) for _ in range(3))) for n in range(200)]
        found = of_rankings(rows, None)
        assert found is not None
        assert "best_of_highest" not in found, "a scorer without a highest score"
        for name, function in (("spearman", stats.spearmanr), ("kendall", stats.kendalltau)):
            each = [function([2, 1, 0], row.scores).statistic if len(set(row.scores)) > 1 else 0 for row in rows]
            assert found[name]["value"] == pytest.approx(np.mean(each), abs=1e-12)
            half = stats.t.ppf(0.975, 199) * np.std(each, ddof=1) / math.sqrt(200)
            assert found[name]["high"] - found[name]["low"] == pytest.approx(2 * half, rel=0.03), (
                "of many it is Student's"
            )
        assert found["exact"]["value"] == np.mean([row.scores[0] > row.scores[1] > row.scores[2] for row in rows])

    def test_answers_that_people_tie_may_be_in_any_order(self) -> None:
        tied = ((0, 2), (1, 2))
        rows = [self.row("a", 1, 4, 0, pairs=tied), self.row("b", 5, 5, 1, pairs=tied)]
        found = of_rankings(rows, 5.0)
        assert found is not None
        assert found["exact"]["value"] == 1.0
        assert (found["best_of_highest"]["value"], found["best_of_highest"]["n"]) == (1.0, 2)
        assert found["spearman"]["value"] == pytest.approx((math.sqrt(3) / 2 + 1) / 2)

    def test_equal_correlations_have_a_width_and_none_passes_the_ends(self) -> None:
        found = of_rankings([self.row(str(n), 5, 3, 1) for n in range(5)], None)
        assert found is not None
        for name in ("spearman", "kendall"):
            assert (found[name]["value"], found[name]["high"]) == (1, 1)
            assert found[name]["low"] < 0.5
        mixed = of_rankings([self.row("a", 5, 3, 1), self.row("b", 5, 3, 1), self.row("c", 1, 3, 5)], None)
        assert mixed is not None
        assert -1 <= mixed["spearman"]["low"] < mixed["spearman"]["high"] <= 1

    def test_a_scorer_that_gives_all_the_same_has_no_correlation(self) -> None:
        found = of_rankings([self.row(str(n), 2, 2, 2) for n in range(5)], None)
        assert found is not None
        assert set(found) == {"exact"}

    def test_of_one_prompt_nothing_is_said(self) -> None:
        assert of_rankings([self.row("a", 5, 3, 1), self.row("a", 5, 1, 3)], 5.0) is None
