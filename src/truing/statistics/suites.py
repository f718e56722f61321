"""One model beside its base in many respects: each number with its interval, and what the model lost."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple

from truing.errors import DataError
from truing.statistics.chances import holm, mcnemar, sign_test, t_test
from truing.statistics.intervals import Interval, per_prompt
from truing.statistics.means import mean, paired_difference
from truing.statistics.rates import exact_proportion, share_difference, win_rate

Better = Literal["higher", "lower", "neither"]
Scale = Literal["share", "number"]
SURE = 0.05
"""A difference is called real where its chance, adjusted for their number, is below this."""


@dataclass(frozen=True)
class Measured:
    """One number of a model beside the same of its base.

    name: of the measurement. what: which number of it. better: which way is better; one that is neither is not tested.
    base, difference: None where a model is measured alone; of a win rate the base is a coin. difference: paired, model
    less base. chance: that a difference at least as large arises where there is none. about: more of the same answers.
    margin: a loss that is accepted, and not named.
    """

    name: str
    what: str
    scale: Scale
    better: Better
    model: Interval
    base: Interval | None = None
    difference: Interval | None = None
    chance: float | None = None
    about: Mapping[str, Interval] = field(default_factory=dict)
    margin: float = 0.0

    @property
    def plain(self) -> dict[str, Any]:
        """As it is stored in files."""
        return asdict(self)

    @classmethod
    def stored(cls, found: Mapping[str, Any]) -> Measured:
        """The inverse of `plain`."""
        one = {name: Interval(**found[name]) if found[name] else None for name in ("model", "base", "difference")}
        about = {name: Interval(**interval) for name, interval in found["about"].items()}
        return cls(**{**found, **one, "about": about})

    @property
    def gain(self) -> Interval | None:
        """The difference as a gain: above 0 is better. None where nothing says what is better, or by how much."""
        found = self.difference
        if found is None or self.better == "neither":
            return None
        if self.better == "higher":
            return found
        return Interval(-found.value, -found.high, -found.low, found.n, found.confidence)

    def scale_of(self, name: str) -> Scale:
        """The scale of what stands beside the number under this name: its own, but for lengths."""
        return "number" if "words" in name else self.scale

    def said(self, interval: Interval | None, *, gap: bool = False) -> str:
        """An interval on the measurement's scale; a gap between two shares is in points."""
        if interval is None:
            return "–"
        if self.scale == "number":
            return str(interval)
        return interval.percent.replace(" %", " points") if gap else interval.percent


class Guarded(NamedTuple):
    """What a guard found. adjusted: of each measurement its chance by Holm; None where it is not tested.

    lost, gained: places of those that are surely worse, and surely better, than the base.
    """

    adjusted: list[float | None]
    lost: list[int]
    gained: list[int]


def shares(
    name: str,
    what: str,
    better: Better,
    hits: Sequence[float],
    base: Sequence[float] | None,
    prompts: Sequence[Hashable],
) -> Measured:
    """How often something is so, 1 or 0 of each answer; of one answer a prompt with exact intervals.

    With several answers to a prompt each prompt counts once, and the interval is that of `win_rate`. The chance is that
    of McNemar's exact test, over the prompts on which one model does better than the other.
    """
    if base is None:
        return Measured(name, what, "share", better, _share(hits, prompts))
    ours, theirs = (per_prompt(side, prompts)[0] for side in (hits, base))
    found = mcnemar((ours > theirs).tolist(), (theirs > ours).tolist())
    gap = share_difference(hits, base, prompts=prompts)
    return Measured(name, what, "share", better, _share(hits, prompts), _share(base, prompts), gap, found.chance)


