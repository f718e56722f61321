"""One rollout of online learning: answers drawn, scored, and read by every model before the first update."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from safetensors.torch import load_file
from torch import Tensor

from truing import formats
from truing.blending import prompt_hash
from truing.errors import DataError
from truing.models.saving import save_tensors
from truing.packing import pack
from truing.records import Completion, Group
from truing.reductions import scored_tokens
from truing.rendering import Renderer, Row
from truing.stages.arranging import FROM_REFERENCE
from truing.stages.context import Context
from truing.stages.sample import bare, demonstrated
from truing.tensors import Forest, PerToken

FILE, RIVAL, READ = "groups.jsonl", "rival.jsonl", "read.safetensors"
APART = "deviation"


@dataclass(frozen=True, slots=True)
class Rollout:
    """Answers with their scores, and what each model says of their tokens, all rows one after the other.

    groups: a prompt with its scored answers each. rival: each prompt's rival, scored too, where the algorithm has
    one that is no part of a pair; nothing is learnt from its tokens. rows: the groups as token ids. start: where the
    tokens of each row begin. read: behaviour and entropy, and reference and value where they are asked for, [N];
    behaviour and entropy come later where the pass that learns from the rollout is the one that reads it. failed:
    prompts that were left out, as the scorer failed on them, by reason. deviation: of what the parts of an ensemble of
    scorers say of each answer, [C]; None where the scorer is none.
    """

    groups: Sequence[Group]
    rival: Sequence[Completion]
    rows: Sequence[Row]
    start: Tensor
    read: dict[str, Tensor]
    failed: dict[str, int]
    deviation: Tensor | None = None

    @classmethod
    def of(
        cls,
        renderer: Renderer,
        groups: Sequence[Group],
        rival: Sequence[Completion],
        read: dict[str, Tensor],
        failed: dict[str, int],
    ) -> Rollout:
        """The answers as they were drawn, token for token."""
        rows = [renderer.render(group, index=place) for place, group in enumerate(groups)]
        return cls(groups, rival, rows, starts(rows), read, failed)

    @property
    def score(self) -> Tensor:
        """The scorer's own, [C]."""
        return torch.tensor([answer.score for group in self.groups for answer in group.completions])

    @property
    def completion(self) -> Tensor:
        """Which answer each token belongs to, [N]."""
        lengths = [sum(answer.scored) for row in self.rows for answer in row.answers]
        return torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))

    @property
    def group(self) -> Tensor:
        """Which row each answer belongs to, [C]."""
        return torch.arange(len(self.rows)).repeat_interleave(torch.tensor([len(row.answers) for row in self.rows]))

    @property
    def by_reference(self) -> Tensor:
        """Whether the reference wrote each answer, as the rival in a pair, [C]."""
        return torch.tensor([answer.source == FROM_REFERENCE for group in self.groups for answer in group.completions])

    @property
    def sampled(self) -> Tensor:
        """What the generator says of each token, [N]."""
        drawn = [answer.sampled for group in self.groups for answer in group.completions]
        return torch.tensor([logprob for one in drawn if one is not None for logprob in one.logprobs])

    def without(self, renderer: Renderer, rows: Collection[int], reason: str) -> Rollout:
        """The rollout without some of its rows, which are counted among those that failed."""
        stay = torch.tensor([row not in rows for row in range(len(self.rows))])
        groups = [group for row, group in enumerate(self.groups) if row not in rows]
        rival = [one for row, one in enumerate(self.rival) if row not in rows]
        of_tokens = stay.repeat_interleave(self.start.diff())
        read = {name: token[of_tokens] for name, token in self.read.items()}
        failed = {**self.failed, reason: self.failed.get(reason, 0) + len(rows)}
        deviation = None if self.deviation is None else self.deviation[stay[self.group]]
        return replace(Rollout.of(renderer, groups, rival, read, failed), deviation=deviation)

    def broken(self) -> dict[int, str]:
        """Rows of whose tokens something was read that is NaN or infinite, and what."""
        row_of = torch.arange(len(self.rows)).repeat_interleave(self.start.diff())
        found: dict[int, str] = {}
        for name, token in {**self.read, "generator": self.sampled}.items():
            for row in sorted(set(row_of[~token.isfinite()].tolist())):
                found.setdefault(row, name)
        return found

    def part(self, token: Tensor, forest: Forest, kept: Tensor) -> PerToken:
        """What belongs to a forest, of the rows' answers whose tokens are kept, [N]."""
        places = [slice(int(self.start[row]), int(self.start[row + 1])) for row in forest.rows]
        own = torch.cat([token[place][kept[place]] for place in places])
        return PerToken(own.to(forest.completion.device), forest.completion, forest.group.shape[0])


