"""Values as JSON has them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from numbers import Integral, Real
from pathlib import PurePath
from typing import Any


def plain(value: object) -> Any:
    """The value as plain JSON. NaN and the infinities, which JSON lacks, become their names: a NaN is never hidden."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        number = float(value)
        return number if math.isfinite(number) else json.dumps(number)
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    raise TypeError(f"{type(value).__name__} cannot be stored: give numbers, strings, lists and mappings of them")


def line(row: Mapping[str, Any]) -> bytes:
    """The row as one JSON line."""
    # A lone surrogate, which UTF-8 cannot hold, becomes \udXXX: that is just how JSON would escape it.
    return json.dumps(plain(row), ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def canonical(value: object) -> bytes:
    """The one spelling of a value: equal values have equal bytes."""
    return json.dumps(plain(value), sort_keys=True, separators=(",", ":")).encode()
