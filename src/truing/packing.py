"""Rows to ranks and to Forests under a token budget. Which form an optimizer step is decided elsewhere, never here."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from truing.rendering import Row
from truing.tensors import Forest, Tree


def deal(rows: Sequence[Row], count: int) -> list[list[Row]]:
    """The rows in `count` shares of about as many tokens: the longest first, each to the smallest share so far.

    A tree is never cut, so shares differ by up to the longest row, and with fewer rows than shares some are empty.
    """
    shares: list[list[Row]] = [[] for _ in range(count)]
    tokens = [0] * count
    for row in sorted(rows, key=lambda r: (-len(r), r.index)):
        least = min(range(count), key=lambda place: (tokens[place], place))
        shares[least].append(row)
        tokens[least] += len(row)
    return shares


def pack(rows: Sequence[Row], budget: int) -> list[Forest]:
    """All rows in as few Forests of at most `budget` tokens as best-fit decreasing finds.

    A tree is never cut: a row longer than the budget gets a Forest of its own.
    """
    bins: list[list[Row]] = []
    room: list[int] = []
    for row in sorted(rows, key=lambda r: (-len(r), r.index)):
        fitting = [place for place, free in enumerate(room) if free >= len(row)]
        if fitting:
            best = min(fitting, key=lambda place: (room[place], place))
            bins[best].append(row)
            room[best] -= len(row)
        else:
            bins.append([row])
            room.append(budget - len(row))
    return [forest(sorted(some, key=lambda r: r.index)) for some in bins]


def forest(rows: Sequence[Row]) -> Forest:
    """The rows as one Forest, in their order."""
    tokens: list[int] = []
    positions: list[int] = []
    trees: list[Tree] = []
    hidden_row: list[int] = []
    own_row: list[int] = []
    target: list[int] = []
    completion: list[int] = []
    group: list[int] = []
    step: list[int] = []
    for place, row in enumerate(rows):
        prompt = slice(len(tokens), len(tokens) + len(row.prompt))
        tokens += row.prompt
        positions += range(len(row.prompt))
        answers: list[slice] = []
        for answer in row.answers:
            start = len(tokens)
            place_of: dict[int, int] = {}
            for offset, (token, scored) in enumerate(zip(answer.tokens, answer.scored, strict=True)):
                predictor = start + offset - 1 if offset else prompt.stop - 1
                if scored and (offset or row.prompt):
                    place_of[offset] = len(target)
                    hidden_row.append(predictor)
                    own_row.append(start + offset)
                    target.append(token)
                    completion.append(len(group))
            step += [place_of[end] for end in answer.steps]
            tokens += answer.tokens
            positions += range(len(row.prompt), len(row.prompt) + len(answer.tokens))
            answers.append(slice(start, len(tokens)))
            group.append(place)
        trees.append(Tree(prompt, tuple(answers)))
    return Forest(
        tokens=torch.tensor(tokens, dtype=torch.long),
        positions=torch.tensor(positions, dtype=torch.long),
        trees=tuple(trees),
        hidden_row=torch.tensor(hidden_row, dtype=torch.long),
        own_row=torch.tensor(own_row, dtype=torch.long),
        target=torch.tensor(target, dtype=torch.long),
        completion=torch.tensor(completion, dtype=torch.long),
        group=torch.tensor(group, dtype=torch.long),
        step=torch.tensor(step, dtype=torch.long),
        rows=tuple(row.index for row in rows),
    )
