"""Data worth training on, out of any data: every row that breaks a rule is refused, with its place and the reason.

Rules are asked in a fixed order, each of the rows that those before it left: form, language, test sets, duplicates,
leaks, and last those that count rows. What is made is the same for the same rows, settings and seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import orjson
from pydantic import Field, model_validator

from truing import formats
from truing.curation import balancing, contamination, duplicates, language, private, quality
from truing.curation.texts import content, length, messages
from truing.errors import ConfigError, DataError
from truing.records import Group, to_json
from truing.scoring.score import FileName
from truing.signatures import Count, Fraction, Settings
from truing.stages.context import Context, Groups, write_json
from truing.store import disk

FILE = "groups.jsonl"
REFUSED = "refused.jsonl"
FINDINGS = "curation.json"
SHOWN = 4
"""Refused rows of each reason that are shown with their text."""
NAMED = 10
"""Leaks that an error names."""
QUANTILES = {"least": 0.0, "5 %": 0.05, "median": 0.5, "95 %": 0.95, "most": 1.0}

Said = Mapping[int, str]
"""By place among the rows that a rule was asked of, what else there is to say of a refused one."""
Rule = Callable[[Sequence[Group]], Said]


class Curate(Settings):
    """Settings of `curate`. Lengths are in characters."""

    equal: bool = Field(True, description="refuse rows in which two equal answers are judged differently")
    empty: bool = Field(True, description="refuse rows with an empty prompt or answer")
    unicode: bool = Field(True, description="refuse rows with U+FFFD, the mark of a lost character")
    fences: bool = Field(True, description="refuse rows with an answer whose block of code does not end")
    loops: int = Field(8, ge=0, description="refuse answers that repeat a line so many times in succession; 0: none")
    min_prompt: int = Field(0, ge=0, description="least length of a prompt")
    max_prompt: Count | None = Field(None, description="greatest length of a prompt")
    min_answer: int = Field(0, ge=0, description="least length of an answer")
    max_answer: Count | None = Field(None, description="greatest length of an answer")
    languages: tuple[str, ...] = Field((), description='such as ["en", "zh"]: refuse rows in others; none: any')
    language_least: Count = Field(50, description="shorter texts are in no language")
    test_sets: dict[str, FileName] = Field(
        default_factory=dict, description="files of test sets by name; no row may hold a piece of them"
    )
    test_words: Count = Field(13, description="words, or characters of Chinese and its kin, of such a piece")
    test_share: Fraction = Field(0.0, description="refuse from this share of a row's pieces on; 0: from the first one")
    duplicates: bool = Field(True, description="refuse rows that are equal to an earlier one")
    near: Fraction = Field(0.8, description="refuse rows as similar (Jaccard) as this to an earlier one; 0: none")
    near_words: Count = Field(3, description="words in a row by which similarity is counted")
    leaks: Literal["error", "drop", "keep"] = Field(
        "error", description="prompts that are also held out, or near to it: an error, drop the row, or keep it"
    )
    source: str | None = Field(None, description='what cap counts by: "file", or a column of the data')
    cap: Count | None = Field(None, description="refuse what comes after so many rows of one source")
    balance: bool = Field(False, description="refuse comparisons until the longer answer wins as often as the shorter")
    private: bool = Field(True, description="warn of what looks like secrets or personal data")

    @model_validator(mode="after")
    def _live(self) -> Self:
        if (self.cap is None) != (self.source is None):
            raise ConfigError("source and cap say nothing without each other: set both, or take both out")
        for name, least, most in (
            ("prompt", self.min_prompt, self.max_prompt),
            ("answer", self.min_answer, self.max_answer),
        ):
            if most is not None and least > most:
                raise ConfigError(f"min_{name} is {least} and max_{name} {most}: no length fits both")
        return self


class Refusal(NamedTuple):
    """A row that is left out: its place among all rows, and why. detail: the row it repeats, the test row, ..."""

    place: int
    reason: str
    detail: str


def curate(context: Context, settings: Curate, data: Groups, held_out: Groups | None = None) -> None:
    """Refuses rows that break a rule, and warns of secrets in those that are left."""
    groups = data.read()
    refusals: list[Refusal] = []
    left = list(range(len(groups)))
    asked = rules(settings, held_out.read() if held_out else [], context.seed)
    with context.reporter.task(f"{context.stage}: rules", len(asked)) as task:
        for done, (reason, rule) in enumerate(asked.items()):
            context.check_stop()
            said = rule([groups[place] for place in left])
            refusals += [Refusal(left[number], reason, said[number]) for number in sorted(said)]
            left = [place for number, place in enumerate(left) if number not in said]
            task.advance(done + 1, reason)
    kept = [groups[place] for place in left]
    counts = {reason: sum(refusal.reason == reason for refusal in refusals) for reason in asked}
    if not kept:
        most = max(counts, key=lambda reason: counts[reason])
        raise DataError(
            f"{context.stage}: none of {len(groups)} rows is left; most are refused for '{most}': loosen that rule"
        )
    warnings = private_data(kept) if settings.private else {}
    for kind, places in warnings.items():
        context.warn(f"{len(places)} rows seem to hold '{kind}' and are kept; the first: {places[0]}")
    if data.bad:
        context.warn(f"{len(data.bad)} rows could not be read and are left out; the first: {data.bad[0]}")
    context.event(
        "data",
        source=data.description,
        rows=len(groups),
        used=len(kept),
        refused={reason: count for reason, count in counts.items() if count},
    )
    with context.output({"groups": FILE, "curation": FINDINGS, "steps": 0}) as folder:
        formats.write_data(kept, folder / FILE, format="group")
        lines = [orjson.dumps(_refused(groups, refusal)) + b"\n" for refusal in sorted(refusals)]
        disk.write(folder / REFUSED, b"".join(lines))
        write_json(folder / FINDINGS, findings(groups, kept, refusals, counts, warnings))


def rules(settings: Curate, held_out: Sequence[Group], seed: int) -> dict[str, Rule]:
    """The rules that are switched on, in order, by the reason that a refused row is given."""
    found: dict[str, Rule] = {}
    if settings.equal:
        found["equal answers"] = _each(quality.equal_answers)
    if settings.empty:
        found["empty prompt or answer"] = _each(quality.empty)
    if settings.unicode:
        found["broken Unicode"] = _each(quality.broken_unicode)
    if settings.fences:
        found["open block of code"] = _each(quality.open_fence)
    if settings.loops:
        found["repeated lines"] = _each(partial(quality.looping, times=settings.loops))
    if settings.min_prompt or settings.max_prompt is not None:
        found["length of the prompt"] = _each(
            partial(quality.prompt_beyond, least=settings.min_prompt, most=settings.max_prompt)
        )
    if settings.min_answer or settings.max_answer is not None:
        found["length of an answer"] = _each(
            partial(quality.answer_beyond, least=settings.min_answer, most=settings.max_answer)
        )
    if settings.languages:
        language.demand_known(settings.languages)
        found["language"] = partial(_foreign, languages=settings.languages, least=settings.language_least)
    if settings.test_sets:
        pieces = contamination.read_pieces(settings.test_sets, settings.test_words)
        found["in a test set"] = partial(
            contamination.contaminated, pieces=pieces, width=settings.test_words, share=settings.test_share
        )
    if settings.duplicates:
        found["duplicate"] = lambda groups: _named(groups, duplicates.exact(groups))
    if settings.near:
        found["near duplicate"] = lambda groups: _named(
            groups, duplicates.near(groups, settings.near, settings.near_words)
        )
    if held_out and settings.leaks != "keep":
        found["prompt is held out"] = partial(_leaked, held_out=held_out, settings=settings)
    if settings.source is not None and settings.cap is not None:
        found["too many of its source"] = partial(balancing.beyond_cap, field=settings.source, cap=settings.cap)
    if settings.balance:
        found["balance of lengths"] = lambda groups: dict.fromkeys(balancing.unbalanced(groups, seed), "")
    return found


def private_data(groups: Sequence[Group]) -> dict[str, list[str]]:
    """The places of rows that seem to hold secrets or personal data, by kind."""
    found: dict[str, list[str]] = {}
    for group in groups:
        kinds = {one.kind for message in messages(group) for one in private.find(content(message))}
        for kind in sorted(kinds):
            found.setdefault(kind, []).append(group.place)
    return dict(sorted(found.items()))


def findings(
    groups: Sequence[Group],
    kept: Sequence[Group],
    refusals: Sequence[Refusal],
    counts: Mapping[str, int],
    warnings: Mapping[str, Sequence[str]],
) -> dict[str, Any]:
    """What the report shows: counts in the order of the rules, some refused rows, warnings, and lengths."""
    return {
        "rows": len(groups),
        "kept": len(kept),
        "refused": dict(counts),
        "examples": {
            reason: [_shown(groups, one) for one in [r for r in refusals if r.reason == reason][:SHOWN]]
            for reason, count in counts.items()
            if count
        },
        "warnings": {kind: {"rows": len(places), "places": list(places)} for kind, places in warnings.items()},
        "lengths": {"before": _lengths(groups), "after": _lengths(kept)},
    }


def _each(breaks: Callable[[Group], bool]) -> Rule:
    """A rule that looks at one row at a time."""
    return lambda groups: {place: "" for place, group in enumerate(groups) if breaks(group)}


def _foreign(groups: Sequence[Group], languages: Sequence[str], least: int) -> Said:
    found = {place: language.foreign(group, languages, least) for place, group in enumerate(groups)}
    return {place: name for place, name in found.items() if name is not None}


def _named(others: Sequence[Group], repeated: Mapping[int, int]) -> Said:
    return {place: others[other].place for place, other in repeated.items()}


def _leaked(groups: Sequence[Group], held_out: Sequence[Group], settings: Curate) -> Said:
    said = _named(held_out, duplicates.leaked(groups, held_out, settings.near, settings.near_words))
    if said and settings.leaks == "error":
        named = [f"{groups[place].place} is also held out as {said[place]}" for place in sorted(said)]
        more = f"\n  and {len(named) - NAMED} more" if len(named) > NAMED else ""
        raise DataError(
            f'{len(named)} prompts are held out too, or nearly so: set leaks = "drop" to train without these rows, '
            "or remove them from one of the two:\n  " + "\n  ".join(named[:NAMED]) + more
        )
    return said


def _refused(groups: Sequence[Group], refusal: Refusal) -> dict[str, Any]:
    """A line of refused.jsonl: what looks private is masked."""
    group = groups[refusal.place]
    line: dict[str, Any] = {"place": group.place, "reason": refusal.reason}
    if refusal.detail:
        line["detail"] = refusal.detail
    return line | {"row": private.masked(to_json(group))}


def _shown(groups: Sequence[Group], refusal: Refusal) -> dict[str, Any]:
    group = groups[refusal.place]
    return {
        "place": group.place,
        "detail": refusal.detail,
        "prompt": [{"role": turn.role, "content": private.mask(turn.content)} for turn in group.prompt],
        "answers": [private.mask(answer.text) for answer in group.completions],
    }


def _lengths(groups: Sequence[Group]) -> dict[str, dict[str, float]]:
    """Characters of prompts and answers: mean, and points of their order."""
    sizes = {
        "prompt": [length(group.prompt) for group in groups],
        "answer": [length(answer.messages) for group in groups for answer in group.completions],
    }
    return {name: _figures(np.array(found)) for name, found in sizes.items() if found}


def _figures(sizes: np.ndarray[Any, np.dtype[np.int64]]) -> dict[str, float]:
    points = {name: float(np.quantile(sizes, share)) for name, share in QUANTILES.items()}
    return {"mean": float(sizes.mean())} | points
