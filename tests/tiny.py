"""Models and tokenizers small enough to make in code: a byte-level tokenizer and random two-layer decoders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from truing.compute.attention import ATTENTION
from truing.compute.engine.local import LocalEngine
from truing.models import Loaded
from truing.records import Group
from truing.rendering import Answer, Renderer, Row
from truing.stages.arranging import Judged
from truing.tensors import Forest, Logprobs

BOS, START, END = "<|bos|>", "<|im_start|>", "<|im_end|>"

TURN = "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + AFTER }}"
CHATML = (
    "{% for m in messages %}" + TURN + "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
PLAIN_TEMPLATE = CHATML.replace("AFTER", "''")
"""Nothing after the end-of-turn token."""
NEWLINE_TEMPLATE = CHATML.replace("AFTER", "'\n'")
"""A newline after the end-of-turn token, as SmolLM2 and Qwen have."""
SYSTEM_TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}"
) + NEWLINE_TEMPLATE
"""A system turn of its own where the conversation brings none."""

TOOLS_TEMPLATE = (
    "{% if tools %}{{ '<|im_start|>tools\n' }}{% for t in tools %}{{ t['function']['name'] }}{% endfor %}"
    "{{ '<|im_end|>' }}{% endif %}"
) + PLAIN_TEMPLATE
"""The names of the tools first, where there are any."""

_MERGES = [("t", "h"), ("th", "e"), ("i", "n"), ("Ġ", "a"), ("e", "r")]


def tokenizer(template: str | None = PLAIN_TEMPLATE, *, adds_bos: bool = False, pad: str | None = END) -> Any:
    """Byte-level BPE with five merges. Padding is the end-of-turn token unless told, as in many real models."""
    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *(a + b for a, b in _MERGES)]
    core = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=_MERGES))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(name, special=True) for name in (BOS, START, END)])
    if adds_bos:
        bos_id = core.token_to_id(BOS)
        core.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, bos_id)]
        )
    made = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=BOS if adds_bos else None,
        eos_token=END,
        pad_token=pad,
        additional_special_tokens=[START],
    )
    made.chat_template = template
    return made


VOCABULARY = len(tokenizer())


def config(**changes: Any) -> LlamaConfig:
    """Two layers, width 32, four query heads on two key heads, tied embeddings."""
    settings: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 16384,
        "tie_word_embeddings": True,
        "initializer_range": 0.15,
        "bos_token_id": None,
        "eos_token_id": VOCABULARY - 1,
        "pad_token_id": None,
    }
    return LlamaConfig(**(settings | changes))


def plain_model(dtype: torch.dtype = torch.float32, *, seed: int = 0, of: Any = None, attention: str = "sdpa") -> Any:
    """An ordinary transformers model with random weights, the same for the same seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(of or config(), attn_implementation=attention, dtype=torch.float32)
    return model.to(dtype).eval()


def loaded_model(
    dtype: torch.dtype = torch.float32, *, seed: int = 0, of: Any = None, template: str | None = PLAIN_TEMPLATE
) -> Loaded:
    """The same weights as `plain_model`, running on forests, with the tiny tokenizer."""
    model = plain_model(dtype, seed=seed, of=of, attention=ATTENTION)
    return Loaded(model, Renderer(tokenizer(template)), "tiny")


class OtherReference:
    """A reference of its own: another model, in float64."""

    def __init__(self) -> None:
        self.engine = LocalEngine(loaded_model(torch.float64, seed=9))

    def logprobs(self, made: Forest) -> Logprobs:
        with torch.no_grad():
            return self.engine.logprobs(made)


def widen_norms(model: Any) -> None:
    """RMS norms in the model's own dtype: transformers takes them in fp32, which rounds the gradients of an fp64 one.

    Exact identities of gradients (1e-8 in fp64) can only be seen without that.
    """
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = _wide_norm(module)


def _wide_norm(module: Any) -> Any:
    def forward(hidden: torch.Tensor) -> torch.Tensor:
        power = hidden.pow(2).mean(-1, keepdim=True)
        return module.weight * hidden * torch.rsqrt(power + module.variance_epsilon)

    return forward


def save_tiny_model(path: Path, *, seed: int = 0, template: str | None = NEWLINE_TEMPLATE) -> Path:
    """A model folder that transformers and Truing load: weights, tokenizer, generation config."""
    plain_model(seed=seed).save_pretrained(path)
    tokenizer(template).save_pretrained(path)
    return Path(path)


def row(prompt: Sequence[int], *answers: Sequence[int], index: int = 0, weight: float = 1.0) -> Row:
    """A row of which every answer token is scored."""
    return Row(tuple(prompt), tuple(Answer(tuple(a), (True,) * len(a)) for a in answers), index, weight)


def random_rows(seed: int, shapes: Sequence[tuple[int, Sequence[int]]]) -> list[Row]:
    """Rows of random tokens: (length of the prompt, lengths of the answers) for each."""
    generator = torch.Generator().manual_seed(seed)

    def some(count: int) -> list[int]:
        return torch.randint(VOCABULARY - 1, (count,), generator=generator).tolist()

    return [row(some(p), *(some(a) for a in answers), index=i) for i, (p, answers) in enumerate(shapes)]


def compared(row):
    """What was said of a row of (chosen, rejected)."""
    return Judged(Group((), (), row.weight), ((0, 1),), (1.0,), (True, False), (0.0, -1.0), (0.0, 0.0))
