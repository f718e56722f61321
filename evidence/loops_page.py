"""docs/evidence/loops.md and its pictures from the pieces in loops.json, whichever of them are there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import NormalDist, fmean
from typing import Any

import matplotlib

from evidence.found import Found
from evidence.loops import BIASED, FAIR, GAMES, HELD, LEARNT, PAIRS, POSITIVES, RANKED, TAGS, WITH, WITHOUT
from evidence.telling import mean, save, signed
from truing import statistics
from truing.statistics import Interval

matplotlib.use("agg")
import matplotlib.pyplot as plt

KEPT = "loops.json"

HEAD = """# Rounds, judges and rankings, where the truth is known

`python -m evidence loops --data FOLDER` tries what stands here, a part at a time, and `python -m evidence page` writes
it again from [loops.json](loops.json), which holds numbers and no text. Every training is a recipe of
[recipes/evidence](../../recipes/evidence), `loops-*.toml` or `frontier-*.toml`. {cost}

The model is small on purpose: a decoder of {layers} layers and width {width} with {vocabulary:,} tokens, which has
learnt nothing but to go on with openings of reviews (two to four words; UCI's labelled sentences). The true reward is
the log odds of praise by a logistic regression on the words of all these sentences, read off the continuation. Training
draws answers to {openings} openings; what is measured are four answers to each of {held_out} others. The model begins
at a true reward of {reward:.2f} and {length:.0f} tokens an answer; among the answers to one opening the true reward
deviates by {deviation:.2f}. KL is of whole answers, in nats, from that model. Brackets are 95 % intervals over seeds,
and differences are taken seed by seed; where a way has several learning rates, the one with the most true reward stands
for it. "Clearly" means that the interval leaves 0 out. So small a model shows what a method does, and not how much of
it a large one shows.
"""

POSITIVES_TOLD = """## Pairs and DPO, or the best answers alone?

Self-rewarding in small (arXiv:2401.10020): {few} rounds, in each of which the model gives four answers to openings of
its own; a judge, who is the true reward with normal noise as wide as the reward itself, says which is the best and
which the worst. DPO learns the pair, from and against the round's model; or fine-tuning the best answer alone.
"""

JUDGEMENTS_TOLD = """## Three judgements averaged

The same answers, judged once or by the mean of three judgements with noise of their own; noise is in deviations of the
true reward. Right are pairs whose better answer is truly the better one.
"""

LENGTH_TOLD = """## A judge who likes length

{growing} rounds of DPO on the best and the worst answer. The judge is the true reward, or, biased, that and {bias:g}
for each word; an answer has at most {limit} tokens. What may hold length are parts of the product: `curate` with
`balance`, which leaves out pairs until the longer answer wins as often as the shorter one, and the objective `r_dpo`,
at two prices of a token. (A length penalty in the scorer that knows the bias would make the judge fair again, and is
not tried.) Tokens by round are those of the answers that the round learns from.
"""

SPIN_TOLD = """## SPIN and its data

SPIN (arXiv:2401.01335) on data whose worth is known: of {best_of} answers of the first model to an opening the truly
best one, which have a true reward of {data:.2f} on held-out openings. Each round's opponent and reference is the model
of the last one. Told apart is how often the round's model gives the data's answer the larger implicit reward against
its opponent's, on held-out openings; 50 % is chance.
"""

APO_TOLD = """## APO without its KL term

APO (arXiv:2311.08045): in each round a reward model learns, from the first model, comparisons by the true reward and
that the truly best of four answers is better than the policy's own; then DPO learns its best and worst answer of the
policy. Without the KL term it learns the second alone. Right is the share of held-out comparisons by the true reward.
"""

RLCD_TOLD = """## RLCD's labels and how far its instructions are apart

The model has learnt {words} words for a review, from "{lowest}" to "{highest}", a fifth of the reviews each by true
reward. `contrast` (arXiv:2307.12950) asks for one word and for another one so many places below; the first answer
counts as better. Apart is the mean difference of the two true rewards, over the deviation of that difference; if it
were normal, labels would be right in Phi of that.
"""

RANKINGS_TOLD = """## DPO, RRHF, PRO and RAFT from the same rankings

Four answers of the first model to each opening, ranked by the true reward: DPO learns all six comparisons, RRHF
(arXiv:2304.05302) and PRO (arXiv:2306.17492) the ranking, RAFT (arXiv:2304.06767), of which this is one round,
fine-tunes on the best. Three epochs each, and the same two learning rates; nothing else was tuned, so another order is
possible with other settings.
"""

Values = Sequence[float]


def write(folder: Path) -> None:
    """The page with a section for whatever was found."""
    found = Found(folder / KEPT)
    about = {**found.pieces["size"], **found.pieces["reference/start"]}
    parts = [HEAD.format(cost=_cost(found), **about)]
    for name, section in SECTIONS.items():
        if any(found.under(name)):
            parts.append("\n".join([*section(found, folder), ""]))
    (folder / "loops.md").write_text("\n".join(parts), encoding="utf-8")


def _cost(found: Found) -> str:
    cores = sum(found.pieces.get("core_seconds", {}).values()) / 60
    where = ", ".join(found.pieces.get("machines", {}))
    return (
        f"It took {cores:.0f} minutes of one core after the first model was made ({where})."
        " Rates are chosen on the openings they are told of."
        if cores
        else ""
    )


def runs(found: Found, *names: str) -> dict[int, Any]:
    """What was found of a setting, by seed, but for what broke off."""
    return {
        int(rest[0]): one
        for rest, one in found.under(*names)
        if len(rest) == 1 and rest[0].isdigit() and not (isinstance(one, dict) and "broke" in one)
    }


def of(some: Mapping[int, Any], name: str) -> list[float]:
    """One number of each seed."""
    return [one[name] for one in some.values()]


def lead(some: Mapping[int, float], other: Mapping[int, float]) -> Interval | None:
    """How much more the one has, seed by seed; None without two seeds that both have."""
    both = sorted(some.keys() & other.keys())
    return statistics.mean([some[seed] - other[seed] for seed in both]) if len(both) > 1 else None


def way(one: Interval | None) -> int:
    """1 where a difference is clearly above 0, -1 where it is clearly below, and else 0."""
    return 0 if one is None else int(one.low > 0) - int(one.high < 0)


def _ahead(found: Found, one: Sequence[str], other: Sequence[str], name: str = "reward") -> Interval | None:
    first, second = ({seed: run[name] for seed, run in runs(found, *names).items()} for names in (one, other))
    return lead(first, second)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows), ""]


def best_rate(found: Found, *names: str) -> str:
    """The learning rate of a way at which its true reward is highest."""
    rates = dict.fromkeys(rest[0] for rest, _ in found.under(*names) if len(rest) == 2)
    return max(rates, key=lambda rate: fmean(of(runs(found, *names, rate), "reward")))


def _shape(some: Mapping[int, Any]) -> list[str]:
    """Columns of what most tables end with: seeds, true reward, KL, tokens."""
    return [str(len(some)), *(mean(of(some, name)) for name in ("reward", "kl", "length"))]


SHAPE = ("seeds", "true reward", "KL", "tokens")


def _by_rate(found: Found, part: str, ways: Sequence[str]) -> list[str]:
    rates = {name: dict.fromkeys(rest[0] for rest, _ in found.under(part, name) if len(rest) == 2) for name in ways}
    rows = [[name, rate, *_shape(runs(found, part, name, rate))] for name in ways for rate in rates[name]]
    return _table(("", "learning rate", *SHAPE), rows)


def _positives(found: Found, _: Path) -> Iterator[str]:
    yield POSITIVES_TOLD.format(**found.pieces["size"])
    yield from _by_rate(found, "positives", list(LEARNT))
    one, other = (("positives", name, best_rate(found, "positives", name)) for name in (PAIRS, POSITIVES))
    gained, cost = _ahead(found, one, other), _ahead(found, one, other, "kl")
    said = {
        1: "Pairs and DPO beat the positives alone",
        0: "Which of both is better is not told here",
        -1: "The positives alone beat pairs and DPO here",
    }[way(gained)]
    further = {1: "further from", 0: "about as far from", -1: "nearer to"}[way(cost)]
    yield f"{said}: {signed(gained)} of true reward, at {signed(cost)} nats, so {further} the first model."


def _judgements(found: Found, _: Path) -> Iterator[str]:
    yield JUDGEMENTS_TOLD
    noises = sorted({float(rest[0]) for rest, _ in found.under("judgements") if rest[0] != "DPO"})
    rows, leads = [], []
    for noise in noises:
        once, thrice = (("judgements", f"{noise:g}", times) for times in ("1", "3"))
        gained = _ahead(found, thrice, once, "right")
        leads.append(gained)
        shares = [_percent(of(runs(found, *names), "right")) for names in (once, thrice)]
        rows.append([f"{noise:g}", str(len(runs(found, *once))), *shares, _points(gained)])
    yield from _table(("noise", "seeds", "right, one judgement", "right, three averaged", "points gained"), rows)
    yield _counted(
        leads,
        every="Averaging raises the pairs' precision at every noise.",
        some="Averaging clearly raises the pairs' precision at {n} of {of} noises.",
        none="That averaging raises the pairs' precision is not shown here.",
        against="At {n} of {of} noises it lowers it.",
    )
    once, thrice = (("judgements", "DPO", times) for times in ("1", "3"))
    if runs(found, *once) and runs(found, *thrice):
        gained = _ahead(found, thrice, once)
        said = {1: "gains by it", 0: "does not clearly gain by it", -1: "loses by it"}[way(gained)]
        yield (
            f"DPO in rounds, as above, from the noisiest of these judges {said}: a true reward of "
            f"{mean(of(runs(found, *thrice), 'reward'))} by three judgements against "
            f"{mean(of(runs(found, *once), 'reward'))} by one, {signed(gained)}."
        )


def _length(found: Found, folder: Path) -> Iterator[str]:
    yield LENGTH_TOLD.format(**found.pieces["size"], limit=LIMIT)
    courses = {name: runs(found, "length", name) for name in HELD}
    rows = []
    for name, some in courses.items():
        broke = sum(1 for _, one in found.under("length", name) if "broke" in one)
        tokens = " to ".join(f"{fmean(one['tokens'][place] for one in some.values()):.0f}" for place in (0, -1) if some)
        rows.append([f"{name}{f' ({broke} broke off)' if broke else ''}", *_shape(some), tokens])
    yield from _table(("", *SHAPE, "tokens, first and last round"), rows)
    grown = _ahead(found, ("length", BIASED), ("length", FAIR), "length")
    said = {
        1: "A biased judge makes length run away",
        0: "A biased judge does not clearly lengthen answers here",
        -1: "A biased judge shortens answers here, against what was expected",
    }[way(grown)]
    gained = _ahead(found, ("length", BIASED), ("length", FAIR))
    price = {1: "gains", 0: "does not clearly change", -1: "costs"}[way(gained)]
    yield f"{said}: {signed(grown)} tokens against the fair judge's. It {price} true reward: {signed(gained)}."
    if near := {name: some for name, some in courses.items() if some and is_near_limit(of(some, "length"))}:
        ended = (f"{name} ({_percent(of(some, 'finished'))} of them end by themselves)" for name, some in near.items())
        yield (
            f"Near their limit of {LIMIT} tokens are the answers of {', '.join(ended)}: how far length would run is "
            "not shown, and differences to theirs are understated."
        )
    yield ""
    for name in [name for name in HELD if name not in (FAIR, BIASED) and courses[name]]:
        excess = _ahead(found, ("length", name), ("length", FAIR), "length")
        taken = _ahead(found, ("length", name), ("length", BIASED), "length")
        worth = _ahead(found, ("length", name), ("length", BIASED))
        left = _ahead(found, ("length", name), ("length", FAIR))
        moved, usual = of(courses[name], "kl"), of(courses[FAIR], "kl")
        idle = f" It hardly learns anything: a KL of {mean(moved)}." if usual and is_idle(moved, usual) else ""
        yield (
            f"- {name}: {holds(excess, taken)}, {signed(excess)} tokens against the fair judge's and {signed(taken)} "
            f"against the biased one's; true reward {signed(worth)} against the latter and {signed(left)} against the "
            f"fair judge's.{idle}"
        )
    _course_picture(
        folder / "loops-length.svg",
        {name: [one["tokens"] for one in some.values()] for name, some in courses.items()},
        "tokens of the answers learnt from",
    )
    yield from ("", "![tokens by round](loops-length.svg)")


def is_near_limit(tokens: Values) -> bool:
    """Whether answers are on average within a fifth of the most tokens that they may have."""
    return fmean(tokens) > 0.8 * LIMIT


def is_idle(moved: Values, usual: Values) -> bool:
    """Whether a model went less than a tenth as far from the first one, by its KL, as it usually does."""
    return fmean(moved) < fmean(usual) / 10


def holds(excess: Interval | None, taken: Interval | None) -> str:
    """What became of length. excess: tokens more than a fair judge's. taken: than a biased judge's."""
    if way(taken) >= 0:
        return "does not clearly hold length"
    return {1: "slows it and does not stop it", 0: "stops it", -1: "stops it and goes below"}[way(excess)]


def _spin(found: Found, folder: Path) -> Iterator[str]:
    data = found.pieces["spin/data"]["reward"]
    yield SPIN_TOLD.format(**found.pieces["size"], data=data)
    some = runs(found, "spin")
    rounds = _rounds(some)
    rewards = [{seed: one[place]["reward"] for seed, one in some.items()} for place in rounds]
    gains = [lead(after, before) for before, after in pairwise(rewards)]
    rows = [
        [
            str(place + 1),
            *(mean([one[place][name] for one in some.values()]) for name in ("reward", "kl", "length")),
            signed(gains[place - 1]) if place else "",
            _percent([one[place]["told"] for one in some.values()]),
        ]
        for place in rounds
    ]
    yield from _table(("round", *SHAPE[1:], "gain of the round", "told apart"), rows)
    yield met(rewards, data)
    first, last = ({seed: one[place]["told"] for seed, one in some.items()} for place in (0, -1))
    fell = lead(last, first)
    said = {1: "rises", 0: "does not clearly change", -1: "falls"}[way(fell)]
    yield f"How well data and opponent are told apart {said} from the first round to the last: {_points(fell)} points."
    figure, axes = plt.subplots(figsize=(5, 3))
    _courses(axes, {"SPIN": [[one[place]["reward"] for place in rounds] for one in some.values()]})
    axes.axhline(data, color="#888888", linestyle="--", linewidth=0.8, label="the data")
    axes.set_xlabel("round")
    axes.set_ylabel("true reward, held out")
    axes.legend(fontsize=8)
    save(figure, folder / "loops-spin.svg")
    yield from ("", "![true reward by round](loops-spin.svg)")


def met(rewards: Sequence[Mapping[int, float]], data: float) -> str:
    """Whether rounds of self-play come as far as their data, and what they do then.

    rewards: of each round the true reward by seed. data: that of the data.
    """
    short_of = [lead(one, dict.fromkeys(one, data)) for one in rewards]
    meets = next((place for place, one in enumerate(short_of) if one is not None and one.high >= 0), None)
    half = len(rewards) // 2
    if meets is None:
        late = lead(rewards[-1], rewards[half - 1]) if half else None
        left = f"It has not met its data after {len(rewards)} rounds: {signed(short_of[-1])} of true reward are left."
        rising = {
            1: "It still improves in the second half of them",
            0: "It does not clearly improve in the second half of them any more, so neither meeting its data nor "
            "stopping is shown",
            -1: "It falls back in the second half of them",
        }[way(late)]
        return f"{left} {rising}: {signed(late)}."
    where = f"In round {meets + 1} it is no longer clearly below its data."
    if meets == len(rewards) - 1:
        return f"{where} That is the last one: what it does after that is not shown."
    later = lead(rewards[-1], rewards[meets])
    then = {
        1: "It goes on improving after that, and so does not stop there",
        0: "It stops improving there",
        -1: "It falls back after that",
    }[way(later)]
    end = {1: "clearly above", 0: "not clearly apart from", -1: "clearly below"}[way(short_of[-1])]
    return f"{where} {then}: {signed(later)} up to the last round, which is {end} the data ({signed(short_of[-1])})."


def _apo(found: Found, folder: Path) -> Iterator[str]:
    yield APO_TOLD
    some = {name: runs(found, "apo", name) for name in GAMES}
    rounds = _rounds(next(iter(some.values())))
    rows = []
    for place in rounds:
        at = {name: {seed: run[place] for seed, run in one.items()} for name, one in some.items()}
        right = [_percent(of(one, "right")) for one in at.values()]
        rows.append(
            [str(place + 1), *right, *(mean(of(one, name)) for name in ("reward", "kl") for one in at.values())]
        )
    columns = [f"{what}, {name}" for what in ("right", "true reward", "KL") for name in GAMES]
    yield from _table(("round", *columns), rows)
    ends = {name: {seed: run[-1] for seed, run in one.items()} for name, one in some.items()}
    yield collapse(
        {seed: run["right"] for seed, run in ends[WITH].items()},
        {seed: run["right"] for seed, run in ends[WITHOUT].items()},
    )
    gained = lead(*({seed: run["reward"] for seed, run in ends[name].items()} for name in (WITHOUT, WITH)))
    policy = {1: "comes to more true reward", 0: "comes to about as much true reward", -1: "comes to less true reward"}
    yield f"The policy {policy[way(gained)]} without it: {signed(gained)}."
    figure, every = plt.subplots(1, 2, figsize=(8, 3))
    for axes, name, words in zip(
        every, ("right", "reward"), ("reward model right", "policy's true reward"), strict=True
    ):
        _courses(axes, {arm: [[run[name] for run in one] for one in by.values()] for arm, by in some.items()})
        axes.set_xlabel("round")
        axes.set_ylabel(words)
    every[0].axhline(0.5, color="#888888", linestyle="--", linewidth=0.8)
    every[0].legend(fontsize=8)
    save(figure, folder / "loops-apo.svg")
    yield from ("", "![accuracy and reward by round](loops-apo.svg)")


def collapse(kept: Mapping[int, float], out: Mapping[int, float]) -> str:
    """Whether the reward model of the last round still knows what is better. kept: its accuracy with the KL term."""
    if len(out) < 2:
        return ""
    above, less = lead(out, dict.fromkeys(out, 0.5)), lead(out, kept)
    told = f"{_percent(list(out.values()))} of comparisons in the last round, {_points(less)} points against with it"
    if way(above) <= 0 and way(less) >= 0:
        return (
            "Without its KL term APO's reward model cannot be told from chance, and yet is not clearly worse than with "
            f"it, so a collapse is not shown: right on {told}."
        )
    if way(above) <= 0:
        what = "below chance" if way(above) < 0 else "no better than chance"
        return f"Without its KL term APO's reward model collapses, {what}: right on {told}."
    if way(less) < 0:
        return f"Without its KL term APO's reward model is worse and does not collapse here: right on {told}."
    return f"Without its KL term APO's reward model does not collapse here, nor is it clearly worse: right on {told}."


def _rlcd(found: Found, folder: Path) -> Iterator[str]:
    yield RLCD_TOLD.format(words=len(TAGS), lowest=TAGS[0], highest=TAGS[-1])
    some = {int(rest[0]): runs(found, "rlcd", rest[0]) for rest, _ in found.under("rlcd")}
    phi = NormalDist().cdf
    rows = [
        [
            str(places),
            str(len(one)),
            mean(of(one, "apart")),
            _percent(of(one, "right")),
            f"{100 * phi(fmean(of(one, 'apart'))):.0f} %",
        ]
        for places, one in some.items()
    ]
    yield from _table(("places", "seeds", "apart", "labels that are right", "if it were normal"), rows)
    rights = [{seed: run["right"] for seed, run in one.items()} for one in some.values()]
    yield _counted(
        [lead(rights[-1], rights[0])] if rights else [],
        every="Labels are clearly right more often with words furthest apart than with the same word.",
        some="",
        none="That labels are right more often with words further apart is not shown here.",
        against="With words furthest apart they are clearly right less often.",
    )
    every = [(run["apart"], run["right"]) for one in some.values() for run in one.values()]
    off = max(abs(phi(apart) - right) for apart, right in every)
    yield f"No single one of {len(every)} shares is off what is normal by more than {100 * off:.0f} points."
    figure, axes = plt.subplots(figsize=(5, 3))
    axes.plot([apart for apart, _ in every], [right for _, right in every], "o", markersize=3)
    last = max(apart for apart, _ in every)
    line = [last * step / 50 for step in range(51)]
    axes.plot(line, [phi(one) for one in line], "--", color="#888888", linewidth=0.8, label="if it were normal")
    axes.set_xlabel("apart: mean difference of true rewards / its deviation")
    axes.set_ylabel("labels that are right")
    axes.legend(fontsize=8)
    save(figure, folder / "loops-rlcd.svg")
    yield from ("", "![labels by separation](loops-rlcd.svg)")


def _rankings(found: Found, _: Path) -> Iterator[str]:
    yield RANKINGS_TOLD
    yield from _by_rate(found, "rankings", list(RANKED))
    places = {name: ("rankings", name, best_rate(found, "rankings", name)) for name in RANKED}
    order = sorted(places, key=lambda name: -fmean(of(runs(found, *places[name]), "reward")))
    said = []
    for better, worse in pairwise(order):
        gained = _ahead(found, places[better], places[worse])
        clearly = "clearly ahead of" if way(gained) > 0 else "not clearly ahead of"
        said.append(f"{better} is {clearly} {worse} ({signed(gained)})")
    start = found.pieces["reference/start"]["reward"]
    gains = {name: _above(found, places[name], start) for name in order}
    flat = [name for name, gained in gains.items() if way(gained) <= 0]
    tail = f" Not clearly better than the first model: {', '.join(flat)}." if flat else " All gain on the first model."
    yield f"By true reward: {'; '.join(said)}.{tail}"


def _above(found: Found, names: Sequence[str], start: float) -> Interval | None:
    some = {seed: run["reward"] for seed, run in runs(found, *names).items()}
    return lead(some, dict.fromkeys(some, start))


def _counted(leads: Sequence[Interval | None], *, every: str, some: str, none: str, against: str) -> str:
    """A sentence by how many differences are clearly above 0, and another one if any is clearly below."""
    ahead, behind = (sum(way(one) == side for one in leads) for side in (1, -1))
    said = every if ahead == len(leads) else some if ahead else none
    parts = [said.format(n=ahead, of=len(leads)), *([against.format(n=behind, of=len(leads))] if behind else [])]
    return " ".join(parts)


def _rounds(some: Mapping[int, Sequence[Any]]) -> range:
    return range(min(map(len, some.values())))


def _percent(shares: Values) -> str:
    """A mean share with its interval over seeds."""
    return statistics.mean(shares).percent if len(shares) > 1 else f"{100 * shares[0]:.0f} %"


def _points(one: Interval | None) -> str:
    """A difference of shares, in points."""
    return "" if one is None else f"{100 * one.value:+.0f} [{100 * one.low:+.0f}, {100 * one.high:+.0f}]"


def _courses(axes: Any, courses: Mapping[str, Sequence[Values]]) -> None:
    """A line for the mean of each, a thin one for each seed."""
    for number, (name, lines) in enumerate(courses.items()):
        if not lines:
            continue
        places = range(1, len(lines[0]) + 1)
        for line in lines:
            axes.plot(places, line, color=f"C{number}", linewidth=0.4, alpha=0.6)
        middle = [fmean(line[place - 1] for line in lines) for place in places]
        axes.plot(places, middle, "o-", color=f"C{number}", linewidth=1.4, markersize=3, label=name)
        axes.set_xticks(list(places))


def _course_picture(path: Path, courses: Mapping[str, Sequence[Values]], words: str) -> None:
    figure, axes = plt.subplots(figsize=(6, 3.5))
    _courses(axes, courses)
    axes.set_xlabel("round")
    axes.set_ylabel(words)
    axes.legend(fontsize=8)
    save(figure, path)


LIMIT = 48
"""Tokens of an answer at most, where a judge likes length: max_new_tokens of loops-length.toml."""
SECTIONS: Mapping[str, Callable[[Found, Path], Iterator[str]]] = {
    "positives": _positives, "judgements": _judgements, "length": _length, "spin": _spin, "apo": _apo, "rlcd": _rlcd,
    "rankings": _rankings,
}  # fmt: skip
"""By part, in order."""
