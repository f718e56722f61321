"""From a recipe to its stages with their inputs and keys, before anything loads."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from truing import formats, models
from truing.data import data_inputs
from truing.errors import ConfigError, did_you_mean
from truing.recipe import DataSettings, Recipe, StageSpec
from truing.records import Group
from truing.scoring.principle import Principle
from truing.signatures import Settings, validated
from truing.stages import inputs_of, settings_type, stage
from truing.stages.context import Groups, Model
from truing.store import Artifact, Run, hash_of


@dataclass(frozen=True, slots=True)
class Planned:
    """A stage with its settings and inputs in hand. The hash of a model made on the way stands for its making."""

    name: str
    use: str
    settings: Settings
    inputs: Mapping[str, Any]
    key: str
    done: bool


def plan(recipe: Recipe, run: Run | None = None) -> list[Planned]:
    """Every stage with its inputs and key. Reads and checks the data, loads no weights."""
    principle = recipe.principle
    known: dict[str, Any] = {"principle": principle} if principle else {}
    source = models.locate(recipe.model)
    known["model"] = known["base"] = Model(models.content_hash(source), source)
    if recipe.data:
        known |= data_inputs(recipe.data)
    planned: list[Planned] = []
    for spec in recipe.stage:
        function = stage(spec.use)
        inputs = _inputs(spec, inputs_of(function), known)
        settings = validated(settings_type(function), spec.settings, spec.name)
        key = hash_of(
            spec.use, settings.model_dump(mode="json"), {n: input_key(v) for n, v in inputs.items()},
            recipe.seed, recipe.precision, recipe.device, recipe.chat_template or "",
        )  # fmt: skip
        artifact = run.artifact(key) if run else None
        planned.append(Planned(spec.name, spec.use, settings, inputs, key, artifact is not None))
        known |= _outputs(spec, key, artifact, run)
    return planned


def _inputs(spec: StageSpec, wanted: Mapping[str, bool], known: Mapping[str, Any]) -> dict[str, Any]:
    """What a stage asks for, by name: what its `inputs` say, or the latest of that kind."""
    unknown = set(spec.inputs) - set(wanted)
    if unknown:
        name = sorted(unknown)[0]
        raise ConfigError(f"{spec.name}.{name}: stage '{spec.use}' has no such input{did_you_mean(name, wanted)}")
    found: dict[str, Any] = {}
    for name, required in wanted.items():
        given = spec.inputs.get(name)
        value = _named_input(name, given, known, spec) if given else known.get(name)
        if value is None and required:
            raise ConfigError(f"stage '{spec.name}' needs '{name}': {_advice(name)}")
        if value is not None:
            found[name] = value
    return found


def _named_input(name: str, given: str, known: Mapping[str, Any], spec: StageSpec) -> Any:
    """An input by the name of the stage that made it, or by a path."""
    made = known.get(f"{given}.{'model' if name in ('model', 'base') else 'data'}")
    if made is not None:
        return made
    if name in ("model", "base"):
        source = models.locate(given)
        return Model(models.content_hash(source), source)
    if Path(given).exists() or given.startswith("hub:"):
        return data_inputs(DataSettings(path=given))["data"]
    raise ConfigError(f"{spec.name}.{name}: '{given}' is neither an earlier stage nor a file")


def _outputs(spec: StageSpec, key: str, artifact: Artifact | None, run: Run | None) -> dict[str, Any]:
    """What a stage adds to the known inputs, under the kind and under its own name."""
    kind = {"sample": "data", "contrast": "data", "evaluate": None}.get(spec.use, "model")
    if kind is None:
        return {}
    if kind == "model":
        source = (
            str(run.path.absolute() / str(artifact.meta["model"])) if run and artifact else f"(made by {spec.name})"
        )
        model = Model(key, source)
        return {"model": model, f"{spec.name}.model": model}
    path = artifact.path / str(artifact.meta["groups"]) if artifact else None
    groups = Groups(key, functools.partial(_read_made, path, spec.name), f"made by {spec.name}")
    return {"data": groups, f"{spec.name}.data": groups}


def _read_made(path: Path | None, name: str) -> list[Group]:
    if path is None:
        raise ConfigError(f"stage '{name}' has not run yet")
    return formats.read_groups(path, format="group")


def input_key(value: Any) -> str:
    """The hash of what a stage is given."""
    return hash_of(value.model_dump()) if isinstance(value, Principle) else str(value.key)


def _advice(name: str) -> str:
    return {
        "data": "set data.path to a file, or put a stage before it that makes data",
        "held_out": "set data.held_out to a share or a file",
        "principle": "add a [principle] with text, positive and negative",
    }.get(name, f"set {name}")


def read_held_out(planned: Sequence[Planned]) -> None:
    """Held-out rows that cannot be used, such as those that are trained on, are told before anything trains."""
    for stage_plan in planned:
        if "held_out" in stage_plan.inputs:
            stage_plan.inputs["held_out"].read()
