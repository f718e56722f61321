"""What a plan can know before anything runs: rows and tokens, and memory and time by formula."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from truing import models
from truing.blending import repeats
from truing.costs import USABLE, Lengths, Load, Memory, Shape, Weights, free_memory, memory_of, operations
from truing.errors import by_reason
from truing.models import roles
from truing.models.precision import compute_dtype, name_of
from truing.models.quantised import demand_library
from truing.planning import Planned, nothing_held_out, read_inputs, scorers_in
from truing.recipe import Recipe, device_of
from truing.records import Group
from truing.rendering import Renderer, Row
from truing.rivals import share_of_reference
from truing.scoring.choices import asked
from truing.scoring.controls import control_answers
from truing.scoring.duels import LETTERS, duel
from truing.scoring.rubric import points_request
from truing.scoring.scorers import named_in, parts_of
from truing.selection.turns import Turn, quality_request
from truing.stages.arranging import best, judged_rows
from truing.stages.context import Groups, Model
from truing.stages.curate import Curate
from truing.stages.evaluate import Evaluate
from truing.stages.evaluate_reward import EvaluateReward, category_rows, comparable
from truing.stages.evolve import Evolve
from truing.stages.join import Join, joined
from truing.stages.judgements import Judgements
from truing.stages.measure import Measuring, Perplexity
from truing.stages.online_settings import Online
from truing.stages.preference import Preference
from truing.stages.rank import Rank
from truing.stages.replies import Writing
from truing.stages.revise import Revise
from truing.stages.reward_model import RewardModel
from truing.stages.rollouts import prompts_of
from truing.stages.sample import Contrast, Sample, bare
from truing.stages.score import KEPT, ScoreAnswers
from truing.stages.select import Select
from truing.stages.self_instruct import SelfInstruct
from truing.stages.sft import Sft, arranged
from truing.stages.side_by_side import SideBySide, placed
from truing.stages.training import Training, Updates, largest_forest, render_rows, step_count

REACHED = 0.5
"""Share of the rate of one large matrix product that a whole model reaches, roughly."""
GRADE = 2
"""Tokens of a grade and the end of its turn."""
LIMITED = (Contrast, Evaluate, Evolve, Measuring, Perplexity, Sample)
"""Settings with a limit of rows."""
UNPRICED = "their time and price are not in the estimate"
TRAFFIC = 52
"""Bytes read and written to renew one weight: gathering, norm and clipping of its gradient, AdamW, rounding."""


def check(recipe: Recipe, planned: Sequence[Planned]) -> dict[str, Any]:
    """Rows and tokens of the data, memory, and seconds by stage.

    Raises the error that the run would meet: a template that refuses the data, rows without a scored token.
    """
    read_inputs(planned)
    if any(isinstance(p.settings, Updates) and p.settings.base_bits for p in planned):
        demand_library()
    source = models.locate(recipe.model)
    renderer = models.read_renderer(source, Path(recipe.chat_template) if recipe.chat_template else None)
    device = device_of(recipe.device)
    dtype = compute_dtype(recipe.precision, device)
    facts: dict[str, Any] = {
        "model": source,
        "parameters": _parameters(source),
        "dtype": name_of(dtype),
        "matrix_rate": _matrix_rate(device, dtype),
    }
    facts |= _first_data(planned, renderer)
    facts["fed"] = _fed(planned)
    sizes = sizes_of(planned, renderer, recipe.seed)
    machine = Machine.of(source, device, dtype, facts["parameters"], facts["matrix_rate"])
    training = {
        p.name: _trained(p.settings, sizes[p.name], machine, recipe.seed)
        for p in planned
        if isinstance(p.settings, Training)
    }
    training |= {
        p.name: _online(p.settings, sizes[p.name], _mixed(p, renderer), _watched(p), machine, _apart(p, planned))
        for p in planned
        if isinstance(p.settings, Online)
    }
    instructions = len(recipe.principle.positive) if recipe.principle else 0
    others = {
        name: 2 * facts["parameters"] * tokens / machine.rate
        for name, tokens in _tokens_run(planned, sizes, instructions).items()
    }
    facts["training"] = training
    facts["memory_bytes"] = max((found["memory_bytes"] for found in training.values()), default=0.0)
    seconds = others | {name: found["seconds"] for name, found in training.items()}
    facts["stage_seconds"] = {p.name: seconds[p.name] for p in planned if p.name in seconds}
    facts["rounds"] = {p.name: asdict(p.round) for p in planned if p.round}
    facts["notes"] = [
        f"{', '.join(fed['stages'])}: {words}" for fed in facts["fed"] for words in repeats(fed["shares"])
    ]
    firsts = [p for p in planned if p.round is None or p.round.number == 1]  # of later rounds all is as of the first
    facts["notes"] += [note for stage_plan in firsts for note in _notes(stage_plan, facts)]
    for stage_plan in planned:
        if isinstance(stage_plan.settings, Writing) and stage_plan.settings.endpoint:
            requests, _ = _asked(stage_plan, planned, sizes[stage_plan.name])
            where = f"{requests:,} requests at most go to {stage_plan.settings.endpoint.url}"
            facts["notes"].append(f"{stage_plan.name}: {where}; {UNPRICED}")
        for judge in (part for scorer in scorers_in(stage_plan.settings) for part in parts_of(scorer)):
            if isinstance(judge.get("model"), Mapping):
                rows = _scored_rows(stage_plan.settings, sizes[stage_plan.name])
                requests = judge["samples"] * _judgements(judge, rows)
                where = f"about {requests:,} requests go to {judge['model']['url']}"
                facts["notes"].append(f"{stage_plan.name}: {where}; {UNPRICED}")
    return facts | {"seconds": sum(seconds.values())}


@dataclass(frozen=True, slots=True)
class Machine:
    """A model on this machine: its sizes, and how fast a whole model computes and memory is read and written."""

    shape: Shape
    parameters: int
    itemsize: int
    device: torch.device
    rate: float
    bandwidth: float

    @classmethod
    def of(cls, source: str, device: torch.device, dtype: torch.dtype, parameters: int, matrix_rate: float) -> Machine:
        """Rates are tried for a moment."""
        rate, bandwidth = matrix_rate * REACHED, _bandwidth(device)
        return cls(Shape.of(models.read_config(source)), parameters, dtype.itemsize, device, rate, bandwidth)

    def memory(self, settings: Training | Online, load: Load, *, checkpointing: bool) -> Memory:
        """Bytes of training on forests of this size."""
        matrices = sum(wide + out for wide, out in self.shape.matrices())
        trained = settings.lora.rank * self.shape.layers * matrices if settings.lora else self.parameters
        weights = Weights(
            self.parameters,
            trained,
            self.itemsize,
            self.device.type,
            checkpointing,
            settings.keeps_reference,
            settings.base_bits,
        )
        return memory_of(self.shape, weights, load)


def sizes_of(planned: Sequence[Planned], renderer: Renderer, seed: int) -> dict[str, list[Lengths]]:
    """By stage, the rows it takes. Answers that are yet to be drawn count as long as they may become, and
    rows that are yet to be curated as if none were refused.
    """
    made: dict[str, list[Lengths]] = {}
    found: dict[str, list[Lengths]] = {}
    uncurated: dict[str, Groups] = {}
    for stage_plan in planned:
        settings = stage_plan.settings
        source = stage_plan.inputs.get("held_out" if isinstance(settings, Evaluate | EvaluateReward) else "data")
        if not isinstance(source, Groups):
            continue
        source = uncurated.get(source.key, source)
        if isinstance(settings, Curate):
            uncurated[stage_plan.key] = source
            continue
        rows = _lengths(source, settings, renderer, seed) if source.ready else made[source.key]
        found[stage_plan.name] = rows[: settings.limit] if isinstance(settings, LIMITED) else rows
        if isinstance(settings, Contrast | Sample):
            made[stage_plan.key] = [_drawn(settings, row) for row in found[stage_plan.name]]
        elif isinstance(settings, ScoreAnswers):  # nobody knows which answers go on: the longest ones are dearest
            made[stage_plan.key] = [_longest(row, KEPT[settings.keep]) for row in found[stage_plan.name]]
        elif isinstance(settings, Select):  # nor which rows: again the longest
            longest = sorted(found[stage_plan.name], key=lambda row: row.tokens, reverse=True)
            made[stage_plan.key] = longest[: settings.budget(len(longest))]
        elif isinstance(settings, Evolve):
            made[stage_plan.key] = _variants(settings, found[stage_plan.name])
        elif isinstance(settings, Rank):
            words = len(renderer.prompt(asked(renderer, quality_request(Turn("", ""))).prompt))
            made[stage_plan.key] = [Lengths(words + row.tokens, (GRADE,), GRADE) for row in found[stage_plan.name]]
        elif isinstance(settings, Judgements):
            words = len(renderer.prompt(asked(renderer, points_request((), "", criteria=settings.criteria)).prompt))
            made[stage_plan.key] = [
                one for row in found[stage_plan.name] for one in _judgements_of(settings, row, words)
            ]
        elif isinstance(settings, SelfInstruct):
            made[stage_plan.key] = [Lengths(settings.max_new_tokens, (), 0)] * settings.prompts
        elif isinstance(settings, Join):
            also = stage_plan.inputs["also"]
            more = _lengths(also, settings, renderer, seed) if also.ready else made[also.key]
            made[stage_plan.key] = joined(settings, found[stage_plan.name], more)
        elif isinstance(settings, Revise):
            made[stage_plan.key] = [_revised(settings, row) for row in found[stage_plan.name]]
        elif isinstance(settings, SideBySide):
            made[stage_plan.key] = _side_by_side(settings, source, found[stage_plan.name], renderer)
        else:
            made[stage_plan.key] = found[stage_plan.name]  # what a stage makes of rows that it only treats
    return found


def training_rows(settings: Training, groups: Sequence[Group], renderer: Renderer, seed: int) -> list[Row]:
    """The rows as a training stage makes them of its data."""
    if isinstance(settings, Preference):
        groups = [judged.group for judged in judged_rows(settings.bound(), groups, settings.pairs)]
    elif isinstance(settings, Sft):
        groups, _ = arranged(settings, groups, seed)
    return render_rows(renderer, groups, settings)[0]


def _notes(planned: Planned, facts: Mapping[str, Any]) -> list[str]:
    """What is worth knowing before a stage runs: rows it leaves out, and what it makes of a step's size."""
    settings = planned.settings
    unwatched = nothing_held_out(planned)
    notes = [f"{planned.name}: {unwatched}"] if unwatched else []
    if isinstance(settings, Online):
        most = f"answers of max_new_tokens = {settings.max_new_tokens:,} each, which is the most"
        notes.append(f"{planned.name}: the estimate is of {most}; --measure does not try this stage")
    if isinstance(settings, Sft) and planned.inputs["data"].ready:
        bad = arranged(settings, planned.inputs["data"].read(), 0)[1]
        notes += [f"{planned.name}: left out: {by_reason(bad)}"] if bad else []
    if not isinstance(settings, Preference):
        return notes
    bound = settings.bound()
    if bound.is_coupled:
        notes.append(
            f"{planned.name}: the {settings.batch_size} rows of a step meet in '{bound.name}', "
            "so batch_size is part of what it learns"
        )
        step = settings.batch_size * facts.get("tokens", 0) / max(facts.get("rows", 1), 1)
        if step > settings.forest_tokens:
            notes.append(
                f"{planned.name}: a step of about {step:,.0f} tokens is more than one forest of "
                f"{settings.forest_tokens:,}: the gradient stays exact at one more pass; raise forest_tokens to save it"
            )
    if bound.needs("kl") and settings.batch_size < 8:
        notes.append(
            f"{planned.name}: '{bound.name}' measures the KL on the {settings.batch_size} rows of each step; "
            "with fewer than 8 the estimate is noisy"
        )
    return notes


