"""fp32 masters to bf16 weights so that small steps of training are not lost.

A bf16 weight has eight bits of mantissa, and a step of a usual learning rate moves most weights by less than half of
the last one. Rounded to the nearest, a model that was read from bf16 stands still for its first dozen steps and then
lags behind. Stochastic rounding (arXiv:1502.02551) moves the weights on average by what their masters moved: of those
that should move by a hundredth of a bit, one in a hundred moves by one.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

CHUNK = 2**20
"""Weights that have chances of their own; the next ones have the same again."""
AT_ONCE = {"cpu": 1, "cuda": 64}
"""Chunks that are rounded at a time: few stay in a CPU's cache, many keep a GPU busy."""


def rounded(master: Tensor, dtype: torch.dtype) -> Tensor:
    """The master in this dtype; itself where it has it already."""
    if master.dtype == dtype:
        return master
    narrow = torch.empty_like(master, dtype=dtype)
    round_into(narrow, master)
    return narrow


@torch.no_grad()
def round_into(narrow: Tensor, master: Tensor) -> None:
    """Writes the master into `narrow`, rounded up or down with the chances that make the mean right.

    The chance of each weight is drawn once for all and not again at every step, so that equal masters give equal
    weights, and what bf16 can hold stays as it is. Only fp32 into contiguous bf16; anything else goes to the nearest.
    """
    exact = master.dtype == torch.float32 and narrow.dtype == torch.bfloat16
    if not (exact and master.is_contiguous() and narrow.is_contiguous()):
        narrow.copy_(master)
        return
    # a bf16 is the upper half of an fp32: adding to the lower half carries over as often as that half is large
    wide, upper = master.view(-1).view(torch.int32), narrow.view(-1).view(torch.int16)
    dither = _dither(master.device)
    stride = CHUNK * AT_ONCE.get(master.device.type, 1)
    whole = wide.numel() // CHUNK * CHUNK
    for start in range(0, whole, stride):
        some = wide[start : min(start + stride, whole)]
        upper[start : start + len(some)] = (some.view(-1, CHUNK) + dither).bitwise_right_shift_(16).view(-1)
    rest = wide[whole:]
    upper[whole:] = (rest + dither[: len(rest)]).bitwise_right_shift_(16)


@cache
def _dither(device: torch.device) -> Tensor:
    """Numbers from 0 to 65535, the same in every process."""
    return torch.randint(2**16, (CHUNK,), generator=torch.Generator().manual_seed(0), dtype=torch.int32).to(device)
