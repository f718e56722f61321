"""Norms and gated layers on CUDA, each as one kernel of Liger's (arXiv:2410.10989), where that is installed."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import linear


def serves(rows: Tensor) -> bool:
    """Whether there are kernels for this tensor: in half precision on CUDA, as fp32 is kept to PyTorch's own."""
    return rows.is_cuda and rows.dtype in (torch.float16, torch.bfloat16) and _kernels() is not None


def rms_norm(
    rows: Float[Tensor, "*rows width"], weight: Float[Tensor, " width"], epsilon: float
) -> Float[Tensor, "*rows width"]:
    """weight * rows / sqrt(mean(rows ** 2) + epsilon), rounded before the weight, as transformers does."""
    in_place = False  # its backward pass would write into a gradient that the residual stream may share
    out: Tensor = _kernels().LigerRMSNormFunction.apply(rows, weight, epsilon, 0.0, "llama", in_place)
    return out


def gated_linear(
    gate: Float[Tensor, "*rows inner"], up: Float[Tensor, "*rows inner"], weight: Float[Tensor, "width inner"]
) -> Float[Tensor, "*rows width"]:
    """(silu(gate) * up) @ weight.T, for which gate and up alone are kept."""
    out: Tensor = _GatedLinear.apply(gate, up, weight)  # type: ignore[no-untyped-call]
    return out


class _GatedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up, weight)
        return linear(_kernels().swiglu_forward(gate, up)[2], weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        gate, up, weight = ctx.saved_tensors
        (gradient,) = gradients
        to_weight = None
        if ctx.needs_input_grad[2]:
            product = _kernels().swiglu_forward(gate, up)[2]
            to_weight = gradient.flatten(0, -2).T @ product.flatten(0, -2)
        # copies, because the kernel writes the slopes in the place of what it is given
        to_gate, to_up = _kernels().swiglu_backward(gate.clone(), up.clone(), gradient @ weight)
        return to_gate, to_up, to_weight


@cache
def _kernels() -> Any:
    return import_module("liger_kernel.ops") if find_spec("liger_kernel") else None
