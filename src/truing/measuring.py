"""What a plan knows after a few real optimizer steps: seconds and memory, fitted at two sizes of a forest.

Every size runs in a process of its own, `python -m truing.measuring FOLDER`: the stage itself, on a few rows, in a
folder that is removed afterwards. It is left after its last step, before anything is saved.
"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from scipy.optimize import nnls

from truing import formats, models
from truing.compute import machine
from truing.costs import USABLE, Lengths, Load, Shape, Weights, free_memory, logit_bytes, operations, token_bytes
from truing.errors import MissingError, TruingError, describe_error
from truing.estimates import training_rows
from truing.models.precision import compute_dtype
from truing.packing import pack
from truing.planning import Planned
from truing.progress import Reporter, Task
from truing.recipe import Recipe, device_of
from truing.records import TEXT_ROLE, Completion, Group, Message, comparison
from truing.rendering import Renderer, Row
from truing.signatures import validated
from truing.stages import settings_type, stage
from truing.stages.context import Context, Groups, Model
from truing.stages.preference import Preference
from truing.stages.sample import Contrast, Sample, bare
from truing.stages.training import LOOKED_AT, Training, largest_forest, peak_memory, step_count, step_rows
from truing.store import Run

EPOCHS = 2
"""Passes of a probe over its rows, each of a long and a short step. The first step of all warms up."""
LEAST = 256
"""The smallest forest budget that is proposed, which powers of two multiply."""
MOST = 2**20
DRAWN = 256
"""Rows that are made up where an earlier stage has yet to write them."""


class Probe(NamedTuple):
    """What one process measured: its steps with their work, the pass of the reference, and bytes at most.

    loading: before the first pass. training: since then.
    """

    steps: list[Work]
    seconds: list[float]
    reference: tuple[float, float]
    load: Load
    loading: float
    training: float
    checkpointing: bool


class Work(NamedTuple):
    """A step's forests, and the FLOPs of one forward pass over them."""

    forests: int
    operations: float


@dataclass(frozen=True, slots=True)
class Speed:
    """seconds of a step = once + forest * forests + operation * FLOPs of a forward pass."""

    once: float
    forest: float
    operation: float

    def seconds(self, work: Work) -> float:
        """Of one step."""
        return self.once + self.forest * work.forests + self.operation * work.operations


@dataclass(frozen=True, slots=True)
class Room:
    """bytes = max(loading, base + token * tokens + logits), the logits by formula."""

    loading: float
    base: float
    token: float
    shape: Shape
    itemsize: int

    def peak(self, load: Load, saved: float = 1.0) -> float:
        """The most that is held at forests of this size. saved: share of a token's bytes that is still kept."""
        logits = logit_bytes(self.shape, self.itemsize, load.scored)
        return max(self.loading, self.base + saved * self.token * load.tokens + logits)


def fit_speed(steps: Sequence[Work], seconds: Sequence[float]) -> Speed:
    """Least squares of relative errors; nothing takes less than no time."""
    table = np.array([[1.0, work.forests, work.operations] for work in steps])
    scale = table.max(axis=0)
    found, _ = nnls(table / scale / np.array(seconds)[:, None], np.ones(len(steps)))
    return Speed(*(float(value) for value in found / scale))


def fit_room(probes: Sequence[Probe], shape: Shape, itemsize: int, token: float) -> Room:
    """Through two forests of different size. token: bytes of a token by formula, where the two are of one size."""
    first, last = min(probes, key=lambda p: p.load.tokens), max(probes, key=lambda p: p.load.tokens)
    held = [p.training - logit_bytes(shape, itemsize, p.load.scored) for p in (first, last)]
    apart = last.load.tokens - first.load.tokens
    each = max(0.0, (held[1] - held[0]) / apart) if apart >= LEAST else token
    return Room(max(p.loading for p in probes), held[1] - each * last.load.tokens, each, shape, itemsize)


def measure(recipe: Recipe, planned: Sequence[Planned], reporter: Reporter) -> dict[str, dict[str, Any]]:
    """By training stage: seconds of a step and in all, peak memory, and the forest budget that fits."""
    found = {}
    for stage_plan in planned:
        if isinstance(stage_plan.settings, Training):
            found[stage_plan.name] = _Measured.of(recipe, planned, stage_plan).facts(reporter)
    return found


