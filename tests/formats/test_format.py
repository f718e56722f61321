"""What every format promises, tried on rows in all the spellings that it reads."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_rows import ROWS, SETTINGS, Row, json_values

from truing.errors import DataError
from truing.formats import AS_READ, FORMATS
from truing.formats.checks import RowError, difference
from truing.records import Completion, Group, Message, Sampled, assistant, comparison, text, to_json, user

every_format = pytest.mark.parametrize("name", FORMATS)


def test_every_format_has_rows_to_be_tried_on() -> None:
    assert ROWS.keys() == FORMATS.keys()


@every_format
@SETTINGS
@given(data=st.data())
def test_a_row_means_what_it_was_made_to_mean_and_comes_back_as_it_was(name: str, data: st.DataObject) -> None:
    """No other format fits it; and what it means comes back as well where nobody remembers how it was spelled."""
    format, (row, meaning) = FORMATS[name], data.draw(ROWS[name])
    assert [other for other in FORMATS if FORMATS[other].matches(row)] == [name]
    group = format.read(row, "a.jsonl", 7)
    assert (group.file, group.line) == ("a.jsonl", 7)
    assert difference(to_json(meaning), to_json(without_notes(group))) is None
    assert difference(row, format.write(group)) is None
    again = format.read(format.write(meaning))
    assert difference(to_json(meaning), to_json(without_notes(again))) is None


@every_format
@SETTINGS
@given(data=st.data())
def test_a_spoiled_row_is_refused_by_place_or_kept_whole(name: str, data: st.DataObject) -> None:
    row = data.draw(ROWS[name].flatmap(lambda made: spoiled(made.row)))
    try:
        group = FORMATS[name].read(row, "a.jsonl", 7)
    except RowError as refused:
        problem = refused
    else:
        again = FORMATS[name].write(group)
        # Truing's own format leaves out what is at its default; the others give the row back as it was.
        assert FORMATS[name].read(again).id == group.id
        assert name == "group" or difference(row, again) is None
        return
    assert str(problem) == f"a.jsonl:7: {problem.problem}"


@st.composite
def spoiled(draw: st.DrawFn, row: Row) -> Row:
    """The row with something in it replaced, taken away, or said twice."""
    row = copy.deepcopy(row)
    holder: Any = row
    while True:
        place = draw(st.sampled_from(sorted(holder) if isinstance(holder, dict) else range(len(holder))))
        inner = holder[place]
        if not isinstance(inner, (dict, list)) or not inner or draw(st.booleans()):
            break
        holder = inner
    match draw(st.sampled_from(["replace", "take", "double"])):
        case "replace":
            holder[place] = draw(json_values)
        case "take":
            del holder[place]
        case "double" if isinstance(holder, list):
            holder.append(copy.deepcopy(inner))
    return row


def without_notes(group: Group) -> Group:
    return replace(group, extra={name: value for name, value in group.extra.items() if name != AS_READ})


PAIR = comparison((user("Hi"),), Completion((assistant("Hello"),)), Completion((assistant("No"),)))


def test_a_changed_group_is_written_without_its_old_spelling() -> None:
    alpaca = FORMATS["alpaca"]
    group = alpaca.read({"instruction": "Add", "input": "1, 2", "output": "3"})
    assert alpaca.write(replace(group, prompt=(user("Go"),))) == {"instruction": "Go", "output": "3"}


@pytest.mark.parametrize("notes", [3, {"format": "alpaca"}, {"format": "alpaca", "names": 3, "blank": [1]}])
def test_notes_that_make_no_sense_are_passed_over(notes: Any) -> None:
    row = {"instruction": "Hi", "chosen": "Hello", "rejected": "No"}
    assert FORMATS["alpaca"].write(replace(PAIR, extra={AS_READ: notes})) == row


def test_another_formats_spelling_is_left_out() -> None:
    group = FORMATS["alpaca"].read({"question": "Hi", "answer": "Hello", "id": 3})
    assert FORMATS["sharegpt"].write(group) == {
        "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}],
        "id": 3,
    }


SAMPLED = Sampled((1,), (-0.5,), "stop", "t", "p")


@pytest.mark.parametrize(
    ("name", "group", "lost"),
    [
        ("preference", replace(PAIR, weight=2.0), "weight (2.0) would be lost"),
        ("preference", Group((user("Hi"),)), "it holds two ranked answers; the row has 0"),
        ("unpaired", Group((user("Hi"),), (Completion((assistant("a"),)),)), "label: expected true or false"),
        ("alpaca", Group((user("Hi"),), (Completion((assistant("a"),), source="me"),)), "source ('me') would be lost"),
        ("sharegpt", Group((text("Hi"),), (Completion((text("a"),)),)), "a text turn has no place"),
        (
            "hh_rlhf",
            replace(PAIR, prompt=(Message("system", "x"), user("Hi"))),
            "chosen[0]: a system turn has no place",
        ),
        ("alpaca", replace(PAIR, prompt=(user("Hi"), user("Ho"))), "expected pairs of user and assistant turns"),
        ("alpaca", Group((user("Hi"),), (Completion((assistant("a"), user("b"), assistant("c"))),)), "has 3"),
        ("prompt_completion", Group((text("Hi"),), (Completion((assistant("a"),)),)), "verbatim text and turns stand"),
        ("prompt_completion", Group((user("Hi"),), (Completion((text("a"),)),)), "verbatim text has no place"),
        ("prompt_completion", Group((user("Hi"),)), "it holds one answer; the row has 0"),
        ("hh_rlhf", replace(PAIR, strength=float("nan")), "strength"),
        ("hh_rlhf", replace(PAIR, prompt=(user("a\n\nHuman: b"),)), "expected assistant after user; found user"),
        ("ranked", Group((user("Hi"),), (Completion((assistant("a"),), label=True),)), "label (true) would be lost"),
        ("prompt_only", PAIR, "completions: 2 would become 0"),
        ("prompt_completion", Group((user("Hi"),), (Completion((assistant("a"),), sampled=SAMPLED),)), "sampled"),
        ("group", replace(PAIR, extra={"id": 2**64}), "its values are not JSON"),
        ("group", replace(PAIR, extra={"at": object()}), "its values are not JSON"),
        ("group", replace(PAIR, extra={"id": "\ud800"}), "its values are not JSON"),
        ("group", replace(PAIR, extra={"x": float("inf")}), "extra.x: inf would become null"),
        ("preference", replace(PAIR, extra={"chosen": "x"}), "the extra column 'chosen' has the name"),
    ],
)
def test_what_a_format_cannot_hold_is_named(name: str, group: Group, lost: str) -> None:
    with pytest.raises(DataError, match="cannot hold this row") as error:
        FORMATS[name].write(group)
    assert lost in str(error.value)


def test_the_row_that_cannot_be_held_is_named_by_its_place() -> None:
    with pytest.raises(DataError, match=r"^prefs\.jsonl:218: the format 'prompt_only' cannot hold"):
        FORMATS["prompt_only"].write(replace(PAIR, file="prefs.jsonl", line=218))


def test_tuples_count_as_lists() -> None:
    assert FORMATS["preference"].write(replace(PAIR, extra={"ids": (1, 2)}))["ids"] == (1, 2)


def test_truings_own_column_is_refused() -> None:
    with pytest.raises(RowError, match="as_read: this name is Truing's own; rename the column"):
        FORMATS["prompt_only"].read({"prompt": "a", AS_READ: 1})


def test_an_error_uses_the_files_own_name_of_a_column() -> None:
    with pytest.raises(RowError, match=r"^a\.jsonl:3: response: expected text or a list of turns; found 4"):
        FORMATS["prompt_completion"].read({"prompt": "a", "response": 4}, "a.jsonl", 3)


BARE = {"name": "f", "parameters": {}}
WRAPPED = {"type": "function", "function": BARE}


@pytest.mark.parametrize("tools", [[BARE], [WRAPPED], '[{"name": "f", "parameters": {}}]'])
def test_tools_reach_the_chat_template_in_one_shape(tools: Any) -> None:
    row = {"prompt": [{"role": "user", "content": "Hi"}], "tools": tools}
    group = FORMATS["prompt_only"].read(row)
    assert group.extra["tools"] == [WRAPPED]
    assert FORMATS["prompt_only"].write(group) == row


@pytest.mark.parametrize("tools", ["[", 3, [3], '{"a": 1}'])
def test_tools_that_are_none_are_refused(tools: Any) -> None:
    with pytest.raises(RowError, match=r"^tools"):
        FORMATS["prompt_only"].read({"prompt": "Hi", "tools": tools})
