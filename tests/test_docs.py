"""Every command in a `sh` block of README and docs runs here, on a tiny model and a few rows."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import save_tiny_model

ROOT = Path(__file__).parent.parent
SMALL = {
    "quickstart": [
        "contrast.limit=4",
        "contrast.max_new_tokens=8",
        "contrast.chosen_finished=false",
        "preference.epochs=1",
        "evaluate.limit=4",
        "evaluate.max_new_tokens=8",
    ],
    "dpo": ["preference.batch_size=4"],
    "audit": ["audit.members=2"],
    "curate": ["sft.batch_size=4"],
    "select": ["select.by.mass=0", "select.keep=0.5"],
    "iterative-dpo": ["loop.rows=all"],
    "spin": ["data.held_out=0.4", "spin.rounds=2", "spin.sample.max_new_tokens=8", "spin.unseen.max_new_tokens=8"],
    "best-of-n": ["sample.answers=2", "sample.max_new_tokens=8"],
    "online": ["online.rollouts=2", "online.prompts=2", "online.max_new_tokens=8"],
    "ppo-max": [
        "online.rollouts=3",
        "online.prompts=2",
        "online.max_new_tokens=8",
        "online.critic_warmup=2",
        "online.critic_window=1",
    ],
}
SMALL_SUITE = [
    *(f"{name}.max_new_tokens=8" for name in ("instructions", "arithmetic", "refusals", "diversity", "length")),
    *(f"{name}.limit=4" for name in ("instructions", "diversity", "length")),
]
SMALL_BUDGET = {"5m": "2steps"}


def commands() -> list[str]:
    found = []
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL):
            found += [line for line in block.splitlines() if line.startswith("truing ")]
    return found


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the documents' reader has it: the recipes, a data file, a tiny model, and two runs."""
    folder = tmp_path_factory.mktemp("docs")
    (folder / "recipes").symlink_to(ROOT / "recipes")
    save_tiny_model(folder / "tiny")
    for name, start, end in (("prefs", 0, 12), ("helpful", 20, 60), ("harmless", 60, 80)):
        rows = [
            {
                "prompt": [{"role": "user", "content": f"Question {number}?"}],
                "chosen": [{"role": "assistant", "content": "Yes."}],
                "rejected": [{"role": "assistant", "content": f"No, {number}."}],
            }
            for number in range(start, end)
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    demonstrations = [
        {
            "messages": [
                {"role": "user", "content": f"Why {n}?"},
                {"role": "assistant", "content": f"It is {n}.\n#### {n}"},
            ]
        }
        for n in range(12)
    ]
    (folder / "demos.jsonl").write_text("\n".join(json.dumps(row) for row in demonstrations))
    for name in ("my-run", "my-other-run"):
        run(f"truing train dpo --model tiny --data prefs.jsonl --out runs/{name} max_steps=1", folder)
    return folder


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    words = [SMALL_BUDGET.get(word, word.replace("smollm2", "tiny")) for word in shlex.split(command)]
    if words[1] == "compare-objectives":
        words += ["--model", "tiny", "--held-out", "0.4"]
    if words[1] in ("run", "plan"):
        words += ["model=tiny", *SMALL.get(Path(words[2]).stem, [])]
    if words[1] == "evaluate":
        words += SMALL_SUITE
    environment = {**os.environ, "TRUING_CACHE": str(folder / "cache")}
    done = subprocess.run(
        [sys.executable, "-m", "truing.cli", *words[1:]],
        cwd=folder, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done


def test_there_are_commands() -> None:
    assert len(commands()) > 8


@pytest.mark.parametrize("command", commands())
def test_command(command: str, workplace: Path) -> None:
    run(command, workplace)


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL))
def test_python(code: str, workplace: Path) -> None:
    environment = {**os.environ, "TRUING_CACHE": str(workplace / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", code.replace("smollm2", "tiny")],
        cwd=workplace, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_the_diff_that_shows_a_new_objective_is_the_code() -> None:
    (diff,) = re.findall(r"```diff\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    parts = re.split(r"^--- a/.*\n\+\+\+ b/(.*)\n", diff, flags=re.MULTILINE)[1:]
    assert len(parts) == 8
    for path, lines in zip(parts[::2], parts[1::2], strict=True):
        code = (ROOT / path).read_text()
        for line in lines.splitlines():
            assert line.startswith("+")
            assert line[1:] in code, f"{path} has no longer: {line[1:]}"


def test_every_promise_of_security_names_a_test_that_exists() -> None:
    """One line of the table for each."""
    page = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    lines = [line for line in page.splitlines() if line.startswith("| ") and "---" not in line][1:]
    assert len(lines) > 8
    for line in lines:
        found = re.search(r"\| `(tests/[\w/]+\.py)`: `(\w+)` \|$", line)
        assert found, line
        assert f"def {found[2]}(" in (ROOT / found[1]).read_text(encoding="utf-8"), line
