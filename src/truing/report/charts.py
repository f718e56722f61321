"""Charts as inline SVG, coloured by the page's CSS variables, so that they follow the theme and print.

A tone names one of the colours in page.css: `policy`, `base`, `run0`, `run1`, ...
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from truing.report.words import number, percent
from truing.statistics import Interval

WIDTH, HEIGHT = 360, 200
LEFT, RIGHT, TOP, BOTTOM = 44, 352, 10, 176
SLICES = 150
"""A longer curve is drawn by the lowest and the highest value of this many slices, so that no spike is lost."""

BINS = 24

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Line:
    """A value at every step: the values are drawn thin, their moving average thick; one not finite leaves a gap."""

    label: str
    tone: str
    steps: Sequence[float]
    values: Sequence[float]
    shown: Literal["values", "average", "both"] = "both"


@dataclass(frozen=True)
class Points:
    """Now and then an estimate with its interval. where: how one says at which of the steps it is."""

    label: str
    tone: str
    steps: Sequence[float]
    estimates: Sequence[Interval]
    where: str = "at step {}"


@dataclass(frozen=True)
class Axis:
    """Carries values from [low, high] to pixels [start, end]."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Where the value lies, in pixels."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def line_chart(title: str, lines: Sequence[Line], points: Sequence[Points] = (), rule: float | None = None) -> Markup:
    """Curves over training steps. `rule` is a value worth comparing with, drawn as a dashed line."""
    xs = [step for line in lines for step in line.steps] + [step for series in points for step in series.steps]
    ys = [value for line in lines for value in _drawn(line) if math.isfinite(value)]
    ys += [end for series in points for estimate in series.estimates for end in (estimate.low, estimate.high)]
    ys += [] if rule is None else [rule]
    x, y = _axis(xs, LEFT, RIGHT, margin=0.02), _axis(ys, BOTTOM, TOP, margin=0.06)
    parts = [_grid(x, y)]
    if rule is not None:
        parts.append(_format('<path class="rule" d="M{},{:.1f}H{}"/>', LEFT, y(rule), RIGHT))
    parts += [_line(line, x, y) for line in lines]
    parts += [_points(series, x, y) for series in points]
    return _svg(title, Markup("").join(parts))


def histogram(title: str, lengths: Mapping[str, Sequence[int]]) -> Markup:
    """How often each length occurs, one translucent hill per tone. The longest one in a hundred share the last bar."""
    longest = max(float(np.quantile(values, 0.99)) for values in lengths.values())
    edges = np.linspace(0, math.ceil(longest) + 1, BINS + 1)
    counts = {tone: np.histogram(np.minimum(values, longest), edges)[0] for tone, values in lengths.items()}
    x = Axis(0, float(edges[-1]), LEFT, RIGHT)
    y = Axis(0, float(max(count.max() for count in counts.values())) * 1.05, BOTTOM, TOP)
    parts = [_grid(x, y)]
    for tone, count in counts.items():
        outline = "".join(f"V{y(c):.1f}H{x(edge):.1f}" for c, edge in zip(count, edges[1:], strict=True))
        parts.append(_format('<path class="hill {}" d="M{},{}{}V{}Z"/>', tone, LEFT, BOTTOM, outline, BOTTOM))
    return _svg(title, Markup("").join(parts))


