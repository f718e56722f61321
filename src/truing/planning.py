"""From a recipe to its stages with their inputs and keys, before anything loads."""

from __future__ import annotations

import functools
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from truing import models
from truing.data import Sources, of_round, parts
from truing.errors import ConfigError, DataError, did_you_mean
from truing.models import sentence
from truing.recipe import RESERVED, DataSettings, LoopSpec, Recipe, StageSpec
from truing.records import Group
from truing.rounds import PREVIOUS, START, Round, round_seed
from truing.scoring import sandbox
from truing.scoring.principle import Principle
from truing.scoring.rules import file_of_function
from truing.scoring.scorers import Spec, named_in
from truing.signatures import Settings, validated
from truing.stages import Stage, inputs_of, product_of, settings_type, stage
from truing.stages.arranging import judged_rows, to_watch
from truing.stages.context import Earlier, Groups, Judges, Measurements, Model
from truing.stages.curate import Curate
from truing.stages.evaluate_reward import EvaluateReward, category_rows, comparable, demand_source
from truing.stages.measure import Measuring, WinRate
from truing.stages.online_settings import Online
from truing.stages.preference import Preference
from truing.stages.replies import Writing
from truing.stages.sample import Sample, to_prefer
from truing.stages.select import Select
from truing.stages.sft import Sft, arranged
from truing.store import hash_of
from truing.store.files import sha256_file

MADE = ("model", "reward", "data")
"""Kinds of what stages make and others take."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A stage with its settings and inputs in hand. The hash of a model made on the way stands for its making."""

    name: str
    use: str
    settings: Settings
    inputs: Mapping[str, Any]
    key: str
    seed: int
    round: Round | None = None


def plan(recipe: Recipe) -> list[Planned]:
    """Every stage with its inputs and key, those of loops once for each round. Finds the files and tells their formats,
    loads no weights.
    """
    sources = Sources()
    known: dict[str, Any] = {"principle": recipe.principle} if recipe.principle else {}
    if recipe.data:
        known |= sources.inputs(recipe.data, recipe.seed)
        known["recipe.data"] = known["data"]  # so that a later stage can name it when others have made data too
        if "held_out" in known:
            known["held_out.data"] = known["held_out"]  # so that answers can be drawn to it
    own = parts(recipe.data.splits, known["data"]) if recipe.data else {}
    source = models.locate(recipe.model)  # after the data, as it may take a while
    known["model"] = known["base"] = Model(models.content_hash(source), source)
    known["recipe.model"] = known["model"]  # so that a later stage can name it when others have made models too
    planning = _Planning(recipe, sources, _content_of(recipe.chat_template))
    whole = known.get("data")
    for spec in recipe.stage:
        part = own.get(spec.name)
        if isinstance(spec, StageSpec):
            known |= _with_name(spec.name, planning.add(spec, known, whole, part))
        elif part is None:
            known |= planning.add_loop(spec, known, own)
        else:
            begin = {**known, "data": _own_part(spec.name, known.get("data"), whole, part)}
            known |= planning.add_loop(spec, begin, own)
    return planning.planned


