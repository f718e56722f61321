"""Objectives of online reinforcement learning: one loss per token of the policy's own answers, [N].

They are no objectives of recipes: an algorithm (`truing.algorithms`) is made of them, of an advantage and a reduction.
`policy` is what is trained; `behaviour` is the policy that wrote the answers, scored by the same engine at the same
temperature, so that at the first update the ratio policy / behaviour is exactly 1. A is the advantage of a token.

Every loss of the advantage is linear in it as long as its sign stays, so the weights that correct for a generator
which is not quite the engine's policy (`truncated_importance`, `masked_importance`) are multiplied into the advantage.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from truing.objectives.shared import Estimator, bounded_exp, kl_estimate
from truing.signatures import NonNegative, Positive
from truing.tensors import Logprobs, Loss, PerToken

AboveOne = Annotated[float, Field(gt=1)]


def reinforce(policy: Logprobs, advantage: PerToken) -> Loss:
    """Policy gradient: Williams (1992), with the policy's own answers alone.

    -A log p(token)

    Use: with one update for each rollout; at a second update the answers are no longer the policy's.
    """
    return Loss(-advantage.token * policy.token, {"logprob/token": policy.token.detach()})


def ppo_clip(
    policy: Logprobs,
    behaviour: Logprobs,
    advantage: PerToken,
    *,
    clip_low: Positive = 0.2,
    clip_high: Positive = 0.2,
    dual_clip: AboveOne | None = None,
) -> Loss:
    """Proximal policy optimisation: Eq. 7 of arXiv:1707.06347, with two bounds as in DAPO (arXiv:2503.14476).

    -min(ratio A, clip(ratio, 1 - clip_low, 1 + clip_high) A); where A < 0, at most -dual_clip A

    Use: with several updates for each rollout. At the first its gradient is that of `reinforce`.

    clip_low: a token that shall become rarer has no slope once its ratio is this far below 1.
    clip_high: a token that shall become likelier has no slope once its ratio is this far above 1.
    dual_clip: where A < 0 no slope above this ratio either (arXiv:1912.09729); its authors take 3.
    """
    ratio = bounded_exp(policy.token - behaviour.token)
    return _clipped(ratio, policy, behaviour, advantage, (clip_low, clip_high), dual_clip)


def gspo(
    policy: Logprobs,
    behaviour: Logprobs,
    advantage: PerToken,
    *,
    clip_low: Positive = 3e-4,
    clip_high: Positive = 4e-4,
) -> Loss:
    """Group sequence policy optimisation: Eq. 5 and 7 of arXiv:2507.18071, in the form by tokens of its section 4.3.

    -min(s A, clip(s, 1 - clip_low, 1 + clip_high) A), s = exp(mean over the answer of log policy / behaviour)

    Every token has the ratio s of its answer and its own slope: sg(s) p / sg(p). With the reduction sequence_mean, and
    one advantage for all tokens of an answer, value and gradient are those of the answer's loss.

    clip_low: answers have no slope below 1 - clip_low; a geometric mean of ratios stays near 1, so bounds are narrow.
    clip_high: and none above 1 + clip_high.
    """
    mean = policy.with_token(policy.token - behaviour.token).mean.detach()
    of_answer = bounded_exp(mean)[policy.completion].to(policy.token.dtype)
    ratio = of_answer * torch.exp(policy.token - policy.token.detach())
    return _clipped(ratio, policy, behaviour, advantage, (clip_low, clip_high), None)


def cispo(
    policy: Logprobs,
    behaviour: Logprobs,
    advantage: PerToken,
    *,
    clip_low: Positive | None = None,
    clip_high: Positive = 4.0,
) -> Loss:
    """Clipped importance sampling policy optimisation: Eq. 4 and 5 of arXiv:2506.13585 (MiniMax-M1).

    -sg(clip(ratio, 1 - clip_low, 1 + clip_high)) A log p(token)

    Use: with several updates for each rollout, where rare tokens matter: the weight is held, no token loses its slope.

    clip_low: weights are held above 1 - clip_low; none: unbounded below, as in the paper's runs.
    clip_high: weights are held below 1 + clip_high; 4 is the bound of 5 that arXiv:2510.13786 found good.
    """
    ratio = bounded_exp(policy.token - behaviour.token).detach()
    held = ratio.clamp(min=0.0 if clip_low is None else 1 - clip_low, max=1 + clip_high)
    return Loss(-held * advantage.token * policy.token, _moved(ratio, held != ratio, policy, behaviour))


def kl_penalty(policy: Logprobs, reference: Logprobs, *, estimator: Estimator = "k3") -> Loss:
    """KL from the reference as a term of the loss: with k3, Eq. 4 of arXiv:2402.03300 (GRPO).

    k1 = d,  k2 = d^2 / 2,  k3 = exp(-d) - 1 + d,  d = log policy / reference

    The gradient of an estimate is no estimate of the gradient. On the policy's own answers the slope of k2 is on
    average that of KL(policy || reference) at this token; the slope of k3 is that of KL(reference || policy), whose
    optimum is another one; the slope of k1 is 0, pure noise. Whatever the estimator, what a token does to the KL of
    those after it has no slope here: only in the reward (`shaping.kl_in_reward`, k1) are whole answers priced.

    estimator: k2, k3 or k1.
    """
    kl = kl_estimate(policy.token, reference.token, estimator)
    return Loss(kl, {"kl/reference": kl.detach()})


def entropy_bonus(entropy: PerToken) -> Loss:
    """Reward for staying undecided: the entropy term of A3C (arXiv:1602.01783).

    -H, the entropy in nats of the policy's distribution over the whole vocabulary where each token was chosen
    """
    return Loss(-entropy.token, {"entropy/update": entropy.token.detach()})


def truncated_importance(behaviour: Logprobs, sampled: Logprobs, *, limit: Positive = 2.0) -> PerToken:
    """Weights for tokens that a generator drew from not quite the engine's policy: truncated importance sampling.

    min(limit, behaviour / sampled), without gradient (Ionides, 2008); 1 where engine and generator agree

    limit: where weights are held.
    """
    weight = bounded_exp(behaviour.token - sampled.token).detach()
    return PerToken(weight.clamp(max=limit), behaviour.completion, behaviour.count)


def masked_importance(
    behaviour: Logprobs, sampled: Logprobs, *, low: NonNegative = 0.5, high: Positive = 5.0
) -> PerToken:
    """The same weights, but 0 outside of bounds: tokens on which engine and generator differ much teach nothing.

    behaviour / sampled where it lies from low to high, else 0, without gradient (IcePop, arXiv:2510.18855)

    low: smallest weight that counts.
    high: largest weight that counts.
    """
    weight = bounded_exp(behaviour.token - sampled.token).detach()
    inside = (weight >= low) & (weight <= high)
    return PerToken(torch.where(inside, weight, 0.0), behaviour.completion, behaviour.count)


def _clipped(
    ratio: Tensor,
    policy: Logprobs,
    behaviour: Logprobs,
    advantage: PerToken,
    clip: tuple[float, float],
    dual_clip: float | None,
) -> Loss:
    free = ratio * advantage.token
    gain = torch.minimum(free, ratio.clamp(1 - clip[0], 1 + clip[1]) * advantage.token)
    if dual_clip is not None:
        gain = torch.where(advantage.token < 0, torch.maximum(gain, dual_clip * advantage.token), gain)
    return Loss(-gain, _moved(ratio.detach(), (gain != free).detach(), policy, behaviour))


def _moved(ratio: Tensor, clipped: Tensor, policy: Logprobs, behaviour: Logprobs) -> dict[str, Tensor]:
    """How far the policy has moved since it wrote the answers; the KL is estimated by k3 on the behaviour's tokens."""
    kl = kl_estimate(behaviour.token, policy.token, "k3").detach()
    return {"ratio": ratio, "ratio/clipped": clipped.to(ratio.dtype), "kl/behaviour": kl}
