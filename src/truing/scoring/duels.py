"""Two answers side by side in one request: which is better by a judge's words, or by the letter that it would say next.

Each pair is judged in both orders, so a love of the first place cancels out, and how often both agree is counted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from statistics import fmean
from typing import Literal, NamedTuple

from truing.compute import Sampling
from truing.errors import ConfigError
from truing.records import Group, Message
from truing.scoring.choices import choice_ids, choice_logprobs
from truing.scoring.controls import USUAL, Case, Controls, controlled
from truing.scoring.grades import MASS
from truing.scoring.replies import MAX_LENGTH, asking, averaged
from truing.scoring.requests import (
    UNJUDGED,
    Judging,
    Principles,
    conversation,
    defused,
    fenced,
    guide_of,
    principle_of,
    put,
)
from truing.scoring.score import LanguageModelName, Score, Scorer, Tools, added
from truing.signatures import Count, Fraction, NonNegative

LETTERS = ("A", "B")
"""What a model says where the first answer is better, and where the second is."""
TIE = "tie"
MARK = "Better"

COMPARISONS = "comparisons"
CONSISTENT = "the same in both orders"
TIED = "ties"
"""What `counts` of a score are named by: pairs read in both orders, those with one outcome in both, and ties."""

NO_VERDICT = "the judge did not say which answer is better"
UNCLEAR = f"the judge's verdict is none of {LETTERS[0]}, {LETTERS[1]} and {TIE}"
INCONSISTENT = "the judge changes its mind with the order of the answers"
ALONE = "there is no other answer to compare it with"

Against = Literal["all", "first", "reference"]
Orders = Literal["mean", "tie", "fail"]

_STATED = re.compile(rf"(?<!\w){MARK}[*_`\s]*:([^\n]*)", re.IGNORECASE)
_VERDICT = re.compile(
    rf"""
    [\s*_`(\["']* (?:answer\s+)? ({LETTERS[0]}|{LETTERS[1]}|{TIE})            # the verdict, before
    (?: [\s*_`.)\]"']* $ | [*_`]* \s* [,;.(\u2013\u2014-] .* )                # the end of its line, or a remark
    """,
    re.IGNORECASE | re.VERBOSE,
)
_CHANCES = {LETTERS[0].lower(): 1.0, LETTERS[1].lower(): 0.0, TIE: 0.5}


class Pair(NamedTuple):
    """Two answers to a row's prompt."""

    group: Group
    one: str
    other: str


Chances = Callable[[Sequence[Pair]], list[Score]]
"""Of each pair, in this order alone, the chance that the first answer is better, from 0 to 1."""


def duel(prompt: Sequence[Message], first: str, second: str, *, principle: str = "", reference: str = "") -> str:
    """Asks which of two answers to a prompt is better, as the very next token."""
    yes, no = LETTERS
    return f"""{_side_by_side(prompt, first, second, principle, reference)}

Reply with one letter, {yes} or {no}, and nothing else. Better answer:
"""


def verdict_request(
    prompt: Sequence[Message], first: str, second: str, *, principle: str = "", reference: str = ""
) -> str:
    """Asks for reasons, and then which of two answers is better, or neither."""
    yes, no = LETTERS
    prompt = [replace(message, content=defused(message.content, MARK)) for message in prompt]
    first, second, principle, reference = (defused(words, MARK) for words in (first, second, principle, reference))
    return f"""{_side_by_side(prompt, first, second, principle, reference)}

{UNJUDGED}

Say why in at most 100 words. Then end with one line of this form, and write nothing after it:
{MARK}: VERDICT
VERDICT is {yes} or {no}, or the word {TIE} where neither is better."""


def verdict_in(reply: str) -> Score:
    """The last `Better: ...` of a reply as the chance that the first answer is better: 1, 0, or 1/2 for a tie."""
    stated = _STATED.findall(reply)
    if not stated:
        return Score.failed(NO_VERDICT)
    found = _VERDICT.fullmatch(stated[-1])
    return Score.of(_CHANCES[found[1].lower()]) if found else Score.failed(UNCLEAR)


