"""Alpaca and its relatives: one instruction with its input, and an output, a ranking, a pair or a thumb.

The prompt is the instruction and the input, a line break between them, as a user turn; `system` and `history` come
before it. Names of question-answering and of axolotl's preference data (`question`, `response`, `chosen_response`) are
taken as well: what they call question and answer are turns, not verbatim text.
"""

from __future__ import annotations

from collections.abc import Mapping

from truing.formats.checks import Json, RowError, expect_bool, expect_list, expect_text
from truing.formats.format import Format, Notes, Row, canonical
from truing.formats.turns import (
    COMPARED,
    Turns,
    check_prompt,
    check_ranking,
    only_content,
    read_comparison,
    read_single,
    write_comparison,
    write_single,
)
from truing.records import Completion, Group, Message, assistant, user

_ALIASES = {
    "instruction": ("question", "prompt", "input"),
    "input": ("context",),
    "output": ("response", "answer", "completion"),
    "chosen": ("chosen_response",),
    "rejected": ("rejected_response",),
    "system": ("system_prompt",),
}


def _matches(row: Mapping[str, Json]) -> bool:
    named = canonical(row, _ALIASES)
    if "prompt" in row and not isinstance(named.get("system"), str):
        # A plain `prompt` is TRL's. Beside `system` it could be either, and the reader of the file must say which.
        return False
    texts = [named.get(name) for name in ("instruction", "output", "chosen", "rejected") if name in named]
    if not isinstance(named.get("instruction"), str) or "conversations" in row:
        return False
    answered = "output" in named or {"chosen", "rejected"} <= named.keys()
    return answered and all(isinstance(value, (str, list)) for value in texts)


def read_alpaca(row: Row) -> Group:
    """`{instruction, input, output, system, history}`, or `chosen` and `rejected` in place of the output."""
    prompt, where = _read_prompt(row)
    check_prompt(prompt, where)
    if "output" not in row:
        chosen, rejected = (expect_text(row.take(name), name) for name in ("chosen", "rejected"))
        return read_comparison(row, prompt, (assistant(chosen),), (assistant(rejected),))
    output = row.take("output")
    if isinstance(output, list):
        row.notes["layout"] = "list"
        return Group(prompt, _read_ranking(output))
    label = expect_bool(row.take("kto_tag"), "kto_tag") if "kto_tag" in row else None
    return Group(prompt, (read_single(row, (assistant(expect_text(output, "output")),), label),))


def _read_prompt(row: Row) -> tuple[Turns, list[str]]:
    turns: list[Message] = []
    where: list[str] = []
    if "system" in row:
        turns.append(Message("system", expect_text(row.take("system"), "system")))
        where.append("system")
    for i, pair in enumerate(expect_list(row.take("history"), "history") if "history" in row else ()):
        if not isinstance(pair, list) or len(pair) != 2:
            raise RowError("expected a pair of two texts, [user, assistant]; fix it or drop the line", f"history[{i}]")
        places = [f"history[{i}][0]", f"history[{i}][1]"]
        turns += [user(expect_text(pair[0], places[0])), assistant(expect_text(pair[1], places[1]))]
        where += places
    turns.append(user(_read_instruction(row)))
    where.append("instruction")
    return tuple(turns), where


def _read_instruction(row: Row) -> str:
    instruction = expect_text(row.take("instruction"), "instruction")
    if "input" not in row:
        return instruction
    # The two are joined; where the instruction ended is what it takes to part them again.
    row.notes["instruction_length"] = len(instruction)
    given = expect_text(row.take("input"), "input")
    return f"{instruction}\n{given}" if instruction else given


def _read_ranking(outputs: list[Json]) -> tuple[Completion, ...]:
    answers = []
    for rank, output in enumerate(expect_list(outputs, "output")):
        answers.append(Completion((assistant(expect_text(output, f"output[{rank}]")),), rank=rank))
    check_ranking(answers, "output")
    return tuple(answers)


def write_alpaca(group: Group, notes: Notes) -> dict[str, Json]:
    """The inverse of `read_alpaca`."""
    row = _write_prompt(group.prompt, notes)
    answers = group.completions
    said = [only_content(answer.messages, f"completions[{i}]") for i, answer in enumerate(answers)]
    if len(answers) == 2 and notes.get("layout") != "list":
        _, _, columns = write_comparison(group, notes)
        return {**row, "chosen": said[0], "rejected": said[1], **columns}
    if any(answer.rank is not None for answer in answers):
        return {**row, "output": said}
    answer, columns = write_single(group)
    if answer.label is not None:
        columns["kto_tag"] = answer.label
    return {**row, "output": said[0], **columns}


def _write_prompt(prompt: Turns, notes: Notes) -> dict[str, Json]:
    turns = list(prompt)
    row: dict[str, Json] = {}
    if turns and turns[0].role == "system":
        row["system"] = turns.pop(0).content
    if len(turns) % 2 == 0:
        raise RowError("expected pairs of user and assistant turns and a last user turn", "prompt")
    said = [turn.content for turn in turns]
    if said[:-1]:
        row["history"] = [said[i : i + 2] for i in range(0, len(said) - 1, 2)]
    length = notes.get("instruction_length")
    if length == 0:
        return {"instruction": "", "input": said[-1], **row}
    if length is None or said[-1][length] != "\n":
        return {"instruction": said[-1], **row}
    return {"instruction": said[-1][:length], "input": said[-1][length + 1 :], **row}


ALPACA = Format(
    name="alpaca",
    describe="Alpaca",
    matches=_matches,
    reader=read_alpaca,
    writer=write_alpaca,
    aliases=_ALIASES,
    optional=("input", "system", "history", *COMPARED),
)
