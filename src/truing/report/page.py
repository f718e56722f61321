"""A run folder as one HTML page that needs nothing else: no network, no script, no font.

Every text that a model, a data file or a recipe brought along is escaped by the template engine, and the page forbids
itself, by its content security policy, to load or run anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import jinja2
from markupsafe import Markup

from truing import statistics
from truing.errors import ConfigError
from truing.report import charts, words
from truing.report.comparison import base_answers, differing_settings, flat, labels, overlaid_curves, shared_prompts
from truing.report.contest import entries, recommendation, rivals
from truing.report.sections import SECTIONS, online, rounds
from truing.report.sections.curves import stage_figures
from truing.report.sections.data import data_figure
from truing.report.sections.verdict import caveats
from truing.report.view import from_where, view
from truing.statistics import Interval
from truing.store.files import write_atomic
from truing.store.run import REPORT

CONTEST = "objectives.html"
SHOWN_EXAMPLES = 12
MAX_EXAMPLES = 60
MAX_TEXT = 4000
"""Characters of one answer or prompt that are shown."""
MAX_PIECES = 800
"""Tokens of one preview that are shown."""
MAX_RUNS = 6
"""Runs that have a colour of their own in page.css."""


def build(run_folder: Path) -> Path:
    """Writes the run's report.html and returns its path."""
    run = view(run_folder)
    page = (
        _environment()
        .get_template("run.html")
        .render(run=run, sections=SECTIONS, shown=SHOWN_EXAMPLES, most=MAX_EXAMPLES)
    )
    return _write(run_folder / REPORT, page)


def compare(run_folders: Sequence[Path], out: Path) -> Path:
    """Writes one page with several runs side by side and returns its path."""
    if not 2 <= len(run_folders) <= MAX_RUNS:
        raise ConfigError(f"a comparison takes 2 to {MAX_RUNS} runs, and {len(run_folders)} were given")
    runs = [view(folder) for folder in run_folders]
    template = _environment().get_template("compare.html")
    page = template.render(
        runs=runs,
        labels=labels(runs),
        settings=differing_settings(runs),
        curves=overlaid_curves(runs),
        prompts=shared_prompts(runs),
        shown=SHOWN_EXAMPLES,
        most=MAX_EXAMPLES,
    )
    return _write(out, page)


def contest(run_folder: Path) -> Path:
    """Writes objectives.html, one page on all objectives that a run compared, and returns its path."""
    run = view(run_folder)
    ranked = entries(run)
    if not ranked:
        raise ConfigError(f"{run_folder}: no objective was evaluated in this run")
    template = _environment().get_template("objectives.html")
    page = template.render(
        run=run, ranked=ranked, rivals=rivals(ranked), sentences=recommendation(ranked), shown=SHOWN_EXAMPLES
    )
    return _write(run_folder / CONTEST, page)


def tone(rate: Interval) -> str:
    """Which way the interval points: `good` above 50 %, `bad` below, `open` when it holds 50 %."""
    if statistics.too_few(rate):
        return "open"
    return "good" if rate.low > 0.5 else "bad" if rate.high < 0.5 else "open"


@cache
def _environment() -> jinja2.Environment:
    folder = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": words.number,
        "percent": words.percent,
        "sentence": words.sentence,
        "interval": words.interval,
        "duration": words.duration,
        "memory": words.memory,
        "moment": words.moment,
        "visible": lambda text: words.visible(words.shorten(text, MAX_TEXT)),
    }
    environment.globals |= {
        "css": Markup((folder / "page.css").read_text(encoding="utf-8")),
        "max_pieces": MAX_PIECES,
        "reading": statistics.reading,
        "sign_test": statistics.sign_test,
        "share_bar": charts.share_bar,
        "outcome_bar": charts.outcome_bar,
        "part_bar": charts.part_bar,
        "tone": tone,
        "caveats": caveats,
        "stage_figures": stage_figures,
        "data_figure": data_figure,
        "online": online,
        "rounds": rounds,
        "base_answers": base_answers,
        "from_where": from_where,
        "flat": flat,
    }
    return environment


def _write(path: Path, page: str) -> Path:
    # Half a surrogate pair, which a tokenizer can leave behind, has no bytes in UTF-8.
    write_atomic(path, page.encode("utf-8", "replace"))
    return path
