"""Strengths against closed forms, a peer, derivatives taken by differences, and simulated arenas."""

from __future__ import annotations

import math

import evalica
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from truing.errors import DataError
from truing.statistics import bradley_terry, elo, proportion

WINNER = {1.0: evalica.Winner.X, 0.5: evalica.Winner.Draw, 0.0: evalica.Winner.Y}


def arena(rng, n, strengths, nu):
    """Comparisons of models drawn by chance, as the model says: [n] first, second, outcome."""
    count = len(strengths)
    first = rng.integers(0, count, n)
    second = (first + rng.integers(1, count, n)) % count
    half = (strengths[first] - strengths[second]) / 2
    total = np.exp(half) + np.exp(-half) + nu
    draw = rng.random(n)
    outcomes = np.where(draw < np.exp(half) / total, 1.0, np.where(draw < (np.exp(half) + nu) / total, 0.5, 0.0))
    return first.tolist(), second.tolist(), outcomes.tolist()


def minus_log_likelihood(place, first, second, outcomes, count):
    """Written out, with exp(place[count]) for nu, or without ties."""
    nu = math.exp(place[count]) if len(place) > count else 0.0
    total = 0.0
    for a, b, outcome in zip(first, second, outcomes, strict=True):
        ours, theirs = math.exp(place[a]), math.exp(place[b])
        tie = nu * math.sqrt(ours * theirs)
        total -= math.log({1.0: ours, 0.5: tie, 0.0: theirs}[outcome] / (ours + theirs + tie))
    return total


class TestTwoModels:
    def test_without_ties_by_hand(self):
        """12 wins and 4 losses: log-odds ln 3, variance 1 / 12 + 1 / 4."""
        found = bradley_terry(["a"] * 16, ["b"] * 16, [1] * 12 + [0] * 4)
        gap = found.difference("a", "b")
        assert gap.value == pytest.approx(math.log(3))
        assert gap.high - gap.value == pytest.approx(1.959964 * math.sqrt(1 / 12 + 1 / 4), rel=1e-6)
        assert found.win_chance("a", "b").value == pytest.approx(0.75)
        assert found.table["a"].value == pytest.approx(math.log(3) / 2)
        assert found.tie.value == 0
        assert (found.tie.low, found.tie.high) == (0, pytest.approx(proportion(0, 16).high))

    def test_with_ties_by_hand(self):
        """8 wins, 6 ties, 2 losses: log-odds ln 4, nu = 6 / sqrt(16), and equals would tie in nu / (2 + nu)."""
        found = bradley_terry(["a"] * 16, ["b"] * 16, [1] * 8 + [0.5] * 6 + [0] * 2)
        assert found.difference("a", "b").value == pytest.approx(math.log(4))
        assert found.tie.value == pytest.approx(1.5 / 3.5)
        assert found.tie.low < found.tie.value < found.tie.high

    def test_who_stands_first_changes_nothing(self):
        found = bradley_terry(["a"] * 8, ["b"] * 8, [1, 1, 1, 0.5, 0.5, 0, 1, 0])
        turned = bradley_terry(["b"] * 8, ["a"] * 8, [0, 0, 0, 0.5, 0.5, 1, 0, 1])
        assert turned.table["a"].value == pytest.approx(found.table["a"].value)
        assert turned.table["a"].low == pytest.approx(found.table["a"].low)


