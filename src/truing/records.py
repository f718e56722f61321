"""The one data model: a prompt and the answers it got.

A demonstration is a Group with one answer, a comparison has two, a ranking n, a thumb one with a label, a rollout
several with scores, a plain prompt none. Readers make Groups, every stage takes and gives Groups.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from truing.errors import DataError

TEXT_ROLE = "text"
"""Role of a message that is verbatim text: no chat template is applied to it."""

FinishReason = Literal["stop", "length", "refused"]
"""It came to its end, hit the length limit, or whoever was asked would not answer."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `extra` keeps what else a turn carries (tool_calls, name, thinking) for the chat template."""

    role: str
    content: str
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sampled:
    """What a generator knows of an answer that its text alone does not say.

    tokens: the ids as sampled, the end-of-turn token included when `finish_reason` is "stop".
    logprobs: log-probability in nats of each token under the very distribution it was drawn from.
    tokenizer: fingerprint of the tokenizer that `tokens` belong to; with any other one the text is rendered anew.
    policy: hash of the weights that sampled it.
    """

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: FinishReason
    tokenizer: str
    policy: str


@dataclass(frozen=True, slots=True)
class AnswerStep:
    """One step of an answer.

    end: where it ends, in characters of the answer's text. right: whether it is; None where nobody said.
    """

    end: int
    right: bool | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """An answer: the messages that follow the prompt. Of several messages, the assistant's turns alone are scored.

    rank: place in a ranking, 0 is best; equal ranks are ties.
    score: a reward or rating, higher is better.
    label: a thumb, up is True.
    source: who or what wrote it.
    steps: the steps of an answer of one message that people judged step by step, in their order.
    """

    messages: tuple[Message, ...]
    rank: int | None = None
    score: float | None = None
    label: bool | None = None
    source: str | None = None
    sampled: Sampled | None = None
    steps: tuple[AnswerStep, ...] = ()

    @property
    def text(self) -> str:
        """The assistant's words, turns joined by blank lines."""
        return "\n\n".join(m.content for m in self.messages if m.role in ("assistant", TEXT_ROLE))

    @property
    def finished(self) -> bool:
        """False for a sampled answer that hit its length limit; a written answer counts as finished."""
        return self.sampled is None or self.sampled.finish_reason == "stop"


@dataclass(frozen=True, slots=True)
class Group:
    """One prompt and its answers.

    weight: how much the row counts, 1 is normal.
    strength: how strongly the first answer is preferred over the second, where a source says so.
    extra: other columns of the row (tools, topic, id, ...), kept so that a conversion loses nothing.
    file, line: where the row was read; not part of its identity.
    """

    prompt: tuple[Message, ...]
    completions: tuple[Completion, ...] = ()
    weight: float = 1.0
    strength: float | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    file: str | None = None
    line: int | None = None

    @property
    def id(self) -> str:
        """Sixteen hex digits of the SHA-256 of the row's content; the place it was read from does not count."""
        canonical = json.dumps(to_json(self), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()[:16]

    @property
    def place(self) -> str:
        """`file:line` for messages, or the id of a row that was made and not read."""
        return f"{self.file}:{self.line}" if self.file else f"row {self.id}"

    def comparison(self) -> tuple[Completion, Completion]:
        """(chosen, rejected) of a Group of two ranked answers."""
        if len(self.completions) != 2:
            raise DataError(f"{self.place}: a comparison needs two answers, this row has {len(self.completions)}")
        first, second = self.completions
        if first.rank is None or second.rank is None or first.rank == second.rank:
            raise DataError(f"{self.place}: a comparison needs two different ranks: say which answer is preferred")
        return (first, second) if first.rank < second.rank else (second, first)


def text(content: str) -> Message:
    """Verbatim text, to which no chat template is applied."""
    return Message(TEXT_ROLE, content)


def user(content: str) -> Message:
    """A turn of the person."""
    return Message("user", content)


def assistant(content: str) -> Message:
    """A turn of the model."""
    return Message("assistant", content)


def comparison(prompt: tuple[Message, ...], chosen: Completion, rejected: Completion, **row: Any) -> Group:
    """A Group of two answers, the first preferred."""
    return Group(prompt, (replace(chosen, rank=0), replace(rejected, rank=1)), **row)


def written_by(groups: Iterable[Group]) -> dict[str, int]:
    """How many of the answers each writer gave: the hash of the weights that sampled them, or the name of their source.
    Those of nobody named stand under "".
    """
    answers = (answer for group in groups for answer in group.completions)
    return dict(Counter(answer.sampled.policy if answer.sampled else answer.source or "" for answer in answers))


def to_json(group: Group) -> dict[str, Any]:
    """The row as plain JSON values, fields at their default left out; `from_json` is its inverse."""
    row: dict[str, Any] = {"prompt": [_message_to_json(m) for m in group.prompt]}
    row["completions"] = [_completion_to_json(c) for c in group.completions]
    if group.weight != 1.0:
        row["weight"] = group.weight
    if group.strength is not None:
        row["strength"] = group.strength
    if group.extra:
        row["extra"] = dict(group.extra)
    return row


def from_json(row: Mapping[str, Any], file: str | None = None, line: int | None = None) -> Group:
    """A Group from what `to_json` wrote. Raises KeyError, TypeError or ValueError on any other shape."""
    unknown = set(row) - {"prompt", "completions", "weight", "strength", "extra"}
    if unknown:
        raise ValueError(f"unknown field '{sorted(unknown)[0]}'")
    return Group(
        prompt=tuple(_message_from_json(m) for m in row["prompt"]),
        completions=tuple(_completion_from_json(c) for c in row["completions"]),
        weight=float(row.get("weight", 1.0)),
        strength=row.get("strength"),
        extra=dict(row.get("extra", {})),
        file=file,
        line=line,
    )


def _message_to_json(message: Message) -> dict[str, Any]:
    row: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.extra:
        row["extra"] = dict(message.extra)
    return row


def _message_from_json(row: Mapping[str, Any]) -> Message:
    return Message(row["role"], row["content"], dict(row.get("extra", {})))


def _completion_to_json(completion: Completion) -> dict[str, Any]:
    row: dict[str, Any] = {"messages": [_message_to_json(m) for m in completion.messages]}
    for name in ("rank", "score", "label", "source"):
        value = getattr(completion, name)
        if value is not None:
            row[name] = value
    if completion.steps:
        row["steps"] = [
            {"end": s.end} if s.right is None else {"end": s.end, "right": s.right} for s in completion.steps
        ]
    if completion.sampled is not None:
        row["sampled"] = {f.name: getattr(completion.sampled, f.name) for f in fields(Sampled)}
        row["sampled"]["tokens"] = list(completion.sampled.tokens)
        row["sampled"]["logprobs"] = list(completion.sampled.logprobs)
    return row


def _completion_from_json(row: Mapping[str, Any]) -> Completion:
    sampled = row.get("sampled")
    if sampled is not None:
        sampled = Sampled(
            tokens=tuple(sampled["tokens"]),
            logprobs=tuple(sampled["logprobs"]),
            finish_reason=sampled["finish_reason"],
            tokenizer=sampled["tokenizer"],
            policy=sampled["policy"],
        )
    return Completion(
        messages=tuple(_message_from_json(m) for m in row["messages"]),
        rank=row.get("rank"),
        score=row.get("score"),
        label=row.get("label"),
        source=row.get("source"),
        sampled=sampled,
        steps=tuple(AnswerStep(step["end"], step.get("right")) for step in row.get("steps", ())),
    )
