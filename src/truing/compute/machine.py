"""What makes a process quick at many products of middling size; called once, before anything is computed."""

from __future__ import annotations

import ctypes
import os
from functools import cache

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Names of glibc's settings in malloc.h."""
_KEPT = 2**31 - 1
_FROM_HEAP = 32 * 2**20
"""The largest that glibc takes."""


@cache
def keep_freed_memory() -> bool:
    """Memory that one step frees stays with the process for the next. Whether the system's allocator could be asked to.

    glibc gives the memory of a large tensor back when it is freed and fetches it page by page for the next one, which
    takes some 5 % of a training step. Other allocators are left as they are.
    """
    if os.name != "posix" or not hasattr(libc := ctypes.CDLL(None), "mallopt"):
        return False
    return bool(libc.mallopt(_MMAP_THRESHOLD, _FROM_HEAP)) and bool(libc.mallopt(_TRIM_THRESHOLD, _KEPT))
