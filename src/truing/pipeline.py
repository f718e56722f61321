"""From a recipe to a run: read it, check it before anything loads, walk its stages, skip what is done."""

from __future__ import annotations

import functools
import hashlib
import platform
import signal
import sys
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import psutil
import tomli_w
import torch
from pydantic import Field

from truing import formats, models
from truing.compute import seed_everything
from truing.errors import ConfigError, DataError, MissingError, TruingError, did_you_mean
from truing.models.precision import Precision, best_device
from truing.progress import Reporter
from truing.records import Group
from truing.scoring.principle import Principle
from truing.signatures import Settings, validated
from truing.stages import inputs_of, settings_type, stage
from truing.stages.context import Context, Groups, Model, Stop
from truing.stages.training import Count, peak_memory
from truing.store import Artifact, Run, hash_of

INPUT_NAMES = ("model", "base", "data", "held_out")


class DataSettings(Settings):
    """Where the data of a recipe come from."""

    path: str = Field(description="a file, or hub:owner/name:split")
    format: str | None = Field(None, description="name of the format; none: found out")
    held_out: Annotated[float, Field(ge=0, lt=1)] | str = Field(
        0.0, description="share of the prompts kept out for evaluation, or a file of them"
    )
    limit: Count | None = Field(None, description="read only so many rows")
    max_bad: int = Field(0, ge=0, description="bad rows that are tolerated and left out")


class StageSpec(Settings):
    """One stage of a recipe: which, under what name, with which inputs and settings."""

    use: str
    name: str
    inputs: dict[str, str]
    settings: dict[str, Any]


class Recipe(Settings):
    """Everything that decides what a run does."""

    name: str = "run"
    model: str = Field(description="smollm2, a model folder, a run folder, or a hub id")
    chat_template: str | None = Field(None, description="a Jinja file used instead of the model's own template")
    seed: int = Field(0, ge=0)
    device: str = Field("auto", description="auto, cpu, cuda, ...")
    precision: Precision = Field("auto", description="dtype of compute; trained weights are always kept in fp32")
    data: DataSettings | None = None
    principle: Principle | None = None
    stage: tuple[StageSpec, ...]

    def resolved(self) -> str:
        """The recipe with every default spelled out, as TOML: a recipe itself, which means the same."""
        table = self.model_dump(mode="json")
        table["stage"] = [{"use": s.use, "name": s.name, **s.inputs, **s.settings} for s in self.stage]
        return tomli_w.dumps(_without_none(table))


@dataclass(frozen=True, slots=True)
class Planned:
    """A stage with its settings and inputs in hand. The hash of a model made on the way stands for its making."""

    name: str
    use: str
    settings: Settings
    inputs: Mapping[str, Any]
    key: str
    done: bool