def _first_data(planned: Sequence[Planned], renderer: Renderer) -> dict[str, Any]:
    data = next((p.inputs["data"] for p in planned if "data" in p.inputs), None)
    if not isinstance(data, Groups) or not data.ready:
        return {}
    rows = [renderer.render(group, index) for index, group in enumerate(data.read())]
    held_out = next((p.inputs["held_out"] for p in planned if "held_out" in p.inputs), None)
    counted = {"held_out": len(held_out.read())} if isinstance(held_out, Groups) and held_out.ready else {}
    tokens = sum(len(row) for row in rows)
    return {"data": data.description, "rows": len(rows), "tokens": tokens, "bad_rows": data.bad, **counted}


def _fed(planned: Sequence[Planned]) -> list[dict[str, Any]]:
    """The rows that are there already: which stages take them, how many they are, what each source of a blend gives."""
    found: dict[str, dict[str, Any]] = {}
    for stage_plan in planned:
        data = stage_plan.inputs.get("data")
        if isinstance(data, Groups) and data.ready:
            about = {"stages": [], "data": data.description, "rows": len(data.read()), "shares": data.shares()}
            found.setdefault(data.key, about)["stages"].append(stage_plan.name)
    return list(found.values())


def _lengths(source: Groups, settings: object, renderer: Renderer, seed: int) -> list[Lengths]:
    if isinstance(settings, Training):
        return [Lengths.of(row) for row in training_rows(settings, source.read(), renderer, seed)]
    if isinstance(settings, EvaluateReward):
        read = (comparable(settings, source.read()), *category_rows(settings).values())
        return [Lengths.of(renderer.render(one.group)) for material in read for one in material.judged]
    if isinstance(settings, Online):
        return [Lengths.of(renderer.render(row, index)) for index, row in enumerate(prompts_of(source.read()))]
    whole = isinstance(settings, ScoreAnswers | Select | Evolve | Rank | Judgements | Revise | Join | Perplexity)
    if isinstance(settings, Sample) and settings.data_answers == "prefer":
        return [Lengths.of(renderer.render(best(group), index)) for index, group in enumerate(source.read())]
    rows = enumerate(source.read())
    return [Lengths.of(renderer.render(group if whole else bare(group), index)) for index, group in rows]