class TestManyModels:
    STRENGTHS = np.array([1.2, 0.5, 0.1, -0.3, -1.5])

    def test_agrees_with_a_peer_without_ties(self):
        first, second, outcomes = arena(np.random.default_rng(70), 400, self.STRENGTHS, 0.0)
        found = bradley_terry(first, second, outcomes)
        peer = evalica.bradley_terry(first, second, [WINNER[one] for one in outcomes], tolerance=1e-13, limit=10_000)
        expected = np.log(peer.scores) - np.log(peer.scores).mean()
        for name in range(5):
            assert found.table[name].value == pytest.approx(expected[name], abs=1e-6)

    def test_agrees_with_a_peer_with_ties(self):
        """Newman's iteration, whose v is half of nu, climbs Davidson's likelihood."""
        first, second, outcomes = arena(np.random.default_rng(71), 400, self.STRENGTHS, 0.8)
        found = bradley_terry(first, second, outcomes)
        peer = evalica.newman(first, second, [WINNER[one] for one in outcomes], tolerance=1e-13, limit=10_000)
        expected = np.log(peer.scores) - np.log(peer.scores).mean()
        for name in range(5):
            assert found.table[name].value == pytest.approx(expected[name], abs=1e-6)
        assert found.tie.value == pytest.approx(peer.v / (1 + peer.v), abs=1e-6)

    @pytest.mark.parametrize("nu", [0.0, 0.8])
    def test_the_slope_is_none_and_the_covariance_is_the_curvature(self, nu):
        """Both by differences of the likelihood as it is written out."""
        first, second, outcomes = arena(np.random.default_rng(72), 150, self.STRENGTHS, nu)
        found = bradley_terry(first, second, outcomes)
        place = np.array([found.table[name].value for name in range(5)])
        if nu:
            place = np.append(place, math.log(2 * found.tie.value / (1 - found.tie.value)))

        def loss(at):
            return minus_log_likelihood(at, first, second, outcomes, 5)

        slope = optimize.approx_fprime(place, loss, 1e-6)
        assert slope == pytest.approx(np.zeros(place.size), abs=1e-3)
        step, size = 1e-3, place.size
        unit = np.eye(size) * step
        curvature = np.array([
            [
                (loss(place + unit[i] + unit[j]) - loss(place + unit[i] - unit[j])
                 - loss(place - unit[i] + unit[j]) + loss(place - unit[i] - unit[j])) / (4 * step**2)
                for j in range(size)
            ]
            for i in range(size)
        ])  # fmt: skip
        expected = np.linalg.pinv(curvature, rcond=1e-6)[:5, :5]
        order = [found.names.index(name) for name in range(5)]
        assert found.covariance[np.ix_(order, order)] == pytest.approx(expected, abs=2e-4)

    def test_differences_are_narrower_than_the_table_suggests(self):
        found = bradley_terry(*arena(np.random.default_rng(73), 300, self.STRENGTHS, 0.5))
        best, second = list(found.table)[:2]
        gap = found.difference(best, second)
        assert gap.value == pytest.approx(found.table[best].value - found.table[second].value)
        assert gap.high - gap.low < sum(found.table[name].high - found.table[name].low for name in (best, second))
        assert found.difference(best, best).value == 0
        assert sum(one.value for one in found.table.values()) == pytest.approx(0)

    def test_order_and_names_do_not_matter(self):
        rows = list(zip(*arena(np.random.default_rng(74), 120, self.STRENGTHS, 0.5), strict=True))
        found = bradley_terry(*zip(*rows, strict=True))
        turned = bradley_terry(*zip(*[(f"m{b}", f"m{a}", 1 - outcome) for a, b, outcome in rows[::-1]], strict=True))
        for name in range(5):
            one, other = found.table[name], turned.table[f"m{name}"]
            assert (other.value, other.low, other.high, other.n) == pytest.approx((one.value, one.low, one.high, one.n))

    def test_copies_of_a_prompt_add_nothing(self):
        columns = arena(np.random.default_rng(75), 200, self.STRENGTHS, 0.5)
        once = bradley_terry(*columns, prompts=range(200))
        copied = bradley_terry(*(column * 3 for column in columns), prompts=list(range(200)) * 3)
        plain = bradley_terry(*(column * 3 for column in columns))
        for name in range(5):
            one, other = once.table[name], copied.table[name]
            assert (other.value, other.low, other.high) == pytest.approx((one.value, one.low, one.high))
            assert plain.table[name].high - plain.table[name].low < 0.7 * (one.high - one.low)

    def test_the_sandwich_is_the_information_where_comparisons_are_independent(self):
        columns = arena(np.random.default_rng(76), 4000, self.STRENGTHS, 0.5)
        found, plain = bradley_terry(*columns, prompts=range(4000)), bradley_terry(*columns)
        for name in range(5):
            one, other = found.table[name], plain.table[name]
            assert one.high - one.low == pytest.approx(other.high - other.low, rel=0.1)
        assert found.tie.high - found.tie.low == pytest.approx(plain.tie.high - plain.tie.low, rel=0.1)

    @pytest.mark.parametrize("nu", [0.0, 0.8])
    def test_simulated_arenas_are_covered(self, nu):
        """500 arenas of 300 comparisons: of 5 strengths and 10 differences, 95 % intervals hold 93 to 97 %."""
        rng = np.random.default_rng(77)
        truth, strengths, gaps = self.STRENGTHS - self.STRENGTHS.mean(), [], []
        for _ in range(500):
            found = bradley_terry(*arena(rng, 300, self.STRENGTHS, nu))
            table = found.table
            strengths += [table[name].low <= truth[name] <= table[name].high for name in range(5)]
            for a, b in ((0, 1), (1, 3), (0, 4)):
                gap = found.difference(a, b)
                gaps.append(gap.low <= truth[a] - truth[b] <= gap.high)
        assert 0.93 <= np.mean(strengths) <= 0.97
        assert 0.93 <= np.mean(gaps) <= 0.97


