from __future__ import annotations

from pathlib import Path

import pytest

from store.power_loss import deeds_of_two_sessions, look
from truing.errors import StorageError


def test_every_disk_that_a_loss_of_power_may_leave(quick_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (quick_path / "left").mkdir()
    assert look(quick_path / "left", deeds_of_two_sessions(monkeypatch, quick_path / "played")) > 100


@pytest.mark.parametrize("forgotten", ["weights", "manifest.json", "run", "artifacts", "trainer", "events.jsonl"])
def test_a_forgotten_sync_is_seen(quick_path: Path, monkeypatch: pytest.MonkeyPatch, forgotten: str) -> None:
    (quick_path / "left").mkdir()
    deeds = [
        d
        for d in deeds_of_two_sessions(monkeypatch, quick_path / "played")
        if d[0] != "sync" or not d[1].name.endswith(forgotten)
    ]
    with pytest.raises((AssertionError, Warning, StorageError)):
        look(quick_path / "left", deeds)