def _side_by_side(settings: SideBySide, source: Groups, rows: Sequence[Lengths], renderer: Renderer) -> list[Lengths]:
    """Requests that hold two answers each. Of answers yet to be drawn two count as compared, in both orders."""
    if source.ready:
        return [Lengths.of(renderer.render(row)) for row in placed(settings, renderer, source.read(), Counter())]
    around = Lengths.of(renderer.render(asked(renderer, duel((), "", ""), LETTERS)))
    prompts = [around.prompt + _longest(row, 2).tokens for row in rows]
    return [around._replace(prompt=prompt) for prompt in prompts for _ in LETTERS]


def _drawn(settings: Contrast | Sample, row: Lengths) -> Lengths:
    """The row with as many answers as are drawn, each as long as it may become, and the data's own if it stays."""
    answers = (settings.max_new_tokens,) * (2 if isinstance(settings, Contrast) else settings.answers)
    if isinstance(settings, Sample) and settings.data_answers == "prefer":
        answers += _longest(row, 1).answers
    return Lengths(row.prompt, answers, sum(answers))


def _longest(row: Lengths, count: int | None) -> Lengths:
    """The row with so many of its answers."""
    answers = tuple(sorted(row.answers, reverse=True)[:count])
    return Lengths(row.prompt, answers, sum(answers))


