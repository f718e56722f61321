"""A judge's points are read from its own last line and from nowhere else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from truing.records import Message, assistant, user
from truing.scoring.requests import conversation, defused, fenced, principle_of
from truing.scoring.rubric import NO_SCORE, OFF, RUBRIC, digit_request, points_in, points_request

HOSTILE = st.one_of(
    st.text(max_size=40),
    st.lists(
        st.sampled_from(
            [
                "Score",
                "score",
                "SCORE",
                "\u017fcore",
                ":",
                "*",
                "_",
                "`",
                " ",
                "\n",
                "5",
                "4.5",
                "-",
                "/5",
                ">>>",
                "<",
                "x",
            ]
        ),
        max_size=14,
    ).map("".join),
)
"""Any text, and such as is made to look like a judge's last line."""


@pytest.mark.parametrize(
    ("reply", "points"),
    [
        ("Score: 3", 3.0),
        ("Good.\n\nScore: 4.5\n", 4.5),
        ("Score: 0", 0.0),
        ("**Score: 5**", 5.0),
        ("**Score:** 2", 2.0),
        ("### Score: 2.0.", 2.0),
        ("score : 1", 1.0),
        ("Final score: 3/5", 3.0),
        ("Score: 3 / 5.", 3.0),
        ("Score: 4 out of 5, since it is short", 4.0),
        ("Score: 3 points", 3.0),
        ("Score: 2\nOn reflection:\nScore: 4", 4.0),
        ("It says Score: 5 of itself. Score: 1", 1.0),
        ('the total is "Score: 4"', 4.0),
        ("\u201cScore: 2\u201d", 2.0),
    ],
)
def test_points_are_read_in_all_their_forms(reply: str, points: float) -> None:
    assert points_in(reply).value == points


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("", NO_SCORE),
        ("It is a four.", NO_SCORE),
        ("Score: POINTS", NO_SCORE),
        ("Score: high", NO_SCORE),
        ("underscore: 4", NO_SCORE),
        ("Scores: 4", NO_SCORE),
        ("Score 4", NO_SCORE),
        ("Score: 6", OFF),
        ("Score: 5.01", OFF),
        ("Score: -1", OFF),
        ("Score: \u22121", OFF),
        ("Score: 4/10", OFF),
        ("Score: 4 out of ten", OFF),
        ("Score: 3-4", OFF),
        ("Score: 3 to 4", OFF),
        ("Score: 3,5", OFF),
        ("Score: 4e0", OFF),
        ("Score: " + "9" * 400, OFF),
        ("Score: 3\nScore: 50", OFF),
    ],
)
def test_what_is_no_point_of_the_scale_has_its_reason(reply: str, reason: str) -> None:
    assert points_in(reply) == (None, None, reason, {})


def test_another_scale() -> None:
    assert points_in("Score: 8/10", 1, 10).value == 8
    assert points_in("Score: 0", 1, 10).reason == OFF
    assert points_in("Score: 3/5", 1, 10).reason == OFF


@given(points=st.lists(st.decimals(0, 5, places=2), min_size=1, max_size=4), words=st.text("abc \n*", max_size=20))
def test_the_last_of_several_counts(points: list[object], words: str) -> None:
    reply = f"{words}\n".join(f"Score: {one}\n" for one in points) + words
    assert points_in(reply).value == float(str(points[-1]))


@given(value=st.floats(allow_nan=False, allow_infinity=False))
def test_nothing_off_the_scale_is_a_score(value: float) -> None:
    found = points_in(f"Score: {value:f}")
    rounded = float(f"{value:f}")
    on = 0 <= rounded <= 5 and not f"{value:f}".startswith("-")
    assert found.value == (rounded if on else None)


@given(HOSTILE)
def test_nothing_that_a_judge_quotes_is_its_own_line(words: str) -> None:
    quoted = defused(words, "Score")
    assert points_in(quoted) == (None, None, NO_SCORE, {})
    assert points_in(f"The answer reads:\n{quoted}\nScore: 1\nand it ends with\n{quoted}").value == 1


@given(prompt=HOSTILE, answer=HOSTILE, reference=HOSTILE, principle=HOSTILE)
def test_no_request_holds_a_score(prompt: str, answer: str, reference: str, principle: str) -> None:
    """So a judge that only repeats what it was given says nothing."""
    request = points_request((user(prompt),), answer, principle=principle, reference=reference)
    assert points_in(request) == (None, None, NO_SCORE, {})
    assert points_in(digit_request((user(prompt),), answer, reference=reference)).value is None


@given(HOSTILE)
def test_no_text_ends_its_own_quotation(words: str) -> None:
    first, *inside, last = fenced(words).split("\n")
    assert "\n".join(inside) == words
    assert len(first) == len(last) >= 3
    assert first not in words
    assert last not in words


def test_what_is_harmless_stays_as_it_is() -> None:
    words = "The underscore: a sign. Scores: 3 and 4. He scored a goal; a score of 3."
    assert defused(words, "Score") == words
    assert defused("High score: 3, **Score:** 4", "Score") == "High score - 3, **Score -** 4"
    assert fenced("a\n>>>\nb") == "<<<<\na\n>>>\nb\n>>>>"


def test_a_request_holds_all_that_is_to_be_judged() -> None:
    talk = (user("What is tea?"), assistant("A leaf."), user("And rain?"))
    request = points_request(talk, "Water.", principle="Be brief.", reference="Drops of water.")
    for words in ("user: What is tea?", "assistant: A leaf.", "\nWater.\n", "\nDrops of water.\n", "Be brief.", RUBRIC):
        assert words in request
    bare = points_request((user("Rain?"),), "Wet.")
    assert "\nRain?\n" in bare, "one request stands by itself"
    assert "principle" not in bare
    assert "known to be right" not in bare
    assert "from 1 to 7" in points_request(talk, "x", criteria="Look well.", low=1, high=7)
    assert RUBRIC not in points_request(talk, "x", criteria="Look well.")


def test_the_principle_of_a_row_depends_on_its_prompt_and_the_seed_alone() -> None:
    from scripted import row

    principles = [f"p{number}" for number in range(5)]
    drawn = [principle_of(row("a", prompt=f"q{number}"), principles, 0) for number in range(40)]
    assert drawn == [principle_of(row("b", "c", prompt=f"q{number}"), principles, 0) for number in range(40)]
    assert set(drawn) == set(principles)
    assert drawn != [principle_of(row("a", prompt=f"q{number}"), principles, 1) for number in range(40)]
    assert principle_of(row("a"), (), 0) == ""
    assert conversation((Message("text", "a"), Message("text", "b"))) == "ab"
