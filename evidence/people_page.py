"""docs/evidence/people.md and its pictures from the pieces in people.json, whichever of them are there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import matplotlib
import numpy as np

from evidence.found import Found
from evidence.people import ARMS, DIVERSE, FOLDS, ODIN, PLAIN, RANDOM
from evidence.running import interval
from truing import statistics
from truing.scoring import agreement
from truing.scoring.agreement import Bin, Comparisons, Scored
from truing.statistics import Interval

matplotlib.use("agg")
import matplotlib.pyplot as plt

KEPT = "people.json"

HEAD = """# Reward models and selected data, measured on people

`python -m evidence people --data FOLDER` measures what stands here, and `python -m evidence page` writes it again from
[people.json](people.json), which holds numbers and no text. The model is SmolLM2-135M-Instruct, all weights trained.
Brackets are 95 % intervals; those of rates and differences count conversations, since comparisons of one conversation
are not independent.
"""

REWARD = """## Does a reward model beat words, and "the longer one is better"?

Each comparison is measured by a model that never saw its conversation. The conversations of a set fall into {folds}
folds; for each fold a learning rate and a number of epochs are chosen by training on the next fold and looking at the
one after, then {models} trained on both and measured on the fold. The words are TF-IDF of single words and pairs of
them, chosen answer less rejected, and a logistic regression whose strength is chosen by cross-validation within the
same two folds. Conversations that begin alike stay together: in OpenAssistant's rows the chosen answer to one prompt is
part of the next prompt, so a split by prompt would let a model read what it is asked about.
"""

EXPECTED = """
Of one cut each these numbers had been said before: on the harmless set words are right in 60.6 %; on OpenAssistant's
words in 64.1 % and "the longer one" in 70.7 %. Here every comparison is held out in turn, split by conversation, and
the longer one is that with more tokens.
"""

AUDIT = """## Does the audit find labels that were turned round on purpose?

A share of the labels is turned round, and {members} vote on each comparison, none on a prompt that it was trained on.
AUROC is the chance that a turned label has a lower strength than one that was left. Labels that were left are those of
people, who disagree with each other: some of them are wrong too, and no audit is rewarded here for finding them. The
bracket of the AUROC is of a bootstrap over conversations.
"""

LENGTH = """## Can a reward model be kept from loving length?

On OpenAssistant's replies, where people prefer the longer one. ODIN trains a second head that takes length upon itself;
the first alone is kept. Balanced accuracy counts comparisons with a longer and with a shorter chosen answer alike, so
"the longer one" has 50 %. The correlation is Spearman's, of score and length within a comparison.
"""

SELECTION = """## Do selected rows teach more than random ones?

