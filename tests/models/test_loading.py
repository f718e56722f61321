"""What a model's hash covers, and which weights are read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import huggingface_hub.constants
import pytest
import tiny
import torch
from store.test_files import flip
from transformers import AutoModelForCausalLM

from truing import models
from truing.compute.engine.local import LocalEngine
from truing.errors import ConfigError, MissingError, StorageError
from truing.models.importing import convert
from truing.packing import forest
from truing.store.files import staged_folder

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.save_tiny_model(tmp_path / "tiny")


def fresh_hash(source: Path | str) -> str:
    models.content_hash.cache_clear()
    return models.content_hash(str(source))


def adapter(base: Path, folder: Path) -> Path:
    """A folder with a fresh adapter on `base`."""
    loaded = models.load(str(base), dtype=torch.float32, device=CPU)
    models.add_lora(loaded.model, rank=2, alpha=4.0, targets="all-linear").save_pretrained(folder)
    loaded.renderer.tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "name",
    ["model.safetensors", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
     "chat_template.jinja", "additional_chat_templates/tool_use.jinja", "merges.txt", "tokenizer.model"],
)  # fmt: skip
def test_the_hash_changes_with_every_file_that_decides_results(folder: Path, name: str) -> None:
    before = fresh_hash(folder)
    file = folder / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes((file.read_bytes() if file.exists() else b"") + b" ")
    assert fresh_hash(folder) != before


def test_the_hash_does_not_change_with_what_decides_nothing(folder: Path, tmp_path: Path) -> None:
    before = fresh_hash(folder)
    (folder / "README.md").write_text("a card")
    (folder / "manifest.json").write_text('{"created": 1.0}')
    (folder / "pytorch_model.bin").write_bytes(b"never read")
    assert fresh_hash(folder) == before
    assert fresh_hash(shutil.copytree(folder, tmp_path / "elsewhere")) == before


def test_the_hash_of_an_adapter_changes_with_its_base(folder: Path, tmp_path: Path) -> None:
    made = adapter(folder, tmp_path / "adapter")
    before = fresh_hash(made)
    with (folder / "tokenizer.json").open("a") as file:
        file.write(" ")
    assert fresh_hash(made) != before


@pytest.fixture
def put_in_hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, str], None]:
    """Makes a folder the newest revision of `owner/name`, as if the hub had been asked before."""
    cache = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))

    def put(folder: Path, commit: str) -> None:
        repository = cache / "models--owner--name"
        shutil.copytree(folder, repository / "snapshots" / commit)
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / "main").write_text(commit)

    return put


def test_the_hash_of_a_hub_id_is_that_of_its_revision(
    folder: Path, put_in_hub_cache: Callable[[Path, str], None]
) -> None:
    hashes = [fresh_hash("owner/name")]
    for commit in ("a" * 40, "b" * 40):
        put_in_hub_cache(folder, commit)
        hashes.append(fresh_hash("owner/name"))
        assert fresh_hash("owner/name") == hashes[-1]
    assert len({*hashes, fresh_hash("owner/other")}) == 4


def test_pickled_weights_of_the_hub_are_refused_too(
    folder: Path, put_in_hub_cache: Callable[[Path, str], None]
) -> None:
    torch.save(AutoModelForCausalLM.from_pretrained(folder).state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    put_in_hub_cache(folder, "a" * 40)
    with pytest.raises(MissingError, match=r"'owner/name' cannot be loaded: it has no safetensors: .* convert them"):
        models.load("owner/name", dtype=torch.float32, device=CPU)


def test_a_model_without_a_tokenizer_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(
        MissingError, match=r"cannot be loaded: it has no tokenizer that can be read: .* tokenizer\.json"
    ):
        models.read_renderer(str(tmp_path))


def test_pickled_weights_are_refused_with_the_way_to_convert_them(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(MissingError, match=r"no \*\.safetensors in it.*convert them once: truing import .* --to"):
        models.load(str(folder), dtype=torch.float32, device=CPU)
    assert convert(folder, folder / "new") == ["model.safetensors"]
    read = models.load(str(folder / "new"), dtype=torch.float32, device=CPU).model
    for name, weight in model.named_parameters():
        assert torch.equal(read.get_parameter(name), weight)


def test_a_pickled_adapter_is_refused(folder: Path, tmp_path: Path) -> None:
    made = adapter(folder, tmp_path / "adapter")
    (made / "adapter_model.safetensors").rename(made / "adapter_model.bin")
    with pytest.raises(MissingError, match=r"adapter: no \*\.safetensors in it"):
        models.load(str(made), dtype=torch.float32, device=CPU)


def test_no_adapter_is_laid_on_an_adapter(folder: Path, tmp_path: Path) -> None:
    """PEFT would write the first adapter's base into it as its own."""
    made = adapter(folder, tmp_path / "adapter")
    merged = models.load(str(made), dtype=torch.float32, device=CPU)
    with pytest.raises(ConfigError, match="an adapter cannot lie on an adapter: write the model in full first"):
        models.add_lora(merged.model, rank=2, alpha=4.0, targets="all-linear")
    models.save_in_full(merged, tmp_path / "full")
    full = models.load(str(tmp_path / "full"), dtype=torch.float32, device=CPU)
    adapted = models.add_lora(full.model, rank=2, alpha=4.0, targets="all-linear")
    assert adapted.peft_config["default"].base_model_name_or_path == str(tmp_path / "full")


