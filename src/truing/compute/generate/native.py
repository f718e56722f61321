"""The generator of one process: each prompt is run once for all its answers, and a finished answer leaves at once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from truing.compute import Sampling
from truing.compute.attention import ForestLayout
from truing.compute.generate.sampling import draw
from truing.models import Loaded
from truing.packing import forest
from truing.records import TEXT_ROLE, Completion, Group, Message, Sampled
from truing.rendering import Row

PREFILL_TOKENS = 2048
"""Prompt tokens that are run through the model in one call."""


@dataclass(slots=True)
class _Live:
    """An answer that is being written. `length` counts the tokens whose keys and values are in the cache."""

    prompt: int
    answer: int
    length: int
    uniform: list[float]
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


class NativeGenerator:
    """Samples with the weights of a loaded model, as they are at the time of each call.

    policy: hash of those weights, written into every answer.
    max_rows: answers that are written at one time.
    """

    def __init__(self, loaded: Loaded, *, policy: str, max_rows: int = 64) -> None:
        self.loaded = loaded
        self.policy = policy
        self.max_rows = max_rows

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
        batch = _Batch(self.loaded, sampling, ids, max(self.max_rows, answers))
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
        batch = _Batch(self.loaded, sampling, [ids], 1)
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


class _Batch:
    """Answers being written and their keys and values, kept dense: row i of the cache belongs to `rows[i]`."""

    def __init__(self, loaded: Loaded, sampling: Sampling, prompts: Sequence[Sequence[int]], max_rows: int) -> None:
        config = loaded.model.config.get_text_config()
        heads = config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // heads
        longest = max((len(ids) for ids in prompts), default=0) + sampling.max_new_tokens
        weight = loaded.model.get_output_embeddings().weight
        shape = (config.num_hidden_layers, 2, max_rows, getattr(config, "num_key_value_heads", heads), longest, width)
        self.cache = torch.zeros(shape, dtype=weight.dtype, device=weight.device)
        self.rows: list[_Live] = []
        self.sampling = sampling
        self.stop_ids = loaded.stop_ids
        self._decoder = loaded.model.get_decoder()
        self._head = weight

    @property
    def free(self) -> int:
        return int(self.cache.shape[2]) - len(self.rows)

    def admit(self, prompts: Sequence[tuple[int, Sequence[int], list[list[float]]]]) -> None:
        """Runs each prompt once, copies its keys and values to the rows of its answers and draws their first tokens."""
        packed = forest([Row(tuple(ids), (), place) for place, ids, _ in prompts]).to(self._head.device)
        layout = _Prefill(ForestLayout(packed.trees), [])
        hidden = self._run(packed.tokens, packed.positions, layout)
        last = [tree.prompt.stop - 1 for tree in packed.trees]
        logits = hidden[last] @ self._head.T
        first = len(self.rows)
        for (place, ids, uniforms), tree in zip(prompts, packed.trees, strict=True):
            here = len(self.rows)
            self.rows += [_Live(place, number, len(ids), uniform) for number, uniform in enumerate(uniforms)]
            for layer, (key, value) in enumerate(layout.seen):
                self.cache[layer, 0, here : len(self.rows), :, : len(ids)] = key[0, :, tree.prompt]
                self.cache[layer, 1, here : len(self.rows), :, : len(ids)] = value[0, :, tree.prompt]
        times = torch.tensor([len(uniforms) for _, _, uniforms in prompts], device=logits.device)
        self._draw(self.rows[first:], logits.repeat_interleave(times, dim=0))

    def write_one(self) -> None:
        """One more token for every row."""
        device = self._head.device
        tokens = torch.tensor([row.tokens[-1] for row in self.rows], device=device)
        positions = torch.tensor([row.length for row in self.rows], device=device)
        hidden = self._run(tokens, positions, _Decode(self.cache, positions))
        for row in self.rows:
            row.length += 1
        self._draw(self.rows, hidden @ self._head.T)

    def leave(self) -> Iterator[_Live]:
        """Takes out the finished rows; the last row moves into the place of each."""
        for place in reversed(range(len(self.rows))):
            row = self.rows[place]
            if row.tokens[-1] in self.stop_ids or len(row.tokens) == self.sampling.max_new_tokens:
                last = self.rows.pop()
                if last is not row:
                    end = len(self.rows)
                    self.cache[:, :, place, :, : last.length] = self.cache[:, :, end, :, : last.length]
                    self.rows[place] = last
                yield row

    def _run(self, tokens: Tensor, positions: Tensor, layout: Any) -> Tensor:
        out = self._decoder(input_ids=tokens[None], position_ids=positions[None], use_cache=False, layout=layout)
        hidden: Tensor = out.last_hidden_state[0]
        return hidden

    def _draw(self, rows: Sequence[_Live], logits: Tensor) -> None:
        uniform = torch.tensor([row.uniform[len(row.tokens)] for row in rows], device=logits.device)
        tokens, logprobs = draw(logits, self.sampling, uniform)
        for row, token, logprob in zip(rows, tokens.tolist(), logprobs.tolist(), strict=True):
            row.tokens.append(token)
            row.logprobs.append(logprob)


@dataclass(frozen=True, slots=True)
class _Prefill:
    """Forest attention that keeps the keys and values it sees, layer by layer."""

    inner: ForestLayout
    seen: list[tuple[Tensor, Tensor]]

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float | None, window: int | None
    ) -> Tensor:
        assert layer == len(self.seen)
        self.seen.append((key, value))
        return self.inner.attend(layer, query, key, value, scaling, window)


@dataclass(frozen=True, slots=True)
class _Decode:
    """One new token for each row: it sees what its row's cache holds, and itself."""

    cache: Tensor
    positions: Tensor

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float | None, window: int | None
    ) -> Tensor:
        rows, heads = query.shape[2], key.shape[1]
        place = torch.arange(rows, device=query.device)
        keys, values = self.cache[layer, 0, :rows], self.cache[layer, 1, :rows]
        keys[place, :, self.positions] = key[0].transpose(0, 1)
        values[place, :, self.positions] = value[0].transpose(0, 1)
        end = int(self.positions.max()) + 1
        column = torch.arange(end, device=query.device)[None, :]
        seen = column <= self.positions[:, None]
        if window is not None:
            seen &= column > self.positions[:, None] - window
        # heads that share keys stand as queries of one head: one row, `heads` heads, queries per head, width
        grouped = query[0].transpose(0, 1).unflatten(1, (heads, -1))  # type: ignore[no-untyped-call]
        out = scaled_dot_product_attention(
            grouped, keys[:, :, :end], values[:, :, :end], attn_mask=seen[:, None, None, :], scale=scaling
        )
        return out.flatten(1, 2)[None]


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
