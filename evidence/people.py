"""Reward models, audits and selected data on what people said and wrote: trained by recipes, kept as pieces.

Every number is of comparisons that the model never saw: the conversations of a set fall into three folds. For each
fold a learning rate and a number of epochs are chosen by training on the next fold and looking at the one after; then a
model is trained on both, and measured on the fold.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from evidence import human
from evidence.detection import auroc_interval
from evidence.found import Found, short
from evidence.reward import turned
from evidence.running import Trainings, made_groups, model_of, passing_run, run, score_of, write
from truing import statistics
from truing.compute.engine.local import LocalEngine
from truing.formats import read_groups
from truing.models import load, locate, read_renderer
from truing.models.precision import Precision, best_device, compute_dtype
from truing.records import Group
from truing.rendering import Renderer
from truing.scoring.principle import answer_logprobs, says_nothing
from truing.stages.select import ALIKE
from truing.statistics import Interval
from truing.store import Run

FOLDS = 3
AUDITED = ("hh_harmless", "oasst1_en")
"""Sets whose labels are turned round."""
ODIN = "odin"
PLAIN = "bradley_terry"


@dataclass(frozen=True, slots=True)
class Size(Trainings):
    """How much is tried.

    rows: of each set, at most. rates, epochs: what is chosen among, the latter up to so many.
    shares: labels turned round for an audit. members: models that vote in it.
    pool, budget: rows to select from, and selected. draws: trainings of each selection. references: answers of people
    that measure them. prompts, tokens: how many of their prompts are answered, and the length limit of an answer.
    """

    rows: int = 100_000
    rates: tuple[float, ...] = (3e-5, 1e-4)
    epochs: int = 3
    seeds: int = 1
    shares: tuple[float, ...] = (0.05, 0.1, 0.2)
    members: int = 2
    pool: int = 100_000
    budget: int = 600
    draws: int = 3
    references: int = 427
    prompts: int = 252
    tokens: int = 160


QUICK = Size(
    rows=60,
    rates=(1e-4,),
    epochs=1,
    batch=8,
    shares=(0.2,),
    members=1,
    pool=48,
    budget=12,
    draws=1,
    references=12,
    prompts=6,
    tokens=24,
)
"""Everything once, so small that two CPU cores do it in some minutes; its numbers mean nothing."""


class Choice(NamedTuple):
    """A learning rate and a number of epochs."""

    rate: float
    epochs: int


@dataclass(frozen=True)
class Trial:
    """Where data are read and runs are made, and what was found so far."""

    data: Path
    folder: Path
    found: Found
    size: Size = Size()
    model: str = "smollm2"
    precision: Precision = "auto"

    @cached_property
    def sets(self) -> Mapping[str, list[Group]]:
        """The comparisons of each set, evenly thinned out to `rows`, each with its number."""
        return {name: _numbered(_thinned(read(self.data), self.size.rows)) for name, read in human.SETS.items()}

    @property
    def forest(self) -> int:
        """Tokens run at once: as many as keep a GPU busy, or fit into a small machine."""
        return 16384 if best_device().type == "cuda" else 2048

    def folds(self, name: str) -> list[list[Group]]:
        """The comparisons of a set, by conversation."""
        found: list[list[Group]] = [[] for _ in range(FOLDS)]
        for group in self.sets[name]:
            found[human.fold_of(group, FOLDS, "measured")].append(group)
        return found

    def common(self, seed: int, *stages: str) -> dict[str, Any]:
        """Settings that all runs have in common. stages: those that read rows in forests."""
        budgets = {f"{stage}.forest_tokens": self.forest for stage in stages}
        return {"model": self.model, "precision": self.precision, "seed": seed, **budgets}

    def training(self, stage: str, choice: Choice) -> dict[str, Any]:
        """Settings of a stage that trains a reward model."""
        chosen = {"learning_rate": choice.rate, "epochs": choice.epochs, "batch_size": self.size.batch}
        return {f"{stage}.{name}": value for name, value in chosen.items()}


def begin(trial: Trial) -> None:
    """Writes down what is measured, which must be what other pieces were measured with."""
    trial.found.settle({**asdict(trial.size), "model": trial.model})


def rows(trial: Trial) -> None:
    """Which comparisons are of one conversation, and by how many tokens the chosen answer is longer."""
    for name, groups in trial.sets.items():
        trial.found.piece(f"rows/{name}", partial(_described, trial, groups))


def words(trial: Trial) -> None:
    """The baseline of words, by fold."""
    for name in trial.sets:
        for fold in range(FOLDS):
            trial.found.piece(f"words/{name}/{fold}", partial(_by_words, *_parted(trial.folds(name), fold)))


def reward(trial: Trial) -> None:
    """Plain reward models, by fold and seed."""
    for seed in range(trial.size.seeds):
        for name in trial.sets:
            for fold in range(FOLDS):
                judged(trial, name, fold, PLAIN, seed)


def length(trial: Trial) -> None:
    """ODIN beside the plain reward model, where people prefer longer answers."""
    for seed in range(trial.size.seeds):
        for fold in range(FOLDS):
            for objective in (PLAIN, ODIN):
                judged(trial, "oasst1_en", fold, objective, seed)


def choice(trial: Trial, name: str, fold: int) -> Choice:
    """What is right most often on the fold after the next, after training on the next one; of equal ones the first."""

    def find() -> dict[str, Any]:
        folds = trial.folds(name)
        train, looked_at = folds[(fold + 1) % FOLDS], folds[(fold + 2) % FOLDS]
        looks = {f"{rate:g}": _looks(trial, train, looked_at, rate) for rate in trial.size.rates}
        best = max(
            (Choice(rate, epochs) for rate in trial.size.rates for epochs in range(1, trial.size.epochs + 1)),
            key=lambda one: looks[f"{one.rate:g}"][one.epochs - 1],
        )
        return {**best._asdict(), "looks": looks}

    found = trial.found.piece(f"choice/{name}/{fold}", find)
    return Choice(found["rate"], found["epochs"])


def judged(trial: Trial, name: str, fold: int, objective: str, seed: int) -> None:
    """What a reward model trained on the other folds makes of a fold."""
    chosen = choice(trial, name, fold)
    train, held_out = _parted(trial.folds(name), fold)

    def find() -> dict[str, Any]:
        settings = _reward_settings(trial, chosen, objective, train, held_out, seed)
        with passing_run("reward-people", trial.folder / "judged", settings) as finished:
            return _gaps_of(made_groups(finished, "score"))

    trial.found.piece(f"judged/{name}/{fold}/{objective}/{seed}", find)


def audit(trial: Trial) -> None:
    """Labels turned round on purpose, and how well the vote finds them. The settings are those of the first fold."""
    for name in AUDITED:
        for share in trial.size.shares:
            audited(trial, name, share)


def audited(trial: Trial, name: str, share: float) -> None:
    """One audit of a set with a share of its labels turned round."""
    chosen = choice(trial, name, 0)

    def find() -> dict[str, Any]:
        file = write(with_turned(trial.sets[name], share), trial.folder / "turned.jsonl")
        settings = {**trial.common(0, "audit"), **trial.training("audit", chosen), "data.path": file}
        settings["audit.members"] = trial.size.members
        with passing_run("reward-people-audit", trial.folder / "audited", settings) as finished:
            return _detected(made_groups(finished, "audit"))

    trial.found.piece(f"audit/{name}/{share:g}", find)


def with_turned(groups: Sequence[Group], share: float) -> list[Group]:
    """The comparisons with a share of them turned round, drawn by chance; `turned` says which."""
    drawn = set(random.Random(f"turned {share:g}").sample(range(len(groups)), round(share * len(groups))))
    found = [replace(group, extra={**group.extra, "turned": place in drawn}) for place, group in enumerate(groups)]
    return [turned(group) if group.extra["turned"] else group for group in found]


class Arm(NamedTuple):
    """An order of selection: what a row is worth, and whether rows that are alike are left out."""

    name: str
    by: str
    diverse: bool = False


RANDOM = Arm("random", "random")
DIVERSE = Arm("score and diversity", "deita", diverse=True)
ARMS = (
    RANDOM,
    Arm("score first", "deita"),
    DIVERSE,
    Arm("longest answers", "length"),
    Arm("hardest to foresee (IFD)", "ifd"),
)


def selection(trial: Trial) -> None:
    """Rows selected by each arm, and the models trained on them, beside the one that they all begin with."""
    references = human.references(trial.data)[: trial.size.references]
    reference_lengths(trial)
    trial.found.piece("judge", lambda: judge_judged(trial))
    trial.found.piece("untrained", lambda: short(losses(trial, trial.model, references)))
    for draw in range(trial.size.draws):
        for arm in ARMS[:3]:
            trained(trial, arm, draw, references)
    for arm in ARMS[3:]:
        trained(trial, arm, 0, references)


def reference_lengths(trial: Trial) -> None:
    """How many tokens of each reference a loss is the mean of."""
    references = human.references(trial.data)[: trial.size.references]
    renderer = read_renderer(locate(trial.model))
    trial.found.piece("references", lambda: {"tokens": scored_tokens(renderer, references)})


def judge(trial: Trial) -> Run:
    """A reward model of OpenAssistant's comparisons that length tells little, and what it gives PandaLM's answers."""
    chosen = choice(trial, "oasst1_en", 0)
    asked = _numbered(_thinned(human.judged_by_three(trial.data), trial.size.rows))
    settings = _reward_settings(trial, chosen, ODIN, trial.sets["oasst1_en"], asked, 0)
    return run("reward-people", trial.folder / "judge", settings)


def judge_judged(trial: Trial) -> dict[str, Any]:
    """How the judge sides with three people on answers to the very instructions that it is to judge."""
    scored = made_groups(judge(trial), "score")
    return {**_gaps_of(scored), "longer": _longer_words(scored), "conversation": _conversations(scored)}


def trained(trial: Trial, arm: Arm, draw: int, references: Sequence[Group]) -> None:
    """What a model trained on the rows of an arm makes of people's answers, and what the judge makes of its own."""

    def find() -> dict[str, Any]:
        asked = [replace(group, completions=()) for group in _numbered(references[: trial.size.prompts])]
        settings = trial.common(draw, "sft", "score") | {
            "data.path": str(selected(trial, arm, draw)),
            "sample.data": write(asked, trial.folder / "prompts.jsonl"),
            "sample.max_new_tokens": trial.size.tokens,
            "score.scorer.model": model_of(judge(trial), "reward"),
        }
        with passing_run("select-train", trial.folder / "trained", settings) as finished:
            scored = made_groups(finished, "score")
            answered = [group.completions[0] for group in scored]
            return {
                "prompts": [group.extra["row"] for group in scored],
                "losses": short(losses(trial, model_of(finished, "model"), references)),
                "scores": [None if says_nothing(one) else short([score_of(one)])[0] for one in answered],
                "words": fmean(len(one.text.split()) for one in answered),
                "finished": fmean(one.finished for one in answered),
            }

    trial.found.piece(f"trained/{arm.name}/{draw}", find)


