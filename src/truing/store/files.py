"""The commit protocol: a file or folder is there whole and durable, or it is not there.

    stage in `.tmp-<pid>-<name>` beside the target -> sync and hash every file -> `manifest.json` -> sync
    -> rename -> sync the parent

A crash leaves the old state or the new one. What else it leaves has a name that begins with a dot, and is swept by
`recover`.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

import psutil

from truing.errors import ConfigError, StorageError
from truing.store import disk
from truing.store.values import plain

MANIFEST = "manifest.json"
FORMAT = 1

# The model card is written when all is done, and people edit it; nothing is loaded from it.
_UNSEALED = (MANIFEST, "README.md")

_TEMPORARY = ".tmp-"
_REPLACED = ".old-"
_BLOCK = 4 * 2**20

_staging: set[Path] = set()
"""Folders that this process is filling just now."""


class StoreWarning(UserWarning):
    """Something stored is damaged; it is left out, and the work is done again."""

    def __init__(self, damage: object, way_out: str) -> None:
        super().__init__(f"{damage}; {way_out}")
        self.damage = str(damage)
        self.way_out = way_out


@contextmanager
def strict() -> Iterator[None]:
    """Damage stops, and nothing is done about it; without this it is warned of."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", StoreWarning)
        try:
            yield
        except StoreWarning as seen:
            raise StorageError(f"{seen.damage}: --strict stops here; without it, {seen.way_out}") from None


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
    if path.exists():
        raise ConfigError(f"{path}: a file lies where a folder is to be made: name another folder, or move the file")
    make_folders(path.parent)
    try:
        disk.make_folder(path)
    except StorageError:
        if not path.is_dir():  # another process may have made it meanwhile
            raise
    disk.sync(path.parent)


def write_atomic(path: Path, data: bytes | str) -> None:
    """Puts `data` in place of the file's content; whatever fails or crashes, the file is the old one or the new one."""
    with _replaced(path) as temporary:
        disk.write(temporary, data.encode() if isinstance(data, str) else data)


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """As `write_atomic`, for what is too much to be held at once: the file appears when the block ends well."""
    make_folders(path.parent)
    with _replaced(path) as temporary:
        disk.write(temporary, b"")
        with io.BufferedWriter(_Appended(temporary), _BLOCK) as file:
            yield cast(BinaryIO, file)


class _Appended(io.RawIOBase):
    """A file that grows by `disk.append`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        block = bytes(data)
        disk.append(self._path, block)
        return len(block)


@contextmanager
def _replaced(path: Path) -> Iterator[Path]:
    """A file beside `path` to be written, which takes its place when the block ends well, and is gone when not."""
    temporary = _temporary(path)
    try:
        yield temporary
        disk.sync(temporary)
        disk.rename(temporary, path)
    except BaseException:
        with suppress(StorageError):
            disk.remove(temporary)
        raise
    _settle(path)


# Committing a folder


def publish(staged: Path, target: Path) -> None:
    """Gives the staged folder its name, which must be free: what is committed is never overwritten."""
    _demand_free(target)
    disk.rename(staged, target)
    _settle(target)


def publish_first(staged: Path, target: Path) -> None:
    """As `publish`, for what several processes may make alike: whoever comes second leaves the first one's in place."""
    try:
        publish(staged, target)
    except StorageError:
        if not staged.exists() or not target.is_dir():
            raise


def replace(staged: Path, target: Path) -> None:
    """As `publish`, but what has the name gives way, and is removed only once the new one is durable in its place."""
    if not target.exists():
        publish(staged, target)
        return
    old = target.with_name(f"{_REPLACED}{target.name}")
    disk.rename(target, old)
    try:
        disk.rename(staged, target)
    except StorageError:
        disk.rename(old, target)
        raise
    _settle(target)
    discard(old)


def discard(folder: Path) -> None:
    """Removes a committed folder. It is hidden first, so that no crash leaves half of it under its name."""
    hidden = _temporary(folder.with_name(f"discarded-{folder.name}"))
    remove_tree(hidden)
    disk.rename(folder, hidden)
    disk.sync(folder.parent)
    remove_tree(hidden)


@contextmanager
def staged_folder(
    target: Path,
    *,
    kind: str,
    meta: Mapping[str, Any],
    commit: Callable[[Path, Path], None] = publish,
) -> Iterator[Path]:
    """A folder to be filled, which becomes `target` with a manifest when the block ends well, and vanishes otherwise.

    commit: what gives it the name: `publish`, or `publish_first` or `replace` where `target` may be there already.
    """
    if commit is publish:
        _demand_free(target)  # said before the work is done, not only after it
    staged = _temporary(target)
    if staged in _staging:
        raise StorageError(f"{target}: this process is writing it already")
    make_folders(target.parent)
    remove_tree(staged)  # left by a dead process that had our number
    _staging.add(staged)
    try:
        disk.make_folder(staged)
        with _writing_told(staged):
            yield staged
        write_manifest(staged, kind=kind, meta=meta)
        commit(staged, target)
    finally:
        _staging.discard(staged)
        # What cannot be removed now is swept later; it must not hide why the block ended.
        with suppress(StorageError):
            remove_tree(staged)


