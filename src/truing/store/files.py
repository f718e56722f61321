"""The commit protocol: a file or folder is there whole and durable, or it is not there.

    stage in `.tmp-<pid>-<name>` beside the target -> sync and hash every file -> `manifest.json` -> sync
    -> rename -> sync the parent

A crash leaves the old state or the new one. What else it leaves has a name that begins with a dot, and is swept by
`recover`.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from truing.errors import ConfigError, StorageError
from truing.store import disk
from truing.store.values import plain

MANIFEST = "manifest.json"
FORMAT = 1

_TEMPORARY = ".tmp-"
_REPLACED = ".old-"
_BLOCK = 4 * 2**20

_staging: set[Path] = set()
"""Folders that this process is filling just now."""


class StoreWarning(UserWarning):
    """Something stored is damaged; it is left out, and the work is done again."""


def read_bytes(path: Path) -> bytes:
    """The content of a file."""
    with disk.storage_errors(path):
        return path.read_bytes()


def sha256_file(path: Path) -> str:
    """Hex digits of the SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with disk.storage_errors(path), open(path, "rb", buffering=0) as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def make_folders(path: Path) -> None:
    """Makes a folder and the parents it lacks, durably."""
    if path.is_dir():
        return
    make_folders(path.parent)
    with suppress_existing(path):
        disk.make_folder(path)
    disk.sync(path.parent)


def write_atomic(path: Path, data: bytes | str) -> None:
    """Puts `data` in place of the file's content; whatever fails or crashes, the file is the old one or the new one."""
    temporary = _temporary(path)
    try:
        disk.write(temporary, data.encode() if isinstance(data, str) else data)
        disk.sync(temporary)
        disk.rename(temporary, path)
    except BaseException:
        with suppress(StorageError):
            disk.remove(temporary)
        raise
    _settle(path)
