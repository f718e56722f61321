"""docs/evidence/online.md and its pictures from the pieces in online.json, whichever of them are there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from scipy.stats import fisher_exact

from evidence import running, tradeoff
from evidence.ablation import (
    ALL,
    ALONE,
    BESIDE,
    MIXTURE,
    PLAIN,
    Arm,
    breaking_rate,
    common_faults,
    faults,
    late,
    runs,
    start,
)
from evidence.found import Found
from evidence.frontier import BEST_OF, DPO, METHODS
from evidence.telling import machines, mean, save, signed
from truing import statistics
from truing.statistics import Interval

matplotlib.use("agg")
import matplotlib.pyplot as plt

KEPT = "online.json"
BUDGETS = (0.5, 1.0, 2.0, 4.0, 8.0)
"""KLs in nats an answer at which methods are compared."""

LINE = 200
"""Points of a line in a picture."""

HEAD = """# Learning online, measured

`python -m evidence online --data FOLDER` measures what stands here, a part at a time, and `python -m evidence page`
writes it again from [online.json](online.json), which holds numbers and no text. Brackets are 95 % intervals. KL is of
whole answers, in nats, from the model that learning began with.
"""

TOY = """
The first two parts are small on purpose: a decoder of {layers} layers and width {width} with {vocabulary:,} tokens,
which has learnt nothing but to go on with openings of reviews (two to four words; UCI's labelled sentences). The true
reward is the log odds of praise by a logistic regression on the words of all these sentences, read off the
continuation. What is measured are {held_out} openings that no training saw, four answers to each.
"""

ABLATION = """## What are PPO-max's measures for?

PPO with four epochs on each rollout of 32 answers, {rollouts} rollouts, by a reward model that learnt from comparisons
by the true reward (below). Its scores are made rough: ten times as large, with ten times noise of Student's t with two
degrees of freedom, the same for the same answer. The tables have the true reward of held-out answers at the end. A
training is stable if it came to its end; if over its last quarter each of KL, entropy, share of clipped tokens and KL
of one rollout's updates lies in its [healthy range](../health.md), of which the third is 0 where nothing is clipped;
and if its answers are better than those it began with ({start:.2f}). The learning rate of the second table is the
lowest at which less than half of the trainings without any measure are stable, or the highest tried. It was not chosen
for any one measure, nor was anything else. Intervals are of seeds, few as they are.
"""

ONE_OUT = (
    """One measure taken out at a time, at {rate:g}; gained is the reward less that of all measures, seed by seed:"""
)
TWO_OUT = """The same without the mixture, which holds the policy near the reference and hides what the others do;
gained is the reward less that without the mixture alone:"""

FRONTIER = """## Reward against KL

The controlled-sentiment experiment of the DPO paper (arXiv:2305.18290, section 6.1), in small: four answers of the
reference to each of {openings:,} openings, {comparisons:,} comparisons by the true reward. DPO, unlikelihood and
fine-tuning on the better answers learn from these, and so does a reward model, which sides with the truth on
{accuracy} of held-out comparisons. PPO is `ppo_max` by that model or by the true reward; the best of n answers is
chosen by either, at a KL of log n - (n - 1) / n. Each setting is trained at two learning rates with {seeds} seeds;
ranges are of a bootstrap over openings and seeds. Rates and prices were chosen after a look at one seed of DPO and PPO.
Where the paper steers PPO's KL to a target, the price of a nat is fixed here, in deviations of the reward: steered, so
short a training overshot the target and came back to it without the reward.
"""

REAL = """## A real model

SmolLM2-135M-Instruct, all weights trained, eight answers to each of eight prompts in a rollout. Sentiment: openings of
reviews are gone on with, and the reward is VADER's compound, from -1 to 1, which knows words and no sense. Arithmetic:
short sums, differences and products, and the reward is 1 where the result is right. The reward before and after is of
one answer to each held-out prompt; brackets count prompts. KL is that of the last rollout; tokens and ended are the
mean length of answers and the share that came to its end before the limit, in the first rollout and in the last.
Minutes are of the whole stage. One seed each.
"""


def write(folder: Path) -> None:
    """The page with a section for whatever was found."""
    found = Found(folder / KEPT)
    parts = [HEAD, *machines(found)]
    if any(name in found.pieces for name in ("ablation/reference", "frontier/reference")):
        parts.append(TOY.format(**found.pieces["size"]).lstrip())
    if any(found.under("ablation", f"{rate:g}") for rate in _rates(found)):
        parts.append(_ablation_section(found))
        _ablation_picture(found, folder / "online-ablation.svg")
        _course_picture(found, folder / "online-course.svg")
    some = tradeoff.curves(found)
    if DPO.name in some and BEST_OF.keys() <= some.keys():
        again = tradeoff.drawn(some)
        parts.append(_frontier_section(found, some, again))
        _frontier_picture(some, again, folder / "online-frontier.svg")
    if any(found.under("real")):
        parts.append(_real_section(found))
        _real_picture(found, folder / "online-real.svg")
    (folder / "online.md").write_text("\n".join(parts), encoding="utf-8")


def _rates(found: Found) -> list[float]:
    """The learning rates of the ablation."""
    return sorted({float(rate) for (rate, *rest), _ in found.under("ablation") if rest})


def _ablation_section(found: Found) -> str:
    began, hot = start(found), breaking_rate(found)
    lines = [ABLATION.format(rollouts=found.pieces["size"]["rough"], start=began)]
    lines += ["| learning rate | measures | stable | true reward | KL at the end | what was out of range |"]
    lines += [f"|{' --- |' * 6}"]
    for rate in _rates(found):
        lines += [f"| {rate:g} | {arm.name} | {_outcome(found, rate, arm)} |" for arm in (ALL, PLAIN)]
    lines += ["", _said_of_all(found, hot), ""]
    for base, arms, words in ((ALL, ALONE, ONE_OUT), (MIXTURE, BESIDE, TWO_OUT)):
        measured = [arm for arm in arms if runs(found, hot, arm) and runs(found, hot, base)]
        if measured:
            lines += [words.format(rate=hot), ""]
            lines += ["| without | stable | true reward | KL at the end | what was out of range | reward gained |"]
            lines += [f"|{' --- |' * 6}"]
            lines += [
                f"| {arm.name} | {_outcome(found, hot, arm)} | {_lead(found, hot, arm, base)} |" for arm in measured
            ]
            lines += ["", _said_alone(found, hot, measured, base), ""]
    return "\n".join([*lines, "![rewards](online-ablation.svg)", "", "![courses](online-course.svg)", ""])


def _outcome(found: Found, rate: float, arm: Arm) -> str:
    """What became of the trainings of an arm, as columns."""
    some, began = runs(found, rate, arm), start(found)
    stable = sum(not faults(run, began) for run in some)
    ended = [run for run in some if "broke" not in run]
    kls = [value for run in some if (value := late(run, "kl")) is not None]
    reward = mean([run["reward"] for run in ended]) if ended else "none ended"
    why = ", ".join(common_faults(some, began))
    return f"{stable} of {len(some)} | {reward} | {mean(kls)} | {why}"


def lead(found: Found, rate: float, arm: Arm, base: Arm) -> Interval | None:
    """How much more true reward an arm has than the one it is taken out of, seed by seed; None without two seeds."""
    both = [
        (run["reward"], other["reward"])
        for run, other in zip(runs(found, rate, arm), runs(found, rate, base), strict=False)
        if "broke" not in run and "broke" not in other
    ]
    return statistics.mean([after - before for after, before in both]) if len(both) > 1 else None


def _lead(found: Found, rate: float, arm: Arm, base: Arm) -> str:
    return signed(lead(found, rate, arm, base))


def _said_of_all(found: Found, rate: float) -> str:
    (all_stable, all_runs), (plain_stable, plain_runs) = (_stability(found, rate, arm) for arm in (ALL, PLAIN))
    chance = float(fisher_exact([[all_stable, all_runs - all_stable], [plain_stable, plain_runs - plain_stable]])[1])
    said = (
        f"At {rate:g} PPO with all measures is stable in {all_stable} of {all_runs} trainings, and without any in "
        f"{plain_stable} of {plain_runs} (Fisher's exact test: p = {chance:.2g})."
    )
    if 2 * plain_stable >= plain_runs:
        said += " So PPO without them did not break here, at no rate that was tried: what they are for is not shown."
    elif 2 * all_stable <= all_runs:
        said += " Four epochs are unstable with them as well: they do not help enough here."
    elif chance < 0.05:
        said += " Four epochs stay stable with them where they do not without."
    else:
        said += " That four epochs stay stable with them where they do not without is likely, and not certain."
    gained = lead(found, rate, PLAIN, ALL)
    if gained is None:
        return said
    way = "more" if gained.low > 0 else "less" if gained.high < 0 else "not clearly another"
    return f"{said} Without any the true reward of the end is {way} ({signed(gained)}), at the KL that the table has."


def _stability(found: Found, rate: float, arm: Arm) -> tuple[int, int]:
    some, began = runs(found, rate, arm), start(found)
    return sum(not faults(run, began) for run in some), len(some)


def _said_alone(found: Found, rate: float, measured: Sequence[Arm], base: Arm) -> str:
    stable, of = _stability(found, rate, base)
    less = [
        arm.name for arm in measured if _stability(found, rate, arm)[0] / _stability(found, rate, arm)[1] < stable / of
    ]
    leads = {arm.name: known for arm in measured if (known := lead(found, rate, arm, base)) is not None}
    worse = [name for name, one in leads.items() if one.high < 0]
    better = [name for name, one in leads.items() if one.low > 0]
    said = [
        f"Fewer trainings are stable without {_list(less)}."
        if less
        else "No measure costs stability when it alone is out.",
        f"The reward is clearly lower without {_list(worse)}."
        if worse
        else "Without no measure is the reward clearly lower.",
    ]
    if better:
        said.append(f"It is clearly higher without {_list(better)}.")
    said.append(f"Of {len(leads)} such intervals one in twenty leaves 0 out by chance.")
    return " ".join(said)


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])}, or {names[-1]}"


def _frontier_section(found: Found, some: tradeoff.Curves, again: Any) -> str:
    about = found.pieces["frontier/reference"]
    seeds = max(len(point.reward) for name, points in some.items() if name not in BEST_OF for point in points)
    accuracy = running.interval(about["accuracy"]).percent
    lines = [FRONTIER.format(**{**about, "accuracy": accuracy}, seeds=seeds)]
    knobs = {method.name: method.knob for method in METHODS} | dict.fromkeys(BEST_OF, "n")
    lines += ["| method | setting | seeds | KL | true reward |", "| --- | --- | --- | --- | --- |"]
    for name, points in tradeoff.spread(some, again).items():
        for point, (kl, reward) in zip(some[name], points, strict=True):
            trained = "" if name in BEST_OF else str(len(point.reward))
            lines.append(f"| {name} | {knobs[name]} {point.value} | {trained} | {kl} | {reward} |")
    if broken := tradeoff.broken(found):
        lines += ["", f"Broke off and are not counted: {', '.join(broken)}."]
    lines += [
        "",
        "The most true reward at a KL, on straight lines between settings, which mixtures of two models reach:",
        "",
    ]
    lines += _budgets_table(some, again)
    lines += ["", *_said_of_frontier(some, again), ""]
    return "\n".join([*lines, "![reward against KL](online-frontier.svg)", ""])


def _budgets_table(some: tradeoff.Curves, again: Any) -> list[str]:
    lines = [
        f"| method | {' | '.join(f'{budget:g} nats' for budget in BUDGETS)} |",
        f"|{' --- |' * (len(BUDGETS) + 1)}",
    ]
    where = tradeoff.places(some)
    for name in some:
        row = []
        for budget in BUDGETS:
            value = tradeoff.at(where[name], tradeoff.reference_of(where), budget)
            others = [tradeoff.at(draw[name], tradeoff.reference_of(draw), budget) for draw in again]
            row.append(str(tradeoff.interval(value, others)) if value == value else "")
        lines.append(f"| {name} | {' | '.join(row)} |")
    return lines


def _said_of_frontier(some: tradeoff.Curves, again: Any) -> list[str]:
    """Whether DPO has more reward than each other method at the same KL."""
    said = ["DPO's reward less that of the others at the same KL:", ""]
    trained: list[Interval] = []
    chosen: list[Interval] = []
    for name in some:
        leads = {budget: tradeoff.ahead(some, again, DPO.name, name, budget) for budget in BUDGETS}
        known = {budget: one for budget, one in leads.items() if one is not None}
        if name == DPO.name or not known:
            continue
        said.append(f"- {name}: " + "; ".join(f"{signed(one)} at {budget:g}" for budget, one in known.items()))
        (chosen if name in BEST_OF else trained).extend(known.values())
    ahead, behind = _sides(trained)
    verdict = (
        f"Of {len(trained)} comparisons with what is trained DPO is clearly ahead in {ahead}, behind in {behind}. "
    )
    if behind:
        verdict += "That its frontier dominates all of these, as in the paper, does not hold here."
    elif ahead == len(trained):
        verdict += "Its frontier dominates all of these, as in the paper."
    else:
        verdict += (
            "None dominates it; that it dominates all of these, as in the paper, is shown only where it is ahead."
        )
    before, after = _sides(chosen)
    beside = (
        "The best of n, which the paper's picture does not have, trains nothing and pays for n answers each time; of "
        f"{len(chosen)} comparisons with it DPO is clearly ahead in {before}, behind in {after}."
    )
    return [*said, "", verdict, "", beside]


def _sides(leads: Sequence[Interval]) -> tuple[int, int]:
    """How many lie clearly above 0, and how many below."""
    return sum(one.low > 0 for one in leads), sum(one.high < 0 for one in leads)


def _real_section(found: Found) -> str:
    every = list(found.under("real"))
    columns = ("task", "algorithm", "rollouts", "reward before", "after", "gain", "KL", "tokens", "ended", "minutes")
    lines = [REAL, f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
    for names, run in every:
        first, last = run["course"][0], run["course"][-1]
        before, after = (str(running.interval(run[side])) for side in ("before", "after"))
        kl = f"{last['kl']:.1f}{' (stopped)' if run['stopped'] else ''}"
        tokens = f"{first['length']:.0f} to {last['length']:.0f} of {run['settings']['max_new_tokens']}"
        ended = f"{100 * first['finished']:.0f} to {100 * last['finished']:.0f} %"
        gain = signed(running.interval(run["gain"]))
        about = [*names, str(last["rollout"]), before, after, gain, kl, tokens, ended, f"{run['minutes']:.0f}"]
        lines.append(f"| {' | '.join(about)} |")
    rose = [f"{name} on {task}" for (task, name), run in every if run["gain"]["low"] > 0]
    lines += [
        "",
        f"The held-out reward rises clearly in {len(rose)} of {len(every)} runs: {', '.join(rose) or 'none'}.",
    ]
    grown = [f"{name} on {task}" for (task, name), run in every if _is_cut_more(run)]
    if grown:
        lines += [f"Answers run into the limit more often than at first, by half or more: {', '.join(grown)}."]
        lines += ["Whoever counts happy words invites that, as each further word can be one."]
    return "\n".join([*lines, "", "![rewards by rollout](online-real.svg)", ""])


def _is_cut_more(run: Mapping[str, Any]) -> bool:
    """Whether at most half as many answers come to their end in the last rollout as did in the first."""
    first, last = run["course"][0], run["course"][-1]
    return bool(2 * last["finished"] <= first["finished"])


def _ablation_picture(found: Found, path: Path) -> None:
    """True reward by arm at the rate of the second table; in grey each training alone."""
    rate = breaking_rate(found)
    every = (ALL, *ALONE, *BESIDE, PLAIN)
    arms = [arm for arm in every if any("broke" not in run for run in runs(found, rate, arm))]
    figure, axes = plt.subplots(figsize=(7, 1 + 0.2 * len(arms)))
    for place, arm in enumerate(arms):
        rewards = [run["reward"] for run in runs(found, rate, arm) if "broke" not in run]
        axes.plot(rewards, [place] * len(rewards), "o", color="#888888", markersize=3)
        middle = statistics.mean(rewards)
        sides = [[middle.value - middle.low], [middle.high - middle.value]] if len(rewards) > 1 else None
        axes.errorbar([middle.value], [place + 0.15], xerr=sides, fmt="o", capsize=2, color="C0")
    axes.axvline(start(found), color="#888888", linestyle="--", linewidth=0.8)
    names = [arm.name if arm in (ALL, PLAIN) else f"without {arm.name}" for arm in arms]
    axes.set_yticks(range(len(arms)), names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("true reward at the end (dashed: at the start)")
    save(figure, path)


def _course_picture(found: Found, path: Path) -> None:
    """KL, entropy and KL of updates by rollout, with all measures and with none; a line for each seed."""
    rate = breaking_rate(found)
    shown = {"kl": "KL, nats an answer", "entropy": "entropy, nats", "kl/behaviour": "KL of a rollout's updates"}
    figure, every = plt.subplots(1, len(shown), figsize=(9, 3))
    for axes, (name, words) in zip(every, shown.items(), strict=True):
        for arm, colour in ((ALL, "C0"), (PLAIN, "C3")):
            for number, run in enumerate(runs(found, rate, arm)):
                course = [(place, one[name]) for place, one in enumerate(run["course"], 1) if name in one]
                scale = arm.buffer  # a large buffer makes fewer rollouts of as many answers
                places = [scale * place for place, _ in course]
                label = arm.name if number == 0 else None
                axes.plot(places, [value for _, value in course], color=colour, linewidth=0.9, label=label)
        axes.set_xlabel("rollouts of 32 answers")
        axes.set_ylabel(words)
    every[0].set_yscale("symlog", linthresh=1.0)
    every[0].legend(fontsize=8)
    save(figure, path)


def _frontier_picture(some: tradeoff.Curves, again: Any, path: Path) -> None:
    """Every setting with its ranges, and the line that is the most reward at each KL."""
    figure, axes = plt.subplots(figsize=(7, 4.5))
    where = tradeoff.places(some)
    for number, (name, points) in enumerate(tradeoff.spread(some, again).items()):
        kls, rewards = ([pair[side] for pair in points] for side in (0, 1))
        axes.errorbar(
            [one.value for one in kls],
            [one.value for one in rewards],
            [[one.value - one.low for one in rewards], [one.high - one.value for one in rewards]],
            [[one.value - one.low for one in kls], [one.high - one.value for one in kls]],
            fmt="o",
            color=f"C{number}",
            capsize=2,
            linewidth=0.8,
            markersize=3,
        )
        last = max(one.value for one in kls)
        budgets = [last * step / LINE for step in range(LINE + 1)]
        most = [tradeoff.at(where[name], tradeoff.reference_of(where), budget) for budget in budgets]
        axes.plot(budgets, most, "--" if name in BEST_OF else "-", color=f"C{number}", linewidth=1.2, label=name)
    axes.set_xscale("symlog", linthresh=1.0)
    axes.set_xlim(left=0)
    axes.set_xlabel("KL from the reference, nats an answer (straight up to 1, then logarithmic)")
    axes.set_ylabel("true reward, log odds of praise")
    axes.legend(fontsize=8)
    save(figure, path)


def _real_picture(found: Found, path: Path) -> None:
    """Reward of each rollout's answers, a picture for each task."""
    tasks = list(dict.fromkeys(task for (task, _), _ in found.under("real")))
    figure, every = plt.subplots(1, len(tasks), figsize=(4.5 * len(tasks), 3.2), squeeze=False)
    for axes, task in zip(every[0], tasks, strict=True):
        for (name,), run in found.under("real", task):
            course = run["course"]
            axes.plot([one["rollout"] for one in course], [one["reward"] for one in course], linewidth=1, label=name)
        axes.set_title(task, fontsize=9)
        axes.set_xlabel("rollout")
        axes.set_ylabel("reward, mean of its answers")
        axes.legend(fontsize=8)
    save(figure, path)
