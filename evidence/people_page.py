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
SHORT = 5
"""Tokens of an answer so short that a loss is of next to nothing."""
LENGTHS = ((1, SHORT), (SHORT + 1, 30), (31, 100), (101, 100_000))
"""Tokens of answers that are looked at together: from, to."""
FEWEST = 2
"""Trainings of an order without which nothing is said of it: one does not tell how much another would differ."""
PAPER = tuple(arm.name for arm in ARMS[:3])
"""The orders that DEITA compares, worst first."""

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
bracket of the AUROC is of a bootstrap over conversations. Learning rate and epochs are those that did best for the
first fold above: they were chosen with labels that nobody had turned, of comparisons that are audited here too, which
an audit of doubtful labels could not have done.
"""

UNCLUSTERED = """
Where no bracket stands, which comparisons were the weakest was not kept: the rate is known, not how sure it is when
conversations are counted.
"""

LENGTH = """## Can a reward model be kept from loving length?

On OpenAssistant's replies, where people prefer the longer one. ODIN trains a second head that takes length upon itself;
the first alone is kept. Balanced accuracy counts comparisons with a longer and with a shorter chosen answer alike, so
"the longer one" has 50 %. The correlation is Spearman's, of score and length within a comparison.
"""

SELECTION = """## Do selected rows teach more than random ones?

