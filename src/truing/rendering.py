"""Messages to token ids and scored spans. No other module knows of chat templates, BOS or end-of-turn tokens."""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from truing import templates
from truing.errors import ConfigError, DataError, MissingError
from truing.records import TEXT_ROLE, AnswerStep, Completion, Group, Message
from truing.templates import Wanted

Tools = Sequence[Mapping[str, Any]]
"""Definitions of the tools a model may call, as chat templates take them; formats read them into `Group.extra`."""

REASONING = ("reasoning_content", "thinking", "reasoning")
"""Names of what an assistant thought before it spoke. Data have one of them, and templates read the first or second."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Token ids of one answer and, for each, whether it is scored. The two are of one length.

    steps: for each step of the answer the place among its tokens of the one that ends it.
    """

    tokens: tuple[int, ...]
    scored: tuple[bool, ...]
    steps: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """A Group as token ids. `index` is its number in the data set, `weight` its weight, `place` its file and line."""

    prompt: tuple[int, ...]
    answers: tuple[Answer, ...]
    index: int
    weight: float = 1.0
    place: str = ""

    def __len__(self) -> int:
        return len(self.prompt) + sum(len(a.tokens) for a in self.answers)

    @property
    def longest(self) -> int:
        """Length in tokens of the longest path from the root: the prompt and its longest answer."""
        return len(self.prompt) + max((len(a.tokens) for a in self.answers), default=0)


