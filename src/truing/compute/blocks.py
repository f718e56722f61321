"""Attention over trees in a few dense products for many prompts and answers at once, forward and backward.

PyTorch's attention kernels for the CPU are made for long sequences: on the short ones of alignment plain matrix
products take about half the time forward and, in bf16, a fifth of it backward. Probabilities are made again in the
backward pass and not kept. Who sees whom is worked out once a forest, for all layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from truing.tensors import Tree

ROWS = 128
"""Queries of one span: a longer prompt or answer is cut, so that most of what causality hides is never computed."""
CELLS = 1 << 17
"""Scores of a block for one head, at most: those of ten heads, in fp32, fit into a processor's last cache."""
SPARED = 1 << 13
"""Scores that take about as long as a block takes to set out: so many more may be computed to spare one."""


class Span(NamedTuple):
    """Rows that ask, [L], and all rows that some of them see, [K]."""

    query: Tensor
    key: Tensor

    @property
    def cells(self) -> int:
        """Scores to be computed."""
        return len(self.query) * len(self.key)


@dataclass(frozen=True, slots=True)
class Block:
    """Spans of like size side by side, the shorter ones filled up with row 0.

    query, key: rows of the forest. bias: 0 where a query sees a key, -inf where not; filled queries see everything.
    filled: which queries belong to no token. tokens: places of all others in the flat block.
    """

    query: Int[Tensor, "B L"]
    key: Int[Tensor, "B K"]
    bias: Float[Tensor, "B L K"]
    filled: Bool[Tensor, "B L"]
    tokens: Int[Tensor, " Q"]


def blocks_of(trees: Sequence[Tree], window: int | None, device: torch.device) -> tuple[Block, ...]:
    """All that is needed to attend in these trees. window: how far back a token sees, itself included; None: all."""
    place, branch = _paths(trees)
    spans = sorted((span for tree in trees for span in _spans(tree, window)), key=lambda s: (len(s.query), len(s.key)))
    blocks: list[Block] = []
    together: list[Span] = []
    for span in spans:
        if together and not _worth_joining(together, span):
            blocks.append(_block(together, place, branch, window, device))
            together = []
        together.append(span)
    if together:
        blocks.append(_block(together, place, branch, window, device))
    return tuple(blocks)


def attend(
    query: Float[Tensor, "1 heads S width"],
    key: Float[Tensor, "1 kv S width"],
    value: Float[Tensor, "1 kv S width"],
    blocks: Sequence[Block],
    scaling: float | None,
) -> Float[Tensor, "1 S heads width"]:
    """Softmax attention of every token to what its block lets it see. heads is a multiple of kv."""
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    out: Tensor = _Attend.apply(query, key, value, blocks, scale)  # type: ignore[no-untyped-call]
    return out


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, blocks: Sequence[Block], scale: float) -> Tensor:
        queries, keys, values = _by_row(query), _by_row(key), _by_row(value)
        shared = keys.shape[1]
        out = torch.empty_like(queries, memory_format=torch.contiguous_format)
        for block in blocks:
            q, k = _take(queries, block.query, shared), _take(keys, block.key, shared)
            likely = _likely(q, k, block, scale).to(value.dtype)
            _put(out, block, torch.matmul(likely, _take(values, block.key, shared)))
        ctx.save_for_backward(query, key, value, out)
        ctx.blocks, ctx.scale = blocks, scale
        return out[None]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        *heads, out = ctx.saved_tensors
        queries, keys, values = map(_by_row, heads)
        gradient = gradients[0][0]
        wide = torch.float64 if gradient.dtype == torch.float64 else torch.float32
        shared = keys.shape[1]
        # the part of the softmax's slope that all keys of a query share
        common = (gradient * out).sum(dim=-1, keepdim=True, dtype=wide)
        to_query = torch.empty_like(queries, memory_format=torch.contiguous_format)
        to_key, to_value = (torch.zeros(keys.shape, dtype=wide, device=keys.device) for _ in range(2))
        for block in ctx.blocks:
            q, k = _take(queries, block.query, shared), _take(keys, block.key, shared)
            pull, pulled = _take(gradient, block.query, shared), _take(common, block.query, shared)
            likely = _likely(q, k, block, ctx.scale)
            if len(block.tokens) < block.query.numel():
                likely.mul_(~_repeated(block.filled, q)[:, None, :, None])
            _gather(to_value, block.key, torch.matmul(likely.to(pull.dtype).mT, pull))
            slope = torch.matmul(pull, _take(values, block.key, shared).mT).to(wide).sub_(pulled)
            slope = slope.mul_(likely).to(pull.dtype)
            _gather(to_key, block.key, torch.matmul(slope.mT, q))
            _put(to_query, block, torch.matmul(slope, k))
        to_query.mul_(ctx.scale)
        to_key.mul_(ctx.scale)
        return *(_as_heads(part, gradient.dtype) for part in (to_query, to_key, to_value)), None, None


def _paths(trees: Sequence[Tree]) -> tuple[Tensor, Tensor]:
    """For each token its place on the path from the root, and which answer it belongs to, -1 for a prompt."""
    place: list[int] = []
    branch: list[int] = []
    for tree in trees:
        place += range(tree.prompt.stop - tree.prompt.start)
        branch += [-1] * (tree.prompt.stop - tree.prompt.start)
        for number, answer in enumerate(tree.answers):
            start = tree.prompt.stop - tree.prompt.start
            place += range(start, start + answer.stop - answer.start)
            branch += [number] * (answer.stop - answer.start)
    return torch.tensor(place), torch.tensor(branch)


