"""Reward models: a decoder with a head that reads one number off each hidden state instead of the next token.

They are ordinary `AutoModelForSequenceClassification` folders with one label, as transformers, vLLM and TRL read them.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from truing.compute.attention import ATTENTION
from truing.errors import ConfigError, MissingError
from truing.records import Completion, Group, assistant, user
from truing.rendering import Renderer

HEAD = "score"
"""What transformers calls the head of every decoder."""


def is_reward(config: Any) -> bool:
    """Whether a configuration is that of a model with a head for scores."""
    return any(name.endswith("ForSequenceClassification") for name in config.architectures or ())


def read(source: str, config: Any, dtype: torch.dtype, outputs: int) -> Any:
    """The decoder with its head in `dtype`; where the folder has none, with a fresh one.

    A fresh head is drawn from N(0, 1 / (width + 1)), from torch's generator, so that rewards begin of the order of 1.
    """
    trained = is_reward(config)
    if trained and config.num_labels != outputs:
        raise ConfigError(f"{source}: a classifier with {config.num_labels} labels, where {outputs} is asked for")
    model = AutoModelForSequenceClassification.from_pretrained(
        source, num_labels=outputs, dtype=dtype, attn_implementation=ATTENTION, use_safetensors=True
    )
    head: Any = getattr(model, HEAD, None)
    if not isinstance(head, torch.nn.Linear) or getattr(head, "bias", None) is not None:
        raise MissingError(f"{type(model).__name__} has no plain linear head called '{HEAD}': use another model")
    model.config.architectures = [type(model).__name__]
    if not trained:
        torch.nn.init.normal_(head.weight, std=1 / math.sqrt(head.in_features + 1))
    return model


def readout(model: Any, hidden: Float[Tensor, "N width"]) -> Float[Tensor, "N outputs"]:
    """What the head says of hidden states, computed in fp32 at least: differences of rewards are small."""
    weight: Tensor = getattr(model, HEAD).weight
    wide = torch.promote_types(hidden.dtype, torch.float32)
    return torch.nn.functional.linear(hidden.to(wide), weight.to(wide))


def set_padding(model: Any, renderer: Renderer) -> None:
    """A padding token that ends no answer, for transformers, which finds the end of a padded row by it alone.

    Many chat models pad with their end-of-turn token; a score would then be read one token too early. Where there is
    no token to take, none is set: transformers then scores one row at a time.
    """
    tokenizer, stops = renderer.tokenizer, renderer.stop_ids
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id in stops:
        special = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
        free = sorted(special - stops - _written(renderer))
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(free[0]) if free else None
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    model.config.pad_token_id = tokenizer.pad_token_id


def _written(renderer: Renderer) -> set[int]:
    """The ids that the chat template, or the tokenizer by itself, puts into a conversation."""
    if renderer.tokenizer.chat_template is None:
        return set(renderer.tokenizer("a")["input_ids"])
    row = renderer.render(Group((user("a"),), (Completion((assistant("b"),)),)))
    return {*row.prompt, *row.answers[0].tokens}
