"""Whether a model says the same of a forest as of ordinary sequences: run on every model that is loaded.

Forest attention replaces attention alone. An architecture that mixes tokens by other means (state spaces, linear
attention, convolutions), adds a bias to its attention or changes its logits would run and give wrong numbers.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from truing.compute.attention import ATTENTION, ForestLayout
from truing.errors import MissingError, TruingError
from truing.models.output import output_weight
from truing.models.reward import is_reward
from truing.packing import forest
from truing.rendering import Answer, Row

PROMPT, ANSWER = 2, 2
"""Tokens of each prompt and of each answer that the check runs."""

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 0.05, torch.bfloat16: 0.25}
"""How far the two may lie apart, as a share of what a different prompt changes, both as root mean squares.

SmolLM2 stays far below: 2e-6 in fp32, 0.07 in bf16. What leaks, or sits at a wrong position, is of the order of 1.
"""
ROUNDINGS = 8.0
"""The same in roundings of a log-probability, for models to which the prompt matters hardly at all."""


@torch.no_grad()
def demand_parity(model: Any, dtype: torch.dtype) -> None:
    """Raises MissingError, naming the architecture, unless a small forest and plain forward passes agree.

    dtype: the narrowest that the model computes in.
    """
    kind = model.config.model_type
    try:
        rows = _rows(_some_tokens(model))
        on_forest, plain = _on_forest(model, rows), _plain(model, rows)
    except (TruingError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever the code of an architecture that was never made for this may raise
        raise refusal(kind, f"{type(error).__name__}: {error}") from error
    if not plain.isfinite().all():
        return  # nothing to compare with: the weights are at fault, and whoever uses them says so with the row
    apart, allowed = _rms(on_forest - plain), _allowed(plain, dtype)
    if not apart <= allowed:
        raise refusal(kind, f"log-probabilities lie {apart:.2g} nats apart, and {allowed:.2g} are allowed")


def refusal(kind: str, why: str) -> MissingError:
    """The error for an architecture on which forests cannot run."""
    return MissingError(
        f"models of type '{kind}' do not run on forests, in which answers share their prompt ({why}): use a model "
        "whose tokens meet in softmax attention alone (Llama, Mistral, Qwen 2 and 3, Gemma 3, GPT-2, OPT and their kin)"
    )


def _some_tokens(model: Any) -> list[int]:
    """Ids that are all different and none of which pads, the same for the same vocabulary."""
    count, padding = model.get_input_embeddings().weight.shape[0], model.config.get_text_config().pad_token_id
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0)).tolist()
    return [token for token in order if token != padding]


def _rows(tokens: list[int]) -> list[Row]:
    """Two prompts with the same two answers each, so that all that differs between the trees is the prompt."""
    cuts = [0, PROMPT, 2 * PROMPT, 2 * PROMPT + ANSWER, 2 * PROMPT + 2 * ANSWER]
    first, second, *answers = [tuple(tokens[a:b]) for a, b in pairwise(cuts)]
    spoken = tuple(Answer(answer, (True,) * ANSWER) for answer in answers)
    return [Row(prompt, spoken, index) for index, prompt in enumerate((first, second))]


def _on_forest(model: Any, rows: list[Row]) -> Tensor:
    """Log-probabilities of every token after every answer token, [answers, ANSWER, vocabulary], as the engine runs.

    Of a reward model the hidden states, [answers, ANSWER, width], which is all that its head reads.
    """
    packed = forest(rows).to(model.device)
    hidden = model.get_decoder()(
        input_ids=packed.tokens[None],
        position_ids=packed.positions[None],
        use_cache=False,
        layout=ForestLayout(packed.trees),
    ).last_hidden_state[0]
    answers = torch.stack([hidden[answer] for tree in packed.trees for answer in tree.answers])
    if is_reward(model.config):
        return answers.double()
    return (answers @ output_weight(model).T).double().log_softmax(-1)


def longest_exact(config: Any) -> int | None:
    """Tokens of a path up to which rotary positions do not depend on what else is in the call; None: any number.

    Of the kinds `dynamic` and `longrope` the frequencies change for the whole call once one position is beyond it.
    """
    text = config.get_text_config()
    rope = getattr(text, "rope_parameters", None) or {}
    kinds = [one for one in (rope, *rope.values()) if isinstance(one, dict)]
    limits = [
        int(one.get("original_max_position_embeddings") or text.max_position_embeddings)
        for one in kinds
        if one.get("rope_type") in ("dynamic", "longrope")
    ]
    return min(limits, default=None)


def too_long(limit: int) -> str:
    """The words for a path beyond `longest_exact`."""
    return (
        f"beyond {limit:,} tokens this model's rotary positions change for all rows that are run together: set "
        f"max_length, or prompt and max_new_tokens together, to at most {limit:,}"
    )


def _plain(model: Any, rows: list[Row]) -> Tensor:
    """The same by the model's own forward pass and attention, one sequence for each answer."""
    paths = torch.tensor([[*row.prompt, *answer.tokens] for row in rows for answer in row.answers])
    model.set_attn_implementation("eager")
    try:
        if is_reward(model.config):
            hidden: Tensor = model.get_decoder()(input_ids=paths.to(model.device), use_cache=False).last_hidden_state
            return hidden[:, -ANSWER:].double()
        logits: Tensor = model(input_ids=paths.to(model.device), use_cache=False).logits
    finally:
        model.set_attn_implementation(ATTENTION)
    return logits[:, -ANSWER:].double().log_softmax(-1)


def _allowed(plain: Tensor, dtype: torch.dtype) -> float:
    """Of the four sequences the last two differ from the first two by their prompt alone."""
    rounding = ROUNDINGS * torch.finfo(dtype).eps * _rms(plain)
    return max(TOLERANCE[dtype] * _rms(plain[:2] - plain[2:]), rounding)


def _rms(values: Tensor) -> float:
    return float(values.pow(2).mean().sqrt())
