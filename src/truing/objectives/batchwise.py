"""Objectives in which the rows of one optimizer step meet: they are called once a step, with all its rows.

Some remember: what they return as `memory` they are given at the next step; before the first it is empty.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cosine_similarity, logsigmoid, normalize

from truing.objectives.shared import better, compared, log_ratios, logistic, ranked, scaled
from truing.signatures import Count, Fraction, NonNegative, Positive
from truing.tensors import Features, Logprobs, Loss, Pair, Scores

Contrasted = Literal["answers", "differences"]
Dropout = Annotated[float, Field(ge=0, lt=1)]


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


def odin(
    score: Pair[Scores],
    length_score: Pair[Scores],
    head: Tensor,
    *,
    length_weight: NonNegative = 1.0,
    orthogonality_weight: NonNegative = 1.0,
) -> Loss:
    """Reward model with a second head that takes length upon itself: ODIN, arXiv:2402.07319.

    -log sigmoid(d + d') + c (|corr(r, n)| - corr(r', n)) + o |cos(w, w')|, r' the second head's score, n tokens,
    corr over the step, w and w' the weights of the two heads, c = length_weight, o = orthogonality_weight

    Use: where longer answers were preferred for their length: only the first head, which shall not know it, is kept.
    Claim: hardly any correlation with length is left, at about the same accuracy; policies win at every length.

    length_weight: weight of the correlations with length.
    orthogonality_weight: weight of the cosine of the two heads' weights, which keeps them from reading the same thing.
    """
    gap = score.chosen.last - score.rejected.last
    other = length_score.chosen.last - length_score.rejected.last
    tokens = torch.cat([score.chosen.length, score.rejected.length])
    quality = _correlation(torch.cat([score.chosen.last, score.rejected.last]), tokens)
    length = _correlation(torch.cat([length_score.chosen.last, length_score.rejected.last]), tokens)
    alike = cosine_similarity(head[0], head[1], dim=0).to(gap.dtype)
    value = logistic(gap + other) + length_weight * (quality.abs() - length) + orthogonality_weight * alike.abs()
    said = ranked(value, score.chosen.last, score.rejected.last)
    known = {
        "correlation/quality": quality.detach(),
        "correlation/length": length.detach(),
        "head/cosine": alike.detach(),
    }
    return Loss(said.value, {**said.stats, **{name: one.expand_as(value) for name, one in known.items()}})


def simcse(
    score: Pair[Scores],
    feature: Pair[Features],
    *,
    weight: NonNegative = 1.0,
    of: Contrasted = "answers",
    temperature: Positive = 0.05,
    dropout: Dropout = 0.05,
) -> Loss:
    """Reward model whose features tell the answers of a step apart: SimCSE, as in section 3 of arXiv:2401.06080.

    -log sigmoid(d) - c log [exp(cos(s_i, t_i) / T) / sum over j of exp(cos(s_i, t_j) / T)], the second term averaged
    over the two elements i that a comparison gives; s and t are two views of them; c = weight, T = temperature

    Use: where chosen and rejected answers look alike to the model, so that small differences do not move its score.
    Claim: of its paper's four contrastive terms the best over all with elements that are answers, by a little.
    Views: the paper has two passes through the whole network with dropout. Here dropout is on the feature under the
        head alone, drawn for each answer by itself, since the model that is trained is the one that will be used, and
        nothing shall depend on what else is in a batch. So the two views of an answer differ less than the paper's,
        and the score itself is learned without dropout.

    weight: weight of the contrastive term.
    of: what is told apart: answers; or differences, of the chosen less the rejected one and the other way round.
    temperature: divides cosines; smaller looks at the nearest ones. The paper gives none; this is arXiv:2104.08821's.
    dropout: chance of each entry of a feature to be 0 in a view, the paper's.
    """
    elements = _elements(feature, of, dropout)
    alike = elements.first @ elements.second.T / temperature
    same = elements.answer[:, None] == elements.answer  # an answer that is compared several times is no rival of itself
    rivals = ~same | torch.eye(len(same), dtype=torch.bool, device=same.device)
    apart = alike.masked_fill(~rivals, -torch.inf).logsumexp(1) - alike.diagonal()
    return _contrasted(score, apart, weight)


def swav(
    score: Pair[Scores],
    feature: Pair[Features],
    prototype: Tensor,
    *,
    weight: NonNegative = 0.1,
    of: Contrasted = "answers",
    prototypes: Count = 50,
    temperature: Positive = 0.1,
    epsilon: Positive = 0.05,
    iterations: Count = 3,
    dropout: Dropout = 0.05,
) -> Loss:
    """Reward model whose features fall into groups, evenly filled: SwAV, as in section 3 of arXiv:2401.06080.

    -log sigmoid(d) - c sum over k of [q_k(s_i) log p_k(t_i) + q_k(t_i) log p_k(s_i)], p_k(x) = softmax of cos(x, c_k)
    / T, q the codes by Sinkhorn's iteration over the step, without gradient; averaged over a comparison's elements i

    Use: as simcse; with groups instead of neighbours it needs fewer answers in a step, but about as many as groups.
    Claim: better than the plain reward model in its paper, where simcse of answers is best over all. For differences
        the paper takes 20 groups and a weight of 0.5.
    Views: as for simcse. The directions c_k are trained beside the head, and go on from a checkpoint; the reward model
        that is saved does not have them.

    weight: weight of the contrastive term.
    of: what is grouped: answers; or differences, of the chosen less the rejected one and the other way round.
    prototypes: how many groups.
    temperature: divides cosines in p. The paper gives none; this is arXiv:2006.09882's, as are the two that follow.
    epsilon: divides cosines in q; larger makes codes softer.
    iterations: rounds of Sinkhorn's iteration.
    dropout: chance of each entry of a feature to be 0 in a view, the paper's.
    """
    assert len(prototype) == prototypes, "as many directions are kept as the setting says"
    elements, directions = _elements(feature, of, dropout), normalize(prototype, dim=1)
    first, second = elements.first @ directions.T, elements.second @ directions.T
    swapped = [
        (balanced(known.detach(), epsilon, iterations) * (told / temperature).log_softmax(1)).sum(1)
        for known, told in ((first, second), (second, first))
    ]
    return _contrasted(score, -swapped[0] - swapped[1], weight)


class _Elements(NamedTuple):
    """Two views of unit length of 2P elements, those of all chosen answers first, and which answer each is."""

    first: Tensor
    second: Tensor
    answer: Tensor


def _elements(feature: Pair[Features], of: Contrasted, dropout: float) -> _Elements:
    """What is contrasted: both answers of all pairs, or their differences either way."""

    def view(which: int) -> Tensor:
        chosen, rejected = feature.chosen.view(which, dropout), feature.rejected.view(which, dropout)
        if of == "differences":
            chosen, rejected = chosen - rejected, rejected - chosen
        return normalize(torch.cat([chosen, rejected]), dim=1)

    answer = torch.cat([feature.chosen.answer, feature.rejected.answer])
    if of == "differences":  # each is of one pair alone
        answer = torch.arange(len(answer), device=answer.device)
    return _Elements(view(0), view(1), answer)


def _contrasted(score: Pair[Scores], each: Tensor, weight: float) -> Loss:
    """Bradley-Terry with a term of both elements of each pair."""
    chosen, rejected = score.chosen.last, score.rejected.last
    term = each.reshape(2, -1).mean(0).to(chosen.dtype)
    loss = ranked(logistic(chosen - rejected) + weight * term, chosen, rejected)
    return Loss(loss.value, {**loss.stats, "contrast": term.detach()})


def balanced(alike: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Codes of elements, [M, K], that fill all K groups alike: Sinkhorn's iteration as in arXiv:2006.09882.

    In turn every group's codes are made to add up to M / K and every element's to 1, beginning with exp(alike /
    epsilon), in logarithms. The elements have the last word, so theirs are exact.
    """
    code = alike / epsilon
    for _ in range(iterations):
        code = code - code.logsumexp(0) + math.log(code.shape[0] / code.shape[1])
        code = code - code.logsumexp(1, keepdim=True)
    return code.exp()


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
