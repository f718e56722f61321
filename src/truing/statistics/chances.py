"""The chance that a difference arose although there is none: against a coin, of two accuracies, and of many at once."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

from truing.errors import DataError
from truing.statistics.intervals import per_prompt, same_length, standard_error


class McNemar(NamedTuple):
    """Where two models differ on the same items: how many only the first, or only the second, got right."""

    first_only: int
    second_only: int
    chance: float


def sign_test(wins: int, losses: int) -> float:
    """The chance that a fair coin falls at least this unevenly: exact, two-sided. Ties say nothing and are left out.

    Of no win and no loss it is 1.
    """
    if min(wins, losses) < 0:
        raise DataError(f"{wins} wins and {losses} losses: there cannot be fewer than none")
    one_side = float(special.bdtr(min(wins, losses), wins + losses, 0.5))
    return min(1.0, 2 * one_side)


def t_test(
    values: Sequence[float],
    *,
    prompts: Sequence[Hashable] | None = None,
    weights: Sequence[float] | None = None,
) -> float:
    """The chance that a mean lies at least this far from 0 where the true one is 0: Student's, two-sided.

    Of differences it is the paired t-test. Values that all are one number have no scatter to go by: for them it
    is the sign test. One value, or none, says nothing: 1.
    """
    units, counts = per_prompt(values, prompts, weights)
    if units.size < 2:
        return 1.0
    value, error = float(np.average(units, weights=counts)), standard_error(units, counts)
    if error <= 1e-9 * abs(value):
        return sign_test(int((units > 0).sum()), int((units < 0).sum()))
    return float(2 * special.stdtr(units.size - 1, -abs(value) / error))


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> McNemar:
    """Whether two models have the same accuracy, on the same items: McNemar's test (1947) in its exact form.

    first, second: [n], whether each item was answered rightly. Items are independent. Those that both got right, or
    both wrong, say nothing of the difference; were the models equal, each other one would be a fair coin. How large
    the difference is, `paired_difference` says. Where the models never differ, or of no items, the chance is 1.
    """
    same_length(first, second)
    first_only = sum(bool(a) and not b for a, b in zip(first, second, strict=True))
    second_only = sum(bool(b) and not a for a, b in zip(first, second, strict=True))
    return McNemar(first_only, second_only, sign_test(first_only, second_only))


def holm(chances: Sequence[float]) -> list[float]:
    """Chances adjusted for being several (Holm 1979): the smallest times their number, the next times one less, ...

    Calling real what is then below 5 % is wrong anywhere in at most 5 % of all cases, however the tests hang together.
    """
    if not all(0 <= chance <= 1 for chance in chances):
        raise DataError(f"chances must lie between 0 and 1, not {list(chances)}")
    order = sorted(range(len(chances)), key=lambda place: chances[place])
    adjusted = [1.0] * len(chances)
    highest = 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(chances) - rank) * chances[place]))
        adjusted[place] = highest
    return adjusted
