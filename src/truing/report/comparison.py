"""What several runs have in common, and in what they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from truing.report.figures import Figure
from truing.report.sections.curves import overlaid_figures
from truing.report.sections.verdict import Example
from truing.report.stages import Stage
from truing.report.view import View


@dataclass(frozen=True)
class Shared:
    """A held-out prompt that several runs answered: the base's answer, then one example a run, or None."""

    prompt: list[tuple[str, str]]
    by_run: list[Example | None]


def labels(runs: Sequence[View]) -> list[str]:
    """A name for each run: its own, with the folder's where two have the same."""
    names = [run.name for run in runs]
    return [run.name if names.count(run.name) == 1 else f"{run.name} ({run.path.resolve().name})" for run in runs]


def differing_settings(runs: Sequence[View]) -> dict[str, list[str]]:
    """The settings, inputs and versions in which the runs differ, one value a run."""
    flat = [_all_settings(run) for run in runs]
    names = dict.fromkeys(name for settings in flat for name in settings)
    rows = {name: [settings.get(name, "–") for settings in flat] for name in names}
    return {name: values for name, values in rows.items() if len(set(values)) > 1}


def overlaid_curves(runs: Sequence[View]) -> dict[str, list[Figure]]:
    """By stage, each metric that at least two runs have, as one chart."""
    names = dict.fromkeys(stage.name for run in runs for stage in run.stages)
    found = {name: [_stage_of(run, name) for run in runs] for name in names}
    figures = {name: overlaid_figures(stages, labels(runs)) for name, stages in found.items()}
    return {name: own for name, own in figures.items() if own}


def shared_prompts(runs: Sequence[View]) -> list[Shared]:
    """The held-out prompts that at least two runs answered, in the order of the first run that did."""
    answered: list[dict[tuple[tuple[str, str], ...], Example]] = []
    for run in runs:
        examples = run.evaluation.examples if run.evaluation else []
        answered.append({tuple(example.prompt): example for example in examples})
    prompts = dict.fromkeys(prompt for by_prompt in answered for prompt in by_prompt)
    shared = [Shared(list(prompt), [by_prompt.get(prompt) for by_prompt in answered]) for prompt in prompts]
    return [row for row in shared if sum(example is not None for example in row.by_run) > 1]


def base_answers(row: Shared) -> list[tuple[int, Example]]:
    """The base's different answers to a prompt, each with the first run that has it."""
    answers: dict[str, tuple[int, Example]] = {}
    for number, example in enumerate(row.by_run):
        if example is not None:
            answers.setdefault(example.base.text, (number, example))
    return list(answers.values())


def _stage_of(run: View, name: str) -> Stage | None:
    return next((stage for stage in run.stages if stage.name == name), None)


def _all_settings(run: View) -> dict[str, str]:
    """All that could make two runs different, by dotted name."""
    found = {"model": run.model, "seed": run.seed}
    for stage in run.stages:
        found |= flat(stage.settings, f"{stage.name}.") | flat(stage.inputs, f"{stage.name}.inputs.")
    return found | flat(run.versions, "versions.") | flat(run.machine, "machine.")


def flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as text by dotted name."""
    found: dict[str, str] = {}
    for name, value in table.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = "none" if value is None else str(value)
    return found