@dataclass(slots=True)
class _Planning:
    """A plan under way. models_made: the keys of all models so far. rounds: of all loops so far."""

    recipe: Recipe
    sources: Sources
    template: str
    planned: list[Planned] = field(default_factory=list)
    models_made: list[str] = field(default_factory=list)
    rounds: int = 0

    def add(
        self,
        spec: StageSpec,
        known: Mapping[str, Any],
        rows: Groups | None,
        part: Groups | None,
        round: Round | None = None,
    ) -> dict[str, Any]:
        """Plans a stage, and returns what it makes by its kind: nothing where that is a verdict.

        known: what inputs may be named, and by their kind those that are not named. rows: what stands for [data] here.
        part: the part of it that is this stage's own.
        """
        function = stage(spec.use)
        makes = product_of(function)
        settings = validated(settings_type(function), spec.settings, spec.name)
        wanted = _wanted(function, settings)
        judged = wanted.pop("judges", None) is not None
        own_known = {**known, **_encoder(settings, known), **_elsewhere(spec, settings)}
        inputs = _inputs(spec, wanted, own_known, self.sources)
        if isinstance(settings, WinRate) and inputs["model"].key == inputs["base"].key:
            raise ConfigError(
                f"{spec.name}: model and base are the same, and no model wins against itself: name another base, or "
                "put this stage behind the one that makes a model"
            )
        if judged:
            inputs["judges"] = _judges(spec.name, settings, _heard(spec.name, settings, known, inputs))
        if part is not None:
            inputs["data"] = _own_part(spec.name, inputs.get("data"), rows, part)
        recipe = self.recipe
        key = hash_of(
            spec.use, settings.model_dump(mode="json"),
            {n: input_key(v) for n, v in inputs.items()} | self.sources.hashes(_files(settings)),
            recipe.seed if round is None else [recipe.seed, self.rounds],
            recipe.precision, recipe.device, self.template,
            # Checkpoints are counted through the run, so the steps before them are part of what they are.
            self.models_made if makes in ("model", "reward") else [],
        )  # fmt: skip
        # What is measured in each round is measured with the same random numbers, or rounds could not be compared.
        alike = round is None or makes in ("measured", "verdict")
        seed = recipe.seed if alike else round_seed(recipe.seed, self.rounds)
        self.planned.append(Planned(spec.name, spec.use, settings, inputs, key, seed, round))
        if makes == "verdict":
            return {}
        if makes == "measured":
            before: Mapping[str, str] = known["measured"].keys if "measured" in known else {}
            return {"measured": Measurements({**before, spec.name: key})}
        if makes == "data":
            read = functools.partial(_not_yet, spec.name)
            return {"data": Groups(key, read, f"made by {spec.name}", ready=False)}
        self.models_made.append(key)
        scored = settings.scored if isinstance(settings, Preference) else None
        return {makes: Model(key, f"the model made by stage '{spec.name}'", scored=scored)}

    def add_loop(self, spec: LoopSpec, known: Mapping[str, Any], own: Mapping[str, Groups]) -> dict[str, Any]:
        """Plans all rounds of a loop. Returns what rounds and their stages made by their names, and by its kind what
        the last round made.
        """
        start = {kind: known[kind] for kind in MADE if kind in known}
        inside = {one.name for one in spec.stage}  # a name of the body means the stage of this round
        around = {name: value for name, value in known.items() if name.rpartition(".")[0] not in inside}
        found: dict[str, Any] = {}
        made: dict[str, Any] = {}
        carried: dict[str, Any] = {}
        earlier: dict[str, tuple[Groups, ...]] = {}
        last = start
        for number in range(1, spec.rounds + 1):
            self.rounds += 1
            round = Round(spec.name, number, spec.rounds)
            begin = {**start, **carried}
            if spec.rows == "split":
                begin["data"] = of_round(_ready(spec.name, begin.get("data")), round)
            scope = {**around, **found, **begin, **_named(START, start), **_named(PREVIOUS, last)}
            rows = begin.get("data")
            made = {}
            for one in spec.stage:
                part = own.get(f"{spec.name}.{one.name}")
                if part is not None and spec.rows == "split":
                    part = of_round(part, round)
                before = {"earlier": Earlier(earlier[one.name])} if one.name in earlier else {}
                for name, base in round.beside(one.name, one.inputs.get("base")).items():
                    inputs = {**one.inputs, "base": base} if base else one.inputs
                    named = one.model_copy(update={"name": name, "inputs": inputs})
                    new = self.add(named, {**scope, **before}, rows if rows and rows.ready else None, part, round)
                    if "data" in new:
                        earlier[one.name] = (*earlier.get(one.name, ()), new["data"])
                    scope |= _with_name(one.name, new)
                    found |= _named(name, new)
                    made |= new
            last = {**begin, **made}
            found |= _named(round.name, last)
            carried = {kind: made[kind] for kind in spec.carry}
        return {**found, **made}


