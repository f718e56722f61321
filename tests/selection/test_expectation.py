"""Grades as expectations, by hand."""

from __future__ import annotations

import math

import pytest

from truing.errors import ConfigError
from truing.selection.expectation import GRADES, expected, sole_ids


def test_an_expectation_by_hand() -> None:
    grade = expected([math.log(p) for p in (0.1, 0.1, 0.1, 0.1, 0.1, 0.3)])
    assert grade.mass == pytest.approx(0.8)
    assert grade.value == pytest.approx((1 + 2 + 3 + 4 + 5) / 8 + 6 * 3 / 8)
    variance = sum(share * (k - grade.value) ** 2 for k, share in zip(range(1, 7), [1 / 8] * 5 + [3 / 8], strict=True))
    assert grade.deviation == pytest.approx(math.sqrt(variance))


def test_only_the_shares_among_the_grades_count() -> None:
    even, unlikely = expected([-1.0] * 6), expected([-2000.0] * 6)
    assert even.value == pytest.approx(3.5)
    assert unlikely.value == pytest.approx(3.5)
    assert unlikely.mass == 0


def test_ids_are_those_of_the_tokenizer() -> None:
    assert sole_ids(GRADES, [(40 + int(grade), 7) for grade in GRADES], {7}) == (41, 42, 43, 44, 45, 46)


def test_tokenizers_without_a_token_for_each_digit_are_refused() -> None:
    with pytest.raises(ConfigError, match="writes '1' as 2 tokens"):
        sole_ids(GRADES, [(9, 40 + int(grade), 7) for grade in GRADES], {7})
    with pytest.raises(ConfigError, match="one token for several"):
        sole_ids(GRADES, [(3, 7) for _ in GRADES], {7})
