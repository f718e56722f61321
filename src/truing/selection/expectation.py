"""A grade as an expectation: how much probability a model gives to each digit as its next token (arXiv:2312.15685)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from truing.errors import ConfigError

GRADES = ("1", "2", "3", "4", "5", "6")
"""The lowest to the highest grade, as a model writes them."""


class Grade(NamedTuple):
    """The mean of the grades, each weighed by its share of the probability of all grades.

    deviation: standard deviation of the same distribution. mass: probability of any grade at all, from 0 to 1.
    """

    value: float
    deviation: float
    mass: float


def expected(logprobs: Sequence[float], lowest: int = 1) -> Grade:
    """The grade that is expected, from the log-probabilities in nats of the grades from the lowest up."""
    values = np.array(logprobs, dtype=np.float64)
    share = np.exp(values - values.max())
    share /= share.sum()
    grades = np.arange(lowest, lowest + len(values))
    mean = float(share @ grades)
    variance = float(share @ (grades - mean) ** 2)
    return Grade(mean, variance**0.5, float(np.exp(values).sum()))


def sole_ids(choices: Sequence[str], written: Sequence[Sequence[int]], stop_ids: Collection[int]) -> tuple[int, ...]:
    """The id of each choice, from the token ids of answers that consist of it and perhaps a token that ends them.

    Raises ConfigError where a choice is more than one token, or two begin alike: then no single token says it.
    """
    found: list[int] = []
    for choice, tokens in zip(choices, written, strict=True):
        own = [token for token in tokens if token not in stop_ids]
        if len(own) != 1:
            raise ConfigError(
                f"the tokenizer writes '{choice}' as {len(own)} tokens, so its probability is not that of one next "
                "token: take a model whose tokenizer has one for it"
            )
        found += own
    if len(set(found)) < len(found):
        raise ConfigError(f"the tokenizer has one token for several of {', '.join(choices)}: take another model")
    return tuple(found)
