"""What training costs by formula: arithmetic, and memory from a model's architecture. Nothing is loaded for it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import psutil
import torch

from truing.compute.head import CHUNK, KEPT
from truing.models.quantised import BLOCK, Bits
from truing.rendering import Row

LIBRARIES = 450 * 2**20
"""Resident memory of a process that has imported what training needs and loaded no model."""
LEAN = frozenset({"llama", "mistral", "qwen2", "qwen3"})
"""Kinds of models whose modules `compute.lean` knows."""
USABLE = 0.9
"""Share of the free memory that is planned with."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a decoder of Llama's kind. lean: whether `compute.lean` has its norms and gated layers keep less."""

    layers: int
    width: int
    inner: int
    heads: int
    groups: int
    head_width: int
    vocabulary: int
    lean: bool = True

    @classmethod
    def of(cls, config: Any) -> Shape:
        """The sizes that a transformers configuration names; those it leaves out are as usual."""
        text = config.get_text_config()
        known = text.to_dict()
        return cls(
            layers=text.num_hidden_layers,
            width=text.hidden_size,
            inner=known.get("intermediate_size") or known.get("n_inner") or 4 * text.hidden_size,
            heads=text.num_attention_heads,
            groups=known.get("num_key_value_heads") or text.num_attention_heads,
            head_width=known.get("head_dim") or text.hidden_size // text.num_attention_heads,
            vocabulary=text.vocab_size,
            lean=text.model_type in LEAN and known.get("hidden_act") == "silu",
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


class Lengths(NamedTuple):
    """A row's size in tokens: its prompt, each of its answers, and those scored in all."""

    prompt: int
    answers: tuple[int, ...]
    scored: int

    @classmethod
    def of(cls, row: Row) -> Lengths:
        """Of a rendered row."""
        answers = tuple(len(answer.tokens) for answer in row.answers)
        return cls(len(row.prompt), answers, sum(sum(answer.scored) for answer in row.answers))

    @property
    def tokens(self) -> int:
        """All of them, the prompt counted once."""
        return self.prompt + sum(self.answers)


class Load(NamedTuple):
    """The largest forest of a stage: its tokens, and how many of them are scored."""

    tokens: int
    scored: int


@dataclass(frozen=True, slots=True)
class Weights:
    """How a model is trained: its weights, how many are trained, bytes of one in compute, where they live.

    kept: whether the trained weights stand there a second time, with masters, as a reference. bits: in which the
    matrices of the layers are kept, where they are quantised.
    """

    count: int
    trained: int
    itemsize: int
    device: str
    checkpointing: bool = False
    kept: bool = False
    bits: Bits | None = None

    def bytes(self, shape: Shape) -> float:
        """Of all weights that are computed with, the scales of quantised blocks among them."""
        if self.bits is None:
            return self.count * self.itemsize
        matrices = shape.layers * sum(wide * out for wide, out in shape.matrices())
        return (self.count - matrices) * self.itemsize + matrices * (self.bits / 8 + 4 / BLOCK)


class Memory(NamedTuple):
    """Bytes that training takes. gradients: fp32, of everything trained. activations: of one forest, logits apart.

    critic: all that a second trained model takes. scorers: models that reward. cache: keys and values of answers that
    are being written, which are let go before anything is learnt. average: a running mean of what is trained, in fp32.
    """

    libraries: float
    weights: float
    masters: float
    reference: float
    moments: float
    gradients: float
    activations: float
    logits: float
    loading: float
    critic: float = 0.0
    scorers: float = 0.0
    cache: float = 0.0
    average: float = 0.0

    @property
    def peak(self) -> float:
        """The most at one time: all of it, or the model's weights in full width while they are read."""
        lasting = self.weights + self.masters + self.reference + self.moments + self.average
        held = lasting + self.critic + self.scorers + max(self.gradients + self.activations + self.logits, self.cache)
        return self.libraries + max(held, self.loading)


def operations(shape: Shape, rows: Iterable[Lengths]) -> float:
    """FLOPs of one forward pass without padding: no prompt twice, causal attention, the head on scored tokens only."""
    body = 2 * shape.layers * sum(wide * out for wide, out in shape.matrices())
    looked_at = 4 * shape.layers * shape.heads * shape.head_width  # query times key, and weights times value
    head = 2 * shape.width * shape.vocabulary
    return float(sum(body * row.tokens + looked_at * _seen(row) + head * row.scored for row in rows))


def memory_of(shape: Shape, weights: Weights, load: Load) -> Memory:
    """Bytes of training on forests as large as `load`."""
    wide = weights.itemsize >= 4
    return Memory(
        libraries=LIBRARIES if weights.device == "cpu" else 0,
        weights=weights.bytes(shape),
        masters=0 if wide else 4 * weights.trained,
        reference=weights.kept * (4 if wide else 4 + weights.itemsize) * weights.trained,
        moments=8 * weights.trained,
        gradients=4 * weights.trained,
        activations=load.tokens * token_bytes(shape, weights),
        logits=logit_bytes(shape, weights.itemsize, load.scored),
        # read in full width; on a CPU the file's own pages are counted as resident until they are let go
        loading=weights.count * (4 + (2 if weights.device == "cpu" else 0)),
    )


def token_bytes(shape: Shape, weights: Weights) -> float:
    """What one token of a forest keeps for the backward pass, in all layers."""
    layer = _layer_bytes(shape, weights)
    if weights.checkpointing:  # each layer's input, and all of the one layer that is made again
        return shape.layers * shape.width * weights.itemsize + 2 * layer
    return (shape.layers + 1) * layer  # one more for what the backward pass holds at a time


def logit_bytes(shape: Shape, itemsize: int, scored: int) -> float:
    """Logits that are held, a chunk of them in full width with its slope, and the output layer's own gradient."""
    row = shape.vocabulary * itemsize
    kept = min(scored * row, max(KEPT, CHUNK * row))
    return kept + 2 * min(CHUNK, scored) * shape.vocabulary * 4 + shape.width * row


def free_memory(device: torch.device) -> int:
    """Bytes that nothing holds on the device at this moment."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def resident() -> int:
    """Bytes that this process holds in memory."""
    return int(psutil.Process().memory_info().rss)


def _layer_bytes(shape: Shape, weights: Weights) -> float:
    """What a layer keeps of one token: each norm two tensors, attention four, the MLP two or, adapted, four.

    Where nothing keeps less, a norm keeps one more in fp32, of which some models have four, and the MLP keeps four.
    """
    adapted = weights.trained < weights.count
    norms = 2 * (2 * shape.width * weights.itemsize + 4)  # and a scale in fp32
    if not shape.lean:
        norms = 4 * (shape.width * (2 * weights.itemsize + 4) + 4)
    attention = 2 * (shape.heads + shape.groups) * shape.head_width
    return norms + weights.itemsize * (attention + (4 if adapted or not shape.lean else 2) * shape.inner)


def _seen(row: Lengths) -> int:
    """How many (query, key) pairs attention looks at."""
    return row.prompt * (row.prompt + 1) // 2 + sum(a * row.prompt + a * (a + 1) // 2 for a in row.answers)
