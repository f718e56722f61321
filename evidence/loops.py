"""What is said of learning in rounds and from rankings, tried where the true reward is known: on openings of reviews.

Judges are the true reward with noise, or with a liking for long answers, so that what they get wrong is known. Every
training is a recipe of the product's stages, recipes/evidence/loops-*.toml, or one of those of the frontier.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from itertools import product
from statistics import fmean, stdev
from typing import Any

import numpy as np

from evidence import reviews, running
from evidence.found import short
from evidence.noise import first, second, third
from truing.errors import DataError
from truing.records import Completion, Group, text
from truing.scoring.scorers import make
from truing.store import Run

JUDGEMENTS = tuple(f"{noise.__module__}:{noise.__name__}" for noise in (first, second, third))
"""The noise of each of three judgements."""
TAGS = ("awful", "poor", "fair", "good", "great")
"""Words for a fifth of the reviews each, from the lowest true reward to the highest."""
PAIRS, POSITIVES = "DPO on pairs", "SFT on the best"
LEARNT = {PAIRS: ("loops-pairs", "preference"), POSITIVES: ("loops-positives", "sft")}
"""The recipe of each way to learn from judged answers, and the stage of it that trains."""
RANKED: Mapping[str, tuple[str, str, Mapping[str, Any]]] = {
    "DPO": ("frontier-preference", "preference", {"preference.objective": {"name": "dpo", "beta": 0.1}}),
    "RRHF": ("frontier-preference", "preference", {"preference.objective": {"name": "rrhf"}}),
    "PRO": ("frontier-preference", "preference", {"preference.objective": {"name": "pro"}}),
    "RAFT": ("frontier-preferred", "sft", {"sft.epochs": 3, "sft.batch_size": 16}),
}
"""Ways to learn from rankings: recipe, the stage that trains, and settings. Fine-tuning takes the best of a ranking."""
FAIR, BIASED = "fair judge", "biased judge"
HELD = {
    FAIR: (0.0, {"name": "dpo", "beta": 0.1}, False),
    BIASED: (1.0, {"name": "dpo", "beta": 0.1}, False),
    "biased judge, balanced pairs": (1.0, {"name": "dpo", "beta": 0.1}, True),
    "biased judge, r_dpo 0.05": (1.0, {"name": "r_dpo", "beta": 0.1, "length_weight": 0.05}, False),
    "biased judge, r_dpo 0.2": (1.0, {"name": "r_dpo", "beta": 0.1, "length_weight": 0.2}, False),
}
"""How much of the bias a judge has, what is learnt, and whether pairs are left out until the longer one wins half."""
WITH, WITHOUT = "with the KL term", "without it"
GAMES = {WITH: 1.0, WITHOUT: 0.0}
"""The weight of people's comparisons in the reward model's objective."""


@dataclass(frozen=True, slots=True)
class Size(reviews.Size):
    """How much is tried, beside what the reviews' own size says.

    learning: rates at which each way to learn is tried. noises: of judges, in deviations of the true reward. bias: what
    a judge likes a word, in units of the true reward. few: rounds of self-rewarding, growing: of the biased judge,
    self_play: of SPIN, games: of APO. best_of: answers of which the best is SPIN's data.
    """

    openings: int = 200
    seeds: int = 5
    learning: tuple[float, ...] = (1.5e-4, 5e-4)
    noises: tuple[float, ...] = (0.5, 2.0)
    bias: float = 0.2
    few: int = 2
    growing: int = 3
    self_play: int = 6
    games: int = 3
    best_of: int = 8


KEPT = (
    *("vocabulary", "width", "layers", "epochs", "openings", "held_out", "learning", "noises", "bias"),
    *("few", "growing", "self_play", "games", "best_of"),
)
"""What of the size decides these numbers."""
QUICK = Size(
    vocabulary=300, width=32, epochs=1, openings=16, held_out=6, seeds=2, learning=(1e-3, 1e-2), noises=(1.0,),
    few=1, growing=1, self_play=2, games=1, best_of=2,
)  # fmt: skip
"""Everything once, so small that its numbers mean nothing."""


@dataclass(frozen=True)
class Trial(reviews.Trial):
    """The reviews' trial, with what these parts share."""

    size: Size = Size()

    @cached_property
    def deviation(self) -> float:
        """The deviation of the true reward among the answers to an opening, by which noise is measured."""
        return float(self.found.pieces["reference/start"]["deviation"])

    def judge(self, noise: float, times: int = 1) -> dict[str, Any]:
        """The true reward with normal noise of so many deviations; of several judgements the mean."""
        said: list[dict[str, Any]] = [
            {
                "name": "weighted",
                "weights": [1.0, noise * self.deviation],
                "of": [self.truth, {"name": "function", "path": path}],
            }
            for path in JUDGEMENTS[:times]
        ]
        return said[0] if times == 1 else {"name": "ensemble", "of": said}

    def after(self, recipe: str, settings: Mapping[str, Any], read: Callable[[Run], Any]) -> Any:
        """What is read of a run of a recipe that begins with the reference."""
        whole = {"model": self.reference, "data.path": self.openings, **settings}
        with running.passing_run(recipe, self.folder / "loops", whole) as finished:
            return read(finished)

    def shown(self, finished: Run, stage: str = "truth") -> dict[str, float]:
        """Means over held-out openings: true reward, KL from the reference, tokens, and the share that ended."""
        found = self.measured(finished, stage)
        return {name: short([fmean(value) if isinstance(value, list) else value])[0] for name, value in found.items()}

    def measuring(self) -> dict[str, Any]:
        """Settings of the stages that measure."""
        return {"shown.data": self.held_out, "truth.scorer": self.truth}


