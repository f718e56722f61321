"""Judges that err: now and then by much, or three who err alike and each for itself."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist

NORMAL = NormalDist()


def heavy(prompt: Sequence[Mapping[str, str]], answer: str) -> float:
    """Student's t with two degrees of freedom, whose variance is infinite, the same for the same prompt and answer.

    Its quantile at u is (2 u - 1) / sqrt(2 u (1 - u)).
    """
    u = _drawn(prompt, answer, "")
    return (2 * u - 1) / math.sqrt(2 * u * (1 - u))


def first(prompt: Sequence[Mapping[str, str]], answer: str) -> float:
    """Standard normal, the same for the same prompt and answer."""
    return NORMAL.inv_cdf(_drawn(prompt, answer, "first"))


def second(prompt: Sequence[Mapping[str, str]], answer: str) -> float:
    """Another one, that knows nothing of the first."""
    return NORMAL.inv_cdf(_drawn(prompt, answer, "second"))


def third(prompt: Sequence[Mapping[str, str]], answer: str) -> float:
    """A third one."""
    return NORMAL.inv_cdf(_drawn(prompt, answer, "third"))


def _drawn(prompt: Sequence[Mapping[str, str]], answer: str, judge: str) -> float:
    """A number between 0 and 1 that is drawn by a hash of the words."""
    words = "\x00".join([*(turn["content"] for turn in prompt), answer, *([judge] if judge else [])])
    digest = hashlib.sha256(words.encode("utf-8", "surrogatepass")).digest()
    return (int.from_bytes(digest[:6], "big") + 0.5) / 2**48
