"""Training measured: what the benchmarks of DPO, SFT and reward models share."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from bench import flops, gate, process, results
from bench.rows import ROOT, as_json, first_answers, grouped_steps, pool, shuffled_steps
from bench.statistics import median
from truing.models import locate, read_config
from truing.rendering import Row

RESULTS = ROOT / "docs" / "benchmarks" / "results.json"
BETA = 0.1
LEARNING_RATES = {"dpo": 5e-6, "sft": 2e-5, "reward": 1e-5}


@dataclass(frozen=True, slots=True)
class Settings:
    """How much is measured, and of what.

    model: a name, folder or hub id. device: cpu or cuda. rounds: processes of each system. warm_up, timed: steps in
    each process. batch: rows of a step. forest_tokens: what Truing runs at once. tune: try settings of the tuned peer
    first and take the fastest. lora: train an adapter. out: the results file.
    """

    model: str = "smollm2"
    device: str = "cpu"
    rounds: int = 3
    warm_up: int = 1
    timed: int = 2
    batch: int = 8
    forest_tokens: int = 2048
    tune: bool = True
    lora: bool = False
    out: Path = RESULTS


@dataclass(frozen=True, slots=True)
class System:
    """One way to run the same steps.

    grouped: on steps of rows of like length. options: TRL's settings. threads: with the thread settings of Truing's
    command, which a peer does not have by itself.
    """

    name: str
    worker: str
    grouped: bool = False
    reference_pass: bool = False
    precision: str = "bf16"
    options: Mapping[str, Any] | None = None
    threads: bool = False


OURS, THEIRS = "bench.ours:train", "bench.theirs:train"
ROWS_OF_TRL = 8
"""`per_device_train_batch_size` of TRL as it comes."""


def measure(task: str, profile: str, settings: Settings, tuned_options: Mapping[str, Any], size: str = "") -> None:
    """Gate, rounds and ratios of one task on one profile, into the results file."""
    say(f"{task} {profile}: {settings.rounds} rounds")
    work = _Work.of(task, profile, settings)
    tuned, tried = work.tuned(tuned_options)
    default = System("trl-default", THEIRS, options=_as_it_comes(settings))
    systems = [System("truing", OURS), default, System("truing-grouped", OURS, grouped=True), tuned]
    if task == "dpo":
        systems.insert(1, System("truing-reference-pass", OURS, reference_pass=True))
    named = {system.name: system for system in systems}
    gates = {pair: work.gate(named[pair[0]], named[pair[1]]) for pair in _pairs(task)}
    runs, rooflines = work.rounds(systems, gates)
    systems = [system for system in systems if system.name in runs]
    compared = [results.comparison(*pair, runs, shut, settings.batch) for pair, shut in gates.items()]
    entry: dict[str, Any] = {
        "settings": {name: str(value) for name, value in asdict(settings).items() if name != "out"},
        "rooflines": {name: median([one[name] for one in rooflines]) for name in rooflines[0]},
        "systems": {system.name: work.summary(system, runs[system.name]) for system in systems},
        "comparisons": compared,
        "utilisation": [
            work.utilisation(system, runs[system.name], rooflines) for system in systems if system.worker == OURS
        ],
        "tuning": tried,
    }
    results.store(
        settings.out, _stored_as(task, settings), f"{profile}-{size}" if size else profile, entry, settings.device
    )
    for one in compared:
        say(results.say(one))
    for used in entry["utilisation"]:
        say(f"{used['system']}: {100 * used['share']['value']:.0f} % of the bf16 matrix rate")


def measured_rooflines(model: str, device: str) -> dict[str, float]:
    """What the machine can do at best just now, on the model's own matrices."""
    shape = flops.Shape.of(read_config(model))
    spec = {"name": "rooflines", "device": device, "body": shape.matrices()}
    found: dict[str, float] = process.run("bench.machine:rooflines", {**spec, "head": (shape.width, shape.vocabulary)})
    return found


def say(line: str) -> None:
    """One line of progress or outcome, on stderr."""
    print(line, file=sys.stderr, flush=True)


