"""Which prompts come next: more often those whose answers are rewarded differently, as all others teach little."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from truing.signatures import Fraction, Positive, Settings


class Curriculum(Settings):
    """How often prompts come, by the variance of the rewards of their answers; after arXiv:2502.12272.

    Of right and wrong that is p (1 - p), p the pass rate: nothing for prompts that are always or never solved. What was
    seen long ago counts little, since the policy changes. To what is known of a prompt comes one answer of the usual
    variance, so that one rollout alone does not settle it. Prompts whose answers cannot be scored teach nothing.
    """

    floor: Positive = Field(
        0.1, le=1, description="how often a prompt of equal rewards comes, as a share of one whose rewards vary most"
    )
    memory: Fraction = Field(0.5, description="share of what is known of a prompt that is kept as it comes again")


def nothing_seen(prompts: int) -> Tensor:
    """What is known before any has come: of each prompt the number of rewards, their sum and that of squares.

    Last, 1 for a prompt that gave no reward when it was last asked, as its answers could not be scored.
    """
    return torch.zeros(prompts, 4, dtype=torch.float64)


def seen(known: Tensor, asked: Tensor, place: Tensor, reward: Tensor, memory: float) -> Tensor:
    """What is known after a rollout.

    asked: which prompts it asked. place: which of them each of its answers belongs to. reward: of each, [C].
    """
    rewards = reward.double()
    each = torch.stack([torch.ones_like(rewards), rewards, rewards.square(), torch.zeros_like(rewards)], dim=1)
    kept = known.clone()
    kept[asked, 3] = 1.0
    kept[place, 3] = 0.0
    kept[sorted(set(place.tolist()))] *= memory
    return kept.index_add(0, place, each)


def chances(known: Tensor, floor: float) -> Tensor:
    """How often each prompt shall come, as a share of the one whose rewards vary most; 1 where nothing is known yet.

    What could not be scored when it was last asked comes as seldom as can be.
    """
    return torch.where(known[:, 3] > 0, floor, _by_variance(known, floor))


def _by_variance(known: Tensor, floor: float) -> Tensor:
    """The same for prompts whose answers have rewards."""
    count, first, square, _ = known.unbind(1)
    apart = (square - first.square() / count.clamp(min=1e-9)).clamp(min=0)  # squared deviations, added up
    usual = float(apart.sum() / count.sum().clamp(min=1e-9))
    if usual <= 1e-12 * float(square.sum() / count.sum().clamp(min=1e-9)):  # but for rounding no reward varies
        return torch.ones(len(known), dtype=torch.float64)
    variance = (apart + usual) / (count + 1)
    most = variance[count > 0].max()
    return torch.where(count > 0, floor + (1 - floor) * variance / most, 1.0)


def draw(chance: Tensor, count: int, seed: int) -> list[int]:
    """Places of `count` prompts, none twice before all have come: one after the other with these chances.

    The largest of log(u) / chance, u uniform, are such a draw (Efraimidis and Spirakis, 2006).
    """
    prompts = len(chance)
    uniform = torch.rand(prompts, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    some = (uniform.log() / chance).topk(count % prompts).indices.tolist()
    return [*range(prompts)] * (count // prompts) + some
