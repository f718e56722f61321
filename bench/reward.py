"""Reward models: Truing beside TRL's RewardTrainer as it comes and as fast as it gets."""

from __future__ import annotations

from bench.training import Settings, measure

PROFILES = ("hh",)
"""Its rows end in no special token. Those of `real` end in SmolLM2's padding, where TRL takes the score too early."""
TUNED = {"gradient_checkpointing": False}


def run(profile: str, settings: Settings, size: str = "") -> None:
    """One profile; `size` names a model other than the usual one in the results."""
    measure("reward", profile, settings, TUNED, size)
