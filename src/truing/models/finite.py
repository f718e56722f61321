"""Weights that are numbers: what is loaded and saved holds no NaN and no infinity."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from truing.errors import GuardError


@torch.no_grad()
def demand_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    """Raises GuardError, naming the tensor, where one holds a NaN or an infinity. where: what the tensors are of.

    Least and largest value are found in one pass that keeps nothing, and a NaN is both.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.numel() and not torch.stack(torch.aminmax(tensor)).isfinite().all():
            broken = int((~tensor.isfinite()).sum())
            raise GuardError(
                f"{where}: {name}: {broken:,} of {tensor.numel():,} values are NaN or infinite: "
                "go back to weights that are sound"
            )
