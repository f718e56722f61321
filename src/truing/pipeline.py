"""Runs a recipe: opens its folder, walks its stages, skips what is done, and writes the report."""

from __future__ import annotations

import functools
import hashlib
import platform
import signal
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

import psutil
import torch
from rich.console import Console

from truing import formats
from truing.compute import machine, seed_everything
from truing.compute.ranks import LostRankError, Ranks, joined, own_device
from truing.errors import ConfigError, Interrupted, MissingError
from truing.estimates import check
from truing.models import content_hash, locate
from truing.objectives import Kind, bind
from truing.planning import Planned, input_key, nothing_held_out, plan, read_inputs
from truing.progress import Reporter
from truing.recipe import Recipe, device_of, make_recipe, read_recipe
from truing.rounds import Round
from truing.stages import product_of, settings_type, stage
from truing.stages.context import Context, Earlier, Groups, Judges, Model, Stop
from truing.stages.rollouts import forget
from truing.stages.training import Updates, peak_memory
from truing.store import Artifact, FollowedRun, Run, StoreWarning

__all__ = ["Planned", "Recipe", "check", "last_verdict", "make_recipe", "plan", "read_recipe", "run_recipe"]

JUDGED: dict[Kind, str] = {"pair": "comparisons", "ranking": "rankings", "answer": "answers", "step": "steps"}
"""What the held-out accuracy of an objective is a share of."""
PACKAGES = ("truing", "torch", "transformers", "tokenizers", "peft", "safetensors", "numpy")
"""Those whose versions may change a result."""

if sys.platform == "win32":
    raise MissingError("Truing runs on Linux and macOS: use WSL on Windows")


def run_recipe(
    recipe: Recipe, *, recipe_text: str = "", out: Path | None = None, reporter: Reporter | None = None
) -> Path:
    """Walks the recipe's stages in a run folder, goes on where it was stopped, and writes the report.

    Of processes that `torchrun` started every one calls this; the first writes and speaks for all.
    """
    resolved = recipe.resolved()
    folder = out or Path("runs") / f"{recipe.name}-{hashlib.sha256(resolved.encode()).hexdigest()[:6]}"
    device = own_device(device_of(recipe.device))
    with joined(device) as ranks:
        if ranks.rank:
            reporter = Reporter(Console(quiet=True))
        _run(recipe, recipe_text or resolved, folder, device, reporter or Reporter(), ranks)
    return folder


def _run(
    recipe: Recipe, recipe_text: str, folder: Path, device: torch.device, reporter: Reporter, ranks: Ranks
) -> None:
    resolved = recipe.resolved()
    planned = plan(recipe)
    _demand_outside(planned, folder)
    read_inputs(planned)
    machine.keep_freed_memory()
    seed_everything(recipe.seed)
    with _stoppable(reporter) as stop:
        if ranks.rank:
            ranks.wait()  # until the first one has opened the run
            try:
                _walk(recipe, planned, FollowedRun.read(folder), device, reporter, stop, ranks)
            except LostRankError:
                if stop.requested:  # so was the first one, which need not have waited for this one
                    raise Interrupted("stopped with the first rank: run the same command again to go on") from None
                raise
            return
        with Run.open(folder, recipe=recipe_text, resolved=resolved, info=_info(recipe, device, ranks)) as run:
            aside = run.supersede({stage_plan.key for stage_plan in planned})
            if aside:
                names = ", ".join(str(path.relative_to(run.path)) for path in aside)
                reporter.say(f"other settings or data had made what lies now in {names}: remove it if it is not needed")
            ranks.wait()
            _walk(recipe, planned, run, device, reporter, stop, ranks)
            _write_cards(run)
    from truing import report

    page = report.build(folder)
    reporter.say(f"report: {page}")


def last_verdict(folder: Path) -> str | None:
    """The verdict of a run's last evaluation."""
    found = [a.meta["verdict"] for a in Run.read(folder).artifacts() if "verdict" in a.meta]
    return str(found[-1]) if found else None


def missing_verdict(folder: Path) -> str:
    """The stage that would have given a verdict on what the run made last."""
    made = [a.meta for a in Run.read(folder).artifacts() if "model" in a.meta or "reward" in a.meta]
    return "evaluate_reward" if made and "reward" in made[-1] else "evaluate"


