"""Numbers, times and untrusted text as a reader wants to see them."""

from __future__ import annotations

import math
from datetime import UTC, datetime

from truing.statistics import Interval

_CONTROLS = {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t"} | {0x7F: "\u2421"}
_HIDDEN = (*range(0x202A, 0x202F), *range(0x2066, 0x206A), *range(0xD800, 0xE000))
_VISIBLE = _CONTROLS | dict.fromkeys(_HIDDEN, "\N{REPLACEMENT CHARACTER}")


def number(value: float | None) -> str:
    """Three significant digits: `0.693`, `1,204`, `5e-7`; what is missing is a dash."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "∞" if value > 0 else "−∞"
    if value == int(value) and abs(value) < 1e6:
        return f"{int(value):,}".replace("-", "−")
    if abs(value) < 1e-3 or abs(value) >= 1e6:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}".replace("-", "−")
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}".replace("-", "−")


def percent(share: float) -> str:
    """`74 %`, without a line break inside."""
    return f"{100 * share:.0f}\N{NO-BREAK SPACE}%"


def sentence(line: str) -> str:
    """A line as a sentence; a number is not parted from its per cent sign."""
    return f"{line[:1].upper()}{line[1:]}.".replace(" %", "\N{NO-BREAK SPACE}%")


def interval(estimate: Interval | None) -> str:
    """`1.42 [1.31, 1.53]`; one value alone has no interval."""
    if estimate is None:
        return "–"
    if not math.isfinite(estimate.high - estimate.low):
        return f"{number(estimate.value)} (no interval)"
    return str(estimate).replace("-", "−")


def duration(seconds: float | None) -> str:
    """`48 s`, `14 min 3 s`, `2 h 5 min`."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def memory(size: float | None) -> str:
    """`3.4 GiB`."""
    if size is None or not math.isfinite(size):
        return "–"
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def moment(created: str) -> str:
    """`23 November 2025, 09:40 UTC` of an ISO date, or the text itself where it is none."""
    try:
        time = datetime.fromisoformat(created)
    except ValueError:
        return created
    return f"{time.astimezone(UTC):%-d %B %Y, %H:%M} UTC"


def visible(text: str) -> str:
    """Text that can be shown and hides nothing: control characters become their pictures; overrides of the reading
    order, and halves of characters, which no file can hold, become a mark.
    """
    return text.translate(_VISIBLE)


def shorten(text: str, limit: int) -> str:
    """The text up to a limit, and how much was left out."""
    if len(text) <= limit:
        return text
    return f"{text[:limit]} … ({len(text) - limit:,} more characters)"
