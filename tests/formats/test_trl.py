"""TRL's formats, by rows whose reading is known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from truing.errors import DataError
from truing.formats import AS_READ, FORMATS
from truing.formats.checks import RowError
from truing.formats.trl import shared_words
from truing.records import AnswerStep, Completion, Group, Message, assistant, comparison, text, user

HI = {"role": "user", "content": "Hi"}
HELLO = {"role": "assistant", "content": "Hello"}
NO = {"role": "assistant", "content": "No"}
MORE = {"role": "user", "content": "More"}
CALL: dict[str, Any] = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
RESULT = {"role": "tool", "content": "42", "name": "f"}


def answer(content: str, **fields: Any) -> Completion:
    return Completion((assistant(content),), **fields)


def test_plain_text_has_no_prompt() -> None:
    assert FORMATS["language_modeling"].read({"text": "One."}) == Group((), (Completion((text("One."),)),))


def test_messages_part_at_the_first_answer() -> None:
    group = FORMATS["language_modeling"].read({"messages": [HI, HELLO, MORE, NO], "id": 5})
    continuation = Completion((assistant("Hello"), user("More"), assistant("No")))
    assert group == Group((user("Hi"),), (continuation,), extra={"id": 5})


def test_what_a_turn_carries_is_kept() -> None:
    group = FORMATS["language_modeling"].read({"messages": [HI, CALL, RESULT, HELLO]})
    call, result, _ = group.completions[0].messages
    assert call == Message("assistant", "", {"tool_calls": CALL["tool_calls"]})
    assert result == Message("tool", "42", {"name": "f"})


def test_prompt_and_completion_are_verbatim_text() -> None:
    group = FORMATS["prompt_completion"].read({"prompt": "The sky", "completion": " is blue", "score": 0.5})
    assert group == Group((text("The sky"),), (Completion((text(" is blue"),), score=0.5),))


def test_a_score_that_is_no_number_belongs_to_nobody() -> None:
    group = FORMATS["prompt_completion"].read({"prompt": "a", "completion": "b", "score": "high"})
    assert (group.completions[0].score, group.extra) == (None, {"score": "high"})


def test_a_prompt_alone() -> None:
    assert FORMATS["prompt_only"].read({"prompt": [HI]}) == Group((user("Hi"),))


PAIR = comparison((user("Hi"),), answer("Hello"), answer("No"))


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": [HI], "chosen": [HELLO], "rejected": [NO]},
        {"prompt": [HI], "chosen": [HI, HELLO], "rejected": [HI, NO]},
        {"prompt": [HI], "chosen": HELLO, "rejected": "No"},
        {"prompt": "Hi", "chosen": [HI, HELLO], "rejected": [HI, NO]},
        {"prompt": "Hi", "chosen": [HELLO], "rejected": [NO]},
        {"messages": [HI, HELLO], "rejected_response": "No"},
        {"prompt": [HI], "chosen_response": "Hello", "rejected_response": "No"},
    ],
)
def test_every_shape_of_a_preference_is_the_same_group(row: dict[str, Any]) -> None:
    group = FORMATS["preference"].read(row)
    assert Group(group.prompt, group.completions) == PAIR
    assert group.extra.keys() <= {AS_READ}
    assert FORMATS["preference"].write(group) == row


def test_an_implicit_prompt_is_the_common_beginning() -> None:
    row = {"chosen": [HI, NO, MORE, HELLO], "rejected": [HI, NO, MORE, NO]}
    prompt = (user("Hi"), assistant("No"), user("More"))
    assert FORMATS["preference_implicit"].read(row) == comparison(prompt, answer("Hello"), answer("No"))


def test_an_implicit_prompt_may_end_before_long_answers() -> None:
    group = FORMATS["preference_implicit"].read({"chosen": [HI, HELLO, MORE, NO], "rejected": [HI, NO]})
    assert group.prompt == (user("Hi"),)
    assert [len(completion.messages) for completion in group.completions] == [3, 1]


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt"),
    [
        ("The sky is blue.", "The sky is green.", "The sky is"),
        ("The sky is blue.", "The sky is black.", "The sky is"),
        ("The sky is blue", "The sky is", "The sky"),
        ("Yes", "You", ""),
        ("天空是蓝色", "天空是绿色", ""),
        ("a  b", "a  c", "a "),
        ("", "a", ""),
    ],
)
def test_text_parts_where_a_word_ends(chosen: str, rejected: str, prompt: str) -> None:
    assert chosen[: shared_words(chosen, rejected)] == prompt
    group = FORMATS["preference_implicit"].read({"chosen": chosen, "rejected": rejected})
    assert group.prompt == ((text(prompt),) if prompt else ())
    assert group.completions[0].text == chosen.removeprefix(prompt)


@pytest.mark.parametrize(
    ("columns", "scores", "strength"),
    [
        ({}, (None, None), None),
        ({"score_chosen": 8, "score_rejected": 3.5}, (8, 3.5), 4.5),
        ({"score_chosen": 8}, (8, None), None),
        ({"margin": 2}, (None, None), 2),
        ({"score_chosen": 8, "score_rejected": 3, "margin": 1}, (8, 3), 1),
        ({"score_chosen": 8, "score_rejected": 3, "margin": 5}, (8, 3), 5),
        ({"score_chosen": 8, "score_rejected": 3, "margin": None}, (8, 3), 5),
    ],
)
def test_scores_and_margin(columns: dict[str, Any], scores: Any, strength: float | None) -> None:
    row = {"prompt": "a", "chosen": "b", "rejected": "c", **columns}
    group = FORMATS["preference"].read(row)
    assert (group.completions[0].score, group.completions[1].score) == scores
    assert group.strength == strength
    assert FORMATS["preference"].write(group) == row


def test_a_thumb_judges_the_last_turn() -> None:
    group = FORMATS["unpaired"].read({"messages": [HI, HELLO, MORE, NO], "label": False})
    prompt = (user("Hi"), assistant("Hello"), user("More"))
    assert (group.prompt, group.completions) == (prompt, (answer("No", label=False),))


def test_an_empty_answer_is_an_answer() -> None:
    row = {"prompt": [HI], "completion": [{"role": "assistant", "content": ""}], "label": True}
    assert FORMATS["unpaired"].read(row).completions == (answer("", label=True),)


ROLES = "system, user, assistant, tool"
BAD = [
    ("preference", {"prompt": [HI], "chosen": [HELLO]}, "rejected: this column is missing; add it or drop the line"),
    ("preference", {"prompt": 3, "chosen": "a", "rejected": "b"}, "prompt: expected text or a list of turns; found 3;"),
    ("preference", {"prompt": "a", "chosen": "b", "rejected": "b"}, "rejected: equal to 'chosen'; drop the line"),
    ("preference", {"prompt": "a", "chosen": "b", "rejected": None}, "rejected: expected text or a list of turns;"),
    ("preference", {"prompt": [], "chosen": [HELLO], "rejected": [NO]}, "prompt: the list is empty;"),
    ("preference", {"prompt": [HI], "chosen": [], "rejected": [NO]}, "chosen: the list is empty;"),
    (
        "preference",
        {"prompt": [HI], "chosen": [HELLO, {"role": "asistant", "content": "x"}], "rejected": [NO]},
        f"chosen[1].role: expected one of {ROLES}; found 'asistant'; fix the role or drop the line",
    ),
    (
        "preference",
        {"prompt": [HI], "chosen": [{"role": "assistant", "content": ["x"]}], "rejected": [NO]},
        "chosen[0].content: expected text; found a list;",
    ),
    ("preference", {"prompt": [HI], "chosen": ["x"], "rejected": [NO]}, "chosen[0]: expected an object; found 'x';"),
    (
        "preference",
        {"prompt": [HI], "chosen": [HELLO, NO], "rejected": [NO]},
        "chosen[1]: expected user or tool after assistant; found assistant;",
    ),
    (
        "preference",
        {"prompt": [HI, HELLO], "chosen": [NO], "rejected": [HELLO]},
        "prompt[1]: the prompt must end with a user or tool turn;",
    ),
    (
        "preference",
        {"prompt": [HI], "chosen": [HELLO, MORE], "rejected": [NO]},
        "chosen[1]: the row ends without an assistant turn;",
    ),
    (
        "preference",
        {"prompt": [HI], "chosen": [HI], "rejected": [NO]},
        "chosen: repeats the prompt and ends there;",
    ),
    (
        "preference",
        {"prompt": [HI], "chosen": [MORE, HELLO], "rejected": [NO]},
        "chosen[0]: expected assistant after user; found user;",
    ),
    (
        "preference",
        {"prompt": "Ho", "chosen": [HI, HELLO], "rejected": [HI, NO]},
        "prompt: says something else than the turns in 'chosen';",
    ),
    (
        "preference",
        {"prompt": "a", "chosen": "b", "rejected": "c", "margin": "wide"},
        "margin: expected a number; found 'wide';",
    ),
    (
        "preference",
        {"prompt": [{"role": "user", "content": " \n"}], "chosen": [HELLO], "rejected": [NO]},
        "prompt[0]: an empty user turn; fill it or drop the line",
    ),
    (
        "preference_implicit",
        {"chosen": [HI, HELLO], "rejected": [MORE, NO]},
        "chosen and rejected part at turn 0, before any answer; give both the same prompt",
    ),
    (
        "preference_implicit",
        {"chosen": [HI, HELLO], "rejected": [HI, HELLO, MORE, NO]},
        "chosen and rejected part at turn 2, before any answer;",
    ),
    (
        "preference_implicit",
        {"chosen": [HI, NO], "rejected": [HI, NO]},
        "'chosen' and 'rejected' are equal; drop the line",
    ),
    ("preference_implicit", {"chosen": [HELLO], "rejected": [NO]}, "there is no prompt before the answer;"),
    ("preference_implicit", {"chosen": "a", "rejected": [HI, NO]}, "chosen: expected a list; found 'a';"),
    ("language_modeling", {"text": ""}, "text: the text is empty; drop the line"),
    ("language_modeling", {"text": 3}, "text: expected text; found 3;"),
    (
        "language_modeling",
        {"messages": [HELLO]},
        "messages[0]: expected system or user at the beginning; found assistant;",
    ),
    ("language_modeling", {"messages": [HI]}, "messages[0]: the row ends without an assistant turn;"),
    ("language_modeling", {"messages": [HI, RESULT]}, "messages[1]: expected assistant after user; found tool;"),
    (
        "language_modeling",
        {"messages": [HI, {"role": "system", "content": "x"}, HELLO]},
        "messages[1]: expected assistant after user; found system;",
    ),
    ("language_modeling", {"messages": [HI, {"role": "assistant"}]}, "messages[1].content: expected text; found null;"),
    (
        "language_modeling",
        {"messages": [{"content": "Hi"}, HELLO]},
        f"messages[0].role: expected one of {ROLES}; found nothing;",
    ),
    ("prompt_only", {"prompt": [HI, HELLO]}, "prompt[1]: the prompt must end with a user or tool turn;"),
    ("prompt_only", {"prompt": [{"role": "system", "content": "x"}]}, "prompt[0]: the prompt must end with a user"),
    ("unpaired", {"prompt": "a", "completion": "b", "label": 1}, "label: expected true or false; found 1;"),
    (
        "unpaired",
        {"messages": [HI, HELLO, MORE], "label": True},
        "messages[2]: the row ends without an assistant turn;",
    ),
    ("unpaired", {"messages": [HELLO], "label": True}, "messages[0]: expected system or user at the beginning;"),
    ("stepwise", {"prompt": "a", "completions": ["b", "c"], "labels": [True]}, "labels: expected 2 labels, one for"),
    ("stepwise", {"prompt": "a", "completions": ["b"], "labels": [1]}, "labels[0]: expected true or false; found 1;"),
    ("stepwise", {"prompt": "a", "completions": ["b", " "], "labels": [True, True]}, "completions[1]: the step is em"),
]


@pytest.mark.parametrize(("name", "row", "problem"), BAD)
def test_a_bad_row_is_refused_in_these_words(name: str, row: dict[str, Any], problem: str) -> None:
    with pytest.raises(RowError) as error:
        FORMATS[name].read(row, "prefs.jsonl", 218)
    assert str(error.value).startswith(f"prefs.jsonl:218: {problem}")


def test_a_thumb_as_number_is_not_taken_for_a_demonstration() -> None:
    row = {"prompt": "a", "completion": "b", "label": 0}
    assert [name for name in FORMATS if FORMATS[name].matches(row)] == ["unpaired"]


STEPWISE = {"prompt": "What is 2 + 3 * 4?", "completions": ["3 * 4 = 12", "2 + 12 = 15"], "labels": [True, False]}


def test_steps_become_one_answer_that_remembers_where_they_end() -> None:
    (answer,) = FORMATS["stepwise"].read(STEPWISE).completions
    assert answer.text == "3 * 4 = 12\n2 + 12 = 15"
    assert [(answer.text[: step.end], step.right) for step in answer.steps] == [
        ("3 * 4 = 12\n", True),
        (answer.text, False),
    ]
    asked = {**STEPWISE, "prompt": [{"role": "user", "content": "What is 2 + 3 * 4?"}]}
    (told,) = FORMATS["stepwise"].read(asked).completions
    assert told.messages == (assistant(answer.text),)
    assert told.steps == answer.steps
    assert FORMATS["stepwise"].write(FORMATS["stepwise"].read(asked)) == asked


def test_an_answer_whose_steps_leave_something_out_is_not_written_as_steps() -> None:
    group = FORMATS["stepwise"].read(STEPWISE)
    (answer,) = group.completions
    for steps in (answer.steps[:1], (AnswerStep(3, True), answer.steps[1]), ()):
        with pytest.raises(DataError, match="the format 'stepwise' cannot hold this row"):
            FORMATS["stepwise"].write(replace(group, completions=(replace(answer, steps=steps),)))
    with pytest.raises(DataError, match="the format 'prompt_completion' cannot hold this row"):
        FORMATS["prompt_completion"].write(group)
