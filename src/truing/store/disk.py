"""The only hands that change the disk: all that the store writes, syncs, renames and removes, it does by these calls.

Whoever replaces them sees everything the store does to a disk, in order, and can make any of it fail.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from truing.errors import StorageError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


def write(path: Path, data: bytes) -> None:
    """The file with this content; one of that name is overwritten."""
    with storage_errors(path, len(data)), _opened(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as handle:
        _write_all(handle, data)


def append(path: Path, data: bytes) -> None:
    """All of `data` at the end of the file or, after a refusal, nothing of it."""
    with storage_errors(path, len(data)), _opened(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND) as handle:
        size = os.fstat(handle).st_size
        try:
            _write_all(handle, data)
        except BaseException:
            # A disk that fills up takes the first part of a line; the next line must not be glued to it.
            os.ftruncate(handle, size)
            raise


def sync(path: Path) -> None:
    """Waits until the file's content, or the names in the folder, would survive a loss of power."""
    with storage_errors(path), _opened(path, os.O_RDONLY) as handle, storage_errors(path, os.fstat(handle).st_size):
        os.fsync(handle)


def rename(source: Path, target: Path) -> None:
    """Gives a file or folder another name in the same folder, at one stroke."""
    with storage_errors(target):
        os.rename(source, target)


def remove(path: Path) -> None:
    """Removes a file."""
    with storage_errors(path):
        os.unlink(path)


def make_folder(path: Path) -> None:
    """Makes a folder whose parent exists."""
    with storage_errors(path):
        os.mkdir(path)


def remove_folder(path: Path) -> None:
    """Removes an empty folder."""
    with storage_errors(path):
        os.rmdir(path)


@contextmanager
def storage_errors(path: Path, needed: int = 0) -> Iterator[None]:
    """Turns what the system refuses into a StorageError that names the path and, on a full disk, the bytes needed."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        raise refused(path, error, needed) from error


@contextmanager
def foreign_errors(path: Path, needed: int = 0) -> Iterator[None]:
    """As `storage_errors`, for libraries that write by themselves and only cite the system in their exceptions."""
    try:
        with storage_errors(path, needed):
            yield
    except StorageError:
        raise
    except Exception as error:
        if (cited := cited_error(error)) is None:
            raise
        raise refused(path, cited, needed) from error


def cited_error(error: Exception) -> OSError | None:
    """The system's error that a library of Rust cites in an exception of its own, if it does."""
    said = re.search(r"os error (\d+)", str(error))
    return OSError(int(said[1]), os.strerror(int(said[1]))) if said else None


def refused(path: Path, error: OSError, needed: int = 0) -> StorageError:
    """The StorageError that says what the system refused, where, and what to do."""
    told = f"{path}: {error.strerror or error}"
    if error.errno in _FULL:
        amount = f" ({needed:,} bytes needed)" if needed else ""
        return StorageError(f"{told}{amount}: free some space, and the same command goes on from here")
    if error.errno in _FORBIDDEN:
        return StorageError(f"{told}: make the folder writable, or choose another one")
    return StorageError(told)


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    handle = os.open(path, flags, 0o666)
    try:
        yield handle
    finally:
        os.close(handle)


def _write_all(handle: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]
