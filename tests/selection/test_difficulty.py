"""Instruction-following difficulty."""

from __future__ import annotations

from truing.selection.difficulty import MISALIGNED, difficulty


def test_what_the_instruction_explains_is_easy() -> None:
    assert difficulty(1.0, 4.0) == 0.25
    assert difficulty(3.0, 3.0) == MISALIGNED
