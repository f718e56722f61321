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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from truing.errors import StorageError
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
    try:
        disk.make_folder(path)
    except StorageError:
        if not path.is_dir():  # another process may have made it meanwhile
            raise
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
    disk.sync(path.parent)


@contextmanager
def staged_folder(target: Path, *, kind: str, meta: Mapping[str, Any], replace: bool = False) -> Iterator[Path]:
    """A folder to be filled, which becomes `target` with a manifest when the block ends well, and vanishes otherwise.

    replace: take the place of an existing `target`, which is removed only once the new one is durable.
    """
    make_folders(target.parent)
    if target.exists() and not replace:
        raise StorageError(f"{target}: it exists already and is never overwritten: remove it first")
    staging = _temporary(target)
    old = target.with_name(f"{_REPLACED}{os.getpid()}-{target.name}")
    _staging.add(staging)
    try:
        disk.make_folder(staging)
        yield staging
        _seal(staging, kind, meta)
        if replace and target.exists():
            disk.rename(target, old)
        try:
            disk.rename(staging, target)  # fails on a folder that another process made meanwhile
        except StorageError:
            if old.exists():
                disk.rename(old, target)
            raise
        disk.sync(target.parent)
    finally:
        if target.exists():
            remove_tree(old)
        _staging.discard(staging)
        remove_tree(staging)


def read_manifest(folder: Path) -> dict[str, Any]:
    """What a committed folder says of itself: kind, meta and the hash of each file."""
    try:
        manifest = json.loads(read_bytes(folder / MANIFEST))
    except ValueError as error:
        raise StorageError(f"{folder / MANIFEST}: damaged: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise StorageError(f"{folder / MANIFEST}: written by another version of Truing, or damaged")
    return manifest


def verify_folder(folder: Path) -> list[str]:
    """What is wrong with a committed folder: files that are missing, too short or of another content."""
    try:
        files = read_manifest(folder)["files"]
    except StorageError as error:
        return [str(error)]
    problems = []
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            problems.append(f"{path}: missing")
        elif path.stat().st_size != expected["bytes"]:
            problems.append(f"{path}: {path.stat().st_size:,} bytes instead of {expected['bytes']:,}")
        elif sha256_file(path) != expected["sha256"]:
            problems.append(f"{path}: its content is not what was written")
    return problems


def remove_tree(folder: Path) -> None:
    """Removes a folder and what it holds; one that is not there is fine."""
    if not folder.is_dir():
        return
    for path in sorted(folder.rglob("*"), key=lambda p: -len(p.parts)):
        if path.is_dir() and not path.is_symlink():
            disk.remove_folder(path)
        else:
            disk.remove(path)
    disk.remove_folder(folder)


def recover(folder: Path) -> None:
    """Puts right what a crash left: a folder that was being replaced is put back, half-made ones are removed."""
    for path in folder.glob(f"{_REPLACED}*"):
        target = folder / path.name.removeprefix(_REPLACED).partition("-")[2]
        if target.exists():
            remove_tree(path)
        else:
            disk.rename(path, target)
    for path in folder.glob(f"{_TEMPORARY}*"):
        owner = path.name.removeprefix(_TEMPORARY).partition("-")[0]
        if path in _staging or (owner != str(os.getpid()) and owner.isdigit() and psutil.pid_exists(int(owner))):
            continue
        if path.is_dir():
            remove_tree(path)
        else:
            disk.remove(path)


def _seal(staging: Path, kind: str, meta: Mapping[str, Any]) -> None:
    """Makes every file durable and writes the manifest, last."""
    files = {}
    for path in sorted(staging.rglob("*")):
        disk.sync(path)
        if path.is_file():
            name = path.relative_to(staging).as_posix()
            files[name] = {"sha256": sha256_file(path), "bytes": path.stat().st_size}
    manifest = {"format": FORMAT, "kind": kind, "created": time.time(), "files": files, "meta": plain(meta)}
    disk.write(staging / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False).encode())
    disk.sync(staging / MANIFEST)
    disk.sync(staging)


def _temporary(target: Path) -> Path:
    return target.with_name(f"{_TEMPORARY}{os.getpid()}-{target.name}")
