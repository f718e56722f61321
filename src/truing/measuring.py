"""What a plan knows after a few real optimizer steps: seconds and memory, fitted at two sizes of a forest.

Every size runs in a process of its own: the stage itself, on a few rows, in a folder that is removed afterwards. It is
left after its last step, before anything is saved.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from truing import formats, models, probing
from truing.costs import USABLE, Lengths, Load, Shape, Weights, free_memory, operations, token_bytes
from truing.estimates import training_rows
from truing.fitting import LEAST, Probe, Room, Speed, Work, fit_room, fit_speed
from truing.models.precision import compute_dtype
from truing.packing import pack
from truing.planning import Planned
from truing.progress import Reporter
from truing.recipe import Recipe, device_of
from truing.records import TEXT_ROLE, Completion, Group, Message, comparison
from truing.rendering import Renderer, Row
from truing.stages.arranging import to_watch
from truing.stages.context import Groups, Model
from truing.stages.join import Join, joined
from truing.stages.judgements import Judgements, Lesson, comparing, demonstration, requests_of
from truing.stages.preference import Preference
from truing.stages.sample import Contrast, Sample, preferred, to_prefer
from truing.stages.score import ScoreAnswers
from truing.stages.training import LOOKED_AT, Training, largest_forest, step_count, step_rows
from truing.store import disk

EPOCHS = 2
"""Passes of a probe over its rows, each of a long and a short step. The first step of all warms up."""
MOST = 2**20
"""The largest forest budget that is looked at; those between are powers of two times the smallest."""
DRAWN = 256
"""Rows that are made up where an earlier stage has yet to write them."""


def measure(recipe: Recipe, planned: Sequence[Planned], reporter: Reporter) -> dict[str, dict[str, Any]]:
    """By training stage: seconds of a step and in all, peak memory, and the forest budget that fits.

    Of a loop the first round is measured.
    """
    found = {}
    for stage_plan in planned:
        # later rounds take as long as the first
        first = stage_plan.round is None or stage_plan.round.number == 1
        if isinstance(stage_plan.settings, Training) and first:
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
        probes: list[Probe] = []
        for budget in (load.tokens, max(load.tokens // 2, min(row.tokens for row in lengths))):
            reporter.say(f"{self.planned.name}: measuring steps in forests of {budget:,} tokens")
            # the smaller forest goes the way of the larger one, or no line could be drawn through the two
            probes.insert(0, self._probe(budget, probes[0].checkpointing if probes else self.settings.checkpointing))
        shape = Shape.of(models.read_config(self.source))
        itemsize = compute_dtype(self.recipe.precision, device).itemsize
        recomputes = probes[-1].checkpointing
        trained = 1 if self.settings.lora else 2  # of two weights: all that matters here is whether it is all of them
        kept, less = (token_bytes(shape, Weights(2, trained, itemsize, device.type, on)) for on in (False, True))
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
        once = settings.passes[1]
        passes = once * operations(shape, map(Lengths.of, self.rows))
        held = self._held_out()
        times, readings = settings.trainings
        passes += (once + times * settings.looks(steps)) * operations(shape, map(Lengths.of, held))
        passes += readings * operations(shape, map(Lengths.of, self.rows))
        return {
            "steps": round(times * steps),
            "step_seconds": step,
            "besides_seconds": forward * passes,
            "seconds": times * steps * step + forward * passes,
        }

    def _held_out(self) -> list[Row]:
        source = self.planned.inputs.get("held_out")
        if not isinstance(source, Groups) or not source.ready:
            return []
        groups = [group for group in source.read() if group.completions]
        if isinstance(self.settings, Preference):
            groups = to_watch(self.settings.bound(), groups)
        return training_rows(self.settings, groups, self.renderer, self.recipe.seed) if groups else []

    def _probe(self, budget: int, checkpointing: bool | Literal["auto"]) -> Probe:
        """Runs the stage on a few rows that fill forests of this budget, in a process of its own."""
        settings, groups = self._less(budget)
        settings = settings.model_copy(update={"checkpointing": checkpointing})
        rows = training_rows(settings, groups, self.renderer, self.recipe.seed)
        inputs = {n: v.key for n, v in self.planned.inputs.items() if isinstance(v, Model)}
        with tempfile.TemporaryDirectory(prefix="truing-plan-") as name:
            folder = Path(name)
            formats.write_data(groups, folder / "rows.jsonl", format="group")
            spec = self.recipe.model_dump(mode="json", include={"seed", "device", "precision", "chat_template"})
            spec |= {"use": self.planned.use, "source": self.source, "models": inputs}
            spec |= {"settings": settings.model_dump(mode="json")}
            disk.write(folder / "spec.json", json.dumps(spec).encode())
            said = probing.run(folder, f"{self.planned.name}: {budget:,} tokens at once")
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
        return self.settings.once().model_copy(update=changes | {"save_every": 10**9}), picked


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
    rows = _groups(maker.inputs["data"], planned, renderer)
    settings = maker.settings
    if isinstance(settings, ScoreAnswers):
        return [_scored(row, settings) for row in rows]
    if isinstance(settings, Join):
        return joined(settings, rows, _groups(maker.inputs["also"], planned, renderer))
    if not isinstance(settings, Contrast | Sample | Judgements):
        return rows  # a stage that treats rows writes none
    rows = rows[:: max(1, len(rows) // DRAWN)][:DRAWN]

    def answer(row: Group, word: str) -> Completion:
        ten = len(renderer.tokenizer(word * 10, add_special_tokens=False).input_ids)
        words = word * max(1, 10 * settings.max_new_tokens // ten)
        is_text = any(message.role == TEXT_ROLE for message in row.prompt)
        return Completion((Message(TEXT_ROLE if is_text else "assistant", words),))

    if isinstance(settings, Judgements):
        lessons = [
            Lesson(request, "", 0.0)
            for row in comparing(rows, settings.pairs, Counter())
            for request in requests_of(row, settings)
        ]
        return [replace(row, completions=(answer(row, " yes"),)) for row in map(demonstration, lessons)]
    if isinstance(settings, Contrast):
        return [comparison(row.prompt, answer(row, " yes"), answer(row, " no")) for row in rows]

    def drawn(row: Group) -> tuple[Completion, ...]:
        return (*(answer(row, " yes"),) * (settings.answers - 1), answer(row, " no"))

    if settings.data_answers == "leave_out":
        return [replace(row, completions=drawn(row), strength=None) for row in rows]
    kept, refused = to_prefer(rows)
    return [replace(row, completions=preferred(row, drawn(row), refused), strength=None) for row in kept]


def _scored(row: Group, settings: ScoreAnswers) -> Group:
    """The row as its scores may leave it: its last answer is the worst, and the others are as good as each other."""
    if settings.keep == "all" and all(answer.rank is not None for answer in row.completions):
        return row
    last = len(row.completions) - 1
    answers = [replace(one, score=float(place < last), rank=None) for place, one in enumerate(row.completions)]
    ends = [answers[0], answers[-1]]
    kept = {"all": answers, "best": answers[:1], "best_and_worst": ends, "ranking": answers}[settings.keep]
    return replace(row, completions=tuple(kept))


def _root(model: Model, planned: Sequence[Planned]) -> str:
    """The model that is there already, from which this one will be made: it has the same sizes."""
    maker = next((one for one in planned if one.key == model.key), None)
    return _root(maker.inputs["model"], planned) if maker else model.source


def _size(group: Group) -> int:
    turns = [*group.prompt, *(message for answer in group.completions for message in answer.messages)]
    return sum(len(message.content) for message in turns)
