"""Rounds of a loop: what their stages are called, and the random numbers of their own that they draw."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

LOOP = "loop"
"""What a recipe's stage says it uses that is a loop: a stage whose body is stages."""
START, PREVIOUS, EARLIER = "start", "previous", "earlier"
"""What inputs of a body's stage may name: what stood before the loop; what the last round made; and, as the base of a
stage that measures, the models of the start and of every round so far, each for itself.
"""


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

    def beside(self, name: str, base: str | None) -> dict[str, str | None]:
        """What a stage of the body with this base is called in this round, and its base by that name. Where that is
        `earlier` they are several, such as `self.3/win_rate/start` and `self.3/win_rate/self.1`.
        """
        if base != EARLIER:
            return {self.stage(name): base}
        earlier = [START, *(f"{self.loop}.{number}" for number in range(1, self.number))]
        return {f"{self.stage(name)}/{one}": one for one in earlier}

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
        name = _name_of(entry)
        if entry.get("use") != LOOP:
            names.append(name)
            continue
        for number in range(1, entry["rounds"] + 1):
            round = Round(name, number, entry["rounds"])
            names += [one for inner in entry["stage"] for one in round.beside(_name_of(inner), inner.get("base"))]
    return names


def _name_of(entry: Mapping[str, Any]) -> str:
    return str(entry.get("name", entry.get("use", "")))
