"""The page of what was counted says what the file of it says."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from soak import __main__ as soak


def shown() -> str:
    return soak.PAGE.read_text().partition(soak.BEGIN)[2].partition(soak.END)[0].strip()


def test_the_table_is_that_of_the_file() -> None:
    assert shown() == soak.table(json.loads(soak.KEPT.read_text())).strip()


def test_a_part_is_kept_in_place_of_its_last_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "KEPT", tmp_path / "kept.json")
    monkeypatch.setattr(soak, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(soak, "PARTS", ["flips", "kills"])
    parts = {"soak.flips": {"bits": 8, "unseen": 0}, "soak.kills": {"SIGKILLs": 12345}}
    monkeypatch.setattr(soak.importlib, "import_module", lambda name: SimpleNamespace(run=lambda: parts[name]))
    soak.PAGE.write_text(f"before\n{soak.BEGIN}\nold\n{soak.END}\nafter\n")
    soak.main([])
    parts["soak.flips"] = {"bits": 9}
    soak.main(["flips"])
    page = soak.PAGE.read_text()
    assert page.startswith("before\n")
    assert page.endswith("\nafter\n")
    assert [line for line in shown().splitlines() if line.startswith(("| f", "| k"))] == [
        "| flips | bits | 9 |",
        "| kills | SIGKILLs | 12,345 |",
    ]
    with pytest.raises(SystemExit, match="no part is named nothing: there are flips, kills"):
        soak.main(["nothing"])
