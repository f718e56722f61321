"""Whether the model got better: held-out prompts, answers of both models, a judge, and intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

from pydantic import Field

from truing import statistics
from truing.compute import Engine
from truing.errors import ConfigError, DataError
from truing.records import Completion, Group
from truing.scoring.principle import Principle, answer_logprobs, is_looping, principle_scores, says_nothing
from truing.signatures import Count
from truing.stages.arranging import instructed_by
from truing.stages.arranging import judge as judged
from truing.stages.context import Context, Groups, Model, write_json
from truing.stages.sample import SamplingSettings, bare, draw, draw_once, make_generator
from truing.stages.training import warn_of_plain_text
from truing.statistics import Interval

Judge = Literal["principle", "likelihood"]

JUDGES: dict[Judge, str] = {
    "principle": "The base model judges: an answer wins whose log-odds of having been written under an instruction for "
    "the principle, rather than under its opposite, are higher. An empty or repetitive answer loses.",
    "likelihood": "The base model judges: the answer that it finds likelier per token wins. An empty or repetitive "
    "answer loses.",
}


class Evaluate(SamplingSettings):
    """Settings of `evaluate`."""

    answers: Count = Field(1, description="answers of each model to each prompt")
    judge: Judge | None = Field(None, description="who compares the answers; none: the principle if there is one")
    limit: Count | None = Field(None, description="use only so many held-out prompts")
    forest_tokens: Count = Field(2048, description="tokens scored at once; changes time and memory, never the result")
    examples: Count = Field(12, description="held-out prompts shown side by side in the report")
    instruction: str = Field(
        "", description="put after the prompts of the model alone, as csft and chain_of_hindsight were trained with"
    )

    @property
    def measures_kl(self) -> bool:
        """Whether answers come from the very distributions that are compared.

        Drawn greedily, or from the likeliest tokens alone, they do not: the mean of their log-ratios is no KL.
        """
        return self.temperature > 0 and self.top_k == 0 and self.top_p == 1


def evaluate(
    context: Context,
    settings: Evaluate,
    model: Model,
    base: Model,
    held_out: Groups,
    principle: Principle | None = None,
) -> None:
    """Compares a model with its base on held-out prompts: the same prompts, sampling and random numbers for both."""
    judge = settings.judge or ("principle" if principle else "likelihood")
    if judge == "principle" and principle is None:
        raise ConfigError(f"stage '{context.stage}': judge = \"principle\" needs a [principle] in the recipe")
    held = held_out.read()[: settings.limit]
    prompts = [bare(group) for group in held]
    if not prompts:
        raise DataError("there are no held-out prompts to evaluate on: set data.held_out")
    theirs = draw_once(context, base, prompts, settings, settings.answers, name="base")
    asked = [instructed_by(prompt, settings.instruction) for prompt in prompts]
    ours = draw(context, make_generator(context, model, settings), asked, settings, settings.answers, name="model")
    groups = [
        replace(prompt, completions=(*mine, *other)) for prompt, mine, other in zip(prompts, ours, theirs, strict=True)
    ]
    engine = context.scorer(base)
    warn_of_plain_text(context, engine.renderer, held)
    scores = _scores(context, engine, groups, judge, principle, settings)
    own = [replace(group, completions=group.completions[: settings.answers]) for group in groups]
    compared = _comparisons(held)
    before = _scored(engine, own, compared, settings)
    engine = context.scorer(model)
    # an instruction that the model was trained with stands before its answers, and not before the base's
    told, told_compared = ([instructed_by(group, settings.instruction) for group in some] for some in (own, compared))
    after = _scored(engine, told, told_compared, settings)
    divergence = _differences(after.answers, before.answers) if settings.measures_kl else None
    result = summarise(groups, scores, divergence, settings, principle)
    result["preferences"] = _preferences(_differences(after.compared, before.compared)) if compared else None
    result |= {"judge": judge, "judge_description": JUDGES[judge], "sampling": _sampling(settings)}
    result["model"] |= {"name": model.source}
    result["base"] |= {"name": base.source}
    context.run.show(context.stage, result["examples"])  # before the stage is done, or a kill could lose them
    with context.output({"evaluation": "evaluation.json", "verdict": result["verdict"], "of": model.key}) as folder:
        write_json(folder / "evaluation.json", result)


def summarise(
    groups: Sequence[Group],
    scores: Sequence[Sequence[float]],
    divergence: Sequence[Sequence[float]] | None,
    settings: Evaluate,
    principle: Principle | None,
) -> dict[str, Any]:
    """The numbers of a comparison. Of each Group the first half of the answers is the model's, the rest the base's.

    divergence: log-ratio of model and base, in nats, of each of the model's answers; its mean estimates the KL. None
        where the answers were not drawn from what is compared.
    """
    count = settings.answers
    outcomes: list[float] = []
    lengths: dict[str, list[float]] = {"model": [], "base": []}
    finished: dict[str, list[bool]] = {"model": [], "base": []}
    looping: dict[str, list[bool]] = {"model": [], "base": []}
    names: list[int] = []
    for place, group in enumerate(groups):
        for number in range(count):
            ours, theirs = group.completions[number], group.completions[count + number]
            outcomes.append(_outcome(ours, theirs, scores[place][number], scores[place][count + number]))
            names.append(place)
            for side, answer in (("model", ours), ("base", theirs)):
                lengths[side].append(_tokens(answer))
                finished[side].append(answer.finished)
                looping[side].append(is_looping(answer.text))
    rate = statistics.win_rate(outcomes, prompts=names)
    ratio = statistics.ratio_of_means(lengths["model"], lengths["base"], prompts=names)
    kl = (
        statistics.mean([value for row in divergence for value in row], prompts=names)
        if divergence is not None
        else None
    )
    sides = {
        side: {
            "mean_tokens": sum(lengths[side]) / len(lengths[side]),
            "finished": statistics.proportion(sum(finished[side]), len(finished[side])).plain,
            "looping": statistics.proportion(sum(looping[side]), len(looping[side])).plain,
        }
        for side in ("model", "base")
    }
    return {
        "principle": principle.text if principle else None,
        "prompts": len(groups),
        "outcomes": [sum(outcomes[place * count : (place + 1) * count]) / count for place in range(len(groups))],
        "answers_per_prompt": count,
        "wins": sum(outcome == 1 for outcome in outcomes),
        "ties": sum(outcome == 0.5 for outcome in outcomes),
        "losses": sum(outcome == 0 for outcome in outcomes),
        "win_rate": rate.plain,
        "kl": kl.plain if kl is not None else None,
        "length_ratio": ratio.plain,
        **sides,
        "verdict": _verdict(rate, kl, ratio, sides, len(groups)),
        "examples": [_example(groups[i], scores[i], count) for i in range(min(settings.examples, len(groups)))],
    }


def _scores(
    context: Context,
    engine: Engine,
    groups: Sequence[Group],
    judge: Judge,
    principle: Principle | None,
    settings: Evaluate,
) -> list[tuple[float, ...]]:
    if judge == "likelihood":
        sums = answer_logprobs(engine, groups, budget=settings.forest_tokens)
        return [
            tuple(value / max(_tokens(answer), 1) for value, answer in zip(row, group.completions, strict=True))
            for row, group in zip(sums, groups, strict=True)
        ]
    assert principle is not None, "without one the judge is another"
    with context.reporter.task(f"{context.stage}: judging", 2 * len(principle.positive)) as task:
        return principle_scores(engine, groups, principle, budget=settings.forest_tokens, on_scored=task.advance)


def _outcome(ours: Completion, theirs: Completion, our_score: float, their_score: float) -> float:
    """1 for a win of the model, 0 for a loss, one half for a tie. An answer that says nothing never wins."""
    if says_nothing(ours) or says_nothing(theirs):
        return 0.5 if says_nothing(ours) and says_nothing(theirs) else float(says_nothing(theirs))
    return 0.5 if our_score == their_score else float(our_score > their_score)


class _Scored(NamedTuple):
    """Log-probabilities under one model: of the model's own answers, and of held-out (chosen, rejected) answers."""

    answers: list[tuple[float, ...]]
    compared: list[tuple[float, ...]]


