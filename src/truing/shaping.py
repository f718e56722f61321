"""Rewards between the scorer and the advantages: scaling, clipping, length, and the KL from the reference.

Letters of the shapes: N tokens of all answers, C answers. What is remembered from step to step are plain floats, so
that a checkpoint keeps them to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from truing.objectives.shared import Estimator, kl_estimate
from truing.signatures import Fraction, NonNegative, Positive, Settings

Scaling = Literal["none", "deviation", "standard"]


class Shaping(Settings):
    """What becomes of the scores before advantages are taken, in this order: length, scale, clip, KL."""

    overlong_share: Fraction = Field(
        0.0, description="last share of the length limit in which answers lose up to 1; 0: none do"
    )
    reward_scaling: Scaling = Field(
        "none", description="deviation: divide by that of all scores so far; standard: first subtract their mean"
    )
    reward_clip: Positive | None = Field(
        None, description="rewards of answers are held within this; none: they are not"
    )
    reward_kl: NonNegative = Field(
        0.0, description="price of each nat of KL from the reference, in units of the reward as scaled"
    )
    reward_kl_estimator: Estimator = Field("k1", description="how it is estimated; only k1 has the right gradient here")
    reward_kl_target: Positive | None = Field(
        None, description="nats an answer that the price of KL is steered towards; none: the price stays"
    )
    reward_kl_horizon: Positive = Field(10_000.0, description="answers over which the price follows; smaller is faster")


ERROR = 0.2
"""What the relative error of the KL is held within, when its price is steered."""


@dataclass(frozen=True, slots=True)
class RunningScale:
    """Count, mean and sum of squared deviations of all scores so far; merged exactly, whatever the steps' sizes."""

    count: float = 0.0
    mean: float = 0.0
    square: float = 0.0

    def seen(self, score: Float[Tensor, " C"]) -> RunningScale:
        """With the scores of another step."""
        scores = score.double().tolist()
        if not scores:
            return self
        count, mean = float(len(scores)), math.fsum(scores) / len(scores)
        square = math.fsum((one - mean) ** 2 for one in scores)
        total, apart = self.count + count, mean - self.mean
        between = apart**2 * self.count * count / total
        return RunningScale(total, self.mean + apart * count / total, self.square + square + between)

    @property
    def deviation(self) -> float:
        """The sample deviation; 1, which changes nothing, before scores that differ by more than rounding were seen."""
        found = math.sqrt(self.square / (self.count - 1)) if self.count > 1 else 0.0
        return found if found > 1e-12 * abs(self.mean) else 1.0


@dataclass(frozen=True, slots=True)
class KlPrice:
    """The price of a nat of KL in the reward, steered towards a target: section 2.2 of arXiv:1909.08593."""

    coefficient: float

    def after(self, kl: float, answers: int, *, target: float | None, horizon: float) -> KlPrice:
        """The price after a step of so many answers with this mean KL, in nats an answer.

        coefficient (1 + e answers / horizon), e = kl / target - 1 held within ERROR, the form of the paper's code.
        A horizon above ERROR * answers keeps it positive.
        """
        if target is None:
            return self
        error = min(ERROR, max(-ERROR, kl / target - 1))
        return replace(self, coefficient=self.coefficient * (1 + error * answers / horizon))


@dataclass(frozen=True, slots=True)
class ShapingState:
    """What shaping remembers between steps. `numbers` are plain floats, from which `restored` makes the very same."""

    scale: RunningScale
    price: KlPrice

    @classmethod
    def of(cls, shaping: Shaping) -> ShapingState:
        """Before the first step."""
        return cls(RunningScale(), KlPrice(float(shaping.reward_kl)))

    def numbers(self) -> dict[str, dict[str, float]]:
        """To be written into a checkpoint."""
        return asdict(self)

    @classmethod
    def restored(cls, numbers: Mapping[str, Mapping[str, float]]) -> ShapingState:
        """As it was when `numbers` were taken."""
        return cls(RunningScale(**numbers["scale"]), KlPrice(**numbers["price"]))


def shaped(
    score: Float[Tensor, " C"], length: Int[Tensor, " C"], shaping: Shaping, scale: RunningScale, *, limit: int
) -> Float[Tensor, " C"]:
    """The reward of each answer: its score less what its length costs, scaled and clipped.

    scale: of all scores so far, this step's included, so that the first step has one too. limit: most tokens allowed.
    """
    reward = score + overlong(length, limit=limit, buffer=round(shaping.overlong_share * limit)).to(score.dtype)
    if shaping.reward_scaling == "standard":
        reward = reward - scale.mean
    if shaping.reward_scaling != "none":
        reward = reward / scale.deviation
    return reward if shaping.reward_clip is None else reward.clamp(-shaping.reward_clip, shaping.reward_clip)


def overlong(length: Int[Tensor, " C"], *, limit: int, buffer: int) -> Float[Tensor, " C"]:
    """Soft overlong punishment: Eq. 13 of arXiv:2503.14476 (DAPO), added to the score.

    0 up to limit - buffer tokens, then falling in a line to -1 at the limit, -1 beyond it
    """
    beyond = (length > limit).float()
    if buffer == 0:
        return -beyond
    return ((limit - buffer - length) / buffer).clamp(-1, 0)


def kl_in_reward(
    logprob: Float[Tensor, " N"], reference: Float[Tensor, " N"], *, estimator: Estimator = "k1"
) -> Float[Tensor, " N"]:
    """Estimated KL(policy || reference) in nats at each token of the policy's answers: what the reward is lowered by.

    No gradient goes through a reward. With k1 none is missing, since on average the slope of k1 itself is 0; k2 and k3
    leave theirs out, so that the policy gradient is no longer that of the KL, although the number is well estimated.

    estimator: k1, k2 or k3.
    """
    return kl_estimate(logprob, reference, estimator).detach()


def terminal_reward(reward: Float[Tensor, " C"], completion: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
    """The reward of each answer on its last token, the one that ended it, and 0 on all others.

    The last token of an answer that the limit cut off has its reward too. An answer without tokens has none.
    """
    last = torch.ones_like(completion, dtype=torch.bool)
    last[:-1] = completion[1:] != completion[:-1]
    return torch.where(last, reward[completion], 0.0)
