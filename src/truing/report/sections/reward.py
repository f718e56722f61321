"""How far a reward model can be trusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from truing.report import charts, words
from truing.report.charts import Line, Points
from truing.report.figures import Figure
from truing.report.reading import interval, known, mapping
from truing.report.sections.section import Section
from truing.statistics import Interval


@dataclass(frozen=True)
class Bin:
    """Comparisons that are near each other in strength or length, and how often a reward model is right on them."""

    low: float
    high: float
    mean: float
    accuracy: Interval


@dataclass(frozen=True)
class Reward:
    """What `reward.json` of one evaluate_reward stage says.

    scorer: its name where it is no reward model. unit: of lengths, tokens or words. orders: how often a judge of two
    answers says the same in both orders. replies, unread: of a judge that writes, all of them, and by reason those that
    say nothing.
    longer: accuracy of "the longer one is better"; over_longer: the model's accuracy less that. curve: predicted shares
    with observed ones. gap: mean score of chosen answers less that of rejected ones. best_of: KL of the best of n
    answers, its own score and the gold one. exact, best_of_highest, spearman, kendall: of whole rankings, where all
    pairs are compared.
    """

    stage: str
    verdict: str
    prompts: int
    comparisons: int
    ties: int
    unused: dict[str, int]
    accuracy: Interval
    by_strength: list[Bin]
    by_length: list[Bin]
    by_source: dict[str, Interval]
    categories: dict[str, Interval]
    categories_mean: Interval | None
    error: float
    error_by_chance: float
    curve: list[tuple[float, Interval]]
    log_loss: Interval
    log_loss_mended: Interval | None
    brier: Interval
    temperature: Interval | None
    correlation: Interval | None
    balanced: Interval | None
    longer: Interval
    constant: float
    over_longer: Interval
    answers: int
    mean: float
    deviation: float
    gap: Interval
    best_of: list[tuple[float, Interval, Interval]]
    scorer: str
    unit: str
    orders: Interval | None
    replies: int
    unread: dict[str, int]
    exact: Interval | None
    best_of_highest: Interval | None
    spearman: Interval | None
    kendall: Interval | None


def read(stage: str, found: Mapping[str, Any]) -> Reward:
    """As `reward.json` says it."""
    calibration, length, scores = found["calibration"], found["length"], found["scores"]
    categories, replies = mapping(found["categories"]), mapping(found.get("replies"))
    rankings = mapping(found.get("rankings"))
    return Reward(
        stage=stage,
        verdict=str(found["verdict"]),
        prompts=int(found["prompts"]),
        comparisons=int(found["comparisons"]),
        ties=int(found["ties"]),
        unused=mapping(found["unused"]),
        accuracy=known(found["accuracy"]),
        by_strength=[_bin(one) for one in found["by_strength"]],
        by_length=[_bin(one) for one in found["by_length"]],
        by_source={name: known(one) for name, one in found["by_source"].items()},
        categories={name: known(one) for name, one in mapping(categories.get("accuracy")).items()},
        categories_mean=interval(categories.get("mean")),
        error=float(calibration["error"]),
        error_by_chance=float(calibration["error_by_chance"]),
        curve=[(float(one["predicted"]), known(one["observed"])) for one in calibration["curve"]],
        log_loss=known(calibration["log_loss"]),
        log_loss_mended=interval(calibration["log_loss_mended"]),
        brier=known(calibration["brier"]),
        temperature=interval(calibration["temperature"]),
        correlation=interval(length["correlation"]),
        balanced=interval(length["balanced"]),
        longer=known(length["longer"]),
        constant=float(length["constant"]),
        over_longer=known(length["over_longer"]),
        answers=int(scores["answers"]),
        mean=float(scores["mean"]),
        deviation=float(scores["deviation"]),
        gap=known(scores["gap"]),
        best_of=[(float(one["kl"]), known(one["proxy"]), known(one["gold"])) for one in found.get("best_of", [])],
        scorer=str(found.get("scorer") or ""),
        unit=str(found.get("unit", "tokens")),
        orders=interval(found.get("orders")),
        replies=int(replies.get("asked", 0)),
        unread=mapping(replies.get("unread")),
        exact=interval(rankings.get("exact")),
        best_of_highest=interval(rankings.get("best_of_highest")),
        spearman=interval(rankings.get("spearman")),
        kendall=interval(rankings.get("kendall")),
    )


def _bin(found: Mapping[str, Any]) -> Bin:
    return Bin(float(found["low"]), float(found["high"]), float(found["mean"]), known(found["accuracy"]))


def figures(reward: Reward) -> list[Figure]:
    """Whether its probabilities are so, and how often it is right by strength and by length."""
    found = [_reliability_figure(reward)]
    if len(reward.by_strength) > 1:
        found.append(_strength_figure(reward.by_strength))
    if len(reward.by_length) > 1:
        found.append(_longer_figure(reward.by_length, reward.unit))
    if reward.best_of:
        found.append(_best_of_figure(reward))
    return found


def _reliability_figure(reward: Reward) -> Figure:
    said = [100 * predicted for predicted, _ in reward.curve]
    points = Points("observed", "policy", said, [observed for _, observed in reward.curve], "where it says {} %")
    chart = charts.line_chart(
        "Observed share by predicted probability", [Line("right", "base", [0, 100], [0, 1], "values")], [points]
    )
    return Figure(
        "What it says and what is so",
        f"off by {100 * reward.error:.1f} points, by chance {100 * reward.error_by_chance:.1f}",
        "The answers of each comparison in an order drawn by chance. Across: the probability, in per cent, that the "
        "first one is the chosen one. Up: how often it is. Flatter than the line is too sure, steeper not sure enough.",
        chart,
        (("policy", "observed, with interval"), ("base", "as it should be")),
    )


def _strength_figure(bins: Sequence[Bin]) -> Figure:
    counts = [one.accuracy.n for one in bins]
    middle = [100 * (sum(counts[:place]) + counts[place] / 2) / sum(counts) for place in range(len(counts))]
    points = Points("accuracy", "policy", middle, [one.accuracy for one in bins], "at percentile {}")
    return Figure(
        "Accuracy by strength of preference",
        f"strengths from {words.number(bins[0].low)} to {words.number(bins[-1].high)}",
        "By percentile of the comparisons, the weakest first; half (dashed) is a coin. It should rise.",
        charts.line_chart("Accuracy by percentile of strength", [], [points], rule=0.5),
    )


def _longer_figure(bins: Sequence[Bin], unit: str) -> Figure:
    points = Points(
        "accuracy", "policy", [one.mean for one in bins], [one.accuracy for one in bins], f"at {{}} {unit} more"
    )
    return Figure(
        "Accuracy by length",
        "",
        f"By {unit} that the chosen answer has more than the rejected one; half (dashed) is a coin. High on the right "
        "and low on the left, it likes length.",
        charts.line_chart("Accuracy by length of the chosen answer", [], [points], rule=0.5),
    )


def _best_of_figure(reward: Reward) -> Figure:
    kl = [one for one, _, _ in reward.best_of]
    sides = {
        "policy": ("its own score", [proxy for _, proxy, _ in reward.best_of]),
        "base": ("gold score", [gold for _, _, gold in reward.best_of]),
    }
    lines = [Line(name, tone, kl, [one.value for one in values], "values") for tone, (name, values) in sides.items()]
    points = [Points(name, tone, kl, values, "at {} nats") for tone, (name, values) in sides.items()]
    return Figure(
        "The best of n answers",
        "",
        "In deviations of all answers, by the KL from the policy that drew them. Where the gold score falls back while "
        "its own rises, the model is over-optimised.",
        charts.line_chart("Scores of the best of n answers by KL", lines, points, rule=0.0),
        [(tone, name) for tone, (name, _) in sides.items()],
    )


SECTION = Section("reward", "Reward model", "reward.json", read, figures)