def _named(owner: str, made: Mapping[str, Any]) -> dict[str, Any]:
    """What an owner made, as inputs are named: `sft.model`."""
    return {f"{owner}.{kind}": value for kind, value in made.items()}


def _with_name(owner: str, made: Mapping[str, Any]) -> dict[str, Any]:
    """What was made last of its kind, and the same by its owner's name."""
    return {**made, **_named(owner, made)}


def _own_part(owner: str, data: Groups | None, rows: Groups | None, part: Groups) -> Groups:
    """The part of [data] that is a stage's own, in the place of all its rows."""
    if rows is None or data is not rows:
        raise ConfigError(f"data.splits.{owner}: this stage does not take its rows from [data]: name one that does")
    return part


def _ready(loop: str, data: Groups | None) -> Groups:
    """The rows that are split over the rounds of a loop."""
    if data is None:
        raise ConfigError(f'{loop}: rows = "split" needs rows to split: set data.path to a file')
    if not data.ready:
        raise ConfigError(
            f'{loop}: rows = "split" splits rows that are there before the run, and those before the loop are '
            f"{data.description}: write the stage that makes them after the loop, or take rows out"
        )
    return data


def read_inputs(planned: Sequence[Planned]) -> None:
    """Reads all rows that are there already: a bad one, or too few, is told before anything loads or trains."""
    for stage_plan in planned:
        required = inputs_of(stage(stage_plan.use))
        for name, value in stage_plan.inputs.items():
            if isinstance(value, Groups) and value.ready and not value.read() and required[name]:
                raise DataError(
                    f"stage '{stage_plan.name}' has no row in '{name}' ({value.description}): {_why_empty(name, value)}"
                )
        _demand_usable(stage_plan)


def _why_empty(name: str, rows: Groups) -> str:
    if rows.bad:
        return f"all {len(rows.bad):,} rows were refused, the first: {rows.bad[0]}"
    return _FILL[name]


def nothing_held_out(planned: Planned) -> str:
    """The warning where rows were to be held out for a stage, and so few prompts gave none; else nothing."""
    held_out, data = planned.inputs.get("held_out"), planned.inputs.get("data")
    if not isinstance(held_out, Groups) or not isinstance(data, Groups) or not held_out.ready or held_out.read():
        return ""
    rows = f" of {len(data.read()):,} rows" if data.ready else ""
    return f"no row is held out: {held_out.description} gave none{rows}: raise data.held_out, or name a file"


def _demand_usable(planned: Planned) -> None:
    """Rows that the stage's objective cannot use."""
    settings = planned.settings
    for name, value in planned.inputs.items():
        if not isinstance(value, Groups) or not value.ready or name == "unlabelled":
            continue
        if isinstance(settings, Preference):
            objective, groups = settings.bound(), value.read()
            judged_rows(objective, groups if name == "data" else to_watch(objective, groups), settings.pairs)
        elif isinstance(settings, Sft) and name == "data":
            arranged(settings, value.read(), 0)
        elif isinstance(settings, Sample) and settings.data_answers == "prefer" and name == "data":
            to_prefer(value.read())
        elif isinstance(settings, Online) and name == "pretrain":
            arranged(Sft(), value.read(), 0)
        elif isinstance(settings, EvaluateReward):
            demand_source(planned.name, settings, comparable(settings, value.read()))
    if isinstance(settings, EvaluateReward):
        category_rows(settings)


def _files(settings: Settings) -> dict[str, str]:
    """Files that a stage's settings name: what is in them decides what it makes."""
    if isinstance(settings, EvaluateReward):
        return {f"categories.{name}": path for name, path in settings.categories.items()}
    if isinstance(settings, Curate):
        return {f"test_sets.{name}": path for name, path in settings.test_sets.items()}
    return {}


_FILL = {"data": "lower data.held_out, or give it more rows", "held_out": "raise data.held_out, or name a file"}


