"""The filter in blocks against one row at a time, and what decides where rows are alike."""

from __future__ import annotations

import math

import numpy as np
import pytest

from truing.selection import diversity
from truing.selection.diversity import best_first, centred, most_diverse


def one_by_one(scores: list[float], vectors: list[list[float]], similarity: float, budget: int) -> list[int]:
    """The rule itself, without a matrix."""

    def cosine(one: list[float], other: list[float]) -> float:
        return sum(a * b for a, b in zip(one, other, strict=True)) / (math.hypot(*one) * math.hypot(*other))

    taken: list[int] = []
    for place in sorted(range(len(scores)), key=lambda p: (-scores[p], p)):
        if len(taken) == budget:
            break
        if all(cosine(vectors[place], vectors[other]) < similarity for other in taken):
            taken.append(place)
    return taken


@pytest.mark.parametrize("block", [1, 3, 7, 512])
@pytest.mark.parametrize("similarity", [0.3, 0.7, 0.9])
def test_blocks_change_nothing(block: int, similarity: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diversity, "BLOCK", block)
    random = np.random.default_rng(block)
    vectors = random.normal(size=(60, 3))
    scores = random.integers(0, 9, size=60).astype(float).tolist()
    for budget in (1, 5, 60):
        choice = most_diverse(scores, vectors, similarity=similarity, budget=budget)
        assert choice.taken == one_by_one(scores, vectors.tolist(), similarity, budget)
        rank = {place: number for number, place in enumerate(choice.taken)}
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        for place, (other, cosine) in choice.alike.items():
            earlier = [taken for taken in choice.taken if (-scores[taken], taken) < (-scores[place], place)]
            assert other in rank
            assert cosine == pytest.approx(max(unit[place] @ unit[taken] for taken in earlier))
            assert cosine == pytest.approx(unit[place] @ unit[other])


def test_a_refused_row_refuses_nobody() -> None:
    angles = np.radians([0, 40, 80])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    choice = most_diverse([3, 2, 1], vectors, similarity=math.cos(math.radians(45)), budget=3)
    assert choice.taken == [0, 2]
    assert choice.alike == {1: (0, pytest.approx(math.cos(math.radians(40))))}


def test_equal_rows_are_alike_at_a_similarity_of_1_and_lengths_do_not_count() -> None:
    vector = np.array([0.1, 0.7, 0.3], dtype=np.float32)
    vectors = np.stack([vector, 3 * vector, -vector, 0 * vector, 0 * vector])
    choice = most_diverse([0.0] * 5, vectors, similarity=1, budget=5)
    assert choice.taken == [0, 2, 3, 4]
    assert set(choice.alike) == {1}


def test_equal_rows_are_alike_whatever_fp32_makes_of_their_length() -> None:
    for vector in np.random.default_rng(0).normal(size=(50, 384)).astype(np.float32):
        assert most_diverse([1, 0], np.stack([vector, vector]), similarity=1, budget=2).taken == [0]


def test_a_full_budget_ends_the_walk() -> None:
    choice = most_diverse([1, 2, 3], np.eye(3), similarity=0.9, budget=2)
    assert choice.taken == [2, 1]
    assert choice.alike == {}


def test_the_best_come_first_and_of_equals_the_earlier() -> None:
    assert best_first([1, 3, 3, 2]) == [1, 2, 3, 0]


def test_what_all_vectors_share_is_taken_out() -> None:
    vectors = np.array([[100.0, 1.0], [100.0, -1.0]])
    assert most_diverse([1, 0], vectors, similarity=0.9, budget=2).taken == [0]
    assert most_diverse([1, 0], centred(vectors), similarity=0.9, budget=2).taken == [0, 1]
