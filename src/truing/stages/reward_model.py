"""Reward models: a decoder whose head says how good an answer is, at the token that ended it."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from truing.stages.context import Context, Groups, Model
from truing.stages.preference import Preference, preference


class RewardModel(Preference):
    """Settings of `reward_model`."""

    learning_rate: float = Field(1e-5, gt=0, description="peak learning rate of AdamW")
    objective: dict[str, Any] = Field(
        {"name": "bradley_terry"}, description="name of the objective, or a table with settings", validate_default=True
    )
    trains: ClassVar[str] = "reward_model"
    usual: ClassVar[str] = "bradley_terry"

    @property
    def outputs(self) -> int:
        """One, and a second one where the objective trains it."""
        return 1 + self.bound().needs("length_score")

    @property
    def writes(self) -> bool:
        """Whether the objective asks what the model would write."""
        return self.bound().needs("writing")


def reward_model(
    context: Context, settings: RewardModel, model: Model, data: Groups, held_out: Groups | None = None
) -> None:
    """Trains a reward model, and measures on held-out rows how often it is right."""
    preference(context, settings, model, data, held_out)
