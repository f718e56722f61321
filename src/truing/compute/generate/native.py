"""The generator of one process: each prompt is run once for all its answers, and a finished answer leaves at once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from truing.compute import Sampling
from truing.compute.attention import Layout
from truing.compute.generate.cache import Cache, Decode, Prefill
from truing.compute.generate.fused import can_decode, decode
from truing.compute.generate.sampling import draw
from truing.errors import MissingError
from truing.models import Loaded
from truing.models.output import output_weight
from truing.models.parity import longest_exact, too_long
from truing.packing import forest
from truing.records import TEXT_ROLE, Completion, Group, Message, Sampled
from truing.rendering import Row
from truing.tensors import Forest

Within = Callable[[], AbstractContextManager[Any]]
"""Within it a model computes as another one, such as its own reference."""

PREFILL_TOKENS = 2048
"""Prompt tokens that are run through the model in one call."""
ROOM = 32
"""Tokens by which the room for answers grows."""


@dataclass(slots=True)
class _Live:
    """An answer that is being written."""

    prompt: int
    answer: int
    uniform: list[float]
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)

    @property
    def written(self) -> int:
        """Tokens whose keys and values are in the cache: all but the last, which has not been through the model."""
        return max(0, len(self.tokens) - 1)


class NativeGenerator:
    """Samples with the weights of a loaded model, as they are at the time of each call.

    policy: hash of those weights, written into every answer.
    max_rows: answers that are written at one time.
    reference: within it the model computes as its reference; for samplings in which that has a share.
    """

    def __init__(self, loaded: Loaded, *, policy: str, max_rows: int = 64, reference: Within | None = None) -> None:
        self.loaded = loaded
        self.policy = policy
        self.max_rows = max_rows
        self.reference = reference

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[Group],
        sampling: Sampling,
        *,
        answers: int = 1,
        seed: int = 0,
        on_finished: Callable[[int], None] = lambda _: None,
    ) -> list[tuple[Completion, ...]]:
        """`answers` answers to each prompt. An answer's random numbers depend on seed, prompt and its number alone.

        on_finished: called with the number of answers finished so far.
        """
        ids = [
            self.loaded.renderer.prompt(group.prompt, place=group.place, tools=group.extra.get("tools"))
            for group in prompts
        ]
        wants = _uniforms(ids, sampling.max_new_tokens, answers, seed)
        _demand_exact(self.loaded, ids, sampling)
        batch = _Batch(self.loaded, sampling, max(self.max_rows, answers), self.reference)
        finished: dict[tuple[int, int], _Live] = {}
        waiting = list(range(len(prompts)))
        while waiting or batch.rows:
            while waiting and (admitted := _that_fit(waiting, ids, batch.free, answers)):
                waiting = waiting[len(admitted) :]
                batch.admit([(place, ids[place], wants[place]) for place in admitted])
            for row in batch.leave():
                finished[row.prompt, row.answer] = row
            on_finished(len(finished))
            if batch.rows:
                batch.write_one()
        return [
            tuple(self._completion(prompts[place], finished[place, number]) for number in range(answers))
            for place in range(len(prompts))
        ]

    @torch.no_grad()
    def stream(self, prompt: tuple[Message, ...], sampling: Sampling, seed: int = 0) -> Iterator[str]:
        """One answer, as pieces of text while it is written."""
        ids = self.loaded.renderer.prompt(prompt)
        _demand_exact(self.loaded, [ids], sampling)
        batch = _Batch(self.loaded, sampling, 1, self.reference)
        batch.admit([(0, ids, _uniforms([ids], sampling.max_new_tokens, 1, seed)[0])])
        row, said = batch.rows[0], ""
        while True:
            text = self.loaded.renderer.decode(row.tokens)
            over = bool(list(batch.leave()))
            if over or not text.endswith("\ufffd"):  # half a character: its other bytes are still to come
                yield text[len(said) :]
                said = text
            if over:
                return
            batch.write_one()

    def _completion(self, group: Group, row: _Live) -> Completion:
        stopped = row.tokens[-1] in self.loaded.stop_ids
        role = TEXT_ROLE if group.prompt and group.prompt[0].role == TEXT_ROLE else "assistant"
        words = row.tokens[:-1] if stopped else row.tokens
        return Completion(
            messages=(Message(role, self.loaded.renderer.decode(words)),),
            sampled=Sampled(
                tokens=tuple(row.tokens),
                logprobs=tuple(row.logprobs),
                finish_reason="stop" if stopped else "length",
                tokenizer=self.loaded.renderer.fingerprint,
                policy=self.policy,
            ),
        )


class _Reader:
    """One model that reads the answers while they are written: its keys and values, and its logits of what comes next.

    within: where the model computes as this one.
    """

    def __init__(self, loaded: Loaded, within: Within) -> None:
        config = loaded.model.config.get_text_config()
        heads = config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // heads
        self._head = output_weight(loaded.model)
        shape = (config.num_hidden_layers, getattr(config, "num_key_value_heads", heads), width)
        self.prompts, self.answers = Cache(*shape, like=self._head), Cache(*shape, like=self._head)
        self._decoder = loaded.model.get_decoder()
        self._own_loop = can_decode(self._decoder)
        self._within = within

    def read(self, prompts: Forest, first: int) -> Tensor:
        """The logits after each prompt, whose keys and values go to rows `first` and on."""
        with self._within():
            hidden = self._run(prompts.tokens, prompts.positions, Prefill(prompts.trees, self.prompts, first))
            return hidden[[tree.prompt.stop - 1 for tree in prompts.trees]] @ self._head.T

    def read_one(self, tokens: Tensor, prompt: Sequence[int], lengths: Sequence[int], written: Sequence[int]) -> Tensor:
        """The logits after one more token of each answer. The others: as `Decode` takes them."""
        layout = Decode(self.prompts, self.answers, prompt, lengths, written)
        run = partial(decode, self._decoder) if self._own_loop else self._run
        with self._within():
            return run(tokens, layout.positions, layout) @ self._head.T

    def _run(self, tokens: Tensor, positions: Tensor, layout: Layout) -> Tensor:
        out = self._decoder(input_ids=tokens[None], position_ids=positions[None], use_cache=False, layout=layout)
        hidden: Tensor = out.last_hidden_state[0]
        return hidden


class _Batch:
    """Answers being written. Row i of the answers' keys and values belongs to `rows[i]`.

    readers: the policy, or the reference, or both where tokens are drawn from their mixture.
    """

    def __init__(self, loaded: Loaded, sampling: Sampling, max_rows: int, reference: Within | None = None) -> None:
        self.readers = _readers(loaded, sampling.reference, reference)
        self.lengths: dict[int, int] = {}  # of each prompt in the cache, in the order of its rows
        self.rows: list[_Live] = []
        self.max_rows = max_rows
        self.sampling = sampling
        self.stop_ids = loaded.stop_ids
        self._device = output_weight(loaded.model).device

    @property
    def free(self) -> int:
        return self.max_rows - len(self.rows)

    def admit(self, prompts: Sequence[tuple[int, Sequence[int], list[list[float]]]]) -> None:
        """Runs each prompt once, keeps its keys and values for all its answers and draws their first tokens."""
        needed = {row.prompt for row in self.rows}
        kept = [row for row, place in enumerate(self.lengths) if place in needed]
        self.lengths = {place: length for place, length in self.lengths.items() if place in needed}
        self.lengths |= {place: len(ids) for place, ids, _ in prompts}
        packed = forest([Row(tuple(ids), (), place) for place, ids, _ in prompts]).to(self._device)
        for reader in self.readers:
            reader.prompts.reshape(kept, len(prompts), max(self.lengths.values()))
        logits = self._mixed([reader.read(packed, len(kept)) for reader in self.readers])
        first = len(self.rows)
        self.rows += [_Live(place, number, uniform) for place, _, own in prompts for number, uniform in enumerate(own)]
        self._make_room(range(first), len(self.rows) - first)
        times = torch.tensor([len(own) for _, _, own in prompts], device=logits.device)
        self._draw(self.rows[first:], logits.repeat_interleave(times, dim=0))

    def write_one(self) -> None:
        """One more token for every row."""
        if max(row.written for row in self.rows) == self.readers[0].answers.length:
            self._make_room(range(len(self.rows)), 0)
        place = {prompt: row for row, prompt in enumerate(self.lengths)}
        prompt, lengths = [place[row.prompt] for row in self.rows], list(self.lengths.values())
        written = [row.written for row in self.rows]
        tokens = torch.tensor([row.tokens[-1] for row in self.rows], device=self._device)
        logits = self._mixed([reader.read_one(tokens, prompt, lengths, written) for reader in self.readers])
        self._draw(self.rows, logits)

    def leave(self) -> Iterator[_Live]:
        """Takes out the finished rows; the last row moves into the place of each."""
        for place in reversed(range(len(self.rows))):
            row = self.rows[place]
            if row.tokens[-1] in self.stop_ids or len(row.tokens) == self.sampling.max_new_tokens:
                last = self.rows.pop()
                if last is not row:
                    for reader in self.readers:
                        reader.answers.move(len(self.rows), place)
                    self.rows[place] = last
                yield row

    def _make_room(self, kept: Sequence[int], more: int) -> None:
        """Room for the next tokens of every row, and no longer for rows that left."""
        longest = max((row.written for row in self.rows), default=0)
        for reader in self.readers:
            reader.answers.reshape(kept, more, (longest // ROOM + 1) * ROOM)

    def _mixed(self, logits: Sequence[Tensor]) -> Tensor:
        """What is drawn from. Of two models (1 - share) of the one's logits and share of the other's, in full width.

        Each model's normaliser is the same for all tokens, so whether logits or log-probabilities are mixed is one.
        """
        if len(logits) == 1:
            return logits[0]
        policy, reference = logits
        return policy.float().lerp(reference.float(), self.sampling.reference)

    def _draw(self, rows: Sequence[_Live], logits: Tensor) -> None:
        uniform = torch.tensor([row.uniform[len(row.tokens)] for row in rows], device=logits.device)
        tokens, logprobs = draw(logits, self.sampling, uniform)
        for row, token, logprob in zip(rows, tokens.tolist(), logprobs.tolist(), strict=True):
            row.tokens.append(token)
            row.logprobs.append(logprob)


def _readers(loaded: Loaded, share: float, reference: Within | None) -> list[_Reader]:
    """Policy, reference, or both, as far as they have a share."""
    if share == 0:
        return [_Reader(loaded, nullcontext)]
    if reference is None:
        raise MissingError("answers of a reference are asked for, and this generator has none beside its model")
    readers = [_Reader(loaded, nullcontext), _Reader(loaded, reference)]
    return readers[1:] if share == 1 else readers


def _demand_exact(loaded: Loaded, prompts: Sequence[Sequence[int]], sampling: Sampling) -> None:
    limit = longest_exact(loaded.model.config)
    longest = max(map(len, prompts), default=0) + sampling.max_new_tokens
    if limit is not None and longest > limit:
        raise MissingError(too_long(limit))


def _that_fit(waiting: Sequence[int], ids: Sequence[Sequence[int]], free: int, answers: int) -> list[int]:
    """The next prompts for whose answers there is room, up to PREFILL_TOKENS tokens and at least one."""
    fitting: list[int] = []
    tokens = 0
    for place in waiting:
        tokens += len(ids[place])
        if (len(fitting) + 1) * answers > free or (fitting and tokens > PREFILL_TOKENS):
            break
        fitting.append(place)
    return fitting


def _uniforms(prompts: Sequence[Sequence[int]], length: int, answers: int, seed: int) -> list[list[list[float]]]:
    """Uniform numbers for every token of every answer, the same for a prompt wherever it stands in the list."""
    seen: dict[tuple[int, ...], int] = {}
    numbers: list[list[list[float]]] = []
    for ids in prompts:
        repeat = seen[tuple(ids)] = seen.get(tuple(ids), -1) + 1
        streams = []
        for number in range(answers):
            name = f"{seed}:{','.join(map(str, ids))}:{repeat}:{number}"
            generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big"))
            streams.append(torch.rand(length, generator=generator).tolist())
        numbers.append(streams)
    return numbers
