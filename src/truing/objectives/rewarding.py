"""Objectives of reward models on a chosen and a rejected answer, on scored answers and on rankings.

r is the score that the head gives at the last token of an answer; d is r of the chosen answer less that of the
rejected one.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from truing.objectives.shared import better, logistic
from truing.signatures import Fraction, NonNegative, Positive
from truing.tensors import Loss, Pair, RankedScores, Scores


def bradley_terry(score: Pair[Scores], *, label_smoothing: Fraction = 0.0, centering: NonNegative = 0.0) -> Loss:
    """Bradley-Terry reward model: Eq. 2 of arXiv:2203.02155, smoothed as in arXiv:2401.06080.

    -(1 - e) log sigmoid(d) - e log sigmoid(-d) + c (r_w + r_l)^2, with e = label_smoothing, c = centering

    Use: the plain reward model; with a smoothing of about 0.2 where a quarter of the labels may be wrong.
    Claim: the model of InstructGPT; smoothing keeps it from learning wrong labels by heart.

    label_smoothing: share of labels believed flipped.
    centering: pull of the two scores' sum towards 0 (arXiv:2312.09244), so that scores of models can be compared.
    """
    chosen, rejected = score.chosen.last, score.rejected.last
    centred = centering * (chosen + rejected).square()
    return _ranked(logistic(chosen - rejected, label_smoothing) + centred, chosen, rejected)


def margin(score: Pair[Scores], margin: Tensor, *, scale: Positive = 1.0) -> Loss:
    """Bradley-Terry with a margin for each comparison: Eq. 2 of arXiv:2307.09288, adaptive as in arXiv:2401.06080.

    -log sigmoid(d - s m), with m the margin of the comparison and s = scale

    Use: where ratings or an audit say how much better the chosen answer is; a margin below 0 asks for less than order.
    Claim: more accurate on clearly different answers; with the strength of an ensemble's vote, better late in training.

    scale: what one unit of the margin counts, in units of the score.
    """
    chosen, rejected = score.chosen.last, score.rejected.last
    return _ranked(logistic(chosen - rejected - scale * margin), chosen, rejected)


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
    return _ranked(-(1 - share) * logsigmoid(gap) - share * logsigmoid(-gap), chosen, rejected)


def ordinal(score: Pair[Scores], reward: Pair[Tensor]) -> Loss:
    """Bradley-Terry on degrees of preference: arXiv:2411.12843.

    -z log sigmoid(d) - (1 - z) log sigmoid(-d), with z = reward of the chosen / (sum of both rewards)

    Use: where a comparison has more than two outcomes ("slightly better") or votes: the answers' scores, each from 0
        to 1, are the shares of the votes.
    Claim: fewer samples needed than with yes and no, and better calibrated, also outside of its data.
    """
    chosen, rejected = score.chosen.last, score.rejected.last
    share = reward.chosen / (reward.chosen + reward.rejected)
    gap = chosen - rejected
    return _ranked(-share * logsigmoid(gap) - (1 - share) * logsigmoid(-gap), chosen, rejected)


def token_level(score: Pair[Scores], parted: Tensor) -> Loss:
    """Bradley-Terry at every token after the two answers part: the reward model of DeepSpeed-Chat, arXiv:2308.01320.

    mean over t from the first differing token of -log sigmoid(r_w,t - r_l,t); a finished answer keeps its last score

    Use: for a critic, or rewards of unfinished answers: every prefix gets a score, not only the whole answer.
    Claim: what DeepSpeed-Chat trains its critics from; no comparison with scores at the end is given.
    """
    sides = zip(_each(score.chosen), _each(score.rejected), parted.tolist(), strict=True)
    value = torch.stack([_along(chosen, rejected, place) for chosen, rejected, place in sides])
    return _ranked(value, score.chosen.last, score.rejected.last)


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


def _each(score: Scores) -> tuple[Tensor, ...]:
    """The scores of each answer."""
    return torch.split(score.token, score.length.long().tolist())


def _along(chosen: Tensor, rejected: Tensor, parted: int) -> Tensor:
    """The mean loss over one pair's tokens from where they part to the end of the longer answer."""
    places = torch.arange(parted, max(len(chosen), len(rejected)), device=chosen.device)
    above = chosen[places.clamp(max=len(chosen) - 1)] - rejected[places.clamp(max=len(rejected) - 1)]
    return logistic(above).mean()


def _ranked(value: Tensor, chosen: Tensor, rejected: Tensor) -> Loss:
    """A loss per pair with the numbers that every comparison of scores logs."""
    gap = (chosen - rejected).detach()
    stats = {"reward/margin": gap, "reward/accuracy": better(gap)}
    return Loss(value, stats | {"score/chosen": chosen.detach(), "score/rejected": rejected.detach()})
