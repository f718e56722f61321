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

import truing
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


def test_a_library_that_cites_the_system_is_understood_and_no_other(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"a: No space left on device \(7 bytes needed\): free some space"):
        refuse(tmp_path / "a", RuntimeError("I/O error: No space left on device (os error 28)"))
    with pytest.raises(RuntimeError, match="a bug of its own"):
        refuse(tmp_path / "a", RuntimeError("a bug of its own"))
    with pytest.raises(StorageError, match="told already"):
        refuse(tmp_path / "a", StorageError("told already"))


def refuse(path: Path, error: Exception) -> None:
    with disk.foreign_errors(path, 7):
        raise error


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


CHANGES = {
    *("write_text", "write_bytes", "touch", "truncate", "ftruncate", "fsync", "chmod", "chown", "link", "symlink"),
    *(
        "unlink",
        "rename",
        "replace",
        "renames",
        "mkdir",
        "makedirs",
        "rmdir",
        "removedirs",
        "symlink_to",
        "hardlink_to",
    ),
    *("save_file", "serialize_file", "save_pretrained", "savez", "tofile", "to_parquet", "to_csv", "savefig"),
    *("mkdtemp", "mkstemp", "TemporaryDirectory", "TemporaryFile", "NamedTemporaryFile", "SpooledTemporaryFile"),
}
"""Names that change the disk, whoever has them."""
OF_MODULES = {"os": {"open", "remove", "write", "mknod", "mkfifo"}, "shutil": {"rmtree", "move", "make_archive"}} | {
    name: {"save"} for name in ("np", "numpy", "torch")
}
"""Names that change the disk where they belong to one of these modules."""

ELSEWHERE = {
    "models/saving.py": "safetensors, into a folder that is being staged",
    "models/__init__.py": "save_pretrained, into a folder that is being staged",
    "models/smollm2.py": "save_pretrained, into a folder that is being staged",
    "compute/engine/local.py": "save_pretrained, into a folder that is being staged",
    "models/unpickling.py": "safetensors, into a folder that is being staged, in a process that must import nothing",
    "compute/generate/endpoint.py": "a connection, not a file",
    "store/run.py": "a temporary folder of a rank that keeps nothing",
    "stages/select.py": "numpy, into memory",
    "measuring.py": "a temporary folder of its own, of which nothing is kept",
    "probing.py": "the kernel's files of this process",
    "scoring/sandbox.py": "a temporary folder of its own, of which nothing is kept",
    "scoring/inside.py": "within that folder, in a process that must import nothing",
    "cli.py": "os.devnull, when nobody listens any more",
}
"""Who else may: by file, and what it writes."""


def test_nothing_else_changes_the_disk() -> None:
    root = Path(truing.__file__).parent
    found: dict[str, list[str]] = {}
    for path in sorted(root.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and changes(node):
                found.setdefault(path.relative_to(root).as_posix(), []).append(f"{node.lineno}: {ast.unparse(node)}")
    assert found.pop("store/disk.py")
    assert {name: calls for name, calls in found.items() if name not in ELSEWHERE} == {}
    assert sorted(found) == sorted(ELSEWHERE)  # and nobody is named who need not be


def test_and_this_would_be_seen() -> None:
    seen = ["os.rename(a, b)", "path.unlink()", "shutil.rmtree(a)", "open(a, 'wb')", "path.open('a')", "os.open(a, f)"]
    seen += ["a.replace(b)", "open(a, mode=how)", "save_file(t, a)", "np.save(a, b)", "tempfile.mkdtemp()"]
    assert [call for call in seen if not changes(ast.parse(call).body[0].value)] == []
    unseen = ["open(a, 'rb', buffering=0)", "disk.rename(a, b)", "text.replace('a', b)", "replace(row, text=b)"]
    assert [call for call in unseen if changes(ast.parse(call).body[0].value)] == []


def changes(call: ast.Call) -> bool:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else ast.unparse(call.func)
    owner = ast.unparse(call.func.value) if isinstance(call.func, ast.Attribute) else ""
    if name in OF_MODULES.get(owner, ()):
        return True
    if name == "open" and owner != "Run":
        return writes(call, 0 if owner and owner not in ("gzip", "io") else 1)
    if name == "replace":  # of a Path, which takes one argument; those of a text, a dataclass or a model take others
        return bool(owner) and len(call.args) == 1 and not call.keywords
    return name in CHANGES and owner != "disk"


def writes(call: ast.Call, place: int) -> bool:
    """Whether a file is opened by a mode that lets it be written, or that cannot be told. place: of the mode."""
    given = [keyword.value for keyword in call.keywords if keyword.arg == "mode"] or call.args[place : place + 1]
    return any(not isinstance(mode, ast.Constant) or bool(set(str(mode.value)) & set("wax+")) for mode in given)


def test_no_file_is_left_open(tmp_path: Path) -> None:
    # A file that is opened gets the lowest number that is free.
    def lowest() -> int:
        with open(os.devnull) as file:
            return file.fileno()

    before = lowest()
    disk.write(tmp_path / "a", b"1")
    disk.append(tmp_path / "a", b"2")
    disk.sync(tmp_path / "a")
    assert lowest() == before
