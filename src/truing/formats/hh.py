"""Anthropic's hh-rlhf: transcripts of `\\n\\nHuman: ...\\n\\nAssistant: ...`, made into turns.

A row is two whole transcripts, {chosen, rejected}; or, once somebody has split them, {prompt, chosen, rejected} where
the prompt is the transcript up to the last `\\n\\nAssistant:`. The turns lose the white space around them: it belongs
to the transcript and not to what was said.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from truing.formats.checks import Json, RowError, expect_text
from truing.formats.format import Format, Notes, Row
from truing.formats.turns import (
    COMPARED,
    Turns,
    check_answer,
    check_prompt,
    paths,
    read_comparison,
    shared_turns,
    write_comparison,
)
from truing.records import Group, Message

_MARK = re.compile(r"\n\n(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}
_NAMES = {role: name for name, role in _ROLES.items()}
_CUE = "\n\nAssistant:"


def is_transcript_row(row: Mapping[str, Json]) -> bool:
    """True if the row's texts are transcripts in this notation."""
    chosen, rejected, prompt = (row.get(name) for name in ("chosen", "rejected", "prompt"))
    if not isinstance(chosen, str) or not isinstance(rejected, str):
        return False
    if "prompt" in row:
        return isinstance(prompt, str) and _is_transcript(prompt) and prompt.rstrip().endswith(_CUE)
    return _is_transcript(chosen) and _is_transcript(rejected)


def _is_transcript(content: str) -> bool:
    return content.startswith("\n\nHuman:")


def read_hh(row: Row) -> Group:
    """Two transcripts with a common beginning, or that beginning with two answers."""
    if "prompt" in row:
        return _read_split(row)
    chosen = _read_transcript(row, row.take("chosen"), "chosen")
    rejected = _read_transcript(row, row.take("rejected"), "rejected")
    shared = shared_turns(chosen, rejected)
    prompt, best, worst = chosen[:shared], chosen[shared:], rejected[shared:]
    check_prompt(prompt, paths("chosen", prompt))
    check_answer(prompt, best, paths("chosen", chosen)[shared:])
    check_answer(prompt, worst, paths("rejected", rejected)[shared:])
    return read_comparison(row, prompt, best, worst)


def _read_split(row: Row) -> Group:
    row.notes["layout"] = "prompt"
    if row.columns.get("same_prompt") is False:
        raise RowError("the two answers were given to different dialogues; drop the line", "same_prompt")
    whole = expect_text(row.take("prompt"), "prompt")
    if not whole.endswith(_CUE):
        raise RowError(f"a prompt must end with {_CUE!r}, where the answers go on; add it or drop the line", "prompt")
    prompt = _read_transcript(row, whole.removesuffix(_CUE), "prompt")
    check_prompt(prompt, paths("prompt", prompt))
    answers = []
    for name in ("chosen", "rejected"):
        answer = _read_transcript(row, _CUE + expect_text(row.take(name), name), name)
        check_answer(prompt, answer, paths(name, answer))
        answers.append(answer)
    return read_comparison(row, prompt, *answers)


def _read_transcript(row: Row, value: Json, path: str) -> Turns:
    preface, *pieces = _MARK.split(expect_text(value, path))
    if preface or not pieces:
        raise RowError(r"a transcript begins with '\n\nHuman:' or '\n\nAssistant:'; add it or drop the line", path)
    turns = []
    for i, (name, said) in enumerate(zip(pieces[::2], pieces[1::2], strict=True)):
        content = said.strip()
        turns.append(Message(_ROLES[name], content))
        if said != f" {content}":
            before, _, after = said.partition(content) if content else (said, "", "")
            row.note("space", f"{path}[{i}]", [before, after])
    return tuple(turns)


def write_hh(group: Group, notes: Notes) -> dict[str, Json]:
    """The inverse of `read_hh`."""
    chosen, rejected, columns = write_comparison(group, notes)
    if notes.get("layout") != "prompt":
        best = _write_transcript((*group.prompt, *chosen), "chosen", notes)
        worst = _write_transcript((*group.prompt, *rejected), "rejected", notes)
        return {"chosen": best, "rejected": worst, **columns}
    return {
        "prompt": _write_transcript(group.prompt, "prompt", notes) + _CUE,
        "chosen": _write_transcript(chosen, "chosen", notes).removeprefix(_CUE),
        "rejected": _write_transcript(rejected, "rejected", notes).removeprefix(_CUE),
        **columns,
    }


def _write_transcript(turns: Turns, path: str, notes: Notes) -> str:
    transcript = ""
    for i, turn in enumerate(turns):
        if turn.role not in _NAMES:
            raise RowError(f"a {turn.role} turn has no place in a transcript", f"{path}[{i}]")
        before, after = notes.get("space", {}).get(f"{path}[{i}]", [" ", ""])
        transcript += f"\n\n{_NAMES[turn.role]}:{before}{turn.content}{after}"
    return transcript


HH_RLHF = Format(
    name="hh_rlhf",
    describe="Anthropic hh-rlhf, transcripts",
    matches=is_transcript_row,
    reader=read_hh,
    writer=write_hh,
    optional=COMPARED,
)
