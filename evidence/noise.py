"""A judge that errs: now and then by much."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence


def heavy(prompt: Sequence[Mapping[str, str]], answer: str) -> float:
    """Student's t with two degrees of freedom, whose variance is infinite, the same for the same prompt and answer.

    Its quantile at u is (2 u - 1) / sqrt(2 u (1 - u)); u is drawn by a hash of the words.
    """
    words = "\x00".join([*(turn["content"] for turn in prompt), answer])
    digest = hashlib.sha256(words.encode("utf-8", "surrogatepass")).digest()
    u = (int.from_bytes(digest[:6], "big") + 0.5) / 2**48
    return (2 * u - 1) / math.sqrt(2 * u * (1 - u))
