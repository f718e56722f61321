"""The arithmetic that training needs: no padding, no prompt twice, no recomputation, the head on scored rows only."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from truing.rendering import Row


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a decoder of Llama's kind."""

    layers: int
    width: int
    inner: int
    heads: int
    groups: int
    head_width: int
    vocabulary: int

    @classmethod
    def of(cls, config: Any) -> Shape:
        """The sizes that a transformers configuration names."""
        text = config.get_text_config()
        return cls(
            layers=text.num_hidden_layers,
            width=text.hidden_size,
            inner=text.intermediate_size,
            heads=text.num_attention_heads,
            groups=text.num_key_value_heads,
            head_width=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
            vocabulary=text.vocab_size,
        )

    def matrices(self) -> list[tuple[int, int]]:
        """(in, out) of the matrices of one layer: query, key, value, output, gate, up, down."""
        query, key = self.heads * self.head_width, self.groups * self.head_width
        return [
            (self.width, query),
            (self.width, key),
            (self.width, key),
            (query, self.width),
            (self.width, self.inner),
            (self.width, self.inner),
            (self.inner, self.width),
        ]


def forward(shape: Shape, rows: Iterable[Row]) -> float:
    """FLOPs of one forward pass: body, attention, head."""
    body = 2 * shape.layers * sum(wide * out for wide, out in shape.matrices())
    looked_at = 4 * shape.layers * shape.heads * shape.head_width  # query times key, and weights times value
    head = 2 * shape.width * shape.vocabulary
    return float(sum(body * len(row) + looked_at * _seen(row) + head * _scored(row) for row in rows))


def training(shape: Shape, rows: Iterable[Row], *, reference_pass: bool = False) -> float:
    """FLOPs of one optimizer step: the backward pass takes twice the forward pass."""
    return (4 if reference_pass else 3) * forward(shape, rows)


def useful_tokens(rows: Iterable[Row]) -> int:
    """Tokens without padding, each prompt counted once."""
    return sum(len(row) for row in rows)


def _seen(row: Row) -> int:
    """How many (query, key) pairs attention looks at."""
    prompt = len(row.prompt)
    answers = [len(answer.tokens) for answer in row.answers]
    return prompt * (prompt + 1) // 2 + sum(a * prompt + a * (a + 1) // 2 for a in answers)


def _scored(row: Row) -> int:
    return sum(sum(answer.scored) for answer in row.answers)