def means(
    name: str,
    what: str,
    better: Better,
    values: Sequence[float],
    base: Sequence[float] | None,
    prompts: Sequence[Hashable],
    weights: Sequence[float] | None = None,
) -> Measured:
    """A number of each answer or text, by its mean. The chance is that of the paired t-test."""
    ours = mean(values, prompts=prompts, weights=weights)
    if base is None:
        return Measured(name, what, "number", better, ours)
    theirs = mean(base, prompts=prompts, weights=weights)
    gaps = [after - before for after, before in zip(values, base, strict=True)]
    chance = t_test(gaps, prompts=prompts, weights=weights)
    gap = paired_difference(values, base, prompts=prompts, weights=weights)
    return Measured(name, what, "number", better, ours, theirs, gap, chance)


def wins(name: str, outcomes: Sequence[float], prompts: Sequence[Hashable], about: Mapping[str, Interval]) -> Measured:
    """How often the model's answer beats the base's, against a coin; ties count half."""
    rate = win_rate(outcomes, prompts=prompts)
    rates, _ = per_prompt(outcomes, prompts)
    chance = sign_test(int((rates > 0.5).sum()), int((rates < 0.5).sum()))
    gap = Interval(rate.value - 0.5, rate.low - 0.5, rate.high - 0.5, rate.n)
    return Measured(name, "win rate", "share", "higher", rate, Interval(0.5, 0.5, 0.5, 0), gap, chance, about)


def guarded(rows: Sequence[Measured]) -> Guarded:
    """Which measurements say that the model is worse or better than its base: beyond zero, or a margin of loss, with
    the interval of the difference, and beyond chance for as many tests as there are (Holm 1979).
    """
    tested = [
        (place, row.gain, row.margin, row.chance)
        for place, row in enumerate(rows)
        if row.gain is not None and row.chance is not None
    ]
    adjusted: list[float | None] = [None] * len(rows)
    lost, gained = [], []
    for (place, gain, margin, _), chance in zip(tested, holm([one[-1] for one in tested]), strict=True):
        adjusted[place] = chance
        if chance < SURE and gain.high < -margin:
            lost.append(place)
        if chance < SURE and gain.low > 0:
            gained.append(place)
    return Guarded(adjusted, lost, gained)


def verdict(rows: Sequence[Measured]) -> str:
    """What a suite says of a model, in one line: what it lost and gained, or where a loss is least ruled out."""
    if not rows:
        raise DataError("a verdict on no measurement does not exist")
    adjusted, lost, gained = guarded(rows)
    tests = sum(chance is not None for chance in adjusted)
    if not tests:
        return "; ".join(f"{row.name}: {row.what} {row.said(row.model)}" for row in rows)

    def named(places: Sequence[int]) -> str:
        return ", ".join(f"{rows[place].name} ({_change(rows[place])}, p = {adjusted[place]:.2g})" for place in places)

    better = [f"gained: {named(gained)}"] if gained else []
    if lost:
        return "; ".join([f"lost against the base: {named(lost)}", *better])
    unsure = min((row for row in rows if row.gain is not None), key=_place_of_gain)
    doubt = [f"least ruled out: {unsure.name} ({_change(unsure)})"] if _place_of_gain(unsure) < 1 else []
    return "; ".join([f"no loss shown in {tests} test{'s' * (tests > 1)}", *better, *doubt])


def _change(row: Measured) -> str:
    """The difference in words: `accuracy -20 points [-35, -5]`."""
    return f"{row.what} {row.said(row.difference, gap=True)}"


def _place_of_gain(row: Measured) -> float:
    """How far above 0 a gain lies, in half widths of its interval, so that gains on different scales compare."""
    gain = row.gain
    assert gain is not None, "only differences are asked for"
    half = (gain.high - gain.low) / 2
    if not math.isfinite(half):
        return -math.inf
    return gain.value / half if half > 0 else math.inf


def _share(hits: Sequence[float], prompts: Sequence[Hashable]) -> Interval:
    if len(set(prompts)) == len(prompts):
        return exact_proportion(round(sum(hits)), len(hits))
    return win_rate(hits, prompts=prompts)
