"""A grammar of every format: rows as other tools write them, in all the spellings that the readers know.

Each row comes with the Group that it stands for. The Group is made of the very words that the row is made of, and not
read out of the row, so that it says what a reader should have found without asking one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from hypothesis import settings
from hypothesis import strategies as st

from truing.records import AnswerStep, Completion, Group, Message, Sampled, assistant, comparison, text, user

SETTINGS = settings(derandomize=True, deadline=None, max_examples=40, database=None)

Row = dict[str, Any]


class Made(NamedTuple):
    """A row and what it means."""

    row: Row
    group: Group


Turns = list[tuple[Row, Message]]
"""Each as it is written and as it is meant."""

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
words = texts.filter(lambda content: content.strip() != "")
numbers = st.integers(-(2**53), 2**53) | st.floats(-1e9, 1e9)
json_values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
extras = st.dictionaries(st.sampled_from(["id", "topic", "url", "meta data"]), json_values, max_size=2)
tool_lists = st.lists(st.fixed_dictionaries({"name": words, "parameters": st.just({"type": "object"})}), max_size=2)


def distinct(strategy: st.SearchStrategy[Any], count: int) -> st.SearchStrategy[list[Any]]:
    return st.lists(strategy, min_size=count, max_size=count, unique_by=lambda value: json.dumps(value))


def chance(draw: st.DrawFn, *choices: Any) -> Any:
    return draw(st.sampled_from(choices))


# What stands beside the prompt and the answers


def beside(draw: st.DrawFn, own: Row, group: Group, **named: Any) -> Made:
    """The row with columns that belong to nobody, and with tools in one of their spellings.

    named: other columns which this format does not know.
    """
    others = {**draw(extras), **{name: value for name, value in named.items() if value is not None}}
    row, kept = {**others, **own}, dict(others)
    if chance(draw, True, False, False, False):
        tools = draw(tool_lists)
        wrapped = [{"type": "function", "function": tool} for tool in tools]
        row["tools"] = chance(draw, tools, wrapped, json.dumps(tools)) if tools else chance(draw, [], "")
        kept["tools"] = wrapped or row["tools"]
    return Made(row, replace(group, extra=kept))


def single(draw: st.DrawFn, own: Row, asked: Sequence[Message], answer: Completion, **named: Any) -> Made:
    """A row of one answer, perhaps with a score; one that is no number belongs to nobody."""
    score = draw(st.none() | numbers | texts)
    if isinstance(score, str):
        named["score"] = score
    elif score is not None:
        own, answer = {**own, "score": score}, replace(answer, score=score)
    return beside(draw, own, Group(tuple(asked), (answer,)), **named)


def pair(
    draw: st.DrawFn, own: Row, asked: Sequence[Message], chosen: Sequence[Message], rejected: Sequence[Message]
) -> Made:
    """A row of two answers, perhaps with scores, of which each may be null, and a margin."""
    told = draw(
        st.fixed_dictionaries(
            {}, optional=dict.fromkeys(("score_chosen", "score_rejected", "margin"), numbers | st.none())
        )
    )
    best, worst, strength = (told.get(name) for name in ("score_chosen", "score_rejected", "margin"))
    if strength is None and best is not None and worst is not None:
        strength = best - worst
    answers = Completion(tuple(chosen), score=best), Completion(tuple(rejected), score=worst)
    return beside(draw, {**told, **own}, comparison(tuple(asked), *answers, strength=strength))


def renamed(made: Made, **names: str) -> Made:
    return made._replace(row={names.get(name, name): value for name, value in made.row.items()})


def written(turns: Turns) -> list[Row]:
    return [row for row, _ in turns]


def meant(turns: Turns) -> tuple[Message, ...]:
    return tuple(message for _, message in turns)


def parted(turns: Turns) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    """The prompt of a demonstration, and all from the first assistant's turn on."""
    roles = [message.role for _, message in turns]
    first = roles.index("assistant")
    return meant(turns[:first]), meant(turns[first:])


# TRL

CALLS = [{"type": "function", "function": {"name": "look_up", "arguments": {"what": "weather"}}}]


def turn(role: str, content: str, **others: Any) -> tuple[Row, Message]:
    return {"role": role, "content": content, **others}, Message(role, content, others)


