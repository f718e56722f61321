"""When the critic has learned enough on its own for the policy to begin."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import torch
from torch import Tensor

from truing.stages.context import Context

ERRORS = "critic_error"
"""The critic's squared error on each rollout up to the first that the policy learns from, in a checkpoint's memory."""


class Warmup:
    """Rollouts from which the critic alone learns: its pre-training in PPO-max, section 5.4 of arXiv:2307.04964.

    most: how many. settled: there are fewer where the critic's squared error settles, that is, where its mean over the
    last `window` rollouts is less than this share below its mean over the `window` before; None: nothing ends it early.
    memory: what the caller carries from step to step, in which the errors stand.

    Errors are of new rollouts, before the critic learns from them, so that it cannot settle by learning by heart.
    """

    def __init__(self, most: int, settled: float | None, window: int, memory: dict[str, Tensor]) -> None:
        self._most, self._settled, self._window, self._memory = most, settled, window, memory
        memory[ERRORS] = torch.zeros(0, dtype=torch.float64)

    def is_over(self, number: int, error: float | None) -> bool:
        """Whether the policy learns from rollout `number`, counted from 0. Asked for one rollout after the other.

        error: the critic's on this rollout; None without a critic. Asked again about the same rollout it says the same,
        and once it is over it stays so, whatever errors follow.
        """
        before = self._errors(number)
        if error is not None and not self._over(number - 1, before):
            self._memory[ERRORS] = torch.tensor([*before, error], dtype=torch.float64)
        return self._over(number, self._errors(number + 1))

    def tell(self, context: Context, number: int, step: int) -> None:
        """Says why the policy begins to learn with this rollout, if it does after a warm-up.

        step: the first that learns from the rollout.
        """
        errors = self._errors(number + 1)
        if not self._most or not self._over(number, errors) or self._over(number - 1, errors[:number]):
            return
        settled = self._has_settled(errors)
        context.event("critic_warmed_up", step=step, rollout=number + 1, settled=settled, errors=errors)
        if self._settled is not None and not settled:
            context.warn(
                f"rollout {number + 1}: the critic's warm-up is over after critic_warmup = {self._most} rollouts, and "
                f"its squared error still fell by {self._fall(errors):.0%} from one window of {self._window} rollouts "
                "to the next: raise critic_warmup or critic_rate"
            )

    def _errors(self, count: int) -> list[float]:
        found: list[float] = self._memory[ERRORS][:count].tolist()
        return found

    def _over(self, number: int, errors: Sequence[float]) -> bool:
        return number >= self._most or self._has_settled(errors)

    def _has_settled(self, errors: Sequence[float]) -> bool:
        """Whether the error has settled at this rollout or at one before."""
        ends = range(2 * self._window, len(errors) + 1)
        return self._settled is not None and any(self._fall(errors[:end]) < self._settled for end in ends)

    def _fall(self, errors: Sequence[float]) -> float:
        """By which share the error fell from one window to the last; below 0 where it rose, 0 where it was 0."""
        before, last = fmean(errors[-2 * self._window : -self._window]), fmean(errors[-self._window :])
        return 1 - last / before if before > 0 else 0.0
