"""Attention over a Forest: every prompt token sees its prompt, every answer token its prompt and its own answer.

Registered with transformers under ATTENTION, so that any decoder whose attention goes through the common interface
runs on forests unchanged. What the interface cannot express here (logit soft caps, attention sinks) is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from inspect import signature
from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface

from truing.compute.blocks import Block, attend, blocks_of
from truing.errors import MissingError
from truing.tensors import Tree

ATTENTION = "truing_forest"
"""Name under which transformers finds `attention`: `attn_implementation=ATTENTION`."""

Heads = Float[Tensor, "1 heads S width"]


class Layout(Protocol):
    """Who sees whom in one call of the model."""

    def attend(
        self, layer: int, query: Heads, key: Heads, value: Heads, scaling: float | None, window: int | None
    ) -> Float[Tensor, "1 S heads width"]:
        """Attention of one layer; `window` is the width of a sliding window or None."""


class Sequences(NamedTuple):
    """A forest as one variable-length call takes it: which key rows each sequence sees, where its queries and keys end.

    longest_query, longest_key: of one sequence.
    """

    source: Int[Tensor, " K"]
    query_ends: Int[Tensor, " sequences"]
    key_ends: Int[Tensor, " sequences"]
    longest_query: int
    longest_key: int


@dataclass(frozen=True, slots=True)
class ForestLayout:
    """Every prompt token sees its prompt; every answer token sees its prompt and its own answer."""

    trees: Sequence[Tree]
    _blocks: dict[int | None, tuple[Block, ...]] = field(default_factory=dict)
    _sequences: list[Sequences] = field(default_factory=list)

    def attend(
        self, layer: int, query: Heads, key: Heads, value: Heads, scaling: float | None, window: int | None
    ) -> Float[Tensor, "1 S heads width"]:
        """Attention of all trees: one call where there is a kernel for it, else one for each block of like spans."""
        if has_varlen_kernel(query.device, query.dtype, window):
            if not self._sequences:
                self._sequences.append(sequences_of(self.trees, query.device))
            return _by_varlen(query, key, value, self._sequences[0], scaling)
        if window not in self._blocks:  # the layers of a model have at most two kinds of window
            self._blocks[window] = blocks_of(self.trees, window, query.device)
        return attend(query, key, value, self._blocks[window], scaling)


def has_varlen_kernel(device: torch.device, dtype: torch.dtype, window: int | None) -> bool:
    """Whether all trees can be one call. The kernel is CUDA's, for half precision alone; fp32 and fp64 go without."""
    return device.type == "cuda" and dtype in (torch.float16, torch.bfloat16) and window is None


def attention(
    module: torch.nn.Module,
    query: Heads,
    key: Heads,
    value: Heads,
    attention_mask: Tensor | None,
    layout: Layout,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **unused: Any,
) -> tuple[Float[Tensor, "1 S heads width"], None]:
    """Attention as `layout` says, in transformers' calling convention.

    key and value may have fewer heads than query (grouped-query attention). `unused` holds what transformers passes
    to every attention function; entries that would change the result are refused.
    """
    _refuse_what_is_not_done(module, unused, dropout)
    return layout.attend(int(module.layer_idx), query, key, value, scaling, sliding_window), None  # type: ignore[arg-type]


def _by_varlen(
    query: Heads, key: Heads, value: Heads, plan: Sequences, scaling: float | None
) -> Float[Tensor, "1 S heads width"]:
    """One variable-length call on CUDA: queries stand once, keys and values of a prompt are gathered per answer."""
    kernel = _varlen_kernel()
    out = kernel(
        query[0].transpose(0, 1),
        key[0].transpose(0, 1)[plan.source],
        value[0].transpose(0, 1)[plan.source],
        plan.query_ends,
        plan.key_ends,
        plan.longest_query,
        plan.longest_key,
        scale=scaling,
        window_size=(-1, 0),
    )
    return out[None]


@cache
def _varlen_kernel() -> Callable[..., Tensor]:
    """PyTorch's, for keys with fewer heads than queries: newer versions want to be told of them, 2.11 does without."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError as error:
        raise MissingError("forest attention on CUDA needs torch.nn.attention.varlen: install torch>=2.11") from error
    told = "enable_gqa" in signature(varlen_attn).parameters
    return partial(varlen_attn, enable_gqa=True) if told else varlen_attn  # type: ignore[return-value]


def sequences_of(trees: Sequence[Tree], device: torch.device) -> Sequences:
    """Worked out once a forest, for all layers."""
    source: list[int] = []
    query_ends, key_ends = [0], [0]
    longest_query = longest_key = 0
    for tree in trees:
        for own in (tree.prompt, *tree.answers):
            if own.stop == own.start:
                continue
            seen = list(range(own.start, own.stop))
            if own is not tree.prompt:
                seen = [*range(tree.prompt.start, tree.prompt.stop), *seen]
            source += seen
            query_ends.append(query_ends[-1] + own.stop - own.start)
            key_ends.append(key_ends[-1] + len(seen))
            longest_query = max(longest_query, own.stop - own.start)
            longest_key = max(longest_key, len(seen))
    queries, keys = (torch.tensor(some, dtype=torch.int32, device=device) for some in (query_ends, key_ends))
    return Sequences(torch.tensor(source, device=device), queries, keys, longest_query, longest_key)


def _refuse_what_is_not_done(module: torch.nn.Module, given: Mapping[str, Any], dropout: float) -> None:
    for name in ("softcap", "s_aux"):
        if given.get(name) is not None:
            raise MissingError(
                f"{type(module).__name__} uses '{name}' in its attention, which forest attention does not do: "
                "use a model without it (Llama, Mistral, Qwen 2 and 3, SmolLM and their kin work)"
            )
    if dropout:
        raise MissingError("attention dropout is not supported: set attention_dropout = 0 in the model's config.json")


def _no_mask(*_: Any, **__: Any) -> None:
    """Causality is entirely the business of the layout."""


AttentionInterface.register(ATTENTION, attention)
AttentionMaskInterface.register(ATTENTION, _no_mask)
