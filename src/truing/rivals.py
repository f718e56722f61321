"""Answers beside one another: how a rival to the policy's own is drawn, and what comes of the comparison.

Letters of the shapes: C answers, P pairs, G prompts. `group` [C] says which prompt an answer belongs to.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypedDict

import torch
from jaxtyping import Float, Int
from torch import Tensor

from truing.signatures import Fraction
from truing.tensors import Pair, PerToken

Link = Literal["logistic", "linear"]


class Drawing(TypedDict, total=False):
    """In what the sampling of one more answer to each prompt differs from that of the policy's own."""

    temperature: float
    reference: float


def greedy() -> Drawing:
    """The policy's answer of the likeliest tokens."""
    return {"temperature": 0.0}


def reference_alone() -> Drawing:
    """An answer of the reference."""
    return {"reference": 1.0}


def geometric_mixture(*, mixture: Fraction = 0.125) -> Drawing:
    """An answer of the geometric mixture of policy and reference, as section 7 of arXiv:2312.00886 draws it (Nash-MD).

    policy^(1 - mixture) reference^mixture / Z at each token, so with a Z for each

    The mixture that the paper's theorem is about has one Z for all whole answers, and nobody can draw from it token by
    token. The product of the Z here depends on what has been written, so for answers of several tokens the two differ;
    for one token they are the same. Weights between those of the two models would be neither.

    mixture: share of the reference; 0 is self-play, 1 the reference alone. The paper found 0.125 to 0.375 best.
    """
    return {"reference": mixture}


def win_rate(
    reward: Float[Tensor, " C"], group: Int[Tensor, " C"], rival: Float[Tensor, " G"], *, link: Link = "logistic"
) -> Float[Tensor, " C"]:
    """The chance that an answer is preferred to its rival, of the rewards r and r' of both.

    logistic    sigmoid(r - r'), the model of Bradley and Terry: of rewards that are log odds, as a reward model's are
    linear      (1 + r - r') / 2: of scorer `pairwise`, which reads the two side by side, its own chance, whatever it
                says of other pairs; of right and wrong 1, 1/2 or 0

    link: logistic or linear.
    """
    lead = reward - rival.to(reward.dtype)[group]
    return torch.sigmoid(lead) if link == "logistic" else (1 + lead) / 2


def best_and_worst(reward: Float[Tensor, " C"], group: Int[Tensor, " C"]) -> Int[Tensor, "P 2"]:
    """Places of the best and the worst answer to each prompt, the first of equals; none where all are equal."""
    pairs: list[tuple[int, int]] = []
    for one in sorted(set(group.tolist())):
        members = (group == one).nonzero().flatten()
        best, worst = reward[members].argmax(), reward[members].argmin()
        if reward[members[best]] > reward[members[worst]]:
            pairs.append((int(members[best]), int(members[worst])))
    return torch.tensor(pairs, dtype=torch.long, device=group.device).reshape(-1, 2)


def paired(offered: Mapping[str, Any], pairs: Int[Tensor, "P 2"]) -> dict[str, Any]:
    """What is offered of answers, [C] or of their tokens, as the chosen and the rejected of each pair."""
    chosen, rejected = pairs.unbind(1)

    def of(values: Any, which: Tensor) -> Any:
        return values.select(which) if isinstance(values, PerToken) else values[which]

    return {name: Pair(of(values, chosen), of(values, rejected)) for name, values in offered.items()}


def share_of_reference(drawing: Drawing | None) -> float:
    """The reference's share in what rivals are drawn from; 0 where there are none."""
    return 0.0 if drawing is None else drawing.get("reference", 0.0)
