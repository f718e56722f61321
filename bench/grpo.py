"""GRPO: an iteration of stage `online`, 8 answers to 8 prompts, beside one of TRL's GRPOTrainer, default and tuned."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from bench import gate, process, results, sampling
from bench.rows import pool
from bench.statistics import median, ratio
from bench.training import ROWS_OF_TRL, Settings, System, measured_rooflines, say
from truing.formats import read_groups
from truing.models import locate, read_renderer

PROFILES = ("brief", "hh")
"""Short questions in words, and random words of the length of HH-RLHF's prompts; both as turns of a chat."""
OURS, THEIRS = "bench.ours:grpo", "bench.theirs:grpo"
ANSWERS, LENGTH = 8, 64
LEARNING_RATE = 1e-6
TUNED: dict[str, Any] = {"gradient_checkpointing": False}
TRUING = System("truing", OURS)


def vowels(_: Any, answer: str) -> float:
    """The reward on both sides: the share of vowels among the characters."""
    return sum(letter in "aeiou" for letter in answer) / max(len(answer), 1)


def run(profile: str, settings: Settings, length: int = LENGTH) -> None:
    """Gate, rounds and ratios of one profile, into the results file. A step of `settings` is an iteration here."""
    say(f"grpo {profile}: {settings.rounds} rounds")
    work = _Work(settings, _prompts(profile, settings), length)
    tuned, tried = work.tuned()
    default = System("trl-default", THEIRS, options={"micro_batch": ROWS_OF_TRL})
    systems = [TRUING, default, tuned]
    given = work.given()
    gates = {peer.name: work.gate(peer, given) for peer in (default, tuned)}
    runs: dict[str, list[Any]] = {one.name: [] for one in systems}
    rooflines = []
    for number in range(settings.rounds):
        say(f"round {number + 1} of {settings.rounds}")
        rooflines.append(measured_rooflines(locate(settings.model), settings.device))
        for one in systems:
            runs[one.name].append(process.run(one.worker, work.spec(one)))
    entry: dict[str, Any] = {
        "settings": {name: str(value) for name, value in asdict(settings).items() if name != "out"}
        | {"answers": ANSWERS, "length": length},
        "rooflines": {name: median([one[name] for one in rooflines]) for name in rooflines[0]},
        "systems": {one.name: _summary(one, runs[one.name]) for one in systems},
        "comparisons": [_comparison(peer.name, runs, gates[peer.name]) for peer in (default, tuned)],
        "tuning": tried,
    }
    task = "grpo" if settings.device == "cpu" else f"{settings.device}-grpo"
    results.store(settings.out, task, profile, entry, settings.device)
    for found in entry["comparisons"]:
        say(results.say(found))


