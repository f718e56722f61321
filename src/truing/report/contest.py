"""Several objectives on the same data: who leads, by how much, and whether the difference can be told from chance."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from truing import statistics
from truing.errors import DataError
from truing.report.sections.verdict import Evaluation
from truing.report.stages import Curve
from truing.report.view import View, view
from truing.statistics import Interval

SURE = 0.05
"""Chance that any of several equal entries is called better than another, or than the base."""


@dataclass(frozen=True)
class Entry:
    """One objective of a comparison: its evaluation, and the time and steps of its training.

    outcomes: for each held-out prompt the share of comparisons with the base that were won.
    """

    name: str
    evaluation: Evaluation
    seconds: float
    steps: int
    outcomes: list[float]

    @property
    def rate(self) -> Interval:
        """The win rate against the base."""
        if self.evaluation.win_rate is None:
            raise DataError(f"the evaluation of '{self.name}' has no win rate")
        return self.evaluation.win_rate


@dataclass(frozen=True)
class Rival:
    """The leader against another entry, prompt by prompt.

    difference: of the two win rates. chance: of so uneven a result if the two were equal, adjusted for all pairs of
    entries, since the leader was found by the same numbers. needed: prompts that would tell a difference of this size,
    where it is not told yet.
    """

    entry: Entry
    difference: Interval
    wins: int
    losses: int
    chance: float
    needed: int | None

    @property
    def told(self) -> bool:
        """Whether the leader is shown to be better."""
        return self.wins > self.losses and self.chance < SURE


def entries(run: View) -> list[Entry]:
    """The objectives of a run of `compare-objectives`, the highest win rate first."""
    found = []
    for evaluation in run.evaluations:
        name = evaluation.stage.removesuffix("-evaluation")
        trained = next(stage for stage in run.stages if stage.name == name)
        found.append(
            Entry(
                name,
                evaluation,
                trained.seconds or 0.0,
                len(trained.curves.get("loss", Curve()).steps),
                evaluation.outcomes,
            )
        )
    return sorted(found, key=lambda entry: -entry.rate.value)


def rivals(ranked: Sequence[Entry]) -> list[Rival]:
    """The leader against each other entry. Chances are adjusted by Holm's method over all pairs of entries."""
    pairs = list(itertools.combinations(ranked, 2))  # those of the leader come first
    adjusted = statistics.holm([_sign_test(*pair)[2] for pair in pairs])
    found = []
    for (leader, other), chance in zip(pairs[: len(ranked) - 1], adjusted, strict=False):
        wins, losses, _ = _sign_test(leader, other)
        free = statistics.paired_difference(leader.outcomes, other.outcomes)
        difference = replace(free, low=max(free.low, -1.0), high=min(free.high, 1.0))  # no rates differ by more
        rival = Rival(other, difference, wins, losses, chance, None)
        found.append(rival if rival.told else replace(rival, needed=_needed(leader, other, SURE / len(pairs))))
    return found


def recommendation(ranked: Sequence[Entry]) -> list[str]:
    """What the comparison allows one to say, in plain sentences."""
    if not ranked:
        return ["No objective was evaluated."]
    leader, others = ranked[0], rivals(ranked)
    sentences = [f"{leader.name} has the highest win rate against the base: {percent(leader.rate)}."]
    proven = _sure_rate(leader, len(ranked)).low > 0.5
    if not proven:
        sentences.append(f"With {len(ranked)} tried, that does not show that any is better than the base.")
    beaten = [rival.entry.name for rival in others if rival.told]
    open_ones = [rival for rival in others if not rival.told]
    if beaten:
        sentences.append(f"On the same prompts it is better than {_listed(beaten)}.")
    if open_ones:
        names = _listed([rival.entry.name for rival in open_ones])
        sentences.append(f"The difference from {names} is not distinguishable from chance.")
        known = [rival for rival in open_ones if rival.needed is not None]
        if known:
            sentences.append(
                f"About {known[0].needed:,} prompts would tell {leader.name} from {known[0].entry.name}, "
                "if the difference is as large as it looks here."
            )
        near = [leader, *(rival.entry for rival in open_ones)]
        gentle = min((entry for entry in near if entry.evaluation.kl is not None), key=_kl, default=None)
        if gentle is not None and _sure_rate(gentle, len(ranked)).low > 0.5:
            sentences.append(
                f"Of those that cannot be told apart, {gentle.name} stays nearest to the base "
                f"({_kl(gentle):.1f} nats an answer): take it unless something else speaks against it."
            )
    sentences.append("Each was trained once: intervals and chances are of these checkpoints, not of another seed's.")
    if leader.evaluation.judge == "likelihood":
        sentences.append("The judge knew no principle: give it one, or go by the held-out accuracy.")
    return sentences


def percent(rate: Interval) -> str:
    """A rate with its interval."""
    return f"{100 * rate.value:.0f} % [{100 * rate.low:.0f}, {100 * rate.high:.0f}]"


def read_entries(run_folder: Path) -> list[Entry]:
    """The objectives of a run folder, the highest win rate first."""
    return entries(view(run_folder))


def _sign_test(leader: Entry, other: Entry) -> tuple[int, int, float]:
    """Prompts on which the leader did better, and worse, and the chance of that if the two were equal."""
    if len(leader.outcomes) != len(other.outcomes):
        raise DataError(f"'{leader.name}' and '{other.name}' were evaluated on different prompts")
    wins = sum(a > b for a, b in zip(leader.outcomes, other.outcomes, strict=True))
    losses = sum(a < b for a, b in zip(leader.outcomes, other.outcomes, strict=True))
    return wins, losses, statistics.sign_test(wins, losses)


def _needed(leader: Entry, other: Entry, sure: float) -> int | None:
    """Prompts that would tell the two apart if the prompts that differ go on as they did; None where none lead."""
    wins, losses, _ = _sign_test(leader, other)
    if wins <= losses:
        return None
    decided = (wins + losses) / len(leader.outcomes)
    return round(statistics.comparisons_needed(wins / (wins + losses), confidence=1 - sure) / decided)


def _sure_rate(entry: Entry, tried: int) -> Interval:
    """The win rate, with an interval that holds for the best of several as well."""
    confidence = 1 - SURE / tried
    if set(entry.outcomes) <= {0, 0.5, 1}:
        return statistics.win_rate(entry.outcomes, confidence=confidence)
    return statistics.mean(entry.outcomes, confidence=confidence)


def _kl(entry: Entry) -> float:
    return entry.evaluation.kl.value if entry.evaluation.kl is not None else float("inf")


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
