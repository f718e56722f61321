"""What a run folder says, gathered for the page: typed, in order, and with whatever is missing as None or empty."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from truing.report.reading import found_by, mapping, stored, text
from truing.report.rollouts import Trace, is_trace, read_trace
from truing.report.sections import SECTIONS, verdict
from truing.report.stages import Stage, stages_of
from truing.store import Artifact, Run


@dataclass(frozen=True)
class View:
    """A run, ready to be shown. found: what stages found, by the name of the section that shows it.

    traces: rollouts that were kept token by token.
    """

    path: Path
    name: str
    model: str
    model_key: str
    seed: str
    created: str
    versions: dict[str, Any]
    machine: dict[str, Any]
    stages: list[Stage]
    evaluations: list[verdict.Evaluation]
    found: dict[str, list[Any]]
    traces: list[Trace]
    artifacts: list[Artifact]
    recipe: str
    resolved: str

    @property
    def evaluation(self) -> verdict.Evaluation | None:
        """The last one, which is of the final model."""
        return self.evaluations[-1] if self.evaluations else None

    @property
    def gained(self) -> Stage | None:
        """The last stage that says what its training did to the reward of held-out prompts."""
        return next((stage for stage in reversed(self.stages) if stage.gain is not None), None)

    @property
    def trains(self) -> bool:
        """Whether a model is trained, as far as one can tell: a run of which no stage has begun may yet do so."""
        told = ("learning_rate" in stage.settings or stage.curves or stage.held_out for stage in self.stages)
        return not self.stages or any(told)

    @property
    def made_reward(self) -> bool:
        """Whether the last model that the run made is a reward model."""
        made = [artifact.meta for artifact in self.artifacts if "model" in artifact.meta or "reward" in artifact.meta]
        return bool(made) and "reward" in made[-1]


def view(folder: Path) -> View:
    """Reads a run folder. What is damaged raises StorageError; what is missing is only missing."""
    run = Run.read(folder)
    info = mapping(stored(folder / "run.json"))
    artifacts = [artifact for artifact in run.artifacts() if not artifact.meta.get("part")]
    return View(
        path=folder,
        name=str(info.get("name") or folder.resolve().name),
        model=str(info.get("model", "")),
        model_key=str(info.get("model_key", "")),
        seed=str(info.get("seed", "")),
        created=str(info.get("created", "")),
        versions=mapping(info.get("versions")),
        machine=mapping(info.get("machine")),
        stages=stages_of(run),
        evaluations=found_by(artifacts, verdict.FILE, verdict.read),
        found={section.name: found_by(artifacts, section.file, section.read) for section in SECTIONS},
        traces=[read_trace(sample) for sample in run.samples() if is_trace(sample)],
        artifacts=artifacts,
        recipe=text(folder / "recipe.toml"),
        resolved=text(folder / "recipe.resolved.toml"),
    )


def from_where(run: View, source: str) -> str:
    """An input as a reader knows it: the stage that made it, the model that the run began with, or its hash."""
    for stage in run.stages:
        if stage.key and source == stage.key:
            return f"{stage.name} ({source[:12]})"
    if source and source == run.model_key:
        return run.model
    return source if len(source) <= 60 else f"{source[:57]}…"
