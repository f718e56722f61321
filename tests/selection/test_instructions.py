"""New requests out of old ones: ROUGE-L by a plain recursion and by hand, what is asked, and every filter by itself."""

from __future__ import annotations

import functools
import random

import pytest

from truing.selection.instructions import (
    ALIKE,
    EMPTY,
    KEYWORD,
    LONG,
    SHORT,
    instruction_in,
    instruction_request,
    longest_common,
    refusal,
    rouge_l,
)


def plainly(one: str, other: str) -> int:
    """The textbook's recursion."""

    @functools.cache
    def of(i: int, j: int) -> int:
        if i == 0 or j == 0:
            return 0
        return of(i - 1, j - 1) + 1 if one[i - 1] == other[j - 1] else max(of(i - 1, j), of(i, j - 1))

    return of(len(one), len(other))


def test_the_longest_common_subsequence_is_that_of_the_textbook() -> None:
    chance = random.Random(0)
    for _ in range(300):
        one, other = ("".join(chance.choices("abcd", k=chance.randrange(90))) for _ in "12")
        assert longest_common(list(one), list(other)) == plainly(one, other)


@pytest.mark.parametrize(
    ("one", "other", "value"),
    [
        ("police killed the gunman", "police kill the gunman", 3 / 4),  # Lin (2004), section 3: 3 of 4 words each
        ("police killed the gunman", "the gunman kill police", 2 / 4),
        ("police killed the gunman", "the gunman police killed", 2 / 4),
        ("a b c", "a b c", 1.0),
        ("a b c d", "b d", 2 * 2 / 6),
        ("a", "b", 0.0),
        ("", "a", 0.0),
        ("", "", 0.0),
    ],
)
def test_rouge_l_of_known_texts(one: str, other: str, value: float) -> None:
    assert rouge_l(one.split(), other.split()) == pytest.approx(value, abs=1e-15)
    assert rouge_l(other.split(), one.split()) == pytest.approx(value, abs=1e-15)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Name three rivers of Asia.", ""),
        ("?!", EMPTY),
        ("Sing.", SHORT),
        ("One two three", ""),
        ("one two three four five six seven eight nine", LONG),
        ("Draw me a house.", KEYWORD),
        ("Withdraw all my money now", ""),
        ("please go to the shop", KEYWORD),
        ("go on to the shop", ""),
        ("What is the tallest hill of France", ALIKE),  # 7 of 8 words against 8: 2 * 6 / 15 = 0.8
        ("tell me which hill is it", ""),
    ],
)
def test_each_filter_refuses_what_it_is_for(text: str, reason: str) -> None:
    kept = [["what", "is", "the", "tallest", "tree", "of", "all", "france"]]
    settings = {"similarity": 0.7, "min_words": 3, "max_words": 8, "keywords": ("draw", "go to")}
    assert refusal(text, kept, **settings) == reason  # type: ignore[arg-type]


def test_likeness_counts_from_the_limit_on() -> None:
    """7 of 10 words in order, and 10 each, are 0.7 exactly; another word in one of them is below it."""
    kept = [["a", "b", "c", "d", "e", "f", "g", "x", "y", "z"]]
    settings = {"similarity": 0.7, "min_words": 1, "max_words": 99, "keywords": ()}
    assert refusal("a b c d e f g p q r", kept, **settings) == ALIKE  # type: ignore[arg-type]
    assert refusal("a b c d e f g p q r s", kept, **settings) == ""  # type: ignore[arg-type]


def test_a_request_shows_its_examples_and_a_reply_is_read_without_its_heading() -> None:
    asked = instruction_request(["Why?", " How far? "])
    assert "Request 1: Why?\n\nRequest 2: How far?\n\nWrite request 3:" in asked
    assert instruction_in("  Request 3: Name a river.\n") == "Name a river."
    assert instruction_in('"Name a river."') == "Name a river."
    assert instruction_in("Name a river.\nAnd a lake.\n\nRequest 4: Name a hill.") == "Name a river.\nAnd a lake."
    assert instruction_in("**Request:** Name a river.") == "Name a river."
    assert instruction_in("") == ""
