"""Requests that ask for ever more, and answers that give ever more: what graders are to tell apart (DEITA)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field, field_validator

from truing import formats
from truing.errors import ConfigError, DataError, by_reason
from truing.records import TEXT_ROLE, Group
from truing.scoring.principle import is_looping
from truing.scoring.replies import Reply
from truing.selection.evolution import (
    Kind,
    Variant,
    degenerate,
    grown,
    growth_request,
    seed_of,
    to_group,
    way_of,
)
from truing.selection.ranking import MOST
from truing.selection.turns import turns_of
from truing.signatures import Count
from truing.stages.context import Context, Groups, Model, write_json
from truing.stages.replies import Writing, writer
from truing.stages.select import head

FILE = "groups.jsonl"
FINDINGS = "evolution.json"
SHOWN = 4
"""Chains of each kind, and replies of each reason, that are shown with their text."""
NO_REQUEST = "no request in the row"
NO_ANSWER = "no answer to better"
PREFACED = "something before the first request, such as a system prompt, which variants would lack"
TWICE = "a seed that an earlier row has too"
LOOPS = "goes round in circles"


class Evolve(Writing):
    """Settings of `evolve`."""

    of: Annotated[tuple[Kind, ...], Field(min_length=1)] = Field(
        ("complexity", "quality"), description="what grows: complexity of the request, quality of the answer, or both"
    )
    rounds: Annotated[int, Field(ge=1, lt=MOST)] = Field(5, description="steps from each seed")
    limit: Count | None = Field(None, description="use only so many rows")
    max_new_tokens: Count = Field(512, description="limit of a variant in tokens; what is cut off there is dropped")

    @field_validator("of")
    @classmethod
    def _once(cls, value: tuple[Kind, ...]) -> tuple[Kind, ...]:
        if len(set(value)) < len(value):
            raise ConfigError(f"names '{next(kind for kind in value if value.count(kind) > 1)}' twice")
        return value


@dataclass(slots=True)
class Tally:
    """What became of the replies, by kind: how many variants each round made, and why others are none."""

    made: dict[str, Counter[int]] = field(default_factory=dict)
    dropped: dict[str, Counter[str]] = field(default_factory=dict)
    examples: dict[str, list[dict[str, str]]] = field(default_factory=dict)

    def drop(self, parent: Variant, reply: Reply, reason: str) -> None:
        """One more reply that is no variant."""
        self.dropped.setdefault(parent.kind, Counter())[reason] += 1
        shown = self.examples.setdefault(reason, [])
        if reply.text.strip() and len(shown) < SHOWN:
            shown.append({"kind": parent.kind, "parent": parent.text, "text": reply.text})


def evolve(context: Context, settings: Evolve, data: Groups, model: Model | None = None) -> None:
    """Takes the first request of each row, and its answer, some steps on; each step starts from the last that was good.

    A reply that is no variant is dropped, and the chain tries another way in the next round.
    """
    groups = data.read()[: settings.limit]
    chains, unused = begun(groups, settings.of)
    if not chains:
        raise DataError(f"stage '{context.stage}' has no row to begin with: {by_reason(unused)}")
    write = writer(context, settings, model)
    tally = Tally()
    for number in range(1, settings.rounds + 1):
        ways = [way_of(chain[0], number, context.seed) for chain in chains]
        requests = [growth_request(chain[-1], way) for chain, way in zip(chains, ways, strict=True)]
        for chain, way, reply in zip(chains, ways, write(requests, f"round-{number}"), strict=True):
            reason = refusal(reply, chain)
            if reason:
                tally.drop(chain[-1], reply, reason)
            else:
                chain.append(grown(chain[-1], number, way, reply.text.strip()))
                tally.made.setdefault(chain[0].kind, Counter())[number] += 1
    if not tally.made:
        raise DataError(f"stage '{context.stage}' made no variant of {len(chains)} seeds: {tally.dropped}")
    variants = [variant for chain in chains for variant in chain]
    used = len(groups) - unused.total()
    context.event("data", source=data.description, rows=len(groups), used=used, refused=dict(unused))
    with context.output({"groups": FILE, "evolution": FINDINGS, "rows": len(variants)}) as folder:
        formats.write_data([to_group(variant) for variant in variants], folder / FILE, format="group")
        write_json(folder / FINDINGS, findings(chains, settings, tally))


def begun(groups: Sequence[Group], kinds: Sequence[Kind]) -> tuple[list[list[Variant]], Counter[str]]:
    """A chain of one variant, the seed, for each row and kind, and how many rows have none and why.

    Of a conversation the first request counts: later ones are not understood without what was said before. So is
    neither what follows a system prompt, which no variant, judge or grader is shown.
    """
    chains: list[list[Variant]] = []
    seen: set[tuple[Kind, str]] = set()
    unused: Counter[str] = Counter()
    for group in groups:
        if group.prompt and group.prompt[0].role not in ("user", TEXT_ROLE):
            unused[PREFACED] += 1
            continue
        preferred = head(group)
        turns = turns_of(preferred.prompt, [turn for answer in preferred.completions for turn in answer.messages])
        if not turns or not turns[0].instruction.strip():
            unused[NO_REQUEST] += 1
            continue
        seeds = [seed_of(kind, turns[0]) for kind in kinds if kind == "complexity" or turns[0].answer.strip()]
        new = [seed for seed in seeds if (seed.kind, seed.seed) not in seen]
        if not new:
            unused[TWICE if seeds else NO_ANSWER] += 1
        seen |= {(seed.kind, seed.seed) for seed in new}
        chains += [[seed] for seed in new]
    return chains, unused


def refusal(reply: Reply, chain: Sequence[Variant]) -> str:
    """Why a reply is no next variant, or ""."""
    if reply.failure:
        return reply.failure
    return LOOPS if is_looping(reply.text) else degenerate(reply.text, chain)


def findings(chains: Sequence[Sequence[Variant]], settings: Evolve, tally: Tally) -> dict[str, Any]:
    """What the report shows: by kind the variants of each round and why others were dropped, and examples of both."""
    kinds = {}
    for kind in settings.of:
        own = [chain for chain in chains if chain[0].kind == kind]
        made = tally.made.get(kind, Counter())
        longest = sorted(own, key=len, reverse=True)[:SHOWN]  # stable: of equal ones the first
        kinds[kind] = {
            "seeds": len(own),
            "made": [made[number] for number in range(1, settings.rounds + 1)],
            "dropped": dict(tally.dropped.get(kind, Counter()).most_common()),
            "chains": [[variant_shown(variant) for variant in chain] for chain in longest],
        }
    return {"kinds": kinds, "dropped": tally.examples}


def variant_shown(variant: Variant) -> dict[str, Any]:
    """A variant as the report has it."""
    return {
        "round": variant.round,
        "way": variant.way,
        "request": variant.turn.instruction,
        "answer": variant.turn.answer,
    }
