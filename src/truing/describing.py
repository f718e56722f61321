"""What there is to know of an objective, gathered from its signature, its docstring and the report's table of metrics.

The page of an objective, the terminal's view of it and the tables of docs/objectives/README.md all come from here.
"""

from __future__ import annotations

import inspect
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from annotated_types import Ge, Gt, Le, Lt

from truing.objectives import NEEDS, OBJECTIVES, Bound, Kind, bind
from truing.records import Group
from truing.report.metrics import Metric, metric
from truing.signatures import asks_for, setting_words, settings_of
from truing.stages.arranging import Judged
from truing.stages.asking import Case, ask
from truing.store.files import write_atomic
from truing.tensors import Logprobs, Scores

UNIT: dict[Kind, str] = {
    "pair": "comparisons: a chosen and a rejected answer",
    "ranking": "rankings: two or more answers, with ranks or scores",
    "answer": "single answers",
    "step": "answers in steps, each right or wrong",
    "token": "demonstrations",
}


@dataclass(frozen=True, slots=True)
class Description:
    """An objective as a reader wants to know it."""

    name: str
    title: str
    equation: str
    use: str
    claim: str
    data: str
    asks: dict[str, str]
    settings: list[dict[str, Any]]
    logged: dict[str, Metric]
    passes: str
    cost: float
    source: str


def describe(name: str) -> Description:
    """Everything known of the objective of this name."""
    bound = bind({"name": name})
    words = inspect.getdoc(bound.function) or ""
    title, equation = words.split("\n\n")[:2]
    words_of = setting_words(bound.function)
    settings = [
        {"name": key, "default": field.default, "words": words_of.get(key, ""), "bounds": bounds(field.metadata)}
        for key, field in settings_of(bound.function).model_fields.items()
    ]
    return Description(
        name=name,
        title=_flat(title).rstrip("."),
        equation=equation,
        use=_paragraph(words, "Use"),
        claim=_paragraph(words, "Claim"),
        data=data_of(bound),
        asks={key: NEEDS[key] for key in asks_for(bound.function)},
        settings=settings,
        logged={key: metric(key, {"objective": {"name": name}}) for key in logged_by(bound)},
        passes=passes(bound),
        cost=cost(bound),
        source=f"src/{bound.function.__module__.replace('.', '/')}.py",
    )


def data_of(bound: Bound) -> str:
    """What rows the objective learns from."""
    unit = UNIT[bound.kind]
    if bound.kind == "answer":
        unit += " with a score" if bound.needs("reward") else " with a thumb; comparisons give two"
    if bound.kind == "pair" and bound.needs("reward"):
        unit += ", with a score each"
    if bound.needs("margin"):
        unit += ", with a strength"
    if bound.stage == "reward_model":
        unit = f"for a reward model: {unit}"
    if bound.name in ("csft", "chain_of_hindsight"):
        unit = "comparisons or rankings" + (", or single answers with a thumb" if bound.name == "csft" else "")
    return unit


def passes(bound: Bound) -> str:
    """What one step computes, in passes through the model."""
    parts = ["1 pass with gradient"]
    if bound.needs("divergence"):
        parts.append("1 pass of the reference at each step")
    elif bound.needs("reference"):
        parts.append("1 pass of the reference, cached for all epochs")
    if bound.needs("kl"):
        parts.append("2 more for the KL, of which the reference's is cached")
    if bound.is_coupled:
        parts.append("1 more where a step does not fit into one forest")
    return "; ".join(parts)


def cost(bound: Bound) -> float:
    """Cost of one epoch relative to DPO, where a pass with gradient costs as much as three without."""
    return sum(bound.passes) / sum(bind({"name": "dpo"}).passes)


