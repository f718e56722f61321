"""A chart with the words that stand around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from truing.report import charts, words
from truing.report.charts import Line


@dataclass(frozen=True)
class Figure:
    """A chart with the words around it."""

    heading: str
    summary: str
    hint: str
    chart: Markup
    legend: Sequence[tuple[str, str]] = ()


def by_percentile(heading: str, hint: str, curves: Mapping[str, Sequence[float]], tones: Sequence[str]) -> Figure:
    """Values from the lowest to the highest, a curve for each name."""
    tone = dict(zip(curves, tones, strict=False))
    lines = [
        Line(name, tone[name], list(np.linspace(0, 100, len(values))), values, "values")
        for name, values in curves.items()
    ]
    summary = "; ".join(f"{name}: {words.number(float(np.mean(values)))} on average" for name, values in curves.items())
    chart = charts.line_chart(f"{heading}, by percentile: {summary}", lines)
    return Figure(heading, summary, hint, chart, [(tone[name], name) for name in curves])