def settled(size: Size) -> dict[str, Any]:
    """What of the size must not change under one file of numbers."""
    return {name: value for name, value in asdict(size).items() if name in KEPT}


def start(trial: Trial) -> None:
    """What everything begins with, measured as what is trained is."""

    def find() -> dict[str, Any]:
        settings = {"data.path": trial.held_out, "score.scorer": trial.truth}

        def read(finished: Run) -> dict[str, Any]:
            each = [
                [running.score_of(one) for one in row.completions] for row in running.made_groups(finished, "score")
            ]
            within = float(np.sqrt(np.mean(np.var(each, axis=1, ddof=1))))
            return {**trial.shown(finished, "score"), "deviation": short([within])[0], "reviews": len(trial.reviews)}

        return dict(trial.after("frontier-pairs", settings, read))

    trial.found.piece("reference/start", find)


def positives(trial: Trial) -> None:
    """Two rounds by a judge who errs: DPO on the best and the worst answer, or fine-tuning on the best alone."""
    for seed, way, rate in product(range(trial.size.seeds), LEARNT, trial.size.learning):
        trial.found.piece(f"positives/{way}/{rate:g}/{seed}", partial(learnt, trial, way, rate, trial.judge(1.0), seed))


def learnt(trial: Trial, way: str, rate: float, judge: dict[str, Any], seed: int) -> dict[str, float]:
    """Where the rounds come to."""
    recipe, stage = LEARNT[way]
    settings: dict[str, Any] = {"seed": seed, "loop.rounds": trial.size.few, f"loop.{stage}.learning_rate": rate}
    settings |= {"loop.score.scorer": judge, **trial.measuring()}
    return dict(trial.after(recipe, settings, trial.shown))


def judgements(trial: Trial) -> None:
    """One judgement of each answer against the mean of three: whether the pairs are right, and what DPO makes of them.

    The answers and the first judgement are the same for both.
    """
    for seed, noise, times in product(range(trial.size.seeds), trial.size.noises, (1, 3)):
        trial.found.piece(f"judgements/{noise:g}/{times}/{seed}", partial(paired, trial, noise, times, seed))
    loudest = max(trial.size.noises)
    for seed, times in product(range(trial.size.seeds), (1, 3)):
        judge = trial.judge(loudest, times)
        find = partial(learnt, trial, PAIRS, trial.size.learning[1], judge, seed)
        trial.found.piece(f"judgements/DPO/{times}/{seed}", find)


def paired(trial: Trial, noise: float, times: int, seed: int) -> dict[str, float]:
    """How many pairs of best and worst there are, and the share of them that the true reward orders alike."""

    def read(finished: Run) -> dict[str, float]:
        rows = running.made_groups(finished, "truth")
        return {"pairs": len(rows), "right": short([fmean(map(is_right, rows))])[0]}

    settings = {"seed": seed, "judge.scorer": trial.judge(noise, times), "truth.scorer": trial.truth}
    return dict(trial.after("loops-judgements", settings, read))