def markdown(name: str) -> str:
    """The page of an objective."""
    about = describe(name)
    lines = [f"# {name}", "", f"{about.title}.", "", "```", about.equation, "```", ""]
    lines += [f"**When to use it.** {about.use}", "", f"**What the paper claims.** {about.claim}", ""]
    lines += [f"**Data.** {about.data}.", "", f"**Cost.** {about.cost:.2f} x DPO over one epoch: {about.passes}.", ""]
    if about.settings:
        lines += ["| setting | default | range | meaning |", "| --- | --- | --- | --- |"]
        lines += [f"| `{s['name']}` | {s['default']} | {s['bounds']} | {s['words']} |" for s in about.settings]
        lines.append("")
    lines += ["| asks for | what it is |", "| --- | --- |", *(f"| `{k}` | {v} |" for k, v in about.asks.items()), ""]
    lines += ["| logged | what it is | while all is well |", "| --- | --- | --- |"]
    lines += [f"| `{key}` | {metric.heading} | {metric.hint} |" for key, metric in about.logged.items()]
    return "\n".join([*lines, "", f"Source: `{about.source}`.", ""])


def write_pages(folder: Path) -> None:
    """A page for each objective, and a table of all."""
    for name in OBJECTIVES:
        write_atomic(folder / f"{name}.md", markdown(name))
    words = (
        "# Objectives\n\nMade by `make docs` from the signatures and docstrings of the objectives; "
        "[../objectives.md](../objectives.md) tells how to choose and use one.\n"
    )
    write_atomic(folder / "README.md", f"{words}\n## By the data that you have\n\n{grouped()}\n\n## All\n\n{table()}\n")


def table() -> str:
    """All objectives as a Markdown table, each with a link to its page."""
    lines = ["| objective | what it is | learns from | reference | cost |", "| --- | --- | --- | --- | --- |"]
    for name in OBJECTIVES:
        about = describe(name)
        title = about.title.rsplit(": ", 1)[0] if "arXiv" in about.title else about.title
        reference = "yes" if "reference" in about.asks else "no"
        lines.append(f"| [{name}]({name}.md) | {title} | {about.data} | {reference} | {about.cost:.2f} x |")
    return "\n".join(lines)


def grouped() -> str:
    """The names of all objectives by the data they learn from, as a Markdown table."""
    kinds: dict[str, list[str]] = {}
    for name in OBJECTIVES:
        about = describe(name)
        kinds.setdefault(about.data, []).append(f"[{name}]({name}.md)")
    lines = ["| you have | objectives |", "| --- | --- |"]
    return "\n".join([*lines, *(f"| {data} | {', '.join(names)} |" for data, names in kinds.items())])


def logged_by(bound: Bound) -> list[str]:
    """Names of the numbers that the objective logs, found by calling it on a few made-up answers."""
    completion = torch.arange(4).repeat_interleave(2)
    tokens = Logprobs(torch.linspace(-2.0, -0.5, 8), completion, 4)
    said = Judged(Group(()), ((0, 1),), (1.0,), (True, False), (1.0, 0.0), (0.0, 1.0), ((True,), (False,)), (0.0, 1.0))
    learned = (
        {
            "score": Scores(tokens.token, completion, 4),
            "length_score": Scores(tokens.token, completion, 4),
            "writing": tokens,
            "target": completion,
            "feature": torch.eye(4),
            "dropped": torch.ones(4, 2, 4),
            "head": torch.eye(2, 4),
            "step": torch.arange(4),
            "prototype": torch.ones(bound.settings.get("prototypes", 1), 4),
        }
        if bound.needs("score")
        else {"policy": tokens}
    )
    case = Case(
        [said, said], **learned, reference=tokens, divergence=tokens, concentration=tokens, kl=torch.tensor(0.0),
        uniform=[[0.5], [0.5]],
    )  # fmt: skip
    return list((bound(policy=tokens) if bound.kind == "token" else ask(bound, case)).stats)


def bounds(metadata: Any) -> str:
    """The range of a setting, as mathematics writes it."""
    low, high = "", ""
    for limit in metadata:
        match limit:
            case Gt(gt=least):
                low = f"({least}"
            case Ge(ge=least):
                low = f"[{least}"
            case Lt(lt=most):
                high = f"{most})"
            case Le(le=most):
                high = f"{most}]"
    return f"{low}, {high or 'inf)'}" if low or high else ""


def _paragraph(words: str, name: str) -> str:
    found = re.search(rf"^{name}: (.+(?:\n    .+)*)", words, flags=re.M)
    flat = _flat(found[1]) if found else ""
    return flat[:1].upper() + flat[1:]


def _flat(words: str) -> str:
    return " ".join(words.split())


if __name__ == "__main__":
    write_pages(Path(sys.argv[1]))
