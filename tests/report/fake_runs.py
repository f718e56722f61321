"""Run folders as the stages write them, without a model: made through the store, from seeded noise and kept texts.

To look at one: `python -c "from fake_runs import *; write_all(Path("/tmp/fake")); from truing import report;
report.build(Path('/tmp/fake'))"` in this folder.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from truing import statistics
from truing.scoring.agreement import Scored, findings, verdict
from truing.statistics import Interval, suites
from truing.statistics.suites import Measured
from truing.store import Run

RECIPE = """\
model = "SmolLM2-135M-Instruct"
seed = 0

[data]
train = "comparisons.jsonl"
held_out = "held-out.jsonl"

[[stages]]
use = "preference"
learning_rate = 5e-6
objective = { name = "dpo", beta = 0.1 }

[[stages]]
use = "evaluate"
"""

INFO = {
    "name": "briefer answers",
    "model": "SmolLM2-135M-Instruct",
    "seed": 0,
    "versions": {"truing": "0.1.0", "python": "3.11.9", "torch": "2.13.0", "transformers": "5.20.1"},
    "machine": {"cpu": "AMD EPYC 9354", "cores": 8, "memory_bytes": 33_500_000_000, "threads": 8, "device": "cpu"},
    "created": "2026-02-03T09:41:07+00:00",
}

PIECES = [
    *([piece, False] for piece in ("<|im_start|>", "user", "\n", "Why", " is", " the", " sky", " blue", "?")),
    *([piece, False] for piece in ("<|im_end|>", "\n", "<|im_start|>", "assistant", "\n")),
    *([piece, True] for piece in ("Sun", "light", " scatters", " off", " air", ".", "<|im_end|>")),
]

PROMPTS = (
    (
        "Why is the sky blue?",
        "The sky appears blue because of a phenomenon called Rayleigh scattering. When sunlight enters the Earth's "
        "atmosphere, it collides with gas molecules. Blue light has a shorter wavelength, so it is scattered far more "
        "than red light is.\n\nThere are several further factors that one could mention here, such as",
        "Air scatters blue light more than red, so blue reaches us from every direction.",
    ),
    (
        "Give me three names for a grey cat.",
        "Sure! Here are three great names for a grey cat:\n\n1. Ash\n2. Misty\n3. Smokey\n\nI hope you find one that "
        "you like!",
        "Ash, Pewter, Wren.",
    ),
    (
        "Is 91 a prime number?",
        "91 is a prime number, since it is not divisible by 2, 3 or 5.",
        "No: 91 = 7 × 13.",
    ),
    ("Translate 'good morning' into Arabic.", "صباح الخير", "صباح الخير (sabah al-khayr)."),
    ("How long should I boil an egg?", "It depends on how you like it.", "Six minutes for a soft yolk, ten for firm."),
)


def interval(value: float, low: float, high: float, n: int) -> dict[str, float]:
    return {"value": value, "low": low, "high": high, "n": n}


def write(path: Path, *, name: str = "briefer answers", steps: int = 240, seed: int = 0, prompts: int = 60) -> Path:
    """A finished run: preference training with held-out comparisons, then an evaluation."""
    with opened(path, name=name, seed=seed) as run:
        preference(run, steps=steps, seed=seed)
        evaluate(run, evaluation(prompts=prompts, seed=seed))
    return path


def opened(path: Path, recipe: str = RECIPE, **info: Any) -> Run:
    return Run.open(path, recipe=recipe, resolved=recipe, info={**INFO, **info})


def preference(run: Run, *, steps: int, seed: int = 0, stage: str = "preference", beta: float = 0.1) -> None:
    rng = np.random.default_rng(seed)
    settings = {
        "learning_rate": 5e-6,
        "batch_size": 8,
        "lora": None,
        "objective": {"name": "dpo", "beta": round(beta + seed / 20, 2)},
    }
    run.event(
        stage,
        "start",
        settings=settings,
        inputs={"model": INFO["model"], "data": "9f3ac1d27b604e55"},
        key="5b1f7a90c2de4831",
    )
    chosen, rejected = rng.gamma(6, 12, 900).astype(int) + 4, rng.gamma(6, 19, 900).astype(int) + 4
    refused = {"longer than 1024 tokens": 31, "chosen and rejected are equal": 4}
    lengths = {"chosen_tokens": chosen.tolist(), "rejected_tokens": rejected.tolist(), "prompt_tokens": [12] * 900}
    run.event(
        stage,
        "data",
        source="comparisons.jsonl",
        format="preference pairs",
        rows=935,
        used=900,
        refused=refused,
        **lengths,
    )
    run.event(stage, "preview", row=0, pieces=PIECES)
    run.event(stage, "held_out", step=0, accuracy=interval(0.5, 0.42, 0.58, 150), loss=math.log(2))
    for step in range(1, steps + 1):
        run.event(stage, "step", step=step, steps=steps, metrics=metrics(rng, step, steps))
    right = [1.0] * 117 + [0.0] * 33
    after = statistics.win_rate(right)
    run.event(stage, "held_out", step=steps, accuracy=interval(after.value, after.low, after.high, 150), loss=0.521)
    with run.new_artifact(
        "5b1f7a90c2de4831", stage=stage, meta={"model": f"checkpoint-{steps}", "base": INFO["model"]}
    ):
        pass
    run.event(stage, "end", seconds=843.2, peak_memory_bytes=3_650_000_000)


def metrics(rng: np.random.Generator, step: int, steps: int) -> dict[str, float]:
    margin = 1.6 * (1 - math.exp(-3 * step / steps)) + rng.normal(0, 0.25)
    warmup = steps // 10 or 1
    return {
        "loss": math.log1p(math.exp(-margin)) + rng.normal(0, 0.03),
        "reward/margin": margin,
        "reward/accuracy": float(rng.binomial(8, 1 / (1 + math.exp(-1.1 * margin))) / 8),
        "gradient_norm": float(rng.lognormal(0.9, 0.25)),
        "learning_rate": 5e-6 * min(step / warmup, (steps - step + 1) / (steps - warmup + 1)),
        "tokens_per_second": float(rng.normal(1830, 60)),
    }


def evaluation(*, prompts: int = 60, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed + 100)
    outcomes = rng.choice([1, 0.5, 0], size=prompts, p=[0.7, 0.08, 0.22]).tolist()
    rate = statistics.win_rate(outcomes)
    return {
        "judge": "principle",
        "judge_description": "The base model judges: an answer wins whose log-odds of having been written under an "
        "instruction for the principle, rather than under its opposite, are higher.",
        "principle": "Be brief: say what was asked for and stop.",
        "prompts": prompts,
        "answers_per_prompt": 1,
        "wins": outcomes.count(1),
        "ties": outcomes.count(0.5),
        "losses": outcomes.count(0),
        "win_rate": interval(rate.value, rate.low, rate.high, rate.n),
        "kl": interval(8.31, 7.12, 9.5, prompts),
        "length_ratio": interval(0.47, 0.41, 0.54, prompts),
        "model": {"name": "checkpoint-240", "mean_tokens": 41.3, "finished": interval(0.98, 0.91, 1.0, prompts)},
        "base": {"name": INFO["model"], "mean_tokens": 87.9, "finished": interval(0.85, 0.74, 0.92, prompts)},
        "sampling": {"temperature": 0.7, "top_k": 0, "top_p": 1.0, "max_new_tokens": 128},
        "verdict": f"wins {rate.percent} against the base on {prompts} held-out prompts; KL 8.3 nats; answers 0.47x as "
        "long; 98 % finished (base 85 %)",
        "examples": [example(number, outcomes[number]) for number in range(prompts)],
    }


def reward_evaluation(
    *, comparisons: int = 400, seed: int = 0, categories: tuple[str, ...] = (), sure: float = 2.0
) -> dict[str, Any]:
    """Of a reward model that is `sure` times as sure as it should be and likes length a little."""
    rng = np.random.default_rng(seed)
    lengths = rng.gamma(3, 12, (comparisons, 2)).astype(int) + 2
    gaps = rng.normal(0.2, 1.2, comparisons) + (lengths[:, 0] - lengths[:, 1]) / 80
    right = rng.random(comparisons) < 1 / (1 + np.exp(-gaps))
    rows = [
        Scored(
            f"prompt {number}",
            (float(sure * gap if ok else -sure * gap), 0.0),
            (int(one), int(other)) if ok else (int(other), int(one)),
            ((0, 1),),
            strength=(abs(float(gap)),),
            source=("forum", "chat")[number % 2],
        )
        for number, (gap, ok, (one, other)) in enumerate(zip(gaps, right, lengths, strict=True))
    ]
    found = {"reward": "checkpoint-240", "unused": {"rows with one answer": 3}}
    found |= findings(rows, bins=10, seed=seed)
    rates = [statistics.proportion(30 + 5 * place, 60) for place, _ in enumerate(categories)]
    found["categories"] = None
    if categories:
        mean = statistics.mean_of(rates).plain
        found["categories"] = {
            "accuracy": {name: rate.plain for name, rate in zip(categories, rates, strict=True)},
            "mean": mean,
        }
    return {**found, "verdict": verdict(found)}


def evaluate_reward(run: Run, found: dict[str, Any], key: str = "aa41d11e4aa93562", stage: str = "judging") -> None:
    run.event(stage, "start", settings={}, inputs={"reward": "5b1f7a90c2de4831"}, key=key)
    with run.new_artifact(key, stage=stage, meta={"measured": "reward.json", "verdict": found["verdict"]}) as folder:
        (folder / "reward.json").write_text(json.dumps(found))
    run.event(stage, "end", seconds=20.0, peak_memory_bytes=910_000_000)


def example(number: int, outcome: float) -> dict[str, Any]:
    prompt, base, model = PROMPTS[number % len(PROMPTS)]
    turns = [{"role": "user", "content": prompt if number < len(PROMPTS) else f"{prompt} ({number})"}]
    if number % 4 == 1:
        turns.insert(0, {"role": "system", "content": "You are a helpful assistant."})
    return {
        "prompt": turns,
        "base": {"text": base, "tokens": len(base) // 4, "finished": not base.endswith("as"), "score": -0.214},
        "model": {"text": model, "tokens": len(model) // 4, "finished": True, "score": 1.377},
        "winner": {1: "model", 0: "base"}.get(outcome, "tie"),
    }


def evaluate(run: Run, found: dict[str, Any], key: str = "c07d11e4aa935f62", stage: str = "evaluate") -> None:
    inputs = {"model": "5b1f7a90c2de4831", "base": INFO["model"], "held_out": "41d8aa0e93b7c6f2"}
    run.event(stage, "start", settings={"judge": found.get("judge"), "temperature": 0.7}, inputs=inputs, key=key)
    with run.new_artifact(key, stage=stage, meta={"evaluation": "evaluation.json"}) as folder:
        (folder / "evaluation.json").write_text(json.dumps(found))
    run.event(stage, "end", seconds=212.6, peak_memory_bytes=2_910_000_000)


def curation(run: Run, *, text: str = "Say it again.", key: str = "77aa10c2de483190") -> None:
    """A curation that refused 3 of 8 rows; `text` stands wherever a data file's words do."""
    figures = {"mean": 31.25, "least": 2.0, "5 %": 4.0, "median": 30.0, "95 %": 60.0, "most": 64.0}
    row = {"place": text, "detail": text, "prompt": [{"role": text, "content": text}], "answers": [text, ""]}
    found = {
        "rows": 8,
        "kept": 5,
        "refused": {"equal answers": 0, "duplicate": 3},
        "examples": {"duplicate": [row, row]},
        "warnings": {"e-mail address": {"rows": 13, "places": [f"{text}:{line}" for line in range(13)]}},
        "lengths": {"before": {"prompt": figures, "answer": figures}, "after": {"prompt": figures}},
    }
    run.event("curate", "start", settings={}, inputs={}, key=key)
    with run.new_artifact(key, stage="curate", meta={"groups": "groups.jsonl", "curation": "curation.json"}) as folder:
        (folder / "curation.json").write_text(json.dumps(found))
    run.event("curate", "end", seconds=1.5, peak_memory_bytes=None)