def _inputs(spec: StageSpec, wanted: Mapping[str, bool], known: Mapping[str, Any], sources: Sources) -> dict[str, Any]:
    """What a stage asks for, by name: what its `inputs` say, or the latest of that kind."""
    unknown = set(spec.inputs) - set(wanted)
    if unknown:
        name = sorted(unknown)[0]
        raise ConfigError(f"{spec.name}.{name}: stage '{spec.use}' has no such input{did_you_mean(name, wanted)}")
    found: dict[str, Any] = {}
    for name, required in wanted.items():
        given = spec.inputs.get(name)
        value = _named_input(name, given, known, spec, sources) if given else known.get(name)
        if value is None and required:
            raise ConfigError(f"stage '{spec.name}' needs '{name}': {_advice(name)}")
        if value is not None:
            found[name] = value
    if "reward" in found:
        models.demand_scored(found["reward"].source, found["reward"].scored, "answers")
    return found


def _named_input(name: str, given: str, known: Mapping[str, Any], spec: StageSpec, sources: Sources) -> Any:
    """An input by the name of the stage that made it, or by a path."""
    kind = {"model": "model", "base": "model", "reward": "reward"}.get(name, "data")
    made = known.get(f"{given}.{kind}")
    if made is not None:
        return made
    if given in RESERVED:
        raise ConfigError(f"{spec.name}.{name}: '{given}' has no {kind} here: name a stage that makes one, or a path")
    if kind != "data":
        source = models.locate(given, kind)
        if kind == "reward":
            models.demand_scores(source, "answers")
        return Model(models.content_hash(source), source)
    if Path(given).exists() or given.startswith("hub:"):
        return sources.inputs(DataSettings(path=given))["data"]
    raise ConfigError(f"{spec.name}.{name}: '{given}' is neither an earlier stage nor a file")


def _judges(stage_name: str, settings: Settings, known: Mapping[str, Any]) -> Judges:
    """What the scorers in a stage's settings name, found and hashed."""
    specs = scorers_in(settings)
    found = {name: _judge(stage_name, name, "answers", known) for spec in specs for name in named_in(spec, "model")}
    found |= {
        name: _judge(stage_name, name, "steps", known) for spec in specs for name in named_in(spec, "process_model")
    }
    language = {name: _writer(name, known) for spec in specs for name in named_in(spec, "language_model")}
    files = [Path(name) for spec in specs for name in named_in(spec, "file")]
    for spec in specs:
        for isolation in named_in(spec, "isolation"):
            sandbox.check(isolation)
        files += [file for name in named_in(spec, "function") if (file := file_of_function(name))]
    missing = next((file for file in files if not file.is_file()), None)
    if missing:
        raise ConfigError(f"{stage_name}: {missing}: no such file")
    keys = [{name: judge.key for name, judge in some.items()} for some in (found, language)]
    return Judges(hash_of(*keys, [sha256_file(file) for file in files]), found, language)


def scorers_in(settings: Settings) -> list[dict[str, Any]]:
    """The scorers that a stage's settings name."""
    return [spec for name, spec in settings if name in _scorers_of(type(settings)) and spec is not None]


@functools.cache
def _scorers_of(settings: type[Settings]) -> tuple[str, ...]:
    """The settings that are scorers."""
    hints = typing.get_type_hints(settings, include_extras=True)
    return tuple(name for name, hint in hints.items() if hint is Spec or Spec in typing.get_args(hint))


def _judge(stage_name: str, name: str, of: models.Scored, known: Mapping[str, Any]) -> Model:
    """The reward model that a scorer names: the last one, an earlier stage's, or one from elsewhere."""
    made: Model | None = known.get(f"{name}.reward") if name else known.get("reward")
    if made is not None:
        models.demand_scored(made.source, made.scored, of)
        return made
    if not name:
        raise ConfigError(
            f"stage '{stage_name}' scores with the recipe's reward model, and no stage before it makes one: name a "
            'reward model by scorer = { name = "reward_model", model = "FOLDER" }, or choose another scorer'
        )
    source = models.locate(name, "reward")
    models.demand_scores(source, of)
    return Model(models.content_hash(source), source)