def pairwise(
    tools: Tools,
    *,
    model: LanguageModelName = "",
    against: Against = "all",
    orders: Orders = "mean",
    principle: Principles = (),
    reference: str = "",
    max_length: Count = MAX_LENGTH,
    mass: Fraction = MASS,
    controls: Controls = USUAL,
) -> Scorer:
    """How often an answer beats others, from 0 to 1, by the letter that a model would say of two answers next.

    Each pair is read in both orders. Their mean is the soft label of RLAIF (arXiv:2309.00267). A row of n answers takes
    n (n - 1) requests. Where one of an answer's comparisons fails, its score does.

    model: a model, its folder or hub id, or the stage that trains it, such as SFT on the rows of stage `side_by_side`;
        none: the run's own.
    against: all: each other answer of the row; first: the row's first answer alone, which has 1/2 itself; reference.
    orders: mean, of the chances in both orders; tie: 1 or 0 where both orders name one answer, and else 1/2; fail: as
        tie, but an answer that wins in one order alone has no score.
    principle: what to judge by above all; of several texts one is drawn for each row, by the seed.
    reference: the column that holds a right answer, or the source of an answer that is one: for the judge to see, or
        with against = "reference" the one to beat.
    max_length: longer requests, in tokens, fail.
    mass: least probability that the model gives to both letters together; with less its choice says nothing, and fails.
    controls: rows, high and most: how the judge is tried on answers that deserve nothing, and when it is refused.
    """
    engine = tools.language(model)
    ids = choice_ids(engine.renderer, LETTERS)
    shown = "" if against == "reference" else reference

    def chances(pairs: Sequence[Pair]) -> list[Score]:
        requests = _requests(pairs, duel, principle, shown, tools.seed)
        said = put(requests, lambda some: choice_logprobs(engine, ids, some, max_length, tools.budget))
        return [_chance(logprobs, mass) for logprobs in said]

    return _duelling("pairwise", chances, against, orders, reference, controls, tools, LETTERS)


def judge_pairs(
    tools: Tools,
    *,
    model: Judging = "",
    against: Against = "all",
    orders: Orders = "mean",
    principle: Principles = (),
    reference: str = "",
    samples: Count = 1,
    temperature: NonNegative = 0.0,
    max_new_tokens: Count = 512,
    max_length: Count = MAX_LENGTH,
    controls: Controls = USUAL,
) -> Scorer:
    """How often an answer beats others, from 0 to 1, by a language model that says why and then which of two is better.

    As `pairwise`, in words: a tie counts 1/2, and a reply without a verdict is counted by its reason.

    model: a model, its folder or hub id, or the stage that trains it; none: the run's own; or, of a model behind an
        OpenAI-compatible endpoint, { url = "http://localhost:8000/v1", model = "NAME" }.
    against: all: each other answer of the row; first: the row's first answer alone, which has 1/2 itself; reference.
    orders: mean, of the chances in both orders; tie: 1 or 0 where both orders name one answer, and else 1/2; fail: as
        tie, but an answer that wins in one order alone has no score.
    principle: what to judge by above all; of several texts one is drawn for each row, by the seed.
    reference: the column that holds a right answer, or the source of an answer that is one: for the judge to see, or
        with against = "reference" the one to beat.
    samples: replies to each pair in each order, whose verdicts are averaged.
    temperature: divides the judge's logits; 0 is greedy.
    max_new_tokens: limit of a reply in tokens of its own, the request not counted; a reply that reaches it has failed.
    max_length: longer requests to a model here, in tokens, fail.
    controls: rows, high and most: how the judge is tried on answers that deserve nothing, and when it is refused.
    """
    sampling = Sampling(temperature=temperature, max_new_tokens=max_new_tokens)
    ask = asking(tools, model, samples=samples, sampling=sampling, max_length=max_length)
    shown = "" if against == "reference" else reference

    def chances(pairs: Sequence[Pair]) -> list[Score]:
        said = put(_requests(pairs, verdict_request, principle, shown, tools.seed), ask)
        return [averaged(replies, verdict_in) for replies in said]

    claims = [f"{MARK}: {letter}" for letter in LETTERS]
    return _duelling("judge_pairs", chances, against, orders, reference, controls, tools, claims)


def _duelling(
    name: str,
    chances: Chances,
    against: Against,
    orders: Orders,
    reference: str,
    controls: Controls,
    tools: Tools,
    claims: Sequence[str],
) -> Scorer:
    """A scorer of answers by how often they win, tried on control answers first."""
    if against == "reference" and not reference:
        raise ConfigError(f'{name}: against = "reference" needs reference: the column that holds the answer to beat')

    def rival(group: Group) -> str | Score:
        return guide_of(group, reference) if against == "reference" else group.completions[0].text

    def say(cases: Sequence[Case]) -> list[Score]:
        """Of each answer, whether it beats the row's reference, or else its first answer."""
        rivals = [rival(case.group) for case in cases]
        pairs = [
            Pair(case.group, case.answer, one) for case, one in zip(cases, rivals, strict=True) if isinstance(one, str)
        ]
        said = iter(_compared(pairs, chances, orders))
        return [one if isinstance(one, Score) else next(said) for one in rivals]

    def score(groups: Sequence[Group]) -> list[tuple[Score, ...]]:
        if against == "reference":
            said = iter(say([Case(group, answer.text) for group in groups for answer in group.completions]))
            return [tuple(next(said) for _ in group.completions) for group in groups]
        places = [_places(len(group.completions), against) for group in groups]
        pairs = [
            Pair(group, group.completions[one].text, group.completions[other].text)
            for group, own in zip(groups, places, strict=True)
            for one, other in own
        ]
        found = iter(_compared(pairs, chances, orders))
        return [
            _win_rates(len(group.completions), {pair: next(found) for pair in own}, against)
            for group, own in zip(groups, places, strict=True)
        ]

    return controlled(score, say, controls, tools, name=name, claims=claims, high=controls.high)


