"""Statistical rejection sampling (RSO, arXiv:2309.06657): of many answers those that a better policy could
have written.

Pure functions of scores, without torch.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence


def accepted(scores: Sequence[float], beta: float, most: int, source: random.Random) -> list[int]:
    """Places of the answers that are accepted, at most so many, in the order in which they are: Algorithm 1.

    Each answer left is accepted with the chance exp((r - r_max) / beta), r_max the best score of those left, and leaves
    the others; passes go on until there are enough, or none is left. Of answers drawn from a policy, if its best one is
    among them, the first accepted one is distributed as policy exp(r / beta) / Z; later ones come nearer to the policy.

    beta: temperature of the wanted policy, in units of the scores: small, and the best answers alone are accepted.
    """
    left, found = list(range(len(scores))), list[int]()
    while left and len(found) < most:
        best = max(scores[place] for place in left)
        kept = []
        for place in left:
            chance = math.exp((scores[place] - best) / beta)
            if len(found) < most and source.random() < chance:
                found.append(place)
            else:
                kept.append(place)
        left = kept
    return found


def tournament(places: Sequence[int], scores: Sequence[float]) -> list[tuple[int, int]]:
    """(better, worse) of answers that meet by twos in their order, of whom the better ones meet again: at most n - 1.

    Equal scores make no comparison, and the first of both goes on; an odd one out meets nobody in its round.
    """
    pairs: list[tuple[int, int]] = []
    while len(places) > 1:
        going_on = []
        for one, other in zip(places[::2], places[1::2], strict=False):
            better, worse = (one, other) if scores[one] >= scores[other] else (other, one)
            if scores[better] > scores[worse]:
                pairs.append((better, worse))
            going_on.append(better)
        places = [*going_on, *(places[-1:] if len(places) % 2 else ())]
    return pairs
