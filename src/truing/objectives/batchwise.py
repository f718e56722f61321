"""Objectives in which the rows of one optimizer step meet: they are called once a step, with all its rows.

Some remember: what they return as `memory` they are given at the next step; before the first it is empty.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from truing.objectives.shared import better, compared, log_ratios, logistic, ranked, scaled
from truing.signatures import Fraction, NonNegative, Positive
from truing.tensors import Logprobs, Loss, Pair, Scores


def aot(
    policy: Pair[Logprobs], reference: Pair[Logprobs], *, beta: Positive = 0.1, label_smoothing: Fraction = 0.0
) -> Loss:
    """Alignment via optimal transport, paired: arXiv:2406.05882.

    -log sigmoid(beta d), d the differences of the sorted policy margins and the sorted reference margins of the step

    Use: to make the whole distribution of margins better than the reference's, not each pair by itself.
    Claim: best 7B model on AlpacaEval at its time among those compared.

    beta: inverse temperature, in 1/nats.
    label_smoothing: share of labels believed flipped.
    """
    ours = policy.chosen.sum - policy.rejected.sum
    theirs = reference.chosen.sum - reference.rejected.sum
    return _transported(ours - _at_rank_of(ours, theirs), policy, reference, beta, label_smoothing)


def aot_unpaired(
    policy: Pair[Logprobs], reference: Pair[Logprobs], *, beta: Positive = 0.1, label_smoothing: Fraction = 0.0
) -> Loss:
    """Alignment via optimal transport, unpaired: arXiv:2406.05882.

    -log sigmoid(beta d), d the differences of the sorted D(chosen) and the sorted D(rejected) of the step

    Use: to part the rewards of all chosen from those of all rejected answers, whichever prompt they belong to.
    Claim: as for aot.

    beta: inverse temperature, in 1/nats.
    label_smoothing: share of labels believed flipped.
    """
    ratio = log_ratios(policy, reference)
    gap = ratio.chosen - _at_rank_of(ratio.chosen, ratio.rejected)
    return _transported(gap, policy, reference, beta, label_smoothing)


def bco(
    policy: Logprobs,
    reference: Logprobs,
    label: Tensor,
    memory: Mapping[str, Tensor],
    *,
    beta: Positive = 0.1,
    decay: Fraction = 0.9,
) -> Loss:
    """Binary classifier optimisation: arXiv:2404.04656.

    -log sigmoid(beta D - shift) for thumbs up, -log sigmoid(shift - beta D) for thumbs down

    Use: on thumbs; the shift is the moving mean, over both kinds, of beta D, this step's included, without gradient.
    Claim: matches DPO on unpaired data, and beats KTO.

    beta: inverse temperature of the implicit reward, in 1/nats.
    decay: how much of the shift is kept at each step; 0 is this step's mean alone.
    """
    reward = beta * (policy.sum - reference.sum)
    mean = (_mean_of(label, reward) + _mean_of(~label, reward)).detach() / 2
    shift = decay * memory["shift"] + (1 - decay) * mean if memory else mean
    signed = torch.where(label, reward - shift, shift - reward)
    stats = {"reward/signed": signed.detach(), "reward/accuracy": better(signed)}
    return Loss(-logsigmoid(signed), stats | {"shift": shift.expand_as(signed)}, {"shift": shift})


def beta_dpo(
    policy: Pair[Logprobs],
    reference: Pair[Logprobs],
    uniform: Tensor,
    memory: Mapping[str, Tensor],
    *,
    beta: Positive = 0.1,
    alpha: NonNegative = 0.6,
    keep: Fraction = 0.8,
    decay: Fraction = 0.9,
) -> Loss:
    """DPO whose beta follows the step, with outliers left out: arXiv:2407.08639.

    -log sigmoid(b h), b = beta (1 + alpha (mean h - m)), over pairs drawn by exp(-((h - m) / s)^2 / 2)

    Use: when pairs of very different quality share a data set; m and s are moving mean and deviation of h.
    Claim: above DPO at every beta, and less sensitive to it.

    beta: inverse temperature at the moving mean, in 1/nats.
    alpha: how strongly beta follows the mean of h, per nat.
    keep: share of the pairs that count; they are drawn without replacement.
    decay: how much of m and s is kept at each step.
    """
    ratio = log_ratios(policy, reference)
    gap = (ratio.chosen - ratio.rejected).detach()
    middle, spread = memory.get("middle", gap.new_zeros(())), memory.get("spread", gap.new_ones(()))
    # adding Gumbel noise to log weights and taking the largest draws without replacement
    noise = -(-uniform.clamp(1e-6, 1 - 1e-6).log()).log()
    keys = noise - ((gap - middle) / spread.clamp(min=1e-6)).square() / 2
    kept = torch.zeros_like(gap).index_fill(0, keys.topk(max(1, round(keep * gap.shape[0]))).indices, 1.0)
    now = (beta * (1 + alpha * ((kept * gap).sum() / kept.sum() - middle))).clamp(min=1e-3)
    following = {
        "middle": decay * middle + (1 - decay) * gap.mean(),
        "spread": decay * spread + (1 - decay) * gap.std(correction=0),
    }
    loss = compared(logistic(now * (ratio.chosen - ratio.rejected)), policy, scaled(float(beta), ratio))
    scale = gap.shape[0] / kept.sum()
    return Loss(kept * scale * loss.value, {**loss.stats, "beta": now.expand_as(gap), "kept": kept}, following)


def odin(score: Pair[Scores], length_score: Pair[Scores], *, length_weight: NonNegative = 1.0) -> Loss:
    """Reward model with a second head that takes length upon itself: ODIN, arXiv:2402.07319.

    -log sigmoid(d + d') + c (|corr(r, n)| - corr(r', n)), r' the second head's score, n tokens, corr over the step

    Use: where longer answers were preferred for their length: only the first head, which shall not know it, is kept.
    Claim: hardly any correlation with length is left, at about the same accuracy; policies win at every length.
    The paper's penalty on the product of the two heads' weights is left out.

    length_weight: weight of the correlations with length.
    """
    gap = score.chosen.last - score.rejected.last
    other = length_score.chosen.last - length_score.rejected.last
    tokens = torch.cat([score.chosen.length, score.rejected.length])
    quality = _correlation(torch.cat([score.chosen.last, score.rejected.last]), tokens)
    length = _correlation(torch.cat([length_score.chosen.last, length_score.rejected.last]), tokens)
    value = logistic(gap + other) + length_weight * (quality.abs() - length)
    said = ranked(value, score.chosen.last, score.rejected.last)
    known = {"correlation/quality": quality.detach(), "correlation/length": length.detach()}
    return Loss(said.value, {**said.stats, **{name: one.expand_as(value) for name, one in known.items()}})


def _correlation(one: Tensor, other: Tensor) -> Tensor:
    """Pearson's; 0 where one of the two does not vary."""
    one, other = one - one.mean(), other - other.mean()
    return (one * other).sum() / (one.square().sum() * other.square().sum()).clamp(min=1e-12).sqrt()


def _transported(
    gap: Tensor, policy: Pair[Logprobs], reference: Pair[Logprobs], beta: float, label_smoothing: float
) -> Loss:
    """The logistic loss of sorted gaps; the numbers logged are those of the pairs as they stand."""
    return compared(logistic(beta * gap, label_smoothing), policy, scaled(beta, log_ratios(policy, reference)))


def _at_rank_of(values: Tensor, others: Tensor) -> Tensor:
    """For each value the other one of the same rank, so that sorted lists meet and every loss stays with its row."""
    return others.sort().values[values.argsort().argsort()]


def _mean_of(which: Tensor, values: Tensor) -> Tensor:
    """Mean of the values of one kind; of all values where there are none of the kind."""
    some = which if bool(which.any()) else torch.ones_like(which)
    return values[some].mean()
