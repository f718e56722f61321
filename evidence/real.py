"""SmolLM2-135M on its own answers: a reward of words and one that checks results, each by three algorithms.

Each run is a recipe of recipes/evidence, with a price of KL and a bound at which it ends, sized for two CPU cores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from evidence import arithmetic, running
from evidence.found import short
from evidence.reviews import Trial, sentences
from truing.records import Group, user
from truing.store import Run

ASKED = "Continue this review in one or two sentences: {}"
WORDS = 4
"""Of an opening."""
KEPT = ("reward", "kl", "length", "finished")
"""What is kept of each rollout."""
ALGORITHMS: Mapping[str, Mapping[str, Any]] = {
    "ppo_max": {"group_size": 8, "epochs": 2, "reward_kl": 0.05},
    "grpo": {"kl_penalty_weight": 0.04},
    "rloo": {"group_size": 8, "reward_kl": 0.05},
}
"""With their settings; eight answers to a prompt for all."""


class Task(NamedTuple):
    """What is asked, and the recipe that learns it. rows: the prompts."""

    name: str
    recipe: str
    rows: Callable[[Trial], list[Group]]


def review_openings(trial: Trial) -> list[Group]:
    """The first words of reviews, to be gone on with."""
    cut = [" ".join(words[:WORDS]) for said, _ in sentences(trial.data) if len(words := said.split()) > WORDS]
    return [Group((user(ASKED.format(words)),)) for words in dict.fromkeys(cut)]


TASKS = (
    Task("sentiment", "online-sentiment", review_openings),
    Task("arithmetic", "online-arithmetic", lambda _: arithmetic.problems(500)),
)


def real(trial: Trial) -> None:
    """Every task by every algorithm."""
    for task in TASKS:
        for name, settings in ALGORITHMS.items():
            trial.found.piece(f"real/{task.name}/{name}", partial(played, trial, task, {"name": name, **settings}))


def played(trial: Trial, task: Task, algorithm: Mapping[str, Any]) -> dict[str, Any]:
    """One run: rewards of held-out prompts before and after, and its rollouts."""
    file = running.write(task.rows(trial), trial.folder / f"{task.name}.jsonl")
    folder = trial.folder / f"{task.name}-{algorithm['name']}"
    rollouts = max(1, trial.size.real // int(algorithm.get("epochs", 1)))
    settings = {"model": trial.model, "data.path": file, "online.rollouts": rollouts}
    settings |= {"online.algorithm": dict(algorithm)}
    return told(running.run(task.recipe, folder, settings))


def told(finished: Run) -> dict[str, Any]:
    """What a run says of itself."""
    (started, *_) = finished.events("online", "start")
    (held_out,) = finished.events("online", "held_out_reward")
    *_, ended = finished.events("online", "end")
    rollouts = [
        {"rollout": event["rollout"], **{name: short([event[name]])[0] for name in KEPT if name in event}}
        for event in finished.events("online", "rollout")
    ]
    kept = ("rollouts", "prompts", "max_new_tokens", "learning_rate", "stop")
    return {
        **{name: held_out[name] for name in ("before", "after", "gain")},
        "settings": {name: started["settings"][name] for name in kept},
        "algorithm": started["settings"]["algorithm"],
        "minutes": short([ended["seconds"] / 60])[0],
        "stopped": any(finished.events("online", "stopped")),
        "course": rollouts,
    }
