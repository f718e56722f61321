"""Puts this folder on the path, so that the tests of sections find the runs and the reader of pages beside it."""

from __future__ import annotations

from collections.abc import Callable

import fake_runs
import pytest
from reading_html import Page, built

from truing.store import Run


@pytest.fixture(scope="session")
def page_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Page]:
    """The page of a run into which these functions wrote what stages find."""

    def made(*stages: Callable[[Run], None]) -> Page:
        path = tmp_path_factory.mktemp("runs") / "run"
        with fake_runs.opened(path) as run:
            for stage in stages:
                stage(run)
        return built(path)

    return made
