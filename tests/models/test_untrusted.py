"""Models that mean harm: pickles, code of their own, and what may not stand in the source for their sake."""

from __future__ import annotations

import ast
import json
import os
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_model
import torch
from safetensors.torch import load_file

import truing
from truing import cli, models
from truing.errors import ConfigError, DataError, MissingError
from truing.models import importing
from truing.models.importing import convert

CPU = torch.device("cpu")
SOURCE = Path(truing.__file__).parent


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_model.save(tmp_path / "model")


def pickled(folder: Path, *, pieces: int = 1) -> dict[str, Any]:
    """The folder's weights as pickles in place of safetensors. Returns them."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    if pieces == 1:
        torch.save(weights, folder / "pytorch_model.bin")
        return weights
    names = [f"pytorch_model-{n:05}-of-{pieces:05}.bin" for n in range(1, pieces + 1)]
    where = {name: names[place % pieces] for place, name in enumerate(weights)}
    for file in names:
        torch.save({name: weights[name] for name in weights if where[name] == file}, folder / file)
    index = {"metadata": {"total_size": 1}, "weight_map": where}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return weights


class Harm:
    """What makes a file as it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.canary),)


@pytest.mark.parametrize("pieces", [1, 3])
def test_pickled_weights_are_converted_to_the_bit(pieces: int, folder: Path, tmp_path: Path) -> None:
    weights = pickled(folder, pieces=pieces)
    (folder / "modeling_evil.py").write_text("raise SystemExit")
    torch.save({"step": 1}, folder / "optimizer.pt")
    made = convert(folder, tmp_path / "new")
    assert len(made) == pieces
    read = models.load(str(tmp_path / "new"), dtype=torch.float32, device=CPU).model.state_dict()
    assert all(torch.equal(read[name], weight) for name, weight in weights.items())
    assert {file.suffix for file in (tmp_path / "new").iterdir()} <= {".safetensors", ".json", ".jinja", ".txt"}


@pytest.mark.parametrize("where", ["alone", "in a table", "beside weights"])
def test_a_pickle_that_runs_code_is_refused_and_runs_none(where: str, folder: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    weights = pickled(folder)
    made: Any = Harm(canary) if where == "alone" else {"a": Harm(canary)}
    if where == "beside weights":
        torch.save({**weights, "a": Harm(canary)}, folder / "pytorch_model.bin")
    else:
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps(made))
    with pytest.raises(DataError, match=r"pytorch_model\.bin: torch refuses it: .*nothing was written") as error:
        convert(folder, tmp_path / "new")
    assert error.value.exit_code == 65
    assert not canary.exists()
    assert not (tmp_path / "new").exists()
    (folder / "sub").mkdir()
    pickle.loads(pickle.dumps(Harm(canary)))
    assert canary.exists(), "this pickle does harm to whoever reads it otherwise"


def test_a_pickle_that_is_larger_than_it_looks_ends_at_its_limit(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few bytes that stand for a tensor of 64 MiB; the limit is set low for that."""
    pickled(folder)
    torch.save({"w": torch.zeros(1).expand(2**24)}, folder / "pytorch_model.bin")
    monkeypatch.setattr(importing, "SPARE", 2**24)
    with pytest.raises(DataError, match="nothing was written"):
        convert(folder, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_what_holds_no_weights_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no pytorch_model\.bin"):
        convert(folder, tmp_path / "new")
    pickled(folder)
    with pytest.raises(ConfigError, match="exists already"):
        convert(folder, folder)
    torch.save([torch.ones(2)], folder / "pytorch_model.bin")
    with pytest.raises(DataError, match="it holds no table of tensors"):
        convert(folder, tmp_path / "new")


def test_the_command_says_what_it_made(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pickled(folder)
    cli.app(["import", str(folder), "--to", str(tmp_path / "new")], result_action="return_value")
    assert capsys.readouterr().out.strip() == str(tmp_path / "new" / "model.safetensors")


def test_code_that_a_model_brings_is_never_run(folder: Path, tmp_path: Path) -> None:
    """Whichever of its files names it, and even where somebody could be asked whether it may."""
    canary = tmp_path / "canary"
    code = f"import os\nos.mkdir({str(canary)!r})\n"
    (folder / "evil.py").write_text(code + "class Evil: pass\nclass EvilConfig: pass\n")
    own = json.loads((folder / "config.json").read_text())
    mapped = {"AutoConfig": "evil.EvilConfig", "AutoModelForCausalLM": "evil.Evil"}
    (folder / "config.json").write_text(json.dumps({**own, "model_type": "evil", "auto_map": mapped}))
    with pytest.raises(MissingError, match="it brings code of its own, which Truing never runs"):
        models.load(str(folder), dtype=torch.float32, device=CPU)
    with pytest.raises(MissingError, match="it brings code of its own, which Truing never runs"):
        models.read_config(str(folder))
    assert not canary.exists()

    tokenizer = tiny_model.save(tmp_path / "other")
    shutil.copy(folder / "evil.py", tokenizer)
    config = json.loads((tokenizer / "tokenizer_config.json").read_text())
    config |= {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}}
    (tokenizer / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(MissingError, match="it brings code of its own, which Truing never runs"):
        models.read_renderer(str(tokenizer))
    assert not canary.exists()


def calls() -> Iterator[tuple[str, ast.Call]]:
    """Every call in the source, with its file."""
    for file in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                yield str(file.relative_to(SOURCE)), node


def keywords(call: ast.Call) -> dict[str | None, Any]:
    return {one.arg: one.value.value if isinstance(one.value, ast.Constant) else ... for one in call.keywords}


def test_nothing_in_the_source_reads_pickles() -> None:
    """But one place, by the reader that takes weights alone."""
    forbidden = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml"}
    for file in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            named = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            named += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            assert not forbidden & {name.split(".")[0] for name in named}, file
    loads = []
    for file, call in calls():
        name = ast.unparse(call.func)
        assert not name.endswith(("read_pickle", "unsafe_load")), file
        assert keywords(call).get("allow_pickle") in (None, False), file
        if name in ("torch.load", "load") and name.startswith("torch"):
            loads.append((file, keywords(call).get("weights_only")))
    assert loads == [("models/unpickling.py", True)]


def test_no_call_in_the_source_lets_a_model_run_its_code() -> None:
    """Left out, transformers would ask the user, where there is a terminal."""
    seen = 0
    for file, call in calls():
        name = ast.unparse(call.func)
        if name.startswith("Auto") and name.endswith(".from_pretrained"):
            seen += 1
            assert keywords(call).get("trust_remote_code") is False, f"{file}: {name}"
        else:
            assert "trust_remote_code" not in keywords(call), f"{file}: {name}"
    assert seen >= 8
