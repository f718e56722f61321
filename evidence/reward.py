"""The figures of "Secrets of RLHF II" (arXiv:2401.06080) at small scale, on comparisons whose truth is known.

Every training is a recipe of recipes/evidence, run as anybody would run it; here data are made and results are read.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from evidence import running, synthetic
from truing import formats
from truing.records import Group
from truing.statistics import Interval, proportion
from truing.store import Run

TURNED = 0.25
"""Share of the labels that are wrong."""
TENTHS = 10


@dataclass(frozen=True, slots=True)
class Size(running.Trainings):
    """How much is tried of each treatment.

    train, clean: comparisons. rows: prompts with unlabelled answers. answers: of each of these.
    """

    train: int = 2000
    clean: int = 1000
    rows: int = 200
    answers: int = 8


class Tenth(NamedTuple):
    """A tenth of the comparisons by strength: its mean, its right labels, and the accuracy of training on it alone."""

    strength: float
    right: Interval
    alone: Interval


class Treatment(NamedTuple):
    """How noisy labels are dealt with: the objective, and the share of labels turned round, none or those below 0."""

    name: str
    objective: Mapping[str, Any]
    turned: float | None = 0.0


TREATMENTS = (
    Treatment("plain", {"name": "bradley_terry"}),
    Treatment("soft labels", {"name": "bradley_terry", "label_smoothing": 0.2}),
    Treatment("margin", {"name": "margin"}),
    Treatment("flip a tenth", {"name": "bradley_terry"}, 0.1),
    Treatment("flip below 0", {"name": "bradley_terry"}, None),
    Treatment("flip and margin", {"name": "margin"}, None),
    Treatment("soft labels and margin", {"name": "soft_margin"}),
)


class Trial:
    """A folder in which all is made, and the runs in it."""

    def __init__(self, folder: Path, size: Size) -> None:
        self.folder, self.size = folder, size
        folder.mkdir(parents=True, exist_ok=True)
        self.model = synthetic.small_model(folder / "small")
        clean = synthetic.comparisons(size.clean, seed="clean", turned=0.0)
        self.clean = synthetic.write(clean, folder / "clean.jsonl")
        train = synthetic.comparisons(size.train, seed="train", turned=TURNED)
        self.train = synthetic.write(train, folder / "train.jsonl")

    def run(self, recipe: str, name: str, **overrides: Any) -> Run:
        """The finished run of a recipe under a name of its own; what is done already is not done again."""
        print(name, file=sys.stderr, flush=True)
        return running.run(recipe, self.folder / "runs" / name, {"model": self.model, **overrides})

    def accuracies(self, name: str, data: str, **settings: Any) -> list[Interval]:
        """Accuracy on clean comparisons, before training and at each look, of a reward model trained on the data."""
        path = {"data.path": data, "data.held_out": self.clean}
        run = self.run("reward-train", name, **path, **settings)
        return [running.interval(event["accuracy"]) for event in run.events("reward_model", "held_out")]


def audited(trial: Trial) -> list[Group]:
    """The comparisons with the vote's strength, weakest first."""
    run = trial.run("reward-audit", "audit", **{"data.path": trial.train})
    made = next(artifact for artifact in run.artifacts() if "audit" in artifact.meta)
    groups = formats.read_groups(made.path / str(made.meta["groups"]), format="group")
    return sorted(groups, key=_strength)


def tenths(trial: Trial, groups: Sequence[Group]) -> list[Tenth]:
    """Each tenth of the order by itself."""
    found = []
    for place, some in enumerate(_cut(groups)):
        right = proportion(sum(not group.extra["turned"] for group in some), len(some))
        found.append(Tenth(mean(map(_strength, some)), right, _alone(trial, f"tenth-{place + 1}", some)))
    return found


def turned_tenths(trial: Trial, groups: Sequence[Group]) -> list[Interval]:
    """The two weakest tenths, each with its labels turned round."""
    return [
        _alone(trial, f"turned-{place + 1}", [turned(group) for group in some])
        for place, some in enumerate(_cut(groups)[:2])
    ]


def treatments(trial: Trial, groups: Sequence[Group]) -> dict[str, list[list[float]]]:
    """By treatment and seed, accuracy on clean comparisons after each epoch."""
    found: dict[str, list[list[float]]] = {}
    steps = -(-len(groups) // trial.size.batch)
    for treatment in TREATMENTS:
        below = sum(_strength(group) < 0 for group in groups)
        count = below if treatment.turned is None else round(treatment.turned * len(groups))
        rows = [turned(group) for group in groups[:count]] + list(groups[count:])
        file = synthetic.write(rows, trial.folder / f"{treatment.name.replace(' ', '-')}.jsonl")
        for seed in range(trial.size.seeds):
            settings = {"epochs": trial.size.epochs, "measure_every": steps, "objective": dict(treatment.objective)}
            looks = trial.accuracies(
                f"{treatment.name.replace(' ', '-')}-{seed}",
                file,
                seed=seed,
                **{f"reward_model.{key}": value for key, value in settings.items()},
            )
            found.setdefault(treatment.name, []).append([look.value for look in looks[1:]])
    return found


class MetaTrial(NamedTuple):
    """Of one look-ahead: by seed, accuracy and the mean deviation of the scores of one prompt's unlabelled answers."""

    rate: float
    accuracy: list[float]
    deviation: list[float]


def meta(trial: Trial, rates: Sequence[float]) -> list[MetaTrial]:
    """MetaRM with several rates; with the first, next to nothing, it is the plain reward model."""
    size = trial.size
    file = synthetic.write(synthetic.unlabelled(size.rows, size.answers, seed="unlabelled"), trial.folder / "un.jsonl")
    found = []
    for rate in rates:
        accuracy, deviation = [], []
        for seed in range(size.seeds):
            over = {"data.path": trial.train, "data.held_out": trial.clean, "seed": seed}
            over |= {
                "reward_model.unlabelled": file,
                "score.data": file,
                "reward_model.meta": {"rate": rate, "rows": 8},
            }
            run = trial.run("reward-meta", f"meta-{rate:g}-{seed}", **over)
            *_, last = run.events("reward_model", "held_out")
            accuracy.append(float(last["accuracy"]["value"]))
            made = next(a for a in run.artifacts() if a.stage == "score" and "groups" in a.meta)
            groups = formats.read_groups(made.path / str(made.meta["groups"]), format="group")
            deviation.append(mean(stdev(answer.score or 0.0 for answer in group.completions) for group in groups))
        found.append(MetaTrial(rate, accuracy, deviation))
    return found


def turned(group: Group) -> Group:
    """The comparison the other way round."""
    chosen, rejected = group.comparison()
    sides = (replace(rejected, rank=0), replace(chosen, rank=1))
    return replace(group, completions=sides, strength=None if group.strength is None else -group.strength)


def _alone(trial: Trial, name: str, some: Sequence[Group]) -> Interval:
    """Trained on these comparisons alone, for as many steps as all of them would take."""
    file = synthetic.write(some, trial.folder / f"{name}.jsonl")
    return trial.accuracies(name, file, **{"reward_model.epochs": TENTHS})[-1]


def _cut(groups: Sequence[Group]) -> list[Sequence[Group]]:
    return [groups[len(groups) * n // TENTHS : len(groups) * (n + 1) // TENTHS] for n in range(TENTHS)]


def _strength(group: Group) -> float:
    assert group.strength is not None, "an audit gives every comparison a strength"
    return group.strength