def _judgements_of(settings: Judgements, row: Lengths, words: int) -> list[Lengths]:
    """A judgement of each answer, if all agree with people. words: tokens of a request besides what is judged."""
    most = settings.max_new_tokens
    return [Lengths(words + row.prompt + answer, (most,), most) for answer in row.answers]


def _revised(settings: Revise, row: Lengths) -> Lengths:
    """The row with the answer that it had, and a revised one as long as it may become."""
    answers = (*_longest(row, 1).answers, settings.max_new_tokens)
    return Lengths(row.prompt, answers, sum(answers))


def _variants(settings: Evolve, rows: Sequence[Lengths]) -> list[Lengths]:
    """The variants of these seeds, the seeds among them, if none is dropped and each is as long as it may become."""
    most = settings.max_new_tokens
    request = Lengths(most, (), 0)
    answers = [Lengths(row.prompt, (most,), most) for row in rows]
    own = [request if kind == "complexity" else answer for answer in answers for kind in settings.of]
    return [one for one in own for _ in range(settings.rounds + 1)]


def _trained(settings: Training, rows: Sequence[Lengths], machine: Machine, seed: int) -> dict[str, Any]:
    """What a training stage takes: seconds in all and of a step, and memory with what it is made of."""
    load = largest_forest(rows, settings, seed)
    checkpointing = settings.checkpointing
    if checkpointing == "auto":
        free = USABLE * free_memory(machine.device)
        checkpointing = machine.memory(settings, load, checkpointing=False).peak > free
    memory = machine.memory(settings, load, checkpointing=bool(checkpointing))
    steps = step_count(len(rows), settings)
    each, once = settings.passes
    epochs = min(steps * settings.batch_size / len(rows), settings.epochs)
    pass_seconds = operations(machine.shape, rows) / machine.rate
    renewal = steps * memory.moments / 8 * TRAFFIC / machine.bandwidth
    running = (each + bool(checkpointing)) * epochs * pass_seconds + renewal
    times, readings = settings.trainings
    return {
        "steps": round(times * steps),
        "seconds": times * running + (once + readings) * pass_seconds,
        "step_seconds": running / steps,
        "memory_bytes": memory.peak,
        "memory": memory._asdict(),
        "checkpointing": bool(checkpointing),
        "largest_forest": load.tokens,
    }


