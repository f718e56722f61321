"""DPO: Truing with its cached reference beside TRL's DPOTrainer as it comes and as fast as it gets."""

from __future__ import annotations

from bench.training import Settings, measure

PROFILES = ("hh", "ultrafeedback", "tldr", "real")
TUNED = {"precompute_ref_log_probs": True, "gradient_checkpointing": False}


def run(profile: str, settings: Settings, size: str = "") -> None:
    """One profile; `size` names a model other than the usual one in the results."""
    measure("dpo", profile, settings, TUNED, size)
