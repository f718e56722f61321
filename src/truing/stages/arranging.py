"""What people said of the answers to a prompt, in the form that each kind of objective asks for.

Comparisons, rankings, scores and thumbs all flow into every objective that they can serve: a ranking gives
comparisons, a comparison gives two thumbs, scores give an order, strengths and margins.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from truing.errors import DataError
from truing.objectives import Bound, Kind
from truing.records import TEXT_ROLE, Completion, Group, Message, text, user

Pairs = Literal["all", "best_worst", "adjacent"]
FROM_REFERENCE = "reference"
"""The `source` of answers that the reference model wrote."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A row whose answers stand best first, with all that objectives may ask of them.

    pairs: (chosen, rejected) as places among the answers. strength: one for each pair. label, reward, by_reference:
    one for each answer. drawn: 1 for each answer that a model drew. right: for each answer whether each of its steps is
    right, where the objective asks for steps.
    """

    group: Group
    pairs: tuple[tuple[int, int], ...]
    strength: tuple[float, ...]
    label: tuple[bool, ...]
    reward: tuple[float, ...]
    by_reference: tuple[float, ...]
    right: tuple[tuple[bool, ...], ...] = ()
    drawn: tuple[float, ...] = ()


def judge(group: Group, kind: Kind, which: Pairs = "all", *, scored: bool = False) -> Judged:
    """The row for an objective of this kind. scored: whether the objective asks for a score of each answer.

    Raises DataError, with what to do, where the row does not say what is needed.
    """
    if scored and kind != "ranking" and any(answer.score is None for answer in group.completions):
        raise DataError(f"{group.place}: this objective needs a score of each answer: put scores into the data")
    if kind == "step":
        ordered = _with_steps(group)
    elif kind == "answer":  # every scored answer counts for itself; thumbs need both kinds
        ordered = group if scored and group.completions else _with_labels(group)
    else:
        ordered = _best_first(group)
    answers = ordered.completions
    pairs = _pairs(ordered, which) if kind == "pair" else ()
    return Judged(
        ordered,
        pairs,
        tuple(_strength(ordered, chosen, rejected) for chosen, rejected in pairs),
        tuple(bool(answer.label) for answer in answers),
        tuple(_reward(answer) for answer in answers),
        tuple(float(answer.source == FROM_REFERENCE) for answer in answers),
        tuple(tuple(bool(step.right) for step in answer.steps) for answer in answers) if kind == "step" else (),
        tuple(float(answer.sampled is not None) for answer in answers),
    )


def judged_rows(objective: Bound, groups: Sequence[Group], which: Pairs = "all") -> list[Judged]:
    """The rows as the objective wants them. Raises DataError where one does not say what the objective needs."""
    rows = []
    for group in groups:
        _demand_two(objective, group)
        row = judge(group, objective.kind, which, scored=objective.needs("reward"))
        _demand_what_counts(objective, row)
        rows.append(row)
    return rows


def to_watch(objective: Bound, groups: Sequence[Group]) -> list[Group]:
    """The held-out rows that an objective can be measured on: not bare prompts, nor rows that count nothing.

    Without a strength the margin is 0: margins come from an audit of the training rows, and held-out rows are to be as
    people labelled them. For chances, which a judge gives to the training rows, they are then sure: 1 and 0.
    """
    rows = [group for group in groups if group.completions and group.weight]
    if objective.kind == "pair" and objective.needs("reward"):
        rows = [_sure(group) for group in rows]
    if not objective.needs("margin"):
        return rows
    return [group if has_strength(group) else replace(group, strength=0.0) for group in rows]


def _sure(group: Group) -> Group:
    """A comparison by people with a score for each answer: 1 for the chosen one, 0 for the other."""
    answers = group.completions
    if len(answers) != 2 or any(answer.rank is None or answer.score is not None for answer in answers):
        return group
    best = min(answer.rank or 0 for answer in answers)
    return replace(group, completions=tuple(replace(one, score=float(one.rank == best)) for one in answers))


def has_strength(group: Group) -> bool:
    """Whether the row says how strongly its answers are preferred."""
    return group.strength is not None or all(answer.score is not None for answer in group.completions)


def best(group: Group) -> Group:
    """The row with its best answer alone: lowest rank, highest score, a thumb up, or the only one."""
    if not group.completions:
        raise DataError(f"{group.place}: this row has no answer to train on: use it as a prompt, or drop it")
    if len(group.completions) == 1:
        return group
    if any(_order(answer) is None for answer in group.completions):
        count = len(group.completions)
        raise DataError(f"{group.place}: {count} answers and no rank or score says which one to train on")
    return replace(group, completions=(_best_first(group).completions[0],), strength=None)


def conditioned(group: Group, good: str, bad: str) -> list[Group]:
    """One row for each answer, which follows an instruction that says whether it is good or bad."""
    labelled = _with_labels(group)
    return [
        replace(labelled, prompt=_asked(group.prompt, good if answer.label else bad), completions=(answer,))
        for answer in labelled.completions
    ]


def hindsight(group: Group, good: str, bad: str, seed: int) -> Group:
    """The best and the worst answer one after the other, each after an instruction, in an order drawn by `seed`."""
    if len(group.completions) < 2:
        raise DataError(f"{group.place}: chain_of_hindsight needs two answers: use comparisons or rankings")
    ordered = _best_first(group).completions
    sides = [(good, ordered[0]), (bad, ordered[-1])]
    random.Random(f"{seed}:{group.id}").shuffle(sides)
    (first, one), (second, other) = sides
    between = text(f"\n\n{second}\n") if _is_text(group) else user(second)
    if _is_text(group):
        # of verbatim text every word is scored, so only the later answer can follow an announcement that is not
        prompt = (*_asked(group.prompt, first), *one.messages, between)
        return replace(group, prompt=prompt, completions=(Completion(other.messages),), strength=None)
    turns = Completion((*one.messages, between, *other.messages))
    return replace(group, prompt=_asked(group.prompt, first), completions=(turns,), strength=None)


def instructed_by(group: Group, instruction: str) -> Group:
    """The row with an instruction at the end of its prompt; without one, as it is."""
    return replace(group, prompt=_asked(group.prompt, instruction)) if instruction else group


def _demand_two(objective: Bound, group: Group) -> None:
    """A single answer is refused with what may be done with such rows."""
    count = len(group.completions)
    if objective.kind in ("pair", "ranking") and count < 2:
        advice = _use_of_single(group.completions[0], objective.stage) if count else "use it as a prompt, or drop it"
        raise DataError(f"{group.place}: '{objective.name}' compares two answers, this row has {count}: {advice}")


def _use_of_single(answer: Completion, stage: str) -> str:
    if any(step.right is not None for step in answer.steps):
        return "its steps are judged: train a reward model of steps, objective 'process' of stage 'reward_model'"
    if answer.score is not None:
        return f"learn from its score, by objective '{'weighted_nll' if stage == 'preference' else 'regression'}'"
    if answer.label is not None and stage == "preference":
        return "use an objective on thumbs, such as kto"
    if answer.label is not None:
        return "no reward model learns from thumbs: bring comparisons, or scores for objective 'regression'"
    return "bring a second answer, or use stage 'sft'"


def _demand_what_counts(objective: Bound, row: Judged) -> None:
    """Without what the objective is about it would silently be another one."""
    place = row.group.place
    counted = objective.kind == "ranking" or objective.needs("strength") or objective.needs("margin")
    if counted and any(later > earlier for earlier, later in pairwise(row.reward)):
        raise DataError(f"{place}: ranks and scores contradict each other: leave one of them out")
    if objective.needs("strength") or objective.needs("margin"):
        if not has_strength(row.group):
            raise DataError(f"{place}: '{objective.name}' needs a strength: put `strength` or scores into the data")
        if objective.needs("strength") and min(row.strength) <= 0:
            raise DataError(f"{place}: a strength must be above 0; found {min(row.strength)}: drop the row")
    if objective.needs("from_reference") and not any(row.by_reference):
        raise DataError(f"{place}: '{objective.name}' needs an answer whose `source` is \"{FROM_REFERENCE}\"")
    if objective.kind == "pair" and objective.needs("reward") and not all(0 <= score <= 1 for score in row.reward):
        raise DataError(f"{place}: '{objective.name}' takes scores as probabilities from 0 to 1; found {row.reward}")
    if objective.takes_shares and any(not row.reward[one] and not row.reward[other] for one, other in row.pairs):
        raise DataError(
            f"{place}: '{objective.name}' takes an answer's share of the scores of both, which are 0: drop the row"
        )


def _asked(prompt: Sequence[Message], instruction: str) -> tuple[Message, ...]:
    """The prompt with an instruction at the end of its last turn, or of its text."""
    if not prompt:
        return (text(f"{instruction}\n"),)
    last = prompt[-1]
    ending = f"\n\n{instruction}\n" if last.role == TEXT_ROLE else f"\n\n{instruction}"
    return (*prompt[:-1], replace(last, content=last.content + ending))


def _is_text(group: Group) -> bool:
    return any(message.role == TEXT_ROLE for message in (*group.prompt, *group.completions[0].messages))


def _order(answer: Completion) -> tuple[int, float] | None:
    """What answers are sorted by, the best lowest; only like is compared with like."""
    if answer.rank is not None:
        return (0, float(answer.rank))
    if answer.score is not None:
        return (1, -answer.score)
    if answer.label is not None:
        return (2, -float(answer.label))
    return None


def _best_first(group: Group) -> Group:
    orders = [_order(answer) for answer in group.completions]
    if len(orders) < 2:
        raise DataError(f"{group.place}: a comparison needs two answers, this row has {len(orders)}")
    known = [order for order in orders if order is not None]
    if len(known) < len(orders) or len({kind for kind, _ in known}) > 1:
        raise DataError(f"{group.place}: each answer needs a rank, or each a score: say which answer is preferred")
    if len(set(known)) == 1:
        raise DataError(f"{group.place}: a comparison needs two different ranks: say which answer is preferred")
    places = sorted(range(len(orders)), key=lambda place: known[place])
    _refuse_equals([group.completions[place] for place in places], [known[place] for place in places], group.place)
    return replace(group, completions=tuple(group.completions[place] for place in places))


def _refuse_equals(answers: Sequence[Completion], orders: Sequence[tuple[int, float]], place: str) -> None:
    seen: dict[tuple[tuple[str, str], ...], tuple[int, float]] = {}
    for answer, order in zip(answers, orders, strict=True):
        words = tuple((message.role, message.content) for message in answer.messages)
        if seen.setdefault(words, order) != order:
            raise DataError(f"{place}: 'chosen' and 'rejected' are equal: drop the line")


def _pairs(group: Group, which: Pairs) -> tuple[tuple[int, int], ...]:
    """Which answers are compared, the better one first. Ties are not."""
    orders = [_order(answer) for answer in group.completions]
    last = len(orders) - 1
    if which == "best_worst":
        return ((0, last),)
    every = [(i, j) for i in range(last + 1) for j in range(i + 1, last + 1) if orders[i] != orders[j]]
    if which == "all":
        return tuple(every)
    levels = sorted({order for order in orders if order is not None})
    return tuple((i, j) for i, j in every if levels.index(orders[j] or (0, 0)) - levels.index(orders[i] or (0, 0)) == 1)


def _strength(group: Group, chosen: int, rejected: int) -> float:
    """How much better the chosen answer is; 1 where nothing says so."""
    better, worse = group.completions[chosen].score, group.completions[rejected].score
    if better is not None and worse is not None:
        return better - worse
    return 1.0 if group.strength is None else group.strength


def _reward(answer: Completion) -> float:
    if answer.score is not None:
        return answer.score
    return float(bool(answer.label)) if answer.rank is None else -float(answer.rank)


def _with_steps(group: Group) -> Group:
    """The answers, of which each has steps that are right or wrong."""
    for answer in group.completions:
        if not answer.steps or any(step.right is None for step in answer.steps):
            raise DataError(f"{group.place}: an answer without judged steps: put `completions` and `labels` of them in")
    if not group.completions:
        raise DataError(f"{group.place}: this row has no answer to train on: use it as a prompt, or drop it")
    return group


def _with_labels(group: Group) -> Group:
    """The answers with a thumb each. Of ranked or scored answers the best is up, the worst down, the rest left out."""
    answers = group.completions
    if answers and all(answer.label is not None for answer in answers):
        return group
    if len(answers) < 2:
        raise DataError(f"{group.place}: the answer needs a thumb: put `label` (true or false) into the data")
    ordered = _best_first(group).completions
    return replace(
        group, completions=(replace(ordered[0], label=True), replace(ordered[-1], label=False)), strength=None
    )