def answers(draw: st.DrawFn, last: str) -> Turns:
    """A plain answer, or a tool call (its content spelled in one of four ways) and the answer that follows from it."""
    if chance(draw, True, True, True, False):
        return [turn("assistant", last)]
    content = chance(draw, {}, {"content": None}, {"content": ""}, {"content": "wait"})
    call = {"role": "assistant", "tool_calls": CALLS, **content}
    said = Message("assistant", content.get("content") or "", {"tool_calls": CALLS})
    return [(call, said), turn("tool", draw(texts)), turn("assistant", last)]


def prompts(draw: st.DrawFn) -> Turns:
    """Perhaps a system turn, perhaps some that were answered already, and what is asked now."""
    turns = [turn("system", draw(words))] if draw(st.booleans()) else []
    for _ in range(chance(draw, 0, 0, 1, 2)):
        turns += [turn("user", draw(words)), *answers(draw, draw(texts))]
    return [*turns, turn("user", draw(words), **chance(draw, {}, {"name": "Ann"}))]


def exchange(draw: st.DrawFn, count: int) -> tuple[Any, list[Any], tuple[Message, ...], list[tuple[Message, ...]]]:
    """A prompt and different answers as they are written, and both as they are meant.

    Verbatim texts; or turns, each answer in one of the shapes that it can have; or a prompt in words before answers in
    turns.
    """
    said = draw(distinct(texts, count))
    style = chance(draw, "verbatim", "turns", "turns", "asked")
    if style == "verbatim":
        prompt = draw(texts)
        return prompt, said, (text(prompt),), [(text(one),) for one in said]
    asked = prompts(draw) if style == "turns" else [turn("user", draw(words))]
    found = [answers(draw, last) for last in said]
    shaped = []
    for i, (answer, last) in enumerate(zip(found, said, strict=True)):
        shapes: list[Any] = [written(answer)]
        shapes += [written([*asked, *answer])] if style == "turns" else []
        shapes += [answer[0][0]] if len(answer) == 1 else []
        shapes += [last] if len(answer) == 1 and (style == "turns" or i) else []
        shaped.append(chance(draw, *shapes))
    prompt = written(asked) if style == "turns" else asked[0][1].content
    return prompt, shaped, meant(asked), [meant(answer) for answer in found]


def conversation(draw: st.DrawFn) -> Turns:
    return [*prompts(draw), *answers(draw, draw(texts))]


@st.composite
def language_modeling(draw: st.DrawFn) -> Made:
    if chance(draw, True, False, False):
        said = draw(texts.filter(bool))
        return single(draw, {"text": said}, (), Completion((text(said),)))
    turns = conversation(draw)
    name = chance(draw, "messages", "conversations", "conversation")
    prompt, answer = parted(turns)
    others = {"prompt": draw(texts)} if name == "messages" and draw(st.booleans()) else {}
    return single(draw, {name: written(turns)}, prompt, Completion(answer), **others)


@st.composite
def prompt_completion(draw: st.DrawFn) -> Made:
    prompt, [answer], asked, [said] = exchange(draw, 1)
    name = chance(draw, "completion", "response", "output")
    return single(draw, {"prompt": prompt, name: answer}, asked, Completion(said))


@st.composite
def prompt_only(draw: st.DrawFn) -> Made:
    other = draw(st.none() | texts)
    if draw(st.booleans()):
        prompt = draw(texts)
        return beside(draw, {"prompt": prompt}, Group((text(prompt),)), answer=other)
    turns = prompts(draw)
    return beside(draw, {"prompt": written(turns)}, Group(meant(turns)), answer=other)


@st.composite
def preference(draw: st.DrawFn) -> Made:
    kind = chance(draw, "exchange", "exchange", "renamed", "told twice", "last turn")
    if kind in ("exchange", "renamed"):
        prompt, [chosen, rejected], asked, [best, worst] = exchange(draw, 2)
        made = pair(draw, {"prompt": prompt, "chosen": chosen, "rejected": rejected}, asked, best, worst)
        return renamed(made, chosen="chosen_response", rejected="rejected_response") if kind == "renamed" else made
    turns, said = prompts(draw), draw(distinct(texts, 2))
    best, worst = ([turn("assistant", one)] for one in said)
    if kind == "told twice":
        own = {"prompt": turns[-1][1].content, "chosen": written([*turns, *best])}
        return pair(draw, {**own, "rejected": written([*turns, *worst])}, meant(turns), meant(best), meant(worst))
    own = {
        "messages": written([*turns, *best]),
        "rejected_response": chance(draw, said[1], written(worst), worst[0][0]),
    }
    return pair(draw, own, meant(turns), meant(best), meant(worst))


