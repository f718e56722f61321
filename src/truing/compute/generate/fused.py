"""One token for each row through a Llama-like decoder, in fewer and faster operations than the model's own forward.

On a CPU with few rows, transformers' layers spend as much time on small operations as on matrix products, and the
products are slow in the order in which linear layers take them. Weights are used in place; nothing is copied.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import linear, silu
from transformers.models.llama.modeling_llama import LlamaModel
from transformers.models.mistral.modeling_mistral import MistralModel
from transformers.models.qwen2.modeling_qwen2 import Qwen2Model
from transformers.models.qwen3.modeling_qwen3 import Qwen3Model

from truing.compute.attention import Layout
from truing.compute.lean import normed

FEW_ROWS = 16
"""Rows below which `input @ weight.T` is faster than `weight @ input.T`."""


def can_decode(decoder: Any) -> bool:
    """Whether `decode` computes what this decoder does: a known kind, every linear layer plain, no sliding window."""
    if type(decoder) not in (LlamaModel, MistralModel, Qwen2Model, Qwen3Model):
        return False
    plain = all(
        type(module) is torch.nn.Linear
        for layer in decoder.layers
        for part in (layer.self_attn, layer.mlp)
        for name, module in part.named_children()
        if name.endswith("_proj")
    )
    config = decoder.config
    return plain and config.hidden_act == "silu" and getattr(config, "sliding_window", None) is None


def decode(decoder: Any, tokens: Int[Tensor, " R"], positions: Int[Tensor, " R"], layout: Layout) -> Tensor:
    """Hidden states of the last layer, [R, width], for one token of each row."""
    hidden = decoder.embed_tokens(tokens)
    cosine, sine = decoder.rotary_emb(hidden[None], positions[None])
    half = sine.shape[-1] // 2
    # rotate_half(x) * sine is x.roll(half) * signed, so that one roll does for a negation and two copies
    signed = torch.cat((-sine[0, :, None, :half], sine[0, :, None, half:]), dim=-1)
    for index, layer in enumerate(decoder.layers):
        hidden = hidden + _attention(layer, index, hidden, cosine[0, :, None], signed, layout)
        rows = _norm(layer.post_attention_layernorm, hidden)
        gated = silu(_linear(layer.mlp.gate_proj, rows)) * _linear(layer.mlp.up_proj, rows)
        hidden = hidden + _linear(layer.mlp.down_proj, gated)
    return _norm(decoder.norm, hidden)


def _attention(layer: Any, index: int, hidden: Tensor, cosine: Tensor, signed: Tensor, layout: Layout) -> Tensor:
    """What attention adds to the hidden states, [R, width]. cosine, signed: [R, 1, head width]."""
    own = layer.self_attn
    rows = _norm(layer.input_layernorm, hidden)
    shape = (len(hidden), -1, own.head_dim)
    query, key, value = (_linear(part, rows).reshape(shape) for part in (own.q_proj, own.k_proj, own.v_proj))
    if hasattr(own, "q_norm"):
        query, key = _norm(own.q_norm, query), _norm(own.k_norm, key)
    heads = query.shape[1]
    both = torch.cat((query, key), dim=1)
    both = both * cosine + both.roll(own.head_dim // 2, dims=-1) * signed
    seen = both.transpose(0, 1)[None]
    out = layout.attend(index, seen[:, :heads], seen[:, heads:], value.transpose(0, 1)[None], own.scaling, None)
    return _linear(own.o_proj, out[0].flatten(1))


def _norm(norm: Any, hidden: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows width"]:
    return normed(hidden, norm.weight, norm.variance_epsilon)[0]


def _linear(layer: torch.nn.Linear, rows: Float[Tensor, "R inner"]) -> Float[Tensor, "R outer"]:
    """The layer; for many rows the result lies in memory column by column, and what follows keeps it so."""
    if len(rows) < FEW_ROWS:
        return linear(rows, layer.weight, layer.bias)
    out = layer.weight.mm(rows.T).T
    return out if layer.bias is None else out + layer.bias
