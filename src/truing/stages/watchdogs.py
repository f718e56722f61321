"""Watchdogs of online learning: they end a training whose numbers have left the limits that the recipe sets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from truing.algorithms import BoundAlgorithm, every_group
from truing.errors import ConfigError, did_you_mean
from truing.report.health import HEALTHY, Range, heading
from truing.scoring.scorers import is_ensemble

Limit = float | tuple[float, float]
"""The end of a one-sided limit, or both ends, as a recipe has it."""

BY_UPDATE = ("ratio", "ratio/clipped", "kl/behaviour", "value/clipped")
"""Numbers of updates, of which a watchdog sees the mean over a rollout's updates, once they are done."""

OF_REFERENCE = ("kl", "perplexity/start")
"""Numbers for which the model as it began reads the answers too."""


def spelled_out(table: Any) -> dict[str, Limit]:
    """`{ kl = true, ratio = [0.4, 3] }` with the limit of docs/health.md in place of `true`, and without `false`."""
    if not isinstance(table, Mapping):
        raise ConfigError(f"stop is a table of limits, such as stop = {{ kl = 50 }}; found {table!r}")
    return {str(name): _limit(str(name), value) for name, value in table.items() if value is not False}


def demand_measured(names: Iterable[str], algorithm: BoundAlgorithm, updates: int, scorer: Mapping[str, Any]) -> None:
    """A limit of a number that the run does not measure, or that cannot move in it, is a mistake.

    updates: optimizer steps that learn from one rollout.
    """
    for name in names:
        lacking = _lacking(name, algorithm, updates, scorer)
        if lacking:
            raise ConfigError(f"stop.{name}: this run has no use for it: {lacking}; or take it out")


@dataclass(frozen=True, slots=True)
class Alarm:
    """A number that has been out of its limit for so many rollouts in a row, this one included.

    rollout: in which it was measured, counted from 1; numbers of updates are looked at as the next one begins.
    """

    name: str
    value: float
    limit: Range
    rollout: int
    times: int

    @property
    def words(self) -> str:
        """What was measured, the limit, what it usually means, and what to do."""
        again = f", as in the {self.times - 1} before" if self.times > 1 else ""
        return (
            f"rollout {self.rollout}: {self.name} ({heading(self.name)}) is {self.value:.4g}{again}, and the limit "
            f"stop.{self.name} is {self.limit.words}: training ends here, and the policy as it is becomes the result. "
            f"{HEALTHY[self.name].outside} To go on nevertheless, move the limit"
        )

    @property
    def facts(self) -> dict[str, Any]:
        """The same for programs."""
        ends = {"low": self.limit.low, "high": self.limit.high}
        return {"reason": self.name, "rollout": self.rollout, "value": self.value, **ends, "rollouts": self.times}


class Watchdogs:
    """What became of each watched number so far.

    limits: by name. patience: rollouts in a row that must lie out of a limit. memory: what the caller carries from step
    to step and checkpoints keep, in which all that is remembered stands.
    """

    def __init__(self, limits: Mapping[str, Limit], patience: int, memory: dict[str, Tensor]) -> None:
        self._limits = {name: range_of(name, limits[name]) for name in sorted(limits)}
        self._patience, self._memory = patience, memory
        self._memory["watch/rollout"] = torch.tensor(-1)
        self._memory["watch/times"] = torch.zeros(len(limits), dtype=torch.long)
        self._forget_updates()

    def learnt(self, metrics: Mapping[str, float], *, awake: bool) -> None:
        """Takes in the means of one update; nothing while the critic warms up, as in `alarm`."""
        if not awake:
            return
        seen = [float(metrics[name]) if name in metrics else None for name in BY_UPDATE]
        amounts = torch.tensor([0.0 if one is None else one for one in seen], dtype=torch.float64)
        counts = torch.tensor([0.0 if one is None else 1.0 for one in seen], dtype=torch.float64)
        self._memory["watch/updates"] = self._memory["watch/updates"] + torch.stack((amounts, counts))

    def alarm(self, number: int, about: Mapping[str, float], *, awake: bool) -> Alarm | None:
        """The first number by name that has now been out of its limit often enough, where there is one.

        number: of the rollout that begins, counted from 0; asked again about the same one, nothing changes. about: what
        it tells. awake: whether the policy learns already; while the critic warms up nothing counts.
        """
        if number <= int(self._memory["watch/rollout"]):
            return None
        amounts, counts = self._memory["watch/updates"].tolist()
        measured = dict(about)
        measured |= {name: a / n for name, a, n in zip(BY_UPDATE, amounts, counts, strict=True) if n}
        times = self._memory["watch/times"].tolist()
        alarms = []
        for place, (name, limit) in enumerate(self._limits.items()):
            if name not in measured or not awake:
                continue
            times[place] = 0 if limit.holds(measured[name]) else times[place] + 1
            if times[place] >= self._patience:
                measured_in = number if name in BY_UPDATE else number + 1
                alarms.append(Alarm(name, measured[name], limit, measured_in, times[place]))
        self._memory["watch/rollout"] = torch.tensor(number)
        self._memory["watch/times"] = torch.tensor(times, dtype=torch.long)
        self._forget_updates()
        return alarms[0] if alarms else None

    def _forget_updates(self) -> None:
        """Sums and counts of the means of updates, [2, BY_UPDATE]."""
        self._memory["watch/updates"] = torch.zeros(2, len(BY_UPDATE), dtype=torch.float64)


