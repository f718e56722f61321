"""Norms and gated layers that keep less for the backward pass than the model's own modules, with the same results.

A norm of transformers keeps its input in fp32 and the normed rows, a gated layer four matrices of its inner width.
Here a norm keeps its input as it came, and a gated layer two matrices; the rest is quickly made again. On a small model
in bf16 that is almost half of what a forward pass kept. On CUDA Liger's kernels do the same where they are installed.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import linear, silu
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm
from transformers.models.mistral.modeling_mistral import MistralMLP, MistralRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2MLP, Qwen2RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3MLP, Qwen3RMSNorm

from truing.compute import liger

NORMS = (LlamaRMSNorm, MistralRMSNorm, Qwen2RMSNorm, Qwen3RMSNorm)
GATED = (LlamaMLP, MistralMLP, Qwen2MLP, Qwen3MLP)


def keep_less(model: torch.nn.Module) -> None:
    """Gives the modules that are known here a forward pass that keeps less; others stay as they are."""
    module: Any
    for module in model.modules():
        if type(module) in NORMS:
            module.forward = MethodType(_norm, module)  # bound, so that a copy of the model has its own
        elif type(module) in GATED and module.config.hidden_act == "silu" and _is_plain(module.down_proj):
            module.forward = MethodType(_gated, module)


def rms_norm(
    rows: Float[Tensor, "*rows width"], weight: Float[Tensor, " width"], epsilon: float
) -> Float[Tensor, "*rows width"]:
    """What `normed` gives, with its gradient."""
    if liger.serves(rows):
        return liger.rms_norm(rows, weight, epsilon)
    out: Tensor = _RmsNorm.apply(rows, weight, epsilon)  # type: ignore[no-untyped-call]
    return out


def gated_linear(
    gate: Float[Tensor, "*rows inner"], up: Float[Tensor, "*rows inner"], weight: Float[Tensor, "width inner"]
) -> Float[Tensor, "*rows width"]:
    """(silu(gate) * up) @ weight.T."""
    if liger.serves(gate):
        return liger.gated_linear(gate, up, weight)
    out: Tensor = _GatedLinear.apply(gate, up, weight)  # type: ignore[no-untyped-call]
    return out


def normed(
    rows: Float[Tensor, "*rows width"], weight: Float[Tensor, " width"], epsilon: float
) -> tuple[Float[Tensor, "*rows width"], Float[Tensor, "*rows 1"]]:
    """weight * rows * scale, and scale = 1 / sqrt(mean(rows ** 2) + epsilon).

    In fp32 whatever the rows are, and rounded before the weight, as transformers does.
    """
    wide = rows.to(torch.float32)
    scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)
    return weight * (wide * scale).to(rows.dtype), scale


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        out, scale = normed(rows, weight, epsilon)
        ctx.save_for_backward(rows, weight, scale)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, scale = ctx.saved_tensors
        (gradient,) = gradients
        even = rows.to(torch.float32) * scale
        to_weight = None
        if ctx.needs_input_grad[1]:
            to_weight = (gradient * even).flatten(0, -2).sum(dim=0).to(weight.dtype)
        slope = (gradient * weight).to(torch.float32)
        along = (slope * even).mean(dim=-1, keepdim=True)
        return slope.sub_(even.mul_(along)).mul_(scale).to(rows.dtype), to_weight, None


class _GatedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up, weight)
        return linear(silu(gate).mul_(up), weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        gate, up, weight = ctx.saved_tensors
        (gradient,) = gradients
        opened = silu(gate)
        to_weight = None
        if ctx.needs_input_grad[2]:
            to_weight = gradient.flatten(0, -2).T @ (opened * up).flatten(0, -2)
        pull = gradient @ weight
        to_up = opened.mul_(pull)
        return torch.ops.aten.silu_backward(pull.mul_(up), gate), to_up, to_weight


def _norm(module: Any, hidden_states: Tensor) -> Tensor:
    return rms_norm(hidden_states, module.weight, module.variance_epsilon)


def _gated(module: Any, x: Tensor) -> Tensor:
    return gated_linear(module.gate_proj(x), module.up_proj(x), module.down_proj.weight)


def _is_plain(layer: torch.nn.Module) -> bool:
    return type(layer) is torch.nn.Linear and layer.bias is None
