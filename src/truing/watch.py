"""A terminal view of a run, live or finished: what its events tell, and nothing else."""

from __future__ import annotations

import itertools
import math
import time
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from truing.report import words
from truing.report.health import Finding, findings
from truing.report.metrics import ROLLOUT, in_order, metric
from truing.report.reading import text
from truing.report.rollouts import Shown
from truing.report.stages import Stage, stages_of
from truing.rounds import stage_names
from truing.store import Run

CURVES = 12
"""Metrics that are drawn."""
WIDTH = 28
"""Characters of a curve."""
RECENT = 50
"""Steps over which speed is measured."""
ANSWER = 400
"""Characters of an answer that are shown."""
BARS = "▁▂▃▄▅▆▇█"
BROKEN = "×"


@dataclass(frozen=True)
class Scene:
    """A run as it is now. planned: the names of its stages. heard: Unix time of the last event."""

    name: str
    planned: list[str]
    stages: list[Stage]

    @property
    def ended(self) -> bool:
        """Whether every stage of the recipe has."""
        done = {stage.name for stage in self.stages if stage.ended}
        return bool(self.planned) and done >= set(self.planned)

    @property
    def current(self) -> Stage | None:
        """The stage under way; where none is, the last one that trained, or the last one."""
        running = [stage for stage in self.stages if not stage.ended]
        trained = [stage for stage in self.stages if stage.curves]
        known = running or trained or self.stages
        return known[-1] if known else None

    @property
    def heard(self) -> float:
        """When the run last said something, as Unix time."""
        return max((stage.heard for stage in self.stages), default=0.0)


def read(folder: Path) -> Scene:
    """A run folder, or a ConfigError."""
    run = Run.read(folder)
    recipe = tomllib.loads(text(folder / "recipe.resolved.toml"))
    planned = stage_names(recipe.get("stage", ()))
    return Scene(str(run.info.get("name") or folder.resolve().name), planned, stages_of(run))


def watch(
    folder: Path, console: Console, *, once: bool, every: float, sleep: Callable[[float], None] = time.sleep
) -> None:
    """Shows the run until it ends or somebody presses Ctrl-C; once, where that is asked or nobody can see it change."""
    if once or not console.is_terminal:
        console.print(picture(read(folder), time.time()))
        return
    try:
        with Live(console=console, auto_refresh=False) as live:
            while True:
                scene = read(folder)
                live.update(picture(scene, time.time()), refresh=True)
                if scene.ended:
                    return
                sleep(every)
    except KeyboardInterrupt:  # leaving is how one ends it
        return


def picture(scene: Scene, now: float) -> Group:
    """What is shown of a run at this time."""
    stage = scene.current
    if stage is None:
        return Group(Text(f"{words.visible(scene.name)}: no stage has begun"))
    parts: list[Any] = [_head(scene, stage, now)]
    if stage.step and stage.steps:
        parts.append(_progress(stage))
    if stage.curves or stage.rollouts:
        parts += ["", _curves(stage)]
    found = findings(stage.latest)
    if found:
        parts += ["", _health(found)]
    if stage.gain:
        parts += ["", Text(words.sentence(stage.gain.verdict))]
    if stage.rollouts:
        parts += ["", *_answers(stage)]
    if stage.warnings:
        count = len(stage.warnings)
        parts += ["", Text(f"warnings ({count}), the last: {words.visible(stage.warnings[-1])}", style="yellow")]
    return Group(*parts)


def facts(scene: Scene, now: float) -> dict[str, Any]:
    """The same for programs."""
    stage = scene.current
    about: dict[str, Any] = {"run": scene.name, "ended": scene.ended, "silent_seconds": now - scene.heard}
    if stage is None:
        return about | {"stage": None}
    health = {
        one.name: {"value": one.value, "low": one.range.low, "high": one.range.high, "well": one.is_well}
        for one in findings(stage.latest)
    }
    return about | {
        "stage": stage.name,
        "round": None if stage.round is None else asdict(stage.round),
        "step": stage.step,
        "steps": stage.steps,
        "seconds_per_step": pace(stage),
        "metrics": {name: values[-1] for name, values in stage.latest.items()},
        "health": health,
    }


