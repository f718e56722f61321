"""Answers that a model mends by a principle: the supervised half of constitutional AI (arXiv:2212.08073)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import Field

from truing import formats
from truing.errors import DataError, by_reason
from truing.records import Completion, Group
from truing.scoring.critique import critique_request, revision_request
from truing.scoring.principle import is_looping
from truing.scoring.replies import Reply
from truing.scoring.requests import Principles, principle_of
from truing.signatures import Count
from truing.stages.arranging import best
from truing.stages.context import Context, Groups, Model
from truing.stages.replies import Write, Writing, writer

FILE = "groups.jsonl"
REVISED = "revised"
"""The `source` of answers that were mended."""
SAME = "the answer is as before"
EMPTY = "an empty or repetitive reply"


class Revise(Writing):
    """Settings of `revise`."""

    principles: Annotated[Principles, Field(min_length=1)] = Field(
        description="what answers are mended by: a text or a list, of which one is drawn for each row and round"
    )
    rounds: Count = Field(1, description="how often an answer is found fault with and mended")


@dataclass(slots=True)
class Draft:
    """A row with its answer as it now stands. principle, critique: those of the last round that changed it."""

    row: Group
    first: Completion
    text: str
    principle: str = ""
    critique: str = ""


def revise(context: Context, settings: Revise, data: Groups, model: Model | None = None) -> None:
    """The model finds fault with each answer by a principle, and writes it anew; SFT then learns the new one.

    Each row has the revised answer and, as the worse one, that which it had: they are a comparison too. A reply that is
    of no use leaves the answer as it stands, and is counted; a row that no round has changed is left out.
    """
    read = data.read()
    drafts = [Draft(row, first, first.text) for row in read for first in best(row).completions]
    write, refused = writer(context, settings, model), Counter[str]()
    for number in range(1, settings.rounds + 1):
        mend(drafts, [principle_of(draft.row, settings.principles, context.seed + number) for draft in drafts],
             write, refused, number)  # fmt: skip
    groups = [revised(draft) for draft in drafts if draft.critique]
    if not groups:
        raise DataError(f"stage '{context.stage}' has no revised answer: {by_reason(refused)}: take a better model")
    context.event("data", source=data.description, rows=len(read), used=len(groups), refused=dict(refused))
    with context.output({"groups": FILE, "rows": len(groups)}) as folder:
        formats.write_data(groups, folder / FILE, format="group")


def mend(drafts: Sequence[Draft], principles: Sequence[str], write: Write, refused: Counter[str], number: int) -> None:
    """One round: a critique of each draft, and a revision of those that got one. `refused` counts the other replies."""
    requests = [
        critique_request(draft.row.prompt, draft.text, principle)
        for draft, principle in zip(drafts, principles, strict=True)
    ]
    found = []
    for draft, principle, reply in zip(drafts, principles, write(requests, f"critique-{number}"), strict=True):
        reason = _of_no_use(reply)
        if reason:
            refused[f"critique: {reason}"] += 1
        else:
            found.append((draft, principle, reply.text.strip()))
    requests = [revision_request(draft.row.prompt, draft.text, *criticised) for draft, *criticised in found]
    for (draft, principle, critique), reply in zip(found, write(requests, f"revision-{number}"), strict=True):
        reason = _of_no_use(reply) or (SAME if reply.text.strip() == draft.text.strip() else "")
        if reason:
            refused[f"revision: {reason}"] += 1
        else:
            draft.text, draft.principle, draft.critique = reply.text.strip(), principle, critique


def revised(draft: Draft) -> Group:
    """The row with the answer that came out, before the one that it had."""
    (message,) = draft.first.messages[-1:]
    new = Completion((replace(message, content=draft.text),), rank=0, source=REVISED)
    about = {"principle": draft.principle, "critique": draft.critique}
    old = replace(draft.first, rank=1, score=None, label=None)
    return replace(draft.row, completions=(new, old), strength=None, extra={**draft.row.extra, **about})


def _of_no_use(reply: Reply) -> str:
    """Why nothing can be made of a reply, or nothing."""
    return reply.failure or (EMPTY if not reply.text.strip() or is_looping(reply.text) else "")