def _scored(engine: Engine, own: Sequence[Group], compared: Sequence[Group], settings: Evaluate) -> _Scored:
    """The model's own answers at the temperature at which they were drawn, and the held-out ones as they are."""
    budget = settings.forest_tokens
    answers = (
        answer_logprobs(engine, own, budget=budget, temperature=settings.temperature) if settings.measures_kl else []
    )
    return _Scored(answers, answer_logprobs(engine, compared, budget=budget) if compared else [])


def _comparisons(held: Sequence[Group]) -> list[Group]:
    """The best and the worst answer of every held-out row that ranks its answers; other rows say nothing of this."""
    found: list[Group] = []
    for group in held:
        try:
            answers = judged(group, "pair", "best_worst").group.completions
        except DataError:
            continue
        found.append(replace(group, completions=(answers[0], answers[-1])))
    return found


def _differences(after: Sequence[Sequence[float]], before: Sequence[Sequence[float]]) -> list[list[float]]:
    """log p(model) - log p(base) of each answer."""
    return [[new - old for new, old in zip(*rows, strict=True)] for rows in zip(after, before, strict=True)]


def _preferences(ratios: Sequence[Sequence[float]]) -> dict[str, Any]:
    """How the model moved on held-out comparisons: whether and by how much it now prefers the chosen answers."""
    margins = [chosen - rejected for chosen, rejected in ratios]
    right = [0.5 if margin == 0 else float(margin > 0) for margin in margins]
    return {
        "accuracy": statistics.win_rate(right).plain,
        "margin": statistics.mean(margins).plain,
        "chosen": statistics.mean([chosen for chosen, _ in ratios]).plain,
    }