class Apart(NamedTuple):
    """The models with weights of their own beside a policy: whether the critic is one, and how many scorers are."""

    critic: bool
    scorers: int


def _online(
    settings: Online,
    prompts: Sequence[Lengths],
    mixed: Sequence[Lengths],
    watched: int,
    machine: Machine,
    apart: Apart,
) -> dict[str, Any]:
    """What online learning takes where every answer is as long as it may become, as `_trained` tells it.

    mixed: rows that are mixed into its steps. watched: held-out prompts, which are answered before and after. tokens:
    those sampled; those read without gradient, by policy, reference and critic; those learnt from, in all epochs.
    """
    algorithm, most = settings.bound(), settings.max_new_tokens
    rival = 0 if algorithm.rival is None else 1
    read = algorithm.group_size + (rival if algorithm.pairs_answers else 0)
    rows = [_answered(row, read, most) for row in prompts]
    learnt = [_answered(row, algorithm.learnt, most) for row in prompts]
    asked = settings.rollouts * settings.prompts
    whole = asked / len(rows) * sum(row.tokens for row in rows)
    one_pass = asked / len(rows) * operations(machine.shape, rows) / machine.rate
    one_step = asked / len(rows) * operations(machine.shape, learnt) / machine.rate
    readers = (not settings.reads_while_learning) + settings.reads_reference + algorithm.needs_critic
    judges = _readings(settings.scorer)
    load = _largest_rollout(settings, learnt)
    drawn = settings.pretrain_rows * settings.steps / len(mixed) if mixed else 0.0  # how often each row is mixed in
    if mixed:
        load = max(load, _largest_rollout(settings, mixed))
    memory = _online_memory(settings, rows, load, machine, apart)
    written = asked * (algorithm.group_size + rival) + 2 * watched
    # each token is written by a pass over all weights, which the answers that are written at one time share
    twice = (
        asked if 0 < share_of_reference(algorithm.rival) < 1 else 0
    )  # both models read what is drawn from their mixture
    passes = most * (written + twice) / min(settings.live_answers, settings.prompts * algorithm.group_size)
    sampling = one_pass * (written + twice) / (asked * read)
    sampling = max(sampling, passes * memory.weights / machine.bandwidth)
    learners = 1 + algorithm.needs_critic
    renewal = settings.steps * learners * memory.moments / 8 * TRAFFIC / machine.bandwidth
    beside = drawn * operations(machine.shape, mixed) / machine.rate
    learning = (3 + settings.checkpointing) * (learners * algorithm.epochs * one_step + beside) + renewal
    reading = (readers + judges * written / (asked * read)) * one_pass
    return {
        "steps": settings.steps,
        "seconds": sampling + reading + learning,
        "step_seconds": learning / settings.steps,
        "memory_bytes": memory.peak,
        "memory": memory._asdict(),
        "checkpointing": settings.checkpointing,
        "largest_forest": load.tokens,
        "tokens": {
            "sampled": written * most,
            "read": round(readers * whole),
            "trained": round(
                algorithm.epochs * asked / len(rows) * sum(row.tokens for row in learnt)
                + drawn * sum(row.tokens for row in mixed)
            ),
        },
    }