def is_right(row: Group) -> float:
    """Whether the answer that was preferred is truly the better one; of equal ones half."""
    chosen, rejected = map(running.score_of, row.completions)
    return float(np.sign(chosen - rejected) + 1) / 2


def length(trial: Trial) -> None:
    """Rounds of DPO by a judge who likes each word, and what holds length."""
    for seed, name in product(range(trial.size.seeds), HELD):
        trial.found.piece(f"length/{name}/{seed}", partial(grown, trial, name, seed))


def grown(trial: Trial, name: str, seed: int) -> dict[str, Any]:
    """Tokens of the answers that each round learnt from, and where the rounds come to."""
    share, objective, balance = HELD[name]
    scorer = {"name": "weighted", "weights": [1.0, share * trial.size.bias], "of": [trial.truth, {"name": "length"}]}
    settings = {"seed": seed, "loop.rounds": trial.size.growing, "loop.score.scorer": scorer}
    settings |= {"loop.preference.objective": objective, "loop.curate.balance": balance, **trial.measuring()}

    def read(finished: Run) -> dict[str, Any]:
        rounds = range(1, trial.size.growing + 1)
        said = [next(iter(finished.events(f"loop.{number}/sample", "data"))) for number in rounds]
        return {**trial.shown(finished), "tokens": short([fmean(one["answer_tokens"]) for one in said])}

    try:
        return dict(trial.after("loops-length", settings, read))
    except DataError as error:  # such as no pair that the shorter answer wins, so that none is left
        shutil.rmtree(trial.folder / "loops")
        return {"broke": str(error)}


def spin(trial: Trial) -> None:
    """SPIN, round by round, on data whose true reward is known: the best of several answers of the reference."""
    given, unseen = (best_answers(trial, file) for file in (trial.openings, trial.held_out))
    data = {"reward": short([fmean(running.score_of(row.completions[0]) for row in unseen)])[0]}
    trial.found.piece("spin/data", lambda: data)
    files = {
        "data.path": running.write(given, trial.folder / "given.jsonl"),
        "data.held_out": running.write(unseen, trial.folder / "given-held-out.jsonl"),
    }
    for seed in range(trial.size.seeds):
        trial.found.piece(f"spin/{seed}", partial(self_played, trial, files, seed))


def best_answers(trial: Trial, openings: str) -> list[Group]:
    """Of several answers of the reference to each opening the truly best one."""
    settings = {"data.path": openings, "sample.answers": trial.size.best_of}
    settings |= {"score.scorer": trial.truth, "score.keep": "best"}
    rows: list[Group] = trial.after("frontier-pairs", settings, partial(running.made_groups, stage="score"))
    return rows


def self_played(trial: Trial, files: Mapping[str, str], seed: int) -> list[dict[str, Any]]:
    """Of each round: the means of held-out answers, and how often it tells the data from its opponent's answers."""
    settings = {"seed": seed, "spin.rounds": trial.size.self_play, "spin.truth.scorer": trial.truth, **files}

    def read(finished: Run) -> list[dict[str, Any]]:
        found = []
        for number in range(1, trial.size.self_play + 1):
            *_, told = finished.events(f"spin.{number}/preference", "held_out")
            found.append({**trial.shown(finished, f"spin.{number}/truth"), "told": told["accuracy"]["value"]})
        return found

    return list(trial.after("loops-spin", settings, read))


def apo(trial: Trial) -> None:
    """APO with people's comparisons in the reward model's objective, and without."""
    for seed, name in product(range(trial.size.seeds), GAMES):
        trial.found.piece(f"apo/{name}/{seed}", partial(played, trial, GAMES[name], seed))


