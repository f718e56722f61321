"""What stands in the environment before torch is imported does what it is there for."""

import os
import subprocess
import sys

import pytest

from truing.environment import SHAPES

GROWTH = """
import ctypes
import torch

class Heap(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "a b c d e f g used h i".split()]

library = ctypes.CDLL(None)
library.mallinfo2.restype = Heap
weight = torch.ones(576, 576, dtype=torch.bfloat16)
before = library.mallinfo2().used
for rows in range(1, 1001):
    torch.ones(rows, 576, dtype=torch.bfloat16) @ weight
print(library.mallinfo2().used - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks glibc how much memory is in use")
def test_products_of_a_thousand_shapes_keep_the_code_of_few() -> None:
    found = subprocess.run(
        [sys.executable, "-c", GROWTH], env={**os.environ, **SHAPES}, capture_output=True, text=True, check=True
    )
    assert int(found.stdout) < 150 * 2**20
