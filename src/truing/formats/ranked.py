"""One prompt and any number of answers in a list, with ranks or scores in lists beside it."""

from __future__ import annotations

from collections.abc import Mapping

from truing.formats.checks import Json, RowError, expect_list, expect_number, expect_text, shown
from truing.formats.format import Format, Notes, Row, canonical
from truing.formats.turns import check_ranking, read_exchange, write_exchange
from truing.records import Completion, Group

_ALIASES = {
    "completions": ("responses", "candidates"),
    "ranks": ("rank", "ranking"),
    "scores": ("score",),
}


def _matches(row: Mapping[str, Json]) -> bool:
    answers = canonical(row, _ALIASES).get("completions")
    # `labels` are the step labels of TRL's stepwise supervision: its completions are steps of one answer.
    if "prompt" not in row or "labels" in row or not isinstance(answers, list):
        return False
    return bool(answers) and all(map(_is_answer, answers))


def _is_answer(value: Json) -> bool:
    return isinstance(value, (str, list)) or (isinstance(value, dict) and "role" in value)


def read_ranked(row: Row) -> Group:
    """`{prompt, completions, ranks, scores, sources}`; the order of the list itself says nothing."""
    answers = expect_list(row.take("completions"), "completions")
    where = {f"completions[{i}]": answer for i, answer in enumerate(answers)}
    prompt, turns = read_exchange(row, row.take("prompt"), where)
    count = len(answers)
    ranks, scores, sources = _read_ranks(row, count), _column(row, "scores", count), _column(row, "sources", count)
    completions = []
    for i, (messages, rank, score, source) in enumerate(zip(turns, ranks, scores, sources, strict=True)):
        score = None if score is None else expect_number(score, f"scores[{i}]")
        source = None if source is None else expect_text(source, f"sources[{i}]")
        completions.append(Completion(messages, rank=rank, score=score, source=source))
    check_ranking(completions, "completions")
    return Group(prompt, tuple(completions))


def _column(row: Row, name: str, count: int) -> list[Json]:
    if name not in row:
        return [None] * count
    values = expect_list(row.take(name), name)
    if len(values) != count:
        raise RowError(f"expected {count} values, one for each answer; found {len(values)}; fix the list", name)
    if values.count(None) == count:
        row.note("nulls", name, values)
    return values


def _read_ranks(row: Row, count: int) -> list[int | None]:
    ranks = _column(row, "ranks", count)
    for i, rank in enumerate(ranks):
        if rank is not None and (isinstance(rank, bool) or not isinstance(rank, int) or rank < 0):
            raise RowError(f"expected a rank, 0 or 1 for the best; found {shown(rank)}; fix it", f"ranks[{i}]")
    first = min((rank for rank in ranks if rank is not None), default=0)
    if first > 1:
        raise RowError(f"expected ranks from 0 or from 1; the best here is {first}; renumber them", "ranks")
    if first:
        row.notes["first_rank"] = first
    return [None if rank is None else rank - first for rank in ranks]


def write_ranked(group: Group, notes: Notes) -> dict[str, Json]:
    """The inverse of `read_ranked`."""
    answers = {f"completions[{i}]": answer.messages for i, answer in enumerate(group.completions)}
    prompt, completions = write_exchange(group, answers, notes)
    first = notes.get("first_rank", 0)
    columns: dict[str, list[Json]] = {
        "ranks": [None if answer.rank is None else answer.rank + first for answer in group.completions],
        "scores": [answer.score for answer in group.completions],
        "sources": [answer.source for answer in group.completions],
    }
    told = {name: values for name, values in columns.items() if any(value is not None for value in values)}
    return {"prompt": prompt, "completions": completions, **notes.get("nulls", {}), **told}


RANKED = Format(
    name="ranked",
    describe="ranked answers, a list for each prompt",
    matches=_matches,
    reader=read_ranked,
    writer=write_ranked,
    aliases=_ALIASES,
)