def played(trial: Trial, weight: float, seed: int) -> list[dict[str, Any]]:
    """Of each round: how often the reward model is right about held-out comparisons, and where the policy comes to."""
    objective = {"name": "adversarial", "kl_weight": weight, "game_weight": 0.1}
    settings = {"seed": seed, "data.path": trial.comparisons, "apo.rounds": trial.size.games}
    settings |= {"apo.reward_model.objective": objective}
    settings |= {"apo.shown.data": trial.held_out, "apo.truth.scorer": trial.truth}

    def read(finished: Run) -> list[dict[str, Any]]:
        found = []
        for number in range(1, trial.size.games + 1):
            *_, said = finished.events(f"apo.{number}/reward_model", "held_out")
            found.append({**trial.shown(finished, f"apo.{number}/truth"), "right": said["accuracy"]["value"]})
        return found

    return list(trial.after("loops-apo", settings, read))


def rlcd(trial: Trial) -> None:
    """Comparisons by two instructions whose answers are further and further apart."""
    known = [one for one in trial.reviews if not reviews.is_held_out(one)]
    rests = [Group((), (Completion((text(one.rest),)),)) for one in known]
    worth = [score.value for (score,) in make(trial.truth)(rests) if score.value is not None]
    bounds: np.ndarray[Any, Any] = np.quantile(worth, np.linspace(0, 1, len(TAGS) + 1)[1:-1])
    words = [TAGS[int(np.searchsorted(bounds, value, side="right"))] for value in worth]
    rows = [
        Group((text(asked(one.opening, word)),), (Completion((text(one.rest),)),))
        for one, word in zip(known, words, strict=True)
    ]
    settings = {"model": trial.reference, "data.path": running.write(rows, trial.folder / "tagged.jsonl")}
    model = running.model_of(running.run("loops-tags", trial.folder / "tagged", settings), "model")
    prompts = [
        replace(row, prompt=(text(asked(row.prompt[0].content)),))
        for row in reviews.openings(trial.reviews, held_out=False)[: trial.size.openings]
    ]
    file = running.write(prompts, trial.folder / "asked.jsonl")
    for seed, apart in product(range(trial.size.seeds), range(len(TAGS))):
        trial.found.piece(f"rlcd/{apart}/{seed}", partial(contrasted, trial, model, file, apart, seed))


def asked(opening: str, word: str = "") -> str:
    """An opening as a prompt, with the word that an affix sets."""
    return f"opening: {opening}\nreview{f' ({word})' if word else ''}:"


def contrasted(trial: Trial, model: str, file: str, apart: int, seed: int) -> dict[str, Any]:
    """Of the pairs of words so many places apart: how often the label is right, and how far true rewards differ."""
    places = range(len(TAGS) - apart)
    settings: dict[str, Any] = {"model": model, "seed": seed, "data.path": file, "truth.scorer": trial.truth}
    settings["principle.positive"] = [TAGS[place + apart] for place in places]
    settings["principle.negative"] = [TAGS[place] for place in places]

    def read(finished: Run) -> dict[str, Any]:
        rows = running.made_groups(finished, "truth")
        sides = np.array([[running.score_of(one) for one in row.completions] for row in rows])
        gaps = sides[:, 0] - sides[:, 1]
        apart = float(gaps.mean()) / stdev(gaps.tolist())
        return {"pairs": len(rows), "right": short([fmean(map(is_right, rows))])[0], "apart": short([apart])[0]}

    return dict(trial.after("loops-rlcd", settings, read))


def rankings(trial: Trial) -> None:
    """DPO, RRHF, PRO and RAFT from the same rankings of four answers by the true reward."""
    for seed, name, rate in product(range(trial.size.seeds), RANKED, trial.size.learning):
        trial.found.piece(f"rankings/{name}/{rate:g}/{seed}", partial(ranked, trial, name, rate, seed))


def ranked(trial: Trial, name: str, rate: float, seed: int) -> dict[str, float]:
    """Where a training comes to."""
    recipe, stage, own = RANKED[name]
    settings = {"seed": seed, "data.path": trial.comparisons, **own, f"{stage}.learning_rate": rate}
    settings |= {"sample.data": trial.held_out, "score.scorer": trial.truth}
    return dict(trial.after(recipe, settings, partial(trial.shown, stage="score")))


PARTS: Mapping[str, Callable[[Trial], None]] = {
    "positives": positives, "judgements": judgements, "length": length, "spin": spin, "apo": apo, "rlcd": rlcd,
    "rankings": rankings,
}  # fmt: skip
"""What can be tried, in order."""
