from __future__ import annotations

import os
from pathlib import Path

import pytest

from store.test_files import flip, names
from truing.store import StoreWarning
from truing.store.cache import cache_folder, cached
from truing.store.files import staged_folder


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRUING_CACHE", str(tmp_path))
    return cache_folder("reference") / "key"


def make(folder: Path) -> None:
    (folder / "logprobs").write_bytes(b"made")


def make_not(folder: Path) -> None:
    raise AssertionError("it was there already")


def test_the_cache_is_where_the_environment_says(target: Path, tmp_path: Path) -> None:
    assert target == tmp_path / "reference" / "key"
    assert target.parent.is_dir()


def test_or_in_the_users_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRUING_CACHE", raising=False)
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda name: str(tmp_path / name))
    assert cache_folder("models") == tmp_path / "truing" / "models"


def test_it_is_made_once(target: Path) -> None:
    assert cached(target, kind="reference", meta={}, make=make) == target
    assert cached(target, kind="reference", meta={}, make=make_not) == target
    assert (target / "logprobs").read_bytes() == b"made"


def test_a_damaged_one_is_made_again(target: Path) -> None:
    cached(target, kind="reference", meta={}, make=make)
    flip(target / "logprobs", 3)
    with pytest.warns(StoreWarning, match="logprobs: its content is not what was written; it is made again"):
        cached(target, kind="reference", meta={}, make=make)
    assert (target / "logprobs").read_bytes() == b"made"
    assert names(target.parent) == ["key"]


def test_of_two_that_race_the_first_stays(target: Path) -> None:
    def late(folder: Path) -> None:
        (folder / "logprobs").write_bytes(b"late")
        elsewhere = target.with_name("elsewhere")
        with staged_folder(elsewhere, kind="reference", meta={}) as first:
            make(first)
        elsewhere.rename(target)

    assert cached(target, kind="reference", meta={}, make=late) == target
    assert (target / "logprobs").read_bytes() == b"made"
    assert names(target.parent) == ["key"]


def test_a_failure_leaves_nothing(target: Path) -> None:
    with pytest.raises(AssertionError):
        cached(target, kind="reference", meta={}, make=make_not)
    assert names(target.parent) == []


def test_what_dead_processes_left_goes_after_a_day(target: Path) -> None:
    young, old = (target.with_name(f".tmp-{os.getpid()}-{name}") for name in ("young", "old"))
    young.mkdir()
    old.mkdir()
    os.utime(old, (0, 0))
    cached(target, kind="reference", meta={}, make=make)
    assert names(target.parent) == sorted([young.name, "key"])
