"""Rounds of a loop: what their stages are called, and the random numbers of their own that they draw."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

LOOP = "loop"
"""What a recipe's stage says it uses that is a loop: a stage whose body is stages."""


@dataclass(frozen=True, slots=True)
class Round:
    """One round of a loop, counted from 1."""

    loop: str
    number: int
    of: int

    @property
    def name(self) -> str:
        """`self.2` is the second round of the loop `self`."""
        return f"{self.loop}.{self.number}"

    def stage(self, name: str) -> str:
        """What a stage of the body is called in this round, such as `self.2/sample`."""
        return f"{self.name}/{name}"

    def __str__(self) -> str:
        return f"round {self.number:,} of {self.of:,}"


APART = 10_000_019
"""How far the seeds of two rounds are apart: recipes with seeds below it have none in common, whatever their rounds."""


def round_seed(seed: int, place: int) -> int:
    """The seed of a round, which stands at this place among all rounds of the recipe: no two of them draw alike."""
    return seed + APART * place


def stage_names(entries: Iterable[Mapping[str, Any]]) -> list[str]:
    """What the stages of a resolved recipe are called when it runs, in their order."""
    names: list[str] = []
    for entry in entries:
        name = str(entry.get("name", entry.get("use", "")))
        if entry.get("use") != LOOP:
            names.append(name)
            continue
        for number in range(1, entry["rounds"] + 1):
            round = Round(name, number, entry["rounds"])
            names += [round.stage(inner) for inner in stage_names(entry["stage"])]
    return names
