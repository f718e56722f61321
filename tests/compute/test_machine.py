"""What is set for the whole process."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys, torch
from truing.compute.machine import keep_freed_memory

if sys.argv[1] == "kept":
    assert keep_freed_memory()

def step():
    held = [torch.ones(6 << 20) for _ in range(5)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

step()
first = step()
for _ in range(18):
    last = step()
print(last - first)
"""


def page_faults(how: str) -> int:
    ended = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
    return int(ended.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the system's allocator is not glibc's")
def test_memory_of_one_step_serves_the_next() -> None:
    # a step of 120 MiB is 30,000 pages, and thousands where the system gives larger ones
    assert page_faults("kept") < page_faults("given back") / 10
