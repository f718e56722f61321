"""SFT: Truing beside TRL's SFTTrainer as it comes and as fast as it gets, padding-free collation included."""

from __future__ import annotations

from bench.training import Settings, measure

PROFILES = ("hh", "real")
TUNED = {"gradient_checkpointing": False}


def run(profile: str, settings: Settings, size: str = "") -> None:
    """One profile; `size` names a model other than the usual one in the results."""
    measure("sft", profile, settings, TUNED, size)
