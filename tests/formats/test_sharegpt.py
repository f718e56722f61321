"""ShareGPT, by rows whose reading is known."""

from __future__ import annotations

import json
from typing import Any

import pytest

from truing.formats import FORMATS
from truing.formats.checks import RowError
from truing.records import Completion, Group, Message, assistant, comparison, user

SHAREGPT = FORMATS["sharegpt"]
HI = {"from": "human", "value": "Hi"}
HELLO = {"from": "gpt", "value": "Hello"}
NO = {"from": "gpt", "value": "No"}
CALL = {"from": "function_call", "value": '{"name": "f", "arguments": {"x": 1}}'}
RESULT = {"from": "observation", "value": "42"}


def answer(content: str, **fields: Any) -> Completion:
    return Completion((assistant(content),), **fields)


def read(row: dict[str, Any]) -> Group:
    group = SHAREGPT.read(row)
    assert SHAREGPT.write(group) == row
    return Group(group.prompt, group.completions, strength=group.strength)


def test_a_conversation_parts_at_the_first_answer() -> None:
    group = read({"conversations": [HI, HELLO, {"from": "user", "value": "More"}, NO]})
    assert group == Group((user("Hi"),), (Completion((assistant("Hello"), user("More"), assistant("No"))),))


@pytest.mark.parametrize(
    "row",
    [
        {"conversations": [{"from": "system", "value": "S"}, HI, HELLO]},
        {"system": "S", "conversations": [HI, HELLO]},
    ],
)
def test_the_system_prompt_is_a_turn_or_a_column(row: dict[str, Any]) -> None:
    assert read(row).prompt == (Message("system", "S"), user("Hi"))


@pytest.mark.parametrize(
    ("chosen", "rejected"),
    [(HELLO, NO), ("Hello", "No"), ([HELLO], [NO]), (HELLO, [{"from": "assistant", "value": "No"}])],
)
def test_every_shape_of_a_pair_is_the_same_group(chosen: Any, rejected: Any) -> None:
    row = {"conversations": [HI], "chosen": chosen, "rejected": rejected}
    assert read(row) == comparison((user("Hi"),), answer("Hello"), answer("No"))


def test_a_thumb_judges_the_last_answer() -> None:
    group = read({"conversations": [HI, HELLO, HI, NO], "kto_tag": False})
    assert group == Group((user("Hi"), assistant("Hello"), user("Hi")), (answer("No", label=False),))


def test_a_function_call_is_a_tool_call() -> None:
    calls = [{"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}]
    group = read({"conversations": [HI, CALL, RESULT, HELLO], "tools": '[{"name": "f", "parameters": {}}]'})
    call, result, _ = group.completions[0].messages
    assert call == Message("assistant", "", {"tool_calls": calls})
    assert result == Message("tool", "42")


def test_several_calls_in_any_spelling_come_back_letter_for_letter() -> None:
    value = json.dumps([{"name": "f"}, {"name": "é"}], indent=3)
    group = read({"conversations": [HI, {"from": "function_call", "value": value}, RESULT, HELLO]})
    assert len(group.completions[0].messages[0].extra["tool_calls"]) == 2


def test_what_a_turn_carries_is_kept() -> None:
    group = read({"conversations": [HI | {"weight": 0}, HELLO]})
    assert group.prompt[0].extra == {"weight": 0}


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"conversations": []}, "conversations: the list is empty;"),
        (
            {"conversations": [HI, {"from": "bot", "value": "x"}]},
            "conversations[1].from: expected one of system, human,",
        ),
        ({"conversations": [HI, {"value": "x"}]}, "conversations[1].from: expected one of system, human, user, gpt"),
        ({"conversations": [HI, {"from": "gpt", "value": 3}]}, "conversations[1].value: expected text; found 3;"),
        ({"conversations": [HI, {"from": ["gpt"], "value": "x"}]}, "conversations[1].from: expected one of system"),
        ({"conversations": [HELLO]}, "conversations[0]: expected system or user at the beginning; found assistant;"),
        ({"conversations": [HI]}, "conversations[0]: the row ends without an assistant turn;"),
        ({"conversations": [HI, HELLO, HI]}, "conversations[2]: the row ends without an assistant turn;"),
        ({"conversations": [HI, HI, HELLO]}, "conversations[1]: expected assistant after user; found user;"),
        (
            {"system": "S", "conversations": [{"from": "system", "value": "T"}, HI, HELLO]},
            "conversations[0]: expected user after system; found system;",
        ),
        ({"conversations": [HI], "chosen": HELLO, "rejected": HELLO}, "rejected: equal to 'chosen'; drop the line"),
        ({"conversations": [HI], "chosen": HELLO}, "rejected: this column is missing;"),
        ({"conversations": [HI], "chosen": 3, "rejected": NO}, "chosen: expected text or a list of turns; found 3;"),
        ({"conversations": [HI, HELLO], "chosen": HELLO, "rejected": NO}, "conversations[1]: the prompt must end with"),
        (
            {"conversations": [HI, {"from": "function_call", "value": "f()"}, RESULT, HELLO]},
            "conversations[1].value: a function_call must be JSON: column 1:",
        ),
        (
            {"conversations": [HI, {"from": "function_call", "value": "[]"}, RESULT, HELLO]},
            "conversations[1].value: a function_call must be JSON with a name and arguments;",
        ),
        (
            {"conversations": [HI, CALL | {"tool_calls": []}, RESULT, HELLO]},
            "conversations[1]: a function_call that has",
        ),
        ({"conversations": [HI, HELLO], "tools": "[{"}, "tools: column"),
    ],
)
def test_a_bad_row_is_refused_in_these_words(row: dict[str, Any], problem: str) -> None:
    with pytest.raises(RowError) as error:
        SHAREGPT.read(row, "a.json", 2)
    assert str(error.value).startswith(f"a.json:2: {problem}")
