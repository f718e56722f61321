from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from store.test_disk import largest_file
from truing.errors import ConfigError, StorageError
from truing.store import disk
from truing.store.files import (
    atomic_file,
    clean_stale,
    discard,
    make_folders,
    publish_first,
    read_manifest,
    recover,
    replace,
    sha256_file,
    staged_folder,
    verify_folder,
    verify_sizes,
    write_atomic,
)


def commit(target: Path, content: bytes = b"0123456789", **options: object) -> Path:
    with staged_folder(target, kind="test", meta={"rate": 1e-5}, **options) as folder:
        (folder / "weights").write_bytes(content)
        (folder / "inner").mkdir()
        (folder / "inner" / "state").write_bytes(b"abc")
    return target


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << (bit % 8)
    path.write_bytes(content)


def fail_half_way(folder: Path, error: type[BaseException] = ValueError) -> None:
    (folder / "weights").write_bytes(b"half")
    raise error


def test_sha256_is_that_of_the_standard_also_beyond_a_block(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    assert sha256_file(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    large = bytes(range(256)) * 2**15 + b"rest"
    (tmp_path / "large").write_bytes(large)
    assert sha256_file(tmp_path / "large") == hashlib.sha256(large).hexdigest()


def test_write_atomic_replaces_text_and_bytes(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a", "é")
    assert (tmp_path / "a").read_bytes() == "é".encode()
    write_atomic(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"
    assert names(tmp_path) == ["a"]


def test_write_atomic_on_a_full_disk_keeps_the_old(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a", "old")
    with largest_file(100), pytest.raises(StorageError, match="200 bytes needed"):
        write_atomic(tmp_path / "a", bytes(200))
    assert (tmp_path / "a").read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_a_file_is_written_bit_by_bit_and_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "new" / "a"
    block = bytes(range(256)) * 2**13
    with atomic_file(target) as file:
        for _ in range(5):
            file.write(block)
        assert not target.exists()
    assert target.read_bytes() == 5 * block
    with pytest.raises(TypeError), atomic_file(target) as file:
        file.writelines([b"other", "text"])  # type: ignore[list-item]
    with largest_file(100), pytest.raises(StorageError, match="bytes needed"), atomic_file(target) as file:
        file.write(bytes(200))
    assert target.read_bytes() == 5 * block
    assert names(target.parent) == ["a"]


def test_an_error_after_the_rename_is_not_called_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = disk.sync

    def no_folders(path: Path) -> None:
        if path.is_dir():
            raise StorageError("Input/output error")
        real(path)

    monkeypatch.setattr(disk, "sync", no_folders)
    with pytest.raises(StorageError, match="a: in place, but perhaps not durable, so read it anew"):
        write_atomic(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "new"


def test_make_folders_is_content_with_what_is_there_and_not_with_a_file(tmp_path: Path) -> None:
    make_folders(tmp_path / "a" / "b")
    make_folders(tmp_path / "a" / "b")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="file: a file lies where a folder is to be made"):
        make_folders(tmp_path / "file")


# A folder is staged, sealed and published


def test_a_committed_folder_says_what_it_holds(tmp_path: Path) -> None:
    folder = commit(tmp_path / "made")
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["format"] == 1
    assert manifest["kind"] == "test"
    assert manifest["meta"] == {"rate": 1e-5}
    assert manifest["files"] == {
        "inner/state": {"sha256": hashlib.sha256(b"abc").hexdigest(), "bytes": 3},
        "weights": {"sha256": hashlib.sha256(b"0123456789").hexdigest(), "bytes": 10},
    }
    assert verify_folder(folder) == []
    assert names(tmp_path) == ["made"]


def test_nothing_is_there_until_the_end(tmp_path: Path) -> None:
    with staged_folder(tmp_path / "made", kind="test", meta={}) as folder:
        assert folder.parent == tmp_path
        assert folder.name == f".tmp-{os.getpid()}-made"
        assert not (tmp_path / "made").exists()
    assert (tmp_path / "made").exists()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), staged_folder(tmp_path / "made", kind="test", meta={}) as folder:
        fail_half_way(folder, error)
    assert names(tmp_path) == []


def test_what_cannot_be_removed_hides_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise StorageError("Input/output error")

    monkeypatch.setattr(disk, "remove", refuse)
    with pytest.raises(ValueError), staged_folder(tmp_path / "made", kind="test", meta={}) as folder:
        fail_half_way(folder)
    clean_stale(tmp_path)
    assert names(tmp_path) == [f".tmp-{os.getpid()}-made"]
    monkeypatch.undo()
    clean_stale(tmp_path)
    assert names(tmp_path) == []


def test_every_file_is_synced_before_the_rename_and_the_parent_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    for name in ("sync", "rename"):
        real = getattr(disk, name)
        monkeypatch.setattr(
            disk, name, lambda *paths, name=name, real=real: (done.append(f"{name} {paths[-1].name}"), real(*paths))
        )
    commit(tmp_path / "made")
    staging, published = f".tmp-{os.getpid()}-made", done.index("rename made")
    manifest = done.index("rename manifest.json")
    for name in ("weights", "inner", "state"):
        assert done.index(f"sync {name}") < manifest
    assert manifest < done.index(f"sync {staging}") < published
    assert done[published + 1 :] == [f"sync {tmp_path.name}"]


def test_what_is_there_is_not_overwritten(tmp_path: Path) -> None:
    commit(tmp_path / "made", b"first")
    with pytest.raises(StorageError, match="never overwritten"):
        commit(tmp_path / "made", b"second")
    assert (tmp_path / "made" / "weights").read_bytes() == b"first"
    assert names(tmp_path) == ["made"]


def test_that_is_said_before_the_work_is_done(tmp_path: Path) -> None:
    commit(tmp_path / "made")
    with pytest.raises(StorageError), staged_folder(tmp_path / "made", kind="test", meta={}):
        pytest.fail("it was begun")


def test_nor_what_came_meanwhile(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="never overwritten"), staged_folder(tmp_path / "made", kind="test", meta={}):
        commit(tmp_path / "elsewhere", b"first").rename(tmp_path / "made")
    assert (tmp_path / "made" / "weights").read_bytes() == b"first"


def test_one_process_does_not_stage_a_folder_twice_at_once(tmp_path: Path) -> None:
    with staged_folder(tmp_path / "made", kind="test", meta={}) as folder:
        (folder / "weights").write_bytes(b"first")
        with pytest.raises(StorageError, match="writing it already"):
            commit(tmp_path / "made")
    assert names(tmp_path / "made") == ["manifest.json", "weights"]


def test_a_leftover_of_our_own_number_is_not_committed(tmp_path: Path) -> None:
    left = tmp_path / f".tmp-{os.getpid()}-made"
    left.mkdir()
    (left / "rubbish").touch()
    assert names(commit(tmp_path / "made")) == ["inner", "manifest.json", "weights"]


def test_weights_that_do_not_fit_are_told_as_a_full_disk(tmp_path: Path) -> None:
    with (
        largest_file(10_000),
        pytest.raises(StorageError, match="made: File too large: free some space"),
        staged_folder(tmp_path / "made", kind="test", meta={}) as folder,
    ):
        save_file({"weights": np.zeros(10_000)}, folder / "model.safetensors")
    assert names(tmp_path) == []


def test_other_errors_of_the_block_are_left_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), staged_folder(tmp_path / "made", kind="test", meta={}):
        (tmp_path / "absent").read_bytes()


def test_replace_puts_the_new_in_place_of_the_old(tmp_path: Path) -> None:
    commit(tmp_path / "made", b"first", commit=replace)
    commit(tmp_path / "made", b"second", commit=replace)
    assert (tmp_path / "made" / "weights").read_bytes() == b"second"
    assert names(tmp_path) == ["made"]


RACE = """if True:
    import sys
    from pathlib import Path
    from truing.store.files import publish_first, staged_folder
    with staged_folder(Path(sys.argv[1]), kind="test", meta={}, commit=publish_first) as folder:
        (folder / "weights").write_bytes(b"first")
"""


def test_a_replacement_that_is_refused_leaves_the_old_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit(tmp_path / "made", b"first")
    real = disk.rename

    def no_publishing(source: Path, target: Path) -> None:
        if source.name.startswith(".tmp-") and target.name == "made":
            raise StorageError("Input/output error")
        real(source, target)

    monkeypatch.setattr(disk, "rename", no_publishing)
    with pytest.raises(StorageError, match="Input/output"):
        commit(tmp_path / "made", b"second", commit=replace)
    assert (tmp_path / "made" / "weights").read_bytes() == b"first"
    assert names(tmp_path) == ["made"]


def test_coming_first_without_being_durable_is_no_race(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = disk.sync

    def not_the_parent(path: Path) -> None:
        if path == tmp_path:
            raise StorageError("Input/output error")
        real(path)

    monkeypatch.setattr(disk, "sync", not_the_parent)
    with pytest.raises(StorageError, match="perhaps not durable"):
        commit(tmp_path / "made", commit=publish_first)


def test_the_second_of_two_that_race_discards_its_own(tmp_path: Path) -> None:
    with staged_folder(tmp_path / "made", kind="test", meta={}, commit=publish_first) as folder:
        (folder / "weights").write_bytes(b"second")
        subprocess.run([sys.executable, "-c", RACE, str(tmp_path / "made")], check=True)
    assert (tmp_path / "made" / "weights").read_bytes() == b"first"
    assert verify_folder(tmp_path / "made") == []
    assert names(tmp_path) == ["made"]


def test_discard_removes_all_of_it_whatever_was_left_before(tmp_path: Path) -> None:
    (tmp_path / f".tmp-{os.getpid()}-discarded-made" / "inner").mkdir(parents=True)
    discard(commit(tmp_path / "made"))
    assert names(tmp_path) == []


# What a crash leaves is swept


def test_recover_puts_back_what_was_being_replaced(tmp_path: Path) -> None:
    commit(tmp_path / "made", b"first").rename(tmp_path / ".old-made")
    recover(tmp_path)
    assert (tmp_path / "made" / "weights").read_bytes() == b"first"
    assert names(tmp_path) == ["made"]


def test_recover_removes_the_old_once_the_new_is_in_place(tmp_path: Path) -> None:
    commit(tmp_path / "made", b"first").rename(tmp_path / ".old-made")
    commit(tmp_path / "made", b"second")
    recover(tmp_path)
    assert (tmp_path / "made" / "weights").read_bytes() == b"second"
    assert names(tmp_path) == ["made"]


def test_clean_stale_removes_what_the_dead_left_and_nothing_else(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    living = os.getppid()
    for name in (f".tmp-{dead.pid}-a", f".tmp-{living}-b", f".tmp-{os.getpid()}-c", ".tmp-by-hand", "made"):
        (tmp_path / name / "inner").mkdir(parents=True)
    (tmp_path / f".tmp-{dead.pid}-file").touch()
    with staged_folder(tmp_path / "now", kind="test", meta={}) as folder:
        clean_stale(tmp_path)
        assert names(tmp_path) == sorted([f".tmp-{living}-b", ".tmp-by-hand", "made", folder.name])


def test_clean_stale_spares_the_young(tmp_path: Path) -> None:
    left = tmp_path / f".tmp-{os.getpid()}-a"
    left.touch()
    clean_stale(tmp_path, older_than=60)
    assert left.exists()
    os.utime(left, (0, 0))
    clean_stale(tmp_path, older_than=60)
    assert not left.exists()


# Damage is found


def test_every_flipped_bit_is_found(quick_path: Path) -> None:
    folder = commit(quick_path / "made")
    missed = []
    for path in (folder / "weights", folder / "inner" / "state", folder / "manifest.json"):
        for bit in range(8 * path.stat().st_size):
            flip(path, bit)
            missed += [] if verify_folder(folder) else [(path.name, bit)]
            flip(path, bit)
    assert missed == []
    assert verify_folder(folder) == []


def test_every_truncation_is_found_by_the_sizes_alone(quick_path: Path) -> None:
    folder = commit(quick_path / "made")
    for path in (folder / "weights", folder / "inner" / "state", folder / "manifest.json"):
        content = path.read_bytes()
        for size in range(len(content)):
            path.write_bytes(content[:size])
            assert verify_sizes(folder), (path.name, size)
        path.write_bytes(content)
    assert verify_sizes(folder) == []


def test_each_damage_is_named(tmp_path: Path) -> None:
    folder = commit(tmp_path / "made")
    (folder / "extra").touch()
    assert verify_folder(folder) == []
    flip(folder / "weights", 0)
    assert verify_sizes(folder) == []
    assert verify_folder(folder) == [f"{folder / 'weights'}: its content is not what was written"]
    (folder / "weights").write_bytes(b"01234")
    (folder / "inner" / "state").unlink()
    assert verify_folder(folder) == [
        f"{folder / 'inner' / 'state'}: missing",
        f"{folder / 'weights'}: 5 bytes instead of 10",
    ]
    (folder / "manifest.json").unlink()
    assert verify_folder(folder) == [f"{folder / 'manifest.json'}: No such file or directory"]


def test_a_model_card_may_be_edited_and_nothing_else(tmp_path: Path) -> None:
    with staged_folder(tmp_path / "made", kind="test", meta={}) as folder:
        (folder / "inner").mkdir()
        for name in ("README.md", "inner/README.md"):
            (folder / name).write_text("old")
    (tmp_path / "made" / "README.md").write_text("edited")
    assert verify_folder(tmp_path / "made") == []
    (tmp_path / "made" / "inner" / "README.md").write_text("edited")
    assert len(verify_folder(tmp_path / "made")) == 1


def test_a_file_that_cannot_be_read_is_damage_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = commit(tmp_path / "made")

    def unreadable(path: Path) -> str:
        raise StorageError(f"{path}: Input/output error")

    monkeypatch.setattr("truing.store.files.sha256_file", unreadable)
    assert verify_folder(folder)[1:] == [f"{folder / 'weights'}: Input/output error"]


@pytest.mark.parametrize("inside", [True, False])
def test_what_the_system_refuses_in_the_folder_is_told_and_what_it_refuses_elsewhere_is_left(
    tmp_path: Path, inside: bool
) -> None:
    place = f".tmp-{os.getpid()}-made/weights" if inside else "elsewhere"
    expected = pytest.raises(StorageError if inside else OSError, match="Input/output error")
    with expected as caught, staged_folder(tmp_path / "made", kind="test", meta={}):
        raise OSError(errno.EIO, "Input/output error", str(tmp_path / place))
    assert isinstance(caught.value, StorageError) == inside
    assert names(tmp_path) == []


def test_swapped_manifests_are_found(tmp_path: Path) -> None:
    first, second = commit(tmp_path / "first", b"first"), commit(tmp_path / "second", b"other")
    for path in (first, second):
        (path / "manifest.json").rename(tmp_path / path.name / "kept")
    (first / "kept").rename(second / "manifest.json")
    (second / "kept").rename(first / "manifest.json")
    assert verify_folder(first)
    assert verify_folder(second)


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b'{"a": NaN}', b"\xff", b"{" * 10])
def test_what_is_no_manifest_is_told_so(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(StorageError, match=r"manifest\.json: damaged"):
        read_manifest(tmp_path)


def test_a_later_format_is_refused_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("truing.store.files.FORMAT", 2)
    folder = commit(tmp_path / "made")
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="has format 2, not 1: use the Truing that wrote it"):
        verify_folder(folder)