def _answered(row: Lengths, answers: int, tokens: int) -> Lengths:
    """The prompt of a row with so many answers of so many tokens."""
    return Lengths(row.prompt, (tokens,) * answers, answers * tokens)


def _mixed(planned: Planned, renderer: Renderer) -> list[Lengths]:
    """The rows that an online stage mixes into its steps; those yet to be made are not counted."""
    data = planned.inputs.get("pretrain")
    if not isinstance(data, Groups) or not data.ready:
        return []
    return [Lengths.of(renderer.render(row, index)) for index, row in enumerate(arranged(Sft(), data.read(), 0)[0])]


def _largest_rollout(settings: Online, rows: Sequence[Lengths]) -> Load:
    """A step as far as the budget goes, or its longest prompt with all answers: no forest cuts them apart."""
    most = max(rows, key=lambda row: row.tokens)
    tokens = max(most.tokens, min(settings.forest_tokens, settings.batch_size * most.tokens))
    return Load(tokens, round(tokens * most.scored / most.tokens))


def _online_memory(settings: Online, rows: Sequence[Lengths], load: Load, machine: Machine, apart: Apart) -> Memory:
    """Policy and reference, a critic trained as the policy is, scorers of the same size, and the cache.

    Roles that use the policy's base take no weights for it; the adapters of scorers are not counted.
    """
    algorithm, shape = settings.bound(), machine.shape
    found = machine.memory(settings, load, checkpointing=settings.checkpointing)
    trained = found.masters + found.moments + found.gradients + found.activations + apart.critic * found.weights
    live = min(settings.live_answers, settings.prompts * algorithm.group_size)
    models = 2 if 0 < share_of_reference(algorithm.rival) < 1 else 1
    longest = max(row.prompt for row in rows) + settings.max_new_tokens
    key_and_value = 2 * shape.layers * shape.groups * shape.head_width * machine.itemsize
    return found._replace(
        critic=trained if algorithm.needs_critic else 0.0,
        scorers=float(apart.scorers * machine.parameters * machine.itemsize),
        cache=float(models * live * longest * key_and_value),
        average=0.0 if settings.ema_decay is None else found.moments / 2,
    )


def _apart(online: Planned, planned: Sequence[Planned]) -> Apart:
    """Which roles of online learning will have weights of their own, as far as it is known before anything is made."""
    settings, policy, judges = online.settings, online.inputs["model"], online.inputs["judges"]
    assert isinstance(settings, Online)
    found = {*judges.models.values(), *judges.language.values()}
    if settings.lora is None or not settings.one_base:
        return Apart(True, len(found))
    critic = online.inputs.get("reward") or policy
    return Apart(
        critic=critic is not policy and not _on_base(critic, policy, planned),
        scorers=sum(not _on_base(model, policy, planned) for model in found),
    )


