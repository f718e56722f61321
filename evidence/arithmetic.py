"""Short problems of arithmetic that a small model sometimes solves, each with its result."""

from __future__ import annotations

import random

from truing.records import Group, user

ASKED = "What is {}? Answer with the number alone."
LARGEST = {"+": 20, "-": 20, "*": 9}
"""The largest number in a problem, by what is done."""


def problems(count: int, seed: int = 0) -> list[Group]:
    """So many different problems, of sums, differences from 0 on, and products alike; column `answer` is the result."""
    draw = random.Random(f"arithmetic {seed}")
    found: dict[str, int] = {}
    while len(found) < count:
        sign = draw.choice(list(LARGEST))
        first, second = (draw.randint(2, LARGEST[sign]) for _ in range(2))
        if sign == "-":
            first, second = max(first, second), min(first, second)
        found[f"{first} {sign} {second}"] = {"+": first + second, "-": first - second, "*": first * second}[sign]
    return [Group((user(ASKED.format(words)),), extra={"answer": str(result)}) for words, result in found.items()]
