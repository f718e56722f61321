"""A judge's points are read from its own last line and from nowhere else."""

from __future__ import annotations

import time

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from truing.records import Message, assistant, user
from truing.scoring.requests import conversation, defused, fenced, principle_of
from truing.scoring.rubric import NO_SCORE, OFF, RUBRIC, UNCLEAR, digit_request, points_in, points_request

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

NOT_ONE_NUMBER = (
    "four", "+4", "~4", ".5", "4%", "4?", "3\u00bd", "4\u00b2", "4 4", "4.5.1",
    "3-4", "3 - 4", "3\u20134", "3 \u2014 4", "3 to 4", "3 or four", "3, or four", "3 \u2014 four", "3,5", "4e0",
    "1 + 1 + 1 + 0 + 0 = 3", "1, 1 and 1, so 3", "1 (+ 1 + 1)", "4 out of ten", "4 (out of ten)", "4 (out of a dozen)",
    "4/5/5", "4 of them", "4 (80 %)", "4, not 3", "4 (rather three)", "3 and a half", "3 (and a half)", "4*5", "4-ish",
    "4, but \u4e09", "at least 4", "5 is what it asks for",
)  # fmt: skip
"""What may stand after the last `Score:` although nobody could say for sure which number is meant."""


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
        ("Score: **4** / **5**", 4.0),
        ("Score: 4 (out of 5)", 4.0),
        ("Score: 4 points out of 5 points.", 4.0),
        ("Score: (4/5)", 4.0),
        ("Score: [[4]]", 4.0),
        ("Score: 4 of 5: short", 4.0),
        ("Score: 4 \u2014 good, but short", 4.0),
        ("Score: 4 - good\r\nThat leaves 1 point.", 4.0),
        ("Score: 4 because it is short!", 4.0),
        ("Score: four\nScore: 2", 2.0),
    ],
)
def test_points_are_read_in_all_their_forms(reply: str, points: float) -> None:
    assert points_in(reply).value == points


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("", NO_SCORE),
        ("It is a four.", NO_SCORE),
        ("underscore: 4", NO_SCORE),
        ("Scores: 4", NO_SCORE),
        ("Score 4", NO_SCORE),
        ("Score: 6", OFF),
        ("Score: 5.01", OFF),
        ("Score: -1", OFF),
        ("Score: \u22121", OFF),
        ("Score: 4/10", OFF),
        ("Score: 4 points out of 10", OFF),
        ("Score: 4 (out of 10)", OFF),
        ("Score: 4 of 10.0", OFF),
        ("Score: " + "9" * 400, OFF),
        ("Score: 3\nScore: 50", OFF),
        *((f"Score: 2\nScore: {words}", NO_SCORE) for words in ("", "POINTS", "high", "none", "see above")),
        *((f"Score: 2\nScore: {words}", UNCLEAR) for words in NOT_ONE_NUMBER),
    ],
)
def test_what_is_no_point_of_the_scale_has_its_reason(reply: str, reason: str) -> None:
    assert points_in(reply) == (None, None, reason, {})


def test_another_scale() -> None:
    assert points_in("Score: 8/10", 1, 10).value == 8
    assert points_in("Score: 0", 1, 10).reason == OFF
    assert points_in("Score: 3/5", 1, 10).reason == OFF


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("Score:\n4", 4.0),
        ("**Score:**\n\n5", 5.0),
        ("Score:\n\n4/5\nGood.", 4.0),
        ("Score: \n1. It is short.", UNCLEAR),
        ("Score:\n4 legs", UNCLEAR),
        ("Score:\nWell, 4.", UNCLEAR),
        ("Score: 2\nScore:\n9", OFF),
    ],
)
def test_a_number_alone_may_stand_below(reply: str, score: float | str) -> None:
    found = points_in(reply)
    assert (found.reason if isinstance(score, str) else found.value) == score


@given(points=st.lists(st.decimals(0, 5, places=2), min_size=1, max_size=4), words=st.text("abc \n*", max_size=20))
def test_the_last_of_several_counts(points: list[object], words: str) -> None:
    reply = f"{words}\n".join(f"Score: {one}\n" for one in points) + words
    assert points_in(reply).value == float(str(points[-1]))


@given(points=st.integers(0, 5), between=st.text(max_size=12), second=st.integers(0, 99), after=st.text(max_size=8))
def test_a_line_with_a_second_number_is_never_scored_unless_it_is_the_highest(
    points: int, between: str, second: int, after: str
) -> None:
    assume("\n" not in between)
    found = points_in(f"Score: {points} {between} {second}{after}")
    assert found.reason in (UNCLEAR, OFF) or (found.value == points and second == 5), (between, second, after)


@given(words=st.lists(st.sampled_from(["4", "/", "out of", "points", "(", "[", "*", " ", "-", ".", "5"]), max_size=12))
def test_no_words_after_a_number_make_it_another_one(words: list[str]) -> None:
    line = "".join(words)
    assert points_in(f"Score: 3 {line}").value in (None, 3.0)


def test_a_judge_that_goes_on_for_ever_is_read_in_no_time() -> None:
    start = time.process_time()
    for tail in ("4" * 20_000, "(" * 20_000, "4 *" * 20_000, "4 " + "- " * 20_000, "4 /" * 20_000, "\nScore" * 20_000):
        points_in(f"Score: 4{tail}")
    assert time.process_time() - start < 2


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
