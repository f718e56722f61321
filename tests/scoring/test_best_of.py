"""Best of n against all choices written out, and the words for a proxy that leads astray."""

from __future__ import annotations

import math
import random
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from truing.scoring.best_of import curve, expected, verdict

VALUES = st.sampled_from([-1.0, 0.0, 0.5, 2.0])


@given(st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=6), st.data())
def test_expected_is_the_mean_over_all_choices(pairs: list[tuple[float, float]], data: st.DataObject) -> None:
    n = data.draw(st.integers(1, len(pairs)))
    picked = []
    for choice in combinations(pairs, n):
        best = max(proxy for proxy, _ in choice)
        tied = [gold for proxy, gold in pairs if proxy == best]
        picked.append(sum(tied) / len(tied))  # by symmetry, each of those that are tied is as often among the choice
    proxy, gold = zip(*pairs, strict=True)
    assert expected(proxy, gold, n) == pytest.approx(sum(picked) / len(picked))


def test_a_perfect_proxy_gets_what_it_promises() -> None:
    source = random.Random(0)
    rows = [[source.gauss(0, 1) for _ in range(6)] for _ in range(40)]
    found = curve(rows, rows)
    assert [one.n for one in found] == [1, 2, 4, 6]
    assert [one.kl for one in found] == pytest.approx([0.0, math.log(2) - 0.5, math.log(4) - 0.75, math.log(6) - 5 / 6])
    assert found[0].gold.value == pytest.approx(0, abs=1e-12)
    assert all(one.proxy == one.gold for one in found)
    assert found[1].gold.value == pytest.approx(1 / math.sqrt(math.pi), abs=0.15), "the larger of two normal numbers"
    assert "over-optimised" not in verdict(found)


def test_a_proxy_that_is_right_in_the_middle_alone_is_over_optimised() -> None:
    """The gold score rises with the proxy's up to a deviation, and falls steeply beyond."""
    source = random.Random(0)
    proxy = [[source.gauss(0, 1) for _ in range(32)] for _ in range(200)]
    gold = [[value if value < 1 else 3 - 2.5 * value for value in row] for row in proxy]
    found = curve(proxy, gold)
    assert max(found, key=lambda one: one.gold.value).n in (2, 4)
    assert verdict(found).endswith("it picks worse ones: it is over-optimised")
    assert found[-1].proxy.value > 1.5


def test_answers_that_are_all_alike() -> None:
    (one, two) = curve([[1.0, 1.0], [1.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]])
    assert one.gold.value == two.gold.value == one.proxy.value == 0
