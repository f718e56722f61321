"""Truing's side: workers that train and sample through its public interfaces."""

from __future__ import annotations

import io
import math
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol
from unittest.mock import patch

import torch
from rich.console import Console
from torch import Tensor

from bench.machine import Memory, synchronize
from bench.rows import from_json
from truing import formats
from truing.compute import Sampling, machine
from truing.compute.engine.local import LocalEngine
from truing.compute.generate.native import NativeGenerator
from truing.models import Loaded, add_lora, load, read_renderer, reward
from truing.objectives import bind
from truing.packing import pack
from truing.pipeline import make_recipe, run_recipe
from truing.progress import Reporter
from truing.records import Completion, Group, Message, Sampled, assistant
from truing.reductions import scored_tokens
from truing.rendering import Row
from truing.stages import online, play
from truing.stages.rollouts import Rollout, kept
from truing.stages.training import load_trainable
from truing.store import Run
from truing.tensors import Forest, Logprobs, Pair, Values

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(slots=True)
class Phases:
    """Seconds of forward, backward and optimizer in each step."""

    device: torch.device
    steps: list[dict[str, float]] = field(default_factory=list)

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Adds the time of the block to the phase `name` of the step under way."""
        synchronize(self.device)
        began = time.perf_counter()
        yield
        synchronize(self.device)
        self.steps[-1][name] += time.perf_counter() - began


class Method(Protocol):
    """What is trained for."""

    def prepare(self, rows: Sequence[Row]) -> None:
        """What is computed once, before the first step."""

    def loss(self, forest: Forest, rows: Sequence[Row]) -> Tensor:
        """The forest's share of the loss of a step of `rows`."""


class Dpo:
    """DPO against a reference that is cached, or run again in every step."""

    def __init__(self, engine: LocalEngine, beta: float, live: bool, budget: int) -> None:
        self._engine, self._live, self._budget = engine, live, budget
        self._objective = bind({"name": "dpo", "beta": beta})
        self._known: dict[int, Tensor] = {}

    def prepare(self, rows: Sequence[Row]) -> None:
        if self._live:
            self._engine.keep_reference()
            return
        length = {row.index: scored_tokens(row) for row in rows}
        with torch.no_grad():
            for forest in pack(rows, self._budget):
                found = self._engine.logprobs(forest)
                counts = [length[index] for index in forest.rows]
                self._known |= dict(zip(forest.rows, torch.split(found.token, counts), strict=True))

    def loss(self, forest: Forest, rows: Sequence[Row]) -> Tensor:
        value: Tensor = self._objective(
            policy=_pairs(self._engine.logprobs(forest)), reference=_pairs(self._reference(forest))
        ).value
        return value.sum() / len(rows)

    def _reference(self, forest: Forest) -> Logprobs:
        if self._live:
            with torch.no_grad():
                return self._engine.logprobs(forest, of="reference")
        token = torch.cat([self._known[index] for index in forest.rows])
        return Logprobs(token, forest.completion.to(token.device), forest.group.shape[0])


class Sft:
    """The mean over all answer tokens of a step."""

    def __init__(self, engine: LocalEngine) -> None:
        self._engine = engine
        self._objective = bind({"name": "nll"})

    def prepare(self, rows: Sequence[Row]) -> None:
        pass

    def loss(self, forest: Forest, rows: Sequence[Row]) -> Tensor:
        value: Tensor = self._objective(policy=self._engine.logprobs(forest)).value
        return value.sum() / sum(map(scored_tokens, rows))


class RewardModel:
    """Bradley-Terry on the scores of chosen and rejected answers."""

    def __init__(self, engine: LocalEngine) -> None:
        self._engine = engine
        self._objective = bind({"name": "bradley_terry"})

    def prepare(self, rows: Sequence[Row]) -> None:
        pass

    def loss(self, forest: Forest, rows: Sequence[Row]) -> Tensor:
        (scores,) = self._engine.scores(forest)
        value: Tensor = self._objective(score=_pairs(scores)).value
        return value.sum() / len(rows)


