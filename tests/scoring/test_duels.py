"""Judges of two answers: both orders, ties, whom an answer meets, and what becomes of one reply that says nothing."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from scripted import LENIENT, Listening, answers_in, row

from truing.compute.engine.local import LocalEngine
from truing.errors import ConfigError, GuardError
from truing.records import user
from truing.scoring.controls import control_answers
from truing.scoring.duels import (
    ALONE,
    COMPARISONS,
    CONSISTENT,
    INCONSISTENT,
    NO_VERDICT,
    TIED,
    UNCLEAR,
    verdict_in,
    verdict_request,
)
from truing.scoring.replies import REPLIES, UNREAD
from truing.scoring.score import Tools, no_models
from truing.scoring.scorers import make, spelled_out

PAIRS = {"name": "judge_pairs"}
WORTH = {"best": 3, "good": 2, "poor": 1}
"""Of answers that a fair judge knows; all others are worth nothing."""


def by_worth(request: str, _: int) -> str:
    first, second = (WORTH.get(answer, 0) for answer in answers_in(request))
    return f"So.\nBetter: {'tie' if first == second else 'A' if first > second else 'B'}"


def values(judging: Listening, *answers: str, **settings: Any) -> list[float | None]:
    (found,) = judging.scores({**PAIRS, **settings}, row(*answers))
    return [score.value for score in found]


@pytest.mark.parametrize(
    ("reply", "chance"),
    [
        ("Better: A", 1.0),
        ("Both do.\n**Better:** B.", 0.0),
        ("Better: tie", 0.5),
        ("Better: Tie", 0.5),
        ("Better: answer A, as it is right", 1.0),
        ("Better: (B)", 0.0),
        ("Better: A\nOr rather:\nBetter: B", 0.0),
        ("better: a", 1.0),
    ],
)
def test_verdicts_are_read_in_all_their_forms(reply: str, chance: float) -> None:
    assert verdict_in(reply).value == chance


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("", NO_VERDICT),
        ("A is better", NO_VERDICT),
        ("Better: VERDICT", UNCLEAR),
        ("Better: A or B", UNCLEAR),
        ("Better: a clear answer", UNCLEAR),
        ("Better: AB", UNCLEAR),
        ("Better: C", UNCLEAR),
        ("Better: A\nBetter: it depends", UNCLEAR),
    ],
)
def test_what_is_no_verdict_has_its_reason(reply: str, reason: str) -> None:
    assert verdict_in(reply) == (None, None, reason, {})


HOSTILE = st.lists(st.sampled_from(["Better", "better", ":", "*", " ", "\n", "A", "B", "tie", ">>>"])).map("".join)


@given(prompt=HOSTILE, first=HOSTILE, second=HOSTILE)
def test_what_a_judge_quotes_is_no_verdict(prompt: str, first: str, second: str) -> None:
    request = verdict_request((user(prompt),), first, second, principle=first, reference=second)
    material, form = request.rsplit("Better: VERDICT", 1)
    assert verdict_in(material) == (None, None, NO_VERDICT, {})
    assert verdict_in(request) == (None, None, UNCLEAR, {})
    assert "Better:" not in form


def test_an_answer_has_its_share_of_wins_over_all_others() -> None:
    judging = Listening(by_worth)
    assert values(judging, "poor", "best", "good", "good") == [0, 1, 0.5, 0.5]
    assert values(judging, "good", "best") == [0, 1]
    alone, nobody = judging.scores(PAIRS, row("good"), row())
    assert (alone[0].value, alone[0].reason, nobody) == (None, ALONE, ())


def test_against_the_first_answer_or_a_reference() -> None:
    judging = Listening(by_worth)
    assert values(judging, "good", "best", "poor", "good", against="first") == [0.5, 1, 0, 0.5]
    judging.writer.requests.clear()
    told = judging.scores(
        {**PAIRS, "against": "reference", "reference": "gold"}, row("best", "poor", extra={"gold": "good"})
    )
    assert [score.value for score in told[0]] == [1, 0]
    assert not any("known to be right" in request for request in judging.writer.requests), "it takes part, unmarked"
    lacking = judging.scores({**PAIRS, "against": "reference", "reference": "gold"}, row("best"))
    assert lacking[0][0].reason == "the row has no reference 'gold'"
    with pytest.raises(ConfigError, match='against = "reference" needs reference'):
        judging.scores({**PAIRS, "against": "reference"}, row("best"))


def test_a_reference_is_shown_otherwise() -> None:
    judging = Listening(by_worth)
    judging.scores(
        {**PAIRS, "reference": "gold", "principle": "Be brief."}, row("good", "best", extra={"gold": "Yes!"})
    )
    assert all("\nYes!\n" in request for request in judging.writer.requests)
    assert all("judge by this principle: Be brief." in request for request in judging.writer.requests)


def first_place(request: str, _: int) -> str:
    """A judge who likes what comes first, unless one answer is empty of worth."""
    first, second = (WORTH.get(answer, 0) for answer in answers_in(request))
    return f"Better: {'B' if second and not first else 'A'}"


@pytest.mark.parametrize(("orders", "value"), [("mean", 0.5), ("tie", 0.5), ("fail", None)])
def test_orders_that_disagree(orders: str, value: float | None) -> None:
    judging = Listening(first_place)
    ((one, other),) = judging.scores({**PAIRS, "orders": orders, "controls": LENIENT}, row("best", "good"))
    assert (one.value, other.value) == (value, value)
    assert one.counts == {REPLIES: 2, COMPARISONS: 1, TIED: 1}
    assert other.counts == {}, "what two answers have in common is counted once"
    assert one.reason == ("" if value is not None else INCONSISTENT)


def test_orders_that_agree_are_counted() -> None:
    judging = Listening(by_worth)
    (said,) = judging.scores(PAIRS, row("best", "good", "good"))
    total = {
        name: sum(score.counts.get(name, 0) for score in said) for name in (COMPARISONS, CONSISTENT, TIED, REPLIES)
    }
    assert total == {COMPARISONS: 3, CONSISTENT: 3, TIED: 1, REPLIES: 6}


def test_several_verdicts_make_a_soft_label_or_an_outcome() -> None:
    """In one order 3 of 4 for the better answer, in the other 2 of 4 and one tie."""

    def script(request: str, number: int) -> str:
        first, second = answers_in(request)
        if {first, second} != {"good", "poor"}:
            return by_worth(request, number)
        return (
            f"Better: {('A', 'A', 'B', 'A')[number]}"
            if first == "good"
            else f"Better: {('B', 'A', 'tie', 'B')[number]}"
        )

    judging = Listening(script)
    drawn = {"samples": 4, "temperature": 1.0}
    soft = values(judging, "good", "poor", **drawn)
    assert soft == pytest.approx([(0.75 + 0.625) / 2, 1 - (0.75 + 0.625) / 2])
    assert values(judging, "good", "poor", orders="tie", **drawn) == [1, 0]


def test_one_reply_that_says_nothing_fails_its_row_alone() -> None:
    def script(request: str, number: int) -> str:
        return "Hm." if answers_in(request) == ("odd", "good") else by_worth(request, number)

    judging = Listening(script)
    rows = judging.scores(PAIRS, row("good", "odd"), row("best", "good"), row("best", "good", "odd"))
    assert [[score.value for score in found] for found in rows] == [[None, None], [1, 0], [1, None, None]]
    assert rows[0][0].reason == NO_VERDICT
    assert rows[0][0].counts == {REPLIES: 2, f"{UNREAD}{NO_VERDICT}": 1}


class TestControls:
    def test_a_fair_judge_lets_no_control_win(self) -> None:
        judging = Listening(by_worth)
        judging.scores(PAIRS, row("good", "best"))
        ((kind, told),) = judging.told
        assert (kind, told["judge"], told["scored"], told["high"], told["above"]) == (
            "controls",
            "judge_pairs",
            8,
            0,
            0.5,
        )
        assert set(told["by_control"]) == set(control_answers(["Better: A", "Better: B"]))

    def test_a_judge_that_lets_them_win_is_refused(self) -> None:
        judging = Listening(lambda request, _: f"Better: {'A' if 'Ignore' in answers_in(request)[0] else 'B'}")
        with pytest.raises(GuardError, match=r"judge_pairs: .*of 8 control answers.* 1 good \(12.5 %\).*'order'"):
            judging.scores(PAIRS, row("good", "best"))

    def test_a_tie_is_no_win(self) -> None:
        judging = Listening(lambda *_: "Better: tie")
        judging.scores(PAIRS, row("good", "best"))
        assert judging.told[0][1]["high"] == 0

    def test_they_meet_the_reference_where_answers_do(self) -> None:
        judging = Listening(by_worth)
        judging.scores({**PAIRS, "against": "reference", "reference": "gold"}, row("best", extra={"gold": "poor"}))
        assert all("poor" in answers_in(request) for request in judging.writer.requests)

    def test_a_model_of_random_weights_is_refused(self) -> None:
        """Its letters are read, and not written."""
        engine = LocalEngine(tiny.loaded_model(torch.float64), trainable=False)
        told: list[Any] = []
        tools = Tools(no_models, lambda _: engine, 4096, tell=lambda _, values: told.append(values))
        spec = {"name": "pairwise", "mass": 0.0, "controls": {"high": 0.0}}
        with pytest.raises(GuardError, match=r"pairwise: .* 8 good"):
            make(spelled_out(spec), tools)([row("good", "best")])
        assert told[0]["scored"] == 8


def test_the_letter_judge_knows_orders_and_whom_to_meet() -> None:
    """With weights drawn by chance, against what `mean` says of the same pair."""
    engine = LocalEngine(tiny.loaded_model(torch.float64), trainable=False)
    tools = Tools(no_models, lambda _: engine, 4096)

    def said(**settings: Any) -> list[float | None]:
        spec = {"name": "pairwise", "mass": 0.0, "controls": LENIENT, **settings}
        (found,) = make(spelled_out(spec), tools)([row("Water.", "The sky is wet.", "No.", extra={"gold": "Drops."})])
        return [score.value for score in found]

    mean = said()
    assert said(against="first")[0] == 0.5
    assert all(value in (0.0, 0.25, 0.5, 0.75, 1.0) for value in said(orders="tie"))
    pair = make(spelled_out({"name": "pairwise", "mass": 0.0, "controls": LENIENT}), tools)
    (one, _) = pair([row("The sky is wet.", "Water.")])[0]
    assert said(against="first")[1] == pytest.approx(one.value)
    for settings in ({"principle": "Be brief."}, {"reference": "gold"}, {"reference": "gold", "against": "reference"}):
        other = said(**settings)
        assert None not in other
        assert other != mean, settings
