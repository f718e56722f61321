"""ShareGPT: conversations of `{from, value}`, by LLaMA-Factory's names for tools, pairs and thumbs."""

from __future__ import annotations

import json
from collections.abc import Mapping

from truing.formats.checks import Json, RowError, expect_bool, expect_list, expect_object, expect_text, holds, shown
from truing.formats.format import Format, Notes, Row
from truing.formats.strict_json import parse_text
from truing.formats.turns import (
    COMPARED,
    Turns,
    check_answer,
    check_prompt,
    expect_turns,
    first_answer,
    paths,
    read_comparison,
    read_single,
    write_comparison,
    write_single,
)
from truing.records import Group, Message, assistant

_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "observation": "tool",
    "tool": "tool",
    "function_call": "assistant",
}
_NAMES = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}


def _matches(row: Mapping[str, Json]) -> bool:
    return holds(row.get("conversations"), "from")


def read_sharegpt(row: Row) -> Group:
    """`{conversations}` alone, or as the prompt of `chosen` and `rejected`, or judged by `kto_tag`."""
    turns = _read_turns(row, row.take("conversations"), "conversations")
    where = paths("conversations", turns)
    if "system" in row:
        row.notes["system"] = "column"
        turns = (Message("system", expect_text(row.take("system"), "system")), *turns)
        where.insert(0, "system")
    if "chosen" in row or "rejected" in row:
        check_prompt(turns, where)
        answers = [_read_answer(row, row.take(name), name) for name in ("chosen", "rejected")]
        for name, answer in zip(("chosen", "rejected"), answers, strict=True):
            check_answer(turns, answer, paths(name, answer))
        return read_comparison(row, turns, *answers)
    label = expect_bool(row.take("kto_tag"), "kto_tag") if "kto_tag" in row else None
    # A thumb judges the last answer; without one, every answer of the conversation is a demonstration.
    first = first_answer(turns, where)
    if label is not None:
        first = len(turns) - 1
        check_prompt(turns[:first], where[:first])
    return Group(turns[:first], (read_single(row, turns[first:], label),))


def _read_turns(row: Row, value: Json, path: str) -> Turns:
    turns = expect_list(value, path)
    return tuple(_read_turn(row, turn, f"{path}[{i}]") for i, turn in enumerate(turns))


def _read_turn(row: Row, value: Json, path: str) -> Message:
    turn = dict(expect_object(value, path))
    name = turn.pop("from", None)
    if not isinstance(name, str) or name not in _ROLES:
        found = "nothing" if name is None else shown(name)
        advice = "fix the name or drop the line"
        raise RowError(f"expected one of {', '.join(_ROLES)}; found {found}; {advice}", f"{path}.from")
    said = expect_text(turn.pop("value", None), f"{path}.value")
    if name == "function_call":
        return _read_calls(row, said, turn, path)
    if name != _NAMES[_ROLES[name]]:
        row.note("from", path, name)
    return Message(_ROLES[name], said, turn)


def _read_calls(row: Row, said: str, others: dict[str, Json], path: str) -> Message:
    """Tool calls stand as JSON in the text; chat templates want them as objects."""
    try:
        value = parse_text(said)
    except RowError as found:
        raise RowError(f"a function_call must be JSON: {found.what}", f"{path}.value") from None
    calls = value if isinstance(value, list) and value else [value]
    for call in calls:
        if not isinstance(call, dict) or not isinstance(call.get("name"), str):
            raise RowError("a function_call must be JSON with a name and arguments; fix it", f"{path}.value")
    if "tool_calls" in others:
        raise RowError("a function_call that has tool_calls besides; keep one of them", path)
    message = Message("assistant", "", {"tool_calls": [{"type": "function", "function": c} for c in calls], **others})
    if said != _write_calls(message):
        row.note("calls", path, said)
    return message


def _write_calls(message: Message) -> str:
    calls = [call["function"] for call in message.extra["tool_calls"]]
    return json.dumps(calls[0] if len(calls) == 1 else calls, ensure_ascii=False)


def _read_answer(row: Row, value: Json, path: str) -> Turns:
    """An answer as text, as one turn, or as a list of turns."""
    value = expect_turns(value, path)
    if isinstance(value, str):
        row.note("shape", path, "text")
        return (assistant(value),)
    if isinstance(value, list):
        row.note("shape", path, "list")
        return _read_turns(row, value, path)
    return (_read_turn(row, value, path),)


def write_sharegpt(group: Group, notes: Notes) -> dict[str, Json]:
    """The inverse of `read_sharegpt`."""
    row: dict[str, Json] = {}
    prompt = group.prompt
    if notes.get("system") == "column":
        row["system"] = prompt[0].content
        prompt = prompt[1:]
    if len(group.completions) == 2:
        chosen, rejected, columns = write_comparison(group, notes)
        row["conversations"] = _write_turns(prompt, "conversations", notes)
        row["chosen"] = _write_answer(chosen, "chosen", notes)
        row["rejected"] = _write_answer(rejected, "rejected", notes)
        return {**row, **columns}
    answer, columns = write_single(group)
    row["conversations"] = _write_turns((*prompt, *answer.messages), "conversations", notes)
    if answer.label is not None:
        row["kto_tag"] = answer.label
    return {**row, **columns}


def _write_turns(turns: Turns, path: str, notes: Notes) -> list[Json]:
    return [_write_turn(turn, f"{path}[{i}]", notes) for i, turn in enumerate(turns)]


def _write_turn(message: Message, path: str, notes: Notes) -> Json:
    if message.role not in _NAMES:
        raise RowError(f"a {message.role} turn has no place in a conversation", path)
    others = {name: value for name, value in message.extra.items() if name != "tool_calls"}
    if _is_call(message):
        said = notes.get("calls", {}).get(path) or _write_calls(message)
        return {"from": "function_call", "value": said, **others}
    name = notes.get("from", {}).get(path) or _NAMES[message.role]
    return {"from": name, "value": message.content, **message.extra}


def _is_call(message: Message) -> bool:
    calls = message.extra.get("tool_calls")
    return isinstance(calls, list) and all(isinstance(call, dict) and "function" in call for call in calls)


def _write_answer(answer: Turns, path: str, notes: Notes) -> Json:
    shape = notes.get("shape", {}).get(path)
    if shape == "text":
        return answer[0].content
    if shape == "list" or len(answer) != 1:
        return _write_turns(answer, path, notes)
    return _write_turn(answer[0], path, notes)


SHAREGPT = Format(
    name="sharegpt",
    describe="ShareGPT",
    matches=_matches,
    reader=read_sharegpt,
    writer=write_sharegpt,
    optional=("system", *COMPARED),
)
