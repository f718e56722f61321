"""What makes a process quick at many products of middling size; called once, before anything is computed."""

from __future__ import annotations

import ctypes
import os
from functools import cache

import torch

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Names of glibc's settings in malloc.h."""
_KEPT = 2**31 - 1
_FROM_HEAP = 32 * 2**20
"""The largest that glibc takes."""


@cache
def prepare() -> None:
    """Numbers too small for full precision become 0, and freed memory is kept for the next step.

    glibc gives the memory of a large tensor back when it is freed and fetches it page by page for the next one, which
    takes some 5 % of a training step. Elsewhere this is left as it is.
    """
    torch.set_flush_denormal(True)
    if os.name == "posix" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(_MMAP_THRESHOLD, _FROM_HEAP)
        libc.mallopt(_TRIM_THRESHOLD, _KEPT)