class Renderer:
    """Turns Groups into Rows with one model's tokenizer and chat template.

    tokenizer: a transformers tokenizer.
    stop_ids: ids that end a turn; the model's generation config may name more than the tokenizer's EOS.
    """

    def __init__(self, tokenizer: Any, stop_ids: Sequence[int] = ()) -> None:
        self.tokenizer = tokenizer
        self.stop_ids = frozenset(stop_ids) | ({tokenizer.eos_token_id} - {None})
        if not self.stop_ids:
            raise ConfigError("the tokenizer has no end-of-sequence token: set eos_token in its tokenizer_config.json")
        self.fingerprint = _fingerprint(tokenizer)
        self._leading = self._leading_ids()

    @property
    def template_hash(self) -> str:
        """SHA-256 of the chat template, by which a changed one is told; nothing where there is none."""
        template = self.tokenizer.chat_template
        return "" if template is None else hashlib.sha256(str(template).encode("utf-8", "replace")).hexdigest()

    @property
    def stop_id(self) -> int:
        """The end-of-sequence token that is appended to verbatim text."""
        eos = self.tokenizer.eos_token_id
        return int(eos if eos is not None else min(self.stop_ids))

    def render(self, group: Group, index: int = 0) -> Row:
        """The Group as token ids. Raises DataError, naming the row, where an answer has nothing to score."""
        everything = (*group.prompt, *(m for completion in group.completions for m in completion.messages))
        if _is_text(everything, group.place):
            prompt = self._text_prompt(group.prompt, group.place)
            answers = tuple(self._as_sampled(one) or self._verbatim(one) for one in group.completions)
        else:
            prompt, answers = self._conversation(group)
        for number, answer in enumerate(answers):
            if not any(answer.scored[_first_predictable(prompt) :]):
                raise DataError(
                    f"{group.place}: answer {number + 1} has no scored token: it needs an assistant turn; drop the row"
                )
            _demand_steps_apart(group.completions[number], answer, _first_predictable(prompt), group.place)
        return Row(prompt, answers, index, group.weight, group.place)

    def prompt(
        self, messages: tuple[Message, ...], *, place: str = "the prompt", tools: Tools | None = None
    ) -> tuple[int, ...]:
        """Ids that an answer follows: the template with the assistant's header, or the verbatim text after BOS."""
        if _is_text(messages, place):
            return self._text_prompt(messages, place)
        (begun,) = self._apply([messages], [Wanted(0, len(messages), answer_next=True)], tools, place)
        return self._checked(self._ids(begun), place)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of ids, a closing end-of-turn token and other special tokens left out."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def pieces(self, row: Row, answer: int = 0) -> list[tuple[str, bool]]:
        """(text, scored) of every token of an answer's path, for people to look at."""
        path = list(row.prompt) + list(row.answers[answer].tokens if row.answers else ())
        scored = [False] * len(row.prompt) + list(row.answers[answer].scored if row.answers else ())
        return [(self.tokenizer.decode([token]), bool(flag)) for token, flag in zip(path, scored, strict=True)]

    def _text_prompt(self, messages: tuple[Message, ...], place: str) -> tuple[int, ...]:
        return self._checked((*self._leading, *self._ids(_joined(messages))), place)

    def _as_sampled(self, completion: Completion) -> Answer | None:
        """The very tokens that were drawn, where this tokenizer wrote them."""
        sampled = completion.sampled
        if sampled is None or sampled.tokenizer != self.fingerprint or completion.steps:
            return None
        return Answer(sampled.tokens, (True,) * len(sampled.tokens))

    def _verbatim(self, completion: Completion) -> Answer:
        words = _joined(completion.messages)
        tokens = (*self._ids(words), self.stop_id)
        answer = Answer(tokens, (True,) * len(tokens), self._step_ends(words, 0, completion.steps))
        return answer if completion.finished else _without_stop(answer)

    def _conversation(self, group: Group) -> tuple[tuple[int, ...], tuple[Answer, ...]]:
        """Prompt and answers. The chat template writes the row up to each turn of each answer, all at one go."""
        place, prompt = group.place, group.prompt
        talks, wanted = [prompt], [Wanted(0, len(prompt), answer_next=True)]
        for completion in group.completions:
            if self._as_sampled(completion):
                continue
            if completion.messages and completion.messages[0].role != "assistant":
                raise DataError(
                    f"{place}: an answer starts with a turn of '{completion.messages[0].role}': "
                    "move everything before the first assistant turn into the prompt"
                )
            messages = (*prompt, *completion.messages)
            for end in range(len(prompt) + 1, len(messages) + 1):
                follows = end < len(messages) and messages[end].role == "assistant"
                wanted.append(Wanted(len(talks), end, answer_next=follows))
            talks.append(messages)
        texts = iter(self._apply(talks, wanted, group.extra.get("tools"), place))
        begun = next(texts)
        ids = self._checked(self._ids(begun), place)
        return ids, tuple(
            self._as_sampled(one) or self._turns(one, begun, list(islice(texts, len(one.messages))), place)
            for one in group.completions
        )

    def _turns(self, completion: Completion, begun: str, texts: Sequence[str], place: str) -> Answer:
        """The completion's turns, of which the assistant's words and their end-of-turn tokens are scored.

        begun: the prompt, as the chat template wrote it. texts: what it wrote up to each turn.
        """
        tokens: list[int] = []
        scored: list[bool] = []
        steps: tuple[int, ...] = ()
        for number, (message, text) in enumerate(zip(completion.messages, texts, strict=True), start=1):
            spoken = message.role == "assistant"
            piece = self._ids(_continuation(begun, text, place))
            flags = [spoken] * len(piece)
            if spoken:
                kept = self._turn_length(piece, place)
                flags[kept:] = [False] * (len(piece) - kept)
                if number == len(texts):
                    piece, flags = piece[:kept], flags[:kept]
            tokens += piece
            scored += flags
            steps = self._steps_of_turn(_continuation(begun, text, place), completion, place)
            begun = text
        answer = Answer(tuple(tokens), tuple(scored), steps)
        return answer if completion.finished else _without_stop(answer)

    def _steps_of_turn(self, written: str, completion: Completion, place: str) -> tuple[int, ...]:
        """The tokens that end the steps of an answer, which the chat template wrote as `written`."""
        if not completion.steps:
            return ()
        if len(completion.messages) > 1:
            raise DataError(f"{place}: an answer in steps must be one turn, this one has {len(completion.messages)}")
        start = written.find(completion.text)
        if start < 0:
            raise DataError(
                f"{place}: the chat template changes the answer's text, so the ends of its steps are lost: take white "
                "space off both ends of the answer, or use another template"
            )
        return self._step_ends(written, start, completion.steps)

    def _step_ends(self, written: str, start: int, steps: Sequence[AnswerStep]) -> tuple[int, ...]:
        """For each step the token that holds its last character; the answer's text begins at `start`."""
        if not steps:
            return ()
        if not self.tokenizer.is_fast:
            raise ConfigError("this tokenizer does not say where its tokens lie in a text, which steps need")
        read = self.tokenizer(written, add_special_tokens=False, return_offsets_mapping=True)
        begins = [begin for begin, _ in read["offset_mapping"]]
        return tuple(bisect_left(begins, start + step.end) - 1 for step in steps)

    def _turn_length(self, piece: tuple[int, ...], place: str) -> int:
        """Tokens of an assistant turn up to and including its end-of-turn token; what follows is never generated."""
        for place_of_stop in reversed(range(len(piece))):
            if piece[place_of_stop] in self.stop_ids:
                return place_of_stop + 1
        raise DataError(
            f"{place}: the chat template ends an assistant turn without an end-of-turn token "
            f"({', '.join(repr(self.tokenizer.decode([i])) for i in sorted(self.stop_ids))}): the model would never "
            "learn to stop; name the token that ends a turn as eos_token_id in generation_config.json"
        )

    def _apply(
        self, talks: Sequence[tuple[Message, ...]], wanted: Sequence[Wanted], tools: Tools | None, place: str
    ) -> list[str]:
        """What the chat template writes of conversations, as far as is wanted of each."""
        if self.tokenizer.chat_template is None:
            raise ConfigError(
                f"{place}: the data are conversations and the model has no chat template: set chat_template "
                "to a Jinja file, or use an instruction-tuned model"
            )
        if not talks[0]:
            raise DataError(f"{place}: there is no turn before the answer: give the row a prompt")
        variables = {**self.tokenizer.special_tokens_map, "tools": tools or None, "documents": None}
        turns = [[_turn(message) for message in messages] for messages in talks]
        try:
            template = templates.template(self.tokenizer.get_chat_template(tools=tools or None))
            return template.render(variables, turns, wanted)
        except (templates.RefusedError, ValueError) as error:
            raise DataError(f"{place}: the chat template refuses these turns: {error}") from error
        except templates.LimitError as error:
            model = self.tokenizer.name_or_path or "the model"
            raise MissingError(
                f"{place}: the chat template of {model} {error}, and was stopped: read the template (SHA-256 "
                f"{self.template_hash}), and name a sound one by chat_template, or use another model"
            ) from error

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"]) if text else ()

    def _leading_ids(self) -> tuple[int, ...]:
        """What the tokenizer itself puts before plain text: BOS or nothing."""
        bos = self.tokenizer.bos_token_id
        ids = self.tokenizer("a")["input_ids"]
        return (bos,) if bos is not None and ids and ids[0] == bos else ()

    def _checked(self, tokens: tuple[int, ...], place: str) -> tuple[int, ...]:
        bos = self.tokenizer.bos_token_id
        if bos is not None and bos not in self.stop_ids and tokens[:2] == (bos, bos):
            raise DataError(f"{place}: the prompt begins with two BOS tokens: take BOS out of the text or the template")
        return tokens


