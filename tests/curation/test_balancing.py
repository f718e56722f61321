from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from truing.curation.balancing import beyond_cap, unbalanced
from truing.errors import DataError
from truing.records import Completion, Group, assistant, comparison, user


def compared(chosen: int, rejected: int) -> Group:
    return comparison((user("q"),), Completion((assistant("x" * chosen),)), Completion((assistant("x" * rejected),)))


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), max_size=30), st.integers(0, 5))
def test_longer_wins_as_often_as_shorter(sizes: list[tuple[int, int]], seed: int) -> None:
    rows = [compared(*size) for size in sizes] + [Group((user("q"),))]
    out = unbalanced(rows, seed)
    kept = [size for place, size in enumerate(sizes) if place not in out]
    assert sum(a > b for a, b in kept) == sum(a < b for a, b in kept)
    longer, shorter = sum(a > b for a, b in sizes), sum(a < b for a, b in sizes)
    assert len(out) == abs(longer - shorter), "no row more than needed"
    assert len(rows) - 1 not in out
    assert out == unbalanced(rows, seed)


def test_seeds_differ() -> None:
    rows = [compared(2, 1)] * 40 + [compared(1, 2)] * 20
    assert unbalanced(rows, 0) != unbalanced(rows, 1)


def test_what_is_not_judged_is_not_counted() -> None:
    tied = Group((user("q"),), tuple(Completion((assistant(a),), rank=0) for a in ("a", "bb")))
    scored = Group((user("q"),), tuple(Completion((assistant(a),), score=s) for a, s in (("a", 1.0), ("bb", 2.0))))
    assert unbalanced([tied], 0) == []
    assert unbalanced([scored], 0) == [0], "the longer one wins by its score"


def test_cap() -> None:
    rows = [
        Group((user("q"),), extra={"topic": topic}, file=f"{file}.jsonl") for topic, file in ("xa", "ya", "xb", "xa")
    ]
    assert beyond_cap(rows, "topic", 2) == {3: "x"}
    assert beyond_cap(rows, "topic", 1) == {2: "x", 3: "x"}
    assert beyond_cap(rows, "file", 1) == {1: "a.jsonl", 3: "a.jsonl"}
    with pytest.raises(DataError, match=r"a\.jsonl:None: has no field 'theme'"):
        beyond_cap(rows, "theme", 1)
