"""Several roles over one base: each has modules of its own, and the tensors of the base are the very same in all.

An adapter is put into the modules of one role and no other sees it, so nothing is switched between two passes, and the
gradient of one role's loss reaches its own adapter and head alone: the base is frozen.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

from truing.models import Loaded, content_hash, is_adapter, put_adapter, read_renderer, reward, weights_of


def beneath(adapted: Loaded) -> Loaded:
    """The base of a model that carries an adapter, without it, on the same tensors."""
    return replace(adapted, model=_again(adapted.model).unload())


def lies_on(source: str, base: str) -> bool:
    """Whether a model is this very base or an adapter on it. Both are folders or hub ids."""
    below = weights_of(source)
    return below == base or content_hash(below) == content_hash(base)


def with_head(base: Loaded) -> Loaded:
    """The base with a fresh head of one output in place of the layer that it writes with."""
    return replace(base, model=reward.over(_again(base.model)))


def beside(base: Loaded, source: str, *, scores: bool, chat_template: Path | None = None) -> Loaded:
    """A model that `lies_on` the base, to be read: its own adapter and renderer, and the tensors of the base.

    scores: whether it is a reward model.
    """
    own = with_head(base) if scores else replace(base, model=_again(base.model))
    model = put_adapter(own.model, source, trainable=False) if is_adapter(source) else own.model
    renderer = read_renderer(source, chat_template)
    if scores:
        reward.set_padding(model, renderer)
    return Loaded(model, renderer, base.source)


def _again(model: Any) -> Any:
    """The tree of modules once more, with the very same parameters and buffers."""
    tensors = (*model.parameters(), *model.buffers())
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
