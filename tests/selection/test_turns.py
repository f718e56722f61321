"""Conversations as turns, and the requests by which they are graded."""

from __future__ import annotations

from truing.records import Message, assistant, text, user
from truing.selection.turns import Turn, complexity_request, quality_request, turns_of


def test_every_answer_with_the_request_before_it() -> None:
    system = Message("system", "Be kind.")
    assert turns_of((system, user("a"), assistant("b"), user("c")), (assistant("d"),)) == [
        Turn("a", "b"),
        Turn("c", "d"),
    ]


def test_tools_speak_in_between() -> None:
    calls = Message("assistant", "", {"tool_calls": [{}]})
    turns = turns_of((user("a"),), (calls, Message("tool", "42"), assistant("b"), Message("tool", "1"), assistant("c")))
    assert turns == [Turn("a", "b\n\nc")]


def test_prompts_alone_and_plain_text() -> None:
    assert turns_of((user("a"), user("b")), ()) == [Turn("a\n\nb", "")]
    assert turns_of((text("Once "),), (text("upon a time"),)) == [Turn("Once ", "upon a time")]
    assert turns_of((), ()) == []


def test_requests_hold_what_is_graded_word_for_word() -> None:
    turn = Turn("Say {answer} {instruction}", "No {instruction} {answer}")
    assert "<<<\nSay {answer} {instruction}\n>>>" in complexity_request(turn)
    assert "No {instruction}" not in complexity_request(turn)
    quality = quality_request(turn)
    assert "Request:\n<<<\nSay {answer} {instruction}\n>>>" in quality
    assert "Answer:\n<<<\nNo {instruction} {answer}\n>>>" in quality
