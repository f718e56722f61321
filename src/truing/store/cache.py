"""What several runs share: made once, verified whenever it is used, and free to be deleted at any time."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import platformdirs

from truing.errors import StorageError
from truing.store.files import make_folders, recover, remove_tree, staged_folder, verify_folder


def cache_folder(*parts: str) -> Path:
    """A folder below $TRUING_CACHE, or below the user's cache folder."""
    root = os.environ.get("TRUING_CACHE") or platformdirs.user_cache_dir("truing")
    folder = Path(root, *parts)
    make_folders(folder)
    return folder


def cached(target: Path, *, kind: str, meta: Mapping[str, Any], make: Callable[[Path], None]) -> Path:
    """`target` as it is if it verifies; else `make` fills it anew. Of two processes that race, the later one yields."""
    if target.exists():
        if not verify_folder(target):
            return target
        remove_tree(target)
    recover(target.parent)
    try:
        with staged_folder(target, kind=kind, meta=meta) as folder:
            make(folder)
    except StorageError:
        if not target.exists() or verify_folder(target):
            raise
    return target