Of {pool:,} instructions with GPT-4's answers (GPTeacher) each order selects {budget} rows; SmolLM2 itself grades them
for DEITA, and its own hidden states tell which are alike. The same training on each selection is measured by what it
makes of {references} answers of people (Self-Instruct): the loss in nats per token, mean over answers. Chance selects
anew for each training; the other orders select the same rows, and their trainings differ in the order of the rows.
"""

JUDGE = """
The judge of the models' own answers to {prompts} of these instructions is a reward model of ours, ODIN on
OpenAssistant's comparisons. On the answers of other models to the very same instructions it sides with most of three
people (PandaLM's test set, {judged} comparisons) in {right}; "the longer one", in words, does in {longer}. So it is
{worth}. An answer that is empty or goes round in circles loses. Wins are counted against the random selection with the
same seed.
"""


class Set(NamedTuple):
    """One set of comparisons as several scorers see it, all on the same ones.

    model: the reward models of all seeds, one after the other. mean: the mean of their scores.
    """

    name: str
    model: Comparisons
    mean: Comparisons
    words: Comparisons


class Pair(NamedTuple):
    """The same comparisons as a plain reward model sees them and one with ODIN."""

    plain: Comparisons
    odin: Comparisons


def write(folder: Path) -> None:
    """The page with a section for whatever was found."""
    found = Found(folder / KEPT)
    sets = [one for (name,), _ in found.under("rows") if (one := _set(found, name)) is not None]
    parts = [HEAD, _machines(found)]
    if sets:
        parts.append(_reward_section(found, sets))
        _rates_picture(sets, folder / "people-rates.svg")
    if any(found.under("audit")):
        parts.append(_audit_section(found))
        _audit_picture(found, folder / "people-audit.svg")
    debiased = _debiased(found)
    if debiased is not None:
        parts.append(_length_section(debiased))
        _length_picture(debiased, folder / "people-length.svg")
    if "untrained" in found.pieces and any(found.under("trained", RANDOM.name)):
        parts.append(_selection_section(found))
        _selection_picture(found, folder / "people-selection.svg")
    (folder / "people.md").write_text("\n".join(parts), encoding="utf-8")


def _machines(found: Found) -> str:
    where = [f"{name} ({', '.join(parts)})" for name, parts in found.pieces.get("machines", {}).items()]
    return f"Measured on {'; '.join(where)}.\n" if where else ""


def _reward_section(found: Found, sets: Sequence[Set]) -> str:
    seeds = len(sets[0].model) // len(sets[0].words)
    models = "a model is" if seeds == 1 else f"{seeds} models, with heads and orders of their own, are"
    lines = [REWARD.format(folds=FOLDS, models=models)]
    columns = [
        "comparisons",
        "reward model",
        *(["mean of their scores"] if seeds > 1 else []),
        "words",
        "the longer one",
    ]
    lines += [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
    for one in sets:
        longer = _rate(one.model, one.model.of_longer)
        many = f"{len(one.words):,} of {len(set(one.words.prompt)):,} conversations"
        scorers = (one.model, *((one.mean,) if seeds > 1 else ()), one.words)
        rates = [*(agreement.accuracy(some) for some in scorers), longer]
        lines.append(f"| {one.name}: {many} | {' | '.join(map(_percent, rates))} |")
    lines += ["", "Points that the reward model is ahead on the same comparisons:", ""]
    lines += ["| comparisons | of words | of the longer one |", "| --- | --- | --- |"]
    for one in sets:
        for said, some in (("", one.model), (", mean of their scores", one.mean))[: min(seeds, 2)]:
            ahead = over_words(some, one.words), agreement.over_longer(some)
            lines.append(f"| {one.name}{said} | {' | '.join(map(_points, ahead))} |")
    lines += ["", *(f"- {_said(one)}" for one in sets), EXPECTED]
    lines += ["What was chosen for each fold:", "", "| comparisons | learning rate, epochs | C of the words |"]
    lines += ["| --- | --- | --- |"]
    for one in sets:
        chosen = [f"{piece['rate']:g}, {piece['epochs']}" for _, piece in found.under("choice", one.name)]
        strengths = [f"{piece['strength']:g}" for _, piece in found.under("words", one.name)]
        lines.append(f"| {one.name} | {'; '.join(chosen)} | {'; '.join(strengths)} |")
    return "\n".join([*lines, "", "![rates](people-rates.svg)", ""])


def over_words(model: Comparisons, words: Comparisons) -> Interval:
    """Accuracy of reward models, of one or more seeds, less that of the words, on the same comparisons."""
    baseline = np.tile(words.outcomes, len(model) // len(words))
    return statistics.paired_difference(
        model.outcomes.tolist(), baseline.tolist(), prompts=model.prompt, weights=model.weight.tolist()
    )


def _said(one: Set) -> str:
    ahead = (over_words(one.model, one.words), agreement.over_longer(one.model))
    words, longer = (_beside(lead) for lead in ahead)
    coin = agreement.accuracy(one.model)
    chance = "" if coin.low > 0.5 else "; a coin may do as well"
    return f"{one.name}: the reward model is {words} words, and {longer} the longer one{chance}."


def _beside(lead: Interval) -> str:
    if lead.low > 0:
        return "better than"
    return "worse than" if lead.high < 0 else "not to be told from"


def _audit_section(found: Found) -> str:
    pieces = list(found.under("audit"))
    members = found.pieces["size"]["members"]
    lines = [AUDIT.format(members="one model" if members == 1 else f"{members} models")]
    lines += ["| comparisons | turned round | AUROC | turned among as many weakest | the vote sides with people |"]
    lines += ["| --- | --- | --- | --- | --- |"]
    for (name, share), one in pieces:
        lines.append(
            f"| {name} | {100 * float(share):.0f} %: {one['turned']} of {one['comparisons']:,} | "
            f"{interval(one['auroc'])} | {interval(one['among_weakest']).percent} | {interval(one['agree']).percent} |"
        )
    told = sum(one["auroc"]["low"] > 0.5 for _, one in pieces)
    lines += ["", f"In {told} of {len(pieces)} audits the whole interval lies above chance, which is 0.5."]
    return "\n".join([*lines, "", "![AUROC](people-audit.svg)", ""])


def _length_section(pair: Pair) -> str:
    lines = [LENGTH, "| | plain | ODIN | ODIN less plain |", "| --- | --- | --- | --- |"]
    rates = [_percent(agreement.accuracy(one)) for one in pair]
    change = _change(pair, pair.plain.weight)
    lines.append(f"| accuracy | {rates[0]} | {rates[1]} | {_points(change)} points |")
    balanced = [agreement.balanced_accuracy(one) for one in pair]
    told = [_percent(one) if one else "" for one in balanced]
    evened = _change(pair, _even_weights(pair.plain))
    lines.append(f"| balanced accuracy | {told[0]} | {told[1]} | {_points(evened)} points |")
    ties = [agreement.length_correlation(_rows_of(one)) for one in pair]
    follows = _length_change(pair)
    lines.append(f"| correlation with length | {ties[0]} | {ties[1]} | {follows} |")
    less = "less than" if follows.high < 0 else "more than" if follows.low > 0 else "not clearly less than"
    better = _beside(evened)
    lines += ["", f"ODIN follows length {less} the plain model; where length does not tell it is {better} that."]
    return "\n".join([*lines, "", "![by length](people-length.svg)", ""])


def _selection_section(found: Found) -> str:
    untrained = found.pieces["untrained"]
    arms = _arms(found)
    base = arms[RANDOM.name]
    some = next(iter(base.values()))
    budget, pool = found.pieces["size"]["budget"], next(piece["of"] for _, piece in found.under("selected"))
    lines = [SELECTION.format(pool=pool, budget=budget, references=len(untrained))]
    lines += ["| order | trainings | loss | least to most | gain over random, nats per token | wins against random |"]
    lines += ["| --- | --- | --- | --- | --- | --- |"]
    lines.append(f"| not trained | | {statistics.mean(untrained)} | | {_nats(gain(base.values(), [untrained]))} | |")
    for name, runs in arms.items():
        means = [fmean(run["losses"]) for run in runs.values()]
        whole = statistics.mean(np.mean([run["losses"] for run in runs.values()], axis=0).tolist())
        own = name == RANDOM.name
        lead = "" if own else _nats(gain(base.values(), [run["losses"] for run in runs.values()]))
        won = "" if own else wins(runs, base).percent
        lines.append(f"| {name} | {len(runs)} | {whole} | {min(means):.3f} to {max(means):.3f} | {lead} | {won} |")
    lines += ["", "What was selected, and what was answered:", ""]
    lines += ["| order | left out as alike | words of a selected answer | code | words of an answer given | finished |"]
    lines += ["| --- | --- | --- | --- | --- | --- |"]
    for name, runs in arms.items():
        taken = [piece for _, piece in found.under("selected", name)]
        words, code = (fmean(one[what] for one in taken) for what in ("words", "code"))
        given, finished = (fmean(run[what] for run in runs.values()) for what in ("words", "finished"))
        alike = taken[0].get("alike", "not noted") if name == DIVERSE.name else ""
        lines.append(f"| {name} | {alike} | {words:.0f} | {100 * code:.0f} % | {given:.0f} | {100 * finished:.0f} % |")
    lines += ["", _order(arms), _judge(found, len(some["scores"]))]
    return "\n".join([*lines, "![gains](people-selection.svg)", ""])


def gain(base: Iterable[Mapping[str, Any]], others: Sequence[Sequence[float]]) -> Interval:
    """How much lower the loss is than with random rows, answer by answer, both as means over their trainings.

    The interval is of answers alone: how much trainings scatter stands beside it.
    """
    usual = np.mean([run["losses"] for run in base], axis=0)
    return statistics.mean((usual - np.mean(others, axis=0)).tolist())


def wins(runs: Mapping[str, Mapping[str, Any]], base: Mapping[str, Mapping[str, Any]]) -> Interval:
    """How often the judge prefers an answer to that of the random selection with the same seed; none never wins."""
    outcomes: list[float] = []
    prompts: list[int] = []
    for draw in runs.keys() & base.keys():
        for prompt, (ours, theirs) in enumerate(zip(runs[draw]["scores"], base[draw]["scores"], strict=True)):
            worst = float("-inf")
            mine, other = worst if ours is None else ours, worst if theirs is None else theirs
            outcomes.append(0.5 if mine == other else float(mine > other))
            prompts.append(prompt)
    return statistics.win_rate(outcomes, prompts=prompts)


def _order(arms: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """Whether random < score first < score and diversity, as the paper has it."""
    names = [arm.name for arm in ARMS[:3] if arm.name in arms]
    if len(names) < 3:
        return "Not all three orders of the paper are measured yet."
    lost = {name: np.mean([run["losses"] for run in arms[name].values()], axis=0) for name in names}
    steps = []
    for worse, better in pairwise(names):
        lead = statistics.mean((lost[worse] - lost[better]).tolist())
        how = "holds" if lead.low > 0 else "is turned round" if lead.high < 0 else "is not to be told"
        steps.append(f"{worse} < {better} {how} ({_nats(lead)} nats per token)")
    return f"DEITA's order by the loss: {'; '.join(steps)}."


def _judge(found: Found, prompts: int) -> str:
    said = found.pieces["judge"]
    some = _comparisons(said, [dict(zip(said["rows"], said["gaps"], strict=True))], said["rows"])
    right, longer = agreement.accuracy(some), _rate(some, some.of_longer)
    worth = "a weak judge" if right.low > 0.5 else "no judge at all: it may be guessing"
    return JUDGE.format(prompts=prompts, judged=len(some), right=_percent(right), longer=_percent(longer), worth=worth)


def _set(found: Found, name: str) -> Set | None:
    """None where something of the set is not measured yet."""
    models = list(_scorers(found, name, PLAIN).values())
    pieces = [piece for _, piece in found.under("words", name)]
    if not models or len(pieces) < FOLDS:
        return None
    words = _by_row(pieces)
    about, rows = found.pieces[f"rows/{name}"], _common([*models, words])
    mean = {row: fmean(model[row] for model in models) for row in rows}
    return Set(name, *(_comparisons(about, some, rows) for some in (models, [mean], [words])))


def _debiased(found: Found) -> Pair | None:
    """Both reward models of OpenAssistant's comparisons, of the seeds that both have; None where there is none."""
    plain, odin = (_scorers(found, "oasst1_en", objective) for objective in (PLAIN, ODIN))
    seeds = [seed for seed in plain if seed in odin]
    if not seeds:
        return None
    sides = [[one[seed] for seed in seeds] for one in (plain, odin)]
    about, rows = found.pieces["rows/oasst1_en"], _common([*sides[0], *sides[1]])
    return Pair(*(_comparisons(about, side, rows) for side in sides))


def _scorers(found: Found, name: str, objective: str) -> dict[str, dict[int, float]]:
    """By seed, the gap of each comparison of a set, where all folds are measured."""
    seeds: dict[str, list[Mapping[str, Any]]] = {}
    for (_, said, seed), piece in found.under("judged", name):
        if said == objective:
            seeds.setdefault(seed, []).append(piece)
    return {seed: _by_row(pieces) for seed, pieces in seeds.items() if len(pieces) == FOLDS}


def _by_row(pieces: Iterable[Mapping[str, Any]]) -> dict[int, float]:
    return {row: gap for piece in pieces for row, gap in zip(piece["rows"], piece["gaps"], strict=True)}


def _common(scored: Sequence[Mapping[int, float]]) -> list[int]:
    """The numbers of the comparisons that all have a gap for."""
    return sorted(set.intersection(*(set(one) for one in scored)))


def _comparisons(about: Mapping[str, Any], scored: Sequence[Mapping[int, float]], rows: Sequence[int]) -> Comparisons:
    """These comparisons, once for each scorer, all of which together count one."""
    times = len(scored)
    return Comparisons(
        tuple(str(about["conversation"][row]) for row in rows) * times,
        np.full(len(rows) * times, 1 / times),
        np.array([one[row] for one in scored for row in rows]),
        np.array([about["longer"][row] for row in rows] * times, dtype=np.float64),
        np.full(len(rows) * times, np.nan),
        ("",) * len(rows) * times,
    )


def _arms(found: Found) -> dict[str, dict[str, Mapping[str, Any]]]:
    """What was measured of each order of selection, by seed."""
    measured = {arm.name: {parts[0]: piece for parts, piece in found.under("trained", arm.name)} for arm in ARMS}
    return {name: runs for name, runs in measured.items() if runs}


def _rate(some: Comparisons, outcomes: agreement.Array) -> Interval:
    return statistics.win_rate(outcomes.tolist(), prompts=some.prompt, weights=some.weight.tolist())


def _change(pair: Pair, weights: agreement.Array) -> Interval:
    """Accuracy with ODIN less that of the plain model."""
    after, before = pair.odin.outcomes.tolist(), pair.plain.outcomes.tolist()
    return statistics.paired_difference(after, before, prompts=pair.plain.prompt, weights=weights.tolist())


def _even_weights(some: Comparisons) -> agreement.Array:
    """Weights by which longer and shorter chosen answers count alike in all, and equally long ones nothing."""
    sides = [(some.longer > 0) * some.weight, (some.longer < 0) * some.weight]
    weights: agreement.Array = sides[0] / sides[0].sum() + sides[1] / sides[1].sum()
    return weights


def _rows_of(some: Comparisons) -> list[Scored]:
    """Each comparison as a row of two answers, of which only the differences are known."""
    return [
        Scored(prompt, (gap, 0.0), (round(longer), 0), ((0, 1),), weight=weight)
        for prompt, gap, longer, weight in zip(some.prompt, some.gap, some.longer, some.weight, strict=True)
    ]


def _length_change(pair: Pair) -> Interval:
    """The correlation with length, with ODIN less that of the plain model, comparison by comparison."""
    after, before = (np.sign(one.gap * one.longer).tolist() for one in (pair.odin, pair.plain))
    weights = (pair.plain.weight * (pair.plain.longer != 0)).tolist()
    return statistics.paired_difference(after, before, prompts=pair.plain.prompt, weights=weights)


def _percent(rate: Interval) -> str:
    return f"{100 * rate.value:.1f} % [{100 * rate.low:.1f}, {100 * rate.high:.1f}]"


def _points(change: Interval) -> str:
    return f"{100 * change.value:+.1f} [{100 * change.low:+.1f}, {100 * change.high:+.1f}]"


def _nats(change: Interval) -> str:
    return f"{change.value:+.4f} [{change.low:+.4f}, {change.high:+.4f}]"


def _rates_picture(sets: Sequence[Set], path: Path) -> None:
    figure, axes = plt.subplots(figsize=(6.5, 3))
    for number, name in enumerate(("reward model", "words", "the longer one")):
        rates = [_rates(one)[number] for one in sets]
        places = [place + 0.25 * (number - 1) for place in range(len(sets))]
        _bars(axes, places, rates, name)
    axes.set_xticks(range(len(sets)), [one.name for one in sets])
    axes.axhline(0.5, color="#888888", linestyle="--", linewidth=0.8)
    axes.set_ylabel("accuracy, held out")
    _save(figure, axes, path)


def _rates(one: Set) -> tuple[Interval, Interval, Interval]:
    return agreement.accuracy(one.model), agreement.accuracy(one.words), _rate(one.model, one.model.of_longer)


def _audit_picture(found: Found, path: Path) -> None:
    figure, axes = plt.subplots(figsize=(5, 3))
    names = list(dict.fromkeys(name for (name, _), _ in found.under("audit")))
    for number, name in enumerate(names):
        pieces = [(float(share), interval(one["auroc"])) for (share,), one in found.under("audit", name)]
        places = [100 * share + 0.4 * number for share, _ in pieces]
        _bars(axes, places, [rate for _, rate in pieces], name)
        axes.set_xticks([100 * share for share, _ in pieces])
    axes.axhline(0.5, color="#888888", linestyle="--", linewidth=0.8)
    axes.set_xlabel("labels turned round, %")
    axes.set_ylabel("AUROC")
    _save(figure, axes, path)


def _length_picture(pair: Pair, path: Path) -> None:
    figure, axes = plt.subplots(figsize=(6, 3))
    for name, some in (("plain", pair.plain), ("ODIN", pair.odin)):
        bins: list[Bin] = agreement.by_length(some)
        _bars(axes, [one.mean for one in bins], [one.accuracy for one in bins], name)
    axes.axhline(0.5, color="#888888", linestyle="--", linewidth=0.8)
    axes.set_xlabel("tokens that the chosen answer is longer")
    axes.set_ylabel("accuracy, held out")
    _save(figure, axes, path)


def _selection_picture(found: Found, path: Path) -> None:
    figure, axes = plt.subplots(figsize=(7, 3))
    arms = _arms(found)
    base = arms[RANDOM.name].values()
    for number, runs in enumerate(arms.values()):
        each = [gain(base, [run["losses"]]).value for run in runs.values()]
        axes.plot([number] * len(each), each, "o", color="#888888", markersize=3)
        _bars(axes, [number + 0.1], [gain(base, [run["losses"] for run in runs.values()])], None)
    axes.axhline(0.0, color="#888888", linestyle="--", linewidth=0.8)
    axes.set_xticks(range(len(arms)), [name.replace(" ", "\n", 1) for name in arms], fontsize=8)
    axes.set_ylabel("gain over random,\nnats per token")
    _save(figure, axes, path)


def _bars(axes: Any, places: Sequence[float], found: Sequence[Interval], name: str | None) -> None:
    low, high = [one.value - one.low for one in found], [one.high - one.value for one in found]
    axes.errorbar(places, [one.value for one in found], [low, high], fmt="o", capsize=2, label=name)


def _save(figure: Any, axes: Any, path: Path) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