def share_bar(title: str, share: Interval, tone: str, ticks: bool = True) -> Markup:
    """A share and its interval between 0 and 100 %, against the line at 50 %. Lengths are in per cent: it is fluid."""
    low, value, high = (f"{100 * x:.2f}%" for x in (share.low, share.value, share.high))
    width = f"{100 * (share.high - share.low):.2f}%"
    parts = [
        Markup('<line class="track" x1="0" x2="100%" y1="18" y2="18"/>'),
        Markup('<line class="coin" x1="50%" x2="50%" y1="2" y2="34"/>'),
        _format('<rect class="reach {}" x="{}" width="{}" y="11" height="14" rx="7"/>', tone, low, width),
        _format('<line class="end {}" x1="{}" x2="{}" y1="11" y2="25"/>', tone, low, low),
        _format('<line class="end {}" x1="{}" x2="{}" y1="11" y2="25"/>', tone, high, high),
        _format('<circle class="dot {}" cx="{}" cy="18" r="7"/>', tone, value),
    ]
    if ticks:
        parts += [_share_tick(tick) for tick in (0, 25, 50, 75, 100)]
    height = 52 if ticks else 36
    return _format('<svg class="bar" role="img" width="100%" height="{}">', height) + _format(
        "<title>{}</title>{}</svg>", title, Markup("").join(parts)
    )


def gain_bar(title: str, value: float, low: float, high: float, *, reach: float, tone: str) -> Markup:
    """A gain and its interval against the line at 0, between -reach and reach. What lies beyond is cut off."""

    def place(at: float) -> str:
        return f"{50 + 50 * max(-1.0, min(1.0, at / reach)):.2f}%"

    width = f"{50 * (min(high, reach) - max(low, -reach)) / reach:.2f}%"
    parts = [
        Markup('<line class="track" x1="0" x2="100%" y1="10" y2="10"/>'),
        Markup('<line class="coin" x1="50%" x2="50%" y1="0" y2="20"/>'),
        _format('<rect class="reach {}" x="{}" width="{}" y="5" height="10" rx="5"/>', tone, place(low), width),
        _format('<circle class="dot {}" cx="{}" cy="10" r="5"/>', tone, place(value)),
    ]
    return _format(
        '<svg class="bar" role="img" width="100%" height="20"><title>{}</title>{}</svg>', title, Markup("").join(parts)
    )


def outcome_bar(wins: int, ties: int, losses: int) -> Markup:
    """Wins, ties and losses as one bar."""
    total, start, parts = wins + ties + losses, 0.0, Markup("")
    for name, count in (("wins", wins), ("ties", ties), ("losses", losses)):
        width = 100 * count / total
        parts += _format('<rect class="{}" x="{:.2f}%" width="{:.2f}%" height="14"/>', name, start, width)
        start += width
    title = f"{wins} wins, {ties} ties, {losses} losses"
    return _format('<svg class="outcomes" role="img" width="100%" height="14"><title>{}</title>{}</svg>', title, parts)


def part_bar(title: str, count: int, total: int) -> Markup:
    """So many of a total, as the filled part of a bar."""
    part = _format('<rect class="part" width="{:.2f}%" height="14" rx="2"/>', 100 * count / total)
    frame = (
        '<svg class="parts" role="img" width="100%" height="14"><title>{}</title>'
        '<rect class="rest" width="100%" height="14" rx="2"/>{}</svg>'
    )
    return _format(frame, f"{title}: {count} of {total}", part)


