"""`python -m evidence reward` tries what is claimed of reward models where the truth is known.

`python -m evidence people` measures them and selected data on what people said, `python -m evidence online` what
learning online does, and `python -m evidence loops` what is said of learning in rounds; `python -m evidence page`
writes the pages of these three again.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, TypeVar

import torch
from cyclopts import App, Parameter

from evidence import loops, loops_page, online, online_page, page, people, people_page, reviews, reward
from evidence.found import Found, OutOfTimeError
from evidence.reward import Size, Trial
from truing.models.precision import best_device

ROOT = Path(__file__).parent.parent
OUT = ROOT / "docs" / "evidence"
T = TypeVar("T")
app = App(name="evidence", help=__doc__, version_flags=[])


@app.command(name="reward")
def try_reward(
    folder: Path = ROOT / "runs" / "evidence-reward",
    out: Path = OUT,
    size: Annotated[Size | None, Parameter(name="*")] = None,
) -> None:
    """Noisy labels, strengths, treatments and MetaRM. folder: of data and runs, which are gone on with."""
    size = size or Size()
    trial = Trial(folder, size)
    groups = reward.audited(trial)
    page.write(
        out,
        size,
        reward.tenths(trial, groups),
        reward.turned_tenths(trial, groups),
        reward.treatments(trial, groups),
        reward.meta(trial, (1e-12, 1e-3, 1e-2, 1e-1)),
    )


@app.command(name="people")
def measure_people(
    data: Path,
    out: Path = OUT,
    folder: Path = ROOT / "runs" / "evidence-people",
    parts: tuple[str, ...] = tuple(people.PARTS),
    quick: bool = False,
    seeds: int | None = None,
    seconds: float = float("inf"),
    model: str = "smollm2",
) -> None:
    """Reward models, audits and selected data on what people said. What people.json in `out` holds is not done again.

    data: the folder of the sets. folder: of runs, most of which are removed once they are read. parts: what to measure.
    quick: so little that the numbers mean nothing. seeds: reward models of each fold. seconds: after which nothing
    further is begun. model: the one that everything begins with.
    """
    size = people.QUICK if quick else people.Size()
    found = Found(out / people_page.KEPT, _machine(), seconds)
    trial = people.Trial(data, folder, found, size if seeds is None else replace(size, seeds=seeds), model)
    people.begin(trial)
    _measure(trial, [people.PARTS[part] for part in parts])
    people_page.write(out)


@app.command(name="online")
def measure_online(
    data: Path,
    out: Path = OUT,
    folder: Path = ROOT / "runs" / "evidence-online",
    parts: tuple[str, ...] = tuple(online.PARTS),
    quick: bool = False,
    seeds: int | None = None,
    seconds: float = float("inf"),
) -> None:
    """PPO-max's measures, reward against KL, and a real model. What online.json in `out` holds is not done again.

    data: the folder of the sets. folder: of runs, most of which are removed once they are read. parts: what to measure.
    quick: so little that the numbers mean nothing. seeds: trainings of each setting. seconds: after which nothing
    further is begun.
    """
    size = reviews.QUICK if quick else reviews.Size()
    found = Found(out / online_page.KEPT, _machine(), seconds)
    trial = reviews.Trial(data, folder, found, size if seeds is None else replace(size, seeds=seeds))
    found.settle(asdict(trial.size))
    _measure(trial, [online.PARTS[part] for part in parts])
    online_page.write(out)


@app.command(name="loops")
def try_loops(
    data: Path,
    out: Path = OUT,
    folder: Path = ROOT / "runs" / "evidence-loops",
    parts: tuple[str, ...] = tuple(loops.PARTS),
    quick: bool = False,
    seeds: int | None = None,
    seconds: float = float("inf"),
) -> None:
    """What is said of rounds, judges and rankings, where the truth is known. What loops.json holds is not done again.

    data: the folder of the sets. folder: of runs, most of which are removed once they are read. parts: what to try.
    quick: so little that the numbers mean nothing. seeds: trainings of each setting. seconds: after which nothing
    further is begun.
    """
    size = loops.QUICK if quick else loops.Size()
    found = Found(out / loops_page.KEPT, _machine(), seconds)
    trial = loops.Trial(data, folder, found, size if seeds is None else replace(size, seeds=seeds))
    found.settle(loops.settled(trial.size))
    _measure(trial, [loops.start, *(loops.PARTS[part] for part in parts)])
    loops_page.write(out)


@app.command(name="page")
def write_page(out: Path = OUT) -> None:
    """Writes people.md, online.md and loops.md with their pictures from the numbers alone, where they are."""
    for its in (people_page, online_page, loops_page):
        if (out / its.KEPT).exists():
            its.write(out)


def _measure(trial: T, parts: Iterable[Callable[[T], None]]) -> None:
    """One part after the other, until time is up."""
    try:
        for part in parts:
            part(trial)
    except OutOfTimeError as next_one:
        print(f"time is up before {next_one}: run the same command again to go on", file=sys.stderr)


def _machine() -> str:
    device = best_device()
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"CPU, {torch.get_num_threads()} of {os.cpu_count()} cores"
    return f"{name}, torch {torch.__version__}"


if __name__ == "__main__":
    app()
