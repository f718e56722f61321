"""Rows of two stages, or of a stage and the recipe, as one: what the next stage learns from both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from pydantic import Field

from truing import formats
from truing.records import written_by
from truing.signatures import Count, Settings
from truing.stages.context import Context, Groups

Row = TypeVar("Row")
FILE = "groups.jsonl"


class Join(Settings):
    """Settings of `join`."""

    limit: Count | None = Field(None, description="use only so many rows of `data`")
    limit_also: Count | None = Field(None, description="use only so many rows of `also`")


def join(context: Context, settings: Join, data: Groups, also: Groups) -> None:
    """The rows of `data` and after them those of `also`; a stage that trains puts them in an order of chance."""
    rows = joined(settings, data.read(), also.read())
    sources = f"{data.description}, {also.description}"
    context.event("data", source=sources, rows=len(rows), used=len(rows), refused={}, written_by=written_by(rows))
    with context.output({"groups": FILE, "rows": len(rows)}) as folder:
        formats.write_data(rows, folder / FILE, format="group")


def joined(settings: Join, data: Sequence[Row], also: Sequence[Row]) -> list[Row]:
    """Both, each up to its limit."""
    return [*data[: settings.limit], *also[: settings.limit_also]]