def _tokens(answer: Completion) -> int:
    assert answer.sampled is not None
    return len(answer.sampled.tokens)


def _verdict(
    rate: Interval, kl: Interval | None, ratio: Interval, sides: dict[str, dict[str, Any]], prompts: int
) -> str:
    """One line; all numbers measured."""
    parts = [
        f"wins {100 * rate.value:.0f} % [{100 * rate.low:.0f}, {100 * rate.high:.0f}] against the base "
        f"on {prompts} held-out prompts"
    ]
    if kl is not None:
        parts.append(f"KL {kl.value:.1f} nats")
    parts.append(f"answers {ratio.value:.2f}x as long")
    finished = {side: 100 * numbers["finished"]["value"] for side, numbers in sides.items()}
    parts.append(f"{finished['model']:.0f} % finished (base {finished['base']:.0f} %)")
    if sides["model"]["looping"]["value"] > 0:
        parts.append(f"{100 * sides['model']['looping']['value']:.0f} % repeat themselves")
    return "; ".join(parts)


def _example(group: Group, scores: Sequence[float], count: int) -> dict[str, Any]:
    ours, theirs = group.completions[0], group.completions[count]
    outcome = _outcome(ours, theirs, scores[0], scores[count])
    return {
        "prompt": [{"role": message.role, "content": message.content} for message in group.prompt],
        "model": _shown(ours, scores[0]),
        "base": _shown(theirs, scores[count]),
        "winner": {1.0: "model", 0.0: "base"}.get(outcome, "tie"),
    }


def _shown(answer: Completion, score: float) -> dict[str, Any]:
    return {"text": answer.text, "tokens": _tokens(answer), "finished": answer.finished, "score": score}


def _sampling(settings: Evaluate) -> dict[str, Any]:
    return settings.model_dump(include={"temperature", "top_k", "top_p", "max_new_tokens"})
