"""What is set for the whole process."""

from __future__ import annotations

import subprocess
import sys


def test_numbers_below_full_precision_become_0_in_every_thread() -> None:
    code = (
        "import torch; from truing.compute import machine; machine.prepare(); "
        "print(bool((torch.full((1 << 20,), 1e-39) * 0.5).any()))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "False"