@dataclass(frozen=True, slots=True)
class _Work:
    """The rows and steps of one task, in both memberships."""

    task: str
    settings: Settings
    model: str
    rows: Sequence[Row]
    shuffled: Sequence[Sequence[int]]
    grouped: Sequence[Sequence[int]]
    exact: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, task: str, profile: str, settings: Settings) -> _Work:
        model = locate(settings.model)
        rows = pool(profile, model)
        rows = first_answers(rows) if task == "sft" else rows
        shuffled = shuffled_steps(rows, settings.batch, settings.warm_up + settings.timed)
        grouped = grouped_steps(rows, settings.batch, settings.warm_up, settings.timed)
        return cls(task, settings, model, rows, shuffled, grouped)

    def run(self, system: System) -> Any:
        """The system on its steps, in a process of its own."""
        return process.run(system.worker, self._spec(system, self._steps(system), self.settings.warm_up))

    def rounds(
        self, systems: Sequence[System], gates: dict[tuple[str, str], gate.Verdict]
    ) -> tuple[dict[str, list[Any]], list[dict[str, float]]]:
        """What all systems return in every round, and the rooflines of each. A peer that fails shuts its gate."""
        runs: dict[str, list[Any]] = {system.name: [] for system in systems}
        rooflines = []
        for number in range(self.settings.rounds):
            say(f"round {number + 1} of {self.settings.rounds}")
            rooflines.append(measured_rooflines(self.model, self.settings.device))
            for system in systems:
                if system.name not in runs:
                    continue
                try:
                    runs[system.name].append(self.run(system))
                except process.WorkerError as error:
                    if system.worker == OURS:
                        raise
                    say(str(error))
                    for pair in gates:
                        if system.name in pair:
                            gates[pair] = gate.Verdict(agreed=False, differences={}, disagreed=[str(error)])
                    del runs[system.name]
        return runs, rooflines

    def gate(self, ours: System, peer: System) -> gate.Verdict:
        """Both sides in fp32 on a few short steps; who accumulates gradients over micro-batches does so here too."""
        steps = [list(step[: gate.ROWS]) for step in shuffled_steps(self.rows, gate.ROWS, gate.STEPS)]
        options = dict(peer.options or {})
        if "micro_batch" in options:
            options["micro_batch"] = gate.ROWS if options["micro_batch"] >= self.settings.batch else 1
        options.pop("base", None)
        exact = System(f"gate of {peer.name}", THEIRS, precision="fp32", options=options)
        mine = System(f"gate of {ours.name}", OURS, precision="fp32", reference_pass=ours.reference_pass)
        verdict = gate.training(*(self._exactly(one, steps) for one in (mine, exact)))
        say(f"gate of {ours.name} and {peer.name}: {'; '.join(verdict['disagreed']) or verdict['differences']}")
        return verdict

    def _exactly(self, system: System, steps: Sequence[Sequence[int]]) -> Any:
        """What a side says in fp32, run once for all gates that it stands in with the same settings."""
        how = json.dumps([system.worker, system.reference_pass, system.options])
        if how not in self.exact:
            self.exact[how] = process.run(system.worker, self._spec(system, steps, 0, log_all=True))
        return self.exact[how]

    def tuned(self, options: Mapping[str, Any]) -> tuple[System, list[dict[str, Any]]]:
        """TRL as fast as it gets: micro-batch, dtype, for SFT padding-free collation, threads, one after the other.

        Untried, the micro-batch is a quarter of the step, which fits into memory without checkpointing.
        """
        batch = self.settings.batch
        best = System("trl-tuned", THEIRS, grouped=True, options={**options, "micro_batch": batch})
        if self.settings.lora:  # the frozen base in half precision, as TRL's own LoRA recipes load it
            best = replace(best, options={**(best.options or {}), "base": "bf16"})
        if not self.settings.tune:
            return replace(best, options={**(best.options or {}), "micro_batch": max(1, batch // 4)}), []
        tried: list[dict[str, Any]] = []
        seconds = self._try(best, tried)
        for precision, change in _changes(self.task, batch, self.settings.device):
            candidate = replace(best, precision=precision or best.precision, options={**(best.options or {}), **change})
            if (took := self._try(candidate, tried)) < seconds:
                best, seconds = candidate, took
        if self.settings.device == "cpu" and self._try(quiet := replace(best, threads=True), tried) < seconds:
            best = quiet
        return best, tried

    def summary(self, system: System, runs: Sequence[Any]) -> dict[str, Any]:
        """Medians of a system, and how it was set."""
        tokens = [flops.useful_tokens(rows) for rows in self._timed(system)]
        set_as = {"options": dict(system.options or {}), "precision": system.precision, "grouped": system.grouped}
        set_as |= {"threads": system.threads or system.worker == OURS}
        return results.summary(runs, tokens) | {"useful_tokens": tokens, "set_as": set_as}

    def utilisation(self, system: System, runs: Sequence[Any], rooflines: Sequence[Any]) -> dict[str, Any]:
        """Needed FLOPs over time, as a share of the matrix rate measured in the same round."""
        shape = self._shape()
        kind = {"reference_pass": system.reference_pass, "scores": self.task == "reward", "lora": self.settings.lora}
        needed = [flops.training(shape, rows, **kind) for rows in self._timed(system)]
        rates = [[f / s for f, s in zip(needed, run["seconds"], strict=True)] for run in runs]
        shares = [rate / roof["bf16"] for own, roof in zip(rates, rooflines, strict=True) for rate in own]
        return {
            "system": system.name,
            "needed_flops": needed,
            "flops_per_second": median([rate for own in rates for rate in own]),
            "share": median(shares),
        }

    def _try(self, system: System, tried: list[dict[str, Any]]) -> float:
        set_as = {"options": dict(system.options or {}), "precision": system.precision, "threads": system.threads}
        try:
            took = median(self.run(system)["seconds"])["value"]
        except process.WorkerError as error:
            tried.append(set_as | {"error": str(error)})
            return float("inf")
        tried.append(set_as | {"seconds": took})
        return took

    def _shape(self) -> flops.Shape:
        return flops.Shape.of(read_config(self.model))

    def _steps(self, system: System) -> Sequence[Sequence[int]]:
        return self.grouped if system.grouped else self.shuffled

    def _timed(self, system: System) -> Iterable[list[Row]]:
        steps = self._steps(system)[self.settings.warm_up :]
        return [[self.rows[index] for index in step] for step in steps]

    def _spec(
        self, system: System, steps: Sequence[Sequence[int]], warm_up: int, *, log_all: bool = False
    ) -> dict[str, Any]:
        used = sorted({index for step in steps for index in step})
        place = {index: number for number, index in enumerate(used)}
        return {
            "name": system.name,
            "task": self.task,
            "model": self.model,
            "device": self.settings.device,
            "lora": self.settings.lora,
            "rows": as_json([self.rows[index] for index in used]),
            "steps": [[place[index] for index in step] for step in steps],
            "warm_up": warm_up,
            "forest_tokens": self.settings.forest_tokens,
            "learning_rate": LEARNING_RATES[self.task],
            "beta": BETA,
            "precision": system.precision,
            "reference_pass": system.reference_pass,
            "threads": system.threads or system.worker == OURS,
            "options": dict(system.options or {}),
            "log_all": log_all,
        }


def _as_it_comes(settings: Settings) -> dict[str, Any]:
    """TRL's own micro-batch of eight rows, gathered to a step."""
    return {"micro_batch": ROWS_OF_TRL} if settings.batch > ROWS_OF_TRL else {}


def _changes(task: str, batch: int, device: str) -> list[tuple[str, dict[str, Any]]]:
    """What is tried one after the other: a dtype, or none for the best so far, and changed options."""
    changes: list[tuple[str, dict[str, Any]]] = []
    if device == "cuda":  # first of all, for with it larger micro-batches may fit
        changes.append(("", {"use_liger_kernel": True}))
    changes += [("", {"micro_batch": batch // parts}) for parts in (2, 4) if batch % parts == 0]
    if device == "cpu":  # on CUDA fp32 is many times slower
        changes.append(("fp32", {}))
    if task == "sft":
        changes.append(("", {"padding_free": True, "max_length": None, "micro_batch": batch}))
    return changes


def _pairs(task: str) -> list[tuple[str, str]]:
    """Who is compared with whom: always on the same steps."""
    pairs = [("truing", "trl-default"), ("truing-grouped", "trl-tuned")]
    return [*pairs, ("truing-reference-pass", "trl-default")] if task == "dpo" else pairs


def _stored_as(task: str, settings: Settings) -> str:
    return task if settings.device == "cpu" else f"{settings.device}-{task}"
