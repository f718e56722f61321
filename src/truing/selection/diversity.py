"""The best rows that are not alike: the representation filter of DEITA (arXiv:2312.15685), section 3.3."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK = 512
"""Rows that are compared with all taken ones in one matrix product."""
ROUNDING = 1e-6
"""By so much a cosine of fp32 vectors may be off: equal rows are alike at a similarity of 1 too."""

Vectors = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Choice:
    """What became of the rows.

    taken: places of the rows that go on, best first.
    alike: of each row that was refused, the place of the taken row that it resembles most, and the cosine of the two.
    The rows in neither were not looked at: the budget was full.
    """

    taken: list[int]
    alike: dict[int, tuple[int, float]]


def most_diverse(scores: Sequence[float], vectors: Vectors, *, similarity: float, budget: int) -> Choice:
    """Walks the rows from the highest score down and takes each that resembles no row taken before it.

    A row is compared with taken rows alone, never with refused ones. Of equal scores the earlier row comes first.

    vectors: [rows, width], of any length; one without length resembles nothing.
    similarity: cosine from which two rows are too alike.
    budget: rows to take at most.
    """
    unit = _unit(vectors)
    order = best_first(scores)
    taken: list[int] = []
    alike: dict[int, tuple[int, float]] = {}
    for start in range(0, len(order), BLOCK):
        block = order[start : start + BLOCK]
        closest, nearest = _nearest(unit[block], unit[taken], taken)
        among = unit[block] @ unit[block].T
        for number, place in enumerate(block):
            if len(taken) == budget:
                return Choice(taken, alike)
            if closest[number] >= similarity - ROUNDING:
                alike[place] = int(nearest[number]), float(closest[number])
                continue
            taken.append(place)
            closer = among[number] > closest
            closest[closer], nearest[closer] = among[number][closer], place
    return Choice(taken, alike)


def best_first(scores: Sequence[float]) -> list[int]:
    """Places in descending order of score, of equal ones the earlier first."""
    return sorted(range(len(scores)), key=lambda place: -scores[place])


def centred(vectors: Vectors) -> Vectors:
    """The vectors less their mean.

    Hidden states of a decoder all point nearly the same way, so that any two rows would pass for alike.
    """
    centre: Vectors = vectors.mean(axis=0, keepdims=True)
    return vectors - centre


def _unit(vectors: Vectors) -> Vectors:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    found: Vectors = vectors / np.where(length > 0, length, 1)
    return found


def _nearest(block: Vectors, others: Vectors, places: Sequence[int]) -> tuple[Vectors, NDArray[np.intp]]:
    """For each row of a block the cosine of the nearest of the others, and its place; -inf where there is none."""
    if not places:
        return np.full(len(block), -np.inf), np.zeros(len(block), dtype=np.intp)
    cosines = block @ others.T
    return cosines.max(axis=1), np.array(places)[cosines.argmax(axis=1)]
