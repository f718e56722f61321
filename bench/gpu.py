"""The same benchmarks on CUDA, with models of known shapes and random weights. Nothing of it runs without a device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from bench import dpo, sampling, sft
from bench.rows import NotThereError
from bench.training import Settings, say
from truing.models import locate

SHAPES = {
    "0.6b": {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16},
    "1.7b": {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "num_attention_heads": 16},
    "8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32},
}
LORA_FROM = "8b"
"""This one is trained by LoRA, the smaller ones in full."""
BATCH, FOREST_TOKENS = 64, 16384
"""Rows of a step, and tokens that Truing runs at once: a GPU is kept busy by more than a CPU."""


def run(settings: Settings, size: str = "0.6b") -> None:
    """DPO, SFT and sampling with one shape."""
    if not torch.cuda.is_available():
        raise NotThereError("bench-gpu needs a CUDA device, and torch sees none here")
    with random_model(size) as folder:
        on_device = replace(
            settings,
            model=str(folder),
            device="cuda",
            lora=size == LORA_FROM,
            batch=BATCH,
            forest_tokens=FOREST_TOKENS // 2 if size == LORA_FROM else FOREST_TOKENS,
        )
        say(f"{size} with random weights")
        dpo.run("hh", on_device, size=size)
        sft.run("hh", on_device, size=size)
        sampling.run(on_device, profile=size)


@contextmanager
def random_model(size: str) -> Iterator[Path]:
    """A checkpoint of this shape with random weights and the tokenizer of SmolLM2, while it is needed."""
    tokenizer = AutoTokenizer.from_pretrained(locate("smollm2"))
    config = LlamaConfig(
        **SHAPES[size],
        num_key_value_heads=8,
        head_dim=128,
        vocab_size=len(tokenizer),
        max_position_embeddings=4096,
        tie_word_embeddings=size != LORA_FROM,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        pad_token_id=None,
    )
    torch.manual_seed(0)
    with TemporaryDirectory() as name:
        with torch.device("cuda"):
            model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        model.save_pretrained(name)
        tokenizer.save_pretrained(name)
        del model
        torch.cuda.empty_cache()  # the workers need the device
        yield Path(name)