class TestWhereNoMaximumExists:
    def test_none_and_only_ties(self):
        with pytest.raises(DataError, match="no comparison"):
            bradley_terry([], [], [])
        with pytest.raises(DataError, match="all 2 comparisons are ties"):
            bradley_terry("ab", "ba", [0.5, 0.5])

    def test_one_who_loses_everything_is_named(self):
        with pytest.raises(DataError, match=r"^c never won"):
            bradley_terry("abac", "bacb", [1, 1, 1, 0])

    def test_those_who_lose_everything_are_named_whoever_comes_first(self):
        with pytest.raises(DataError, match=r"^c, d never won"):
            bradley_terry("abcdac", "badccb", [1, 1, 1, 1, 1, 0])
        with pytest.raises(DataError, match=r"^c, d never won"):
            bradley_terry("cdabca", "dcbabc", [1, 1, 1, 1, 0, 1])

    def test_islands(self):
        with pytest.raises(DataError, match="never won against, or tied with"):
            bradley_terry("abcd", "badc", [1, 1, 1, 1])

    def test_ties_between_neighbours_only(self):
        """The winner might be any number of steps ahead: a tie is as likely as a win, however far they are apart."""
        with pytest.raises(DataError, match="contradicts one order"):
            bradley_terry("aa", "bb", [1, 0.5])
        with pytest.raises(DataError, match="contradicts one order"):
            bradley_terry("aabb", "bbcc", [1, 0.5, 1, 0.5])

    def test_a_tie_across_contradicts_the_order(self):
        """A tie of the first and the third, who stand two wins apart."""
        found = bradley_terry("aba", "bcc", [1, 1, 0.5])
        assert list(found.table) == ["a", "b", "c"]
        assert all(math.isfinite(one.high) for one in found.table.values())

    @given(
        st.lists(
            st.tuples(st.sampled_from("abc"), st.sampled_from("abc"), st.sampled_from([1, 0.5, 0])),
            min_size=1,
            max_size=8,
        )
    )
    @settings(max_examples=50)
    def test_a_maximum_or_an_error_never_a_nan(self, rows):
        """Where strengths are found, no other ones are better; where none exist, ever larger ones are."""
        rows = [row for row in rows if row[0] != row[1]]
        if not rows:
            return
        first, second, outcomes = zip(*rows, strict=True)
        names = list(dict.fromkeys([*first, *second]))
        coded = [names.index(a) for a in first], [names.index(b) for b in second], [float(one) for one in outcomes]
        size = len(names) + any(one == 0.5 for one in outcomes)
        far = optimize.minimize(minus_log_likelihood, np.zeros(size), args=(*coded, len(names)), method="BFGS")
        try:
            found = bradley_terry(first, second, outcomes)
        except DataError:
            assert np.ptp(far.x) > 3
            return
        place = np.array([found.table[name].value for name in names])
        assert np.isfinite(found.covariance).all()
        if size > len(names):
            place = np.append(place, math.log(2 * found.tie.value / (1 - found.tie.value)))
        assert minus_log_likelihood(place, *coded, len(names)) <= far.fun + 1e-9

    def test_what_cannot_be(self):
        with pytest.raises(DataError, match="comparison 2 of 2 is of 'b' with itself"):
            bradley_terry("ab", "bb", [1, 1])
        with pytest.raises(DataError, match="1 where the first won"):
            bradley_terry("ab", "ba", [1, 2])
        with pytest.raises(DataError, match="1 of one and 2 of the other"):
            bradley_terry("a", "bb", [1])
        with pytest.raises(DataError, match="of one prompt"):
            bradley_terry("ab", "ba", [1, 1], prompts=["q", "q"])
        with pytest.raises(DataError, match="did you mean 'model-b'"):
            bradley_terry(["model-a", "model-b"], ["model-b", "model-a"], [1, 1]).difference("model-a", "model-bb")