def _on_base(model: Model, policy: Model, planned: Sequence[Planned]) -> bool:
    """Whether a model will be the base of this policy, or an adapter on it."""
    maker = next((p for p in planned if p.key == model.key), None)
    if maker is not None:  # what a stage has yet to make lies on the base if it trains an adapter on the same model
        own = maker.settings
        alone = not isinstance(own, RewardModel) or own.members == 1  # an average is written in full
        return isinstance(own, Training) and own.lora is not None and alone and maker.inputs["model"] == policy
    yet_to_come = any(p.key == policy.key for p in planned)
    return not yet_to_come and not models.is_adapter(policy.source) and roles.lies_on(model.source, policy.source)


def _watched(planned: Planned) -> int:
    """Held-out prompts that an online stage answers before and after; of those yet to be made as many as it may."""
    assert isinstance(planned.settings, Online)
    held_out = planned.inputs.get("held_out")
    if not isinstance(held_out, Groups):
        return 0
    most = planned.settings.held_out_prompts
    return min(most, len(prompts_of(held_out.read()))) if held_out.ready else most


def _tokens_run(
    planned: Sequence[Planned], sizes: Mapping[str, Sequence[Lengths]], instructions: int
) -> dict[str, float]:
    """By stage that writes or scores answers, the tokens that go through a model.

    Nobody knows which pairs are drawn again.
    """
    found: dict[str, float] = {}
    for stage_plan in planned:
        settings, rows = stage_plan.settings, sizes.get(stage_plan.name, [])
        prompt = sum(row.prompt for row in rows)
        whole = prompt + sum(sum(row.answers) for row in rows)
        if isinstance(settings, Evaluate):
            found[stage_plan.name] = _evaluated(len(rows), prompt, settings, instructions)
        elif isinstance(settings, Perplexity):
            found[stage_plan.name] = _models(stage_plan) * whole
        elif isinstance(settings, Measuring):
            answers = (settings.max_new_tokens,) * settings.answers
            written = [row._replace(answers=answers) for row in rows]
            read = sum(_judged(spec, written) for spec in scorers_in(settings))
            found[stage_plan.name] = _models(stage_plan) * (prompt + len(rows) * sum(answers) + read)
        elif isinstance(settings, EvaluateReward):
            own = sum(row.tokens for row in rows)
            found[stage_plan.name] = _judged(settings.scorer, rows) if settings.scorer else own
        elif isinstance(settings, Contrast):
            found[stage_plan.name] = 2 * (prompt + len(rows) * settings.max_new_tokens)
        elif isinstance(settings, Sample):
            found[stage_plan.name] = prompt + len(rows) * settings.answers * settings.max_new_tokens
        elif isinstance(settings, Writing) and settings.endpoint is None:
            requests, read = _asked(stage_plan, planned, rows)
            found[stage_plan.name] = read + requests * settings.max_new_tokens
        elif isinstance(settings, ScoreAnswers):
            found[stage_plan.name] = _judged(settings.scorer, rows)
        elif isinstance(settings, Select):
            found[stage_plan.name] = _judged(settings.by, rows) + (settings.similarity != "none") * whole
    return found


def _models(stage_plan: Planned) -> int:
    """How many models a stage measures: two, or one that is its own base."""
    return len({stage_plan.inputs[name].key for name in ("model", "base")})


def _asked(stage_plan: Planned, planned: Sequence[Planned], rows: Sequence[Lengths]) -> tuple[int, float]:
    """How many requests a stage puts to whoever writes, and the tokens in them that come from its rows, at most."""
    if isinstance(stage_plan.settings, Evolve):
        variants = _variants(stage_plan.settings, rows)
        share = stage_plan.settings.rounds / (stage_plan.settings.rounds + 1)  # nothing is made of the last round
        return round(share * len(variants)), share * sum(row.tokens for row in variants)
    if isinstance(stage_plan.settings, Judgements):
        whole = sum(len(row.answers) * row.prompt + sum(row.answers) for row in rows)
        return stage_plan.settings.samples * sum(len(row.answers) for row in rows), whole
    if isinstance(stage_plan.settings, SelfInstruct):  # if none is refused
        shown = stage_plan.settings.seeds + stage_plan.settings.own
        return stage_plan.settings.prompts, stage_plan.settings.prompts * shown * sum(r.prompt for r in rows) / len(
            rows
        )
    if isinstance(stage_plan.settings, Revise):  # a critique, and a revision that reads it too
        rounds = stage_plan.settings.rounds
        each = 2 * sum(row.tokens for row in rows) + len(rows) * stage_plan.settings.max_new_tokens
        return 2 * rounds * len(rows), float(rounds * each)
    maker = next((p.settings for p in planned if p.key == stage_plan.inputs["data"].key), None)
    together = maker.rounds + 1 if isinstance(maker, Evolve) else 2  # of a file nobody knows before it is read
    return len(rows) // together, sum(row.tokens for row in rows)


