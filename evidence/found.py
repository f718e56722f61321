"""What was found so far, a piece at a time, in one file from which the page is made."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from truing.errors import ConfigError


class OutOfTimeError(Exception):
    """No further piece is begun; those that are done are kept."""


class Found:
    """Pieces by name, such as `audit/oasst1_en/0.1`, each written down as soon as it is found.

    machine: what they are found on from now on. seconds: after which no piece is begun.
    """

    def __init__(self, path: Path, machine: str = "", seconds: float = float("inf")) -> None:
        self.path, self.machine = path, machine
        self.pieces: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        self._end = time.monotonic() + seconds

    def piece(self, name: str, find: Callable[[], Any]) -> Any:
        """The piece of this name, found now if it is not known yet."""
        if name in self.pieces:
            return self.pieces[name]
        if time.monotonic() > self._end:
            raise OutOfTimeError(name)
        began, worked = time.monotonic(), time.process_time()
        self.pieces[name] = find()
        spent, work = time.monotonic() - began, time.process_time() - worked
        kind = name.split("/")[0]
        kinds = self.pieces.setdefault("machines", {}).setdefault(self.machine, [])
        kinds += [kind] if kind not in kinds else []
        for clock, passed in (("seconds", spent), ("core_seconds", work)):  # of cores: what others take is not in it
            seconds = self.pieces.setdefault(clock, {})
            seconds[kind] = round(seconds.get(kind, 0.0) + passed, 1)
        self.save()
        print(f"{name}: {spent:.0f} s", file=sys.stderr, flush=True)
        return self.pieces[name]

    def settle(self, size: Mapping[str, Any]) -> None:
        """Writes down how much is measured. Raises ConfigError where other pieces were measured otherwise.

        More seeds may be added; all else that decides the numbers must be as it was.
        """
        wanted = {name: value for name, value in json.loads(json.dumps(size)).items() if name != "seeds"}
        known = self.pieces.setdefault("size", wanted)
        if known != wanted:
            raise ConfigError(f"{self.path}: it holds what was found with {known}, not {wanted}: choose another --out")
        self.save()

    def under(self, *names: str) -> Iterator[tuple[list[str], Any]]:
        """The pieces whose names begin so: what is left of each name, and what was found."""
        for name, value in self.pieces.items():
            parts = name.split("/")
            if parts[: len(names)] == list(names):
                yield parts[len(names) :], value

    def save(self) -> None:
        """One line for each piece, whole or not at all."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in self.pieces.items()]
        beside = self.path.with_suffix(".tmp")
        beside.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
        beside.replace(self.path)


def short(values: list[float]) -> list[float]:
    """Numbers with as many digits as a page needs."""
    return [float(f"{value:.4g}") for value in values]