def beside_the_start(number: int, about: Mapping[str, float], memory: dict[str, Tensor]) -> dict[str, float]:
    """Length and perplexity of a rollout, of those of the first one, which are kept in what checkpoints keep.

    number: of the rollout, counted from 0.
    """
    names = [name for name in ("length", "perplexity") if name in about]
    if number == 0:
        memory |= {f"start/{name}": torch.tensor(about[name], dtype=torch.float64) for name in names}
    return {f"{name}/start": about[name] / float(memory[f"start/{name}"]) for name in names}


def disagreement(score: Tensor, deviation: Tensor) -> dict[str, float]:
    """How far the parts of an ensemble are apart, beside how far answers are: 0 to 1; nothing where nobody knows.

    m / (m + v), with m the mean of the squared deviations and v the variance of the scores

    score, deviation: of each answer, [C], the latter NaN where it is not known.
    """
    known = ~deviation.isnan()
    if not known.any():
        return {}
    within = float(deviation[known].double().square().mean())
    total = within + float(score[known].double().var(correction=0))
    return {"reward/disagreement": within / total if total > 0 else 0.0}


def range_of(name: str, limit: Limit) -> Range:
    """The limit with its missing end."""
    if isinstance(limit, tuple | list):
        return Range(*limit)
    return Range(limit, None) if HEALTHY[name].limit.high is None else Range(None, limit)


def _limit(name: str, value: Any) -> Limit:
    """As the recipe keeps it: one end, or both in their order."""
    if name not in HEALTHY:
        raise ConfigError(f"stop.{name}: no number of this name is watched{did_you_mean(name, HEALTHY)}")
    usual = HEALTHY[name].limit
    ends = [end for end in (usual.low, usual.high) if end is not None]
    found = ends if value is True else list(value) if isinstance(value, list | tuple) else [value]
    if len(found) != len(ends) or not all(isinstance(one, int | float) for one in found) or found != sorted(found):
        form = f"two numbers, such as {ends}" if len(ends) == 2 else f"a number, such as {ends[0]:g}"
        raise ConfigError(f"stop.{name}: found {value!r}: write {form}, or true for {usual.words}")
    return (float(found[0]), float(found[1])) if len(found) == 2 else float(found[0])


def _lacking(name: str, algorithm: BoundAlgorithm, updates: int, scorer: Mapping[str, Any]) -> str:
    """Why a number is not measured, or always the same; nothing where it is worth watching."""
    if name in ("explained_variance", "value/clipped") and not algorithm.needs_critic:
        return f"algorithm '{algorithm.name}' has no critic: take one that has, such as ppo_max"
    if name == "value/clipped" and algorithm.options.get("value_range") is None:
        return "value_range is none, so that no value is held back: set it"
    if name in ("ratio", "ratio/clipped", "kl/behaviour") and not algorithm.needs("behaviour"):
        return f"the loss of '{algorithm.name}' has no ratio: take an algorithm that clips one, such as ppo_max"
    if name in BY_UPDATE and updates == 1:
        return "with one update a rollout nothing has moved when it is measured: raise epochs, or lower batch_size"
    if name == "accepted" and algorithm.algorithm.acceptance is every_group and not algorithm.pairs_answers:
        return f"'{algorithm.name}' learns from all answers: take an algorithm that drops groups, such as dapo"
    if name == "reward/disagreement" and not is_ensemble(scorer):
        return 'the scorer is no ensemble: name "ensemble", or a reward model with members'
    return ""
