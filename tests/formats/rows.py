"""Strategies: rows of every format as other tools write them, and Groups as Truing makes them."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

from truing.records import Completion, Group, Message, Sampled, comparison

SETTINGS = settings(derandomize=True, deadline=None, max_examples=60, database=None)

# What breaks readers: marks of the notations themselves, white space, and letters beyond the basic plane.
SPICE = ["\n", "\n\n", " ", "  ", '"', "\\", ",", "[{", "}]", "🙂", "你好", "Human:", "Assistant:", "true", "null", "\x00"]
LETTERS = st.text(st.characters(codec="utf-8"), max_size=6)

texts = st.lists(st.sampled_from(SPICE) | LETTERS, max_size=4).map("".join)
words = texts.filter(lambda text: text.strip() != "")
numbers = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
extras = st.dictionaries(st.sampled_from(["id", "topic", "url", "meta data"]), json_values, max_size=2)
schemas = st.fixed_dictionaries({"name": words, "parameters": st.just({"type": "object"})})


def optional(**columns: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=columns)


def distinct(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, Any]]:
    return st.tuples(strategy, strategy).filter(lambda pair: pair[0] != pair[1])


@st.composite
def rows(draw: st.DrawFn, base: st.SearchStrategy[dict[str, Any]]) -> dict[str, Any]:
    """A row with columns that belong to nobody."""
    return {**draw(extras), **draw(base)}


# Turns, in the style of TRL


@st.composite
def prompts(draw: st.DrawFn) -> list[dict[str, Any]]:
    turns = [{"role": "system", "content": draw(words)}] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(0, 1))):
        turns.append({"role": "user", "content": draw(words)})
        turns += draw(answers())
    return [*turns, {"role": "user", "content": draw(words), **draw(optional(name=words))}]


@st.composite
def answers(draw: st.DrawFn) -> list[dict[str, Any]]:
    """A plain answer, perhaps an empty one, or a tool call with the answer that follows from it."""
    last = {"role": "assistant", "content": draw(texts)}
    if draw(st.integers(0, 3)):
        return [last]
    call = {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {}}}]}
    call |= draw(st.sampled_from([{}, {"content": None}, {"content": ""}, {"content": "wait"}]))
    return [call, {"role": "tool", "content": draw(texts), "name": "f"}, last]


single_answers = answers().map(lambda turns: turns[-1:])


@st.composite
def exchanges(draw: st.DrawFn, *names: str) -> dict[str, Any]:
    """A prompt and different answers in these columns: verbatim texts, or turns in one of their shapes."""
    if draw(st.booleans()):
        drawn = draw(st.lists(texts, min_size=len(names), max_size=len(names), unique=True))
        return {"prompt": draw(texts), **dict(zip(names, drawn, strict=True))}
    prompt, row = draw(prompts()), {}
    unique = st.lists(answers(), min_size=len(names), max_size=len(names), unique_by=lambda turns: json.dumps(turns))
    for name, answer in zip(names, draw(unique), strict=True):
        shapes = ["list", "whole"] + ["object"] * (len(answer) == 1) + ["text"] * (set(answer[0]) == {"role", "content"})
        row[name] = shaped(prompt, answer, draw(st.sampled_from(shapes if len(answer) == 1 else shapes[:2])))
    if any(differ_only_in_spelling(row, names)):
        return {"prompt": "p", **{name: name for name in names}}
    return {"prompt": prompt, **row}


def shaped(prompt: list[dict[str, Any]], answer: list[dict[str, Any]], shape: str) -> Any:
    return {"list": answer, "whole": [*prompt, *answer], "object": answer[0], "text": answer[0].get("content")}[shape]


def differ_only_in_spelling(row: dict[str, Any], names: tuple[str, ...]) -> list[bool]:
    """No content, null and "" are one content: two such answers are equal."""
    plain = [json.dumps(row[name]).replace('"content": null', '"content": ""') for name in names]
    return [a.replace('"content": "", ', "") == b.replace('"content": "", ', "") for a in plain for b in plain if a is not b]
