"""Arithmetic and memory by formula, against hand values and against a real process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import tiny

from truing.costs import Lengths, Load, Shape, Weights, logit_bytes, memory_of, operations, token_bytes

SMALL = Shape(layers=1, width=4, inner=8, heads=2, groups=1, head_width=2, vocabulary=10)


def test_operations_by_hand() -> None:
    """Prompt 2, answers 1 and 1: body 2*144 a token, attention 3 + 3 + 3 pairs, the head on the two scored tokens."""
    row = Lengths(2, (1, 1), 2)
    assert operations(SMALL, [row]) == 2 * 144 * 4 + 16 * (3 + 3 + 3) + 80 * 2


def test_bytes_of_a_token_by_hand() -> None:
    """fp32: two norms of 2*4 bytes a channel and a scale, attention 12, two of the inner width."""
    layer = 2 * (4 * 8 + 4) + 4 * (2 * 3 * 2 + 2 * 8)
    assert token_bytes(SMALL, Weights(100, 100, 4, "cpu")) == 2 * layer
    assert token_bytes(SMALL, Weights(100, 100, 4, "cpu", checkpointing=True)) == 4 * 4 + 2 * layer
    assert token_bytes(SMALL, Weights(100, 2, 4, "cpu")) == 2 * (layer + 4 * 2 * 8)  # adapted: four of them


def test_other_models_keep_more() -> None:
    """bf16: four norms of 2*2 + 4 bytes a channel and a scale, attention 12, four of the inner width."""
    other = replace(SMALL, lean=False)
    assert token_bytes(other, Weights(100, 100, 2, "cpu")) == 2 * (4 * (4 * 8 + 4) + 2 * (2 * 3 * 2 + 4 * 8))
    assert Shape.of(tiny.config()).lean
    assert not Shape.of(tiny.config(hidden_act="gelu")).lean


def test_memory_by_hand() -> None:
    found = memory_of(SMALL, Weights(100, 100, 2, "cuda"), Load(10, 5))
    assert found[:6] == (0, 200, 400, 0, 800, 400)
    assert found.logits == logit_bytes(SMALL, 2, 5) == 5 * 20 + 2 * 5 * 40 + 4 * 20
    assert found.peak == 1800 + found.activations + found.logits
    assert memory_of(SMALL, Weights(100, 100, 4, "cuda"), Load(10, 5)).masters == 0
    for itemsize, each in ((2, 6), (4, 4)):  # masters and a rounded copy of them, or the masters alone
        alone, kept = (
            memory_of(SMALL, Weights(100, 60, itemsize, "cuda", kept=on), Load(10, 5)) for on in (False, True)
        )
        assert kept.peak - alone.peak == kept.reference == 60 * each
    adapter = memory_of(SMALL, Weights(1000, 1, 2, "cuda"), Load(1, 1))
    assert adapter.peak == adapter.loading == 4000


def test_logits_stop_growing_where_they_are_made_in_parts() -> None:
    wide = Shape(layers=1, width=4, inner=8, heads=2, groups=1, head_width=2, vocabulary=2**18)
    assert logit_bytes(wide, 4, 300) == logit_bytes(wide, 4, 5000)


CODE = """
import json, sys, torch
from transformers import LlamaConfig, LlamaForCausalLM
from truing.compute.attention import ATTENTION
from truing.compute.engine.local import LocalEngine
from truing.models import Loaded
from truing.packing import forest
from truing.rendering import Answer, Row
from truing.stages.training import peak_memory

torch.set_num_threads(1)
config = LlamaConfig(hidden_size=256, intermediate_size=768, num_hidden_layers=8, num_attention_heads=4,
    num_key_value_heads=2, vocab_size=4096, tie_word_embeddings=True, attn_implementation=ATTENTION)
model = LlamaForCausalLM(config)
engine = LocalEngine(Loaded(model, None, ""), dtype=torch.bfloat16, checkpointing=json.loads(sys.argv[1]))
found = []
for count in (2, 8):
    rows = [Row((1,) * 128, (Answer((2,) * 128, (True,) * 128),), index) for index in range(count)]
    for _ in range(2):
        engine.backward(engine.logprobs(forest(rows)).token.sum())
        engine.step(1e-6, 1.0)
    found.append(peak_memory())
print(json.dumps([found, sum(p.numel() for p in model.parameters())]))
"""


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_formula_is_what_a_process_takes(checkpointing: bool) -> None:
    """The peak itself, and what six more rows of 256 tokens add to it, in a process of its own."""
    words = [sys.executable, "-W", "ignore", "-c", CODE, json.dumps(checkpointing)]
    exact = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}  # what is let go does not stay with the process
    done = subprocess.run(words, env=exact, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (small, large), count = json.loads(done.stdout)
    shape = Shape(layers=8, width=256, inner=768, heads=4, groups=2, head_width=64, vocabulary=4096)
    weights = Weights(count, count, 2, "cpu", checkpointing)
    loads = Load(512, 256), Load(2048, 1024)
    first, last = (memory_of(shape, weights, load) for load in loads)
    assert large == pytest.approx(last.peak, rel=0.15)
    assert large - small == pytest.approx(last.peak - first.peak, rel=0.35 if checkpointing else 0.1)


def test_sizes_are_read_from_a_configuration(tmp_path: Path) -> None:
    from truing.models import read_config

    shape = Shape.of(read_config(str(tiny.save_tiny_model(tmp_path / "tiny"))))
    assert shape.heads * shape.head_width == shape.matrices()[0][1]
