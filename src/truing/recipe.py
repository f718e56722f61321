"""Recipes: what a user writes, checked against what stages and settings know, with every default spelled out."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import tomli_w
import torch
from pydantic import Field, model_validator

from truing.errors import ConfigError, MissingError, did_you_mean
from truing.models.precision import Precision, best_device
from truing.rounds import EARLIER, LOOP, PREVIOUS, START, Round
from truing.scoring.principle import Principle
from truing.scoring.scorers import paths_of
from truing.signatures import Count, Positive, Settings, validated
from truing.stages import STAGES, inputs_of, product_of, settings_type, stage

INPUT_NAMES = ("model", "base", "reward", "data", "also", "held_out", "unlabelled", "pretrain")
RESERVED = ("recipe", "held_out", START, PREVIOUS, EARLIER)
"""Inputs that no stage made: the recipe's, its held-out rows; in a loop what stood before it, and what rounds made."""


def _is_empty(value: object) -> bool:
    return not value


class Source(Settings):
    """One source of a blend."""

    path: str = Field(description="a file, or hub:owner/name:split")
    weight: Positive | None = Field(
        None, description="share of the blend's rows that it gives, relative to the others; none for all: each row once"
    )
    format: str | None = Field(None, description="name of the format; none: as data.format")
    limit: Count | None = Field(None, description="read only so many rows; none: as data.limit")


class DataSettings(Settings):
    """Where the data of a recipe come from: one file, or several."""

    path: str | None = Field(None, description="a file, or hub:owner/name:split")
    blend: dict[str, Source] = Field(
        {}, exclude_if=_is_empty, description="several sources instead, a table of each under any name"
    )
    rows: Count | None = Field(
        None, description="rows of an epoch of a blend with weights; none: as many as its sources have"
    )
    format: str | None = Field(None, description="name of the format, of a held-out file too; none: found out")
    held_out: Annotated[float, Field(ge=0, lt=1)] | str = Field(
        0.0, description="share of the prompts kept out for evaluation, or a file of them"
    )
    limit: Count | None = Field(None, description="read only so many rows, of a blend so many of each source")
    max_bad: int = Field(0, ge=0, description="bad rows of each file that are tolerated and left out")
    splits: dict[str, Positive] = Field(
        {},
        exclude_if=_is_empty,
        description="stages, each with the weight of the training prompts that it alone gets; a stage that is not "
        "named takes all",
    )

    @model_validator(mode="after")
    def _of_one_kind(self) -> Self:
        """Either a file or a blend, and every setting has something to decide."""
        if self.path and self.blend:
            advice = "take one of them out; data.blend={} empties a recipe's blend"
            raise ConfigError(f"path is '{self.path}', and blend names other files: {advice}")
        if not self.path and not self.blend:
            raise ConfigError("no rows are named: set path to a file, or blend to several")
        paths = [source.path for source in self.blend.values()]
        twice = next((path for path in paths if paths.count(path) > 1), None)
        if twice:
            raise ConfigError(f"blend has '{twice}' twice: name it once, with the sum of the weights")
        bare = [name for name, source in self.blend.items() if source.weight is None]
        if 0 < len(bare) < len(self.blend):
            raise ConfigError(f"blend.{bare[0]} has no weight, and others have: give all of them one, or none")
        if self.rows and (bare or not self.blend):
            raise ConfigError("rows changes nothing without a blend with weights: take it out, or set limit")
        if len(self.splits) == 1:
            raise ConfigError("splits has one part alone, which is all rows: name two stages or more, or take it out")
        return self


class StageSpec(Settings):
    """One stage of a recipe: which, under what name, with which inputs and settings."""

    use: str
    name: str
    inputs: dict[str, str]
    settings: dict[str, Any]

    @property
    def table(self) -> dict[str, Any]:
        """As it is written in a recipe."""
        return {"use": self.use, "name": self.name, **self.inputs, **self.settings}


