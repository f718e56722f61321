"""The formats of TRL, each in two styles: text is taken verbatim, lists of turns are conversations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise

from truing.formats.checks import Json, RowError, expect_bool, expect_list, expect_text, holds
from truing.formats.format import Format, Notes, Row, canonical
from truing.formats.hh import is_transcript_row
from truing.formats.turns import (
    COMPARED,
    Turns,
    check_answer,
    check_prompt,
    expect_turns,
    first_answer,
    is_verbatim,
    only_content,
    paths,
    read_answer,
    read_comparison,
    read_exchange,
    read_single,
    read_turns,
    shared_turns,
    verbatim,
    write_comparison,
    write_exchange,
    write_single,
    write_turns,
)
from truing.records import AnswerStep, Group, text

_MESSAGES = {"messages": ("conversations", "conversation")}
_COMPLETION = {"completion": ("response", "output")}
_UNPAIRED = {**_COMPLETION, "label": ("kto_tag",)}
_PREFERENCE = {"chosen": ("chosen_response",), "rejected": ("rejected_response",)}
_IMPLICIT = {"chosen": ("messages",), "rejected": ("rejected_messages",)}
_ANSWERS = {
    *("completion", "response", "output", "completions", "responses", "candidates"),
    *("chosen", "rejected", "chosen_response", "rejected_response", "rejected_messages"),
}
_QUESTIONS = ("instruction", "question", "input")
_STEP_END = "\n"
"""What stands between two steps of an answer."""


def _matches_language_modeling(row: Mapping[str, Json]) -> bool:
    if isinstance(row.get("text"), str):
        return not (_ANSWERS | {"prompt", "messages"}) & row.keys()
    others = {"rejected", "chosen", "rejected_response", "rejected_messages"} & row.keys()
    return holds(canonical(row, _MESSAGES).get("messages"), "role") and not others and not _is_thumb(row)


def read_language_modeling(row: Row) -> Group:
    """`{text}`, or `{messages}` with the prompt up to the first assistant turn and the rest as its answer."""
    if "messages" not in row:
        content = expect_text(row.take("text"), "text")
        if not content:
            raise RowError("the text is empty; drop the line", "text")
        return Group((), (read_single(row, (text(content),)),))
    turns = read_turns(row, row.take("messages"), "messages")
    first = first_answer(turns, paths("messages", turns))
    return Group(turns[:first], (read_single(row, turns[first:]),))


def write_language_modeling(group: Group, notes: Notes) -> dict[str, Json]:
    """The inverse of `read_language_modeling`."""
    answer, columns = write_single(group)
    if is_verbatim(answer.messages):
        return {"text": verbatim(answer.messages, "text"), **columns}
    return {"messages": write_turns((*group.prompt, *answer.messages), "messages", notes), **columns}


def _matches_prompt_completion(row: Mapping[str, Json]) -> bool:
    others = {"chosen", "rejected", "messages"} & row.keys()
    return {"prompt", "completion"} <= canonical(row, _COMPLETION).keys() and not others and not _is_thumb(row)


def read_prompt_completion(row: Row) -> Group:
    """`{prompt, completion}`."""
    prompt, [answer] = read_exchange(row, row.take("prompt"), {"completion": row.take("completion")})
    return Group(prompt, (read_single(row, answer),))


def write_prompt_completion(group: Group, notes: Notes) -> dict[str, Json]:
    """The inverse of `read_prompt_completion`."""
    answer, columns = write_single(group)
    prompt, [completion] = write_exchange(group, {"completion": answer.messages}, notes)
    return {"prompt": prompt, "completion": completion, **columns}


def _matches_prompt_only(row: Mapping[str, Json]) -> bool:
    return "prompt" in row and not (_ANSWERS | {"messages", "text", "conversations", "instruction"}) & row.keys()


def read_prompt_only(row: Row) -> Group:
    """`{prompt}`."""
    prompt = expect_turns(row.take("prompt"), "prompt")
    if isinstance(prompt, str):
        return Group((text(prompt),))
    turns = read_turns(row, prompt, "prompt")
    check_prompt(turns, paths("prompt", turns))
    return Group(turns)


def write_prompt_only(group: Group, notes: Notes) -> dict[str, Json]:
    """The inverse of `read_prompt_only`."""
    return {"prompt": write_exchange(group, {}, notes)[0]}


def _matches_preference(row: Mapping[str, Json]) -> bool:
    named = canonical(row, _PREFERENCE)
    if "prompt" not in row and "chosen" not in named:
        return holds(row.get("messages"), "role") and "rejected" in named
    return {"prompt", "chosen", "rejected"} <= named.keys() and not is_transcript_row(row)


def read_preference(row: Row) -> Group:
    """`{prompt, chosen, rejected}`; or `{messages, rejected_response}`, where the messages end with the chosen one."""
    if "prompt" not in row and "chosen" not in row:
        prompt, chosen = _read_last_answer(row)
        rejected = read_answer(row, prompt, row.take("rejected"), "rejected")
        return read_comparison(row, prompt, chosen, rejected)
    told, answers = row.take("prompt"), {name: row.take(name) for name in ("chosen", "rejected")}
    if isinstance(told, str) and isinstance(answers["chosen"], list) and isinstance(answers["rejected"], list):
        return _read_prompt_told_twice(row, told, answers)
    prompt, [chosen, rejected] = read_exchange(row, told, answers)
    return read_comparison(row, prompt, chosen, rejected)


def _read_prompt_told_twice(row: Row, told: str, answers: Mapping[str, Json]) -> Group:
    """A prompt in text beside two lists of turns: whole conversations that hold it again, or answers alone."""
    whole = {name: read_turns(row, value, name) for name, value in answers.items()}
    if whole["chosen"][0].role == "assistant":
        prompt, [chosen, rejected] = read_exchange(row, told, answers)
        return read_comparison(row, prompt, chosen, rejected)
    shared = shared_turns(whole["chosen"], whole["rejected"])
    turn = next((i for i, turn in enumerate(whole["chosen"][:shared]) if turn.content == told), None)
    if turn is None:
        raise RowError("says something else than the turns in 'chosen'; drop this column or the line", "prompt")
    row.notes["prompt_turn"] = turn
    for name in answers:
        row.note("shape", name, "whole")
    return _read_conversations(row, whole["chosen"], whole["rejected"], shared)


def _read_conversations(row: Row, chosen: Turns, rejected: Turns, shared: int) -> Group:
    prompt = chosen[:shared]
    check_prompt(prompt, paths("chosen", prompt))
    check_answer(prompt, chosen[shared:], paths("chosen", chosen)[shared:])
    check_answer(prompt, rejected[shared:], paths("rejected", rejected)[shared:])
    return read_comparison(row, prompt, chosen[shared:], rejected[shared:])


def _read_last_answer(row: Row) -> tuple[Turns, Turns]:
    """`{messages}` of which the last turn alone is the answer."""
    row.notes["layout"] = "messages"
    turns = read_turns(row, row.take("messages"), "messages")
    prompt, answer, where = turns[:-1], turns[-1:], paths("messages", turns)
    check_answer((), turns, where)
    check_prompt(prompt, where[:-1])
    return prompt, answer


def write_preference(group: Group, notes: Notes) -> dict[str, Json]:
    """The inverse of `read_preference`."""
    chosen, rejected, columns = write_comparison(group, notes)
    prompt, [best, worst] = write_exchange(group, {"chosen": chosen, "rejected": rejected}, notes)
    if notes.get("layout") == "messages":
        return {"messages": write_turns((*group.prompt, *chosen), "messages", notes), "rejected": worst, **columns}
    return {"prompt": prompt, "chosen": best, "rejected": worst, **columns}


def _matches_preference_implicit(row: Mapping[str, Json]) -> bool:
    named = canonical(row, _IMPLICIT)
    if "prompt" in row or not {"chosen", "rejected"} <= named.keys() or is_transcript_row(row):
        return False
    others = {"conversations"} if isinstance(named["chosen"], list) else {"conversations", "messages", *_QUESTIONS}
    return not others & row.keys()


def read_preference_implicit(row: Row) -> Group:
    """`{chosen, rejected}`, whose common beginning is the prompt."""
    chosen, rejected = row.take("chosen"), row.take("rejected")
    if isinstance(chosen, str) and isinstance(rejected, str):
        shared = shared_words(chosen, rejected)
        prompt = (text(chosen[:shared]),) if shared else ()
        return read_comparison(row, prompt, (text(chosen[shared:]),), (text(rejected[shared:]),))
    best, worst = read_turns(row, chosen, "chosen"), read_turns(row, rejected, "rejected")
    return _read_conversations(row, best, worst, shared_turns(best, worst))


def shared_words(chosen: str, rejected: str) -> int:
    """Length of the common beginning, cut where a word ends: a token must not straddle prompt and answer."""
    pairs = enumerate(zip(chosen, rejected, strict=False))
    shared = next((i for i, (one, other) in pairs if one != other), min(len(chosen), len(rejected)))
    while shared and not chosen[shared - 1].isspace():
        shared -= 1
    return max(shared - 1, 0)


def write_preference_implicit(group: Group, notes: Notes) -> dict[str, Json]:
    """The inverse of `read_preference_implicit`."""
    chosen, rejected, columns = write_comparison(group, notes)
    if is_verbatim(chosen):
        prompt = verbatim(group.prompt, "prompt") if group.prompt else ""
        return {
            "chosen": prompt + verbatim(chosen, "chosen"),
            "rejected": prompt + verbatim(rejected, "rejected"),
            **columns,
        }
    best = write_turns((*group.prompt, *chosen), "chosen", notes)
    worst = write_turns((*group.prompt, *rejected), "rejected", notes)
    return {"chosen": best, "rejected": worst, **columns}


def _is_thumb(row: Mapping[str, Json]) -> bool:
    # 0 and 1 count here, so that such a row is refused as a thumb and not taken, bad ones too, for a demonstration.
    return canonical(row, _UNPAIRED).get("label") in (False, True)


def _matches_unpaired(row: Mapping[str, Json]) -> bool:
    exchange = {"prompt", "completion"} <= canonical(row, _UNPAIRED).keys()
    return _is_thumb(row) and (exchange or holds(row.get("messages"), "role"))


def read_unpaired(row: Row) -> Group:
    """`{prompt, completion, label}`; or `{messages, label}`, where the label judges the last turn."""
    label = expect_bool(row.take("label"), "label")
    if "prompt" not in row and "messages" in row:
        prompt, answer = _read_last_answer(row)
    else:
        prompt, [answer] = read_exchange(row, row.take("prompt"), {"completion": row.take("completion")})
    return Group(prompt, (read_single(row, answer, label),))


def write_unpaired(group: Group, notes: Notes) -> dict[str, Json]:
    """The inverse of `read_unpaired`."""
    answer, columns = write_single(group)
    columns["label"] = answer.label
    if notes.get("layout") == "messages":
        return {"messages": write_turns((*group.prompt, *answer.messages), "messages", notes), **columns}
    prompt, [completion] = write_exchange(group, {"completion": answer.messages}, notes)
    return {"prompt": prompt, "completion": completion, **columns}


def _matches_stepwise(row: Mapping[str, Json]) -> bool:
    steps = row.get("completions")
    return {"prompt", "labels"} <= row.keys() and isinstance(steps, list) and all(isinstance(s, str) for s in steps)


def read_stepwise(row: Row) -> Group:
    """`{prompt, completions, labels}`: the steps of one answer, and whether each is right.

    They become one text, with a line break after each but the last.
    """
    steps = expect_list(row.take("completions"), "completions")
    words = [expect_text(step, f"completions[{i}]") for i, step in enumerate(steps)]
    labels = expect_list(row.take("labels"), "labels")
    if len(labels) != len(words):
        raise RowError(f"expected {len(words)} labels, one for each step; found {len(labels)}; fix the list", "labels")
    blank = next((i for i, step in enumerate(words) if not step.strip()), None)
    if blank is not None:
        raise RowError("the step is empty; take it and its label out", f"completions[{blank}]")
    ends = accumulate(len(step) for step in _in_lines(words))
    judged = [expect_bool(label, f"labels[{i}]") for i, label in enumerate(labels)]
    prompt, [answer] = read_exchange(row, row.take("prompt"), {"completions": "".join(_in_lines(words))})
    return Group(prompt, (replace(read_single(row, answer), steps=tuple(map(AnswerStep, ends, judged))),))


def write_stepwise(group: Group, notes: Notes) -> dict[str, Json]:
    """The inverse of `read_stepwise`."""
    answer, columns = write_single(group)
    if not answer.steps:
        raise RowError("it holds an answer in steps; this one has none", "completions")
    content, ends = only_content(answer.messages, "completions"), [0, *(step.end for step in answer.steps)]
    steps = [content[start:end] for start, end in pairwise(ends)]
    words = [step.removesuffix(_STEP_END) for step in steps[:-1]] + steps[-1:]
    prompt, _ = write_exchange(group, {}, notes)
    return {"prompt": prompt, "completions": words, "labels": [step.right for step in answer.steps], **columns}


def _in_lines(steps: Sequence[str]) -> list[str]:
    return [*(step + _STEP_END for step in steps[:-1]), steps[-1]]


FORMATS = (
    Format(
        name="language_modeling",
        describe="TRL language modeling",
        matches=_matches_language_modeling,
        reader=read_language_modeling,
        writer=write_language_modeling,
        aliases=_MESSAGES,
    ),
    Format(
        name="prompt_completion",
        describe="TRL prompt-completion",
        matches=_matches_prompt_completion,
        reader=read_prompt_completion,
        writer=write_prompt_completion,
        aliases=_COMPLETION,
    ),
    Format(
        name="prompt_only",
        describe="TRL prompt-only",
        matches=_matches_prompt_only,
        reader=read_prompt_only,
        writer=write_prompt_only,
    ),
    Format(
        name="preference",
        describe="TRL preference, explicit prompt",
        matches=_matches_preference,
        reader=read_preference,
        writer=write_preference,
        aliases=_PREFERENCE,
        optional=COMPARED,
    ),
    Format(
        name="preference_implicit",
        describe="TRL preference, implicit prompt",
        matches=_matches_preference_implicit,
        reader=read_preference_implicit,
        writer=write_preference_implicit,
        aliases=_IMPLICIT,
        optional=COMPARED,
    ),
    Format(
        name="unpaired",
        describe="TRL unpaired preference, thumbs",
        matches=_matches_unpaired,
        reader=read_unpaired,
        writer=write_unpaired,
        aliases=_UNPAIRED,
    ),
    Format(
        name="stepwise",
        describe="TRL stepwise supervision",
        matches=_matches_stepwise,
        reader=read_stepwise,
        writer=write_stepwise,
    ),
)
