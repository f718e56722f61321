"""Keys and values while answers are written: each prompt's stand once for all its answers, each answer has its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from truing.compute.attention import ForestLayout, Heads
from truing.tensors import Tree


class Cache:
    """Keys and values of sequences, by layer [rows, heads, length, width].

    Tensors have the rows and the length that are in use and hardly more: batched matrix products copy what has gaps.
    """

    def __init__(self, layers: int, heads: int, width: int, like: Tensor) -> None:
        self.keys = [like.new_zeros(0, heads, 0, width) for _ in range(layers)]
        self.values = [like.new_zeros(0, heads, 0, width) for _ in range(layers)]

    @property
    def length(self) -> int:
        """Tokens for which every row has room."""
        return int(self.keys[0].shape[2])

    def reshape(self, rows: Sequence[int], more: int, length: int) -> None:
        """Keeps these rows in this order, then `more` empty ones, with room for `length` tokens in each."""
        for kept in (self.keys, self.values):
            for layer, old in enumerate(kept):  # one after another, so that only one layer is in memory twice
                shape = (len(rows) + more, old.shape[1], length, old.shape[3])
                both = min(length, old.shape[2])
                new = old.new_zeros(shape)  # not empty: what no row sees has weight 0, and 0 * nan is nan
                for place, row in enumerate(rows):
                    new[place, :, :both] = old[row, :, :both]
                kept[layer] = new

    def move(self, source: int, to: int) -> None:
        """Row `source` takes the place of row `to`."""
        for tensor in (*self.keys, *self.values):
            tensor[to] = tensor[source]


class Prefill:
    """Forest attention over prompts without answers, whose keys and values go to rows `first` and on of a cache."""

    def __init__(self, trees: Sequence[Tree], cache: Cache, first: int) -> None:
        self._inner = ForestLayout(trees)
        self._cache, self._first = cache, first

    def attend(
        self, layer: int, query: Heads, key: Heads, value: Heads, scaling: float | None, window: int | None
    ) -> Float[Tensor, "1 S heads width"]:
        """Attention of one layer."""
        for row, tree in enumerate(self._inner.trees, self._first):
            length = tree.prompt.stop - tree.prompt.start
            self._cache.keys[layer][row, :, :length] = key[0, :, tree.prompt]
            self._cache.values[layer][row, :, :length] = value[0, :, tree.prompt]
        return self._inner.attend(layer, query, key, value, scaling, window)


class Decode:
    """One new token for each answer: it sees its prompt, what was written of its answer, and itself.

    Queries of all answers to a prompt meet its keys in one matrix product (Hydragen, arXiv:2402.05099); one softmax
    then goes over the scores of prompt and answer.

    prompt: row of `prompts` for each answer. lengths: tokens of each prompt in `prompts`. written: tokens of each
    answer that are in `answers` already.
    """

    def __init__(
        self, prompts: Cache, answers: Cache, prompt: Sequence[int], lengths: Sequence[int], written: Sequence[int]
    ) -> None:
        device = answers.keys[0].device
        self._prompts, self._answers = prompts, answers
        self._written = torch.tensor(written, device=device)
        self._length = torch.tensor([lengths[own] for own in prompt], device=device)
        self._seat = torch.tensor(_seats(prompt), device=device)
        self._siblings = int(self._seat.max()) + 1
        self._seat += torch.tensor(prompt, device=device) * self._siblings
        heads = answers.keys[0].shape[1]
        row = torch.arange(len(prompt) * heads, device=device).view(-1, heads)
        self._place = (row * answers.length + self._written[:, None]).flatten()
        self._masks: dict[int | None, Tensor] = {}

    @property
    def positions(self) -> Int[Tensor, " R"]:
        """Position of each new token in its own text."""
        return self._length + self._written

    def attend(
        self, layer: int, query: Heads, key: Heads, value: Heads, scaling: float | None, window: int | None
    ) -> Float[Tensor, "1 R heads width"]:
        """Attention of one layer."""
        rows, heads, width = query.shape[2], key.shape[1], query.shape[3]
        keys, values = self._answers.keys[layer][:rows], self._answers.values[layer][:rows]
        keys.view(-1, width).index_copy_(0, self._place, key[0].transpose(0, 1).reshape(-1, width))
        values.view(-1, width).index_copy_(0, self._place, value[0].transpose(0, 1).reshape(-1, width))
        # heads that share keys stand as queries of one head: [rows, heads, queries of a head, width]
        grouped = query[0].transpose(0, 1).reshape(rows, heads, -1, width) * (scaling or width**-0.5)
        of_prompt = self._with_prompts(grouped, self._prompts.keys[layer].mT)
        scores = torch.cat((of_prompt, _product(grouped, keys.mT)), dim=3) + self._mask(window, grouped.dtype)
        share = torch.softmax(scores, dim=3, dtype=torch.promote_types(scores.dtype, torch.float32)).to(scores.dtype)
        end = self._prompts.length
        out = self._with_prompts(share[..., :end], self._prompts.values[layer]) + _product(share[..., end:], values)
        return out.flatten(1, 2)[None]

    def _with_prompts(
        self, own: Float[Tensor, "R heads queries inner"], of_prompts: Float[Tensor, "prompts heads inner outer"]
    ) -> Float[Tensor, "R heads queries outer"]:
        """What each answer has times what its prompt has, a prompt's answers as rows of one product."""
        prompts, heads = of_prompts.shape[:2]
        seats = own.new_zeros(prompts * self._siblings, *own.shape[1:]).index_copy_(0, self._seat, own)
        stacked = seats.view(prompts, self._siblings, *own.shape[1:]).transpose(1, 2).flatten(2, 3)
        out = _product(stacked, of_prompts).view(prompts, heads, self._siblings, own.shape[2], -1)
        return out.transpose(1, 2).flatten(0, 1)[self._seat]

    def _mask(self, window: int | None, dtype: torch.dtype) -> Float[Tensor, "R 1 1 columns"]:
        """0 where a new token sees a column of scores, minus infinity elsewhere; the same for all layers."""
        if window not in self._masks:
            device = self._written.device
            prompt = torch.arange(self._prompts.length, device=device).expand(len(self._written), -1)
            answer = torch.arange(self._answers.length, device=device).expand(len(self._written), -1)
            seen = torch.cat((prompt < self._length[:, None], answer <= self._written[:, None]), dim=1)
            if window is not None:
                position = torch.cat((prompt, answer + self._length[:, None]), dim=1)
                seen &= position > self.positions[:, None] - window
            mask = torch.zeros(seen.shape, dtype=dtype, device=device).masked_fill(~seen, -torch.inf)
            self._masks[window] = mask[:, None, None, :]
        return self._masks[window]


def _product(left: Tensor, right: Tensor) -> Tensor:
    """Batched matrix product over the first two dimensions. `matmul` would copy `right`, which is large."""
    return torch.bmm(left.flatten(0, 1), right.flatten(0, 1)).unflatten(0, left.shape[:2])  # type: ignore[no-untyped-call, no-any-return]


def _seats(prompt: Sequence[int]) -> list[int]:
    """The number of each answer among those of its prompt."""
    taken: dict[int, int] = {}
    seats = []
    for own in prompt:
        seats.append(taken.setdefault(own, 0))
        taken[own] += 1
    return seats
