"""How much better an answer, or one of its tokens, was than could be expected: pure functions of rewards.

Letters of the shapes: N tokens of all answers, those of an answer together and in order; C answers; G prompts.
`completion` [N] says which answer a token belongs to, `group` [C] which prompt an answer belongs to. A function whose
`reward` is [N] gives each token its advantage; one whose `reward` is [C] gives each answer one for all its tokens.

An answer alone in its group, and a group whose rewards are all equal, have nothing to be compared with: advantage 0.
Prompts are numbered from 0, and one without answers changes nothing. All sums are float64.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from truing.signatures import Fraction, Positive


def gae(
    reward: Float[Tensor, " N"],
    value: Float[Tensor, " N"],
    completion: Int[Tensor, " N"],
    *,
    gamma: Fraction = 1.0,
    lam: Fraction = 0.95,
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """Generalised advantage estimation: Eq. 16 of arXiv:1506.02438. The advantages, and the returns a critic learns.

    d_t = r_t + gamma V_{t+1} - V_t,  A_t = d_t + gamma lam A_{t+1},  return_t = A_t + V_t

    value: what the critic expects before each token is chosen, so it is read where the token is predicted.
    An answer's last token ends it, V after it being 0, also where the limit of length cut it off: the limit belongs to
    the task, the position is seen by the critic, and the score of the cut answer is all that will ever be paid.

    gamma: worth of the next token's reward, relative to this one's.
    lam: 0 trusts the critic after one token, 1 only the rewards.
    """
    rewards, values = reward.tolist(), value.tolist()
    advantages = [0.0] * len(rewards)
    for place, goes_on in _backwards(completion):
        after = values[place + 1] if goes_on else 0.0
        later = advantages[place + 1] if goes_on else 0.0
        advantages[place] = rewards[place] + gamma * after - values[place] + gamma * lam * later
    advantage = torch.tensor(advantages, dtype=reward.dtype, device=reward.device)
    return advantage, advantage + value


def discounted(
    reward: Float[Tensor, " N"], completion: Int[Tensor, " N"], *, gamma: Fraction = 1.0
) -> Float[Tensor, " N"]:
    """What is still to come from each token on: the advantage of REINFORCE++ before it is whitened, arXiv:2501.03262.

    R_t = r_t + gamma R_{t+1}, up to the end of the answer

    gamma: worth of the next token's reward, relative to this one's.
    """
    rewards = reward.tolist()
    returns = [0.0] * len(rewards)
    for place, goes_on in _backwards(completion):
        returns[place] = rewards[place] + (gamma * returns[place + 1] if goes_on else 0.0)
    return torch.tensor(returns, dtype=reward.dtype, device=reward.device)


def group_zscore(
    reward: Float[Tensor, " C"], group: Int[Tensor, " C"], *, epsilon: Positive = 1e-4
) -> Float[Tensor, " C"]:
    """Rewards of a group in units of its deviation: GRPO, section 4.1.2 of arXiv:2402.03300.

    A_i = (r_i - mean r) / (s + epsilon), s the sample deviation of the group (divisor n - 1, as in TRL and verl)

    Because of the division the size of rewards is lost: a group that differs by little teaches as much as one that
    differs by much, and with a KL penalty in the loss the policy settles at another temperature than that penalty's.

    epsilon: added to the deviation, in units of the reward.
    """
    away = _from_mean(reward, group)
    others = (_sum_of_group(torch.ones_like(away), group) - 1).clamp(min=1)
    deviation = (_sum_of_group(away.square(), group) / others).sqrt()
    return (away / (deviation + epsilon)).to(reward.dtype)


def group_centre(reward: Float[Tensor, " C"], group: Int[Tensor, " C"]) -> Float[Tensor, " C"]:
    """Rewards less the mean of their group: Dr. GRPO, arXiv:2503.20783.

    A_i = r_i - mean r = (n - 1) / n of the advantage by leave_one_out, for a group of n
    """
    return _from_mean(reward, group).to(reward.dtype)


def leave_one_out(reward: Float[Tensor, " C"], group: Int[Tensor, " C"]) -> Float[Tensor, " C"]:
    """Rewards less the mean of the other ones of their group: RLOO, arXiv:2402.14740.

    A_i = r_i - mean of r_j over j other than i. The baseline knows nothing of answer i, so the gradient is unbiased.
    """
    size = _sum_of_group(torch.ones_like(reward, dtype=torch.float64), group)
    return (_from_mean(reward, group) * size / (size - 1).clamp(min=1)).to(reward.dtype)


def greedy_baseline(
    reward: Float[Tensor, " C"], group: Int[Tensor, " C"], greedy: Float[Tensor, " G"]
) -> Float[Tensor, " C"]:
    """Rewards less that of the answer the policy is surest of: ReMax, arXiv:2310.10505.

    A_i = r_i - r(the greedy answer to the same prompt)

    greedy: the reward of each prompt's greedy answer, shaped as the others are.
    """
    return reward - greedy.to(reward.dtype)[group]


def half_baseline(reward: Float[Tensor, " C"]) -> Float[Tensor, " C"]:
    """Rewards less one half, the chance to be preferred of equals: section 7 of arXiv:2312.00886 (Nash-MD).

    A_i = P(answer i preferred to its rival) - 1/2, less what its KL costs where the reward has it
    """
    return reward - 0.5


def batch_baseline(reward: Float[Tensor, " C"]) -> Float[Tensor, " C"]:
    """Rewards less the mean of all of the step: REINFORCE with the plainest baseline (Williams, 1992)."""
    return (reward.double() - reward.double().mean()).to(reward.dtype) if len(reward) else reward


def whiten(
    advantage: Float[Tensor, " N"], *, advantage_scaling: Literal["standard", "none"] = "standard",
    epsilon: Positive = 1e-8,
) -> Float[Tensor, " N"]:  # fmt: skip
    """Advantages less their mean over all tokens of the step, in units of their population deviation (divisor N).

    (A - mean A) / (s + epsilon). Long answers count by their tokens. All equal, or a single one: 0.

    advantage_scaling: standard; none: as they are, in units of the reward.
    epsilon: added to the deviation.
    """
    if not len(advantage) or advantage_scaling == "none":
        return advantage
    away = advantage.double() - advantage.double().mean()
    return (away / (away.square().mean().sqrt() + epsilon)).to(advantage.dtype)


def clip_advantage(advantage: Float[Tensor, " N"], *, advantage_clip: Positive = 5.0) -> Float[Tensor, " N"]:
    """Advantages held within a bound, as PPO-max holds them (arXiv:2307.04964).

    advantage_clip: the bound; after whitening, in deviations. MOSS-RLHF's code has 0.5, which its scripts leave off.
    """
    return advantage.clamp(-advantage_clip, advantage_clip)


def _backwards(completion: Tensor) -> list[tuple[int, bool]]:
    """Each token from the last to the first, and whether its answer goes on after it."""
    owner = completion.tolist()
    goes_on = [one == other for one, other in pairwise(owner)] + [False] * bool(owner)
    return list(zip(range(len(owner)), goes_on, strict=True))[::-1]


def _sum_of_group(values: Tensor, group: Tensor) -> Tensor:
    """For each answer the sum over its group, in float64."""
    groups = int(group.max()) + 1 if len(group) else 0
    return values.new_zeros(groups, dtype=torch.float64).index_add(0, group, values.double())[group]


def _from_mean(reward: Tensor, group: Tensor) -> Tensor:
    """Rewards less the mean of their group, in float64."""
    mean = _sum_of_group(reward, group) / _sum_of_group(torch.ones_like(reward), group)
    return reward.double() - mean