def read_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe file with `key=value` overrides. Paths in the file are relative to it, those in overrides to here."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        known = [str(p) for p in sorted(path.parent.glob("*.toml"))] if path.parent.is_dir() else []
        raise ConfigError(f"{path}: no such recipe{did_you_mean(str(path), known) if known else ''}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    table.setdefault("name", path.stem)
    _make_absolute(table, path.parent)
    return make_recipe(table, overrides)


def make_recipe(table: dict[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """A recipe from a table as TOML gives it."""
    entries = table.get("stage", [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ConfigError("stages are written [[stage]], with two brackets each, one after the other")
    stages = [_with_name(dict(entry)) for entry in entries]
    if not stages:
        raise ConfigError('the recipe has no [[stage]]: add at least one, such as use = "sft"')
    names = [entry["name"] for entry in stages]
    if len(set(names)) < len(names):
        raise ConfigError(
            f"two stages are named '{next(n for n in names if names.count(n) > 1)}': give them a name each"
        )
    table = {**table, "stage": stages}
    for override in overrides:
        _override(table, override)
    table["stage"] = [_stage_spec(entry) for entry in table["stage"]]
    recipe: Recipe = validated(Recipe, table, "")
    return recipe


def plan(recipe: Recipe, run: Run | None = None) -> list[Planned]:
    """Every stage with its inputs and key. Reads and checks the data, loads no weights."""
    principle = recipe.principle
    known: dict[str, Any] = {"principle": principle} if principle else {}
    source = models.locate(recipe.model)
    known["model"] = known["base"] = Model(models.content_hash(source), source)
    if recipe.data:
        known |= _data_inputs(recipe.data)
    planned: list[Planned] = []
    for spec in recipe.stage:
        function = stage(spec.use)
        inputs = _inputs(spec, inputs_of(function), known)
        settings = validated(settings_type(function), spec.settings, spec.name)
        key = hash_of(
            spec.use, settings.model_dump(mode="json"), {n: _input_key(v) for n, v in inputs.items()},
            recipe.seed, recipe.precision, recipe.device, recipe.chat_template or "",
        )  # fmt: skip
        artifact = run.artifact(key) if run else None
        planned.append(Planned(spec.name, spec.use, settings, inputs, key, artifact is not None))
        known |= _outputs(spec, key, artifact, run)
    return planned


def run_recipe(
    recipe: Recipe, *, recipe_text: str = "", out: Path | None = None, reporter: Reporter | None = None
) -> Path:
    """Walks the recipe's stages in a run folder, goes on where it was stopped, and writes the report."""
    reporter = reporter or Reporter()
    resolved = recipe.resolved()
    folder = out or Path("runs") / f"{recipe.name}-{hashlib.sha256(resolved.encode()).hexdigest()[:6]}"
    device = _device(recipe.device)
    seed_everything(recipe.seed)
    with Run.open(folder, recipe=recipe_text or resolved, resolved=resolved, info=_info(recipe, device)) as run:
        with _stoppable(reporter) as stop:
            for place in range(len(recipe.stage)):
                planned = plan(recipe, run)
                if place == 0:
                    _read_held_out(planned)
                done = [run.artifact(earlier.key) for earlier in planned[:place]]
                first_step = sum(int(artifact.meta.get("steps", 0)) for artifact in done if artifact)
                _run_stage(planned[place], first_step, recipe, run, device, reporter, stop)
        _write_cards(run)
    from truing import report

    page = report.build(folder)
    reporter.say(f"report: {page}")
    return folder


def last_verdict(folder: Path) -> str | None:
    """The verdict of a run's last evaluation."""
    found = [a.meta["verdict"] for a in Run.read(folder).artifacts() if "verdict" in a.meta]
    return str(found[-1]) if found else None


def check(recipe: Recipe, planned: Sequence[Planned]) -> dict[str, Any]:
    """What a plan can know before anything runs: rows and tokens of the data, memory and time, roughly.

    Raises the error that the run would meet: a template that refuses the data, rows without a scored token.
    """
    source = models.locate(recipe.model)
    renderer = models.read_renderer(source, Path(recipe.chat_template) if recipe.chat_template else None)
    facts: dict[str, Any] = {"model": source, "parameters": _parameters(source)}
    data = next((p.inputs["data"] for p in planned if isinstance(p.inputs.get("data"), Groups)), None)
    if data is not None and not data.description.startswith("made by"):
        rows = [renderer.render(group, index) for index, group in enumerate(data.read())]
        facts |= {"data": data.description, "rows": len(rows), "tokens": sum(len(row) for row in rows)}
    _read_held_out(planned)
    facts |= _estimates(facts, planned, recipe)
    return facts


def _read_held_out(planned: Sequence[Planned]) -> None:
    """Held-out rows that cannot be used, such as those that are trained on, are told before anything trains."""
    for stage_plan in planned:
        if "held_out" in stage_plan.inputs:
            stage_plan.inputs["held_out"].read()


def _run_stage(
    planned: Planned,
    first_step: int,
    recipe: Recipe,
    run: Run,
    device: torch.device,
    reporter: Reporter,
    stop: Stop,
) -> None:
    """One stage, unless its artifact is there already."""
    if planned.done:
        reporter.say(f"{planned.name}: done before")
        return
    context = Context(
        run=run,
        stage=planned.name,
        key=planned.key,
        seed=recipe.seed,
        device=device,
        precision=recipe.precision,
        reporter=reporter,
        first_step=first_step,
        chat_template=Path(recipe.chat_template) if recipe.chat_template else None,
        stop=stop,
    )
    context.check_stop()
    inputs = {name: _input_key(value) for name, value in planned.inputs.items()}
    context.event("start", settings=planned.settings.model_dump(mode="json"), inputs=inputs, key=planned.key)
    began = time.monotonic()
    stage(planned.use)(context, planned.settings, **planned.inputs)
    context.event("end", seconds=time.monotonic() - began, peak_memory_bytes=peak_memory(), reused=False, result={})


def _data_inputs(data: DataSettings) -> dict[str, Groups]:
    """Training rows and held-out rows, split by prompt so that no prompt is in both."""
    content = formats.content_hash(data.path)
    bad: list[str] = []

    @functools.lru_cache(maxsize=1)
    def read() -> list[Group]:
        return formats.read_groups(
            data.path,
            format=data.format,
            max_bad=data.max_bad,
            limit=data.limit,
            on_bad=lambda row: bad.append(str(row)),
        )

    about = formats.open_data(data.path, format=data.format).description
    identity = hash_of(content, data.model_dump(mode="json", exclude={"path"}))
    if isinstance(data.held_out, str):
        other = data.held_out
        kept = functools.lru_cache(maxsize=1)(lambda: _without_leak(read(), formats.read_groups(other)))
        return {
            "data": Groups(identity, read, about, bad),
            "held_out": Groups(hash_of(formats.content_hash(other)), kept, f"held out: {Path(other).name}"),
        }
    share = data.held_out
    found = {"data": Groups(identity, lambda: [g for g in read() if not _is_held_out(g, share)], about, bad)}
    if share:
        found["held_out"] = Groups(
            hash_of(identity, "held out"), lambda: [g for g in read() if _is_held_out(g, share)], f"held out of {about}"
        )
    return found


def _is_held_out(group: Group, share: float) -> bool:
    """Decided by the prompt, or the text where there is none: order plays no part, and equals stay together."""
    return int.from_bytes(_prompt_hash(group)[:8], "big") < share * 2**64


def _prompt_hash(group: Group) -> bytes:
    messages = group.prompt or [message for answer in group.completions for message in answer.messages]
    text = "\x00".join(f"{message.role}\x01{message.content}" for message in messages)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _without_leak(train: Sequence[Group], held_out: list[Group]) -> list[Group]:
    seen = {_prompt_hash(group) for group in train}
    for group in held_out:
        if _prompt_hash(group) in seen:
            raise DataError(f"{group.place}: this held-out prompt is also in the training data: remove it from one")
    return held_out


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
        return _data_inputs(DataSettings(path=given))["data"]
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


def _input_key(value: Any) -> str:
    return hash_of(value.model_dump()) if isinstance(value, Principle) else str(value.key)


def _advice(name: str) -> str:
    return {
        "data": "set data.path to a file, or put a stage before it that makes data",
        "held_out": "set data.held_out to a share or a file",
        "principle": "add a [principle] with text, positive and negative",
    }.get(name, f"set {name}")


def _with_name(entry: dict[str, Any]) -> dict[str, Any]:
    if "use" not in entry:
        raise ConfigError('a [[stage]] says which one it is by use = "...": sft, preference, ...')
    stage(str(entry["use"]))
    entry.setdefault("name", entry["use"])
    return entry


def _stage_spec(entry: dict[str, Any]) -> dict[str, Any]:
    """A stage's table, sorted into inputs and settings, the settings checked and spelled out."""
    function = stage(entry["use"])
    inputs = {name: entry.pop(name) for name in INPUT_NAMES if name in inputs_of(function) and name in entry}
    use, name = entry.pop("use"), entry.pop("name")
    settings = validated(settings_type(function), entry, name)
    return {"use": use, "name": name, "inputs": inputs, "settings": settings.model_dump(mode="json")}


def _override(table: dict[str, Any], override: str) -> None:
    """Sets `a.b.c=value`, where `a` is a setting of the recipe or the name of a stage; the value is TOML or text."""
    path, equals, text = override.partition("=")
    if not equals:
        raise ConfigError(f"'{override}': write key=value, for example preference.learning_rate=1e-6")
    first, *rest = path.strip().split(".")
    stages = {entry["name"]: entry for entry in table["stage"]}
    if first in stages and rest:
        target, keys = stages[first], rest
    elif first in Recipe.model_fields and first != "stage":
        target, keys = table, [first, *rest]
    else:
        raise ConfigError(
            f"'{first}' is neither a setting nor a stage{did_you_mean(first, [*Recipe.model_fields, *stages])}"
        )
    for key in keys[:-1]:
        value = target.get(key)
        if value is not None and not isinstance(value, str | dict):
            raise ConfigError(f"'{override}': '{key}' is {value!r} and has no settings of its own")
        target[key] = {"name": value} if isinstance(value, str) else dict(value or {})
        target = target[key]
    target[keys[-1]] = _toml_value(text)


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _make_absolute(table: dict[str, Any], folder: Path) -> None:
    """Files beside a recipe are meant relative to it."""
    places = [(table, "chat_template"), (table, "model")]
    if isinstance(table.get("data"), dict):
        places += [(table["data"], "path"), (table["data"], "held_out")]
    stages = table.get("stage")
    for entry in stages if isinstance(stages, list) else []:
        if isinstance(entry, dict):
            places += [(entry, key) for key in INPUT_NAMES]
    for owner, key in places:
        value = owner.get(key)
        if isinstance(value, str) and (folder / value).exists():
            owner[key] = str((folder / value).resolve())


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list) else value


def _device(name: str) -> torch.device:
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


def _info(recipe: Recipe, device: torch.device) -> dict[str, Any]:
    """Versions and machine, for the report and for whoever reproduces the run."""
    packages = ("truing", "torch", "transformers", "tokenizers", "peft", "safetensors", "numpy")
    return {
        "name": recipe.name,
        "model": recipe.model,
        "seed": recipe.seed,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "machine": {
            "cpu": platform.processor() or platform.machine(),
            "cores": psutil.cpu_count(logical=False),
            "memory_bytes": psutil.virtual_memory().total,
            "threads": torch.get_num_threads(),
            "device": str(device),
        },
    }


@contextmanager
def _stoppable(reporter: Reporter) -> Iterator[Stop]:
    """Ctrl-C and SIGTERM ask the stage to stop at the next safe place; a second one stops at once."""
    stop = Stop()

    def ask(*_: object) -> None:
        if stop.requested:
            raise KeyboardInterrupt
        stop.requested = True
        reporter.say("stopping at the next safe place; once more to stop at once")

    kept = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            kept[number] = signal.signal(number, ask)
    except ValueError:  # not the main thread: whoever runs us there stops us by other means
        pass
    try:
        yield stop
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def _parameters(source: str) -> int:
    """Weights of a model, counted without loading it."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(models.read_config(source))
    return sum(weight.numel() for weight in model.parameters())


def _estimates(facts: Mapping[str, Any], planned: Sequence[Planned], recipe: Recipe) -> dict[str, Any]:
    """Rough memory of training, and time at a third of the matrix rate measured just now."""
    from truing.models.precision import compute_dtype
    from truing.stages.training import Training

    device = _device(recipe.device)
    dtype = compute_dtype(recipe.precision, device)
    rate = _matrix_rate(device, dtype)
    weights = facts["parameters"]
    memory = seconds = 0.0
    for stage_plan in planned:
        settings = stage_plan.settings
        if not isinstance(settings, Training):
            continue
        trained = weights // 50 if settings.lora else weights
        wide = 0 if dtype == torch.float32 else 4
        config = models.read_config(facts["model"]).get_text_config()
        activations = settings.forest_tokens * config.num_hidden_layers * 40 * config.hidden_size * dtype.itemsize
        memory = max(memory, weights * dtype.itemsize + trained * (12 + wide) + activations)
        seconds += 8 * weights * facts.get("tokens", 0) * settings.epochs / (rate / 3)
    return {"matrix_rate": rate, "dtype": str(dtype).removeprefix("torch."), "memory_bytes": memory, "seconds": seconds}


def _matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of one large matrix product, measured for a moment."""
    left = torch.ones(1024, 1024, dtype=dtype, device=device)
    best = 0.0
    for _ in range(5):
        began = time.perf_counter()
        float((left @ left)[0, 0])
        best = max(best, 2 * 1024**3 / (time.perf_counter() - began))
    return best


def _write_cards(run: Run) -> None:
    from truing.models.card import write_card

    for checkpoint in run.checkpoints():
        if checkpoint.meta.get("finished"):
            write_card(run, checkpoint)


def describe_error(error: BaseException) -> tuple[str, int]:
    """The words for the user and the exit code of whatever went wrong."""
    if isinstance(error, TruingError):
        return str(error), error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return "stopped at once: the same command goes on from the last checkpoint", 75
    if isinstance(error, OSError):
        return f"{error.filename or ''}: {error.strerror or error}", 74
    return f"a bug in Truing: {type(error).__name__}: {error}", 1


if sys.platform == "win32":
    raise MissingError("Truing runs on Linux and macOS: use WSL on Windows")
