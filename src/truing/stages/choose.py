"""Which of two models goes on, by their answers side by side."""

from __future__ import annotations

from pathlib import Path

from truing.errors import ConfigError
from truing.models import locate
from truing.stages.context import Context, Groups, Judges, Model
from truing.stages.measure import WinRate, put_out, side_by_side


class Choose(WinRate):
    """Settings of `choose`."""


def choose(context: Context, settings: Choose, model: Model, base: Model, data: Groups, judges: Judges) -> None:
    """Passes the model on if its answers beat the base's more often than not, and the base otherwise.

    As the last stage of a loop's body, with `base = "previous"` and `data = "held_out"`, it keeps what a round made
    worse from being the next one's start; self-rewarding models choose their checkpoints so (arXiv:2401.10020). A tie
    of two answers counts half for each, and of an even result the base goes on: nothing speaks for the change.
    """
    if model.key == base.key:
        raise ConfigError(f'{context.stage}: model and base are the same: name another base, as by base = "previous"')
    found = side_by_side(context, settings, model, base, data, judges)
    row = found.row(context.stage)
    chosen = model if row.model.value > 0.5 else base
    context.event("chosen", model=chosen.key, newer=chosen is model, wins=row.model.plain)
    more = {"model": _place(context, chosen.source), "steps": 0, "chosen": chosen.key}
    put_out(context, settings, found.asked, [row], model, base, found.scored, more)


def _place(context: Context, source: str) -> str:
    """Where a model lies, within the run if it does, so that the run may be moved."""
    folder, run = Path(locate(source)).absolute(), context.run.path.absolute()
    return str(folder.relative_to(run) if folder.is_relative_to(run) else folder)
