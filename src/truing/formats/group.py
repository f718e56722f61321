"""Truing's own rows: `records.to_json` as it is, which holds whatever a Group can hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import get_args

from truing.formats.checks import (
    Json,
    RowError,
    expect_bool,
    expect_list,
    expect_number,
    expect_object,
    expect_text,
    holds,
    is_number,
    shown,
)
from truing.formats.format import Format, Notes, Row
from truing.formats.turns import ROLES
from truing.records import TEXT_ROLE, FinishReason, Group, Sampled, from_json, to_json

_COLUMNS = ("prompt", "completions", "weight", "strength", "extra")
_COMPLETION = ("messages", "rank", "score", "label", "source", "sampled", "steps")
_SAMPLED = tuple(field.name for field in fields(Sampled))


def _matches(row: Mapping[str, Json]) -> bool:
    answers = row.get("completions")
    if not isinstance(row.get("prompt"), list) or not isinstance(answers, list) or set(row) - set(_COLUMNS):
        return False
    return not answers or holds(answers, "messages")


def read_group(row: Row) -> Group:
    """Every field checked, then `records.from_json`."""
    columns = {name: row.take(name) for name in list(row.columns)}
    _refuse_unknown(columns, _COLUMNS, "")
    for name in ("prompt", "completions"):
        if not isinstance(columns.get(name), list):
            raise RowError(f"expected a list; found {shown(columns.get(name))}; fix it or drop the line", name)
    _check_messages(columns["prompt"], "prompt")
    for i, answer in enumerate(columns["completions"]):
        _check_completion(answer, f"completions[{i}]")
    for name in ("weight", "strength"):
        if name in columns:
            expect_number(columns[name], name)
    if "extra" in columns:
        expect_object(columns["extra"], "extra")
    return from_json(columns)


def _refuse_unknown(value: Mapping[str, Json], known: Sequence[str], path: str) -> None:
    for name in value:
        if name not in known:
            raise RowError(f"unknown field '{name}'; a row of this format has {', '.join(known)}", path)


def _check_messages(messages: Sequence[Json], path: str) -> None:
    for i, message in enumerate(messages):
        where = f"{path}[{i}]"
        _refuse_unknown(expect_object(message, where), ("role", "content", "extra"), where)
        if message.get("role") not in (*ROLES, TEXT_ROLE):
            expected = ", ".join((*ROLES, TEXT_ROLE))
            raise RowError(f"expected one of {expected}; found {shown(message.get('role'))}; fix it", f"{where}.role")
        expect_text(message.get("content"), f"{where}.content")
        expect_object(message.get("extra", {}), f"{where}.extra")


def _check_completion(value: Json, path: str) -> None:
    answer = expect_object(value, path)
    _refuse_unknown(answer, _COMPLETION, path)
    _check_messages(expect_list(answer.get("messages"), f"{path}.messages"), f"{path}.messages")
    if "rank" in answer:
        _expect_count(answer["rank"], f"{path}.rank")
    if "score" in answer:
        expect_number(answer["score"], f"{path}.score")
    if "label" in answer:
        expect_bool(answer["label"], f"{path}.label")
    if "source" in answer:
        expect_text(answer["source"], f"{path}.source")
    if "steps" in answer:
        for i, step in enumerate(expect_list(answer["steps"], f"{path}.steps")):
            _check_step(expect_object(step, f"{path}.steps[{i}]"), f"{path}.steps[{i}]")
    if "sampled" in answer:
        _check_sampled(expect_object(answer["sampled"], f"{path}.sampled"), f"{path}.sampled")


def _check_step(step: Mapping[str, Json], path: str) -> None:
    _refuse_unknown(step, ("end", "right"), path)
    _expect_count(step.get("end"), f"{path}.end")
    if "right" in step:
        expect_bool(step["right"], f"{path}.right")


def _check_sampled(sampled: Mapping[str, Json], path: str) -> None:
    _refuse_unknown(sampled, _SAMPLED, path)
    for name in ("tokens", "logprobs"):
        if not isinstance(sampled.get(name), list):
            raise RowError(f"expected a list; found {shown(sampled.get(name))}; fix it", f"{path}.{name}")
    # Thousands of numbers a row: look for a bad one first, and give it a name only then.
    for i in (i for i, token in enumerate(sampled["tokens"]) if type(token) is not int or token < 0):
        _expect_count(sampled["tokens"][i], f"{path}.tokens[{i}]")
    for i in (i for i, logprob in enumerate(sampled["logprobs"]) if not is_number(logprob)):
        expect_number(sampled["logprobs"][i], f"{path}.logprobs[{i}]")
    reason = sampled.get("finish_reason")
    if reason not in get_args(FinishReason):
        raise RowError(f"expected stop, length or refused; found {shown(reason)}", f"{path}.finish_reason")
    for name in ("tokenizer", "policy"):
        expect_text(sampled.get(name), f"{path}.{name}")


def _expect_count(value: Json, path: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise RowError(f"expected a whole number, 0 or more; found {shown(value)}; fix it", path)


def write_group(group: Group, notes: Notes) -> dict[str, Json]:
    """`records.to_json`."""
    return to_json(group)


GROUP = Format(
    name="group",
    describe="Truing groups",
    matches=_matches,
    reader=read_group,
    writer=write_group,
    flat=False,
)
