"""Instruction-following difficulty: how little an instruction helps to foresee its answer (arXiv:2308.12032)."""

from __future__ import annotations

MISALIGNED = 1.0
"""From here on the instruction makes the answer no likelier: the two do not belong together, and the paper drops it."""


def difficulty(conditioned: float, alone: float) -> float:
    """Mean negative log-likelihood of an answer after its instruction, over that of the same tokens on their own.

    Both in nats per token; the second is above 0. Near 0 the instruction gives the answer away.
    """
    return conditioned / alone
