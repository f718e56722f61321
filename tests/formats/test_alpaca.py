"""Alpaca and its relatives, by rows whose reading is known."""

from __future__ import annotations

from typing import Any

import pytest

from truing.formats import FORMATS
from truing.formats.checks import RowError
from truing.records import Completion, Group, Message, assistant, comparison, user

ALPACA = FORMATS["alpaca"]


def answer(content: str, **fields: Any) -> Completion:
    return Completion((assistant(content),), **fields)


def read(row: dict[str, Any]) -> Group:
    group = ALPACA.read(row)
    return Group(group.prompt, group.completions, strength=group.strength)


def test_all_columns() -> None:
    row = {"instruction": "Add", "input": "1, 2", "output": "3", "system": "Be brief", "history": [["Hi", "Hello"]]}
    prompt = (Message("system", "Be brief"), user("Hi"), assistant("Hello"), user("Add\n1, 2"))
    assert read(row) == Group(prompt, (answer("3"),))


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "Hi", "output": "Hello"},
        {"instruction": "Hi", "input": "", "output": "Hello", "history": [], "system": None},
        {"instruction": "", "input": "Hi", "output": "Hello"},
        {"input": "Hi", "output": "Hello"},
        {"question": "Hi", "answer": "Hello"},
        {"instruction": "Hi", "context": "", "response": "Hello"},
    ],
)
def test_other_names_and_blank_columns_change_nothing(row: dict[str, Any]) -> None:
    assert read(row) == Group((user("Hi"),), (answer("Hello"),))


@pytest.mark.parametrize(
    "row",
    [
        {"system": "S", "question": "Hi", "chosen": "Hello", "rejected": "No"},  # axolotl's chatml.intel
        {"system": "S", "instruction": "Hi", "chosen_response": "Hello", "rejected_response": "No"},  # chatml.argilla
        {"system": "S", "input": "Hi", "chosen": "Hello", "rejected": "No"},  # chatml.icr
        {"system": "S", "prompt": "Hi", "chosen": "Hello", "rejected": "No"},  # chatml.prompt_pairs
    ],
)
def test_axolotls_preference_data(row: dict[str, Any]) -> None:
    assert read(row) == comparison((Message("system", "S"), user("Hi")), answer("Hello"), answer("No"))
    assert ALPACA.matches(row)
    assert ALPACA.write(ALPACA.read(row)) == row


def test_a_list_of_outputs_is_a_ranking() -> None:
    row = {"instruction": "Hi", "output": ["a", "b", "c"]}
    assert read(row).completions == (answer("a", rank=0), answer("b", rank=1), answer("c", rank=2))


def test_a_thumb() -> None:
    assert read({"instruction": "Hi", "output": "a", "kto_tag": False}).completions == (answer("a", label=False),)


def test_a_text_after_the_instruction_is_parted_again_where_it_was() -> None:
    row = {"instruction": "a\nb", "input": "c\nd", "output": "e"}
    assert ALPACA.write(ALPACA.read(row)) == row


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"instruction": "", "input": "", "output": "a"}, "instruction: an empty user turn;"),
        ({"instruction": "Hi", "output": ["a", "b", "a"]}, "output[2]: equal to output[0], yet ranked differently;"),
        ({"instruction": "Hi", "output": []}, "output: the list is empty;"),
        ({"instruction": "Hi", "output": ["a", 3]}, "output[1]: expected text; found 3;"),
        ({"instruction": "Hi", "output": None}, "output: expected text; found null;"),
        ({"instruction": "Hi", "chosen": "a", "rejected": "a"}, "rejected: equal to 'chosen'; drop the line"),
        ({"instruction": "Hi", "chosen": "a"}, "rejected: this column is missing;"),
        ({"instruction": "Hi", "output": "a", "history": [["b"]]}, "history[0]: expected a pair of two texts"),
        ({"instruction": "Hi", "output": "a", "history": [["b", 3]]}, "history[0][1]: expected text; found 3;"),
        ({"instruction": "Hi", "output": "a", "history": [["", "c"]]}, "history[0][0]: an empty user turn;"),
        ({"instruction": "Hi", "output": "a", "kto_tag": "yes"}, "kto_tag: expected true or false; found 'yes';"),
        ({"question": 4, "answer": "a"}, "question: expected text; found 4;"),
    ],
)
def test_a_bad_row_is_refused_in_these_words(row: dict[str, Any], problem: str) -> None:
    with pytest.raises(RowError) as error:
        ALPACA.read(row, "a.json", 2)
    assert str(error.value).startswith(f"a.json:2: {problem}")