class LoopSpec(Settings):
    """A stage whose body is stages, which are walked in rounds."""

    name: str = Field(description="its own; rounds are called by it, such as self.2")
    rounds: Count = Field(description="how often the body is walked")
    carry: tuple[Literal["model", "reward", "data"], ...] = Field(
        ("model",),
        min_length=1,
        description="what the last stage of a kind made in a round, and the next round begins with: model, reward, "
        "data; of other kinds each round begins with what stood before the loop",
    )
    rows: Literal["all", "split"] = Field(
        "all", description="rows of [data] that a round takes: all; or split, prompts that no other round takes"
    )
    stage: tuple[StageSpec, ...]

    @model_validator(mode="after")
    def _feeds_itself(self) -> Self:
        """What is carried is made in the body, and nothing is named before it is made."""
        made = {product_of(stage(spec.use)) for spec in self.stage}
        idle = next((kind for kind in self.carry if kind not in made), None)
        if idle:
            raise ConfigError(f"carry: no stage of the loop makes '{idle}': take it out, or put in a stage that does")
        if self.rows == "split" and "data" in self.carry:
            raise ConfigError("rows gives each round rows of its own, and carry those of the last round: take one out")
        names = [spec.name for spec in self.stage]
        for place, spec in enumerate(self.stage):
            early = next(((name, given) for name, given in spec.inputs.items() if given in names[place:]), None)
            if early:
                raise ConfigError(
                    f"{spec.name}.{early[0]}: '{early[1]}' is not made before it in the round: "
                    '"previous" is what the last round made'
                )
            several = next((name for name, given in spec.inputs.items() if given == EARLIER), None)
            if several and (several != "base" or product_of(stage(spec.use)) not in ("measured", "verdict")):
                raise ConfigError(
                    f'{spec.name}.{several}: "{EARLIER}" is the model of every earlier round, each for itself, and can '
                    "be the base of a stage that measures, such as win_rate, and nothing else"
                )
        return self

    @property
    def table(self) -> dict[str, Any]:
        """As it is written in a recipe."""
        own = self.model_dump(mode="json", exclude={"stage"})
        return {"use": LOOP, **own, "stage": [spec.table for spec in self.stage]}


class Recipe(Settings):
    """Everything that decides what a run does."""

    name: str = Field("run", description="begins the name of the run's folder; of a recipe file, the file's name")
    model: str = Field(description="smollm2, a model folder, a run folder, or a hub id")
    chat_template: str | None = Field(None, description="a Jinja file used instead of the model's own template")
    seed: int = Field(0, ge=0, description="decides all that is drawn")
    device: str = Field("auto", description="auto, cpu, cuda, ...")
    precision: Precision = Field("auto", description="dtype of compute; trained weights are always kept in fp32")
    data: DataSettings | None = Field(None, description="where rows come from; none: no stage takes any")
    principle: Principle | None = Field(None, description="what the model is to do, in words")
    stage: tuple[StageSpec | LoopSpec, ...]

    @model_validator(mode="after")
    def _told_apart(self) -> Self:
        """No stage is called as a round of a loop is."""
        loops = [one for one in self.stage if isinstance(one, LoopSpec)]
        rounds = {Round(one.name, number, one.rounds).name for one in loops for number in range(1, one.rounds + 1)}
        taken = next((one.name for one in self.stage if one.name in rounds), None)
        if taken:
            raise ConfigError(
                f"{taken}: a round of the loop {taken.rpartition('.')[0]} is called so: name it otherwise"
            )
        return self

    @model_validator(mode="after")
    def _known_parts(self) -> Self:
        """The parts of the data are for stages of the recipe, a loop as a whole, or stages of its body."""
        names = [spec.name for spec in self.stage]
        names += [f"{spec.name}.{one.name}" for spec in self.stage if isinstance(spec, LoopSpec) for one in spec.stage]
        unknown = next((name for name in (self.data.splits if self.data else ()) if name not in names), None)
        if unknown:
            raise ConfigError(f"data.splits.{unknown}: no stage has this name{did_you_mean(unknown, names)}")
        return self

    def resolved(self) -> str:
        """The recipe with every default spelled out, as TOML: a recipe itself, which means the same."""
        table = self.model_dump(mode="json")
        table["stage"] = [spec.table for spec in self.stage]
        return tomli_w.dumps(_without_none(table))


