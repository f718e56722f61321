"""Strategies: rows of every format as other tools write them, in all the spellings that the readers know."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

SETTINGS = settings(derandomize=True, deadline=None, max_examples=40, database=None)

Row = dict[str, Any]

# What breaks readers: the marks of the notations themselves, white space, letters beyond the basic plane.
SPICE = [
    "a\n\nHuman: b",
    " Assistant:",
    '"',
    "\\",
    "a,b",
    '[{"role": 1}]',
    "🙂",
    "你好",
    "true",
    "null",
    "\x00",
    "\r\n",
    " a ",
    "7",
]

texts = st.text(st.characters(codec="utf-8"), max_size=5) | st.sampled_from(SPICE)
words = texts.filter(lambda text: text.strip() != "")
numbers = st.integers(-(2**53), 2**53) | st.floats(-1e9, 1e9)
json_values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
extras = st.dictionaries(st.sampled_from(["id", "topic", "url", "meta data"]), json_values, max_size=2)
tools = st.lists(st.fixed_dictionaries({"name": words, "parameters": st.just({"type": "object"})}), max_size=2)


def row(columns: Row, **optional: st.SearchStrategy[Any]) -> st.SearchStrategy[Row]:
    """Columns that are strategies or values, optional ones, and columns that belong to nobody."""
    fixed = {name: value if isinstance(value, st.SearchStrategy) else st.just(value) for name, value in columns.items()}
    drawn = st.fixed_dictionaries(fixed, optional=optional)
    return st.tuples(extras, drawn).map(lambda pair: {**pair[0], **pair[1]})


def merged(*parts: st.SearchStrategy[Row]) -> st.SearchStrategy[Row]:
    return st.tuples(*parts).map(lambda rows: {name: value for part in rows for name, value in part.items()})


def renamed(strategy: st.SearchStrategy[Row], **names: str) -> st.SearchStrategy[Row]:
    return strategy.map(lambda row: {names.get(name, name): value for name, value in row.items()})


def distinct(strategy: st.SearchStrategy[Any], count: int) -> st.SearchStrategy[list[Any]]:
    return st.lists(strategy, min_size=count, max_size=count, unique_by=lambda value: json.dumps(value))


# TRL

CALLS = [{"type": "function", "function": {"name": "look_up", "arguments": {"what": "weather"}}}]


@st.composite
def answers(draw: st.DrawFn, last: str) -> list[Row]:
    """A plain answer, or a tool call (its content spelled in one of four ways) and the answer that follows from it."""
    end = {"role": "assistant", "content": last}
    if draw(st.integers(0, 3)):
        return [end]
    content = draw(st.sampled_from([{}, {"content": None}, {"content": ""}, {"content": "wait"}]))
    return [{"role": "assistant", "tool_calls": CALLS, **content}, {"role": "tool", "content": draw(texts)}, end]


@st.composite
def prompts(draw: st.DrawFn) -> list[Row]:
    turns = [{"role": "system", "content": draw(words)}] if draw(st.booleans()) else []
    if draw(st.booleans()):
        turns += [{"role": "user", "content": draw(words)}, *draw(answers(draw(texts)))]
    return [*turns, {"role": "user", "content": draw(words), **draw(st.sampled_from([{}, {"name": "Ann"}]))}]


@st.composite
def exchanges(draw: st.DrawFn, *names: str) -> Row:
    """A prompt and different answers: verbatim texts, or turns in one of the shapes that an answer can have."""
    said = draw(distinct(texts, len(names)))
    if draw(st.booleans()):
        return {"prompt": draw(texts), **dict(zip(names, said, strict=True))}
    prompt = draw(prompts())
    drawn: Row = {"prompt": prompt}
    for name, last in zip(names, said, strict=True):
        answer = draw(answers(last))
        shapes = [answer, [*prompt, *answer]] + ([answer[0], last] if len(answer) == 1 else [])
        drawn[name] = draw(st.sampled_from(shapes))
    return drawn


@st.composite
def whole_conversations(draw: st.DrawFn) -> Row:
    """Two conversations with a common beginning."""
    prompt = draw(prompts())
    pair = [[*prompt, {"role": "assistant", "content": said}] for said in draw(distinct(texts, 2))]
    return {"chosen": pair[0], "rejected": pair[1]}


verbatim_pairs = distinct(texts.filter(lambda text: not text.startswith("\n\nHuman:")), 2).map(
    lambda pair: {"chosen": pair[0], "rejected": pair[1]}
)
conversations = st.tuples(prompts(), texts.flatmap(answers)).map(lambda parts: [*parts[0], *parts[1]])
scores = st.fixed_dictionaries(
    {}, optional={"score_chosen": numbers | st.none(), "score_rejected": numbers | st.none(), "margin": numbers}
)
told_twice = whole_conversations().map(lambda row: {"prompt": row["chosen"][-2]["content"], **row})
last_turn_judged = st.tuples(prompts(), texts).map(
    lambda parts: [*parts[0], {"role": "assistant", "content": parts[1]}]
)
different_last_turns = st.tuples(prompts(), distinct(texts, 2)).map(
    lambda parts: {
        "messages": [*parts[0], {"role": "assistant", "content": parts[1][0]}],
        "rejected_response": parts[1][1],
    }
)

language_modeling = row({"text": texts.filter(bool)}, score=numbers | texts) | row(
    {"messages": conversations}, tools=tools | tools.map(json.dumps), prompt=texts
)
prompt_completion = merged(row({}, score=numbers | texts, tools=tools), exchanges("completion"))
preference = merged(row({}), scores, exchanges("chosen", "rejected"))
unpaired = merged(row({"label": st.booleans()}, score=numbers), exchanges("completion"))

# Alpaca

histories = st.lists(st.tuples(words, texts).map(list), max_size=2)
blanks = st.sampled_from(["", None])
questions = row({"instruction": words}, input=words | blanks, system=words | blanks, history=histories | blanks) | row(
    {"instruction": "", "input": words}
)
alpaca = st.one_of(
    merged(questions, row({"output": texts}, kto_tag=st.booleans(), score=numbers)),
    merged(questions, row({"output": st.integers(1, 3).flatmap(lambda count: distinct(texts, count))})),
    merged(questions, scores, distinct(texts, 2).map(lambda pair: {"chosen": pair[0], "rejected": pair[1]})),
)

# ShareGPT


def turn(name: str, value: str) -> Row:
    return {"from": name, "value": value}


@st.composite
def sharegpt_answers(draw: st.DrawFn, last: str) -> list[Row]:
    end = turn(draw(st.sampled_from(["gpt", "assistant"])), last)
    if draw(st.integers(0, 3)):
        return [end]
    call = {"name": "look_up", "arguments": draw(st.dictionaries(texts, texts, max_size=2))}
    value = json.dumps(draw(st.sampled_from([call, [call], [call, call]])), indent=draw(st.sampled_from([None, 1])))
    return [turn("function_call", value), turn(draw(st.sampled_from(["observation", "tool"])), draw(texts)), end]


@st.composite
def sharegpt_prompts(draw: st.DrawFn) -> list[Row]:
    turns = [turn("human", draw(words)), *draw(sharegpt_answers(draw(texts)))] if draw(st.booleans()) else []
    return [*turns, turn(draw(st.sampled_from(["human", "user"])), draw(words)) | draw(st.sampled_from([{}, {"w": 1}]))]


@st.composite
def sharegpt(draw: st.DrawFn) -> Row:
    drawn = draw(row({}, tools=tools.map(json.dumps) | st.just("")))
    prompt = draw(sharegpt_prompts())
    system = draw(st.sampled_from(["none", "turn", "column", "blank"]))
    if system == "turn":
        prompt = [turn("system", draw(words)), *prompt]
    if system in ("column", "blank"):
        drawn["system"] = draw(words) if system == "column" else ""
    said = draw(distinct(texts, 2))
    kind = draw(st.sampled_from(["demonstration", "thumb", "pair"]))
    if kind == "demonstration":
        return {**drawn, "conversations": [*prompt, *draw(sharegpt_answers(said[0]))]}
    if kind == "thumb":
        return {**drawn, "conversations": [*prompt, turn("gpt", said[0])], "kto_tag": draw(st.booleans())}
    drawn |= {"conversations": prompt, **draw(scores)}
    for name, last in zip(("chosen", "rejected"), said, strict=True):
        drawn[name] = draw(st.sampled_from([turn("gpt", last), [turn("gpt", last)], last]))
    return drawn


# Transcripts

said_words = words.filter(lambda text: "Human:" not in text and "Assistant:" not in text)
spaces = st.sampled_from([" ", " ", "  ", "", "\n"])


@st.composite
def transcripts(draw: st.DrawFn) -> Row:
    prompt = ""
    for _ in range(draw(st.integers(0, 1))):
        prompt += f"\n\nHuman:{draw(spaces)}{draw(said_words)}\n\nAssistant:{draw(spaces)}{draw(said_words)}"
    prompt += f"\n\nHuman:{draw(spaces)}{draw(said_words)}{draw(spaces)}\n\nAssistant:"
    pair = draw(st.lists(said_words | st.just(""), min_size=2, max_size=2, unique_by=str.strip))
    chosen, rejected = (draw(spaces) + said for said in pair)
    if draw(st.booleans()):
        return {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    return {"chosen": prompt + chosen, "rejected": prompt + rejected}


# Lists of answers


@st.composite
def ranked(draw: st.DrawFn) -> Row:
    count = draw(st.integers(1, 3))
    names = [str(i) for i in range(count)]
    drawn = draw(exchanges(*names))
    first = draw(st.integers(0, 1))
    lists = {
        "ranks": st.lists(st.integers(first, 5), min_size=count, max_size=count).map(lambda ranks: [first, *ranks[1:]]),
        "scores": st.lists(numbers | st.none(), min_size=count, max_size=count),
        "sources": st.lists(texts | st.none(), min_size=count, max_size=count),
    }
    told = draw(st.fixed_dictionaries({}, optional=lists))
    told = {name: values for name, values in told.items() if any(value is not None for value in values)}
    return {**draw(extras), "prompt": drawn["prompt"], "completions": [drawn[name] for name in names], **told}


# Truing's own

messages = st.builds(
    lambda role, content, extra: {"role": role, "content": content} | ({"extra": extra} if extra else {}),
    st.sampled_from(["system", "user", "assistant", "tool", "text"]),
    texts,
    st.dictionaries(texts, json_values, max_size=1),
)
sampled = st.fixed_dictionaries(
    {
        "tokens": st.lists(st.integers(0, 10**6), max_size=3),
        "logprobs": st.lists(st.floats(-50, 0), max_size=3),
        "finish_reason": st.sampled_from(["stop", "length"]),
        "tokenizer": texts,
        "policy": texts,
    }
)
answer_steps = st.fixed_dictionaries({"end": st.integers(0, 9)}, optional={"right": st.booleans()})
completions = st.fixed_dictionaries(
    {"messages": st.lists(messages, min_size=1, max_size=2)},
    optional={
        "rank": st.integers(0, 9),
        "score": numbers,
        "label": st.booleans(),
        "source": texts,
        "sampled": sampled,
        "steps": st.lists(answer_steps, min_size=1, max_size=2),
    },
)
group = st.fixed_dictionaries(
    {"prompt": st.lists(messages, max_size=2), "completions": st.lists(completions, max_size=2)},
    optional={
        "weight": st.floats(1.5, 2),
        "strength": numbers,
        "extra": st.dictionaries(texts, json_values, min_size=1, max_size=2),
    },
)

# Steps


@st.composite
def stepwise(draw: st.DrawFn) -> Row:
    steps = draw(st.lists(words, min_size=1, max_size=3))
    labels = draw(st.lists(st.booleans(), min_size=len(steps), max_size=len(steps)))
    told = draw(row({"prompt": texts | prompts()}, score=numbers))
    return {**told, "completions": steps, "labels": labels}


ROWS: dict[str, st.SearchStrategy[Row]] = {
    "language_modeling": language_modeling | renamed(row({"messages": conversations}), messages="conversations"),
    "prompt_completion": prompt_completion | renamed(prompt_completion, completion="response"),
    "prompt_only": row({"prompt": texts | prompts()}, tools=tools, answer=texts),
    "preference": st.one_of(
        preference,
        renamed(preference, chosen="chosen_response", rejected="rejected_response"),
        merged(row({}), scores, told_twice),
        merged(row({}), different_last_turns),
    ),
    "preference_implicit": st.one_of(
        merged(row({}), scores, verbatim_pairs),
        merged(row({}), scores, whole_conversations()),
        renamed(whole_conversations(), chosen="messages", rejected="rejected_messages"),
    ),
    "unpaired": unpaired | row({"messages": last_turn_judged, "label": st.booleans()}),
    "alpaca": st.one_of(
        alpaca,
        renamed(alpaca, instruction="question", input="context", output="response", system="system_prompt"),
        renamed(alpaca, chosen="chosen_response", rejected="rejected_response", output="answer"),
    ),
    "sharegpt": sharegpt(),
    "hh_rlhf": merged(row({}), scores, transcripts()),
    "ranked": ranked() | renamed(ranked(), completions="responses", ranks="rank", scores="score"),
    "stepwise": stepwise(),
    "group": group,
}
