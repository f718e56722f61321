"""Sampling: eight prompts, eight answers each, written to their natural ends, beside transformers' `generate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from bench import gate, process, results
from bench.rows import ROOT
from bench.statistics import median, ratio
from bench.training import Settings, measured_rooflines, say
from truing.formats import read_groups
from truing.models import locate

PROMPTS = ROOT / "recipes" / "brief" / "held-out.jsonl"
OURS, THEIRS = "bench.ours:sample", "bench.theirs:sample"
COUNT, ANSWERS, LENGTH = 8, 8, 256
GREEDY_PROMPTS, GREEDY_LENGTH = 4, 48


@dataclass(frozen=True, slots=True)
class Sampler:
    """One way to sample. precision: none is what `from_pretrained` gives."""

    name: str
    worker: str
    precision: str | None = "bf16"
    static_cache: bool = False
    continuous: bool = False


TRUING = Sampler("truing", OURS)
DEFAULT = Sampler("generate-default", THEIRS, precision=None)
BEST = Sampler("generate-best", THEIRS)
CONTINUOUS = Sampler("continuous-batching", THEIRS, continuous=True)


def run(settings: Settings, length: int = LENGTH, profile: str = "brief") -> None:
    """Gate, rounds and ratios, into the results file."""
    say(f"sampling: {settings.rounds} rounds")
    best, tried = _best(settings, length)
    samplers = [TRUING, DEFAULT, best]
    refused = _refusal(settings, length)
    if refused is None:
        samplers.append(CONTINUOUS)
    gates = {peer.name: _gate(peer, settings) for peer in samplers[1:]}
    runs: dict[str, list[Any]] = {one.name: [] for one in samplers}
    rooflines = []
    for number in range(settings.rounds):
        say(f"round {number + 1} of {settings.rounds}")
        rooflines.append(measured_rooflines(locate(settings.model), settings.device))
        for one in samplers:
            runs[one.name].append(process.run(one.worker, _spec(one, settings, length, seed=100 * number)))
    entry: dict[str, Any] = {
        "settings": {name: str(value) for name, value in asdict(settings).items() if name != "out"}
        | {"prompts": COUNT, "answers": ANSWERS, "length": length},
        "rooflines": {name: median([one[name] for one in rooflines]) for name in rooflines[0]},
        "systems": {one.name: _summary(one, runs[one.name]) for one in samplers},
        "comparisons": [_comparison(peer.name, runs, gates[peer.name]) for peer in samplers[1:]],
        "tuning": tried,
        "continuous_batching": refused or "runs",
    }
    task = "sampling" if settings.device == "cpu" else f"{settings.device}-sampling"
    results.store(settings.out, task, profile, entry, settings.device)
    for one in entry["comparisons"]:
        say(results.say(one))


def _best(settings: Settings, length: int) -> tuple[Sampler, list[dict[str, Any]]]:
    """The fastest of `generate`'s settings, in useful tokens a second; all prompts are always one batch."""
    if not settings.tune:
        return BEST, []
    tried: list[dict[str, Any]] = []
    rates: list[tuple[float, Sampler]] = []
    for precision, static in (("bf16", False), ("bf16", True), ("fp32", False)):
        candidate = replace(BEST, precision=precision, static_cache=static)
        found = process.run(candidate.worker, {**_spec(candidate, settings, length), "timed": 1})
        rates.append((found["tokens"][0] / found["seconds"][0], candidate))
        tried.append({"precision": precision, "static_cache": static, "tokens_per_second": rates[-1][0]})
    return max(rates, key=lambda pair: pair[0])[1], tried


def _refusal(settings: Settings, length: int) -> str | None:
    """Why continuous batching cannot be measured here, in its own words, or None."""
    try:
        process.run(THEIRS, {**_spec(CONTINUOUS, settings, min(length, 4)), "timed": 1})
    except process.WorkerError as error:
        say(f"continuous batching does not run here: {error}")
        return str(error)
    return None


def _gate(peer: Sampler, settings: Settings) -> gate.Verdict:
    """Greedy answers of both sides in fp32."""
    greedy = {"temperature": 0.0, "answers": 1, "timed": 1, "warm_up": 0, "keep": True}
    sides = []
    for one in (TRUING, peer):
        spec = _spec(replace(one, precision="fp32", name=f"gate of {one.name}"), settings, GREEDY_LENGTH) | greedy
        sides.append(process.run(one.worker, {**spec, "prompts": spec["prompts"][:GREEDY_PROMPTS]})["answers"][0])
    verdict = gate.sampling(*sides)
    say(f"gate of {peer.name}: {'; '.join(verdict['disagreed']) or 'the same tokens'}")
    return verdict


def _spec(one: Sampler, settings: Settings, length: int, seed: int = 0) -> dict[str, Any]:
    groups = read_groups(PROMPTS, limit=COUNT)
    return {
        "name": one.name,
        "model": locate(settings.model),
        "device": settings.device,
        "prompts": [group.prompt[0].content for group in groups],
        "answers": ANSWERS,
        "temperature": 1.0,
        "length": length,
        "seed": seed,
        "warm_up": settings.warm_up,
        "timed": settings.timed,
        "precision": one.precision,
        "static_cache": one.static_cache,
        "continuous": one.continuous,
        "keep": False,
    }


def _summary(one: Sampler, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "seconds": median([value for run in runs for value in run["seconds"]]),
        "tokens": median([value for run in runs for value in run["tokens"]]),
        "tokens_per_second": median(_rates(runs)),
        "memory": {name: median([run["memory"][name] for run in runs]) for name in runs[0]["memory"]},
        "dtype": runs[0]["dtype"],
        "set_as": {"static_cache": one.static_cache, "continuous": one.continuous},
    }


def _comparison(peer: str, runs: Mapping[str, results.Runs], verdict: gate.Verdict) -> dict[str, Any]:
    """Ratios of useful tokens a second, as answers end where they end; none where the gate is shut."""
    found: dict[str, Any] = {"ours": TRUING.name, "theirs": peer, "gate": verdict}
    if not verdict["agreed"]:
        return found
    mine, other = runs[TRUING.name], runs[peer]
    return found | {
        "times_faster": ratio(_rates(mine), _rates(other)),
        "memory": ratio(results.above(mine), results.above(other)),
    }


def _rates(runs: Sequence[Mapping[str, Any]]) -> list[float]:
    return [count / took for run in runs for count, took in zip(run["tokens"], run["seconds"], strict=True)]