@st.composite
def preference_implicit(draw: st.DrawFn) -> Made:
    """Two conversations with a common beginning, or two texts that part after a word."""
    if draw(st.booleans()):
        turns = prompts(draw)
        best, worst = (answers(draw, last) for last in draw(distinct(texts, 2)))
        if best[0][1] == worst[0][1]:  # the same call of a tool, after which the two would part too late
            best = best[-1:]
        names = chance(draw, ("chosen", "rejected"), ("messages", "rejected_messages"))
        own = {name: written([*turns, *answer]) for name, answer in zip(names, (best, worst), strict=True)}
        return pair(draw, own, meant(turns), meant(best), meant(worst))
    beginning = draw(texts.filter(lambda content: not content.startswith("\n\nHuman:")))
    whole = [beginning + one for one in draw(distinct(texts, 2))]
    common = max((whole[0][:end] for end in range(len(whole[0]) + 1) if whole[1].startswith(whole[0][:end])), key=len)
    until = re.fullmatch(r"(.*)\s\S*", common, re.DOTALL)
    prompt = until[1] if until else ""
    best, worst = ((text(one.removeprefix(prompt)),) for one in whole)
    own = {"chosen": whole[0], "rejected": whole[1]}
    return pair(draw, own, (text(prompt),) if prompt else (), best, worst)


@st.composite
def unpaired(draw: st.DrawFn) -> Made:
    label = draw(st.booleans())
    if chance(draw, True, False, False):
        turns, last = prompts(draw), turn("assistant", draw(texts))
        own = {"messages": written([*turns, last]), "label": label}
        return single(draw, own, meant(turns), Completion((last[1],), label=label))
    prompt, [answer], asked, [said] = exchange(draw, 1)
    own = {"prompt": prompt, "completion": answer, "label": label}
    names = chance(draw, {}, {"completion": "response", "label": "kto_tag"}, {"completion": "output"})
    return renamed(single(draw, own, asked, Completion(said, label=label)), **names)


@st.composite
def stepwise(draw: st.DrawFn) -> Made:
    steps = draw(st.lists(words, min_size=1, max_size=3))
    labels = draw(st.lists(st.booleans(), min_size=len(steps), max_size=len(steps)))
    told, speaker = "\n".join(steps), assistant
    ends = [len("\n".join([*steps[:i], ""])) for i in range(1, len(steps))]
    judged = tuple(AnswerStep(end, right) for end, right in zip([*ends, len(told)], labels, strict=True))
    if draw(st.booleans()):
        prompt: Any = draw(texts)
        asked, speaker = (text(prompt),), text
    else:
        turns = prompts(draw)
        prompt, asked = written(turns), meant(turns)
    own = {"prompt": prompt, "completions": steps, "labels": labels}
    return single(draw, own, asked, Completion((speaker(told),), steps=judged))


# Alpaca


@st.composite
def alpaca(draw: st.DrawFn) -> Made:
    own, prompt = instruction(draw)
    kind = chance(draw, "answer", "thumb", "ranking", "pair")
    names: dict[str, str] = {}
    if "instruction" in own:
        names = chance(draw, {}, {"instruction": "question", "input": "context", "system": "system_prompt"})
    if kind == "pair":
        chosen, rejected = draw(distinct(texts, 2))
        made = pair(
            draw, {**own, "chosen": chosen, "rejected": rejected}, prompt, (assistant(chosen),), (assistant(rejected),)
        )
        return renamed(
            made, **names, **chance(draw, {}, {"chosen": "chosen_response", "rejected": "rejected_response"})
        )
    names |= chance(draw, {}, {"output": "response"}, {"output": "answer"})
    if kind == "ranking":
        said = draw(st.integers(1, 3).flatmap(lambda count: distinct(texts, count)))
        ranked = tuple(Completion((assistant(one),), rank=rank) for rank, one in enumerate(said))
        return renamed(beside(draw, {**own, "output": said}, Group(prompt, ranked)), **names)
    said, label = draw(texts), draw(st.booleans()) if kind == "thumb" else None
    own |= {"output": said} | ({} if label is None else {"kto_tag": label})
    return renamed(single(draw, own, prompt, Completion((assistant(said),), label=label)), **names)