def shorten(row: Row, max_length: int) -> Row:
    """The row with the beginning of its prompt cut off so that every path fits `max_length` tokens.

    Answers are never cut: that would score an answer nobody gave. Raises DataError where an answer alone is too long.
    """
    room = max_length - (row.longest - len(row.prompt))
    if room < 1:
        raise DataError(f"an answer of {row.longest - len(row.prompt)} tokens does not fit into {max_length}")
    return replace(row, prompt=row.prompt[-room:])


def _turn(message: Message) -> dict[str, Any]:
    """A turn as transformers gives it to templates: nothing that is None, and reasoning by each of its names."""
    turn = {"role": message.role, "content": message.content, **message.extra}
    turn = {name: value for name, value in turn.items() if value is not None}
    said = [turn[name] for name in REASONING if name in turn]
    return {"thinking": said[0], **turn, "reasoning_content": said[0]} if said else turn


def _joined(messages: Sequence[Message]) -> str:
    return "".join(message.content for message in messages)


def _is_text(messages: tuple[Message, ...], place: str) -> bool:
    """Whether the messages are verbatim text. A row is all text or all turns."""
    kinds = {m.role == TEXT_ROLE for m in messages}
    if len(kinds) > 1:
        raise DataError(f"{place}: the row mixes verbatim text and chat turns: use one of the two")
    return kinds == {True}


def _continuation(begun: str, text: str, place: str) -> str:
    if not text.startswith(begun):
        raise DataError(
            f"{place}: the chat template is not prefix-preserving: a later turn changes how earlier ones are written, "
            "so what is trained on is not what is generated; split the conversation into one row for each answer"
        )
    return text[len(begun) :]


def _first_predictable(prompt: tuple[int, ...]) -> int:
    """Index of the first answer token that something precedes: without a prompt the first one is given, not scored."""
    return 0 if prompt else 1


def _without_stop(answer: Answer) -> Answer:
    """An answer that was cut at its length limit never ended, so its end-of-turn token is not scored."""
    return Answer(answer.tokens[:-1], answer.scored[:-1], answer.steps)


def _demand_steps_apart(completion: Completion, answer: Answer, first: int, place: str) -> None:
    """Each step ends within the answer, in a scored token of its own."""
    before, last = first - 1, len(completion.text)
    for number, (step, end) in enumerate(zip(completion.steps, answer.steps, strict=True), start=1):
        if step.end > last or end <= before or not answer.scored[end]:
            raise DataError(f"{place}: step {number} ends outside of the answer, or in the token of another: mend it")
        before = end


def _fingerprint(tokenizer: Any) -> str:
    """Sixteen hex digits that change with the vocabulary, the pre-tokenizer or the chat template."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    content = backend.to_str() if backend is not None else repr(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(f"{content}\n{tokenizer.chat_template}".encode()).hexdigest()[:16]
