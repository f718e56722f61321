"""docs/evidence/reward.md and its pictures from what was found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import mean, stdev

import matplotlib

from evidence.reward import MetaTrial, Size, Tenth
from truing.statistics import Interval
from truing.statistics import mean as mean_of

matplotlib.use("agg")
import matplotlib.pyplot as plt

HEAD = """# Reward models from noisy labels

`python -m evidence reward` makes this page. The claims are those of "Secrets of RLHF II" (arXiv:2401.06080), tried at
small scale where the truth is known: an answer is {words} of {letters} words, each word has a value, and the answer
with the larger sum is the better one. Of {train:,} comparisons a quarter of the labels is turned round; {clean:,} clean
ones measure. The model has two layers of width 64 and begins with random weights. Brackets are 95 % intervals.
"""


def write(
    folder: Path,
    size: Size,
    tenths: Sequence[Tenth],
    turned: Sequence[Interval],
    treated: Mapping[str, Sequence[Sequence[float]]],
    ahead: Sequence[MetaTrial],
) -> None:
    """The page with one section for each claim, each with what was found."""
    folder.mkdir(parents=True, exist_ok=True)
    _tenths_picture(tenths, folder / "reward-tenths.svg")
    _treatments_picture(treated, folder / "reward-treatments.svg")
    parts = [
        HEAD.format(words=6, letters=24, train=size.train, clean=size.clean),
        _strength_section(tenths),
        _alone_section(tenths, turned),
        _treatments_section(treated),
        _meta_section(ahead),
    ]
    (folder / "reward.md").write_text("\n".join(parts), encoding="utf-8")


def _strength_section(tenths: Sequence[Tenth]) -> str:
    shares = [one.right.value for one in tenths]
    falls = sum(later < earlier for earlier, later in pairwise(shares))
    lines = ["## The vote's strength says which labels are right", ""]
    lines += [f"Ten models vote, none on what it was trained on. {_rises(falls)}", ""]
    lines += ["| tenth, weakest first | mean strength | labels that are right | accuracy trained on it alone |"]
    lines += ["| --- | --- | --- | --- |"]
    lines += [
        f"| {place} | {one.strength:.2f} | {one.right.percent} | {one.alone.percent} |"
        for place, one in enumerate(tenths, 1)
    ]
    return "\n".join([*lines, "", "![by tenth](reward-tenths.svg)", ""])


def _rises(falls: int) -> str:
    if falls:
        return f"The share of right labels rises with the strength, but for {falls} of nine steps."
    return "The share of right labels rises with the strength at every step."


def _alone_section(tenths: Sequence[Tenth], turned: Sequence[Interval]) -> str:
    lines = ["## Training on the weakest tenth teaches the contrary; turned round it teaches the truth", ""]
    lines += ["| tenth | as labelled | turned round |", "| --- | --- | --- |"]
    lines += [
        f"| {place} | {one.alone.percent} | {other.percent} |"
        for place, (one, other) in enumerate(zip(tenths, turned, strict=False), 1)
    ]
    worst = "below chance" if tenths[0].alone.high < 0.5 else "not clearly below chance"
    back = "above it" if turned[0].low > 0.5 else "not clearly above it"
    return "\n".join([*lines, "", f"The weakest tenth as labelled is {worst}, turned round {back}.", ""])


def _treatments_section(treated: Mapping[str, Sequence[Sequence[float]]]) -> str:
    lines = ["## Treatments of all labels", "", "Accuracy on clean comparisons, mean and interval over seeds:", ""]
    lines += [
        "| treatment | best epoch | its accuracy | last epoch | lost since the best |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, runs in treated.items():
        epochs = [mean(run[epoch] for run in runs) for epoch in range(len(runs[0]))]
        best = max(range(len(epochs)), key=epochs.__getitem__)
        lost = mean_of([run[best] - run[-1] for run in runs])
        first, last = (mean_of([run[epoch] for run in runs]).percent for epoch in (best, -1))
        lines.append(f"| {name} | {best + 1} | {first} | {last} | {_points(lost)} |")
    plain = [run[-1] for run in treated["plain"]]
    lines += [
        "",
        "At the last epoch, over plain labels, by seed:",
        "",
        "| treatment | points gained |",
        "| --- | --- |",
    ]
    for name, runs in treated.items():
        if name != "plain":
            gain = mean_of([run[-1] - other for run, other in zip(runs, plain, strict=True)])
            lines.append(f"| {name} | {_points(gain)} |")
    return "\n".join([*lines, "", "![by epoch](reward-treatments.svg)", ""])


def _meta_section(ahead: Sequence[MetaTrial]) -> str:
    lines = ["## MetaRM: do unlabelled answers lie further apart?", ""]
    lines += ["Mean deviation of the scores of one prompt's answers, on the labels as they are:", ""]
    lines += ["| rate of the look-ahead | deviation | accuracy |", "| --- | --- | --- |"]
    for one in ahead:
        name = "none" if one.rate < 1e-9 else f"{one.rate:g}"
        lines.append(f"| {name} | {mean_of(one.deviation)} | {mean_of(one.accuracy).percent} |")
    return "\n".join([*lines, ""])


def _points(change: Interval) -> str:
    return f"{100 * change.value:.1f} [{100 * change.low:.1f}, {100 * change.high:.1f}]"


def _tenths_picture(tenths: Sequence[Tenth], path: Path) -> None:
    figure, axes = plt.subplots(figsize=(6, 3))
    places = range(1, len(tenths) + 1)
    for name, own in (("labels that are right", "right"), ("accuracy, trained on it alone", "alone")):
        found = [getattr(one, own) for one in tenths]
        low, high = [one.value - one.low for one in found], [one.high - one.value for one in found]
        axes.errorbar(places, [one.value for one in found], [low, high], marker="o", capsize=2, label=name)
    axes.axhline(0.5, color="#888888", linestyle="--", linewidth=0.8)
    axes.set_xlabel("tenth of the comparisons, weakest first")
    axes.legend()
    _save(figure, path)


def _treatments_picture(treated: Mapping[str, Sequence[Sequence[float]]], path: Path) -> None:
    figure, axes = plt.subplots(figsize=(6, 3.5))
    for name, runs in treated.items():
        epochs = range(1, len(runs[0]) + 1)
        middle = [mean(run[epoch - 1] for run in runs) for epoch in epochs]
        scatter = [stdev(run[epoch - 1] for run in runs) if len(runs) > 1 else 0.0 for epoch in epochs]
        axes.errorbar(epochs, middle, scatter, capsize=2, linewidth=1, label=name)
    axes.set_xlabel("epoch")
    axes.set_ylabel("accuracy on clean comparisons")
    axes.legend(fontsize=7)
    _save(figure, path)


def _save(figure: plt.Figure, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