def selected(trial: Trial, arm: Arm, draw: int) -> Path:
    """The file of the rows that an arm selects. Chance selects others for each draw; the other arms always the same."""
    draw = draw if arm is RANDOM else 0
    every = trial.folder / "pool.jsonl"
    if not every.exists():
        write(_thinned(human.pool(trial.data), trial.size.pool), every)
    settings = trial.common(draw, "select") | {"data.path": str(every), "select.keep": trial.size.budget}
    by = {"name": arm.by, "seed": draw} if arm is RANDOM else arm.by  # chance has a seed apart from the run's
    settings |= {"select.by": by, "select.embeddings": trial.model}
    if not arm.diverse:
        settings["select.similarity"] = "none"
    finished = run("select-pool", trial.folder / f"selected-{ARMS.index(arm)}-{draw}", settings)
    made = next(one for one in finished.artifacts() if one.stage == "select" and "groups" in one.meta)
    taken = made_groups(finished, "select")

    def find() -> dict[str, Any]:
        long = fmean(len(group.completions[0].text.split()) for group in taken)
        of = len(read_groups(every, format="group"))
        return {
            "of": of,
            "rows": len(taken),
            "alike": json.loads((made.path / str(made.meta["selection"])).read_text())["refused"].get(ALIKE, 0),
            "words": long,
            "code": fmean(group.extra["set"] == "codegen" for group in taken),
        }

    trial.found.piece(f"selected/{arm.name}/{draw}", find)
    return made.path / str(made.meta["groups"])


