"""Reward against KL, the controlled-sentiment experiment of arXiv:2305.18290 (section 6.1), in small.

A small language model has learnt to go on with openings of reviews. Four answers of it to each opening are compared by
the true reward. From the six comparisons of each opening DPO, unlikelihood and fine-tuning on the preferred answers
learn, and a reward model by which PPO learns and the best of n answers is chosen; two more may ask the true reward
itself. Each training is measured on openings that none has seen: true reward, and KL over whole answers.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any, NamedTuple

from evidence import running
from evidence.found import short
from evidence.reviews import Size, Trial
from truing.errors import GuardError
from truing.records import Group
from truing.scoring.best_of import expected


class Method(NamedTuple):
    """A way to learn, and what makes it keep near the reference.

    knob: what is swept. values: over what, by the size. recipe: what trains it. settings: for one of the values.
    stage: of the recipe, which trains at each of the `rates`.
    """

    name: str
    knob: str
    values: Callable[[Size], Sequence[float]]
    recipe: str
    settings: Callable[[Trial, float], dict[str, Any]]
    stage: str
    rates: tuple[float, float]


def dpo(trial: Trial, beta: float) -> dict[str, Any]:
    """DPO on all comparisons."""
    return {"data.path": trial.comparisons, "preference.objective": {"name": "dpo", "beta": beta}}


def unlikelihood(trial: Trial, alpha: float) -> dict[str, Any]:
    """log p(chosen) up, alpha times log p(rejected) down."""
    return {"data.path": trial.comparisons, "preference.objective": {"name": "unlikelihood", "alpha": alpha}}


def preferred(trial: Trial, passes: float) -> dict[str, Any]:
    """Fine-tuning on the better answer of each comparison."""
    file = running.write(better_answers(trial.ranked), trial.folder / "preferred.jsonl")
    return {"data.path": file, "sft.epochs": int(passes)}


def ppo(trial: Trial, price: float) -> dict[str, Any]:
    """PPO by the reward model, which its critic begins as."""
    scorer = {"name": "reward_model", "model": trial.reward}
    return {**priced(trial, price), "online.scorer": scorer, "online.reward": trial.reward}


def ppo_true(trial: Trial, price: float) -> dict[str, Any]:
    """PPO by the true reward."""
    return {**priced(trial, price), "online.scorer": trial.truth}


OFFLINE, ONLINE = (1.5e-4, 5e-4), (3e-4, 1e-3)
"""Learning rates of each setting."""
DPO = Method("DPO", "beta", lambda size: size.betas, "frontier-preference", dpo, "preference", OFFLINE)
METHODS = (
    DPO,
    Method("PPO", "price", lambda size: size.prices, "frontier-online", ppo, "online", ONLINE),
    Method("PPO, true reward", "price", lambda size: size.prices, "frontier-online", ppo_true, "online", ONLINE),
    Method(
        "unlikelihood", "alpha", lambda size: size.alphas, "frontier-preference", unlikelihood, "preference", OFFLINE
    ),
    Method("preferred-FT", "epochs", lambda size: size.passes, "frontier-preferred", preferred, "sft", OFFLINE),
)
BEST_OF = {"best of n": "model", "best of n, true reward": "truth"}
"""By what the best answer is chosen."""


def frontier(trial: Trial) -> None:
    """All of it, one seed of everything after the other, so that a shorter time gives fewer seeds."""
    trial.found.piece("frontier/reference", partial(begin, trial))
    trial.found.piece("frontier/best-of-n", partial(best_of_n, trial))
    for seed in range(trial.size.seeds):
        for method in METHODS:
            for rate, value in product(method.rates, method.values(trial.size)):
                name = f"frontier/{method.name}/{value:g} at {rate:g}/{seed}"
                trial.found.piece(name, partial(trained, trial, method, value, rate, seed))


def begin(trial: Trial) -> dict[str, Any]:
    """What everything begins with: how much it was made of, and how often the reward model sides with the truth."""
    *_, last = trial.reward_run.events("reward_model", "held_out")
    return {
        "reviews": len(trial.reviews),
        "openings": len(trial.ranked),
        "comparisons": len(better_answers(trial.ranked)),
        "accuracy": last["accuracy"],
    }


def best_of_n(trial: Trial) -> dict[str, Any]:
    """True reward of the best of n answers of the reference to each held-out opening, by n and by who chooses."""
    settings = {
        "model": trial.reference,
        "data.path": trial.held_out,
        "sample.answers": trial.size.pool,
        "truth.scorer": trial.truth,
        "model_of_it.scorer": {"name": "reward_model", "model": trial.reward},
    }
    with running.passing_run("frontier-answers", trial.folder / "answers", settings) as finished:
        true, chosen_by = (scores(running.made_groups(finished, name)) for name in ("truth", "model_of_it"))
    by = {"model": chosen_by, "truth": true}
    counts = [2**power for power in range(int(math.log2(trial.size.pool)) + 1)]
    return {
        kind: {
            str(n): short([expected(proxy, gold, n) for proxy, gold in zip(by[who], true, strict=True)]) for n in counts
        }
        for kind, who in BEST_OF.items()
    }


def trained(trial: Trial, method: Method, value: float, rate: float, seed: int) -> dict[str, Any]:
    """What one training comes to; where it broke off, why."""
    settings = {"model": trial.reference, "seed": seed, **method.settings(trial, value), **trial.measuring()}
    settings[f"{method.stage}.learning_rate"] = rate
    folder = trial.folder / "trained"
    try:
        with running.passing_run(method.recipe, folder, settings) as finished:
            return trial.measured(finished)
    except GuardError as error:
        shutil.rmtree(folder)
        return {"broke": str(error)}


def priced(trial: Trial, price: float) -> dict[str, Any]:
    """PPO with a price of KL in the reward, in deviations of the reward for a nat."""
    return {
        "data.path": trial.openings,
        "online.algorithm.reward_kl": price,
        "online.rollouts": trial.size.rollouts,
    }


def better_answers(ranked: Sequence[Group]) -> list[Group]:
    """The better answer of every comparison as a demonstration: the best of four answers three times, and so on."""
    found = []
    for row in ranked:
        for answer in row.completions:
            worse = sum(running.score_of(other) < running.score_of(answer) for other in row.completions)
            found += [replace(row, completions=(replace(answer, score=None),))] * worse
    return found


def scores(groups: Sequence[Group]) -> list[list[float]]:
    """Of each row the scores of its answers."""
    return [[running.score_of(answer) for answer in group.completions] for group in groups]