def held_out_lines(folder: Path) -> list[str]:
    """What each preference stage measured on held-out rows after its last step."""
    run = Run.read(folder)
    settings = {event["stage"]: event["settings"] for event in run.events(kind="start")}
    last: dict[str, str] = {}
    for event in run.events(kind="held_out"):
        found = event.get("accuracy")
        if found and event["step"] > 0:
            interval = f"{100 * found['value']:.0f} % [{100 * found['low']:.0f}, {100 * found['high']:.0f}]"
            of = JUDGED[bind(settings[event["stage"]]["objective"]).kind]
            last[event["stage"]] = f"{event['stage']}: held-out accuracy {interval} on {found['n']:,} {of}"
    return list(last.values())


def _walk(
    recipe: Recipe,
    planned: Sequence[Planned],
    run: Run,
    device: torch.device,
    reporter: Reporter,
    stop: Stop,
    ranks: Ranks,
) -> None:
    """One stage after the other, each with what earlier ones made."""
    made: dict[str, Model | Groups] = {}
    first_step = 0
    round: Round | None = None
    for stage_plan in planned:
        if stage_plan.round and stage_plan.round != round:
            reporter.say(f"{stage_plan.round.loop}: {stage_plan.round}")
        round = stage_plan.round
        context = Context(
            run=run,
            stage=stage_plan.name,
            key=stage_plan.key,
            seed=stage_plan.seed,
            device=device,
            precision=recipe.precision,
            reporter=reporter,
            first_step=first_step,
            chat_template=Path(recipe.chat_template) if recipe.chat_template else None,
            stop=stop,
            ranks=ranks,
        )
        with _damage_told(context):
            artifact = _run_stage(context, stage_plan, made)
        first_step += int(artifact.meta.get("steps", 0))
        made |= _made(run, artifact)


@contextmanager
def _damage_told(context: Context) -> Iterator[None]:
    """What the store finds damaged stands in the report too, not on the terminal alone."""
    shown = warnings.showwarning

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        shown(message, category, filename, lineno, file, line)
        if isinstance(message, StoreWarning):
            context.event("warning", message=str(message))

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = shown


def _demand_outside(planned: Sequence[Planned], folder: Path) -> None:
    """A run must not start from a model in its own folder, which it would put aside or write over."""
    for stage_plan in planned:
        for name, value in stage_plan.inputs.items():
            local = isinstance(value, Model) and Path(value.source).is_dir()
            if local and Path(value.source).resolve().is_relative_to(folder.resolve()):
                raise ConfigError(
                    f"{stage_plan.name}.{name}: {value.source} lies in the run's own folder: choose another --out"
                )


def _run_stage(context: Context, planned: Planned, made: Mapping[str, Model | Groups]) -> Artifact:
    """What a stage makes; it runs unless its artifact is there already.

    made: what earlier stages made, by key; it takes the place of what the plan could only name.
    """
    if context.is_made():
        context.reporter.say(f"{context.stage}: done before")
        if context.ranks.rank == 0 and _unfinished(context):  # a kill came between the artifact and the event
            context.run.tidy(context.key)
            forget(context)
            context.event("end", seconds=_seconds_spent(context), peak_memory_bytes=None)
        return _artifact(context)
    if context.agree_to_stop():
        context.leave()
    keys = {name: input_key(value) for name, value in planned.inputs.items()}
    before = _seconds_spent(context)
    under = _under(context)
    if other := _other(context.run, under):
        context.warn(f"this run goes on under {other}: the result will be as good, but not the same to the bit")
    where: dict[str, Any] = {"round": asdict(planned.round)} if planned.round else {}
    context.event(
        "start",
        settings=planned.settings.model_dump(mode="json"),
        inputs=keys,
        key=context.key,
        seconds_before=before,
        under=under,
        **where,
    )
    began = time.monotonic()
    inputs = {name: _found(value, keys[name], made) for name, value in planned.inputs.items()}
    if unwatched := nothing_held_out(planned):
        context.warn(f"{context.stage}: {unwatched}")
    if is_dealt_out(planned.use):
        stage(planned.use)(context, planned.settings, **inputs)
    else:
        context.first_makes(context.key, lambda alone: stage(planned.use)(alone, planned.settings, **inputs))
    context.event("end", seconds=before + time.monotonic() - began, peak_memory_bytes=peak_memory())
    return _artifact(context)


