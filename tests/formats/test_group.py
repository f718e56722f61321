"""Truing's own rows: every field is checked before it becomes a Group."""

from __future__ import annotations

from typing import Any

import pytest

from truing.formats import AS_READ, FORMATS
from truing.formats.checks import RowError
from truing.records import AnswerStep, Completion, Group, Sampled, assistant, from_json, to_json, user

GROUP = FORMATS["group"]
SAMPLED = Sampled((5, 6), (-0.25, -1.5), "length", "t0", "p0")
WHOLE = Group(
    (user("Hi"),),
    (
        Completion(
            (assistant("a"),),
            rank=0,
            score=1.5,
            label=True,
            source="me",
            sampled=SAMPLED,
            steps=(AnswerStep(1, True), AnswerStep(2)),
        ),
    ),
    weight=2.0,
    strength=0.5,
    extra={"id": 3, AS_READ: {"format": "alpaca"}},
)


def test_a_row_is_to_json_and_back() -> None:
    assert GROUP.write(WHOLE) == to_json(WHOLE)
    assert GROUP.read(to_json(WHOLE)) == from_json(to_json(WHOLE)) == WHOLE


def test_numbers_that_json_has_not_are_refused() -> None:
    sampled = Sampled((5,), (float("-inf"),), "stop", "t0", "p0")
    with pytest.raises(ValueError, match=r"completions\[0\]\.sampled\.logprobs\[0\]: expected a number; found null"):
        GROUP.write(Group((), (Completion((assistant("a"),), sampled=sampled),)))


def changed(place: str, value: Any) -> dict[str, Any]:
    row = to_json(WHOLE)
    *path, last = [int(step) if step.isdigit() else step for step in place.split("/")]
    holder: Any = row
    for step in path:
        holder = holder[step]
    holder[last] = value
    return row


@pytest.mark.parametrize(
    ("place", "value", "problem"),
    [
        ("prompt", "Hi", "prompt: expected a list; found 'Hi';"),
        ("prompt/0", "Hi", "prompt[0]: expected an object; found 'Hi';"),
        (
            "prompt/0/role",
            "human",
            "prompt[0].role: expected one of system, user, assistant, tool, text; found 'human'",
        ),
        ("prompt/0/content", None, "prompt[0].content: expected text; found null;"),
        ("prompt/0/extra", 3, "prompt[0].extra: expected an object; found 3;"),
        ("prompt/0/name", "x", "prompt[0]: unknown field 'name';"),
        ("completions", None, "completions: expected a list; found null;"),
        ("completions/0/messages", [], "completions[0].messages: the list is empty;"),
        (
            "completions/0/steps/0/end",
            "1",
            "completions[0].steps[0].end: expected a whole number, 0 or more; found '1'",
        ),
        ("completions/0/steps/0/right", 1, "completions[0].steps[0].right: expected true or false; found 1;"),
        ("completions/0/rank", -1, "completions[0].rank: expected a whole number, 0 or more; found -1;"),
        ("completions/0/rank", True, "completions[0].rank: expected a whole number, 0 or more; found true;"),
        ("completions/0/score", "x", "completions[0].score: expected a number; found 'x';"),
        ("completions/0/label", 1, "completions[0].label: expected true or false; found 1;"),
        ("completions/0/source", 1, "completions[0].source: expected text; found 1;"),
        ("completions/0/reward", 1, "completions[0]: unknown field 'reward';"),
        ("completions/0/sampled/tokens", 1, "completions[0].sampled.tokens: expected a list; found 1;"),
        ("completions/0/sampled/tokens/1", 1.5, "completions[0].sampled.tokens[1]: expected a whole number"),
        (
            "completions/0/sampled/logprobs/1",
            None,
            "completions[0].sampled.logprobs[1]: expected a number; found null;",
        ),
        (
            "completions/0/sampled/finish_reason",
            "eos",
            "completions[0].sampled.finish_reason: expected stop, length or refused;",
        ),
        ("completions/0/sampled/policy", None, "completions[0].sampled.policy: expected text; found null;"),
        ("weight", "x", "weight: expected a number; found 'x';"),
        ("strength", None, "strength: expected a number; found null;"),
        ("extra", [], "extra: expected an object; found a list;"),
        ("id", 3, "unknown field 'id'; a row of this format has prompt, completions, weight, strength, extra"),
    ],
)
def test_a_bad_row_is_refused_in_these_words(place: str, value: Any, problem: str) -> None:
    with pytest.raises(RowError) as error:
        GROUP.read(changed(place, value), "a.jsonl", 2)
    assert str(error.value).startswith(f"a.jsonl:2: {problem}")
