"""Shares, and how often one answer beats another: with ties, with lengths held equal, and in both orders."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

from truing.errors import DataError
from truing.statistics.climbing import climb
from truing.statistics.intervals import (
    CONFIDENCE,
    Array,
    Interval,
    finite,
    per_prompt,
    quantile,
    same_length,
    standard_error,
    student,
    wilson,
)

LENGTH_SPREAD = 3.0
"""Standard deviation of what length is believed, before any data, to add to the log-odds of winning."""


class WinTieLoss(NamedTuple):
    """The shares of wins, ties and losses. Each interval holds by itself, not all three at once."""

    win: Interval
    tie: Interval
    loss: Interval


class SwapConsistency(NamedTuple):
    """A judge that saw each pair in both orders.

    consistent: the share of pairs with one verdict in both. first: the win rate of whichever answer was shown first;
    1/2 of a judge whom places do not sway.
    """

    consistent: Interval
    first: Interval


def proportion(successes: int, n: int, *, confidence: float = CONFIDENCE) -> Interval:
    """The share of successes in independent trials, with Wilson's score interval (1927).

    It covers `confidence` on average over rates. Of no trials nothing is known: the value is 1/2 and the interval
    [0, 1], Wilson's own limit as n goes to 0.
    """
    _possible(successes, n)
    if n == 0:
        return Interval(0.5, 0.0, 1.0, 0, confidence)
    low, high = wilson(successes / n, n, confidence)
    return Interval(successes / n, low, high, n, confidence)


def exact_proportion(successes: int, n: int, *, confidence: float = CONFIDENCE) -> Interval:
    """The share of successes in independent trials, with the exact interval of Clopper and Pearson (1934).

    It covers at least `confidence` whatever the rate, and is wider than Wilson's for that: for promises such as "at
    most so many unsafe answers". Its ends are quantiles of beta distributions. Of no trials: 1/2 in [0, 1].
    """
    _possible(successes, n)
    quantile(confidence)
    if n == 0:
        return Interval(0.5, 0.0, 1.0, 0, confidence)
    tail = (1 - confidence) / 2
    low = float(special.betaincinv(successes, n - successes + 1, tail)) if successes > 0 else 0.0
    high = float(special.betaincinv(successes + 1, n - successes, 1 - tail)) if successes < n else 1.0
    return Interval(successes / n, low, high, n, confidence)


def win_rate(
    outcomes: Sequence[float],
    *,
    prompts: Sequence[Hashable] | None = None,
    weights: Sequence[float] | None = None,
    confidence: float = CONFIDENCE,
) -> Interval:
    """The mean of wins (1), ties (1/2) and losses (0), with Wilson's interval on an effective number of prompts.

    Ties scatter less than wins and losses do, and the means of several answers less than single ones, so k prompts are
    worth more than k coin flips: k times the coin's variance over the measured one. One win and one loss are added
    before that variance is measured, so it is never zero; at 0 % and 100 % the prompts count once each, and without
    ties or repeats the interval is exactly Wilson's. Of unequal weights k prompts are worth less, as in Kish's rule.
    Of no outcome: 1/2 in [0, 1].
    """
    _known(outcomes)
    return _mean_of_shares(outcomes, prompts, weights, confidence)


def bounded_mean(
    values: Sequence[float],
    lowest: float,
    highest: float,
    *,
    prompts: Sequence[Hashable] | None = None,
    weights: Sequence[float] | None = None,
    confidence: float = CONFIDENCE,
) -> Interval:
    """The mean of values that all lie between two ends, such as correlations, with an interval that does too.

    It is that of `win_rate`, stretched from [0, 1] to these ends: Student's would have no width where all values are
    equal, and may reach beyond what is possible. Of no value: the middle, in [lowest, highest].
    """
    own = finite(values)
    if not -math.inf < lowest < highest < math.inf or (own < lowest).any() or (own > highest).any():
        raise DataError(f"values must lie between {lowest:g} and {highest:g}, the lower end first")
    width = highest - lowest
    found = _mean_of_shares(((own - lowest) / width).tolist(), prompts, weights, confidence)
    value, low, high = (lowest + width * share for share in (found.value, found.low, found.high))
    return Interval(value, low, high, found.n, confidence)


def win_tie_loss(
    outcomes: Sequence[float],
    *,
    prompts: Sequence[Hashable] | None = None,
    weights: Sequence[float] | None = None,
    confidence: float = CONFIDENCE,
) -> WinTieLoss:
    """The shares of wins (1), ties (1/2) and losses (0), each with the interval of `win_rate`.

    The win rate is win + tie / 2: two judges of one win rate may differ much in how often they call a tie. Of no
    outcome nothing is known: each is 1/2 in [0, 1], and they do not add up to 1.
    """
    _known(outcomes)

    def share(outcome: float) -> Interval:
        hits = [float(one == outcome) for one in outcomes]
        return win_rate(hits, prompts=prompts, weights=weights, confidence=confidence)

    return WinTieLoss(share(1.0), share(0.5), share(0.0))


def share_difference(
    after: Sequence[float],
    before: Sequence[float],
    *,
    prompts: Sequence[Hashable] | None = None,
    confidence: float = CONFIDENCE,
) -> Interval:
    """How much larger a share is than another one of the same items: the mean of after - before, each 1 or 0.

    Student's interval, with one item more that only the first has and one that only the second has before scatter is
    measured (in the spirit of Agresti and Min 2005, who add 1/2 to each of the four cells): two models that never
    differed on 20 items may still differ on the next, and the interval says by how much. Of no items: 0 in [-1, 1].
    """
    same_length(after, before)
    if not {*after, *before} <= {0, 1}:
        raise DataError("shares are of values that are 1 or 0")
    gaps, _ = per_prompt([a - b for a, b in zip(after, before, strict=True)], prompts)
    if gaps.size == 0:
        return Interval(0.0, -1.0, 1.0, 0, confidence)
    smoothed = np.append(gaps, (1.0, -1.0))
    value = float(gaps.mean())
    half = student(confidence, smoothed.size - 1) * standard_error(smoothed, np.ones_like(smoothed))
    return Interval(value, max(value - half, -1.0), min(value + half, 1.0), len(after), confidence)


def length_controlled_win_rate(
    outcomes: Sequence[float],
    lengths: Sequence[float],
    other_lengths: Sequence[float],
    *,
    prompts: Sequence[Hashable] | None = None,
    confidence: float = CONFIDENCE,
) -> Interval:
    """The win rate as it would be were both answers always equally long (arXiv:2404.04475).

        P(win) = sigmoid(theta + phi tanh(d / s))        the rate is sigmoid(theta)

    d: how much longer the answer is than the other one; s: the standard deviation of d over all comparisons.

    Simplified: the paper's term for the difficulty of each instruction needs the verdicts on many other models and is
    left out, as are its artificial baselines. Where the paper's code picks an L1 penalty by cross-validation, phi has a
    normal prior of deviation 3 here, which some tens of comparisons outweigh. The paper gives no interval; here it is
    normal on the log-odds, from the curvature of the penalised likelihood times measured over expected scatter, so that
    ties narrow it as they do in `win_rate`. Each prompt counts once, by the means of its outcomes and length terms.

    Assumes that length acts in this form, and that phi is a judge's taste for length rather than quality: where longer
    answers are better ones, too much is taken away.

    Degenerate: of no comparison it is 1/2 in [0, 1]; where all are won, all lost, or all pairs equally long there is
    nothing to control for, and it is `win_rate`; where every answer is longer by the same number, length and model
    cannot be told apart, which is an error. Where length alone decides all outcomes the prior keeps phi finite.
    """
    _known(outcomes)
    same_length(outcomes, lengths)
    same_length(outcomes, other_lengths)
    longer = finite(lengths) - finite(other_lengths)
    if set(outcomes) in ({0}, {1}) or not longer.any():
        return win_rate(outcomes, prompts=prompts, confidence=confidence)
    if np.ptp(longer) == 0:
        raise DataError(
            f"every answer is longer than the other one by {longer[0]:g}: what is length and what is the model cannot "
            "be told apart: give comparisons whose lengths differ otherwise, or take win_rate"
        )
    won, _ = per_prompt(outcomes, prompts)
    term, _ = per_prompt(np.tanh(longer / longer.std()).tolist(), prompts)
    design = np.stack([np.ones_like(term), term], axis=1)
    prior = np.array([0.0, LENGTH_SPREAD**-2])

    def posterior(place: Array) -> tuple[float, Array, Array]:
        logit = design @ place
        chance = special.expit(logit)
        value = float((won * logit - np.logaddexp(0.0, logit)).sum() - (prior * place**2).sum() / 2)
        curvature = design.T @ (design * (chance * (1 - chance))[:, None]) + np.diag(prior)
        return value, design.T @ (won - chance) - prior * place, curvature

    place, curvature = climb(posterior, np.zeros(2))
    chance = special.expit(design @ place)
    # As in `win_rate` a win and a loss are added before scatter is measured: (1/2)^2 twice.
    scatter = (float(((won - chance) ** 2).sum()) + 0.5) / (float((chance * (1 - chance)).sum()) + 0.5)
    reach = quantile(confidence) * math.sqrt(scatter * float(np.linalg.inv(curvature)[0, 0]))
    value, low, high = (float(special.expit(place[0] + way * reach)) for way in (0, -1, 1))
    return Interval(value, low, high, len(outcomes), confidence)


def swap_consistency(
    shown_first: Sequence[float], shown_second: Sequence[float], *, confidence: float = CONFIDENCE
) -> SwapConsistency:
    """Whether a judge says the same of two answers when they change places (as in arXiv:2306.05685).

    shown_first, shown_second: [n], the outcomes of one and the same answer of each pair, in the order that shows it
    first and in the other: 1 it wins, 1/2 tie, 0 it loses. Pairs are independent; the two verdicts on a pair are not,
    and count as one prompt in `first`.

    A judge that always says tie is perfectly consistent: see `win_tie_loss` too. Of no pairs both are 1/2 in [0, 1].
    """
    same_length(shown_first, shown_second)
    _known([*shown_first, *shown_second])
    alike = sum(a == b for a, b in zip(shown_first, shown_second, strict=True))
    pairs = range(len(shown_first))
    first = win_rate(
        [*shown_first, *(1 - outcome for outcome in shown_second)], prompts=[*pairs, *pairs], confidence=confidence
    )
    return SwapConsistency(proportion(alike, len(shown_first), confidence=confidence), first)


def _mean_of_shares(
    shares: Sequence[float],
    prompts: Sequence[Hashable] | None,
    weights: Sequence[float] | None,
    confidence: float,
) -> Interval:
    """As `win_rate` says it, of any values from 0 to 1."""
    rates, counts = per_prompt(shares, prompts, weights)
    if rates.size == 0:
        return Interval(0.5, 0.0, 1.0, 0, confidence)
    smoothed, usual = np.append(rates, (0.0, 1.0)), np.append(counts, (counts.mean(), counts.mean()))
    middle = float(np.average(smoothed, weights=usual))
    variance = float((((smoothed - middle) * usual) ** 2).sum()) / float(usual.sum()) ** 2
    effective = middle * (1 - middle) / variance * rates.size / smoothed.size
    rate = float(np.average(rates, weights=counts))
    low, high = wilson(rate, effective, confidence)
    return Interval(rate, low, high, len(shares), confidence)


def _possible(successes: int, n: int) -> None:
    if not 0 <= successes <= n:
        raise DataError(f"{successes} successes in {n} trials: successes must lie between 0 and the trials")


def _known(outcomes: Sequence[float]) -> None:
    if not set(outcomes) <= {0, 0.5, 1}:
        raise DataError("outcomes must be 1 for a win, 0.5 for a tie and 0 for a loss")