def audit(
    run: Run,
    *,
    comparisons: int = 600,
    seed: int = 0,
    place: str = "pairs.jsonl:12",
    key: str = "1c0a10c2de483190",
) -> None:
    """An audit by four models that sees one label in eight the other way round."""
    rng = np.random.default_rng(seed)
    gaps = np.sort(rng.normal(1.1, 1, comparisons))
    votes = [{"mean": float(gap), "deviation": 0.3 + abs(float(gap)) / 8, "for_label": float(gap > 0)} for gap in gaps]
    agreement = statistics.proportion(int((gaps > 0).sum()), comparisons)
    prompt, worse, better = PROMPTS[0]
    shown = {"place": place, "prompt": [{"role": "user", "content": prompt}]}

    def pieces(count: int) -> list[dict[str, float]]:
        return [
            {name: float(np.mean([vote[name] for vote in part])) for name in votes[0]}
            for part in np.array_split(np.array(votes), count)
        ]

    found = {
        "comparisons": comparisons,
        "members": 4,
        "folds": 2,
        "agree_with_label": agreement.plain,
        "fates": {"keep": comparisons - 60, "flip": 40, "drop": 20},
        "sorted": gaps[:: comparisons // 200].tolist(),
        "bins": pieces(40),
        "deciles": pieces(10),
        "wrong": [shown | {"chosen": worse, "rejected": better, "fate": "flip"} | votes[0]],
        "ambiguous": [shown | {"chosen": better, "rejected": worse, "fate": "keep"} | votes[comparisons // 8]],
        "strong": [shown | {"chosen": better, "rejected": worse, "fate": "keep"} | votes[-1]],
    }
    run.event("audit", "start", settings={}, inputs={"model": INFO["model"]}, key=key)
    with run.new_artifact(key, stage="audit", meta={"groups": "groups.jsonl", "audit": "audit.json"}) as folder:
        (folder / "audit.json").write_text(json.dumps(found))
    run.event("audit", "end", seconds=431.0, peak_memory_bytes=2_100_000_000)


def selection(run: Run, *, rows: int = 500, seed: int = 0, by: str = "deita", key: str = "90ab10c2de483190") -> None:
    """A selection of the better fifth of the rows, none of which resembles a better one."""
    rng = np.random.default_rng(seed)
    scores, words = np.sort(rng.normal(3.4, 0.8, rows)), np.sort(rng.gamma(3, 30, rows).astype(int))

    def shown(number: int) -> dict[str, Any]:
        prompt, _, answer = PROMPTS[number % len(PROMPTS)]
        turns = [{"role": "user", "content": prompt}]
        place = f"demonstrations.jsonl:{number + 1}"
        return {"place": place, "prompt": turns, "answer": answer, "score": float(scores[-1 - number])}

    def both(values: Any, least: int) -> dict[str, list[float]]:
        return {"every row": values[::5].tolist(), "kept": values[least:].tolist()}

    found = {
        "by": by,
        "rows": rows,
        "kept": rows // 5,
        "refused": {"too like a better row": 31, "beyond the budget": rows - rows // 5 - 31},
        "similarity": 0.9,
        "encoder": INFO["model"],
        "scores": both(scores, rows * 4 // 5),
        "words": both(words, rows * 4 // 5),
        "best": [shown(number) for number in range(3)],
        "worst": [shown(rows - 1 - number) for number in range(3)],
        "alike": [{"row": shown(7), "better": shown(2), "cosine": 0.973}],
    }
    run.event("select", "start", settings={}, inputs={"encoder": INFO["model"]}, key=key)
    with run.new_artifact(
        key, stage="select", meta={"groups": "groups.jsonl", "selection": "selection.json"}
    ) as folder:
        (folder / "selection.json").write_text(json.dumps(found))
    run.event("select", "end", seconds=77.0, peak_memory_bytes=900_000_000)


def evolution(run: Run, *, text: str = "Why is the sky blue at noon, and red at dusk?", key: str = "e0") -> None:
    """Variants of two requests and an answer, some replies dropped."""
    found = {
        "kinds": {
            "complexity": {"seeds": 2, "made": [2, 1], "dropped": {"empty": 1}, "chains": [steps("complexity", text)]},
            "quality": {"seeds": 1, "made": [0, 1], "dropped": {text: 1}, "chains": [steps("quality", text)]},
        },
        "dropped": {"empty": [], text: [{"kind": "quality", "parent": "Air.", "text": f"Here it is: {text}"}]},
    }
    _findings(run, key, "evolve", "evolution", found)


def ranking(run: Run, *, text: str = "Why is the sky blue at noon, and red at dusk?", key: str = "e1") -> None:
    """Grades of three variants of a request; a judge who once said nothing of use."""
    graded = [{**one, "grade": 2 + one["round"]} for one in steps("complexity", text)]
    kinds = {
        "complexity": {
            "grades": {"1": 0, "2": 1, "3": 1, "4": 0, "5": 0, "6": 0},
            "rounds": [[0, 2.0, 1], [1, 3.0, 1]],
            "examples": [graded],
        }
    }
    unread = [{"reason": "cut off", "reply": text}, {"reason": "cut off", "reply": ""}]
    found = {"seeds": 3, "graded": 1, "dropped": {"cut off": 2}, "kinds": kinds, "unread": unread}
    _findings(run, key, "rank", "ranking", found)


def steps(kind: str, text: str) -> list[dict[str, Any]]:
    """A seed and one variant."""
    seed, grown = PROMPTS[0][0], {"request": text, "answer": ""}
    if kind == "quality":
        grown = {"request": seed, "answer": text}
    return [
        {"round": 0, "way": "", "request": seed, "answer": "Air." if kind == "quality" else ""},
        {"round": 1, "way": "depth", **grown},
    ]


def online(
    run: Run,
    *,
    rollouts: int = 40,
    text: str = "Seven pens cost three each, so 21.",
    stage: str = "online",
    key: str = "0e11d2c34b5a6978",
    gain: tuple[float, float, float] | None = (0.31, 0.22, 0.4),
    kl: float = 6.0,
) -> None:
    """GRPO on sums, two steps a rollout, up to the end or, without a gain, still under way at three quarters."""
    rng = np.random.default_rng(3)
    run.event(stage, "start", settings={"algorithm": {"name": "grpo"}}, inputs={"model": INFO["model"]}, key=key)
    made = rollouts if gain else 3 * rollouts // 4
    for number in range(1, made + 1):
        part = number / rollouts
        means = {
            "reward": 0.2 + 0.4 * part + rng.normal(0, 0.04), "reward/deviation": 0.4, "length": 80 + 20 * part,
            "finished": 0.9, "accepted": 1.0, "generator_gap": 2e-6, "kl": kl * part,
        }  # fmt: skip
        prompt = [{"role": "user", "content": f"What do {number} pens cost at three each?"}]
        best = {"prompt": prompt, "text": text, "score": 1.0, "tokens": 9, "finished": True}
        worst = {"prompt": prompt, "text": "I like pens", "score": 0.0, "tokens": 4, "finished": False}
        failed = {"the row has no reference": 1} if number % 10 == 0 else {}
        place = {"rollout": number, "step": 2 * number - 1}
        run.event(stage, "rollout", **place, failed=failed, shown=[best, worst], **means)
        if number in (1, made):
            run.sample({"stage": stage, **place, "answers": [traced(best, 0.9), traced(worst, -0.6)]})
        for step in (2 * number - 1, 2 * number):
            metrics = means | {"loss": rng.normal(0, 0.01), "ratio": 1.0, "ratio/clipped": 0.02 * (1 - step % 2)}
            run.event(stage, "step", step=step, steps=2 * rollouts, metrics=metrics)
    if gain is None:
        return
    sides = {"before": interval(0.2, 0.12, 0.28, 64), "after": interval(0.51, 0.42, 0.6, 64)}
    run.event(stage, "held_out_reward", **sides, gain=interval(*gain, 64))
    with run.new_artifact(key, stage=stage, meta={"model": "checkpoint-80", "base": INFO["model"]}):
        pass
    run.event(stage, "end", seconds=620.0, peak_memory_bytes=2_900_000_000)


LOOP_KEYS = ("aa01", "aa02", "aa03")


def loop(run: Run, *, text: str = "self", rounds: int = 3) -> None:
    """Rounds of sample, score and preference, of which the last one has not come to its training yet."""
    writer = "b0b0"
    for number in range(1, rounds + 1):
        where = {"round": {"loop": text, "number": number, "of": 4}}
        scores = {"every answer": [number - 1.0, number + 1.0], "best of each row": [number + 1.0]}
        for stage in ("sample", "score", "preference")[: 2 if number == rounds else 3]:
            name = f"{text}.{number}/{stage}"
            key = LOOP_KEYS[number - 1] if stage == "preference" else f"{stage}{number}"
            run.event(name, "start", settings={"keep": "best_and_worst"}, inputs={"model": writer}, key=key, **where)
            told: dict[str, Any] = {"answer_tokens": [10 * number] * 4} if stage == "sample" else {}
            told |= {"scores": scores, "mean_score": number / 8} if stage == "score" else {}
            about = {"source": "prompts.jsonl", "rows": 60, "used": 60 - number, "refused": {}}
            run.event(name, "data", **about, written_by={writer: 120}, **told)
            if stage == "preference":
                held_out = interval(0.5 + number / 10, 0.4, 0.8, 40)
                run.event(name, "step", step=number, steps=number, metrics={"loss": 0.7 - number / 10})
                run.event(name, "held_out", step=number, accuracy=held_out, loss=0.6)
            run.event(name, "end", seconds=9.0, peak_memory_bytes=10**9)
        writer = LOOP_KEYS[number - 1]


def measured_loop(run: Run, *, text: str = "self", rounds: int = 3) -> None:
    """Rounds that only measure: against every earlier one, diversity, KL, and which model goes on."""
    rng = np.random.default_rng(5)
    for number in range(1, rounds + 1):
        where = {"round": {"loop": text, "number": number, "of": 3}}
        model, base = f"ab0{number}", LOOP_BASES[number - 1]
        round_stage(run, f"{text}.{number}/preference", model, {"model": base}, where)
        for place, other in enumerate(LOOP_BASES[:number]):
            lead = 0.1 * (number - place)
            outcomes = rng.choice([1.0, 0.5, 0.0], 80, p=[0.45 + lead, 0.1, 0.45 - lead])
            row = suites.wins("win_rate", outcomes.tolist(), list(range(80)), {"ties": Interval(0.1, 0.05, 0.2, 80)})
            name = f"{text}.{number}/win_rate/{f'{text}.{place}' if place else 'start'}"
            round_stage(run, name, f"win{number}{place}", {"model": model, "base": other}, where, [row])
        spread = [[0.9 - number / 10 + value / 100 for value in range(5)], [0.9] * 5]
        rows = [suites.means("diversity", "distinct-2", "higher", spread[0], spread[1], list(range(5)))]
        round_stage(run, f"{text}.{number}/diversity", f"div{number}", {"model": model}, where, rows)
        newer = number != 2
        wins = suites.wins("choose", [1.0] * (30 if newer else 15) + [0.0] * 20, list(range(50 if newer else 35)), {})
        name = f"{text}.{number}/choose"
        round_stage(run, name, f"choose{number}", {"model": model, "base": base}, where, [wins])
        run.event(name, "chosen", model=model if newer else base, newer=newer, wins=wins.model.plain)


LOOP_BASES = (str(INFO["model"]), "ab01", "ab02")


def round_stage(
    run: Run, name: str, key: str, inputs: dict[str, str], where: dict[str, Any], rows: list[Measured] | None = None
) -> None:
    run.event(name, "start", settings={}, inputs=inputs, key=key, **where)
    if rows is not None:
        _keep(run, name, key, rows)
    run.event(name, "end", seconds=9.0, peak_memory_bytes=10**9)


def _keep(run: Run, name: str, key: str, rows: list[Measured]) -> None:
    found = {"rows": [row.plain for row in rows], "model": "after", "base": "before"}
    with run.new_artifact(key, stage=name, meta={"measured": "measured.json"}) as folder:
        (folder / "measured.json").write_text(json.dumps(found))


def traced(answer: dict[str, Any], advantage: float) -> dict[str, Any]:
    """An answer with the numbers of its tokens."""
    pieces = [*answer["text"].split(" "), "<|im_end|>"]
    pieces = [piece if place == 0 else f" {piece}" for place, piece in enumerate(pieces)]
    count = len(pieces)
    kl = [round(0.8 * math.sin(place), 3) for place in range(count)]
    reward = [0.0] * (count - 1) + [answer["score"]]
    numbers = {"advantage": [advantage] * count, "reward": reward, "kl": kl, "value": [advantage / 2] * count}
    return {**answer, "tokens": count, "pieces": pieces, "numbers": numbers}


def _findings(run: Run, key: str, stage: str, name: str, found: dict[str, Any]) -> None:
    run.event(stage, "start", settings={}, inputs={"model": INFO["model"]}, key=key)
    with run.new_artifact(key, stage=stage, meta={"groups": "groups.jsonl", name: f"{name}.json"}) as folder:
        (folder / f"{name}.json").write_text(json.dumps(found))
    run.event(stage, "end", seconds=77.0, peak_memory_bytes=900_000_000)


def suite_rows() -> list[Measured]:
    """A loss, a gain, a coin, and a text on which little can be said."""
    items = list(range(20))
    return [
        suites.shares("arithmetic", "accuracy", "higher", [1.0] * 2 + [0.0] * 18, [1.0] * 16 + [0.0] * 4, items),
        suites.shares("refusals", "refused safe", "lower", [0.0] * 20, [1.0] * 15 + [0.0] * 5, items),
        suites.wins("judge", [1.0, 0.5, 0.0] * 6, items[:18], {"ties": Interval(1 / 3, 0.2, 0.5, 18)}),
        replace(
            suites.means("text", "nats per byte", "lower", [1.0, 1.2, 1.1], [1.0, 1.1, 1.2], items[:3]), margin=0.01
        ),
    ]


def suite(run: Run, *, text: str = "The result is 42.") -> None:
    """One measurement with an example, and a guard of four."""
    rows = suite_rows()
    answer = {"text": text, "score": 1.0}
    example = {"prompt": [{"role": "user", "content": text}], "model": answer, "base": answer}
    models = {"model": "after", "base": "before"}
    adjusted, lost, gained = suites.guarded(rows)
    found = {
        "arithmetic": {"rows": [rows[0].plain], "left_out": {"no result": 2}, "examples": [example]},
        "guard": {
            "rows": [row.plain for row in rows],
            "verdict": suites.verdict(rows),
            "adjusted": adjusted,
            "lost": lost,
            "gained": gained,
        },
    }
    for number, (stage, content) in enumerate(found.items()):
        key = f"77ab10c2de48319{number}"
        run.event(stage, "start", settings={}, inputs={"model": INFO["model"]}, key=key)
        with run.new_artifact(key, stage=stage, meta={"measured": "measured.json"}) as folder:
            (folder / "measured.json").write_text(json.dumps(models | content))
        run.event(stage, "end", seconds=1.0, peak_memory_bytes=None)


def write_all(path: Path) -> Path:
    """A run with every section that the page of a run can have, and a reward model that is too sure of itself."""
    with opened(path) as run:
        curation(run)
        evolution(run)
        ranking(run)
        selection(run)
        audit(run)
        preference(run, steps=240)
        online(run)
        loop(run)
        measured_loop(run, text="measured")
        evaluate_reward(run, reward_evaluation(categories=("chat", "safety", "reasoning")))
        suite(run)
        evaluate(run, evaluation())
        run.event("preference", "warning", message="12 rows have a prompt that ends in a space")
    return path