class TestElo:
    COLUMNS = arena(np.random.default_rng(78), 300, np.array([1.0, 0.0, -1.0]), 0.5)

    def test_one_game_by_hand(self):
        """Equals expect one half: a win moves k / 2."""
        found = elo(["a"], ["b"], [1], k=32, start=1500, seed=0)
        assert (found["a"].value, found["b"].value) == (1516, 1484)

    @pytest.mark.parametrize("k", [4.0, 32.0])
    def test_agrees_with_a_peer(self, k):
        first, second, outcomes = self.COLUMNS
        peer = evalica.elo(first, second, [WINNER[one] for one in outcomes], k=k, initial=1000)
        found = elo(first, second, outcomes, k=k, seed=0, resamples=10)
        for name in range(3):
            assert found[name].value == pytest.approx(peer.scores[name], abs=1e-6)

    def test_points_are_passed_on(self):
        found = elo(*self.COLUMNS, seed=1, resamples=50)
        assert sum(one.value for one in found.values()) == pytest.approx(3000)
        assert all(one.low <= one.value <= one.high for one in found.values())
        assert list(found) == [0, 1, 2], "the strongest first"
        assert sum(one.n for one in found.values()) == 600

    def test_a_resample_by_a_plain_loop(self):
        """Of one resample both ends are that resample's rating, or the one that happened."""
        first, second, outcomes = self.COLUMNS
        drawn = np.sort(np.random.default_rng(5).integers(300, size=(1, 300)), axis=1)[0]
        ratings = {0: 1000.0, 1: 1000.0, 2: 1000.0}
        for game in drawn:
            a, b = first[game], second[game]
            gain = 20 * (outcomes[game] - 1 / (1 + 10 ** ((ratings[b] - ratings[a]) / 400)))
            ratings[a], ratings[b] = ratings[a] + gain, ratings[b] - gain
        found = elo(first, second, outcomes, k=20, seed=5, resamples=1)
        for name, one in found.items():
            assert one.low == pytest.approx(min(ratings[name], one.value))
            assert one.high == pytest.approx(max(ratings[name], one.value))

    def test_the_same_seed_the_same_interval(self):
        assert elo(*self.COLUMNS, seed=1, resamples=20) == elo(*self.COLUMNS, seed=1, resamples=20)
        assert elo(*self.COLUMNS, seed=1, resamples=20) != elo(*self.COLUMNS, seed=2, resamples=20)

    def test_who_wins_everything_is_finite(self):
        found = elo(["a"] * 50, ["b"] * 50, [1] * 50, seed=0, resamples=20)
        assert 1000 < found["a"].value < 1100
        assert math.isfinite(found["a"].high)

    def test_what_cannot_be(self):
        with pytest.raises(DataError, match="no comparison"):
            elo([], [], [], seed=0)
        with pytest.raises(DataError, match="above 0"):
            elo("a", "b", [1], seed=0, k=0)
