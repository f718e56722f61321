"""Recipes of recipes/evidence, run as anybody would run them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from truing import formats
from truing.pipeline import read_recipe, run_recipe
from truing.progress import Reporter
from truing.records import Completion, Group
from truing.statistics import Interval
from truing.store import Run

RECIPES = Path(__file__).parent.parent / "recipes" / "evidence"


@dataclass(frozen=True, slots=True)
class Trainings:
    """How much reward models are trained.

    epochs: of each one. batch: comparisons of a step. seeds: models on the same rows, each with an order of its own.
    """

    epochs: int = 6
    batch: int = 32
    seeds: int = 3


def run(recipe: str, folder: Path, settings: Mapping[str, Any]) -> Run:
    """The finished run of a recipe with some settings. What the folder holds already is not made again."""
    given = [f"{key}={_toml(value)}" for key, value in settings.items()]
    whole = read_recipe(RECIPES / f"{recipe}.toml", given)
    return Run.read(run_recipe(whole, out=folder, reporter=Reporter(Console(quiet=True))))


@contextmanager
def passing_run(recipe: str, folder: Path, settings: Mapping[str, Any]) -> Iterator[Run]:
    """A run that is read and then removed: its checkpoints would fill the disk."""
    yield run(recipe, folder, settings)
    shutil.rmtree(folder)


def made_groups(finished: Run, stage: str) -> list[Group]:
    """The rows that a stage made."""
    made = next(one for one in finished.artifacts() if one.stage == stage and "groups" in one.meta)
    return formats.read_groups(made.path / str(made.meta["groups"]), format="group")


def model_of(finished: Run, kind: str) -> str:
    """The folder of the model that a run made. kind: a language `model`, or a `reward` model."""
    made = next(one for one in finished.artifacts() if kind in one.meta)
    return str((finished.path / str(made.meta[kind])).absolute())


def score_of(answer: Completion) -> float:
    """The score, which every answer has where the recipe stops without."""
    assert answer.score is not None, "the recipe stops where an answer gets no score"
    return answer.score


def write(groups: list[Group], path: Path) -> str:
    """The rows as a file; returns its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    formats.write_data(groups, path, format="group")
    return str(path)


def interval(found: Mapping[str, Any]) -> Interval:
    """An interval as files have it."""
    return Interval(found["value"], found["low"], found["high"], found["n"])


def _toml(value: Any) -> str:
    """A value as an override has it; JSON is TOML but for tables, also those in lists."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value)