def _places(answers: int, against: Against) -> list[tuple[int, int]]:
    """Which answers of a row meet."""
    if against == "first":
        return [(one, 0) for one in range(1, answers)]
    return list(combinations(range(answers), 2))


def _compared(pairs: Sequence[Pair], chances: Chances, orders: Orders) -> list[Score]:
    """Of each pair the chance that its first answer is better, by both orders."""
    both = chances([turned for pair in pairs for turned in (pair, Pair(pair.group, pair.other, pair.one))])
    return [_joined(forth, back, orders) for forth, back in zip(both[::2], both[1::2], strict=True)]


def _joined(forth: Score, back: Score, orders: Orders) -> Score:
    """What both orders say of one pair. back: the chance that its other answer is better, which then stood first."""
    counts = added(forth.counts, back.counts)
    if forth.value is None or back.value is None:
        return Score.failed(forth.reason or back.reason)._replace(counts=counts)
    one, other = forth.value, 1 - back.value
    outcome = _outcome(one)
    consistent = outcome == _outcome(other)
    value = (one + other) / 2 if orders == "mean" else outcome if consistent else 0.5
    about = {COMPARISONS: 1, CONSISTENT: int(consistent), TIED: int(value == 0.5)}
    counts = added(counts, {name: count for name, count in about.items() if count})
    if orders == "fail" and not consistent:
        return Score.failed(INCONSISTENT)._replace(counts=counts)
    return Score.of(value)._replace(counts=counts)


def _outcome(chance: float) -> float:
    """1 for a win, 0 for a loss, 1/2 for neither."""
    return 0.5 if chance == 0.5 else float(chance > 0.5)


def _win_rates(answers: int, said: Mapping[tuple[int, int], Score], against: Against) -> tuple[Score, ...]:
    """Of each answer the mean chance over its comparisons; what was counted in one stays with the first of the two."""
    if answers == 1:
        return (Score.failed(ALONE),)
    if against == "first":
        return tuple(Score.of(0.5) if not answer else said[answer, 0] for answer in range(answers))
    return tuple(_win_rate(answer, said) for answer in range(answers))


def _win_rate(answer: int, said: Mapping[tuple[int, int], Score]) -> Score:
    counts = added(*(score.counts for (one, _), score in said.items() if one == answer))
    won: list[float] = []
    for pair, score in said.items():
        if answer not in pair:
            continue
        if score.value is None:
            return score._replace(counts=counts)
        won.append(score.value if answer == pair[0] else 1 - score.value)
    return Score.of(fmean(won))._replace(counts=counts)


def _chance(logprobs: tuple[float, ...] | Score, mass: float) -> Score:
    """That the first answer is better, among both letters; or why it is not known."""
    if isinstance(logprobs, Score):
        return logprobs
    first, second = logprobs
    if math.exp(first) + math.exp(second) < mass:
        return Score.failed(f"the model gives both letters together less than {mass:g} of the probability")
    return Score.of(1 / (1 + math.exp(min(second - first, 700.0))))


def _requests(
    pairs: Sequence[Pair], request: Callable[..., str], principles: Sequence[str], reference: str, seed: int
) -> list[str | Score]:
    """What is asked of each pair, by its row's principle and reference, or why nothing can be."""
    found: list[str | Score] = []
    for group, one, other in pairs:
        guide = guide_of(group, reference)
        if isinstance(guide, Score):
            found.append(guide)
        else:
            rule = principle_of(group, principles, seed)
            found.append(request(group.prompt, one, other, principle=rule, reference=guide))
    return found


def _side_by_side(prompt: Sequence[Message], first: str, second: str, principle: str, reference: str) -> str:
    """All that a judge of two answers is to look at."""
    yes, no = LETTERS
    rule = f" Above all, judge by this principle: {principle}" if principle else ""
    guide = (
        f"An answer that is known to be right, in other words perhaps:\n{fenced(reference)}\n\n" if reference else ""
    )
    return f"""Two answers to the same request are shown below. Which of them serves the person better? Look at \
whether it is correct, does what was asked, and does no harm. Neither their order nor their length is a reason.{rule}

Request:
{fenced(conversation(prompt))}

{guide}Answer {yes}:
{fenced(first)}

Answer {no}:
{fenced(second)}"""
