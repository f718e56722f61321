"""What is measured of learning online: what PPO-max's measures are for, reward against KL, and a real model."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from evidence.ablation import ablation
from evidence.frontier import frontier
from evidence.real import real
from evidence.reviews import Trial

PARTS: Mapping[str, Callable[[Trial], None]] = {"ablation": ablation, "frontier": frontier, "real": real}
"""What can be measured, in order."""
