"""Errors of the measuring process in words; what it finds is tested with `truing plan --measure`."""

from __future__ import annotations

from pathlib import Path

import pytest

from truing import probing
from truing.errors import TruingError


def test_an_error_of_the_process_is_told(tmp_path: Path) -> None:
    with pytest.raises(TruingError, match=r"sft: 8 tokens: .*spec\.json"):
        probing.run(tmp_path, "sft: 8 tokens")
