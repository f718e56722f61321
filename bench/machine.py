"""The machine: what it is, what it can do at best, and how much memory a process took."""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor

PACKAGES = ("truing", "torch", "transformers", "trl", "accelerate", "peft", "numpy")
ROWS = 2048
"""Rows of the matrix products: the tokens of one forest."""
BUFFER = 64 * 2**20
"""Elements of each array of the memory tests: 256 MB in fp32, far beyond any cache."""
LEAST_SECONDS = 0.5


class Memory:
    """Memory taken since this moment, when one copy of the weights is loaded and nothing else is set up.

    On a CPU the kernel's own high-water mark of resident memory, on CUDA the allocator's.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._earlier = _status("VmHWM")
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again from here
        self.baseline = _status("VmRSS")
        if device.type == "cuda":
            self.baseline = torch.cuda.memory_allocated(device)
            torch.cuda.reset_peak_memory_stats(device)

    def taken(self) -> dict[str, int]:
        """Bytes: baseline, the peak above it, and the absolute peak, on CUDA allocated and reserved."""
        if self._device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self._device)
            reserved = torch.cuda.max_memory_reserved(self._device)
            return {"baseline": self.baseline, "above": _above(peak, self.baseline), "peak": peak, "reserved": reserved}
        peak = _status("VmHWM")
        return {"baseline": self.baseline, "above": _above(peak, self.baseline), "peak": max(peak, self._earlier)}


def synchronize(device: torch.device) -> None:
    """Waits for a device that works on its own."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def describe(device: str) -> dict[str, Any]:
    """Processor, memory, threads and versions, for the results."""
    return {
        "processor": _processor(),
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "threads": torch.get_num_threads(),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
    }


def rooflines(spec: Mapping[str, Any]) -> dict[str, float]:
    """Matrix products of the model's own shapes in FLOP/s, and bytes/s of a copy and of a + s b.

    The body's rate is that of all products of one layer, each run as often as the others; the head's that of the
    output layer on 256 rows.
    """
    device = torch.device(spec["device"])
    found: dict[str, float] = {}
    for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        found[name] = _matrix_rate([tuple(shape) for shape in spec["body"]], ROWS, dtype, device)
        found[f"{name}_head"] = _matrix_rate([tuple(spec["head"])], 256, dtype, device)
    return found | _memory_rates(device)


def _matrix_rate(shapes: list[tuple[int, int]], rows: int, dtype: torch.dtype, device: torch.device) -> float:
    pairs = [
        (torch.randn(rows, wide, device=device).to(dtype), torch.randn(out, wide, device=device).to(dtype))
        for wide, out in shapes
    ]

    def once() -> None:
        for left, right in pairs:
            torch.nn.functional.linear(left, right)

    return sum(2 * rows * wide * out for wide, out in shapes) / _seconds(once, device)


def _memory_rates(device: torch.device) -> dict[str, float]:
    first, second, third = (torch.ones(BUFFER, device=device) for _ in range(3))
    size = first.nbytes

    def copy() -> Tensor:
        return first.copy_(second)

    def triad() -> Tensor:
        return torch.add(second, third, alpha=0.5, out=first)

    return {"copy": 2 * size / _seconds(copy, device), "triad": 3 * size / _seconds(triad, device)}


def _seconds(once: Callable[[], object], device: torch.device) -> float:
    """The fastest of the calls that fit into half a second: a roofline is what can be reached."""
    once()
    fastest, ends = float("inf"), time.perf_counter() + LEAST_SECONDS
    while time.perf_counter() < ends:
        synchronize(device)
        began = time.perf_counter()
        once()
        synchronize(device)
        fastest = min(fastest, time.perf_counter() - began)
    return fastest


def _above(peak: int, baseline: int) -> int:
    """At least a page, so that ratios exist."""
    return max(peak - baseline, 4096)


def _status(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def _processor() -> str:
    found = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    return found[1] if found else platform.processor()
