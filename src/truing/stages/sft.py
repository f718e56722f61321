"""Supervised fine-tuning: make the answers of demonstrations likelier."""

from __future__ import annotations

from pydantic import Field

from truing import reductions
from truing.errors import DataError
from truing.objectives.likelihood import nll
from truing.records import TEXT_ROLE, Group
from truing.reductions import Reduction
from truing.stages.context import Context, Groups, Model
from truing.stages.training import (
    Training,
    describe_data,
    finish,
    make_engine,
    optimizer_steps,
    render_rows,
)


class Sft(Training):
    """Settings of `sft` and `pretrain`."""

    learning_rate: float = Field(2e-5, gt=0, description="peak learning rate of AdamW")
    reduction: Reduction = Field("token_mean", description="how token losses become one number")


def sft(context: Context, settings: Sft, model: Model, data: Groups) -> None:
    """Trains on answers. Of comparisons and rankings the best answer counts; of conversations the assistant's turns."""
    groups = [_best(group) for group in data.read()]
    engine = make_engine(context, model, settings)
    rows, refused = render_rows(engine.loaded.renderer, groups, settings)
    describe_data(context, data, len(groups), rows, refused)
    context.event("preview", row=rows[0].index, pieces=engine.loaded.renderer.pieces(rows[0]))
    for step in optimizer_steps(context, engine, rows, settings):
        divisor = reductions.divisor(step.rows, settings.reduction)
        for forest in step.forests:
            loss = nll(engine.logprobs(forest))
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


def _best(group: Group) -> Group:
    """The row with its best answer alone: lowest rank, else highest score, else the only one."""
    answers = group.completions
    if not answers:
        raise DataError(f"{group.place}: this row has no answer to train on: use it as a prompt, or drop it")
    if len(answers) == 1:
        return group
    if all(answer.rank is not None for answer in answers):
        best = min(answers, key=lambda answer: answer.rank or 0)
    elif all(answer.score is not None for answer in answers):
        best = max(answers, key=lambda answer: answer.score or 0.0)
    else:
        raise DataError(f"{group.place}: {len(answers)} answers and no rank or score says which one to train on")
    return Group(group.prompt, (best,), group.weight, None, group.extra, group.file, group.line)