@dataclass(frozen=True, slots=True)
class _Measured:
    """A training stage that is measured: the model it starts from, its data, and its rows."""

    recipe: Recipe
    planned: Planned
    source: str
    groups: Sequence[Group]
    rows: Sequence[Row]
    renderer: Renderer

    @classmethod
    def of(cls, recipe: Recipe, planned: Sequence[Planned], one: Planned) -> _Measured:
        source = _root(one.inputs["model"], planned)
        renderer = models.read_renderer(source, Path(recipe.chat_template) if recipe.chat_template else None)
        groups = _groups(one.inputs["data"], planned, renderer)
        assert isinstance(one.settings, Training)
        return cls(recipe, one, source, groups, training_rows(one.settings, groups, renderer, recipe.seed), renderer)

    @property
    def settings(self) -> Training:
        assert isinstance(self.planned.settings, Training)
        return self.planned.settings

    def facts(self, reporter: Reporter) -> dict[str, Any]:
        """Two probes, the fits, and what they say of the whole stage."""
        device = device_of(self.recipe.device)
        free = free_memory(device)
        lengths = [Lengths.of(row) for row in self.rows]
        load = largest_forest(lengths, self.settings, self.recipe.seed)
        probes = []
        for budget in (max(load.tokens // 2, min(row.tokens for row in lengths)), load.tokens):
            reporter.say(f"{self.planned.name}: measuring steps in forests of {budget:,} tokens")
            probes.append(self._probe(budget))
        shape = Shape.of(models.read_config(self.source))
        itemsize = compute_dtype(self.recipe.precision, device).itemsize
        recomputes = probes[-1].checkpointing
        kept, less = (token_bytes(shape, Weights(1, 1, itemsize, device.type, on)) for on in (False, True))
        room = fit_room(probes, shape, itemsize, less if recomputes else kept)
        saved = 1.0 if recomputes else less / kept
        speed = fit_speed(*_timed(probes))
        return {
            **self._times(speed, probes, shape),
            "checkpointing": recomputes,
            "largest_forest": load.tokens,
            "peak_bytes": room.peak(load),
            "free_bytes": free,
            **_proposal(room, load, max(row.tokens for row in lengths), USABLE * free, saved),
            "fit": {"step": speed.once, "forest": speed.forest, "operation": speed.operation}
            | {"base_bytes": room.base, "token_bytes": room.token, "loading_bytes": room.loading},
        }

    def _times(self, speed: Speed, probes: Sequence[Probe], shape: Shape) -> dict[str, Any]:
        settings = self.settings
        steps = step_count(len(self.rows), settings)
        works = _works(self.rows, settings, self.recipe.seed, shape, range(1, steps + 1, max(1, steps // LOOKED_AT)))
        step = sum(map(speed.seconds, works)) / len(works)
        read, spent = (sum(p.reference[place] for p in probes) for place in (0, 1))
        forward = spent / read if read else speed.operation / 3
        once = settings.bound().passes[1] if isinstance(settings, Preference) else 0
        passes = once * operations(shape, map(Lengths.of, self.rows))
        held = self._held_out()
        passes += (once + 2) * operations(shape, map(Lengths.of, held))  # before the first step and after the last
        return {
            "steps": steps,
            "step_seconds": step,
            "before_seconds": forward * passes,
            "seconds": steps * step + forward * passes,
        }

    def _held_out(self) -> list[Row]:
        source = self.planned.inputs.get("held_out")
        if not isinstance(source, Groups) or not source.ready:
            return []
        groups = [group for group in source.read() if group.completions]
        return training_rows(self.settings, groups, self.renderer, self.recipe.seed) if groups else []

    def _probe(self, budget: int) -> Probe:
        """Runs the stage on a few rows that fill forests of this budget, in a process of its own."""
        settings, groups = self._less(budget)
        rows = training_rows(settings, groups, self.renderer, self.recipe.seed)
        inputs = {n: v.key for n, v in self.planned.inputs.items() if isinstance(v, Model)}
        with tempfile.TemporaryDirectory(prefix="truing-plan-") as name:
            folder = Path(name)
            formats.write_data(groups, folder / "rows.jsonl", format="group")
            spec = self.recipe.model_dump(mode="json", include={"seed", "device", "precision", "chat_template"})
            spec |= {"use": self.planned.use, "source": self.source, "models": inputs}
            spec |= {"settings": settings.model_dump(mode="json")}
            (folder / "spec.json").write_text(json.dumps(spec))
            said = _run(folder, f"{self.planned.name}: {budget:,} tokens at once")
        shape = Shape.of(models.read_config(self.source))
        works = _works(rows, settings, self.recipe.seed, shape, range(1, step_count(len(rows), settings) + 1))
        lengths = [Lengths.of(row) for row in rows]
        reference = (operations(shape, lengths), said["reference"]) if said["reference"] else (0.0, 0.0)
        load = largest_forest(lengths, settings, self.recipe.seed)
        return Probe(works, said["seconds"], reference, load, said["loading"], said["training"], said["checkpointing"])

    def _less(self, budget: int) -> tuple[Training, list[Group]]:
        """Settings and data of a probe: two forests to a long step where the recipe's steps take several, else one."""
        mean = sum(map(len, self.rows)) / len(self.rows)
        several = self.settings.batch_size * mean > self.settings.forest_tokens
        filling = max(1, int(budget / mean)) * (2 if several else 1)
        batch = max(1, min(filling, 2 * len(self.groups) // 3))
        order = sorted(range(len(self.groups)), key=lambda place: _size(self.groups[place]))
        wanted = min(len(order), batch + max(1, batch // 2))
        picked = [self.groups[order[int((n + 0.5) / wanted * len(order))]] for n in range(wanted)]
        changes = {"batch_size": batch, "forest_tokens": budget, "epochs": EPOCHS, "max_steps": None}
        return self.settings.model_copy(update=changes | {"save_every": 10**9}), picked


def _timed(probes: Sequence[Probe]) -> tuple[list[Work], list[float]]:
    """The steps of all probes, without the first of each, which warms up."""
    pairs = [pair for probe in probes for pair in list(zip(probe.steps, probe.seconds, strict=True))[1:]]
    return [work for work, _ in pairs], [seconds for _, seconds in pairs]


def _works(rows: Sequence[Row], settings: Training, seed: int, shape: Shape, numbers: Sequence[int]) -> list[Work]:
    works = []
    for number in numbers:
        members = [rows[index] for index in step_rows(len(rows), number, settings, seed)]
        forests = len(pack(members, settings.forest_tokens))
        works.append(Work(forests, operations(shape, map(Lengths.of, members))))
    return works


def _proposal(room: Room, load: Load, longest: int, usable: float, saved: float) -> dict[str, Any]:
    """The largest budget that fits, kept or recomputed activations; None where even the smallest does not."""
    share = load.scored / load.tokens

    def largest(kept: float) -> int | None:
        budget, found = LEAST, None
        while budget <= MOST:
            tokens = max(budget, longest)
            if room.peak(Load(tokens, round(share * tokens)), kept) > usable:
                break
            found = budget if budget >= longest else found
            budget *= 2
        return found

    return {
        "fits": room.peak(load) <= usable,
        "fitting_forest_tokens": largest(1.0),
        "fitting_with_checkpointing": largest(saved),
    }


def _groups(data: Groups, planned: Sequence[Planned], renderer: Renderer) -> Sequence[Group]:
    """The rows of a stage; where an earlier one has yet to write them, as long as they may become."""
    if data.ready:
        return data.read()
    maker = next(one for one in planned if one.key == data.key)
    prompts = [bare(group) for group in _groups(maker.inputs["data"], planned, renderer)]
    prompts = prompts[:: max(1, len(prompts) // DRAWN)][:DRAWN]
    settings = maker.settings
    assert isinstance(settings, Contrast | Sample)

    def answer(prompt: Group, word: str) -> Completion:
        ten = len(renderer.tokenizer(word * 10, add_special_tokens=False).input_ids)
        words = word * max(1, 10 * settings.max_new_tokens // ten)
        is_text = any(message.role == TEXT_ROLE for message in prompt.prompt)
        return Completion((Message(TEXT_ROLE if is_text else "assistant", words),))

    if isinstance(settings, Contrast):
        return [comparison(p.prompt, answer(p, " yes"), answer(p, " no")) for p in prompts]
    return [replace(p, completions=(answer(p, " yes"),) * settings.answers) for p in prompts]


def _root(model: Model, planned: Sequence[Planned]) -> str:
    """The model that is there already, from which this one will be made: it has the same sizes."""
    maker = next((one for one in planned if one.key == model.key), None)
    return _root(maker.inputs["model"], planned) if maker else model.source


def _size(group: Group) -> int:
    turns = [*group.prompt, *(message for answer in group.completions for message in answer.messages)]
    return sum(len(message.content) for message in turns)


def _run(folder: Path, what: str) -> Any:
    """What the process wrote."""
    done = subprocess.run(
        [sys.executable, "-m", "truing.measuring", str(folder)],
        env={**os.environ, "TRUING_CACHE": str(folder / "cache")}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode == -signal.SIGKILL or "OutOfMemoryError" in done.stderr or "not enough memory" in done.stderr:
        raise MissingError(
            f"{what}: memory ran out: lower forest_tokens, set checkpointing = true, or train an adapter with lora"
        )
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"it ended with status {done.returncode}"]
        raise TruingError(f"{what}: {said[-1]}")
    return json.loads((folder / "measured.json").read_text())


class _Enough(Exception):  # noqa: N818 - it is no error, only a way out
    """All steps are done."""


@dataclass(slots=True)
class _Watch(Reporter):
    """Listens to a stage instead of telling of it: seconds of each step and of the reference, and memory."""

    console: Console = field(default_factory=lambda: Console(file=io.StringIO()))
    seconds: list[float] = field(default_factory=list)
    reference: float = 0.0
    loading: float = 0.0

    @contextmanager
    def task(self, what: str, total: int, done: int = 0) -> Iterator[Task]:
        self.loading = self.loading or _restart_peak()
        began = time.perf_counter()
        yield _Step(self, total) if what == "probe" else _Quiet()
        self.reference += time.perf_counter() - began


class _Quiet(Task):
    def advance(self, done: int, note: str = "") -> None:
        pass


class _Step(Task):
    def __init__(self, watch: _Watch, total: int) -> None:
        self._watch, self._total, self._began = watch, total, time.perf_counter()

    def advance(self, done: int, note: str = "") -> None:
        now = time.perf_counter()
        self._watch.seconds.append(now - self._began)
        self._began = now
        if done == self._total:
            raise _Enough


def _restart_peak() -> float:
    """The largest size so far; from here it is counted anew, where the system can."""
    before = _peak()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    marks = Path("/proc/self/clear_refs")
    if marks.exists():
        marks.write_text("5")
    return before


def _peak() -> float:
    """Bytes at most, on CUDA of the device alone."""
    used = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return float(used or peak_memory())


def _probe(folder: Path) -> None:
    """The stage on the rows of the folder, up to its last step."""
    adjustment = Path("/proc/self/oom_score_adj")
    if adjustment.exists():
        adjustment.write_text("1000")  # where memory runs out, this process goes and no other
    spec = json.loads((folder / "spec.json").read_text())
    function = stage(spec["use"])
    settings = validated(settings_type(function), spec["settings"], spec["use"])
    groups = formats.read_groups(folder / "rows.jsonl", format="group")
    inputs: Mapping[str, Any] = {name: Model(key, spec["source"]) for name, key in spec["models"].items()}
    watch = _Watch()
    machine.keep_freed_memory()  # as every run does
    with Run.open(folder / "run", recipe="", resolved="", info={}) as run:
        context = Context(
            run, "probe", "probe", spec["seed"], device_of(spec["device"]), spec["precision"], watch,
            chat_template=Path(spec["chat_template"]) if spec["chat_template"] else None,
        )  # fmt: skip
        with suppress(_Enough):
            function(context, settings, **inputs, data=Groups("probe", lambda: groups))
        decided = [event["on"] for event in run.events("probe", "checkpointing")]
    found = {"seconds": watch.seconds, "reference": watch.reference, "loading": watch.loading, "training": _peak()}
    found["checkpointing"] = decided[-1] if decided else bool(settings.checkpointing)
    (folder / "measured.json").write_text(json.dumps(found))


if __name__ == "__main__":
    try:
        _probe(Path(sys.argv[1]))
    except TruingError as error:
        print(describe_error(error)[0], file=sys.stderr)
        sys.exit(error.exit_code)