def _spans(tree: Tree, window: int | None) -> Iterator[Span]:
    """The prompt against itself, and the answers against prompt and answer; all answers together where they are short.

    Together they are one larger product, which also computes what one answer would see in another.
    """
    prompt = torch.arange(tree.prompt.start, tree.prompt.stop)
    answers = [torch.arange(answer.start, answer.stop) for answer in tree.answers if answer.stop > answer.start]
    yield from _cut(prompt[:0], prompt, window)
    apart = [span for answer in answers for span in _cut(prompt, answer, window)]
    if len(answers) > 1 and sum(map(len, answers)) <= ROWS:
        rows = torch.cat(answers)
        whole = Span(rows, torch.cat((prompt, rows)))
        if whole.cells <= sum(span.cells for span in apart) + SPARED * (len(apart) - 1):
            apart = [whole]
    yield from apart


def _cut(before: Tensor, rows: Tensor, window: int | None) -> Iterator[Span]:
    """Pieces of `rows`, each of which sees what lies before it and itself."""
    path = torch.cat((before, rows))
    for start in range(0, len(rows), ROWS):
        query = rows[start : start + ROWS]
        end = len(before) + start + len(query)
        first = 0 if window is None else max(0, len(before) + start - window + 1)
        yield Span(query, path[first:end])


def _worth_joining(spans: Sequence[Span], span: Span) -> bool:
    """Whether one more span beside the others costs less than a block of its own."""
    joined = _cells([*spans, span])
    return joined <= CELLS and joined <= _cells(spans) + span.cells + SPARED


def _cells(spans: Sequence[Span]) -> int:
    return len(spans) * max(len(span.query) for span in spans) * max(len(span.key) for span in spans)


def _block(spans: Sequence[Span], place: Tensor, branch: Tensor, window: int | None, device: torch.device) -> Block:
    query, filled = _beside([span.query for span in spans])
    key, empty = _beside([span.key for span in spans])
    asking, seen = place[query][:, :, None], place[key][:, None, :]
    owner = branch[key][:, None, :]
    visible = (seen <= asking) & ((owner < 0) | (owner == branch[query][:, :, None])) & ~empty[:, None, :]
    if window is not None:
        visible &= seen > asking - window
    visible |= filled[:, :, None]
    bias = torch.zeros(visible.shape).masked_fill(~visible, -torch.inf)
    tokens = (~filled).flatten().nonzero()[:, 0]
    return Block(query.to(device), key.to(device), bias.to(device), filled.to(device), tokens.to(device))


def _beside(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Rows of one matrix, filled up with 0, and where they are filled."""
    filled = torch.ones(len(rows), max(map(len, rows)), dtype=torch.bool)
    matrix = torch.zeros(filled.shape, dtype=torch.long)
    for number, own in enumerate(rows):
        matrix[number, : len(own)] = own
        filled[number, : len(own)] = False
    return matrix, filled


def _by_row(heads: Tensor) -> Float[Tensor, "S heads width"]:
    return heads[0].transpose(0, 1)


def _as_heads(rows: Tensor, dtype: torch.dtype) -> Float[Tensor, "1 heads S width"]:
    return rows.to(dtype).transpose(0, 1)[None]


def _take(rows: Tensor, which: Tensor, shared: int) -> Float[Tensor, "B shared R width"]:
    """The rows of a block. Heads that share keys stand as queries of one head: R is heads / shared * rows."""
    count, length = which.shape
    apart = rows[which.flatten()].view(count, length, shared, -1, rows.shape[-1])
    return apart.permute(0, 2, 3, 1, 4).reshape(count, shared, -1, rows.shape[-1])


def _put(rows: Tensor, block: Block, found: Tensor) -> None:
    """What `_take` took for queries, back to its rows."""
    count, length = block.query.shape
    apart = found.view(count, found.shape[1], -1, length, found.shape[-1])
    flat = apart.permute(0, 3, 1, 2, 4).reshape(count * length, *rows.shape[1:])
    if len(block.tokens) < len(flat):
        rows[block.query.flatten()[block.tokens]] = flat[block.tokens]
    else:
        rows[block.query.flatten()] = flat


def _gather(total: Tensor, key: Tensor, part: Float[Tensor, "B shared K width"]) -> None:
    """Adds each key's part to its row; a prompt's key has parts from all its answers."""
    flat = part.transpose(1, 2).reshape(-1, *total.shape[1:])
    total.index_add_(0, key.flatten(), flat.to(total.dtype))


def _likely(
    query: Float[Tensor, "B shared R width"], key: Tensor, block: Block, scale: float
) -> Float[Tensor, "B shared R K"]:
    """Share of each key in what a query sees. In full width: a score of 10 that is rounded to bf16 is off by 4 %."""
    wide = torch.float64 if query.dtype == torch.float64 else torch.float32
    scores = torch.matmul(query.to(wide) * scale, key.to(wide).mT)
    return scores.add_(_repeated(block.bias, query)[:, None]).softmax(dim=-1)


def _repeated(of_queries: Tensor, query: Float[Tensor, "B shared R width"]) -> Tensor:
    """Once for each head that shares keys, as `_take` sets queries out."""
    times = query.shape[2] // of_queries.shape[1]
    return of_queries.repeat(1, times, *(1,) * (of_queries.dim() - 2)) if times > 1 else of_queries