def read_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe file with `key=value` overrides. Paths in the file are relative to it, those in overrides to here."""
    return make_recipe(read_table(path), overrides)


def read_table(path: Path) -> dict[str, Any]:
    """What a recipe file says, with its paths made absolute, and its name where it has none."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        known = [str(p) for p in sorted(path.parent.glob("*.toml"))] if path.parent.is_dir() else []
        raise ConfigError(f"{path}: no such recipe{did_you_mean(str(path), known) if known else ''}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    table.setdefault("name", path.stem)
    _make_absolute(table, path.parent)
    return table


def make_recipe(table: dict[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """A recipe from a table as TOML gives it."""
    if LOOP in table:
        raise ConfigError(
            'a loop is a stage, so that TOML keeps its place among the others: write [[stage]] with use = "loop", and '
            "the stages of its body as [[stage.stage]] below it"
        )
    table = {**table, "stage": _with_names(table.get("stage", []), "the recipe")}
    for override in overrides:
        _override(table, override)
    table["stage"] = [_spec(entry) for entry in table["stage"]]
    recipe: Recipe = validated(Recipe, table, "")
    return recipe


def _with_names(entries: Any, owner: str) -> list[dict[str, Any]]:
    """Copies of the tables of a recipe's or a loop's stages, each with its name."""
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ConfigError("stages are written [[stage]], with two brackets each, one after the other")
    stages = [_with_name(dict(entry)) for entry in entries]
    if not stages:
        where = "[[stage]]" if owner == "the recipe" else "[[stage.stage]]"
        raise ConfigError(f'{owner} has no {where}: add at least one, such as use = "sft"')
    names = [entry["name"] for entry in stages]
    if len(set(names)) < len(names):
        raise ConfigError(
            f"two stages are named '{next(n for n in names if names.count(n) > 1)}': give them a name each"
        )
    return stages


def _with_name(entry: dict[str, Any]) -> dict[str, Any]:
    if "use" not in entry:
        raise ConfigError('a [[stage]] says which one it is by use = "...": sft, preference, ...')
    use = str(entry["use"])
    if use not in STAGES and use != LOOP:
        raise ConfigError(f"stage '{use}' does not exist{did_you_mean(use, [*STAGES, LOOP])}")
    name = entry.setdefault("name", use)
    if name in RESERVED or "/" in str(name):
        raise ConfigError(
            f"a stage cannot be named '{name}': {', '.join(RESERVED)} mean something else as inputs, and a "
            "slash parts a round from its stage"
        )
    if use == LOOP:
        entry["stage"] = _with_names(entry.get("stage", []), f"loop '{name}'")
        if any(inner["use"] == LOOP for inner in entry["stage"]):
            raise ConfigError(f"loop '{name}' holds another loop: write them one after the other")
    return entry


def _spec(entry: dict[str, Any]) -> StageSpec | LoopSpec:
    """A stage's or a loop's table, checked and spelled out."""
    if entry["use"] != LOOP:
        return _stage_spec(entry, entry["name"])
    table = {name: value for name, value in entry.items() if name != "use"}
    table["stage"] = tuple(_stage_spec(inner, f"{entry['name']}.{inner['name']}") for inner in entry["stage"])
    loop: LoopSpec = validated(LoopSpec, table, entry["name"])
    return loop


def _stage_spec(entry: dict[str, Any], where: str) -> StageSpec:
    """A stage's table, sorted into inputs and settings, the settings checked and spelled out."""
    function = stage(entry["use"])
    inputs = {name: entry.pop(name) for name in INPUT_NAMES if name in inputs_of(function) and name in entry}
    use, name = entry.pop("use"), entry.pop("name")
    settings = validated(settings_type(function), entry, where)
    table = {"use": use, "name": name, "inputs": inputs, "settings": settings.model_dump(mode="json")}
    spec: StageSpec = validated(StageSpec, table, where)
    return spec


def _override(table: dict[str, Any], override: str) -> None:
    """Sets `a.b.c=value`, where `a` is a setting of the recipe, the name of a stage, or of a loop, whose stages are
    `a.b` then; the value is TOML or text.
    """
    path, equals, text = override.partition("=")
    if not equals:
        raise ConfigError(f"'{override}': write key=value, for example preference.learning_rate=1e-6")
    first, *rest = path.strip().split(".")
    stages = {entry["name"]: entry for entry in table["stage"]}
    if first in stages and rest:
        target, keys = _in_loop(stages[first], rest) if stages[first]["use"] == LOOP else (stages[first], rest)
    elif first in Recipe.model_fields and first != "stage":
        target, keys = table, [first, *rest]
    else:
        bodies = [f"{name}.{inner['name']}" for name, entry in stages.items() for inner in _body(entry)]
        known = [*Recipe.model_fields, *stages, *bodies]
        raise ConfigError(f"'{first}' is neither a setting nor a stage{did_you_mean(first, known)}")
    for key in keys[:-1]:
        value = target.get(key)
        if value is not None and not isinstance(value, str | dict):
            raise ConfigError(f"'{path}': '{key}' is {value!r} and has no settings of its own")
        target[key] = {"name": value} if isinstance(value, str) else dict(value or {})
        target = target[key]
    target[keys[-1]] = _toml_value(text)


def _in_loop(loop: dict[str, Any], keys: list[str]) -> tuple[dict[str, Any], list[str]]:
    """The table that keys after a loop's name lead to, the loop's own or that of a stage of its body, and the rest."""
    stages = {inner["name"]: inner for inner in _body(loop)}
    if len(keys) > 1 and keys[0] in stages:
        return stages[keys[0]], keys[1:]
    known = [name for name in LoopSpec.model_fields if name not in ("name", "stage")]
    if len(keys) > 1 or keys[0] not in known:
        where = f"{loop['name']}.{keys[0]}"
        raise ConfigError(
            f"'{where}' is neither a setting nor a stage of the loop{did_you_mean(keys[0], [*known, *stages])}"
        )
    return loop, keys


def _body(entry: dict[str, Any]) -> list[dict[str, Any]]:
    """The stages of a loop; of another stage none."""
    stages: list[dict[str, Any]] = entry["stage"] if entry["use"] == LOOP else []
    return stages


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _make_absolute(table: dict[str, Any], folder: Path) -> None:
    """Files beside a recipe are meant relative to it."""
    places = [(table, "chat_template"), (table, "model")]
    if isinstance(table.get("data"), dict):
        places += [(each, key) for each in _tables(table["data"]) for key in ("path", "held_out")]
    for entry in _tables(table.get("stage")):
        names = (*INPUT_NAMES, "embeddings") if "use" in entry else paths_of(entry.get("name"))
        places += [(entry, key) for key in names]
        for files in (entry.get("categories"), entry.get("test_sets")):
            places += [(files, name) for name in files] if isinstance(files, dict) else []
    for owner, key in places:
        value = owner.get(key)
        if isinstance(value, str) and value:
            file, colon, function = value.partition(".py:")  # of a function: file.py:name
            path = folder / (f"{file}.py" if colon else value)
            if path.exists():
                owner[key] = f"{path.resolve()}{colon[3:]}{function}"


def _tables(value: Any) -> Iterator[dict[str, Any]]:
    """A table and all tables in it: a scorer of a stage names files too."""
    if isinstance(value, dict):
        yield value
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for one in inner:
        yield from _tables(one)


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list) else value


def device_of(name: str) -> torch.device:
    """The device that a recipe names."""
    if name == "auto":
        return best_device()
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise MissingError(
            f"device '{name}' is not here: {str(error).splitlines()[0]}: set device = \"auto\""
        ) from None
    return device