def pace(stage: Stage) -> float | None:
    """Seconds of a step, on average over the last ones since the stage was begun or gone on with."""
    times = stage.times[-RECENT:]
    return (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else None


def sparkline(values: Sequence[float], width: int = WIDTH) -> str:
    """The values from the lowest to the highest bar, the means of neighbours where they are many; × is not finite."""
    count = min(width, len(values))
    cuts = [round(place * len(values) / count) for place in range(count + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(cuts)]
    finite = [mean for mean in means if math.isfinite(mean)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    return "".join(_bar(mean, low, high) for mean in means)


def _bar(value: float, low: float, high: float) -> str:
    if not math.isfinite(value):
        return BROKEN
    part = (value - low) / (high - low) if high > low else 0.5
    return BARS[min(int(part * len(BARS)), len(BARS) - 1)]


def _head(scene: Scene, stage: Stage, now: float) -> Text:
    place = f" ({scene.planned.index(stage.name) + 1} of {len(scene.planned)})" if stage.name in scene.planned else ""
    state = "finished" if scene.ended else "stage finished" if stage.ended else "under way"
    if stage.round:
        place += f", {stage.round}"
    line = Text(words.visible(scene.name), style="bold")
    line.append(f"  stage {words.visible(stage.name)}{place}, {state}", style="not bold")
    if not scene.ended:
        line.append(f"; last event {words.duration(max(now - scene.heard, 0.0))} ago", style="not bold dim")
    return line


def _progress(stage: Stage) -> Table:
    assert stage.steps, "a stage with steps says how many"
    row = Table.grid(padding=(0, 2))
    said = f"step {stage.step:,} of {stage.steps:,}"
    if stage.rollouts:
        said = f"rollout {stage.rollouts[-1].number:,}, {said}"
    speed = pace(stage)
    left = "" if speed is None else f"{words.duration(speed)} a step"
    if speed is not None and not stage.ended:
        left += f", {words.duration(speed * (stage.steps - stage.step))} left"
    row.add_row(said, ProgressBar(total=stage.steps, completed=stage.step, width=24), left)
    return row


def _curves(stage: Stage) -> Table:
    latest = stage.latest
    table = Table.grid(padding=(0, 2))
    names = [name for name in dict.fromkeys([*ROLLOUT, *in_order(latest)]) if name in latest]
    for name in [name for name in names if name != "learning_rate"][:CURVES]:
        values = latest[name]
        ends = f"{words.number(values[0])} → {words.number(values[-1])}"
        style = "" if math.isfinite(values[-1]) else "bold red"
        table.add_row(
            Text(metric(name, stage.settings).heading), Text(ends, style), Text(sparkline(values), style="cyan")
        )
    return table


def _health(found: Sequence[Finding]) -> Table:
    table = Table("health", "now", "healthy", "", box=None, pad_edge=False, header_style="bold")
    for one in found:
        outside = "" if one.is_well else f"OUTSIDE: {one.outside}"
        table.add_row(
            Text(one.heading),
            words.number(one.value),
            one.range.words,
            Text(outside or "well", "red" if outside else "green"),
        )
    return table


def _answers(stage: Stage) -> list[Text]:
    last = stage.rollouts[-1]
    lines = [Text(f"rollout {last.number:,}, best and worst answer", style="bold")]
    lines += [_answer(one) for one in last.shown]
    lines += [Text(f"prompts left out: {count}, {words.visible(reason)}") for reason, count in last.failed.items()]
    return lines


def _answer(shown: Shown) -> Text:
    asked = _flat(shown.prompt[-1][1], ANSWER // 4) if shown.prompt else ""
    line = Text(f"{words.number(shown.score)}  ", style="bold")
    line.append(f"{asked}  ", style="not bold dim")
    line.append(_flat(shown.text, ANSWER) or "(empty)", style="not bold")
    return line


def _flat(words_of: str, limit: int) -> str:
    return words.visible(words.shorten(" ".join(words_of.split()), limit))
