"""Every command of `python -m bench` takes the settings that it is said to take."""

from __future__ import annotations

import pytest

from bench.__main__ import app
from bench.training import Settings

NAMES = [name for name in app if not name.startswith("-") and name not in ("page", "gpu")]


@pytest.mark.parametrize("name", NAMES)
def test_rounds_are_a_setting_of_every_command(name: str) -> None:
    _, bound, _ = app.parse_args([name, "--rounds", "2"], exit_on_error=False, print_error=False)
    assert bound.arguments["settings"] == Settings(rounds=2)