def _judged(scorer: Mapping[str, Any], rows: Sequence[Lengths]) -> float:
    """Tokens that go through the models that a scorer names; replies count as long as they may become."""
    whole = sum(row.prompt + sum(row.answers) for row in rows)
    written = [
        int(part["samples"]) * int(part["max_new_tokens"]) * _judgements(part, rows)
        for part in parts_of(scorer)
        if "samples" in part and isinstance(part["model"], str)
    ]
    return _readings(scorer) * whole + sum(written)


def _scored_rows(settings: object, rows: Sequence[Lengths]) -> Sequence[Lengths]:
    """The rows whose answers a stage has scored; online learning scores those that it draws."""
    if not isinstance(settings, Online):
        return rows
    answers = (settings.max_new_tokens,) * settings.bound().group_size
    return [Lengths(0, answers, 0)] * (settings.rollouts * settings.prompts)


def _judgements(judge: Mapping[str, Any], rows: Sequence[Lengths]) -> int:
    """How often a judge is asked: of each answer or, in both orders, of each pair; and of the control answers."""
    answers = [len(row.answers) for row in rows]
    controls = min(len(rows), int(judge["controls"]["rows"])) * len(control_answers([""]))
    if "against" not in judge:
        return sum(answers) + controls
    met = [count * (count - 1) if judge["against"] == "all" else 2 * count for count in answers]
    return sum(met) + 2 * controls


def _readings(scorer: Mapping[str, Any]) -> int:
    """How often the models that a scorer names read each row, about: a request is longer than what it asks about."""
    return (
        len(named_in(scorer, "model"))
        + len(named_in(scorer, "process_model"))
        + 2 * len(named_in(scorer, "language_model"))
    )


def _evaluated(rows: int, prompt: int, settings: Evaluate, instructions: int) -> float:
    """Both models answer, the judge reads all answers under each instruction, and both score the model's own."""
    written = rows * settings.answers * settings.max_new_tokens
    readings = 2 * instructions if instructions and settings.judge != "likelihood" else 1
    scored = 2 * (prompt + written) if settings.measures_kl else 0
    return 2 * (prompt + written) + readings * (prompt + 2 * written) + scored


def _parameters(source: str) -> int:
    """Weights of a model, counted without loading it."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(models.read_config(source))
    return sum(weight.numel() for weight in model.parameters())


def _matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of one large matrix product, measured for a moment."""
    # on a GPU large and several at a time, or the launch would be measured
    width, several = (8192, 10) if device.type == "cuda" else (1024, 1)
    left = torch.ones(width, width, dtype=dtype, device=device)
    best = 0.0
    for _ in range(20):
        began = time.perf_counter()
        for _ in range(several):
            product = left @ left
        float(product[0, 0])
        best = max(best, several * 2 * width**3 / (time.perf_counter() - began))
    return best


def _bandwidth(device: torch.device) -> float:
    """Bytes per second of a copy, read and written, tried for a moment."""
    source = torch.ones((512 if device.type == "cuda" else 16) * 2**20, device=device)
    target = torch.empty_like(source)
    best = 0.0
    for _ in range(5):
        began = time.perf_counter()
        target.copy_(source)
        float(target[0])
        best = max(best, 2 * source.nbytes / (time.perf_counter() - began))
    return best