def is_dealt_out(name: str) -> bool:
    """Whether all ranks run this stage, as they do where a model is trained; else the first does for all."""
    trains = issubclass(settings_type(stage(name)), Updates)
    return trains and product_of(stage(name)) in ("model", "reward")


def _artifact(context: Context) -> Artifact:
    found = context.run.artifact(context.key)
    assert found is not None, f"stage '{context.stage}' made nothing"
    return found


def _under(context: Context) -> dict[str, str]:
    """What decides the last bit of a result beside recipe, data and model."""
    device = context.device
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    processes = {"threads": str(torch.get_num_threads()), "ranks": str(context.ranks.count)}
    return processes | {"device": f"{device.type} ({kind})", **_versions()}


def _other(run: Run, under: Mapping[str, str]) -> str:
    """How that differs from what the last stage began under, in words; nothing where it does not."""
    before: dict[str, str] = {}
    for event in run.events(kind="start"):
        before = event.get("under", {})
    found = [f"{name} {new}, not {before[name]}" for name, new in under.items() if before.get(name, new) != new]
    return "; ".join(found)


def _found(value: Any, key: str, made: Mapping[str, Any]) -> Any:
    """An input, of which the plan may have known only the key."""
    if isinstance(value, Judges):
        models, language = (
            {name: made.get(judge.key, judge) for name, judge in some.items()}
            for some in (value.models, value.language)
        )
        return Judges(key, models, language)
    if isinstance(value, Earlier):
        return Earlier(tuple(made.get(rows.key, rows) for rows in value.rounds))
    return made.get(key, value)


def _unfinished(context: Context) -> bool:
    """Whether the stage's last word is that it started."""
    said = [event["kind"] for event in context.run.events(context.stage) if event["kind"] in ("start", "end")]
    return bool(said) and said[-1] == "start"


def _seconds_spent(context: Context) -> float:
    """Seconds of all sessions of a stage so far: of each from its start to the last sign of it, event or artifact."""
    spent = began = last = 0.0
    for event in context.run.events(context.stage):
        if event["kind"] == "start":
            spent, began = float(event.get("seconds_before", 0.0)), float(event["time"])
        last = float(event["time"])
    created = [artifact.created for artifact in context.run.artifacts() if artifact.stage == context.stage]
    return spent + max([last, *created]) - began if began else 0.0


def _made(run: Run, artifact: Artifact) -> dict[str, Model | Groups]:
    """What an artifact is to later stages, by its key."""
    for kind in ("model", "reward"):
        if kind in artifact.meta:
            members = tuple(str(run.path.absolute() / name) for name in artifact.meta.get("members", ()))
            return {artifact.key: Model(artifact.key, str(run.path.absolute() / str(artifact.meta[kind])), members)}
    if "groups" in artifact.meta:
        file = artifact.path / str(artifact.meta["groups"])
        read = functools.cache(lambda: formats.read_groups(file, format="group"))
        return {artifact.key: Groups(artifact.key, read, f"made by {artifact.stage}")}
    return {}


def _info(recipe: Recipe, device: torch.device, ranks: Ranks) -> dict[str, Any]:
    """Versions and machine, for the report and for whoever reproduces the run."""
    return {
        "name": recipe.name,
        "model": recipe.model,
        "model_key": content_hash(locate(recipe.model)),
        "seed": recipe.seed,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version(), **_versions()},
        "machine": {
            "cpu": platform.processor() or platform.machine(),
            "cores": psutil.cpu_count(logical=False),
            "memory_bytes": psutil.virtual_memory().total,
            "threads": torch.get_num_threads(),
            "ranks": ranks.count,
            "device": str(device),
        },
    }


def _versions() -> dict[str, str]:
    return {name: version(name) for name in PACKAGES}


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


def _write_cards(run: Run) -> None:
    from truing.models.card import write_card

    for checkpoint in run.checkpoints():
        if checkpoint.meta.get("finished"):
            write_card(run, checkpoint)
