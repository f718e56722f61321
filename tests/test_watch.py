"""The terminal view of a run, on folders as the stages write them."""

from __future__ import annotations

import io
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

sys.path.append(str(Path(__file__).parent / "report"))

import fake_runs

from truing import cli
from truing import watch as watching
from truing.report.health import HEALTHY, table
from truing.report.stages import Stage
from truing.store import Run

RECIPE = '[[stage]]\nuse = "online"\nname = "online"\n'
pytestmark = pytest.mark.filterwarnings("ignore:Cyclopts application invoked without tokens")
ROOT = Path(__file__).parent.parent


def made(path: Path, **options: Any) -> Path:
    with fake_runs.opened(path, recipe=RECIPE) as run:
        fake_runs.online(run, **options)
    return path


def shown(folder: Path, width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    watching.watch(folder, console, once=True, every=1.0)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_a_run_under_way_shows_progress_curves_health_and_answers(tmp_path: Path) -> None:
    said = shown(made(tmp_path / "run", gain=None))
    assert "stage online (1 of 1), under way; last event" in said
    assert "rollout 30, step 60 of 80" in said
    assert "left" in said
    (reward,) = [line for line in said.splitlines() if line.startswith("Reward ")]
    assert "▁" in reward
    assert "█" in reward
    assert reward.index("▁") < reward.index("█")
    assert "Seven pens cost three each, so 21." in said
    assert "What do 30 pens cost at three each?" in said
    assert "prompts left out: 1, the row has no reference" in said
    assert "OUTSIDE" not in said


def test_a_finished_run_says_so_and_what_it_gained(tmp_path: Path) -> None:
    said = shown(made(tmp_path / "run"))
    assert "finished" in said
    assert "ago" not in said
    assert "rose from 0.200 to 0.510" in said


def test_a_number_out_of_its_range_is_marked_in_words(tmp_path: Path) -> None:
    said = shown(made(tmp_path / "run", kl=90.0), width=200)
    (line,) = [line for line in said.splitlines() if "OUTSIDE" in line]
    assert "KL from the reference 79.9 at most 20" in " ".join(line.split())
    assert HEALTHY["kl"].outside in line


def test_any_stage_that_trains_can_be_watched(tmp_path: Path) -> None:
    fake_runs.write(tmp_path / "run")
    said = shown(tmp_path / "run")
    assert "Reward margin" in said
    assert "step 240 of 240" in said


def test_a_run_that_has_not_begun_is_no_error(tmp_path: Path) -> None:
    with fake_runs.opened(tmp_path / "run", recipe=RECIPE):
        pass
    assert "no stage has begun" in shown(tmp_path / "run")


def test_what_models_say_cannot_command_the_terminal(tmp_path: Path) -> None:
    said = shown(made(tmp_path / "run", text="\x1b]0;owned\x07 [red]21[/red] \u202e"))
    assert "\x1b" not in said
    assert "\x07" not in said
    assert "[red]21[/red]" in said  # markup is text


def test_it_looks_again_until_the_run_ends(tmp_path: Path) -> None:
    folder = made(tmp_path / "run", gain=None)
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            with Run.open(folder, recipe=RECIPE, resolved=RECIPE, info=fake_runs.INFO) as run:
                run.event("online", "end", seconds=1.0, peak_memory_bytes=1)

    watching.watch(folder, console, once=False, every=0.5, sleep=sleep)
    assert waits == [0.5, 0.5]
    assert "finished" in console.file.getvalue()  # type: ignore[attr-defined]


def test_ctrl_c_leaves_it(tmp_path: Path) -> None:
    folder = made(tmp_path / "run", gain=None)

    def sleep(_: float) -> None:
        raise KeyboardInterrupt

    watching.watch(folder, Console(file=io.StringIO(), force_terminal=True), once=False, every=1.0, sleep=sleep)


@pytest.mark.parametrize("asked", [True, False])
def test_no_color_is_respected(asked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    if asked:
        monkeypatch.setenv("NO_COLOR", "1")
    console = Console(file=io.StringIO(), force_terminal=True, width=120, color_system="standard")
    watching.watch(made(tmp_path / "run"), console, once=True, every=1.0)
    coloured = "\x1b[36m" in console.file.getvalue()  # type: ignore[attr-defined]
    assert coloured is not asked


def test_the_command_prints_once_where_there_is_no_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = made(tmp_path / "run", gain=None)
    for words in ([], ["--once"], ["--json"]):
        monkeypatch.setattr(sys, "argv", ["truing", "watch", str(folder), *words])
        with pytest.raises(SystemExit) as left:
            cli.main()
        assert left.value.code == 0
        said = capsys.readouterr().out
        if words == ["--json"]:
            found = json.loads(said)
            assert (found["stage"], found["step"], found["ended"]) == ("online", 60, False)
            assert found["health"]["kl"] == {"value": pytest.approx(3.825), "low": None, "high": 20, "well": True}
        else:
            assert "under way" in said


def test_speed_is_that_since_the_stage_went_on() -> None:
    assert watching.pace(Stage("online", times=[100.0, 102.0, 106.0])) == 3.0
    assert watching.pace(Stage("online", times=[100.0])) is None


def test_a_stage_that_goes_on_after_a_night_is_not_slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 2.0, 30_000.0, 30_001.0, 30_003.0])
    with fake_runs.opened(tmp_path / "run", recipe=RECIPE) as run:
        monkeypatch.setattr(time, "time", lambda: next(clock))
        for kind in ("start", "step", "step", "start", "step", "step"):
            run.event("online", kind, step=1, steps=9, metrics={"loss": 0.1})
    (stage,) = watching.read(tmp_path / "run").stages
    assert watching.pace(stage) == 2.0


@pytest.mark.parametrize(
    ("values", "bars"),
    [
        ([0.0, 1.0], "▁█"),
        ([1.0, 1.0, 1.0], "▅▅▅"),
        ([0.0, math.nan, 7.0], "▁×█"),
        ([math.inf], "×"),
        ([float(n // 2) for n in range(56)], "▁▁▁▁▂▂▂▃▃▃▃▄▄▄▅▅▅▆▆▆▆▇▇▇████"),
    ],
)
def test_sparkline(values: list[float], bars: str) -> None:
    assert watching.sparkline(values) == bars


@pytest.mark.parametrize(
    ("name", "value", "well"),
    [("kl", 20, True), ("kl", 20.1, False), ("kl", -3, True), ("kl", math.nan, False), ("kl", -math.inf, False),
     ("ratio", 0.89, False), ("ratio", 1.1, True), ("entropy", 0.05, False), ("finished", math.inf, False)],
)  # fmt: skip
def test_a_range_holds_its_ends_and_nothing_that_is_not_finite(name: str, value: float, well: bool) -> None:
    assert HEALTHY[name].healthy.holds(value) is well


def test_the_page_of_healthy_ranges_is_the_table() -> None:
    assert table() in (ROOT / "docs" / "health.md").read_text()
