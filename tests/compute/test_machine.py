"""What is set for the whole process."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

STEP = """
import sys, psutil, torch
from truing.compute.machine import keep_freed_memory

if sys.argv[1] == "kept":
    assert keep_freed_memory()
torch.ones(6 << 20).sum()
before = psutil.Process().memory_info().rss
held = [torch.ones(6 << 20) for _ in range(20)]
del held
print(psutil.Process().memory_info().rss - before)
"""
MEGABYTE = 2**20
GIVEN_BACK = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
"""What glibc begins with, fixed: by itself it raises both as large tensors are freed, and then keeps some of them."""


def grown_by_a_step(how: str) -> int:
    """Bytes that are still the process's after a step of 480 MiB has freed them all."""
    command = [sys.executable, "-c", STEP, how]
    ended = subprocess.run(command, env=os.environ | GIVEN_BACK, capture_output=True, text=True, check=True)
    return int(ended.stdout)


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc",
    reason="only glibc's allocator can be asked to keep memory; elsewhere nothing is set",
)
def test_memory_of_one_step_stays_for_the_next() -> None:
    assert grown_by_a_step("given back") < 120 * MEGABYTE
    assert grown_by_a_step("kept") > 300 * MEGABYTE  # some of it was there before, left behind by the imports
