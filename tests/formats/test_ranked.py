"""Lists of answers, by rows whose reading is known."""

from __future__ import annotations

from typing import Any

import pytest

from truing.formats import FORMATS
from truing.formats.checks import RowError
from truing.records import Completion, Group, assistant, text, user

RANKED = FORMATS["ranked"]


@pytest.mark.parametrize("ranks", [[0, 1, 1], [1, 2, 2]])
def test_ranks_begin_at_zero_whatever_the_file_begins_with(ranks: list[int]) -> None:
    row = {"prompt": "Hi", "completions": ["a", "b", "c"], "ranks": ranks, "scores": [1, None, 0.5]}
    group = RANKED.read(row)
    expected = [("a", 0, 1), ("b", 1, None), ("c", 1, 0.5)]
    assert group.prompt == (text("Hi"),)
    assert group.completions == tuple(Completion((text(a),), rank=r, score=s) for a, r, s in expected)
    assert RANKED.write(group) == row


def test_the_order_of_the_list_says_nothing() -> None:
    row = {"prompt": [{"role": "user", "content": "Hi"}], "candidates": ["a", "b"], "sources": ["x", None]}
    group = RANKED.read(row)
    answers = (Completion((assistant("a"),), source="x"), Completion((assistant("b"),)))
    assert Group(group.prompt, group.completions) == Group((user("Hi"),), answers)


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"completions": []}, "completions: the list is empty;"),
        ({"completions": "a"}, "completions: expected a list; found 'a';"),
        ({"completions": ["a", 3]}, "completions[1]: expected text or a list of turns; found 3;"),
        ({"completions": ["a", "b"], "ranks": [0]}, "ranks: expected 2 values, one for each answer; found 1;"),
        (
            {"completions": ["a", "b"], "ranks": [0, True]},
            "ranks[1]: expected a rank, 0 or 1 for the best; found true;",
        ),
        ({"completions": ["a", "b"], "ranks": [2, 3]}, "ranks: expected ranks from 0 or from 1; the best here is 2;"),
        (
            {"completions": ["a", "a"], "ranks": [0, 1]},
            "completions[1]: equal to completions[0], yet ranked differently;",
        ),
        ({"completions": ["a", "b"], "scores": [0, "x"]}, "scores[1]: expected a number; found 'x';"),
        ({"completions": ["a", "b"], "score": 3}, "score: expected a list; found 3;"),
        ({"completions": ["a"], "sources": [3]}, "sources[0]: expected text; found 3;"),
    ],
)
def test_a_bad_row_is_refused_in_these_words(columns: dict[str, Any], problem: str) -> None:
    with pytest.raises(RowError) as error:
        RANKED.read({"prompt": "Hi", **columns}, "a.jsonl", 2)
    assert str(error.value).startswith(f"a.jsonl:2: {problem}")