def losses(trial: Trial, model: str, groups: Sequence[Group]) -> list[float]:
    """Negative log-likelihood of each row's answer, in nats per token."""
    device = best_device()
    loaded = load(locate(model), dtype=compute_dtype(trial.precision, device), device=device)
    said = answer_logprobs(LocalEngine(loaded, trainable=False), groups, budget=trial.forest)
    return [-total / count for (total,), count in zip(said, scored_tokens(loaded.renderer, groups), strict=True)]


def scored_tokens(renderer: Renderer, groups: Sequence[Group]) -> list[int]:
    """How many tokens of each row's answer are scored."""
    return [sum(renderer.render(group).answers[0].scored) for group in groups]


PARTS: Mapping[str, Callable[[Trial], None]] = {
    "rows": rows,
    "words": words,
    "reward": reward,
    "length": length,
    "audit": audit,
    "references": reference_lengths,
    "selection": selection,
}
"""What can be measured, in order."""


def _looks(trial: Trial, train: list[Group], looked_at: list[Group], rate: float) -> list[float]:
    """Accuracy after each epoch."""
    settings = {
        **trial.common(0, "reward_model"),
        **trial.training("reward_model", Choice(rate, trial.size.epochs)),
        "data.path": write(train, trial.folder / "train.jsonl"),
        "data.held_out": write(looked_at, trial.folder / "looked-at.jsonl"),
        "reward_model.measure_every": -(-len(train) // trial.size.batch),
    }
    with passing_run("reward-people-choose", trial.folder / "choice", settings) as finished:
        _, *looks = finished.events("reward_model", "held_out")
        return short([float(look["accuracy"]["value"]) for look in looks])


def _reward_settings(
    trial: Trial, chosen: Choice, objective: str, train: list[Group], held_out: list[Group], seed: int
) -> dict[str, Any]:
    file = write(held_out, trial.folder / "held-out.jsonl")
    return {
        **trial.common(seed, "reward_model", "score"),
        **trial.training("reward_model", chosen),
        "reward_model.objective": objective,
        "data.path": write(train, trial.folder / "train.jsonl"),
        "data.held_out": file,
        "score.data": file,
    }


def _detected(groups: Sequence[Group]) -> dict[str, Any]:
    """How well a low strength tells turned labels, and how many of as many weakest labels are turned."""
    weak = [-_strength(group) for group in groups]
    wrong = [bool(group.extra["turned"]) for group in groups]
    count = sum(wrong)
    weakest = sorted(range(len(weak)), key=lambda place: -weak[place])[:count]
    return {
        "comparisons": len(groups),
        "turned": count,
        "auroc": auroc_interval(weak, wrong, clusters=[human.conversation(group) for group in groups]).plain,
        "among_weakest": _share([groups[place] for place in weakest], [wrong[place] for place in weakest]).plain,
        "agree": _agreement(groups).plain,
    }


def _agreement(groups: Sequence[Group]) -> Interval:
    """How often the vote sides with the labels as people gave them."""
    return _share(groups, [(_strength(group) > 0) != group.extra["turned"] for group in groups])


def _share(groups: Sequence[Group], outcomes: Sequence[bool]) -> Interval:
    """Of how many comparisons something holds; its interval counts conversations."""
    asked = [human.conversation(group) for group in groups]
    return statistics.win_rate([float(one) for one in outcomes], prompts=asked, weights=[1.0] * len(outcomes))


def _strength(group: Group) -> float:
    assert group.strength is not None, "an audit gives every comparison a strength"
    return group.strength


def _by_words(train: list[Group], held_out: list[Group]) -> dict[str, Any]:
    from evidence.words import gaps  # scikit-learn is an extra

    strength, found = gaps(train, held_out)
    return {"strength": strength, **_gaps(held_out, found)}


def _described(trial: Trial, groups: list[Group]) -> dict[str, Any]:
    renderer = read_renderer(locate(trial.model))
    tokens = [[len(answer.tokens) for answer in renderer.render(group).answers] for group in groups]
    return {"conversation": _conversations(groups), "longer": [chosen - rejected for chosen, rejected in tokens]}


def _conversations(groups: Sequence[Group]) -> list[int]:
    number: dict[str, int] = {}
    return [number.setdefault(human.conversation(group), len(number)) for group in groups]


def _longer_words(groups: Sequence[Group]) -> list[int]:
    return [len(chosen.text.split()) - len(rejected.text.split()) for chosen, rejected in map(Group.comparison, groups)]


def _gaps_of(scored: Sequence[Group]) -> dict[str, Any]:
    pairs = [group.comparison() for group in scored]
    return _gaps(scored, [score_of(chosen) - score_of(rejected) for chosen, rejected in pairs])


def _gaps(groups: Sequence[Group], found: list[float]) -> dict[str, Any]:
    """Score of the chosen answer less that of the rejected one, of rows by number."""
    return {"rows": [group.extra["row"] for group in groups], "gaps": short(found)}


def _parted(folds: list[list[Group]], fold: int) -> tuple[list[Group], list[Group]]:
    """All other folds, and this one."""
    return [group for other, some in enumerate(folds) if other != fold for group in some], folds[fold]


def _numbered(groups: Sequence[Group]) -> list[Group]:
    return [replace(group, extra={"row": number}) for number, group in enumerate(groups)]


def _thinned(groups: list[Group], count: int) -> list[Group]:
    """So many rows, evenly spread."""
    if len(groups) <= count:
        return groups
    return [groups[len(groups) * n // count] for n in range(count)]
