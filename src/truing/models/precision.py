"""Which dtype and device to compute in. Weights that are trained are always kept in fp32 beside the compute dtype."""

from __future__ import annotations

from typing import Literal

import torch

Precision = Literal["auto", "fp32", "bf16"]


def compute_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """fp32, bf16, or for `auto` bf16 where the hardware multiplies bf16 matrices natively."""
    if precision == "fp32":
        return torch.float32
    if precision == "bf16" or has_fast_bf16(device):
        return torch.bfloat16
    return torch.float32


def name_of(dtype: torch.dtype) -> str:
    """What a recipe calls a dtype."""
    return {torch.float32: "fp32", torch.bfloat16: "bf16"}[dtype]


def has_fast_bf16(device: torch.device) -> bool:
    """Whether bf16 matrix products are native: CUDA from Ampere on, CPUs with AVX512-BF16 or AMX."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and _cpu_flag("avx512_bf16", "amx_bf16")


def best_device() -> torch.device:
    """The first CUDA device, or the CPU."""
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def _cpu_flag(*names: str) -> bool:
    try:
        with open("/proc/cpuinfo") as file:
            flags = next((line for line in file if line.startswith("flags")), "")
    except OSError:
        return False
    return any(name in flags.split() for name in names)
