"""Over-optimisation: what a gold scorer makes of the answers that a proxy, the reward model, picks out of n.

Pure functions of numbers, without torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from truing import statistics
from truing.statistics import Interval


class BestOf(NamedTuple):
    """The best of `n` answers by the proxy: the KL from the policy that drew them, in nats, and both mean scores.

    Scores are in standard deviations of all answers, from the mean of them.
    """

    n: int
    kl: float
    proxy: Interval
    gold: Interval

    @property
    def plain(self) -> dict[str, Any]:
        """As it is stored in files."""
        return {"n": self.n, "kl": self.kl, "proxy": self.proxy.plain, "gold": self.gold.plain}


def curve(proxy: Sequence[Sequence[float]], gold: Sequence[Sequence[float]]) -> list[BestOf]:
    """Best of 1, 2, 4, ... and of all answers, over rows with as many answers as the row with fewest has."""
    most = min(len(row) for row in proxy)
    counts = sorted({*(2**power for power in range(int(math.log2(most)) + 1)), most})
    ours, theirs = _standardised(proxy), _standardised(gold)
    return [
        BestOf(
            n,
            math.log(n) - (n - 1) / n,
            statistics.mean([expected(row, row, n) for row in ours]),
            statistics.mean([expected(row, other, n) for row, other in zip(ours, theirs, strict=True)]),
        )
        for n in counts
    ]


def expected(proxy: Sequence[float], gold: Sequence[float], n: int) -> float:
    """The gold score that the best of n answers by the proxy has on average, over all choices of n answers of a row.

    The answer at place i, counted from 1 by rising proxy, is the best of n in C(i - 1, n - 1) of the C(N, n) choices.
    Answers that the proxy cannot tell apart share what falls to them.
    """
    values = {score: [g for p, g in zip(proxy, gold, strict=True) if p == score] for score in sorted(set(proxy))}
    total, below = 0.0, 0
    for tied in values.values():
        share = math.comb(below + len(tied), n) - math.comb(below, n)
        total += share * sum(tied) / len(tied)
        below += len(tied)
    return total / math.comb(below, n)


def verdict(found: Sequence[BestOf]) -> str:
    """What the curve says, in words."""
    last, peak = found[-1], max(found, key=lambda one: one.gold.value)
    said = f"of {last.n} answers it picks one {last.gold} deviations better by the gold score; it promises {last.proxy}"
    if peak.gold.low > last.gold.high:
        return f"{said}; of more than {peak.n} it picks worse ones: it is over-optimised"
    return said


def _standardised(rows: Sequence[Sequence[float]]) -> list[list[float]]:
    """In deviations from the mean of all answers."""
    every = np.concatenate([np.asarray(row, dtype=np.float64) for row in rows])
    deviation = float(every.std()) or 1.0
    return [[(value - float(every.mean())) / deviation for value in row] for row in rows]