def per_token(rows: Sequence[Row], said: Callable[[Forest], Mapping[str, PerToken]], budget: int) -> dict[str, Tensor]:
    """What is said of each scored token without gradient, by name, all rows one after the other, [N] each."""
    start = starts(rows)
    read: dict[str, Tensor] = {}
    with torch.no_grad():
        for forest in pack(rows, budget):
            note(read, start, forest, said(forest))
    return read


def note(read: dict[str, Tensor], start: Tensor, forest: Forest, said: Mapping[str, PerToken]) -> None:
    """Puts what is said of a forest's tokens where they stand among those of all rows, [N]."""
    for name, values in said.items():
        token = read.setdefault(name, torch.empty(int(start[-1])))
        found = values.token.detach().cpu()
        for row in forest.rows:
            count = int(start[row + 1] - start[row])
            token[start[row] : start[row + 1]] = found[:count]
            found = found[count:]


def starts(rows: Sequence[Row]) -> Tensor:
    """Where the scored tokens of each row begin, and where the last one's end."""
    return torch.tensor([0] + [scored_tokens(row) for row in rows]).cumsum(0)


def kept(context: Context, number: int, renderer: Renderer, make: Callable[[], Rollout]) -> Rollout:
    """The rollout of this number: made, or found in the run, where it stays until a checkpoint has passed it."""
    name = f"rollout-{number}"
    done = context.run.artifact(f"{context.key}-{name}")
    if done is None:
        made = make()
        with context.output({"rows": len(made.groups), "failed": made.failed}, part=name) as folder:
            formats.write_data(made.groups, folder / FILE, format="group")
            if made.rival:
                alone = [replace(row, completions=(one,)) for row, one in zip(made.groups, made.rival, strict=True)]
                formats.write_data(alone, folder / RIVAL, format="group")
            apart = {} if made.deviation is None else {APART: made.deviation}
            save_tensors({**made.read, **apart}, folder / READ)
        return made
    groups = formats.read_groups(done.path / FILE, format="group")
    path = done.path / RIVAL
    rival = [row.completions[0] for row in formats.read_groups(path, format="group")] if path.exists() else []
    read = load_file(done.path / READ)
    known = read.pop(APART, None)
    return replace(Rollout.of(renderer, groups, rival, read, dict(done.meta["failed"])), deviation=known)


def oldest_step(context: Context) -> int:
    """The step of the oldest checkpoint from which this stage may go on; 0 without any. None is hashed for that.

    Where a newer one proves damaged, it is the older one whose rollouts are needed.
    """
    found = context.run.checkpoints(context.key)
    return min((int(one.meta["step"]) for one in found if not one.meta["finished"]), default=0)


def forget(context: Context, before: float = math.inf) -> None:
    """Removes the rollouts of lower numbers, which a checkpoint has passed; all of them once the stage is done."""
    for artifact in context.run.artifacts():
        name = artifact.meta.get("part", "")
        if artifact.key.startswith(context.key) and name.startswith("rollout-") and int(name[8:]) < before:
            context.run.discard_artifact(artifact.key)


def prompts_of(groups: Sequence[Group]) -> list[Group]:
    """The prompts alone, each once, in their order; a demonstration's answer stays as a column, for scorers to see."""
    found = {prompt_hash(row): replace(bare(row), extra={**demonstrated(row), **row.extra}) for row in reversed(groups)}
    prompts = list(found.values())[::-1]
    if not prompts:
        raise DataError("there is no prompt to answer: look at `data`")
    return prompts


def in_turn(rows: int, count: int, number: int, seed: int) -> list[int]:
    """The rows of draw `number`, counted from 0, `count` each: every pass is a new order by seed, none is left out."""
    places = (divmod(where, rows) for where in range(number * count, (number + 1) * count))
    return [_order(rows, seed, turn)[place] for turn, place in places]


@lru_cache(maxsize=8)
def _order(count: int, seed: int, turn: int) -> list[int]:
    """The order of one pass."""
    order: list[int] = torch.randperm(count, generator=torch.Generator().manual_seed(seed * 1_000_003 + turn)).tolist()
    return order
