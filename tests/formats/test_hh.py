"""Transcripts, by rows whose reading is known."""

from __future__ import annotations

from typing import Any

import pytest

from truing.formats import FORMATS
from truing.formats.checks import RowError
from truing.records import Completion, Group, assistant, comparison, user

HH = FORMATS["hh_rlhf"]
START = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: More?\n\nAssistant:"


def answer(content: str) -> Completion:
    return Completion((assistant(content),))


GROUP = comparison((user("Hi"), assistant("Hello"), user("More?")), answer("Yes"), answer("No"))


@pytest.mark.parametrize(
    "row",
    [
        {"chosen": f"{START} Yes", "rejected": f"{START} No"},
        {"prompt": START, "chosen": " Yes", "rejected": " No"},
        {"prompt": START, "chosen": "  Yes", "rejected": "No\n"},
    ],
)
def test_every_shape_is_the_same_group(row: dict[str, Any]) -> None:
    group = HH.read(row)
    assert Group(group.prompt, group.completions) == GROUP
    assert HH.matches(row)
    assert HH.write(group) == row


def test_an_empty_answer_is_an_answer() -> None:
    row = {"prompt": START, "chosen": " ", "rejected": " No"}
    group = HH.read(row)
    assert group.completions[0].messages == (assistant(""),)
    assert HH.write(group) == row


def test_dialogues_that_part_early_at_an_answer_are_long_answers() -> None:
    more = "\n\nHuman: Go on\n\nAssistant: Well"
    row = {"chosen": f"{START} Yes{more}", "rejected": f"{START} No"}
    group = HH.read(row)
    assert group.prompt == GROUP.prompt
    assert group.completions[0].messages == (assistant("Yes"), user("Go on"), assistant("Well"))
    assert HH.write(group) == row


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (
            {"chosen": "\n\nHuman: a\n\nAssistant: x", "rejected": "\n\nHuman: b\n\nAssistant: x"},
            "chosen and rejected part at turn 0, before any answer;",
        ),
        ({"chosen": f"{START} Yes", "rejected": f"{START} Yes"}, "'chosen' and 'rejected' are equal;"),
        ({"chosen": f"{START} Yes", "rejected": f"{START}  Yes"}, "'chosen' and 'rejected' are equal;"),
        (
            {"chosen": f"{START} a\n\nAssistant: b", "rejected": f"{START} No"},
            "chosen[4]: expected user or tool after assistant; found assistant;",
        ),
        (
            {"chosen": f"{START} a\n\nHuman: b", "rejected": f"{START} No"},
            "chosen[4]: the row ends without an assistant turn;",
        ),
        ({"chosen": "Human: a\n\nAssistant: x", "rejected": f"{START} x"}, "chosen: a transcript begins with"),
        (
            {"chosen": "\n\nHuman:  \n\nAssistant: x", "rejected": "\n\nHuman: \n\nAssistant: y"},
            "chosen[0]: an empty user",
        ),
        ({"prompt": "\n\nHuman: a", "chosen": " x", "rejected": " y"}, "prompt: a prompt must end with"),
        ({"prompt": START, "chosen": " x", "rejected": " x"}, "rejected: equal to 'chosen'; drop the line"),
        ({"prompt": START, "chosen": " x", "rejected": None}, "rejected: expected text; found null;"),
        (
            {"prompt": START, "chosen": " x", "rejected": " y", "same_prompt": False},
            "same_prompt: the two answers were given to different dialogues; drop the line",
        ),
    ],
)
def test_a_bad_row_is_refused_in_these_words(row: dict[str, Any], problem: str) -> None:
    with pytest.raises(RowError) as error:
        HH.read(row, "a.jsonl", 2)
    assert str(error.value).startswith(f"a.jsonl:2: {problem}")