def remove_tree(folder: Path) -> None:
    """Removes a folder and what it holds, or a file; one that is not there is fine."""
    if not folder.exists():
        return
    for path in [*sorted(folder.rglob("*"), reverse=True), folder]:
        if path.is_dir() and not path.is_symlink():
            disk.remove_folder(path)
        else:
            disk.remove(path)


def recover(folder: Path) -> None:
    """Puts right what a crash left in a folder of committed folders. To be called by who has the folder alone."""
    for old in sorted(folder.glob(f"{_REPLACED}*")):
        target = old.with_name(old.name.removeprefix(_REPLACED))
        if target.exists():
            discard(old)
        else:
            disk.rename(old, target)
    clean_stale(folder)


def clean_stale(folder: Path, *, older_than: float = 0.0) -> None:
    """Removes what dead processes left half made, if it has not been touched for `older_than` seconds."""
    for path in sorted(folder.glob(f"{_TEMPORARY}*")):
        # Two processes may sweep the same folder, and what cannot be removed now is swept another time.
        with suppress(OSError):
            if _is_abandoned(path) and time.time() - path.stat().st_mtime >= older_than:
                remove_tree(path)


# The manifest


def write_manifest(folder: Path, *, kind: str, meta: Mapping[str, Any]) -> None:
    """Syncs all that lies in a folder and writes its hashes down, with `meta`, in manifest.json."""
    files = {}
    for path in sorted(folder.rglob("*")):
        disk.sync(path)
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in _UNSEALED:
            files[name] = {"sha256": sha256_file(path), "bytes": path.stat().st_size}
    content = {"format": FORMAT, "kind": kind, "created": time.time(), "files": files, "meta": plain(meta)}
    write_atomic(folder / MANIFEST, _sealed(content))


def read_manifest(folder: Path) -> dict[str, Any]:
    """What a committed folder says of itself: kind, time, meta and the hash of each file."""
    path = folder / MANIFEST
    raw = read_bytes(path)
    try:
        content = json.loads(raw)
        # The seal covers what is said; comparing bytes covers how, so that no flipped bit whatever goes unseen.
        intact = isinstance(content, dict) and _sealed(content) == raw
    except ValueError:
        intact = False
    if not intact:
        raise StorageError(f"{path}: damaged: it is not what was written")
    if content["format"] != FORMAT:
        raise ConfigError(f"{path}: has format {content['format']}, not {FORMAT}: use the Truing that wrote it")
    return dict(content)


def is_committed(folder: Path) -> bool:
    """Whether a folder's manifest.json, if it has one, looks like ours; other programs have files of that name."""
    path = folder / MANIFEST
    return path.is_file() and read_bytes(path).startswith(b'{\n "format": ')


def verify_sizes(folder: Path) -> list[str]:
    """What is wrong with a committed folder as far as names and sizes tell. Files it does not list are no matter."""
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
    return problems


def verify_folder(folder: Path) -> list[str]:
    """What is wrong with a committed folder: files that are missing, of another size or of another content."""
    problems = verify_sizes(folder)
    if problems:
        return problems
    for name, expected in read_manifest(folder)["files"].items():
        path = folder / name
        try:
            if sha256_file(path) != expected["sha256"]:
                problems.append(f"{path}: its content is not what was written")
        except StorageError as error:
            problems.append(str(error))
    return problems


def _sealed(content: Mapping[str, Any]) -> bytes:
    body = {name: value for name, value in content.items() if name != "sha256"}
    seal = hashlib.sha256(json.dumps(body).encode()).hexdigest()
    return json.dumps({**body, "sha256": seal}, indent=1).encode()


# Names and refusals


def _temporary(path: Path) -> Path:
    return path.with_name(f"{_TEMPORARY}{os.getpid()}-{path.name}")


def _is_abandoned(path: Path) -> bool:
    number = path.name.removeprefix(_TEMPORARY).partition("-")[0]
    if not number.isdecimal():
        return False
    # In a container every process may be number 1, so a leftover with our own number can be a dead one's.
    if int(number) == os.getpid():
        return path not in _staging
    return not psutil.pid_exists(int(number))


def _demand_free(target: Path) -> None:
    if target.exists():
        raise StorageError(f"{target}: it exists already and is never overwritten: remove it first")


def _settle(target: Path) -> None:
    try:
        disk.sync(target.parent)
    except StorageError as error:
        # The new name can be seen, yet a loss of power may undo it: neither "done" nor "undone" would be true.
        raise StorageError(f"{target}: in place, but perhaps not durable, so read it anew: {error}") from error


@contextmanager
def _writing_told(folder: Path) -> Iterator[None]:
    """What the system refuses within this folder, to whomever; a block may also fail to read what lies elsewhere."""
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        refusal = error if isinstance(error, OSError) else disk.cited_error(error)
        if refusal is None or not Path(refusal.filename or folder).is_relative_to(folder):
            raise
        raise disk.refused(Path(refusal.filename or folder), refusal) from error
