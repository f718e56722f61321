"""Progress: lines where there is no terminal, bars where there is one, and a heartbeat when nothing moves."""

from __future__ import annotations

import io
import threading
import time

import pytest
from rich.console import Console

from truing import progress
from truing.progress import Reporter


def lines() -> tuple[Reporter, io.StringIO]:
    heard = io.StringIO()
    return Reporter(Console(file=heard, width=60)), heard


def test_without_a_terminal_a_task_says_start_and_end_and_little_between() -> None:
    reporter, heard = lines()
    with reporter.task("sft", 1000, done=7) as task:
        for number in range(8, 1001):
            task.advance(number, f"loss {number}")
    said = heard.getvalue().splitlines()
    assert said[0].rstrip() == "sft: 7/1000 started"
    assert said[-1].startswith("sft: 1000/1000 loss 1000 after ")
    assert len(said) == 2


def test_a_line_comes_every_few_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY", 0.0)
    reporter, heard = lines()
    with reporter.task("sft", 2) as task:
        task.advance(1, "loss 3.5")
    assert "sft: 1/2 loss 3.5\n" in heard.getvalue()


def test_silence_is_broken_by_a_heartbeat_and_the_thread_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "HEARTBEAT_AFTER", 0.0)
    before = set(threading.enumerate())
    reporter, heard = lines()
    with reporter.task("long", 5):
        until = time.monotonic() + 10
        while "still working" not in heard.getvalue() and time.monotonic() < until:
            time.sleep(0.02)
        (own,) = set(threading.enumerate()) - before
    assert "long: 0/5 still working, " in heard.getvalue()
    own.join(10)
    assert not own.is_alive()


def test_a_task_that_fails_ends_its_line_and_lets_the_error_through() -> None:
    reporter, heard = lines()
    with pytest.raises(KeyError), reporter.task("t", 3) as task:  # noqa: PT012
        task.advance(1)
        raise KeyError
    assert heard.getvalue().splitlines()[-1].startswith("t: 1/3 after")


def test_on_a_terminal_there_is_a_bar() -> None:
    heard = io.StringIO()
    reporter = Reporter(Console(file=heard, force_terminal=True, width=100))
    with reporter.task("dpo", 4) as task:
        task.advance(3, "loss [0.69]")
    assert "3/4" in heard.getvalue()
    assert "loss [0.69]" in heard.getvalue(), "brackets of a note are no markup"


def test_news_are_said_as_they_are_and_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    Reporter().say("[bold]x[/bold] 3")
    seen = capsys.readouterr()
    assert (seen.out, seen.err) == ("", "[bold]x[/bold] 3\n")
