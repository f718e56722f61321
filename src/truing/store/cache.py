"""What several runs share: made once, verified whenever it is used, and free to be deleted at any time."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import platformdirs

from truing.store.files import (
    StoreWarning,
    clean_stale,
    discard,
    make_folders,
    publish_first,
    staged_folder,
    verify_folder,
)

_DAY = 24 * 3600.0


def cache_folder(*parts: str) -> Path:
    """A folder below $TRUING_CACHE, or below the user's cache folder."""
    root = os.environ.get("TRUING_CACHE") or platformdirs.user_cache_dir("truing")
    folder = Path(root, *parts)
    make_folders(folder)
    return folder


def cached(target: Path, *, kind: str, meta: Mapping[str, Any], make: Callable[[Path], None]) -> Path:
    """`target` as it is if it verifies; else `make` fills it anew. Of two processes that race, the later one yields."""
    if target.exists():
        problems = verify_folder(target)
        if not problems:
            return target
        warnings.warn(StoreWarning("; ".join(problems), "it is made again"), stacklevel=2)
        discard(target)
    # Containers and machines may share a cache, where a process number that is dead here lives elsewhere.
    clean_stale(target.parent, older_than=_DAY)
    with staged_folder(target, kind=kind, meta=meta, commit=publish_first) as folder:
        make(folder)
    return target
