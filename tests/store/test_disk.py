from __future__ import annotations

import ast
import errno
import os
import resource
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from truing import store
from truing.errors import StorageError
from truing.store import disk


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """The system takes what fits and refuses the rest, as it does when a disk fills up."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_told_with_path_and_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StorageError, match="free some space") as caught:
        disk.write(tmp_path / "weights", bytes(12345))
    assert f"{tmp_path / 'weights'}: No space left on device (12,345 bytes needed)" in str(caught.value)
    assert caught.value.exit_code == 74


def test_a_full_disk_found_at_the_sync_is_told_with_the_size_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "weights").write_bytes(bytes(4321))
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"weights: No space left on device \(4,321 bytes needed\)"):
        disk.sync(tmp_path / "weights")


def test_an_append_that_does_not_fit_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    disk.append(path, b"first\n")
    with largest_file(10), pytest.raises(StorageError, match=r"File too large \(7 bytes needed\)"):
        disk.append(path, b"second\n")
    assert path.read_bytes() == b"first\n"
    disk.append(path, b"third\n")
    assert path.read_bytes() == b"first\nthird\n"


def test_short_writes_are_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: real(handle, data[:3]))
    disk.write(tmp_path / "a", b"0123456789")
    assert (tmp_path / "a").read_bytes() == b"0123456789"


def test_a_folder_one_may_not_write_to_is_told_with_what_to_do() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o555)
        with without_privileges(), pytest.raises(StorageError, match="Permission denied: make the folder writable"):
            disk.write(Path(folder) / "a", b"")
        os.chmod(folder, 0o755)


@contextmanager
def without_privileges() -> Iterator[None]:
    """To root no folder is closed."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


CHANGES = {"write_text", "write_bytes", "unlink", "rename", "replace", "mkdir", "rmdir", "touch", "fsync", "truncate"}


def test_nothing_else_in_the_store_changes_the_disk() -> None:
    found = []
    for path in sorted(Path(store.__file__).parent.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if path.name != "disk.py" and isinstance(node, ast.Call) and changes(node):
                found.append(f"{path.name}:{node.lineno}: {ast.unparse(node)}")
    assert not found


def test_and_this_would_be_seen() -> None:
    seen = ["os.rename(a, b)", "path.unlink()", "shutil.rmtree(a)", "open(a, 'wb')", "path.open('a')", "os.open(a, f)"]
    assert all(changes(ast.parse(call).body[0].value) for call in seen)
    assert not changes(ast.parse("open(a, 'rb', buffering=0)").body[0].value)
    assert not changes(ast.parse("disk.rename(a, b)").body[0].value)


def changes(call: ast.Call) -> bool:
    if isinstance(call.func, ast.Attribute):
        owner = ast.unparse(call.func.value)
        if owner in ("disk", "dataclasses"):
            return False
        if call.func.attr in CHANGES or owner == "shutil" or (owner, call.func.attr) == ("os", "open"):
            return True
    opens = ast.unparse(call.func).split(".")[-1] == "open"
    modes = [node.value for node in ast.walk(call) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return opens and any(set(mode) & set("wax+") and len(mode) < 4 for mode in modes)
