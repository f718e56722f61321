"""How strongly reward models agree with the labels, and which labels are probably wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from truing.report import charts
from truing.report.charts import Line
from truing.report.figures import Figure
from truing.report.reading import interval, mapping, turns
from truing.report.sections.section import Section
from truing.statistics import Interval


@dataclass(frozen=True)
class Voted:
    """A comparison as an audit's models see it."""

    place: str
    prompt: list[tuple[str, str]]
    chosen: str
    rejected: str
    mean: float
    deviation: float
    for_label: float
    fate: str


@dataclass(frozen=True)
class Audit:
    """What `audit.json` of one audit stage says.

    ordered: mean differences at even steps through the comparisons. bins, deciles: means over pieces of that order, of
    the mean, the deviation and the share of models that agree with the label.
    """

    stage: str
    comparisons: int
    members: int
    folds: int
    agreement: Interval | None
    fates: dict[str, int]
    ordered: list[float]
    bins: list[dict[str, float]]
    deciles: list[dict[str, float]]
    examples: dict[str, list[Voted]]


def read(stage: str, found: Mapping[str, Any]) -> Audit:
    """As `audit.json` says it."""
    return Audit(
        stage=stage,
        comparisons=int(found["comparisons"]),
        members=int(found["members"]),
        folds=int(found["folds"]),
        agreement=interval(found["agree_with_label"]),
        fates=mapping(found["fates"]),
        ordered=[float(value) for value in found["sorted"]],
        bins=list(found["bins"]),
        deciles=list(found["deciles"]),
        examples={kind: [_voted(example) for example in found[kind]] for kind in ("wrong", "ambiguous", "strong")},
    )


def _voted(example: Mapping[str, Any]) -> Voted:
    names = ("place", "chosen", "rejected", "mean", "deviation", "for_label", "fate")
    return Voted(prompt=turns(example["prompt"]), **{name: example[name] for name in names})


def figures(audit: Audit) -> list[Figure]:
    """The strengths in order, how far the models are apart along them, and how many of them agree with the label."""
    percentiles = list(np.linspace(0, 100, len(audit.ordered)))
    middle = [100 * (place + 0.5) / len(audit.bins) for place in range(len(audit.bins))]
    tenths = [100 * (place + 0.5) / len(audit.deciles) for place in range(len(audit.deciles))]
    below = 100 * sum(value < 0 for value in audit.ordered) / len(audit.ordered)
    means = Line("mean", "policy", percentiles, audit.ordered, "values")
    apart = Line("deviation", "policy", middle, [one["deviation"] for one in audit.bins], "values")
    agree = Line("agree", "policy", tenths, [100 * one["for_label"] for one in audit.deciles], "values")
    return [
        Figure(
            "Preference strength, weakest first",
            f"{below:.0f} % below 0",
            "Mean difference of the rewards over the models. Below 0 (dashed) they side with the rejected answer: such "
            "labels are probably wrong. Near 0 they see no difference.",
            charts.line_chart("Preference strength by percentile of the comparisons", [means], rule=0.0),
        ),
        Figure(
            "Deviation between the models",
            "",
            "Along the same order. In the paper it is high at both ends (arXiv:2401.06080).",
            charts.line_chart("Deviation by percentile", [apart]),
        ),
        Figure(
            "Models that agree with the label",
            "per cent, by tenth of the comparisons",
            "Half (dashed) is a coin.",
            charts.line_chart("Agreement by tenth of the comparisons", [agree], rule=50.0),
        ),
    ]


SECTION = Section("audit", "Audit", "audit.json", read, figures)
