"""Objectives on a chosen and a rejected answer to one prompt: one loss per pair, [P].

Log-probabilities are in nats. h stands for the log-ratio of the chosen answer, log policy/reference summed over its
tokens, less that of the rejected one; D is the log-ratio of one answer.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from truing.objectives.shared import (
    bounded_exp,
    bounded_expm1,
    compared,
    log1mexp,
    log_likelihood,
    log_ratios,
    logistic,
    mean_log_ratios,
    scaled,
)
from truing.signatures import Fraction, NonNegative, Positive
from truing.tensors import Logprobs, Loss, Pair, PerToken, Votes

MinorityShare = Annotated[float, Field(ge=0, lt=0.5)]
RareShare = Annotated[float, Field(gt=0, lt=0.5)]
Divergence = Literal["reverse_kl", "forward_kl", "js"] | Fraction


def dpo(
    policy: Pair[Logprobs], reference: Pair[Logprobs], *, beta: Positive = 0.1, label_smoothing: Fraction = 0.0
) -> Loss:
    """Direct preference optimisation: Eq. 7 of arXiv:2305.18290.

    -log sigmoid(beta h)

    Use: the first thing to try on comparisons; it asks for one pass of the reference, which is cached.
    Claim: a better frontier of reward against KL than PPO on controlled sentiment; wins 61 % on TL;DR, PPO 57 %.

    beta: inverse temperature of the implicit reward, in 1/nats; larger stays nearer the reference.
    label_smoothing: share of labels believed flipped; above 0 it is conservative DPO (cDPO).
    """
    reward = scaled(beta, log_ratios(policy, reference))
    return compared(logistic(reward.chosen - reward.rejected, label_smoothing), policy, reward)


def soft_dpo(policy: Pair[Logprobs], reference: Pair[Logprobs], reward: Pair[Votes], *, beta: Positive = 0.1) -> Loss:
    """DPO with a label between yes and no for each pair, such as RLAIF's (arXiv:2309.00267); section 3 of
    arXiv:2409.06691 has its form.

    -z log sigmoid(beta h) - (1 - z) log sigmoid(-beta h), with z = reward of the chosen / (sum of both rewards)

    Use: on judgements that say how likely the first answer is better: the answers' scores, each from 0 to 1, are both
        chances, as scorers `pairwise` and `judge_pairs` give them to the two answers of a row.
    Claim: none of its own. At the optimum beta h is the log-odds of z, so a doubtful pair moves the policy little.

    beta: inverse temperature of the implicit reward, in 1/nats.
    """
    scores = scaled(beta, log_ratios(policy, reference))
    margin, share = scores.chosen - scores.rejected, reward.chosen / (reward.chosen + reward.rejected)
    return compared(-share * logsigmoid(margin) - (1 - share) * logsigmoid(-margin), policy, scores)


def robust_dpo(
    policy: Pair[Logprobs], reference: Pair[Logprobs], *, beta: Positive = 0.1, label_smoothing: MinorityShare = 0.1
) -> Loss:
    """Provably robust DPO: arXiv:2403.00409.

    [-(1 - e) log sigmoid(beta h) + e log sigmoid(-beta h)] / (1 - 2 e), with e = label_smoothing

    Use: when a known share of the labels is flipped; the loss is unbiased under that noise, where cDPO's is not.
    Claim: holds its win rate under flipped labels, where DPO's falls.

    beta: inverse temperature of the implicit reward, in 1/nats.
    label_smoothing: share of flipped labels, below one half.
    """
    reward = scaled(beta, log_ratios(policy, reference))
    margin = reward.chosen - reward.rejected
    clean, flipped = -logsigmoid(margin), -logsigmoid(-margin)
    value = ((1 - label_smoothing) * clean - label_smoothing * flipped) / (1 - 2 * label_smoothing)
    return compared(value, policy, reward)


def ipo(policy: Pair[Logprobs], reference: Pair[Logprobs], *, tau: Positive = 0.1) -> Loss:
    """Identity preference optimisation, averaged per token: Eq. 17 of arXiv:2310.12036 as its authors ran it.

    (h' - 1 / (2 tau))^2, where h' is h with each answer's log-ratio divided by its length

    Use: when DPO runs off on preferences that are nearly certain: the loss has a finite target.
    Claim: does not overfit deterministic preferences, where DPO's regularisation vanishes.

    tau: regularisation, in 1/nats; the target of h' is 1 / (2 tau).
    """
    reward = scaled(tau, mean_log_ratios(policy, reference))
    distance = (reward.chosen - reward.rejected) / tau - 1 / (2 * tau)
    return compared(distance.square(), policy, reward)


def ipo_sum(policy: Pair[Logprobs], reference: Pair[Logprobs], *, tau: Positive = 0.1) -> Loss:
    """Identity preference optimisation, summed as printed: Eq. 17 of arXiv:2310.12036.

    (h - 1 / (2 tau))^2

    Use: to reproduce the printed equation; the target does not grow with the answer, so long answers move less.
    Claim: as for ipo.

    tau: regularisation, in 1/nats; the target of h is 1 / (2 tau).
    """
    reward = scaled(tau, log_ratios(policy, reference))
    distance = (reward.chosen - reward.rejected) / tau - 1 / (2 * tau)
    return compared(distance.square(), policy, reward)


def hinge(policy: Pair[Logprobs], reference: Pair[Logprobs], *, beta: Positive = 0.1) -> Loss:
    """Hinge loss on the implicit reward: the normalised SLiC loss of arXiv:2309.06657.

    max(0, 1 - beta h)

    Use: when pairs that are right by a margin should be left alone.
    Claim: on a par with the sigmoid form in the RSO paper.

    beta: inverse temperature of the implicit reward, in 1/nats; the margin asked for is 1 / beta nats.
    """
    reward = scaled(beta, log_ratios(policy, reference))
    return compared(torch.relu(1 - (reward.chosen - reward.rejected)), policy, reward)


def rso(policy: Pair[Logprobs], reference: Pair[Logprobs], *, gamma: Positive = 0.05) -> Loss:
    """Statistical rejection sampling optimisation, hinge-norm: arXiv:2309.06657.

    max(0, 1 - gamma h); its sigmoid-norm form is dpo with beta = gamma

    Use: on pairs made by rejection sampling from the optimal policy's estimate; the loss itself is hinge.
    Claim: above DPO and SLiC on TL;DR and hh-rlhf, by the sampling more than by the loss.

    gamma: scale of the log-ratio, in 1/nats.
    """
    return hinge(policy, reference, beta=gamma)


def slic(policy: Pair[Logprobs], *, delta: Positive = 1.0, weight: NonNegative = 0.1) -> Loss:
    """Sequence likelihood calibration with its regulariser: arXiv:2305.10425.

    max(0, delta - log p(chosen) + log p(rejected)) - weight log p(chosen), the chosen answer being the target

    Use: without a reference model; the second term keeps the policy near the answers it should give.
    Claim: on a par with PPO on TL;DR at far less cost.

    delta: margin in nats that the chosen answer should lead by.
    weight: weight of the log-likelihood of the chosen answer.
    """
    lead = policy.chosen.sum - policy.rejected.sum
    value = torch.relu(delta - lead) - weight * policy.chosen.sum
    return compared(value, policy, Pair(policy.chosen.sum, policy.rejected.sum))


def simpo(
    policy: Pair[Logprobs], *, beta: Positive = 2.0, gamma: NonNegative = 0.5, label_smoothing: Fraction = 0.0
) -> Loss:
    """Simple preference optimisation: Eq. 6 of arXiv:2405.14734.

    -log sigmoid(beta (mean log p(chosen) - mean log p(rejected)) - gamma)

    Use: without a reference model, against length bias; its learning rate wants care (3e-7 to 1e-6 in the paper).
    Claim: 53.7 % against DPO's 48.2 % length-controlled wins on AlpacaEval 2 (Llama-3-8B-Instruct, v0.2).

    beta: scale of the mean log-probability, per nat.
    gamma: margin asked for, in the units of the reward; the paper tunes gamma / beta from 0.1 to 0.8.
    label_smoothing: share of labels believed flipped.
    """
    reward = Pair(beta * policy.chosen.mean, beta * policy.rejected.mean)
    return compared(logistic(reward.chosen - reward.rejected - gamma, label_smoothing), policy, reward)


def alphapo(policy: Pair[Logprobs], *, beta: Positive = 2.0, gamma: NonNegative = 0.5, alpha: Positive = 0.25) -> Loss:
    """AlphaPO, SimPO with a bent reward: arXiv:2501.03884.

    -log sigmoid(r(chosen) - r(rejected) - gamma), r = beta (1 - p^-alpha) / alpha, p the mean token probability

    Use: where SimPO loses the likelihood of chosen answers; alpha towards 0 is SimPO.
    Claim: 7 to 10 % relative gain in length-controlled wins over SimPO on 7B and 8B instruct models.

    beta: scale of the reward.
    gamma: margin asked for, in the units of the reward.
    alpha: how much the reward bends; larger cares more for unlikely answers.
    """
    reward = Pair(
        -beta * bounded_expm1(-alpha * policy.chosen.mean) / alpha,
        -beta * bounded_expm1(-alpha * policy.rejected.mean) / alpha,
    )
    return compared(logistic(reward.chosen - reward.rejected - gamma), policy, reward)


def cpo(
    policy: Pair[Logprobs], *, beta: Positive = 0.1, nll_weight: NonNegative = 1.0, label_smoothing: Fraction = 0.0
) -> Loss:
    """Contrastive preference optimisation: arXiv:2401.08417.

    -log sigmoid(beta (log p(chosen) - log p(rejected))) + nll_weight * nll(chosen)

    Use: without a reference model, where chosen answers are good enough to be imitated, such as translations.
    Claim: lifts a 13B translation model to GPT-4's level on WMT'21 to '23.

    beta: scale of the log-ratio, in 1/nats.
    nll_weight: weight of the negative log-likelihood of the chosen answer, per token.
    label_smoothing: share of labels believed flipped.
    """
    reward = Pair(beta * policy.chosen.sum, beta * policy.rejected.sum)
    contrast = compared(logistic(reward.chosen - reward.rejected, label_smoothing), policy, reward)
    return contrast + nll_weight * log_likelihood(policy)


def orpo(policy: Pair[Logprobs], *, weight: NonNegative = 0.1) -> Loss:
    """Odds ratio preference optimisation: Eq. 6 and 7 of arXiv:2403.07691.

    nll(chosen) - weight log sigmoid(log odds(chosen) - log odds(rejected)), odds = p / (1 - p), p as in SimPO

    Use: to fine-tune and to align a base model in one go, without a reference model.
    Claim: 12.2 % on AlpacaEval 2 from Mistral-7B in one stage; beats SFT and PPO at every size, DPO as size grows.

    weight: weight of the odds-ratio term (the paper's lambda); 0.1 in the released models.
    """
    chosen, rejected = policy.chosen.mean, policy.rejected.mean
    odds = Pair(chosen - log1mexp(chosen), rejected - log1mexp(rejected))
    ratio = compared(logistic(odds.chosen - odds.rejected), policy, odds)
    return log_likelihood(policy) + weight * ratio


def dpop(
    policy: Pair[Logprobs], reference: Pair[Logprobs], *, beta: Positive = 0.3, penalty: NonNegative = 50.0
) -> Loss:
    """DPO-positive: arXiv:2402.13228.

    -log sigmoid(beta (h - penalty max(0, -D(chosen))))

    Use: when the two answers differ in few tokens and DPO lowers the likelihood of both.
    Claim: first open model above 80 % on the Open LLM leaderboard (Smaug-72B).

    beta: inverse temperature of the implicit reward, in 1/nats.
    penalty: weight of the chosen answer's fall below the reference.
    """
    ratio = log_ratios(policy, reference)
    held = Pair(ratio.chosen - penalty * torch.relu(-ratio.chosen), ratio.rejected)
    reward = scaled(beta, held)
    return compared(logistic(reward.chosen - reward.rejected), policy, reward)


def r_dpo(
    policy: Pair[Logprobs], reference: Pair[Logprobs], *, beta: Positive = 0.1, length_weight: NonNegative = 0.01
) -> Loss:
    """DPO regularised by length: arXiv:2403.19159.

    -log sigmoid(beta h + length_weight (|chosen| - |rejected|))

    Use: when the chosen answers are longer and the policy only learns that. It is DPO for the reward less
        length_weight per token; papers that print the term with the opposite sign reward length.
    Claim: holds win rates at nearly the length of the fine-tuned model.

    beta: inverse temperature of the implicit reward, in 1/nats.
    length_weight: what one token costs, in the units of the reward.
    """
    reward = scaled(beta, log_ratios(policy, reference))
    longer = policy.chosen.length - policy.rejected.length
    return compared(logistic(reward.chosen - reward.rejected + length_weight * longer), policy, reward)


def ld_dpo(
    policy: Pair[Logprobs], reference: Pair[Logprobs], *, beta: Positive = 0.1, tail_weight: Fraction = 0.5
) -> Loss:
    """Length-desensitised DPO: arXiv:2409.06411.

    dpo, where the tokens of the longer answer beyond the length of the shorter one count tail_weight

    Use: against length bias, when long answers win by what they say at their end.
    Claim: 10 to 40 % shorter answers than DPO at higher length-controlled win rates.

    beta: inverse temperature of the implicit reward, in 1/nats.
    tail_weight: weight of the tokens beyond the shared length; 1 is dpo.
    """
    shared = torch.minimum(policy.chosen.length, policy.rejected.length)

    def weighted(answer: Logprobs) -> Logprobs:
        inside = answer.place < shared[answer.completion]
        return answer.with_token(torch.where(inside, answer.token, tail_weight * answer.token))

    ratio = log_ratios(
        Pair(weighted(policy.chosen), weighted(policy.rejected)),
        Pair(weighted(reference.chosen), weighted(reference.rejected)),
    )
    reward = scaled(beta, ratio)
    return compared(logistic(reward.chosen - reward.rejected), policy, reward)


def ln_dpo(policy: Pair[Logprobs], reference: Pair[Logprobs], *, beta: Positive = 5.0) -> Loss:
    """Length-normalised DPO, as in Tulu 3: arXiv:2411.15124.

    -log sigmoid(beta h'), where h' is h with each answer's log-ratio divided by its length

    Use: against length bias while keeping the reference.
    Claim: best of the preference objectives that Tulu 3 compared.

    beta: scale of the mean log-ratio, per nat; larger than DPO's because means are smaller than sums.
    """
    reward = scaled(beta, mean_log_ratios(policy, reference))
    return compared(logistic(reward.chosen - reward.rejected), policy, reward)


def odpo(
    policy: Pair[Logprobs],
    reference: Pair[Logprobs],
    strength: Tensor,
    *,
    beta: Positive = 0.1,
    alpha: NonNegative = 1.0,
) -> Loss:
    """DPO with an offset by strength: arXiv:2402.10571.

    -log sigmoid(beta h - alpha log strength)

    Use: when the data say how much better the chosen answer is: a rating gap, or a reward model's difference.
        A strength of 1 asks for no margin, a smaller one allows a negative margin.
    Claim: above DPO, most of all with few pairs.

    beta: inverse temperature of the implicit reward, in 1/nats.
    alpha: weight of the offset.
    """
    reward = scaled(beta, log_ratios(policy, reference))
    offset = alpha * strength.clamp(min=1e-6).log()
    return compared(logistic(reward.chosen - reward.rejected - offset), policy, reward)


def f_dpo(
    policy: Pair[Logprobs],
    reference: Pair[Logprobs],
    *,
    beta: Positive = 0.1,
    divergence: Divergence = "js",
) -> Loss:
    """DPO under another divergence from the reference: arXiv:2309.16240.

    -log sigmoid(beta (f'(u(chosen)) - f'(u(rejected)))), u = exp D

    Use: to trade diversity against alignment; reverse_kl is dpo, forward_kl keeps most diversity.
    Claim: JS and alpha divergences keep more diverse answers at nearly DPO's win rate.

    beta: inverse temperature of the implicit reward.
    divergence: reverse_kl, f' = log u; forward_kl, 1 - 1/u; js, log(2u / (1 + u)); or the number a of an alpha
        divergence, (u^(a-1) - 1) / (a - 1), which is the reverse KL at 1 and the forward one at 0.
    """
    ratio = log_ratios(policy, reference)
    reward = Pair(beta * _slope(ratio.chosen, divergence), beta * _slope(ratio.rejected, divergence))
    return compared(logistic(reward.chosen - reward.rejected), policy, reward)


def exo(
    policy: Pair[Logprobs], reference: Pair[Logprobs], *, beta: Positive = 0.1, label_smoothing: RareShare = 1e-3
) -> Loss:
    """Efficient exact optimisation on pairs: Eq. 16 of arXiv:2402.00856.

    KL([sigmoid(beta h), sigmoid(-beta h)] || [1 - e, e]), with e = label_smoothing

    Use: for the reverse KL to the preferred distribution, where DPO minimises the forward one.
    Claim: a better frontier of reward against KL than DPO and PPO.

    beta: inverse temperature of the implicit reward, in 1/nats.
    label_smoothing: probability that the rejected answer is the better one, above 0 and below one half.
    """
    reward = scaled(beta, log_ratios(policy, reference))
    margin = reward.chosen - reward.rejected
    right = torch.sigmoid(margin) * (logsigmoid(margin) - math.log1p(-label_smoothing))
    wrong = torch.sigmoid(-margin) * (logsigmoid(-margin) - math.log(label_smoothing))
    return compared(right + wrong, policy, reward)


def nca(policy: Pair[Logprobs], reference: Pair[Logprobs], *, beta: Positive = 0.1) -> Loss:
    """Noise contrastive alignment on pairs: arXiv:2402.05369.

    -log sigmoid(beta D(chosen)) - 1/2 log sigmoid(-beta D(chosen)) - 1/2 log sigmoid(-beta D(rejected))

    Use: when the chosen answer's likelihood must not fall: the loss looks at each answer, not at their difference.
    Claim: above DPO on reasoning, where DPO's falling likelihood hurts.

    beta: inverse temperature of the implicit reward, in 1/nats.
    """
    reward = scaled(beta, log_ratios(policy, reference))
    noise = -logsigmoid(-reward.chosen) / 2 - logsigmoid(-reward.rejected) / 2
    return compared(-logsigmoid(reward.chosen) + noise, policy, reward)


def bco_pair(policy: Pair[Logprobs], reference: Pair[Logprobs], *, beta: Positive = 0.1) -> Loss:
    """Binary classifier optimisation on pairs, without a shift: arXiv:2404.04656.

    -log sigmoid(beta D(chosen)) - log sigmoid(-beta D(rejected))

    Use: as a term beside DPO, so that each answer also moves by itself (mpo does so).
    Claim: the paper's full form, `bco`, matches DPO on unpaired data.

    beta: inverse temperature of the implicit reward, in 1/nats.
    """
    reward = scaled(beta, log_ratios(policy, reference))
    return compared(-logsigmoid(reward.chosen) - logsigmoid(-reward.rejected), policy, reward)


def sppo_hard(policy: Pair[Logprobs], reference: Pair[Logprobs], *, eta: Positive = 1000.0) -> Loss:
    """Self-play preference optimisation with certain preferences: Eq. 4.7 of arXiv:2405.00675.

    (D(chosen) - eta / 2)^2 + (D(rejected) + eta / 2)^2, of which the authors' code takes half

    Use: in rounds, on the policy's own answers, with the last round's policy as the reference.
    Claim: 28.5 % on AlpacaEval 2 from Mistral-7B in three rounds with a 0.4B judge.

    eta: what a certain win is worth, in nats; a large eta asks for a small learning rate.
    """
    ratio = log_ratios(policy, reference)
    value = (ratio.chosen - eta / 2).square() + (ratio.rejected + eta / 2).square()
    return compared(value, policy, scaled(1 / eta, ratio))


def sppo(policy: Pair[Logprobs], reference: Pair[Logprobs], reward: Pair[Tensor], *, eta: Positive = 1000.0) -> Loss:
    """Self-play preference optimisation: Eq. 4.7 of arXiv:2405.00675.

    (D(chosen) - eta (P(chosen) - 1/2))^2 + (D(rejected) - eta (P(rejected) - 1/2))^2

    Use: in rounds, where each answer's score is the probability P that it beats the policy's answers, from 0 to 1.
    Claim: as for sppo_hard; it learns from how sure the judge is.

    eta: what a certain win is worth, in nats.
    """
    ratio = log_ratios(policy, reference)
    chosen = ratio.chosen - eta * (reward.chosen - 0.5)
    rejected = ratio.rejected - eta * (reward.rejected - 0.5)
    return compared(chosen.square() + rejected.square(), policy, scaled(1 / eta, ratio))


def apo_zero(policy: Pair[Logprobs], reference: Pair[Logprobs], *, beta: Positive = 0.1) -> Loss:
    """Anchored preference optimisation, zero: Eq. 7 of arXiv:2408.06266.

    1 - sigmoid(beta D(chosen)) + sigmoid(beta D(rejected))

    Use: when the chosen answers are better than what the model would say: it makes them likelier, the others not.
    Claim: with contrastive revisions, closes 45 % of the gap of Llama-3-8B to GPT-4-turbo on MixEval-Hard.

    beta: inverse temperature of the implicit reward, in 1/nats.
    """
    reward = scaled(beta, log_ratios(policy, reference))
    return compared(1 - torch.sigmoid(reward.chosen) + torch.sigmoid(reward.rejected), policy, reward)


def apo_down(policy: Pair[Logprobs], reference: Pair[Logprobs], *, beta: Positive = 0.1) -> Loss:
    """Anchored preference optimisation, down: Eq. 8 of arXiv:2408.06266.

    sigmoid(beta D(chosen)) + 1 - sigmoid(beta h)

    Use: when even the chosen answers are worse than what the model would say: both become unlikelier, the
        rejected more.
    Claim: the better choice than DPO where the model is above its data.

    beta: inverse temperature of the implicit reward, in 1/nats.
    """
    reward = scaled(beta, log_ratios(policy, reference))
    value = torch.sigmoid(reward.chosen) + 1 - torch.sigmoid(reward.chosen - reward.rejected)
    return compared(value, policy, reward)


def discopop(policy: Pair[Logprobs], reference: Pair[Logprobs], *, beta: Positive = 0.05, tau: Positive = 0.05) -> Loss:
    """Discovered preference optimisation: Eq. 5 of arXiv:2406.08414.

    (1 - m) (-log sigmoid(beta h)) + m exp(-beta h), m = sigmoid(beta h / tau)

    Use: as an alternative to DPO that a search found. It is not convex: at the default tau its slope at the reference
        lowers h, and only comparisons that are already won or lost move the right way.
    Claim: above DPO on MT-Bench, and transfers to summaries and controlled sentiment.

    beta: inverse temperature of the implicit reward, in 1/nats.
    tau: how sharply the loss changes from logistic to exponential, in the units of the reward.
    """
    reward = scaled(beta, log_ratios(policy, reference))
    margin = reward.chosen - reward.rejected
    mixed = torch.sigmoid(margin / tau)
    return compared((1 - mixed) * logistic(margin) + mixed * bounded_exp(-margin), policy, reward)


def wpo(
    policy: Pair[Logprobs],
    reference: Pair[Logprobs],
    concentration: Pair[PerToken],
    *,
    beta: Positive = 0.1,
) -> Loss:
    """Weighted preference optimisation: Eq. 2 and 5 of arXiv:2406.11827.

    min(1, w(chosen) w(rejected)) dpo, w = exp mean_t(log p_t - log sum_v p_v^2), without gradient

    Use: on data that another model wrote: pairs that the policy would write itself count more.
    Claim: 5.6 % above DPO in length-controlled wins on AlpacaEval 2.

    beta: inverse temperature of the implicit reward, in 1/nats.
    """
    chosen = policy.chosen.mean - concentration.chosen.mean
    rejected = policy.rejected.mean - concentration.rejected.mean
    weight = (chosen + rejected).clamp(max=0).exp().detach()
    reward = scaled(beta, log_ratios(policy, reference))
    loss = compared(weight * logistic(reward.chosen - reward.rejected), policy, reward)
    return Loss(loss.value, {**loss.stats, "weight": weight})


def cal_dpo(
    policy: Pair[Logprobs], reference: Pair[Logprobs], *, beta: Positive = 0.002, weight: NonNegative = 0.5
) -> Loss:
    """Calibrated DPO: arXiv:2412.14516.

    -log sigmoid(h) + weight [(D(chosen) - 1 / (2 beta))^2 + (D(rejected) + 1 / (2 beta))^2]

    Use: when the implicit rewards should have the size of real ones and the chosen answer should not fall.
    Claim: above DPO on reasoning, where the chosen answer's likelihood matters.

    beta: 1 / beta is the target of h, in nats.
    weight: weight of the calibration.
    """
    ratio = log_ratios(policy, reference)
    target = 1 / (2 * beta)
    calibration = (ratio.chosen - target).square() + (ratio.rejected + target).square()
    return compared(logistic(ratio.chosen - ratio.rejected) + weight * calibration, policy, scaled(beta, ratio))


def tdpo1(
    policy: Pair[Logprobs], reference: Pair[Logprobs], divergence: Pair[PerToken], *, beta: Positive = 0.1
) -> Loss:
    """Token-level DPO, first form: arXiv:2404.11999.

    -log sigmoid(beta (h - (K(rejected) - K(chosen)))), K = sum over tokens of KL(reference || policy)

    Use: to hold the KL of each answer's tokens in balance; it asks for a live pass of the reference.
    Claim: a better frontier of reward against KL than DPO on IMDb.

    beta: inverse temperature of the implicit reward, in 1/nats.
    """
    ratio = log_ratios(policy, reference)
    reward = scaled(beta, Pair(ratio.chosen + divergence.chosen.sum, ratio.rejected + divergence.rejected.sum))
    return compared(logistic(reward.chosen - reward.rejected), policy, reward)


def tdpo2(
    policy: Pair[Logprobs],
    reference: Pair[Logprobs],
    divergence: Pair[PerToken],
    *,
    beta: Positive = 0.1,
    alpha: NonNegative = 0.5,
) -> Loss:
    """Token-level DPO, second form: arXiv:2404.11999.

    -log sigmoid(beta (h - alpha (K(rejected) - sg K(chosen)))), K = sum over tokens of KL(reference || policy)

    Use: as tdpo1; the KL of the chosen answer gets no gradient, and alpha says how much the term counts.
    Claim: above DPO and tdpo1 in reward at equal KL, with more diverse answers.

    beta: inverse temperature of the implicit reward, in 1/nats.
    alpha: weight of the difference of KLs.
    """
    ratio = log_ratios(policy, reference)
    kl = Pair(divergence.chosen.sum.detach(), divergence.rejected.sum)
    reward = scaled(beta, Pair(ratio.chosen + alpha * kl.chosen, ratio.rejected + alpha * kl.rejected))
    return compared(logistic(reward.chosen - reward.rejected), policy, reward)


def spin(policy: Pair[Logprobs], reference: Pair[Logprobs], *, beta: Positive = 0.1) -> Loss:
    """Self-play fine-tuning: Eq. 4.7 of arXiv:2401.01335.

    -log sigmoid(beta h), where the chosen answer is a demonstration and the rejected one the last round's own answer

    Use: in rounds, on demonstrations alone, with the last round's policy as the reference.
    Claim: lifts zephyr-7b-sft from 58.1 to 63.2 on the Open LLM leaderboard without further labels.

    beta: inverse temperature of the implicit reward, in 1/nats.
    """
    return dpo(policy, reference, beta=beta)


def xpo(
    policy: Pair[Logprobs],
    reference: Pair[Logprobs],
    from_reference: Pair[Tensor],
    *,
    beta: Positive = 0.1,
    alpha: NonNegative = 1e-5,
) -> Loss:
    """Exploratory preference optimisation: Algorithm 1 of arXiv:2405.21046.

    dpo + alpha log p(the answer that the reference wrote)

    Use: in rounds on one answer of the policy and one of the reference (its `source` is "reference"): the bonus
        drives the policy away from what is known.
    Claim: provably explores; matches iterative DPO on fewer comparisons.

    beta: inverse temperature of the implicit reward, in 1/nats.
    alpha: weight of the exploration bonus.
    """
    known = from_reference.chosen * policy.chosen.sum + from_reference.rejected * policy.rejected.sum
    return dpo(policy, reference, beta=beta) + Loss(alpha * known)


def unlikelihood(policy: Pair[Logprobs], *, alpha: NonNegative = 0.1) -> Loss:
    """Likelihood of the chosen answer less that of the rejected one: the baseline of arXiv:2305.18290.

    -log p(chosen) + alpha log p(rejected)

    Use: as a baseline only: nothing bounds the second term, and large alphas end in repetition.
    Claim: degenerates on TL;DR and hh-rlhf.

    alpha: weight of the rejected answer.
    """
    value = -policy.chosen.sum + alpha * policy.rejected.sum
    return compared(value, policy, Pair(policy.chosen.sum, policy.rejected.sum))


def rpo(
    policy: Pair[Logprobs], reference: Pair[Logprobs], *, beta: Positive = 0.1, nll_weight: NonNegative = 1.0
) -> Loss:
    """DPO with the likelihood of the chosen answer, for reasoning: arXiv:2404.19733.

    dpo + nll_weight * nll(chosen)

    Use: when chosen answers are right beyond doubt, such as checked solutions, and must stay likely.
    Claim: Llama-2-70B-chat from 55.6 to 81.6 % on GSM8K in iterations; without the term DPO stays behind.

    beta: inverse temperature of the implicit reward, in 1/nats.
    nll_weight: weight of the negative log-likelihood of the chosen answer, per token.
    """
    return dpo(policy, reference, beta=beta) + nll_weight * log_likelihood(policy)


def mpo(
    policy: Pair[Logprobs],
    reference: Pair[Logprobs],
    *,
    beta: Positive = 0.1,
    preference_weight: NonNegative = 0.8,
    quality_weight: NonNegative = 0.2,
    nll_weight: NonNegative = 1.0,
) -> Loss:
    """Mixed preference optimisation: arXiv:2411.10442.

    preference_weight * dpo + quality_weight * bco_pair + nll_weight * nll(chosen)

    Use: on long reasoned answers, where preference, absolute quality and the process of writing all count.
    Claim: 8.7 points on MathVista for InternVL2-8B.

    beta: inverse temperature of the implicit reward, in 1/nats.
    preference_weight: weight of dpo.
    quality_weight: weight of bco_pair.
    nll_weight: weight of the negative log-likelihood of the chosen answer, per token.
    """
    preference = preference_weight * dpo(policy, reference, beta=beta)
    quality = quality_weight * bco_pair(policy, reference, beta=beta)
    return preference + quality + nll_weight * log_likelihood(policy)


def _slope(ratio: Tensor, divergence: Divergence) -> Tensor:
    """f'(exp ratio) of a divergence's generator f."""
    if divergence == "js":
        return math.log(2) + logsigmoid(ratio)
    alpha = {"forward_kl": 0.0, "reverse_kl": 1.0}[divergence] if isinstance(divergence, str) else divergence
    return ratio if alpha == 1 else bounded_expm1((alpha - 1) * ratio) / (alpha - 1)
