"""Objectives of reward models on a chosen and a rejected answer, on scored answers and on rankings.

r is the score that the head gives at the last token of an answer; d is r of the chosen answer less that of the
rejected one.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from truing.objectives.shared import better, log_likelihood, log_ratios, logistic, ranked
from truing.signatures import Fraction, NonNegative, Positive
from truing.tensors import Logprobs, Loss, Pair, RankedScores, Scores, StepScores, Votes


def bradley_terry(score: Pair[Scores], *, label_smoothing: Fraction = 0.0, centering: NonNegative = 0.0) -> Loss:
    """Bradley-Terry reward model: Eq. 2 of arXiv:2203.02155, smoothed as in arXiv:2401.06080.

    -(1 - e) log sigmoid(d) - e log sigmoid(-d) + c (r_w + r_l)^2, with e = label_smoothing, c = centering

    Use: the plain reward model; with a smoothing of about 0.2 where a quarter of the labels may be wrong.
    Claim: the model of InstructGPT; smoothing keeps it from learning wrong labels by heart.

    label_smoothing: share of labels believed flipped.
    centering: pull of the two scores' sum towards 0 (arXiv:2312.09244), so that scores of models can be compared.
    """
    chosen, rejected = score.chosen.last, score.rejected.last
    value = logistic(chosen - rejected, label_smoothing) + _centred(chosen, rejected, centering)
    return ranked(value, chosen, rejected)


def margin(score: Pair[Scores], margin: Tensor, *, scale: Positive = 1.0, centering: NonNegative = 0.0) -> Loss:
    """Bradley-Terry with a margin for each comparison: Eq. 2 of arXiv:2307.09288, adaptive as in arXiv:2401.06080.

    -log sigmoid(d - s m) + c (r_w + r_l)^2, with m the margin of the comparison, s = scale and c = centering

    Use: where ratings or an audit say how much better the chosen answer is; a margin below 0 asks for less than order.
    Claim: more accurate on clearly different answers; with the strength of an ensemble's vote, better late in training.

    scale: what one unit of the margin counts, in units of the score.
    centering: pull of the two scores' sum towards 0.
    """
    chosen, rejected = score.chosen.last, score.rejected.last
    value = logistic(chosen - rejected - scale * margin) + _centred(chosen, rejected, centering)
    return ranked(value, chosen, rejected)


def soft_margin(score: Pair[Scores], margin: Tensor, *, scale: Positive = 1.0, label_smoothing: Fraction = 0.2) -> Loss:
    """Smoothed labels for doubtful comparisons, a margin for all: section 2 of arXiv:2401.06080.

    -(1 - e) log sigmoid(d - s m) - e log sigmoid(-(d - s m)), with e = label_smoothing where m < 0, else 0

    Use: after an audit, whose strengths are the margins: those below 0 are probably labelled wrongly.
    Claim: the most accurate treatment of all data in its paper, on GPT-4's labels and on the original ones.

    scale: what one unit of the margin counts, in units of the score.
    label_smoothing: share of labels believed flipped among the comparisons with a margin below 0.
    """
    chosen, rejected = score.chosen.last, score.rejected.last
    gap = chosen - rejected - scale * margin
    share = label_smoothing * (margin < 0).to(gap.dtype)
    return ranked(-(1 - share) * logsigmoid(gap) - share * logsigmoid(-gap), chosen, rejected)


def ordinal(score: Pair[Scores], reward: Pair[Votes]) -> Loss:
    """Bradley-Terry on degrees of preference: arXiv:2411.12843.

    -z log sigmoid(d) - (1 - z) log sigmoid(-d), with z = reward of the chosen / (sum of both rewards)

    Use: where a comparison has more than two outcomes ("slightly better") or votes: the answers' scores, each from 0
        to 1, are the shares of the votes.
    Claim: fewer samples needed than with yes and no, and better calibrated, also outside of its data.
    """
    chosen, rejected = score.chosen.last, score.rejected.last
    share = reward.chosen / (reward.chosen + reward.rejected)
    gap = chosen - rejected
    return ranked(-share * logsigmoid(gap) - (1 - share) * logsigmoid(-gap), chosen, rejected)


def adversarial(
    score: Pair[Scores],
    drawn: Pair[Tensor],
    *,
    kl_weight: NonNegative = 1.0,
    game_weight: NonNegative = 0.1,
    game: Literal["ranking", "difference"] = "ranking",
) -> Loss:
    """Reward model as the policy's opponent, near what people prefer: section 3 of arXiv:2311.08045 (APO).

    -k log sigmoid(d) of people's comparisons; -g log sigmoid(d), or by `game = "difference"` -g d, of a given answer
    against one that the policy drew; k = kl_weight, g = game_weight

    Use: retrained in each round of a loop on both kinds of comparisons, before the policy learns from its scores. On
        people's comparisons alone it is bradley_terry.
    Claim: a reward model that keeps up with the policy; without the first term, which is KL(people || model) up to a
        constant, it is an adversary of imitation (GAIL) and forgets what people prefer: 56.6 % right, with it 66.7 %.

    kl_weight: weight of people's comparisons; 0 takes the KL term out.
    game_weight: weight of answers against the policy's; those of one prompt share its weight.
    game: ranking, the logistic loss of a comparison; difference, of the scores themselves, which has no bound (WGAN).
    """
    chosen, rejected = score.chosen.last, score.rejected.last
    gap = chosen - rejected
    against_policy = drawn.rejected * (1 - drawn.chosen)
    played = logistic(gap) if game == "ranking" else -gap
    value = kl_weight * (1 - against_policy) * logistic(gap) + game_weight * against_policy * played
    return ranked(value, chosen, rejected)


def bradley_terry_nll(score: Pair[Scores], writing: Pair[Logprobs], *, nll_weight: NonNegative = 0.1) -> Loss:
    """Bradley-Terry with a language-model term: section C.2 of arXiv:2112.00861, as MOSS-RLHF has it.

    -log sigmoid(d) - c (log-probability of the chosen answer per token), with c = nll_weight

    Use: where there are few comparisons: what the model knows of writing is not forgotten while it learns to judge.
    Claim: imitation of the chosen answers before and beside the comparisons makes reward models more sample-efficient.

    nll_weight: weight of the language-model term, per nat.
    """
    chosen, rejected = score.chosen.last, score.rejected.last
    return ranked(logistic(chosen - rejected), chosen, rejected) + nll_weight * log_likelihood(writing)


def grm(
    score: Pair[Scores],
    writing: Pair[Logprobs],
    *,
    weight: Fraction = 0.01,
    beta: Positive = 0.1,
    rejected: bool = False,
) -> Loss:
    """Reward model whose hidden states must still write the chosen answer: GRM, section 3 of arXiv:2406.10216.

    -(1 - a) log sigmoid(d) - a log sigmoid(beta (log p_w - log p_l)), a = weight; log p_l only if `rejected`

    Use: where the policy will write otherwise than the data: regularised features judge better what they never saw.
    Claim: more accurate on unseen tasks than the plain reward model, the more so the less data there are.

    weight: share of the regulariser in the loss.
    beta: inverse temperature of the log-probabilities, in 1/nats.
    rejected: compare the chosen answer's log-probability with the rejected one's, as DPO without a reference does.
    """
    other = writing.rejected.sum if rejected else 0.0
    return _regularised(score, beta * (writing.chosen.sum - other), weight)


def grm_dpo(
    score: Pair[Scores],
    writing: Pair[Logprobs],
    reference: Pair[Logprobs],
    *,
    weight: Fraction = 0.01,
    beta: Positive = 0.1,
) -> Loss:
    """Reward model regularised by DPO on the head that it still writes with: GRM, section 3 of arXiv:2406.10216.

    -(1 - a) log sigmoid(d) - a log sigmoid(beta h), with a = weight and h the difference of the log-ratios to the start

    Use: as grm, at the price of a pass of the reference.
    Claim: as for grm, whose simpler regulariser is about as good.

    weight: share of the regulariser in the loss.
    beta: inverse temperature of the log-ratios, in 1/nats.
    """
    ratio = log_ratios(writing, reference)
    return _regularised(score, beta * (ratio.chosen - ratio.rejected), weight)


def token_level(score: Pair[Scores], parted: Tensor) -> Loss:
    """Bradley-Terry at every token after the two answers part: the reward model of DeepSpeed-Chat, arXiv:2308.01320.

    mean over t from the first differing token of -log sigmoid(r_w,t - r_l,t); a finished answer keeps its last score

    Use: for a critic, or rewards of unfinished answers: every prefix gets a score, not only the whole answer.
    Claim: what DeepSpeed-Chat trains its critics from; no comparison with scores at the end is given.
    """
    sides = zip(_each(score.chosen), _each(score.rejected), parted.tolist(), strict=True)
    value = torch.stack([_along(chosen, rejected, place) for chosen, rejected, place in sides])
    return ranked(value, score.chosen.last, score.rejected.last)


def process(score: StepScores, right: Tensor) -> Loss:
    """Process reward model: a judgement of each step of an answer, arXiv:2305.20050 and arXiv:2312.08935.

    -log sigmoid(r) of a right step, -log sigmoid(-r) of a wrong one, r the score at the step's last token

    Use: for reasoning whose steps people or roll-outs have judged; scorer `process_reward` makes one number of them.
        A row is `{"prompt": "2 + 3 * 4?", "completions": ["3 * 4 = 12", "2 + 12 = 15"], "labels": [true, false]}`; its
        steps become one answer, with a line break after each but the last.
    Claim: picks better answers out of many than a model that judges the outcome alone.
    The steps of an answer share its weight, so that long answers do not count more.
    """
    signed = torch.where(right, score.token, -score.token)
    stats = {
        "reward/accuracy": better(signed),
        "step/right": right.to(signed.dtype),
        "step/score": score.token.detach(),
    }
    return Loss(-logsigmoid(signed), stats)


def regression(score: Scores, reward: Tensor) -> Loss:
    """Least squares on ratings: arXiv:2406.08673.

    (r - reward)^2

    Use: where each answer has a rating on a scale that means the same for all prompts.
    Claim: HelpSteer2's models, trained so, led RewardBench at their time.
    """
    said = score.last
    return Loss((said - reward).square(), {"reward/score": reward, "score/answer": said.detach()})


def listwise(score: RankedScores, reward: Tensor) -> Loss:
    """Plackett-Luce reward model on rankings: the K-wise model of arXiv:2301.11270.

    -sum over k of log [exp(r_k) / sum over i >= k of exp(r_i)]; of tied answers none has to lead the other

    Use: on rankings of three and more; with two answers it is bradley_terry.
    Claim: asymptotically more efficient than splitting the ranking into comparisons.
    """
    said = score.last
    rivals = (reward[:, None] > reward) | torch.eye(len(reward), dtype=torch.bool, device=reward.device)
    among = said.expand_as(rivals).masked_fill(~rivals, -torch.inf)
    ordered = reward[:, None] > reward
    right = (better(said[:, None] - said) * ordered).sum() / ordered.sum().clamp(min=1)
    stats = {"reward/accuracy": right.detach(), "score/spread": (said[0] - said[-1]).detach()}
    return Loss((among.logsumexp(1) - said).sum(), stats)


def difference(score: RankedScores) -> Tensor:
    """How far the scores of K answers to one prompt lie apart: the difference that MetaRM raises, arXiv:2401.06080.

    2 / K^2 times the sum over i < j of sigmoid(|r_i - r_j|), from (K - 1) / 2K where all are equal to (K - 1) / K
    """
    said = score.last
    apart = (said[:, None] - said).triu(diagonal=1)
    pairs = torch.ones_like(apart).triu(diagonal=1)
    return (torch.sigmoid(apart.abs()) * pairs).sum() * 2 / len(said) ** 2


def _centred(chosen: Tensor, rejected: Tensor, weight: float) -> Tensor:
    return weight * (chosen + rejected).square()


def _regularised(score: Pair[Scores], margin: Tensor, weight: float) -> Loss:
    chosen, rejected = score.chosen.last, score.rejected.last
    written = logistic(margin)
    value = ranked((1 - weight) * logistic(chosen - rejected), chosen, rejected)
    return value + Loss(weight * written, {"regulariser": written.detach()})


def _each(score: Scores) -> tuple[Tensor, ...]:
    """The scores of each answer."""
    return torch.split(score.token, score.length.long().tolist())


def _along(chosen: Tensor, rejected: Tensor, parted: int) -> Tensor:
    """The mean loss over one pair's tokens from where they part to the end of the longer answer."""
    places = torch.arange(parted, max(len(chosen), len(rejected)), device=chosen.device)
    above = chosen[places.clamp(max=len(chosen) - 1)] - rejected[places.clamp(max=len(rejected) - 1)]
    return logistic(above).mean()