def smooth(values: Array) -> Array:
    """A centred moving average over a tenth of the steps. Values that are not finite are left out of it."""
    window = np.ones(2 * (values.size // 20) + 1)
    finite = np.isfinite(values)
    total = np.convolve(np.where(finite, values, 0.0), window, "same")
    count = np.convolve(finite, window, "same")
    return np.where(finite, total / np.maximum(count, 1), np.nan)


def thin(values: Array) -> NDArray[np.intp]:
    """Which values to draw: all of a short curve, the lowest and the highest of each slice of a long one."""
    every = np.arange(values.size)
    if values.size <= 2 * SLICES:
        return every
    keep: set[int] = set()
    for part in np.array_split(every, SLICES):
        finite = part[np.isfinite(values[part])]
        if finite.size:
            keep |= {int(finite[values[finite].argmin()]), int(finite[values[finite].argmax()])}
        else:
            keep.add(int(part[0]))
    return np.array(sorted(keep), dtype=np.intp)


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers between low and high, at most so many."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    gap = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    return [gap * k for k in range(math.ceil(low / gap), math.floor(high / gap) + 1)]


def _axis(values: Sequence[float], start: float, end: float, margin: float) -> Axis:
    """An axis that holds the values with some air; of no values, or of one, it still has a length."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    air = margin * (high - low)
    if high == low:
        air = abs(high) / 2 or 0.5
    return Axis(low - air, high + air, start, end)


def _grid(x: Axis, y: Axis) -> Markup:
    parts = Markup("")
    for value in ticks(y.low, y.high):
        parts += _format('<path class="grid" d="M{},{:.1f}H{}"/>', LEFT, y(value), RIGHT)
        parts += _format(
            '<text class="tick" x="{}" y="{:.1f}" text-anchor="end">{}</text>', LEFT - 6, y(value) + 4, _tick(value)
        )
    for value in ticks(x.low, x.high):
        if value == int(value):
            parts += _format(
                '<text class="tick" x="{:.1f}" y="{}" text-anchor="middle">{}</text>',
                x(value),
                HEIGHT - 6,
                _tick(value),
            )
    return parts


def _drawn(line: Line) -> list[float]:
    """The values that the chart must have room for."""
    values = np.asarray(line.values, dtype=float)
    return list(smooth(values) if line.shown == "average" else values)


def _line(line: Line, x: Axis, y: Axis) -> Markup:
    steps, values = np.asarray(line.steps, dtype=float), np.asarray(line.values, dtype=float)
    parts = Markup("")
    if line.shown == "both":
        parts += _format('<path class="raw {}" d="{}"/>', line.tone, _path(steps, values, x, y))
    main = values if line.shown == "values" else smooth(values)
    parts += _format('<path class="main {}" d="{}"/>', line.tone, _path(steps, main, x, y))
    broken = sorted({round(x(step)) for step in steps[~np.isfinite(values)]})
    for at in broken:
        parts += _format('<path class="broken" d="M{},{}V{}"/>', at, TOP, BOTTOM)
    return parts


def _path(steps: Array, values: Array, x: Axis, y: Axis) -> str:
    drawn, pen = [], "M"
    for at in thin(values):
        if not math.isfinite(values[at]):
            pen = "M"
            continue
        # A stroke of no length, with round ends, is a dot: a value between two gaps stays visible.
        rest = "h0" if pen == "M" else ""
        drawn.append(f"{pen}{x(steps[at]):.1f},{y(values[at]):.1f}{rest}")
        pen = "L"
    return "".join(drawn)


def _points(series: Points, x: Axis, y: Axis) -> Markup:
    parts = Markup("")
    for step, estimate in zip(series.steps, series.estimates, strict=True):
        at, title = x(step), f"{series.label} {series.where.format(number(step))}: {estimate.percent}"
        whisker = f"M{at:.1f},{y(estimate.low):.1f}V{y(estimate.high):.1f}"
        dot = _format('<circle class="dot {}" cx="{:.1f}" cy="{:.1f}" r="4.5"/>', series.tone, at, y(estimate.value))
        parts += _format(
            '<g><title>{}</title><path class="whisker {}" d="{}"/>{}</g>', title, series.tone, whisker, dot
        )
    return parts


def _tick(value: float) -> str:
    """A round number without the zeros that `number` keeps."""
    return number(value) if abs(value) >= 1000 else f"{value:.3g}".replace("e-0", "e-").replace("-", "−")


def _share_tick(tick: int) -> Markup:
    anchor = {0: "start", 100: "end"}.get(tick, "middle")
    return _format('<text class="tick" x="{}%" y="48" text-anchor="{}">{}</text>', tick, anchor, percent(tick / 100))


def _svg(title: str, content: Markup) -> Markup:
    frame = '<svg class="chart" role="img" viewBox="0 0 {} {}"><title>{}</title>{}</svg>'
    return _format(frame, WIDTH, HEIGHT, title, content)


def _format(template: str, *values: object) -> Markup:
    """Fill a template we wrote ourselves; every value that is not Markup already is escaped."""
    return Markup(template).format(*values)
