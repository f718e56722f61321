"""Reward models: a decoder with a head that reads one number off each hidden state instead of the next token.

They are ordinary `AutoModelForSequenceClassification` folders with one label, as transformers, vLLM and TRL read them.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from truing.compute.attention import ATTENTION
from truing.errors import ConfigError, MissingError
from truing.models.output import output_weight
from truing.records import Completion, Group, assistant, user
from truing.rendering import Renderer

HEAD = "score"
"""What transformers calls the head of every decoder."""
LANGUAGE_HEAD = "language_head"
"""Our name for the head that a reward model wrote with; it is never saved with the model."""
PROTOTYPES = "prototypes"
"""Our name for directions that are trained beside the head, by which features are sorted; not saved with it either."""


def is_reward(config: Any) -> bool:
    """Whether a configuration is that of a model with a head for scores."""
    return any(name.endswith("ForSequenceClassification") for name in config.architectures or ())


def read(source: str, config: Any, dtype: torch.dtype, outputs: int) -> Any:
    """The decoder with its head in `dtype`; where the folder has none, or fewer outputs, with fresh ones.

    A fresh head is drawn from N(0, 1 / (width + 1)), from torch's generator, so that rewards begin of the order of 1.
    """
    trained = is_reward(config)
    if trained and config.num_labels != 1:
        raise ConfigError(f"{source}: a classifier with {config.num_labels} labels, where 1 is asked for")
    model = AutoModelForSequenceClassification.from_pretrained(
        source,
        num_labels=1,
        dtype=dtype,
        attn_implementation=ATTENTION,
        use_safetensors=True,
        trust_remote_code=False,
    )
    fresh = _fresh(model, outputs, dtype)
    if trained:
        fresh[:1] = getattr(model, HEAD).weight.data
    _put_head(model, fresh)
    return model


def over(language: Any) -> Any:
    """The decoder of a language model, not copied, with a head of one output drawn from N(0, 1 / (width + 1))."""
    config = copy.deepcopy(language.config)
    config.num_labels = 1
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(config)
    body, own = language.base_model, model.base_model
    if type(body) is not type(own):
        raise MissingError(
            f"{type(language).__name__} and {type(model).__name__} do not have the same decoder, so no head can stand "
            "on it: set one_base = false"
        )
    model.add_module(model.base_model_prefix, body)
    _put_head(model, _fresh(model, 1, torch.float32).to(body.device, body.dtype))
    return model.eval()


def _fresh(model: Any, outputs: int, dtype: torch.dtype) -> Tensor:
    """A head's weights, [outputs, width], drawn by torch's generator on the CPU."""
    head: Any = getattr(model, HEAD, None)
    if not isinstance(head, torch.nn.Linear) or getattr(head, "bias", None) is not None:
        raise MissingError(f"{type(model).__name__} has no plain linear head called '{HEAD}': use another model")
    fresh = torch.empty(outputs, head.in_features, dtype=dtype, device="cpu")
    return torch.nn.init.normal_(fresh, std=1 / math.sqrt(head.in_features + 1))


def _put_head(model: Any, weight: Tensor) -> None:
    getattr(model, HEAD).weight = torch.nn.Parameter(weight)
    model.config.architectures = [type(model).__name__]


def keep_language_head(model: Any, source: str, dtype: torch.dtype) -> None:
    """Puts the output layer of the language model at `source` beside the reward head; where it is tied, it is there."""
    if model.config.get_text_config().tie_word_embeddings:
        return
    if is_reward(AutoConfig.from_pretrained(source, trust_remote_code=False)):
        raise ConfigError(f"{source}: a reward model has no head to write with: start from the language model")
    language = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, use_safetensors=True, trust_remote_code=False)
    model.register_parameter(LANGUAGE_HEAD, torch.nn.Parameter(output_weight(language).detach(), requires_grad=False))


def language_head(model: Any) -> Tensor | None:
    """The weight that a reward model writes with, [vocabulary, width], or None."""
    if model.config.get_text_config().tie_word_embeddings:
        return model.get_input_embeddings().weight  # type: ignore[no-any-return]
    return getattr(model, LANGUAGE_HEAD, None)


def add_prototypes(model: Any, count: int) -> None:
    """Puts `count` directions beside the head, drawn from N(0, 1) by torch's generator; only their direction counts."""
    head: Tensor = getattr(model, HEAD).weight
    model.register_parameter(PROTOTYPES, torch.nn.Parameter(torch.randn(count, head.shape[1]).to(head)))


def first_output(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """What is saved of a reward model's weights: of the head its first output, and nothing that stands beside it."""
    kept = {name: weight for name, weight in state.items() if not name.endswith((LANGUAGE_HEAD, PROTOTYPES))}
    for name in kept:
        if f".{name}".endswith(f".{HEAD}.weight") or f".{HEAD}.modules_to_save." in f".{name}":
            kept[name] = kept[name][:1]
    return kept


def readout(model: Any, hidden: Float[Tensor, "N width"]) -> Float[Tensor, "N outputs"]:
    """What the head says of hidden states, computed in fp32 at least: differences of rewards are small."""
    return torch.nn.functional.linear(wide(hidden), head_of(model))


def head_of(model: Any) -> Float[Tensor, "outputs width"]:
    """The weights of the head, in fp32 at least."""
    return wide(model.get_parameter(f"{HEAD}.weight"))


def prototypes_of(model: Any) -> Float[Tensor, "K width"]:
    """The PROTOTYPES, in fp32 at least."""
    return wide(model.get_parameter(PROTOTYPES))


def wide(values: Tensor) -> Tensor:
    """The same in fp32; as they are where they are wider."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


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
