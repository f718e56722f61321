"""A frozen base in fewer bits: QLoRA's storage (arXiv:2305.14314), from which weights are made wide for each product.

Matrices of the decoder's linear layers are kept in blocks that have a scale each: 4 bits are the 16 values of
NormalFloat, 8 bits 256 values in equal steps. Embeddings, norms and the output layer stay as they are, and so does a
matrix that does not fill whole blocks. Only weights are rounded, never what they are multiplied with as in LLM.int8
(arXiv:2208.07339): a row of a product does not depend on the other rows, so a forest says what ordinary sequences say,
within the same tolerance as in full width.
"""

from __future__ import annotations

import logging
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import linear

from truing.errors import MissingError

Bits = Literal[8, 4]
BLOCK = 64
"""Weights that share a scale in fp32, so a weight takes half a bit more than its bits."""

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # else it tells which kernels of its own it does without


class QuantisedLinear(torch.nn.Linear):
    """A frozen linear layer of which the bits and scales are kept."""

    def __init__(self, layer: torch.nn.Linear, bits: Bits) -> None:
        torch.nn.Module.__init__(self)
        self.in_features, self.out_features, self.bits = layer.in_features, layer.out_features, bits
        library = _library()
        blocks = layer.weight.detach().float().reshape(-1, BLOCK)
        if bits == 4:
            kept, found = library.quantize_4bit(blocks, blocksize=BLOCK, quant_type="nf4")
        else:
            even = library.create_linear_map().to(blocks.device)
            kept, found = library.quantize_blockwise(blocks, code=even, blocksize=BLOCK)
        self.weight = torch.nn.Parameter(kept, requires_grad=False)
        self.register_buffer("scale", found.absmax)
        self.register_buffer("values", found.code)
        self.bias = layer.bias

    def forward(self, input: Tensor) -> Tensor:
        """The product with the weights as they are kept; they have no gradient."""
        out: Tensor = _Product.apply(input, self)  # type: ignore[no-untyped-call]
        return out

    def wide(self, dtype: torch.dtype) -> Tensor:
        """The weights that the bits stand for, [out, in]."""
        library = _library()
        shape = torch.Size((self.out_features * self.in_features // BLOCK, BLOCK))
        state = library.QuantState(self.scale, shape, self.values, BLOCK, "nf4", dtype)
        widen = library.dequantize_4bit if self.bits == 4 else library.dequantize_blockwise
        found: Tensor = widen(self.weight, state)
        return found.view(self.out_features, self.in_features)


class _Product(torch.autograd.Function):
    """rows @ weight.T. Nothing wide is kept for the backward pass: the weights are made wide again."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, layer: QuantisedLinear) -> Tensor:
        ctx.layer = layer
        return linear(rows, layer.wide(rows.dtype), layer.bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (slope,) = gradients
        return slope @ ctx.layer.wide(slope.dtype), None


def quantise(model: Any, bits: Bits, device: torch.device) -> None:
    """Puts the linear layers of the decoder into `bits`, on the device, one after the other."""
    demand_library()
    decoder = model.get_decoder()
    layers = [
        (name, layer)
        for name, layer in decoder.named_modules()
        if type(layer) is torch.nn.Linear and layer.weight.numel() % BLOCK == 0
    ]
    if not layers:
        raise MissingError(
            f"{type(model).__name__} has no plain linear layer, so its base has no weights to keep in {bits} bits: "
            "take base_bits out"
        )
    for name, layer in layers:
        decoder.set_submodule(name, QuantisedLinear(layer.to(device), bits))
    del layers, layer
    for weight in model.parameters():  # a file that a weight was read from stays in memory whole while one lies in it
        weight.data = weight.data.clone()


def bits_of(model: Any) -> Bits | None:
    """The bits in which the linear layers of a model are kept; None where all are wide."""
    return next((layer.bits for layer in model.modules() if isinstance(layer, QuantisedLinear)), None)


def weight_count(model: Any) -> int:
    """How many weights a model has, however few bits they are kept in."""
    packed = [layer for layer in model.modules() if isinstance(layer, QuantisedLinear) and layer.bits == 4]
    kept: int = sum(weight.numel() for weight in model.parameters())
    return kept + sum(layer.weight.numel() for layer in packed)


def demand_library() -> None:
    """Raises MissingError where bitsandbytes is not installed."""
    if find_spec("bitsandbytes") is None:
        raise MissingError("base_bits needs bitsandbytes: pip install 'truing[quantised]'")


@cache
def _library() -> Any:
    return import_module("bitsandbytes.functional")
