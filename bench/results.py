"""The results file, and what is put into it: summaries, and ratios where the gate allows them."""

from __future__ import annotations

import datetime
import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.gate import Verdict
from bench.machine import describe
from bench.rows import ROOT
from bench.statistics import median, ratio

Runs = Sequence[Mapping[str, Any]]
"""What a system's processes returned, one for each round."""


def store(path: Path, task: str, profile: str, entry: Mapping[str, Any], device: str = "cpu") -> None:
    """Puts the entry into the file under its task and profile, in place of an earlier one."""
    kept = json.loads(path.read_text()) if path.exists() else {}
    kept[f"{task}/{profile}"] = {
        "task": task,
        "profile": profile,
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": describe(device),
        "commit": _commit(),
        **entry,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dict(sorted(kept.items())), indent=1) + "\n")


def _commit() -> str:
    """The commit that is measured, with a plus where files differ from it."""
    asked = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    said = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=False)
    return said.stdout.strip() or "unknown"


def summary(runs: Runs, tokens: Sequence[int]) -> dict[str, Any]:
    """Medians of one system over all rounds. tokens: useful ones of each timed step."""
    seconds = [value for run in runs for value in run["seconds"]]
    rates = [count / value for run in runs for count, value in zip(tokens, run["seconds"], strict=True)]
    found: dict[str, Any] = {
        "seconds": median(seconds),
        "tokens_per_second": median(rates),
        "memory": {name: median([run["memory"][name] for run in runs]) for name in runs[0]["memory"]},
        "samples": [run["seconds"] for run in runs],
    }
    if "cache_seconds_per_row" in runs[0]:
        found["cache_seconds_per_row"] = median([run["cache_seconds_per_row"] for run in runs])
    if "phases" in runs[0]:
        steps = [step for run in runs for step in run["phases"]]
        found["phases"] = {name: median([step[name] for step in steps]) for name in steps[0]}
    if "settings" in runs[0]:
        found["settings"] = runs[0]["settings"]
    return found


def comparison(ours: str, theirs: str, runs: Mapping[str, Runs], gate: Verdict, batch: int) -> dict[str, Any]:
    """How many times faster and smaller `ours` is than `theirs`; nothing of the kind where the gate is shut."""
    found: dict[str, Any] = {"ours": ours, "theirs": theirs, "gate": gate}
    if not gate["agreed"]:
        return found
    mine, other = runs[ours], runs[theirs]
    return found | {
        "times_faster": ratio(_seconds(other), _seconds(mine)),
        "times_faster_with_cache": ratio(_seconds(other, batch), _seconds(mine, batch)),
        "memory": ratio(above(mine), above(other)),
    }


def say(comparison: Mapping[str, Any]) -> str:
    """One line on a comparison."""
    head = f"{comparison['ours']} against {comparison['theirs']}"
    if not comparison["gate"]["agreed"]:
        return f"{head}: no ratio: " + "; ".join(comparison["gate"]["disagreed"])
    return f"{head}: {worded(comparison['times_faster'])}x as fast, {worded(comparison['memory'])}x the memory"


def worded(interval: Mapping[str, Any], digits: int = 2) -> str:
    """A value and its interval, such as `3.10 [2.95, 3.30]`."""
    value = f"{interval['value']:.{digits}f}"
    if interval["low"] is None:
        return f"{value} [one measurement]"
    return f"{value} [{interval['low']:.{digits}f}, {interval['high']:.{digits}f}; n = {interval['n']}]"


def _seconds(runs: Runs, batch: int = 0) -> list[float]:
    """Seconds of every timed step; with `batch` rows' share of what was computed once, over one epoch."""
    return [value + batch * run.get("cache_seconds_per_row", 0.0) for run in runs for value in run["seconds"]]


def above(runs: Runs) -> list[float]:
    """The peak of memory above the baseline in each process, in bytes."""
    return [float(run["memory"]["above"]) for run in runs]