def _heard(
    stage_name: str, settings: Settings, known: Mapping[str, Any], inputs: Mapping[str, Any]
) -> Mapping[str, Any]:
    """What scorers may name. Where answers of a model and its base are measured, a scorer that names no language model
    is given the recipe's: the latest one, which it has elsewhere, would judge its own answers.
    """
    if not isinstance(settings, Measuring):
        return known
    specs = scorers_in(settings)
    judge = known["recipe.model"]
    if any("" in named_in(spec, "language_model") for spec in specs):
        own = next((name for name in ("model", "base") if inputs[name].key == judge.key), None)
        if own:
            raise ConfigError(
                f"{stage_name}.scorer: it names no model to judge, and the recipe's is the {own} that is measured here "
                "and would judge its own answers: set model in the scorer's table to another one, by its folder or by "
                "the stage that makes it"
            )
    return {**known, "model": judge}


def _writer(name: str, known: Mapping[str, Any]) -> Model:
    """The language model that a scorer names: the last one, an earlier stage's, or one from elsewhere."""
    made = known.get(f"{name}.model") if name else known["model"]
    if made is not None:
        return made  # type: ignore[no-any-return]
    source = models.locate(name)
    return Model(models.content_hash(source), source)


def _encoder(settings: Settings, known: Mapping[str, Any]) -> dict[str, Model]:
    """The model by whose view of rows a stage tells which are alike, where it asks for one."""
    if not isinstance(settings, Select) or settings.similarity == "none":
        return {}
    name = sentence.installed() if settings.embeddings == "auto" else settings.embeddings
    return {"encoder": _writer(name, known)}


def _wanted(function: Stage, settings: Settings) -> dict[str, bool]:
    """What a stage asks for, and whether it must have it: a reward model where no other scorer is measured."""
    wanted = inputs_of(function)
    if isinstance(settings, EvaluateReward) and settings.scorer is None:
        wanted["reward"] = True
    return wanted


def _elsewhere(spec: StageSpec, settings: Settings) -> dict[str, None]:
    """Where an endpoint writes or a scorer is measured, the run's own model is no part of what the stage makes."""
    if isinstance(settings, EvaluateReward) and settings.scorer is not None:
        if "reward" in spec.inputs:
            raise ConfigError(f"{spec.name}: 'reward' and 'scorer' both say what is measured: take one of them out")
        return {"reward": None}
    if not isinstance(settings, Writing) or settings.endpoint is None:
        return {}
    if "model" in spec.inputs:
        raise ConfigError(f"{spec.name}: 'model' and 'endpoint' both say who writes: take one of them out")
    return {"model": None}


def _not_yet(name: str) -> list[Group]:
    raise ConfigError(f"stage '{name}' has not run yet")


def input_key(value: Any) -> str:
    """The hash of what a stage is given."""
    return hash_of(value.model_dump()) if isinstance(value, Principle) else str(value.key)


def _advice(name: str) -> str:
    return {
        "data": "set data.path to a file, or put a stage before it that makes data",
        "also": 'name the stage whose rows are to come after those of `data`, or "recipe"',
        "held_out": "set data.held_out to a share or a file",
        "reward": "put a stage 'reward_model' before it, or name the folder of a reward model",
        "measured": "put stages before it that measure, such as measure, refusals or perplexity",
        "principle": "add a [principle] with text, positive and negative",
    }.get(name, f"set {name}")


def _content_of(template: str | None) -> str:
    """The hash of a chat template's file: what it says decides what a stage makes, not where it lies."""
    if template is None:
        return ""
    if not Path(template).is_file():
        raise ConfigError(f"chat_template: {template}: no such file: give the path of a Jinja template")
    return sha256_file(Path(template))
