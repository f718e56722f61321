"""Answers of a rollout as people read them: whole, and token by token with what was made of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from truing.rendering import Renderer
from truing.stages.rollouts import Rollout

SAMPLED = 8
"""Rollouts of a run that are shown token by token, about; the first and the last are among them."""
MOST = 400
"""Tokens of one answer that are shown."""


def is_sampled(number: int, rollouts: int) -> bool:
    """Whether rollout `number`, counted from 0, is shown token by token."""
    return number % -(-rollouts // SAMPLED) == 0 or number == rollouts - 1


def extremes(rollout: Rollout) -> list[int]:
    """The policy's answers with the highest and the lowest score, counted over the rollout; of equals the first."""
    own, scores = (~rollout.by_reference).nonzero().flatten().tolist(), rollout.score.tolist()
    best, worst = max(own, key=lambda answer: scores[answer]), min(own, key=lambda answer: scores[answer])
    return [best] if best == worst else [best, worst]


def whole(rollout: Rollout, answer: int) -> dict[str, Any]:
    """A prompt with one of its answers."""
    row, place = _where(rollout, answer)
    group = rollout.groups[row]
    completion = group.completions[place]
    return {
        "prompt": [{"role": turn.role, "content": turn.content} for turn in group.prompt],
        "text": completion.text,
        "score": completion.score,
        "tokens": sum(rollout.rows[row].answers[place].scored),
        "finished": completion.finished,
    }


def by_token(rollout: Rollout, answer: int, numbers: Mapping[str, Tensor], renderer: Renderer) -> dict[str, Any]:
    """The text of each scored token, and its numbers to four digits. numbers: by name, of the whole rollout, [N]."""
    row, place = _where(rollout, answer)
    pieces = [piece for piece, scored in renderer.pieces(rollout.rows[row], place) if scored][:MOST]
    own = (rollout.completion == answer).nonzero().flatten()[:MOST]
    return {
        "pieces": pieces,
        "numbers": {name: [float(f"{one:.4g}") for one in values[own].tolist()] for name, values in numbers.items()},
    }


def _where(rollout: Rollout, answer: int) -> tuple[int, int]:
    """Its row, and its place among the row's answers."""
    groups = rollout.group.tolist()
    return groups[answer], answer - groups.index(groups[answer])
