"""How well a score finds what it looks for."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from truing.statistics import CONFIDENCE, Interval

DRAWS = 1000


def auroc(scores: NDArray[np.float64], wanted: NDArray[np.bool_]) -> float:
    """The chance that something wanted scores above something else, ties one half: the rank sum of Mann and Whitney."""
    count, others = int(wanted.sum()), int((~wanted).sum())
    above = float(rankdata(scores)[wanted].sum()) - count * (count + 1) / 2
    return above / (count * others)


def auroc_interval(
    scores: Sequence[float], wanted: Sequence[bool], *, clusters: Sequence[Hashable], seed: int = 0
) -> Interval:
    """The same with the percentiles of a bootstrap that draws whole clusters."""
    each, found = np.array(scores, dtype=np.float64), np.array(wanted, dtype=np.bool_)
    places: dict[Hashable, list[int]] = {}
    for place, cluster in enumerate(clusters):
        places.setdefault(cluster, []).append(place)
    members = [np.array(some) for some in places.values()]
    draw = np.random.default_rng(seed)
    drawn = []
    for _ in range(DRAWS):
        some = np.concatenate([members[number] for number in draw.integers(len(members), size=len(members))])
        if found[some].any() and not found[some].all():
            drawn.append(auroc(each[some], found[some]))
    low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(auroc(each, found), float(low), float(high), len(each))
