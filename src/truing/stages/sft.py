"""Supervised fine-tuning: make the answers of demonstrations likelier."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Self

from pydantic import Field, field_validator, model_validator

from truing import reductions
from truing.errors import ConfigError, DataError, by_reason
from truing.objectives import bind
from truing.records import TEXT_ROLE, Completion, Group
from truing.reductions import Reduction
from truing.signatures import asks_for
from truing.stages.arranging import best, conditioned, hindsight
from truing.stages.context import Context, Groups, Model
from truing.stages.training import (
    Training,
    describe_data,
    finish,
    load_trainable,
    make_engine,
    optimizer_steps,
    render_rows,
    warn_of_plain_text,
)

THUMB_DOWN = "an answer with a thumb down"
WRONG_STEP = "an answer with a wrong step"


class Sft(Training):
    """Settings of `sft` and `pretrain`."""

    learning_rate: float = Field(2e-5, gt=0, description="peak learning rate of AdamW")
    objective: str = Field("nll", description="nll, dft, csft or chain_of_hindsight")
    reduction: Reduction = Field("token_mean", description="how token losses become one number")
    good: str = Field("Give a good answer.", description="what csft and chain_of_hindsight put before good answers")
    bad: str = Field("Give a bad answer.", description="what they put before bad ones")

    @field_validator("objective")
    @classmethod
    def _of_tokens(cls, value: str) -> str:
        if bind({"name": value}).kind != "token":
            raise ConfigError(f"objective '{value}' belongs to stage 'preference': use = \"preference\"")
        return value

    @model_validator(mode="after")
    def _alive(self) -> Self:
        """Instructions that nothing would ask for are refused."""
        words = (Sft.model_fields["good"].default, Sft.model_fields["bad"].default)
        if self.objective in ("nll", "dft") and (self.good, self.bad) != words:
            raise ConfigError(f"objective '{self.objective}' asks for no instruction: take `good` and `bad` out")
        return self


def sft(context: Context, settings: Sft, model: Model, data: Groups) -> None:
    """Trains on answers. Of comparisons and rankings the best answer counts; of conversations the assistant's turns."""
    objective = bind({"name": settings.objective})
    read = data.read()
    groups, bad = arranged(settings, read, context.seed)
    loaded = load_trainable(context, model, settings)
    rows, kept, refused = render_rows(loaded.renderer, groups, settings)
    engine = make_engine(context, loaded, settings, rows)
    describe_data(context, data, len(read), [groups[place] for place in kept], rows, refused | bad)
    warn_of_plain_text(context, engine.renderer, groups)
    context.event("preview", row=rows[0].index, pieces=engine.renderer.pieces(rows[0]))
    for step in optimizer_steps(context, engine, rows, settings):
        divisor = reductions.divisor(step.rows, settings.reduction)
        for forest in step.forests:
            loss = objective(policy=engine.logprobs(forest))
            step.add(loss, reductions.token_weights(forest, rows, settings.reduction), divisor)
    finish(context, engine, model, rows, settings)


def pretrain(context: Context, settings: Sft, model: Model, data: Groups) -> None:
    """Trains on plain text, every token of it."""
    groups = data.read()
    for group in groups:
        turns = [*group.prompt, *(m for completion in group.completions for m in completion.messages)]
        if any(message.role != TEXT_ROLE for message in turns):
            raise DataError(f"{group.place}: pretrain takes plain text, and this row has chat turns: use stage 'sft'")
    sft(context, settings, model, data)


def arranged(settings: Sft, groups: Sequence[Group], seed: int) -> tuple[list[Group], dict[str, int]]:
    """The rows as the objective's `policy` wants them, which its type in `tensors` says, and how many are left out
    because somebody called their answer bad. Raises DataError on others, or where none is left.
    """
    policy = asks_for(bind({"name": settings.objective}).function)["policy"]
    if policy == "Conditioned":
        return [row for group in groups for row in conditioned(group, settings.good, settings.bad)], {}
    if policy == "Hindsight":
        return [hindsight(group, settings.good, settings.bad, seed) for group in groups], {}
    found = [best(group) for group in groups]
    bad = Counter(reason for one in found if (reason := _called_bad(one.completions[0])))
    good = [one for one in found if not _called_bad(one.completions[0])]
    if not good:
        raise DataError(f"no answer is left to train on: {by_reason(bad)}: bring good ones")
    return good, dict(bad)


def _called_bad(answer: Completion) -> str:
    """Why an answer is no example to follow; nothing where nobody said so."""
    if answer.label is False:
        return THUMB_DOWN
    return WRONG_STEP if any(step.right is False for step in answer.steps) else ""