def test_an_adapter_whose_base_is_an_adapter_is_refused(folder: Path, tmp_path: Path) -> None:
    """transformers would load the root's weights and say nothing."""
    first = adapter(folder, tmp_path / "first")
    second = shutil.copytree(first, tmp_path / "second")
    config = json.loads((second / "adapter_config.json").read_text())
    (second / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": str(first)}))
    with pytest.raises(MissingError, match=r"its base .*first is an adapter too"):
        models.load(str(second), dtype=torch.float32, device=CPU)


def committed(folder: Path, target: Path) -> Path:
    """A model folder as a run makes it."""
    with staged_folder(target, kind="checkpoint", meta={}) as staged:
        shutil.copytree(folder, staged, dirs_exist_ok=True)
    return target


def test_a_model_that_is_not_what_a_run_made_is_refused(folder: Path, tmp_path: Path) -> None:
    made = committed(folder, tmp_path / "made")
    models.load(str(made), dtype=torch.float32, device=CPU)
    flip(made / "model.safetensors", 8 * (made / "model.safetensors").stat().st_size - 9)
    with pytest.raises(StorageError, match=r"model\.safetensors: its content is not what was written: run its recipe"):
        models.load(str(made), dtype=torch.float32, device=CPU)
    (made / "manifest.json").write_text('{"name": "of another program"}')
    models.load(str(made), dtype=torch.float32, device=CPU)


def test_an_adapter_is_refused_on_another_base_than_its_own(folder: Path, tmp_path: Path) -> None:
    made = adapter(folder, tmp_path / "adapter")
    models.save_adapter_base(made)
    models.load(str(made), dtype=torch.float32, device=CPU)
    flip(folder / "model.safetensors", 8 * (folder / "model.safetensors").stat().st_size - 9)
    models.content_hash.cache_clear()
    with pytest.raises(StorageError, match=r"adapter: its base .* is not the model that it was trained on"):
        models.load(str(made), dtype=torch.float32, device=CPU)


def test_so_is_one_whose_base_in_the_run_is_damaged(folder: Path, tmp_path: Path) -> None:
    base = committed(folder, tmp_path / "base")
    made = adapter(base, tmp_path / "adapter")
    flip(base / "model.safetensors", 8 * (base / "model.safetensors").stat().st_size - 9)
    with pytest.raises(StorageError, match=r"base/model\.safetensors: its content is not what was written"):
        models.load(str(made), dtype=torch.float32, device=CPU)


def test_a_run_that_is_not_there_is_not_asked_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "runs" / "mine" / "events.jsonl").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"runs/mina: no such run or model; did you mean 'runs/mine'"):
        models.locate("runs/mina")
    assert models.locate("elsewhere/model") == "elsewhere/model"


def test_a_trained_model_is_read_in_bf16_to_the_very_weights_it_computed_with(tmp_path: Path) -> None:
    """Rounded to the nearest they would be others, and so would what is measured of the model."""
    engine = LocalEngine(tiny.loaded_model(torch.float32), dtype=torch.bfloat16)
    engine.backward(-engine.logprobs(forest(tiny.random_rows(0, [(5, (4, 7))]))).token.mean())
    engine.step(1e-3, 1.0)
    engine.save_model(tmp_path / "trained")
    read = dict(models.load(str(tmp_path / "trained"), dtype=torch.bfloat16, device=CPU).model.named_parameters())
    for name, weight in engine.model.named_parameters():
        assert torch.equal(weight, read[name]), name
    wide = models.load(str(tmp_path / "trained"), dtype=torch.float32, device=CPU).model
    assert any(not torch.equal(weight.to(torch.bfloat16), read[name]) for name, weight in wide.named_parameters())
