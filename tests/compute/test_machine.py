"""What is set for the whole process."""

from __future__ import annotations

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


def grown_by_a_step(how: str) -> int:
    """Bytes that are still the process's after a step of 480 MiB has freed them all."""
    ended = subprocess.run([sys.executable, "-c", STEP, how], capture_output=True, text=True, check=True)
    return int(ended.stdout)


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc",
    reason="only glibc's allocator can be asked to keep memory; elsewhere nothing is set",
)
def test_memory_of_one_step_stays_for_the_next() -> None:
    assert grown_by_a_step("given back") < 120 * MEGABYTE
    assert grown_by_a_step("kept") > 300 * MEGABYTE  # some of it was there before, left behind by the imports