def train(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Steps of a task on given rows. Returns seconds of each step, phases, losses, norms and memory."""
    machine.keep_freed_memory()
    device, rows = torch.device(spec["device"]), from_json(spec["rows"])
    width = DTYPES[spec["precision"]] if spec["lora"] else torch.float32
    loaded = load(spec["model"], dtype=width, device=device, outputs=int(spec["task"] == "reward"))
    if spec["task"] == "reward":
        draw_head(loaded.model)
    memory = Memory(device)
    if spec["lora"]:
        loaded = Loaded(adapted(loaded.model), loaded.renderer, loaded.source)
    engine = LocalEngine(loaded, dtype=DTYPES[spec["precision"]])
    method = _method(spec, engine)
    began = time.perf_counter()
    method.prepare(rows)
    cache = 0.0 if spec["reference_pass"] else (time.perf_counter() - began) / len(rows)
    phases = Phases(device)
    seconds: list[float] = []
    losses: list[float] = []
    norms: list[float] = []
    for step in spec["steps"]:
        began = time.perf_counter()
        loss, norm = optimize(engine, method, [rows[index] for index in step], spec, phases)
        seconds.append(time.perf_counter() - began)
        losses.append(loss)
        norms.append(norm)
    warm = spec["warm_up"]
    return {
        "seconds": seconds[warm:],
        "phases": phases.steps[warm:],
        "loss": losses,
        "gradient_norm": norms,
        "cache_seconds_per_row": cache,
        "memory": memory.taken(),
    }


def adapted(model: Any) -> Any:
    """The model with an adapter that is the same for both sides: the same seed draws the same numbers."""
    torch.manual_seed(0)
    return add_lora(model, rank=16, alpha=32.0, targets="all-linear")


def draw_head(model: Any) -> None:
    """A head for scores that is the same for both sides, as wide as Truing draws its own."""
    weight = getattr(model, reward.HEAD).weight
    drawn = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    weight.data.copy_(drawn / math.sqrt(weight.shape[1] + 1))


def sample(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Answers to chat prompts. Returns seconds, tokens and memory, and the token ids where `keep` is set."""
    machine.keep_freed_memory()
    device = torch.device(spec["device"])
    loaded = load(spec["model"], dtype=DTYPES[spec["precision"]], device=device)
    memory = Memory(device)
    generator = NativeGenerator(loaded, policy="bench")
    prompts = [Group((Message("user", text),)) for text in spec["prompts"]]

    def once(seed: int, length: int) -> list[list[int]]:
        sampling = Sampling(temperature=spec["temperature"], max_new_tokens=length)
        answered = generator.generate(prompts, sampling, answers=spec["answers"], seed=seed)
        return [list(one.sampled.tokens) for answers in answered for one in answers if one.sampled]

    return timed_sampling(once, spec, device) | {"memory": memory.taken(), "dtype": str(DTYPES[spec["precision"]])}


class Given:
    """A generator that writes what it is given: at each call the answers of the next rollout, prompt by prompt."""

    def __init__(self, loaded: Loaded, spec: Mapping[str, Any]) -> None:
        self._renderer = loaded.renderer
        self._places = {text: place for place, text in enumerate(spec["prompts"])}
        self._rollouts = iter(spec["given"])

    def generate(self, prompts: Sequence[Group], *_: Any, **__: Any) -> list[tuple[Completion, ...]]:
        """The answers to each prompt, as if they had been drawn."""
        rollout = next(self._rollouts)
        own = [rollout[self._places[group.prompt[0].content]] for group in prompts]
        return [tuple(self._answer(tokens) for tokens in answers) for answers in own]

    def _answer(self, tokens: Sequence[int]) -> Completion:
        drawn = Sampled(tuple(tokens), (0.0,) * len(tokens), "length", self._renderer.fingerprint, "given")
        return Completion((assistant(self._renderer.decode(tokens)),), sampled=drawn)


def grpo(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Iterations of stage `online` as a recipe runs it. An iteration lasts from the event of one step to the next.

    Its rollout ends where answers are drawn, scored, read by whoever must read them first, and on the disk.
    """
    device, folder = torch.device(spec["device"]), Path(tempfile.mkdtemp(dir=spec["folder"]))
    memory: list[Memory] = []
    drawn: list[float] = []

    def weighed(*given: Any) -> Loaded:
        loaded = load_trainable(*given)
        memory.append(Memory(device))
        return loaded

    def timed(*given: Any) -> Rollout:
        rollout = kept(*given)
        drawn.append(time.time())  # the clock of events
        return rollout

    with ExitStack() as changed:
        changed.enter_context(patch.object(online, "load_trainable", weighed))
        changed.enter_context(patch.object(play, "kept", timed))
        if spec["given"]:
            changed.enter_context(patch.object(online, "NativeGenerator", lambda loaded, **_: Given(loaded, spec)))
        quiet = Reporter(Console(file=io.StringIO()))
        run = Run.read(run_recipe(make_recipe(_online(spec, folder)), out=folder / "run", reporter=quiet))
    steps, told = list(run.events(kind="step")), list(run.events(kind="rollout"))
    answers = spec["answers"] * len(spec["prompts"])
    timed_from = max(1, spec["warm_up"])
    found: dict[str, Any] = {
        "loss": [step["metrics"]["loss"] for step in steps],
        "gradient_norm": [step["metrics"]["gradient_norm"] for step in steps],
        "prompt_tokens": _prompt_tokens(spec),
        "answer_tokens": [round(one["length"] * answers) for one in told][timed_from:],
        "memory": memory[0].taken(),
    }
    if spec["epochs"] == 1:
        iterations = list(pairwise(float(step["time"]) for step in steps))
        found["seconds"] = [end - begin for begin, end in iterations[timed_from - 1 :]]
        found["rollout_seconds"] = [end - begin for (begin, _), end in zip(iterations, drawn[1:], strict=True)]
        found["rollout_seconds"] = found["rollout_seconds"][timed_from - 1 :]
    return found


def _online(spec: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The recipe: GRPO without KL, every token alike, all answers in one step, as TRL's defaults have it."""
    prompts = folder / "prompts.jsonl"
    formats.write_data([Group((Message("user", text),)) for text in spec["prompts"]], prompts, format="group")
    algorithm = {"name": "grpo", "group_size": spec["answers"], "epochs": spec["epochs"]}
    stage = {
        "use": "online",
        "algorithm": algorithm | {"kl_penalty_weight": 0.0, "reduction": "token_mean"},
        "scorer": {"name": "function", "path": "bench.grpo:vowels"},
        "rollouts": spec["iterations"],
        "prompts": len(spec["prompts"]),
        "batch_size": len(spec["prompts"]),
        "max_new_tokens": spec["length"],
        "learning_rate": spec["learning_rate"],
        "warmup": 0.0,
        "forest_tokens": spec["forest_tokens"],
    }
    return {
        "model": spec["model"],
        "device": spec["device"],
        "precision": spec["precision"],
        "data": {"path": str(prompts)},
        "stage": [stage],
    }


def _prompt_tokens(spec: Mapping[str, Any]) -> int:
    renderer = read_renderer(spec["model"])
    return sum(len(renderer.prompt((Message("user", text),))) for text in spec["prompts"])


def timed_sampling(once: Any, spec: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """`once(seed, length)` after a short warm-up, as often as is to be timed."""
    for seed in range(spec["warm_up"]):
        once(1000 + seed, min(8, spec["length"]))
    seconds, tokens, kept = [], [], []
    for seed in range(spec["timed"]):
        synchronize(device)
        began = time.perf_counter()
        answers = once(spec["seed"] + seed, spec["length"])
        synchronize(device)
        seconds.append(time.perf_counter() - began)
        tokens.append(sum(map(len, answers)))
        kept.append(answers)
    return {"seconds": seconds, "tokens": tokens, "answers": kept if spec["keep"] else None}


def optimize(
    engine: LocalEngine, method: Method, rows: Sequence[Row], spec: Mapping[str, Any], phases: Phases
) -> tuple[float, float]:
    """One optimizer step, packing included: its loss and the gradient norm before clipping."""
    phases.steps.append(defaultdict(float))
    total = 0.0
    for forest in pack(rows, spec["forest_tokens"]):
        with phases.of("forward"):
            loss = method.loss(forest, rows)
        with phases.of("backward"):
            engine.backward(loss)
        total += float(loss.detach())
    with phases.of("optimizer"):
        norm = engine.step(spec["learning_rate"], 1.0)
    return total, norm


def _method(spec: Mapping[str, Any], engine: LocalEngine) -> Method:
    if spec["task"] == "dpo":
        return Dpo(engine, spec["beta"], spec["reference_pass"], spec["forest_tokens"])
    return Sft(engine) if spec["task"] == "sft" else RewardModel(engine)


def _pairs(found: Values) -> Pair[Values]:
    """Answers stand as chosen, rejected, chosen, rejected, ..."""
    places = torch.arange(found.count, device=found.token.device)
    return Pair(found.select(places[::2]), found.select(places[1::2]))
