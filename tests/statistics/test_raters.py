"""Coefficients of agreement against published worked examples, plain loops, a peer, and their coverage."""

from __future__ import annotations

import math
from itertools import combinations

import evalica
import numpy as np
import pandas as pd
import pytest
from covering import coverage
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from truing.errors import DataError
from truing.statistics import (
    Interval,
    cohen_kappa,
    fleiss_kappa,
    interval_distance,
    krippendorff_alpha,
    nominal_distance,
    ordinal_distance,
    proportion,
)

PAIRS = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=2, max_size=25)

FLEISS_1971_STYLE = [
    [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
    [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
]  # fmt: skip
"""Ten items with fourteen labels each, as counts of five labels: the example of textbooks and encyclopedias."""

KRIPPENDORFF = """
1 2 3 3 2 1 4 1 2 . . .
1 2 3 3 2 2 4 1 2 5 . 3
. 3 3 3 2 3 4 2 2 5 1 .
1 2 3 3 2 4 4 1 2 5 1 .
"""
"""Four observers and twelve units, section C of Computing Krippendorff's Alpha-Reliability (2011)."""


def units(text):
    """One row per unit from one line per observer; a full stop where an observer said nothing."""
    lines = [line.split() for line in text.split("\n") if line]
    return [[None if word == "." else int(word) for word in column] for column in zip(*lines, strict=True)]


def labels_of(counts):
    return [[label for label, count in enumerate(row) for _ in range(count)] for row in counts]


def defined(function, *arguments):
    """The coefficient, or None where it does not exist."""
    try:
        return function(*arguments)
    except DataError:
        return None


def loop_alpha(items, distance):
    """Alpha as it is told in words: the mean distance within items over that between any two labels."""
    kept = [[label for label in item if label is not None] for item in items]
    kept = [item for item in kept if len(item) > 1]
    every = [label for item in kept for label in item]
    within = sum(
        distance(a, b) / (len(item) - 1)
        for item in kept
        for i, a in enumerate(item)
        for j, b in enumerate(item)
        if i != j
    )
    between = sum(distance(a, b) for i, a in enumerate(every) for j, b in enumerate(every) if i != j)
    return 1 - (within / len(every)) / (between / len(every) / (len(every) - 1))


def drawn(rng, n, right=0.8, raters=2, kinds=3):
    """Raters who see the truth with probability `right` and else guess: [n][raters]."""
    truth = rng.choice(kinds, n, p=[0.5, 0.3, 0.2])
    said = np.where(rng.random((n, raters)) < right, truth[:, None], rng.integers(0, kinds, (n, raters)))
    return said.tolist()


class TestCohen:
    def test_the_example_of_fleiss_cohen_and_everitt(self):
        """200 items; 70 % agreement where 47.5 % is expected: 0.225 / 0.525. Their Eq. 13 has the variance."""
        shares = np.array([[0.53, 0.05, 0.02], [0.11, 0.14, 0.05], [0.01, 0.06, 0.03]])
        pairs = [(i, j) for i in range(3) for j in range(3) for _ in range(round(200 * shares[i, j]))]
        found = cohen_kappa([a for a, _ in pairs], [b for _, b in pairs])
        assert found.value == pytest.approx(0.225 / 0.525)
        rows, columns, agreed, expected = shares.sum(1), shares.sum(0), 0.7, 0.475
        first = sum(
            shares[i, i] * ((1 - expected) - (rows[i] + columns[i]) * (1 - agreed)) ** 2 for i in range(3)
        )  # fmt: skip
        second = (1 - agreed) ** 2 * sum(
            shares[i, j] * (columns[i] + rows[j]) ** 2 for i in range(3) for j in range(3) if i != j
        )
        last = (agreed * expected - 2 * expected + agreed) ** 2
        variance = (first + second - last) / (200 * (1 - expected) ** 4)
        reach = stats.t.ppf(0.975, 199) * math.sqrt(variance * 200 / 199) / (1 - found.value)
        assert found.low == pytest.approx(1 - (1 - found.value) * math.exp(reach), abs=1e-12)
        assert found.high == pytest.approx(1 - (1 - found.value) * math.exp(-reach), abs=1e-12)

    @given(PAIRS)
    def test_equals_counting(self, pairs):
        first, second = [a for a, _ in pairs], [b for _, b in pairs]
        by_chance = sum(a == b for a in first for b in second) / len(pairs) ** 2
        if by_chance == 1:
            with pytest.raises(DataError, match="alike"):
                cohen_kappa(first, second)
            return
        agreed = sum(a == b for a, b in pairs) / len(pairs)
        found = cohen_kappa(first, second)
        assert found.value == pytest.approx((agreed - by_chance) / (1 - by_chance), abs=1e-12)
        assert -1 <= found.low <= found.value <= found.high <= 1
        assert found.high - found.low > 0.01

    @given(PAIRS)
    def test_order_raters_and_names_do_not_matter(self, pairs):
        first, second = [a for a, _ in pairs], [b for _, b in pairs]
        found = defined(cohen_kappa, first, second)
        others = [
            defined(cohen_kappa, second, first),
            defined(cohen_kappa, first[::-1], second[::-1]),
            defined(cohen_kappa, [ord(a) for a in first], [ord(b) for b in second]),
        ]
        for other in others:
            if found is None:
                assert other is None
            else:
                assert (other.value, other.low, other.high) == pytest.approx((found.value, found.low, found.high))

    @given(PAIRS, st.sampled_from("abc"))
    def test_an_item_more_that_both_agree_on_never_lowers_it(self, pairs, label):
        first, second = [a for a, _ in pairs], [b for _, b in pairs]
        found = defined(cohen_kappa, first, second)
        if found is not None:
            more = cohen_kappa([*first, label], [*second, label])
            assert more.value >= found.value - 1e-12
            if found.value < 1 and len(set(first)) > 1 and len(set(second)) > 1:
                assert more.value > found.value

    def test_always_agreed_by_hand(self):
        """None of 20 items disagreed on: at most 16.1 % after Wilson, where half is expected."""
        found = cohen_kappa("ab" * 10, "ab" * 10)
        assert (found.value, found.high) == (1, 1)
        assert found.low == pytest.approx(1 - proportion(0, 20).high / 0.5)

    def test_a_rater_who_always_says_the_same(self):
        assert cohen_kappa("aaaa", "abab").value == pytest.approx(0)

    def test_one_item_and_none(self):
        assert cohen_kappa(["a"], ["b"]) == Interval(0.0, -1.0, 1.0, 1)
        with pytest.raises(DataError, match="no item"):
            cohen_kappa([], [])
        with pytest.raises(DataError, match="all labels of 3 items are alike"):
            cohen_kappa("aaa", "aaa")
        with pytest.raises(DataError, match="nan"):
            cohen_kappa([1.0, math.nan], [1.0, 2.0])

    @pytest.mark.parametrize("right", [0.5, 0.9])
    def test_coverage(self, right):
        """Raters agree where both saw the truth, or by chance: kappa from the shares of the labels."""
        rng = np.random.default_rng(50)
        common = np.array([0.5, 0.3, 0.2]) * right + (1 - right) / 3
        agreed = sum(share * (right + (1 - right) / 3) ** 2 for share in (0.5, 0.3, 0.2))
        agreed += sum((1 - share) * ((1 - right) / 3) ** 2 for share in (0.5, 0.3, 0.2))
        truth = (agreed - common @ common) / (1 - common @ common)
        found = coverage(lambda: cohen_kappa(*zip(*drawn(rng, 80, right), strict=True)), truth)
        assert 0.92 <= found <= 0.985


class TestFleiss:
    def test_the_worked_example(self):
        """Observed agreement 0.378, expected 0.213."""
        found = fleiss_kappa(labels_of(FLEISS_1971_STYLE))
        assert found.value == pytest.approx(0.210, abs=5e-4)
        assert found.n == 10

    def test_equals_pairs_of_raters(self):
        items = drawn(np.random.default_rng(51), 40, raters=4)
        every = [label for item in items for label in item]
        agreed = np.mean([a == b for item in items for a, b in combinations(item, 2)])
        by_chance = np.mean([a == b for a in every for b in every])
        assert fleiss_kappa(items).value == pytest.approx((agreed - by_chance) / (1 - by_chance))

    def test_raters_are_exchangeable_and_none_is_nobody(self):
        items = drawn(np.random.default_rng(52), 30, raters=3)
        found = fleiss_kappa(items)
        turned = fleiss_kappa([[None, *item[place % 3 :], *item[: place % 3]] for place, item in enumerate(items)])
        assert (turned.value, turned.low, turned.high) == pytest.approx((found.value, found.low, found.high))

    def test_unequally_many_labels(self):
        with pytest.raises(DataError, match="from 2 to 3 labels"):
            fleiss_kappa([[1, 2], [1, 2, 1]])
        with pytest.raises(DataError, match="from 1 to 1 labels"):
            fleiss_kappa([[1], [2]])

    def test_none_alike_and_one(self):
        with pytest.raises(DataError, match="no item"):
            fleiss_kappa([])
        with pytest.raises(DataError, match="alike"):
            fleiss_kappa([[1, 1], [1, 1]])
        assert fleiss_kappa([["a", "b", "b"]]) == Interval(pytest.approx(1 - (2 / 3) / (4 / 9)), -1.0, 1.0, 1)
        assert fleiss_kappa([["a", "a"], ["b", "b"]]).low == pytest.approx(1 - proportion(0, 2).high / 0.5)

    def test_coverage(self):
        rng = np.random.default_rng(53)
        truth = fleiss_kappa(drawn(rng, 50_000, raters=4)).value
        assert 0.92 <= coverage(lambda: fleiss_kappa(drawn(rng, 60, raters=4)), truth, runs=300) <= 0.98


class TestKrippendorff:
    @pytest.mark.parametrize(
        ("distance", "published"), [(nominal_distance, 0.743), (ordinal_distance, 0.815), (interval_distance, 0.849)]
    )
    def test_four_observers_who_miss_some_units(self, distance, published):
        found = krippendorff_alpha(units(KRIPPENDORFF), distance=distance)
        assert found.value == pytest.approx(published, abs=5e-4)
        assert found.n == 11, "the unit that a single observer saw says nothing"
        assert found.low < found.value < found.high < 1

    def test_two_observers(self):
        """Sections A and B of the same paper: binary data, and five names."""
        binary = zip([0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0], strict=True)
        assert krippendorff_alpha(list(binary)).value == pytest.approx(0.095, abs=5e-4)
        names = zip("aabbdcccedda", "babbbcccedda"[:11] + "d", strict=True)
        assert krippendorff_alpha(list(names)).value == pytest.approx(0.692, abs=5e-4)

    @pytest.mark.parametrize(
        ("distance", "word", "plain"),
        [
            (nominal_distance, "nominal", lambda a, b: float(a != b)),
            (ordinal_distance, "ordinal", None),
            (interval_distance, "interval", lambda a, b: (a - b) ** 2),
        ],
    )
    def test_agrees_with_a_peer_and_with_words(self, distance, word, plain):
        rng = np.random.default_rng(54)
        for _ in range(10):
            items = [[None if rng.random() < 0.3 else int(rng.integers(1, 6)) for _ in range(4)] for _ in range(30)]
            found = krippendorff_alpha(items, distance=distance)
            frame = pd.DataFrame([[math.nan if label is None else label for label in item] for item in items]).T
            assert found.value == pytest.approx(evalica.alpha(frame, distance=word).alpha, abs=1e-9)
            if plain is not None:
                assert found.value == pytest.approx(loop_alpha(items, plain), abs=1e-9)

    @pytest.mark.parametrize("distance", [nominal_distance, ordinal_distance, interval_distance])
    def test_the_scatter_is_that_of_leaving_one_out(self, distance):
        rng = np.random.default_rng(55)
        items = [
            [int(label) if rng.random() < 0.8 else None for label in item] for item in drawn(rng, 300, raters=4)
        ]  # fmt: skip
        found = krippendorff_alpha(items, distance=distance)
        left = [
            math.log(1 - krippendorff_alpha(items[:i] + items[i + 1 :], distance=distance).value) for i in range(300)
        ]
        error = math.sqrt((found.n - 1) ** 2 / found.n * np.var(left))
        reach = math.log((1 - found.low) / (1 - found.value)) / stats.t.ppf(0.975, found.n - 1)
        assert reach == pytest.approx(error, rel=0.05)

    @given(st.lists(st.lists(st.sampled_from([1, 2, 4, None]), min_size=3, max_size=3), min_size=2, max_size=15))
    def test_order_does_not_matter_and_numbers_only_by_their_order_or_steps(self, items):
        for distance, moved in (
            (nominal_distance, {1: "c", 2: "a", 4: "b"}),
            (ordinal_distance, {1: -3, 2: 0, 4: 100}),
            (interval_distance, {1: 30, 2: 20, 4: 0}),
        ):
            found = defined(lambda rows, distance=distance: krippendorff_alpha(rows, distance=distance), items)
            turned = [[label if label is None else moved[label] for label in item[::-1]] for item in items[::-1]]
            if found is None:
                with pytest.raises(DataError):
                    krippendorff_alpha(turned, distance=distance)
                continue
            other = krippendorff_alpha(turned, distance=distance)
            assert (other.value, other.low, other.high) == pytest.approx((found.value, found.low, found.high), abs=1e-9)
            assert -1 <= found.low <= found.value <= found.high <= 1

    def test_two_labels_are_ordered_as_any_two_are_apart(self):
        items = [[0, 1], [1, 1], [0, 0], [1, 0], [0, 0, 0]]
        found = {
            krippendorff_alpha(items, distance=distance).value
            for distance in (nominal_distance, ordinal_distance, interval_distance)
        }
        assert max(found) == pytest.approx(min(found))

    def test_nothing_to_agree_on(self):
        with pytest.raises(DataError, match="no item with two labels"):
            krippendorff_alpha([[1, None], [None, 2]])
        with pytest.raises(DataError, match="alike"):
            krippendorff_alpha([[1, 1], [1, None]])
        with pytest.raises(DataError, match="'a' is no number"):
            krippendorff_alpha([["a", "b"], ["b", "b"]], distance=ordinal_distance)
        with pytest.raises(DataError, match="nan"):
            krippendorff_alpha([[1.0, math.nan], [2.0, 1.0]])

    def test_coverage(self):
        rng = np.random.default_rng(56)

        def make(n=60):
            items = drawn(rng, n, raters=3)
            return krippendorff_alpha(
                [[x if i or n % 2 else None for i, x in enumerate(item)] for n, item in enumerate(items)]
            )

        truth = make(50_000).value
        assert 0.92 <= coverage(make, truth, runs=300) <= 0.98