def instruction(draw: st.DrawFn) -> tuple[Row, tuple[Message, ...]]:
    """What is asked, in its columns and as turns."""
    asked = draw(words)
    if chance(draw, True, False, False, False):
        return chance(draw, {"instruction": "", "input": asked}, {"input": asked}), (user(asked),)
    own: Row = {"instruction": asked}
    before: list[Message] = []
    system, given = (chance(draw, "none", "blank", "words", "words") for _ in range(2))
    if system != "none":
        own["system"] = draw(words) if system == "words" else chance(draw, "", None)
        before += [Message("system", own["system"])] if system == "words" else []
    if draw(st.booleans()):
        own["history"] = chance(draw, None, draw(st.lists(st.tuples(words, texts).map(list), max_size=2)))
        for question, answer in own["history"] or []:
            before += [user(question), assistant(answer)]
    if given != "none":
        own["input"] = draw(words) if given == "words" else chance(draw, "", None)
        asked = f"{asked}\n{own['input']}" if given == "words" else asked
    return own, (*before, user(asked))


# ShareGPT


def said_by(name: str, role: str, value: str, **others: Any) -> tuple[Row, Message]:
    return {"from": name, "value": value, **others}, Message(role, value, others)


def share_answers(draw: st.DrawFn, last: str) -> Turns:
    end = said_by(chance(draw, "gpt", "assistant"), "assistant", last)
    if chance(draw, True, True, True, False):
        return [end]
    call = {"name": "look_up", "arguments": draw(st.dictionaries(texts, texts, max_size=2))}
    calls = chance(draw, call, [call], [call, call])
    value = json.dumps(calls, indent=chance(draw, None, 1))
    wrapped = [{"type": "function", "function": one} for one in (calls if isinstance(calls, list) else [calls])]
    asked = {"from": "function_call", "value": value}, Message("assistant", "", {"tool_calls": wrapped})
    return [asked, said_by(chance(draw, "observation", "tool"), "tool", draw(texts)), end]


@st.composite
def sharegpt(draw: st.DrawFn) -> Made:
    turns: Turns = []
    for _ in range(chance(draw, 0, 0, 1, 2)):
        turns += [said_by("human", "user", draw(words)), *share_answers(draw, draw(texts))]
    turns.append(said_by(chance(draw, "human", "user"), "user", draw(words), **chance(draw, {}, {"w": 1})))
    before: Turns = []
    own: Row = {}
    system = chance(draw, "none", "turn", "column", "blank")
    if system == "turn":
        turns = [said_by("system", "system", draw(words)), *turns]
    if system == "column":
        own["system"] = draw(words)
        before = [({}, Message("system", own["system"]))]
    if system == "blank":
        own["system"] = chance(draw, "", None)
    kind = chance(draw, "demonstration", "thumb", "pair")
    if kind == "pair":
        own["conversations"] = written(turns)
        said = [share_answers(draw, last) for last in draw(distinct(texts, 2))]
        for name, answer in zip(("chosen", "rejected"), said, strict=True):
            alone = [answer[0][0], answer[0][1].content] if len(answer) == 1 else []
            own[name] = chance(draw, written(answer), *alone)
        return pair(draw, own, meant([*before, *turns]), *map(meant, said))
    if kind == "thumb":
        answer = said_by("gpt", "assistant", draw(texts))
        own |= {"conversations": written([*turns, answer]), "kto_tag": draw(st.booleans())}
        return single(draw, own, meant([*before, *turns]), Completion((answer[1],), label=own["kto_tag"]))
    turns += share_answers(draw, draw(texts))
    own["conversations"] = written(turns)
    prompt, said = parted([*before, *turns])
    return single(draw, own, prompt, Completion(said))


# Transcripts

said_words = words.filter(lambda content: "Human:" not in content and "Assistant:" not in content)


@st.composite
def transcripts(draw: st.DrawFn) -> Made:
    def spaced(content: str) -> str:
        return chance(draw, " ", " ", "  ", "", "\n") + content

    turns: list[Message] = []
    prompt = ""
    for _ in range(chance(draw, 0, 1, 2)):
        question, answer = draw(said_words), draw(said_words)
        prompt += f"\n\nHuman:{spaced(question)}\n\nAssistant:{spaced(answer)}"
        turns += [user(question.strip()), assistant(answer.strip())]
    asked = draw(said_words)
    prompt += f"\n\nHuman:{spaced(asked)}{chance(draw, '', ' ')}\n\nAssistant:"
    said = draw(st.lists(said_words | st.just(""), min_size=2, max_size=2, unique_by=str.strip))
    best, worst = ((assistant(one.strip()),) for one in said)
    chosen, rejected = map(spaced, said)
    own = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    if draw(st.booleans()):
        own = {"chosen": prompt + chosen, "rejected": prompt + rejected}
    return pair(draw, own, (*turns, user(asked.strip())), best, worst)


