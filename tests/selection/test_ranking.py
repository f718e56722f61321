"""Judging side by side: what the judge sees, which replies have grades that hold, and what a grader learns of them."""

from __future__ import annotations

import pytest

from truing.selection.evolution import Variant, grown, seed_of
from truing.selection.ranking import (
    CONTRADICTORY,
    OFF,
    UNGRADED,
    UNKNOWN,
    grades_in,
    in_order_of_chance,
    lesson,
    ranking_request,
)
from truing.selection.turns import Turn, complexity_request, quality_request


def chain(kind: str, count: int = 4) -> list[Variant]:
    seed = seed_of(kind, Turn("text 0", "text 0"))
    return [seed, *(grown(seed, number, "depth", f"text {number}") for number in range(1, count))]


def test_the_order_is_drawn_for_the_seed_and_hides_the_rounds() -> None:
    orders = set()
    for number in range(24):
        seed = seed_of("complexity", Turn(str(number), ""))
        own = [seed, *(grown(seed, turn, "depth", "x" * turn) for turn in range(1, 4))]
        shown = in_order_of_chance(own, 0)
        assert sorted(shown, key=lambda variant: variant.round) == own
        assert shown == in_order_of_chance(own, 0)
        orders.add(tuple(variant.round for variant in shown))
    assert len(orders) > 8


@pytest.mark.parametrize("kind", ["complexity", "quality"])
def test_the_judge_sees_all_variants_once_under_their_letters(kind: str) -> None:
    asked = ranking_request(chain(kind))
    for letter, text in zip("ABCD", ("text 0", "text 1", "text 2", "text 3"), strict=True):
        assert asked.count(f"{letter}:\n<<<\n{text}\n>>>") == 1
    assert ("Request:\n<<<\ntext 0\n>>>" in asked) == (kind == "quality")
    assert asked.endswith("A: grade\nB: grade\nC: grade\nD: grade\nA grade is one digit: 1, 2, 3, 4, 5 or 6.")


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        ("A: 3\nB: 1\nC: 6", [3, 1, 6]),
        ("C = 6\nA: 3.\n**B**: 1/6", [3, 1, 6]),
        ("A: 3, B: 1; C: 6", [3, 1, 6]),
        ("B asks for more than A.\n\nA: 3\nB: 1\nC: 6\n", [3, 1, 6]),
        ("A: 3 conditions are too many.\nA: 2\nB: 1\nC: 6", [2, 1, 6]),
        ("A: 3\nA: 3\nB: 1\nC: 6", [3, 1, 6]),
        ("| A: 3 | B: 1 |\nC: 6", [3, 1, 6]),
        ("|A: 3|B: 1|C: 6|", [3, 1, 6]),
        ("A: 3\r\nB: 1\r\nC: 6\r\n", [3, 1, 6]),
        ("A: 3 B: 1 C: 6", [3, 1, 6]),
        ("**A:** 3 **B:** 1 **C:** 6", [3, 1, 6]),
        ("A: 3.0\nB: 1.00/6\nC: 6.", [3, 1, 6]),
        ("A: 3\nA: 3.0\nB: 1\nC: 6", [3, 1, 6]),
        ("A: 3 - clear\nB: 1 (it asks nothing)\nC: 6 — hard; harder than A", [3, 1, 6]),
        ("A: 3 - 4\nB: 1\nC: 6", UNGRADED),
        ("A: 3-step plans are asked\nB: 1\nC: 6", UNGRADED),
        ("A: 3 conditions\nB: 1\nC: 6", UNGRADED),
        ("A: 3 (4 with good will)\nB: 1\nC: 6", UNGRADED),
        ("A: 1 - no, B: 2 asks more\nB: 1\nC: 6", [1, 1, 6]),
        ("A: 1, 2, 3, 4, 5, 6\nB: 1\nC: 6", UNGRADED),
        ("A: 3\nB: 1", UNGRADED),
        ("", UNGRADED),
        ("3\n1\n6", UNGRADED),
        ("A: three\nB: 1\nC: 6", UNGRADED),
        ("A: 3\nB: 1\nC: 6\nA: 4", CONTRADICTORY),
        ("A: 3\nB: 1\nC: 6\nD: 2", UNKNOWN),
        ("A: 3\nB: 0\nC: 6", OFF),
        ("A: 3\nB: 7\nC: 6", OFF),
        ("A: 3\nB: -1\nC: 6", OFF),
        ("A: 3\nB: 2.5\nC: 6", OFF),
        ("A: 3\nB: 16\nC: 6", OFF),
        ("TEA: 3\nB: 1\nC: 6", UNGRADED),
    ],
)
def test_a_reply_has_a_grade_for_every_variant_or_none(reply: str, found: list[int] | str) -> None:
    assert grades_in(reply, 3) == found


def test_a_lesson_is_the_request_that_the_grader_will_be_read_on() -> None:
    hard, good = chain("complexity")[2], chain("quality")[3]
    first, second = lesson(hard, 4), lesson(good, 6)
    assert (first.prompt[0].content, first.completions[0].text) == (complexity_request(hard.turn), "4")
    assert (second.prompt[0].content, second.completions[0].text) == (quality_request(good.turn), "6")
    assert first.extra["evolution"] == {
        "kind": "complexity", "seed": hard.seed, "round": 2, "way": "depth", "parent": 0
    }  # fmt: skip