Of {pool:,} instructions with GPT-4's answers (GPTeacher) each order selects {budget} rows; SmolLM2 itself grades them
for DEITA, and its own hidden states tell which are alike. The same training on each selection is measured by what it
makes of {references} answers of people (Self-Instruct): the loss in nats per token. By answer, each counts the same
however short it is; by token, each counts as often as it has tokens. Brackets are of the answers alone: how much
trainings scatter is not in them.
"""

JUDGE = """
The judge of the models' own answers to {prompts} of these instructions is a reward model of ours, ODIN on
OpenAssistant's comparisons, whatever that is worth by itself (see above). On the answers of other models to the very
same instructions it sides with most of three people (PandaLM's test set, {judged} comparisons) in {right}; "the longer
one", in words, does in {longer}, and the judge is {beside} that. So it is {worth}. A plain reward model as a second
judge is not measured yet. An answer that is empty or goes round in circles loses. Wins are counted against the random
selection with the same seed.
"""


Arms = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""What was measured, by order of selection and seed."""


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
    if {"untrained", "references"} <= found.pieces.keys() and any(found.under("trained", RANDOM.name)):
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
    scorers = [name for name, _ in _models(sets[0])]
    columns = ["comparisons", *scorers, "words", "the longer one"]
    lines += [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
    for one in sets:
        longer = _rate(one.model, one.model.of_longer)
        many = f"{len(one.words):,} of {len(set(one.words.prompt)):,} conversations"
        rates = [*(agreement.accuracy(some) for _, some in _models(one)), agreement.accuracy(one.words), longer]
        lines.append(f"| {one.name}: {many} | {' | '.join(map(_percent, rates))} |")
    lines += ["", "Points that the reward model is ahead on the same comparisons:", ""]
    lines += ["| comparisons | of words | of the longer one |", "| --- | --- | --- |"]
    for one in sets:
        for name, some in _models(one):
            ahead = over_words(some, one.words), agreement.over_longer(some)
            said = one.name if some is one.model else f"{one.name}, {name}"
            lines.append(f"| {said} | {' | '.join(map(_points, ahead))} |")
    lines += ["", *(f"- {_said(one)}" for one in sets), EXPECTED]
    lines += ["What was chosen for each fold:", "", "| comparisons | learning rate, epochs | C of the words |"]
    lines += ["| --- | --- | --- |"]
    for one in sets:
        chosen = [f"{piece['rate']:g}, {piece['epochs']}" for _, piece in found.under("choice", one.name)]
        strengths = [f"{piece['strength']:g}" for _, piece in found.under("words", one.name)]
        lines.append(f"| {one.name} | {'; '.join(chosen)} | {'; '.join(strengths)} |")
    return "\n".join([*lines, "", "![rates](people-rates.svg)", ""])


def _models(one: Set) -> list[tuple[str, Comparisons]]:
    """The reward models, and where there are several, the mean of their scores as one more scorer."""
    alone = [("reward model", one.model)]
    return alone if len(one.model) == len(one.mean) else [*alone, ("mean of their scores", one.mean)]


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
            f"{interval(one['auroc'])} | {_weakest(one['among_weakest'])} | {interval(one['agree']).percent} |"
        )
    told = sum(one["auroc"]["low"] > 0.5 for _, one in pieces)
    lines += ["", f"In {told} of {len(pieces)} audits the whole interval lies above chance, which is 0.5."]
    if any("low" not in one["among_weakest"] for _, one in pieces):
        lines.append(UNCLUSTERED.rstrip())
    return "\n".join([*lines, "", "![AUROC](people-audit.svg)", ""])


def _weakest(found: Mapping[str, Any]) -> str:
    return interval(found).percent if "low" in found else f"{100 * found['value']:.0f} %"


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
    lines += ["", _left_of(pair.odin)]
    return "\n".join([*lines, "", "![by length](people-length.svg)", ""])


def _left_of(odin: Comparisons) -> str:
    """Whether anything is left of the preference once length is taken out of it."""
    rates = [rate for rate in (agreement.accuracy(odin), agreement.balanced_accuracy(odin)) if rate is not None]
    above = sum(rate.low > 0.5 for rate in rates)
    if above == len(rates):
        return "Both rates of ODIN lie above a coin's: something of what people prefer is left without length."
    if above == 0:
        return (
            "Neither rate of ODIN can be told from a coin: length went, and nothing that can be measured here is left. "
            "That taking length out keeps what else people prefer is not shown."
        )
    return "One rate of ODIN cannot be told from a coin: what is left without length is not clearly anything."


def _selection_section(found: Found) -> str:
    arms = _arms(found)
    size, pool = found.pieces["size"], next(piece["of"] for _, piece in found.under("selected"))
    tokens = found.pieces["references"]["tokens"]
    lines = [SELECTION.format(pool=pool, budget=size["budget"], references=len(tokens)), *_losses_table(found, arms)]
    lines += ["", *_trainings(found, arms), "", "Gain over random in nats per token, by the length of the answer:", ""]
    lines += [*_lengths_table(arms, tokens), "", *_rows_table(found, arms), "", _order(found, arms)]
    prompts = len(next(iter(arms[RANDOM.name].values()))["scores"])
    return "\n".join([*lines, _judge(found, prompts), "![gains](people-selection.svg)", ""])


def _losses_table(found: Found, arms: Arms) -> list[str]:
    """Loss, gain and wins of every order."""
    untrained, tokens = found.pieces["untrained"], found.pieces["references"]["tokens"]
    base = arms[RANDOM.name]
    lines = ["| order | trainings | loss | least to most | gain by answer | gain by token | wins against random |"]
    lines += [f"|{' --- |' * 7}"]
    gains = [_nats(gain(base.values(), [untrained], weights)) for weights in (None, tokens)]
    lines.append(f"| not trained | | {statistics.mean(untrained)} | | {' | '.join(gains)} | |")
    for name, runs in arms.items():
        each = [run["losses"] for run in runs.values()]
        means = [fmean(one) for one in each]
        whole = statistics.mean(np.mean(each, axis=0).tolist())
        scatter = f"{min(means):.3f} to {max(means):.3f}" if len(means) > 1 else ""
        gains = [_nats(gain(base.values(), each, weights)) for weights in (None, tokens)]
        rest = " |  | " if name == RANDOM.name else f"{' | '.join(gains)} | {wins(runs, base).percent}"
        planned = _planned(found, name)
        lines.append(f"| {name} | {len(runs)} of {planned} | {whole} | {scatter} | {rest} |")
    return lines


def _trainings(found: Found, arms: Arms) -> list[str]:
    """What the trainings of one order share, and which orders have none."""
    said = []
    several = [name for name, runs in arms.items() if len(runs) > 1 and name != RANDOM.name]
    if several:
        said.append(f"Trainings of {', '.join(several)} have the same rows, in orders of their own.")
    trained, drawn = len(arms[RANDOM.name]), _selections(found, RANDOM.name)
    if drawn < trained:
        said.append(
            f"The {trained} trainings of random rows have {drawn} selection{'s' * (drawn > 1)} between them; those of "
            "the same rows differ in their order alone."
        )
    elif trained > 1:
        said.append("Each training of random rows has rows of its own.")
    missing = [arm.name for arm in ARMS if arm.name not in arms]
    if missing:
        said.append(f"Not measured: {', '.join(missing)}.")
    return said


def _lengths_table(arms: Arms, tokens: Sequence[int]) -> list[str]:
    """The gain of every order, on answers of about the same length."""
    base = arms[RANDOM.name].values()
    parts = [[place for place, count in enumerate(tokens) if low <= count <= high] for low, high in LENGTHS]
    kept = [(ends, part) for ends, part in zip(LENGTHS, parts, strict=True) if part]
    heads = [f"{low} to {high}" if high < LENGTHS[-1][1] else f"over {low - 1}" for (low, high), _ in kept]
    counts = [f"{head} tokens ({len(part)})" for head, (_, part) in zip(heads, kept, strict=True)]
    lines = [f"| order | {' | '.join(counts)} |", f"|{' --- |' * (len(kept) + 1)}"]
    for name, runs in arms.items():
        leads = _leads(base, [run["losses"] for run in runs.values()])
        gains = [_nats(statistics.mean([leads[place] for place in part])) for _, part in kept]
        if name != RANDOM.name:
            lines.append(f"| {name} | {' | '.join(gains)} |")
    return lines


def _rows_table(found: Found, arms: Arms) -> list[str]:
    """What was selected, and what was answered."""
    lines = ["What was selected, and what was answered:", ""]
    lines += ["| order | words of a selected answer | code | words of an answer given | finished |"]
    lines += [f"|{' --- |' * 5}"]
    for name, runs in arms.items():
        taken = [piece for _, piece in found.under("selected", name)]
        words, code = (fmean(one[what] for one in taken) for what in ("words", "code"))
        given, finished = (fmean(run[what] for run in runs.values()) for what in ("words", "finished"))
        lines.append(f"| {name} | {words:.0f} | {100 * code:.0f} % | {given:.0f} | {100 * finished:.0f} % |")
    if DIVERSE.name in arms:
        alike = next(piece for _, piece in found.under("selected", DIVERSE.name)).get("alike")
        many = "How many rows" if alike is None else f"{alike:,} rows"
        lines += ["", f"{many} {DIVERSE.name} left out as too like a better one{' was not kept' * (alike is None)}."]
    return lines


def _planned(found: Found, name: str) -> int:
    """Trainings that an order is to have."""
    return int(found.pieces["size"]["draws"]) if name in PAPER else 1


def _selections(found: Found, name: str) -> int:
    """How many selections of an order differ, by all that was kept of them."""
    return len({tuple(piece.values()) for _, piece in found.under("selected", name)})


def gain(
    base: Iterable[Mapping[str, Any]], others: Sequence[Sequence[float]], weights: Sequence[float] | None = None
) -> Interval:
    """How much lower the loss is than with random rows, answer by answer, both as means over their trainings.

    weights: how much each answer counts; none: all alike. The interval is of answers alone: how much trainings scatter
    stands beside it.
    """
    return statistics.mean(_leads(base, others), weights=weights)


def _leads(base: Iterable[Mapping[str, Any]], others: Sequence[Sequence[float]]) -> list[float]:
    """How much lower the loss of each answer is than with random rows."""
    usual = np.mean([run["losses"] for run in base], axis=0)
    found: list[float] = (usual - np.mean(others, axis=0)).tolist()
    return found


def wins(runs: Mapping[str, Mapping[str, Any]], base: Mapping[str, Mapping[str, Any]]) -> Interval:
    """How often the judge prefers an answer to that of the random selection with the same seed; none never wins."""
    outcomes: list[float] = []
    prompts: list[int] = []
    for draw in runs.keys() & base.keys():
        ours, theirs = (dict(zip(run["prompts"], run["scores"], strict=True)) for run in (runs[draw], base[draw]))
        for prompt, score in ours.items():
            other = theirs[prompt]
            worst = float("-inf")
            mine, its = worst if score is None else score, worst if other is None else other
            outcomes.append(0.5 if mine == its else float(mine > its))
            prompts.append(prompt)
    return statistics.win_rate(outcomes, prompts=prompts)


def _order(found: Found, arms: Arms) -> str:
    """Whether random < score first < score and diversity, as the paper has it; nothing where too little was trained."""
    trained = {name: len(arms.get(name, ())) for name in PAPER}
    trained[RANDOM.name] = min(trained[RANDOM.name], _selections(found, RANDOM.name))
    few = [f"{name} {count}" for name, count in trained.items() if count < FEWEST]
    if few:
        return (
            "DEITA's order (random, then score first, then score and diversity) is neither confirmed nor refuted: that "
            f"takes {FEWEST} trainings of each, on selections of their own for random, and there are of "
            f"{', '.join(few)}. {_weightings(found, arms)}"
        )
    tokens = found.pieces["references"]["tokens"]
    steps = [_step(arms, worse, better, tokens) for worse, better in pairwise(PAPER)]
    return f"DEITA's order by the loss: {'; '.join(steps)}."


def _step(arms: Arms, worse: str, better: str, tokens: Sequence[int]) -> str:
    """Whether one order is better than another: said only where it is so by answer and by token."""
    base, others = arms[worse].values(), [run["losses"] for run in arms[better].values()]
    leads = [gain(base, others), gain(base, others, tokens)]
    how = "is not to be told"
    if all(lead.low > 0 for lead in leads):
        how = "holds"
    elif all(lead.high < 0 for lead in leads):
        how = "is turned round"
    by_answer, by_token = map(_nats, leads)
    return f"{worse} < {better} {how} (by answer {by_answer}, by token {by_token} nats per token)"


def _weightings(found: Found, arms: Arms) -> str:
    """Which orders gain by one weighting and lose by the other, and whether very short answers make the difference."""
    tokens, base = found.pieces["references"]["tokens"], arms[RANDOM.name].values()
    long = [float(count > SHORT) for count in tokens]
    turned: dict[str, Interval] = {}
    short_alone = True
    for name, runs in arms.items():
        each = [run["losses"] for run in runs.values()]
        by_answer, by_token = gain(base, each), gain(base, each, tokens)
        if by_answer.high < 0 < by_token.low or by_token.high < 0 < by_answer.low:
            turned[name] = gain(base, each, long)
            short_alone = short_alone and _beside(turned[name]) != _beside(by_answer)
    if not turned:
        return ""
    without = " and ".join(map(_nats, turned.values()))
    why = ": it is the loss on very short answers that turns" if short_alone else ""
    return (
        f"Of {' and of '.join(turned)} not even the sign can be said: it is another one by answer than by token. "
        f"Without answers of up to {SHORT} tokens the gain by answer is {without}{why}."
    )


def _judge(found: Found, prompts: int) -> str:
    said = found.pieces["judge"]
    some = _comparisons(said, [dict(zip(said["rows"], said["gaps"], strict=True))], said["rows"])
    right, longer = agreement.accuracy(some), _rate(some, some.of_longer)
    worth = "a weak judge" if right.low > 0.5 else "no judge at all: it may be guessing"
    return JUDGE.format(
        prompts=prompts,
        judged=len(some),
        right=_percent(right),
        longer=_percent(longer),
        beside=_beside(agreement.over_longer(some)),
        worth=worth,
    )


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


def _arms(found: Found) -> Arms:
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
    _save(figure, axes, path, Scale("accuracy, held out"))


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
    _save(figure, axes, path, Scale("AUROC", of="labels turned round, %"))


def _length_picture(pair: Pair, path: Path) -> None:
    figure, axes = plt.subplots(figsize=(6, 3))
    for name, some in (("plain", pair.plain), ("ODIN", pair.odin)):
        bins: list[Bin] = agreement.by_length(some)
        _bars(axes, [one.mean for one in bins], [one.accuracy for one in bins], name)
    _save(figure, axes, path, Scale("accuracy, held out", of="tokens that the chosen answer is longer"))


def _selection_picture(found: Found, path: Path) -> None:
    """Gains by answer and by token; in grey each training alone, by answer."""
    figure, axes = plt.subplots(figsize=(7, 3))
    arms = _arms(found)
    base, weightings = (
        arms[RANDOM.name].values(),
        (("by answer", None), ("by token", found.pieces["references"]["tokens"])),
    )
    for number, runs in enumerate(arms.values()):
        each = [gain(base, [run["losses"]]).value for run in runs.values()]
        axes.plot([number] * len(each), each, "o", color="#888888", markersize=3)
    for shift, (name, weights) in enumerate(weightings, 1):
        leads = [gain(base, [run["losses"] for run in runs.values()], weights) for runs in arms.values()]
        _bars(axes, [number + 0.1 * shift for number in range(len(arms))], leads, name)
    axes.set_xticks(range(len(arms)), [name.replace(" ", "\n", 1) for name in arms], fontsize=8)
    _save(figure, axes, path, Scale("gain over random,\nnats per token", chance=0.0))


def _bars(axes: Any, places: Sequence[float], found: Sequence[Interval], name: str) -> None:
    low, high = [one.value - one.low for one in found], [one.high - one.value for one in found]
    axes.errorbar(places, [one.value for one in found], [low, high], fmt="o", capsize=2, label=name)


class Scale(NamedTuple):
    """What a picture shows: its height, of what, and the height that means nothing."""

    name: str
    of: str = ""
    chance: float = 0.5


def _save(figure: Any, axes: Any, path: Path, scale: Scale) -> None:
    axes.axhline(scale.chance, color="#888888", linestyle="--", linewidth=0.8)
    axes.set_xlabel(scale.of)
    axes.set_ylabel(scale.name)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