@dataclass(frozen=True, slots=True)
class _Work:
    """What is learnt from: chat prompts, the same ones in every iteration."""

    settings: Settings
    prompts: Sequence[str]
    length: int

    @property
    def rows(self) -> int:
        """Answers of an iteration."""
        return ANSWERS * len(self.prompts)

    def tuned(self) -> tuple[System, list[dict[str, Any]]]:
        """TRL as fast as it gets: micro-batch, dtype, cache of generation and threads, one after the other.

        Untried, the micro-batch is a quarter of the answers, which fits into memory without checkpointing.
        """
        best = System("trl-tuned", THEIRS, options=TUNED | {"micro_batch": max(ROWS_OF_TRL, self.rows // 4)})
        if not self.settings.tune:
            return best, []
        tried: list[dict[str, Any]] = []
        seconds = self._try(best, tried)
        for change in self._changes():
            candidate = change(best)
            if (took := self._try(candidate, tried)) < seconds:
                best, seconds = candidate, took
        return best, tried

    def given(self) -> list[list[list[list[int]]]]:
        """Rollouts for the gate, drawn once by Truing: of each the answers to each prompt, as token ids.

        They are cut to lengths from an eighth to the whole: of answers of one length the loss is 0 at the first step,
        whatever is done, as their advantages sum to 0.
        """
        spec = self.spec(System("rollouts of the gate", "bench.ours:sample", precision="fp32")) | {
            "prompts": self._few,
            "temperature": 1.0,
            "seed": 0,
            "warm_up": 0,
            "timed": gate.STEPS,
            "keep": True,
        }
        drawn = process.run("bench.ours:sample", spec)["answers"]
        cut = [
            [answer[: -(-self.length * (place % ANSWERS + 1) // ANSWERS)] for place, answer in enumerate(answers)]
            for answers in drawn
        ]
        return [[answers[start : start + ANSWERS] for start in range(0, len(answers), ANSWERS)] for answers in cut]

    def gate(self, peer: System, given: Sequence[Any]) -> gate.Verdict:
        """Both sides in fp32 on the same rollouts and rewards, first with one update of each and then with two."""
        options = dict(peer.options or {})
        whole = ANSWERS * len(self._few)
        options["micro_batch"] = whole if options["micro_batch"] >= self.rows else whole // 2
        exact = System(f"gate of {peer.name}", THEIRS, precision="fp32", options=options)
        mine = replace(TRUING, name="gate of truing", precision="fp32")
        said: dict[str, dict[str, list[float]]] = {}
        for one in (mine, exact):
            said[one.name] = {"loss": [], "gradient_norm": []}
            for epochs in (1, 2):
                rollouts = given[: gate.STEPS // epochs]
                spec = self.spec(one) | {"prompts": self._few, "given": rollouts, "epochs": epochs, "warm_up": 0}
                found = process.run(one.worker, spec | {"iterations": len(rollouts)})
                for name, values in said[one.name].items():
                    values += found[name]
        verdict = gate.training(said[mine.name], said[exact.name])
        say(f"gate of {peer.name}: {'; '.join(verdict['disagreed']) or verdict['differences']}")
        return verdict

    def spec(self, one: System) -> dict[str, Any]:
        """What a worker is told."""
        warm_up = max(1, self.settings.warm_up)
        return {
            "name": one.name,
            "model": locate(self.settings.model),
            "device": self.settings.device,
            "prompts": list(self.prompts),
            "answers": ANSWERS,
            "length": self.length,
            "iterations": warm_up + self.settings.timed,
            "warm_up": warm_up,
            "epochs": 1,
            "given": None,
            "forest_tokens": self.settings.forest_tokens,
            "learning_rate": LEARNING_RATE,
            "precision": one.precision,
            "threads": one.threads or one.worker == OURS,
            "options": dict(one.options or {}),
        }

    def _changes(self) -> list[Callable[[System], System]]:
        """What is tried one after the other."""

        def set_to(name: str, value: Any) -> Callable[[System], System]:
            return lambda best: replace(best, options={**(best.options or {}), name: value})

        changes = [set_to("micro_batch", self.rows // parts) for parts in (8, 2, 1)]
        changes.append(set_to("cache_implementation", "static"))
        if self.settings.device == "cpu":  # on CUDA fp32 is many times slower
            changes.append(lambda best: replace(best, precision="fp32"))
            changes.append(lambda best: replace(best, threads=True))
        return changes

    @property
    def _few(self) -> list[str]:
        return list(self.prompts[: gate.ROWS])

    def _try(self, system: System, tried: list[dict[str, Any]]) -> float:
        """Seconds of one iteration that nothing has warmed up."""
        set_as = {"options": dict(system.options or {}), "precision": system.precision, "threads": system.threads}
        try:
            found = process.run(system.worker, self.spec(system) | {"warm_up": 0, "iterations": 1})
        except process.WorkerError as error:
            tried.append(set_as | {"error": str(error)})
            return float("inf")
        (took,) = found["seconds"]
        tried.append(set_as | {"seconds": took})
        return float(took)


def _prompts(profile: str, settings: Settings) -> list[str]:
    """As many as a step has rows."""
    if profile == "brief":
        return [group.prompt[0].content for group in read_groups(sampling.PROMPTS, limit=settings.batch)]
    model = locate(settings.model)
    decode = read_renderer(model).decode
    return [decode(row.prompt) for row in pool(profile, model, settings.batch)]


def _summary(one: System, runs: results.Runs) -> dict[str, Any]:
    """Medians of a system, and how it was set."""
    rates = [
        (run["prompt_tokens"] + tokens) / seconds
        for run in runs
        for tokens, seconds in zip(run["answer_tokens"], run["seconds"], strict=True)
    ]
    found: dict[str, Any] = {
        "seconds": median(_all(runs, "seconds")),
        "phases": {"rollout": median(_all(runs, "rollout_seconds")), "update": median(_updates(runs))},
        "prompt_tokens": runs[0]["prompt_tokens"],
        "answer_tokens": median(_all(runs, "answer_tokens")),
        "tokens_per_second": median(rates),
        "memory": {name: median([run["memory"][name] for run in runs]) for name in runs[0]["memory"]},
        "samples": [run["seconds"] for run in runs],
        "set_as": {"options": dict(one.options or {}), "precision": one.precision, "threads": one.threads},
    }
    if "settings" in runs[0]:
        found["settings"] = runs[0]["settings"]
    return found


def _comparison(peer: str, runs: Mapping[str, results.Runs], verdict: gate.Verdict) -> dict[str, Any]:
    """Ratios of whole iterations and of their two parts; none where the gate is shut."""
    found: dict[str, Any] = {"ours": TRUING.name, "theirs": peer, "gate": verdict}
    if not verdict["agreed"]:
        return found
    mine, other = runs[TRUING.name], runs[peer]
    return found | {
        "times_faster": ratio(_all(other, "seconds"), _all(mine, "seconds")),
        "rollout_times_faster": ratio(_all(other, "rollout_seconds"), _all(mine, "rollout_seconds")),
        "update_times_faster": ratio(_updates(other), _updates(mine)),
        "memory": ratio(results.above(mine), results.above(other)),
    }


def _all(runs: results.Runs, name: str) -> list[float]:
    return [value for run in runs for value in run[name]]


def _updates(runs: results.Runs) -> list[float]:
    """All of an iteration that is no rollout."""
    return [a - b for a, b in zip(_all(runs, "seconds"), _all(runs, "rollout_seconds"), strict=True)]