# Lists of answers


@st.composite
def ranked(draw: st.DrawFn) -> Made:
    count = draw(st.integers(1, 3))
    prompt, shaped, asked, said = exchange(draw, count)
    first = draw(st.integers(0, 1))

    def column(values: st.SearchStrategy[Any]) -> list[Any] | None:
        return draw(st.none() | st.lists(values, min_size=count, max_size=count))

    ranks, scores, sources = column(st.integers(first, 5)), column(numbers | st.none()), column(texts | st.none())
    if ranks:
        ranks[0] = first
    told = {"ranks": ranks, "scores": scores, "sources": sources}
    found = tuple(
        Completion(
            said[i],
            rank=None if ranks is None else ranks[i] - first,
            score=None if scores is None else scores[i],
            source=None if sources is None else sources[i],
        )
        for i in range(count)
    )
    own = {"prompt": prompt, "completions": shaped, **{name: told[name] for name in told if told[name] is not None}}
    names = chance(
        draw, {}, {"completions": "responses", "ranks": "rank", "scores": "score"},
        {"completions": "candidates", "ranks": "ranking"},
    )  # fmt: skip
    return renamed(beside(draw, own, Group(asked, found)), **names)


# Truing's own


def any_turns(draw: st.DrawFn, most: int, least: int = 0) -> Turns:
    turns: Turns = []
    for _ in range(draw(st.integers(least, most))):
        role, content = chance(draw, "system", "user", "assistant", "tool", "text"), draw(texts)
        extra = draw(st.dictionaries(texts, json_values, max_size=1))
        row = {"role": role, "content": content} | ({"extra": extra} if extra else {})
        turns.append((row, Message(role, content, extra)))
    return turns


def any_answer(draw: st.DrawFn) -> tuple[Row, Completion]:
    turns = any_turns(draw, 2, least=1)
    told = draw(
        st.fixed_dictionaries(
            {},
            optional={"rank": st.integers(0, 9), "score": numbers, "label": st.booleans(), "source": texts},
        )
    )
    row, answer = {"messages": written(turns), **told}, Completion(meant(turns), **told)
    if chance(draw, True, False, False):
        tokens, logprobs = (
            draw(st.lists(st.integers(0, 10**6), max_size=3)),
            draw(st.lists(st.floats(-50, 0), max_size=3)),
        )
        others = {"finish_reason": chance(draw, "stop", "length", "refused"), "tokenizer": "t", "policy": draw(texts)}
        row["sampled"] = {"tokens": tokens, "logprobs": logprobs, **others}
        answer = replace(answer, sampled=Sampled(tuple(tokens), tuple(logprobs), **others))
    if chance(draw, True, False, False):
        steps = draw(st.lists(st.tuples(st.integers(0, 9), st.none() | st.booleans()), min_size=1, max_size=2))
        row["steps"] = [{"end": end} | ({} if right is None else {"right": right}) for end, right in steps]
        answer = replace(answer, steps=tuple(AnswerStep(*step) for step in steps))
    return row, answer


@st.composite
def groups(draw: st.DrawFn) -> Made:
    prompt = any_turns(draw, 2)
    said = [any_answer(draw) for _ in range(draw(st.integers(0, 2)))]
    told = draw(
        st.fixed_dictionaries(
            {},
            optional={
                "weight": st.floats(1.5, 2),
                "strength": numbers,
                "extra": st.dictionaries(texts, json_values, min_size=1, max_size=2),
            },
        )
    )
    row = {"prompt": written(prompt), "completions": [answer for answer, _ in said], **told}
    return Made(row, Group(meant(prompt), tuple(answer for _, answer in said), **told))


ROWS: dict[str, st.SearchStrategy[Made]] = {
    "language_modeling": language_modeling(),
    "prompt_completion": prompt_completion(),
    "prompt_only": prompt_only(),
    "preference": preference(),
    "preference_implicit": preference_implicit(),
    "unpaired": unpaired(),
    "alpaca": alpaca(),
    "sharegpt": sharegpt(),
    "hh_rlhf": transcripts(),
    "ranked": ranked(),
    "stepwise": stepwise(),
    "group": groups(),
}
