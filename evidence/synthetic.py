"""Comparisons whose truth is known: answers are words with a value each, and the larger sum is better."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from truing import formats
from truing.models import locate, read_renderer
from truing.models.quiet import quiet_libraries
from truing.records import Completion, Group, assistant, comparison, user

LETTERS = "abcdefghijklmnopqrstuvwx"
LENGTH = 6
"""Words of an answer."""


def values(seed: int = 0) -> dict[str, float]:
    """The value of each word, standard normal."""
    draw = random.Random(f"values {seed}")
    return {letter: draw.gauss(0.0, 1.0) for letter in LETTERS}


def answer(draw: random.Random) -> Completion:
    """Words drawn alike, with spaces between."""
    return Completion((assistant(" ".join(draw.choices(LETTERS, k=LENGTH))),))


def worth(said: Completion, known: dict[str, float]) -> float:
    """The true reward: the sum of the words' values, in deviations of it."""
    return sum(known[word] for word in said.text.split()) / math.sqrt(LENGTH)


def comparisons(count: int, *, seed: str, turned: float) -> list[Group]:
    """Pairs of answers, the better one chosen, but for a share of labels that are turned round.

    The columns `turned` and `gap` keep the truth: whether the label is wrong, and how much better the better answer is.
    """
    draw, known = random.Random(seed), values()
    groups = []
    for number in range(count):
        sides = sorted((answer(draw), answer(draw)), key=lambda said: worth(said, known), reverse=True)
        wrong = draw.random() < turned
        about = {"turned": wrong, "gap": worth(sides[0], known) - worth(sides[1], known)}
        chosen, rejected = reversed(sides) if wrong else sides
        groups.append(comparison((user(f"{seed} {number}"),), chosen, rejected, extra=about))
    return groups


def unlabelled(count: int, answers: int, *, seed: str) -> list[Group]:
    """Several answers to each prompt, of which nobody said anything."""
    draw = random.Random(seed)
    return [Group((user(f"{seed} {number}"),), tuple(answer(draw) for _ in range(answers))) for number in range(count)]


def write(groups: Sequence[Group], path: Path) -> str:
    """The rows as a file of groups; returns its name."""
    formats.write_data(groups, path, format="group")
    return str(path)


def small_model(folder: Path) -> str:
    """A decoder of two layers and width 64 with random weights, and the tokenizer of SmolLM2; returns its name."""
    return decoder(folder, read_renderer(locate("smollm2")).tokenizer, width=64, layers=2)


def decoder(folder: Path, tokenizer: Any, *, width: int, layers: int) -> str:
    """A decoder with random weights, always the same, and its tokenizer as a model folder; returns its name."""
    shape: dict[str, Any] = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": layers}
    shape |= {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True}
    shape |= {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": None}
    torch.manual_seed(0)
    with quiet_libraries():
        LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **shape)).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return str(folder)
