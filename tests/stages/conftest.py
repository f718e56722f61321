"""A tiny model and run folders for the tests of stages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tiny_model

from truing.store import Run


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder."""
    return tiny_model.save(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Callable[[], Run]]:
    """Opens a new run folder each time, and closes them all."""
    opened: list[Run] = []

    def new() -> Run:
        opened.append(tiny_model.open_run(tmp_path / f"run-{len(opened)}"))
        return opened[-1]

    yield new
    for run in opened:
        run.close()
