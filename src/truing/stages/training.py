"""What every stage that trains shares: its settings, its rows, and the loop over optimizer steps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, Self

import psutil
import torch
from pydantic import Field, model_validator
from safetensors.torch import load_file
from torch import Tensor

from truing import __version__
from truing.blending import repeats
from truing.compute import Engine
from truing.compute.engine.local import LocalEngine
from truing.compute.ranks import ALONE, Ranks
from truing.costs import USABLE, Lengths, Load, Shape, Weights, free_memory, memory_of, resident
from truing.errors import ConfigError, DataError, GuardError, StorageError, by_reason
from truing.models import Loaded, Scored, add_lora, is_adapter, save_adapter_base
from truing.models.precision import compute_dtype
from truing.models.quantised import Bits, weight_count
from truing.models.reward import add_prototypes
from truing.models.saving import save_tensors
from truing.packing import deal, pack
from truing.records import TEXT_ROLE, Group, written_by
from truing.rendering import Renderer, Row, shorten
from truing.signatures import Count, Fraction, NonNegative, Positive, Settings
from truing.stages.context import Context, Groups, Model
from truing.stages.merge import in_full
from truing.store import Checkpoint, disk
from truing.tensors import Forest, Loss

TooLong = Literal["drop", "cut_prompt", "error"]
MEMORY = "memory.safetensors"
SKIPPED = "guard/skipped"
"""How many steps were left out in a row just now, and in all; there once one was."""
LOOKED_AT = 200
"""Steps that are looked at, spread evenly, to find the largest forest."""


class Lora(Settings):
    """A low-rank adapter on a frozen base."""

    rank: Count = Field(16, description="width of the adapter")
    alpha: Positive = Field(32.0, description="its scale is alpha / rank")
    targets: str | tuple[str, ...] = Field("all-linear", description="which layers get one")


class Updates(Settings):
    """Settings of every stage that takes optimizer steps."""

    @property
    def outputs(self) -> int:
        """How many numbers the model's reward head gives; 0: it is a language model."""
        return 0

    @property
    def scored(self) -> Scored | None:
        """What a reward model's scores are of; None: it is a language model."""
        return None

    @property
    def writes(self) -> bool:
        """Whether a reward model keeps the head that it wrote with."""
        return False

    @property
    def prototypes(self) -> int:
        """How many directions are trained beside a reward model's head."""
        return 0

    batch_size: Count = Field(8, description="rows of one optimizer step")
    learning_rate: Positive = Field(1e-5, description="peak learning rate of AdamW")
    schedule: Literal["constant", "linear", "cosine"] = Field("linear", description="how it falls after the warm-up")
    warmup: Fraction = Field(0.1, description="share of the steps in which the learning rate rises from 0")
    weight_decay: NonNegative = Field(0.0, description="decoupled weight decay of AdamW")
    max_gradient_norm: Positive = Field(1.0, description="gradients of a larger norm are scaled down to it")
    max_length: Count = Field(1024, description="limit in tokens of a prompt and one answer")
    too_long: TooLong = Field("drop", description="what becomes of rows over the limit")
    forest_tokens: Count = Field(2048, description="tokens run at once; changes time and memory, never the result")
    lora: Lora | None = Field(None, description="train an adapter instead of all weights")
    base_bits: Bits | None = Field(
        None, description="with lora: keep the base in 8 or 4 bits, by bitsandbytes; less memory, and more time"
    )
    checkpointing: bool | Literal["auto"] = Field(
        "auto",
        description="recompute activations in the backward pass to save memory; auto: only where they do not fit",
    )
    on_nonfinite: Literal["stop", "skip"] = Field(
        "stop",
        description="at a loss, gradient or learning rate that is NaN or infinite: stop before the step is taken, or "
        "leave that step out, which is told and counted",
    )
    most_skipped: Count = Field(3, description="steps left out in a row after which training stops nevertheless")
    save_every: Count = Field(100, description="optimizer steps between two checkpoints")
    keep_checkpoints: Count = Field(1, description="how many unfinished checkpoints are kept")

    @model_validator(mode="after")
    def _frozen(self) -> Self:
        """Weights that are trained are kept in full."""
        if self.base_bits is not None and self.lora is None:
            raise ConfigError("base_bits is for a base that is frozen: set lora, or take base_bits out")
        return self


class Training(Updates):
    """Settings of every stage that trains on rows."""

    @property
    def passes(self) -> tuple[int, int]:
        """Passes through the model, at each step and once for all epochs; one with gradient counts three."""
        return 3, 0

    @property
    def keeps_reference(self) -> bool:
        """Whether a second set of the trained weights stands beside the first."""
        return False

    @property
    def trainings(self) -> tuple[float, int]:
        """How often the rows are trained on, each time anew, and how often they are read besides."""
        return 1.0, 0

    def looks(self, steps: int) -> int:
        """How often held-out rows are measured in a training of so many steps: before the first and after the last."""
        return 2

    def once(self) -> Self:
        """The stage with one training on all its rows, as a plan measures it."""
        return self

    epochs: Count = Field(1, description="passes over the data")
    max_steps: Count | None = Field(None, description="stop after so many optimizer steps; none: as epochs say")


class Trained(Protocol):
    """What an optimizer step moves and a checkpoint holds: an engine, or a policy with its critic."""

    def backward(self, loss: Tensor) -> None:
        """Adds the gradient of a scalar to what has been gathered for the next step."""

    def step(self, learning_rate: float, max_gradient_norm: float) -> float:
        """One optimizer step. Returns the gradient norm before clipping; raises GuardError where it is not finite."""

    def discard(self) -> None:
        """Forgets all gradients gathered since the last step."""

    def save_model(self, folder: Path) -> None:
        """Writes what transformers or PEFT load as it is."""

    def save_state(self, folder: Path) -> None:
        """Writes all that is needed to go on to the same bits."""

    def load_state(self, folder: Path) -> None:
        """Reads what `save_state` wrote."""


@dataclass(slots=True)
class Step:
    """One optimizer step of a stage under way: its forests, and the sums of what they report.

    rows: the rows that form it; their weights and lengths fix the divisor before the first forward pass.
    forests: those of this rank's share of the rows, perhaps none. ranks: the processes that take the step together.
    loss: what this rank's forests add to the step's.
    spoilt: why the step must not be taken; nothing where it may be.
    """

    stage: str
    number: int
    rows: Sequence[Row]
    forests: Sequence[Forest]
    engine: Trained
    ranks: Ranks = ALONE
    loss: float | None = None
    sums: dict[str, list[float]] = field(default_factory=dict)
    spoilt: str = ""

    def add(self, loss: Loss, weights: Tensor, divisor: float) -> None:
        """Gathers the gradient of sum(weights * loss) / divisor, and the loss's stats as (sum, count)."""
        total = self.total(loss, weights, divisor)
        self.note(loss, weights, total, divisor)
        self.engine.backward(total)

    def total(self, loss: Loss, weights: Tensor, divisor: float) -> Tensor:
        """sum(weights * loss) / divisor. One that is not finite spoils the step."""
        total = (loss.value * weights.to(loss.value)).sum() / (divisor or 1.0)  # rows of no weight at all teach nothing
        self.demand_finite("the loss", total)
        return total

    def note(self, loss: Loss, weights: Tensor, total: Tensor, divisor: float) -> None:
        """Writes down a total and the stats of its loss. One that all ranks know is written down by one of them."""
        if divisor:
            self.loss = (self.loss or 0.0) + float(total.detach())
        weights = weights.to(loss.value)
        for name, value in loss.stats.items():
            self.count(name, float((value * weights).sum()), float(weights.sum()))

    def count(self, name: str, amount: float, of: float) -> None:
        """Adds to a mean that is taken over the whole step."""
        kept = self.sums.setdefault(name, [0.0, 0.0])
        kept[0] += amount
        kept[1] += of

    def demand_finite(self, what: str, value: Tensor) -> None:
        """A number of the step that is NaN or infinite spoils it; the first one says why."""
        if not self.spoilt and not torch.isfinite(value):
            self.spoilt = f"{what} is {float(value.detach())}"

    @property
    def places(self) -> list[str]:
        """Where its rows are from: file and line, or their numbers."""
        return [row.place or str(row.index) for row in self.rows]

    def refusal(self, problem: str) -> GuardError:
        """The error that stops training here, with the rows that led to it."""
        return GuardError(
            f"stage '{self.stage}', step {self.number}: {problem}; nothing was changed. Rows of the step: "
            f'{", ".join(self.places)}. Lower learning_rate, look at these rows, or set on_nonfinite = "skip"'
        )

    def means(self) -> dict[str, float]:
        """The loss of the step and the means over it, of all ranks, which all ask for them together."""
        losses = [loss for loss in self.ranks.gather(self.loss) if loss is not None]
        sums: dict[str, list[float]] = {}
        for said in self.ranks.gather(self.sums):
            for name, (amount, of) in said.items():
                kept = sums.setdefault(name, [0.0, 0.0])
                kept[0] += amount
                kept[1] += of
        means = {name: amount / of for name, (amount, of) in sums.items() if of}
        return ({"loss": sum(losses)} if losses else {}) | means


def load_trainable(context: Context, model: Model, settings: Updates) -> Loaded:
    """The model in full width, or as wide as it computes, with a fresh adapter, where one is asked for."""
    torch.manual_seed(context.seed)  # a head or an adapter may be drawn
    source = in_full(context, model) if settings.lora else model
    lora = settings.lora
    trained = lora is None  # a frozen base needs no master
    loaded = context.load(
        source, full_width=trained, outputs=settings.outputs, writes=settings.writes, bits=settings.base_bits
    )
    whole = loaded.model
    if lora:
        adapted = add_lora(whole, rank=lora.rank, alpha=lora.alpha, targets=lora.targets)
        loaded = Loaded(adapted, loaded.renderer, loaded.source)
    if settings.prototypes:
        add_prototypes(whole, settings.prototypes)  # after the adapter, which freezes all that is there
    return loaded


def make_engine(context: Context, loaded: Loaded, settings: Training, rows: Sequence[Row]) -> Engine:
    """The model ready to be trained on these rows."""
    checkpointing = settings.checkpointing
    if checkpointing == "auto":
        checkpointing = not _fits(context, loaded, settings, rows)
    return LocalEngine(
        loaded,
        weight_decay=settings.weight_decay,
        checkpointing=checkpointing,
        dtype=compute_dtype(context.precision, context.device),
        ranks=context.ranks,
    )


def largest_forest(rows: Sequence[Lengths], settings: Training, seed: int) -> Load:
    """The most that is run at once: a step as far as the budget goes, or a longer row. Of many steps some are seen."""
    total = step_count(len(rows), settings)
    most = max(rows, key=lambda row: row.tokens)
    best = Load(most.tokens, most.scored)
    for number in range(1, total + 1, max(1, total // LOOKED_AT)):
        members = [rows[index] for index in step_rows(len(rows), number, settings, seed)]
        tokens, scored = sum(row.tokens for row in members), sum(row.scored for row in members)
        share = min(1.0, settings.forest_tokens / tokens)
        best = max(best, Load(round(tokens * share), round(scored * share)))
    return best


class Limits(Protocol):
    """Settings that say which rows are too long, and what becomes of them."""

    @property
    def max_length(self) -> int:
        """Tokens of a prompt and one answer."""

    @property
    def too_long(self) -> TooLong:
        """What becomes of rows that are longer."""


def render_rows(
    renderer: Renderer, groups: Sequence[Group], settings: Limits
) -> tuple[list[Row], list[int], dict[str, int]]:
    """The Groups as token ids within the length limit, which Groups they are, and how many were refused and why."""
    rows: list[Row] = []
    kept: list[int] = []
    refused: dict[str, int] = {}
    for place, group in enumerate(groups):
        if group.weight < 0:
            raise DataError(f"{group.place}: the weight is {group.weight}: a row counts 0 or more")
        row = renderer.render(group, index=len(rows))
        if row.longest > settings.max_length:
            if settings.too_long == "error":
                raise DataError(
                    f"{group.place}: {row.longest} tokens, and max_length is {settings.max_length}: raise it, "
                    'or set too_long = "drop" or "cut_prompt"'
                )
            answer = row.longest - len(row.prompt)
            if settings.too_long == "drop" or answer >= settings.max_length:
                reason = f"longer than {settings.max_length} tokens"
                refused[reason] = refused.get(reason, 0) + 1
                continue
            row = shorten(row, settings.max_length)
        rows.append(row)
        kept.append(place)
    if not rows:
        raise DataError(f"no row is left; refused: {by_reason(refused)}; look at max_length and the data")
    return rows, kept, refused


def warn_of_plain_text(context: Context, renderer: Renderer, groups: Sequence[Group]) -> None:
    """What a chat model does with plain text prompts is not what it does in a chat."""
    plain = sum(any(message.role == TEXT_ROLE for message in group.prompt) for group in groups)
    if plain and renderer.tokenizer.chat_template is not None:
        context.warn(
            f"{plain:,} prompts are plain text, to which the model's chat template is not applied: for a chat "
            'model write them as turns, such as [{"role": "user", "content": "..."}]'
        )


def describe_data(
    context: Context, data: Groups, read: int, used: Sequence[Group], rows: Sequence[Row], refused: Mapping[str, int]
) -> None:
    """What is trained on, for the report: counts, refusals by reason, lengths, writers, what sources of a blend give.

    read: how many rows there were. used: those that are trained on, which are rendered in `rows`.
    """
    if data.bad:
        context.warn(f"{len(data.bad)} rows could not be read and are left out; the first: {data.bad[0]}")
        refused = {**refused, "could not be read": len(data.bad)}
    lengths: dict[str, list[int]] = {"prompt_tokens": [len(row.prompt) for row in rows]}
    if all(len(row.answers) == 2 for row in rows):
        lengths["chosen_tokens"] = [len(row.answers[0].tokens) for row in rows]
        lengths["rejected_tokens"] = [len(row.answers[1].tokens) for row in rows]
    else:
        lengths["answer_tokens"] = [len(answer.tokens) for row in rows for answer in row.answers]
    shares = data.shares()
    for words in repeats(shares):
        context.warn(words)
    context.event(
        "data",
        source=data.description,
        rows=read + len(data.bad),
        used=len(rows),
        refused=dict(refused),
        written_by=written_by(used),
        shares=[asdict(share) for share in shares],
        **lengths,
    )


def optimizer_steps(
    context: Context,
    engine: Engine,
    rows: Sequence[Row],
    settings: Training,
    memory: dict[str, Tensor] | None = None,
) -> Iterator[Step]:
    """Yields each optimizer step with nothing gathered; what the caller adds to it is then stepped, logged and saved.

    Goes on from the last checkpoint of this very stage, and leaves a checkpoint when asked to stop.

    memory: what the caller carries from step to step; it is saved, and filled when going on.
    """

    def members(number: int) -> list[Row]:
        return [rows[index] for index in step_rows(len(rows), number, settings, context.seed)]

    total = step_count(len(rows), settings)
    return updates(context, engine, members, total, settings, {} if memory is None else memory)


def updates(
    context: Context,
    engine: Trained,
    members: Callable[[int], Sequence[Row]],
    total: int,
    settings: Updates,
    memory: dict[str, Tensor],
) -> Iterator[Step]:
    """As `optimizer_steps`, for any rows. members: those of each step, counted from 1, asked for as it begins."""
    done = _go_on(context, engine, memory)
    with context.reporter.task(context.stage, total, done) as task:
        for number in range(done + 1, total + 1):
            began = time.monotonic()
            rows = members(number)
            own = pack(share_of(rows, context.ranks), settings.forest_tokens)
            step = Step(context.stage, number, rows, own, engine, context.ranks)
            rate = learning_rate(number, total, settings)
            before = dict(memory)
            yield step
            norm = _taken(step, rate, settings)
            if step.spoilt:
                _leave_out(context, step, settings, memory, before)
            elif SKIPPED in memory:
                memory[SKIPPED] = memory[SKIPPED] * torch.tensor([0, 1])
            tokens = sum(len(row) for row in rows)
            metrics = step.means() | {
                "gradient_norm": norm,
                "learning_rate": rate,
                "tokens_per_second": tokens / (time.monotonic() - began),
            }
            context.event("step", step=context.first_step + number, steps=context.first_step + total, metrics=metrics)
            task.advance(number, _note(metrics))
            if number == total:
                _tell_skipped(context, memory, total)
                return  # the finished model is saved next, so there is nothing to stop for
            stopping = context.agree_to_stop()
            if stopping or number % settings.save_every == 0:
                save_checkpoint(context, engine, number, settings, memory)
            if stopping:
                context.leave()


def _taken(step: Step, rate: float, settings: Updates) -> float:
    """Takes the step if all its numbers are finite. Returns the gradient norm; NaN where none was measured."""
    step.spoilt = next(filter(None, step.ranks.gather(step.spoilt)), "")
    if step.spoilt:
        return math.nan
    try:
        return step.engine.step(rate, settings.max_gradient_norm)
    except GuardError as error:
        step.spoilt = str(error)
        return math.nan


def _leave_out(
    context: Context, step: Step, settings: Updates, memory: dict[str, Tensor], before: Mapping[str, Tensor]
) -> None:
    """Leaves a spoilt step out, as if it had never been: no gradient of it and nothing that it remembered is kept.

    before: what was carried from step to step when it began. Raises GuardError where it may not be left out.
    """
    if settings.on_nonfinite == "stop":
        raise step.refusal(step.spoilt)
    step.engine.discard()
    memory.clear()
    memory |= before
    skipped = memory.get(SKIPPED, torch.zeros(2, dtype=torch.long)) + 1
    memory[SKIPPED] = skipped
    in_a_row = int(skipped[0])
    context.event("skipped", step=context.first_step + step.number, reason=step.spoilt, rows=step.places)
    if in_a_row > settings.most_skipped:
        raise step.refusal(f"{step.spoilt}, and the {settings.most_skipped} steps before it were left out already")
    if in_a_row == 1:
        context.warn(
            f"step {step.number} is left out: {step.spoilt}; nothing was changed. Its rows: {', '.join(step.places)}"
        )


def _tell_skipped(context: Context, memory: Mapping[str, Tensor], total: int) -> None:
    """How many steps were left out, if any."""
    if SKIPPED in memory:
        context.warn(f"{int(memory[SKIPPED][1]):,} of {total:,} steps were left out, as a number was not finite")


def share_of(rows: Sequence[Row], ranks: Ranks) -> list[Row]:
    """What this rank runs of rows that all ranks know."""
    return deal(rows, ranks.count)[ranks.rank]


def save_checkpoint(
    context: Context, engine: Trained, number: int, settings: Updates, memory: Mapping[str, Tensor] | None
) -> str:
    """A folder that transformers or PEFT load. Returns its name.

    memory: what is carried from step to step, in an unfinished checkpoint, which also holds what is needed to go on;
    None for the finished model.
    """
    finished = memory is None
    step = context.first_step + number
    meta = {
        "stage": context.stage,
        "step": number,
        "finished": finished,
        "seed": context.seed,
        "threads": torch.get_num_threads(),
        "ranks": context.ranks.count,
        "versions": {"truing": __version__, "torch": torch.__version__},
        "next_row": number * settings.batch_size,
        **({"scored": settings.scored} if settings.scored else {}),
    }
    with context.run.new_checkpoint(step, stage_key=context.key, meta=meta) as folder:
        engine.save_model(folder)
        if is_adapter(str(folder)):
            save_adapter_base(folder)
        if memory is not None:
            disk.make_folder(folder / "trainer")
            engine.save_state(folder / "trainer")
            save_tensors(memory, folder / "trainer" / MEMORY)
    context.ranks.wait()  # for the first one, which writes
    if not finished:
        context.run.prune(context.key, settings.keep_checkpoints)
    return f"checkpoint-{step}"


def finish(
    context: Context, engine: Engine, model: Model, rows: Sequence[Row], settings: Training, **meta: Any
) -> None:
    """The trained model as the stage's artifact. The checkpoints it came from go last, when nothing needs them."""
    steps = step_count(len(rows), settings)
    name = save_checkpoint(context, engine, steps, settings, None)
    made = "reward" if settings.outputs else "model"
    about = {"steps": steps, "base": model.source, "rows": len(rows), "chat_template": engine.renderer.template_hash}
    with context.output({made: name, **about, **meta}):
        pass
    context.run.prune(context.key, 1)


def step_count(rows: int, settings: Training) -> int:
    """Optimizer steps in all. The last step of an epoch takes what is left, so no row is dropped."""
    steps = settings.epochs * math.ceil(rows / settings.batch_size)
    return min(steps, settings.max_steps) if settings.max_steps else steps


def step_rows(rows: int, number: int, settings: Training, seed: int) -> list[int]:
    """Which rows form step `number`, counted from 1: every epoch is a new order of all rows, by seed."""
    per_epoch = math.ceil(rows / settings.batch_size)
    epoch, place = divmod(number - 1, per_epoch)
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch)).tolist()
    return order[place * settings.batch_size : (place + 1) * settings.batch_size]


def learning_rate(number: int, total: int, settings: Updates) -> float:
    """Learning rate of step `number`, counted from 1: up in a straight line, then as the schedule says."""
    warmup = round(settings.warmup * total)
    if number <= warmup:
        return settings.learning_rate * number / warmup
    left = (total - number + 1) / max(total - warmup, 1)
    shape = {"constant": 1.0, "linear": left, "cosine": (1 - math.cos(math.pi * left)) / 2}
    return settings.learning_rate * shape[settings.schedule]


def peak_memory() -> int:
    """Largest resident size of this process so far, in bytes."""
    import resource

    status = Path("/proc/self/status")  # what `resource` says begins, on Linux, at the size of the parent process
    if status.exists():
        return 1024 * int(next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM")))
    return (
        int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * 1024
        if hasattr(resource, "RUSAGE_SELF")
        else int(psutil.Process().memory_info().rss)
    )


def _fits(context: Context, loaded: Loaded, settings: Training, rows: Sequence[Row]) -> bool:
    """Whether all activations fit into the memory that is free. Written down, and told where they do not.

    Recomputing gives the same bits, so going on may decide anew: the machine may have other memory then.
    """
    weights = list(loaded.model.parameters())
    dtype = compute_dtype(context.precision, context.device)
    cost = memory_of(
        Shape.of(loaded.model.config),
        Weights(
            count=weight_count(loaded.model),
            trained=sum(weight.numel() for weight in weights if weight.requires_grad),
            itemsize=dtype.itemsize,
            device=context.device.type,
            kept=settings.keeps_reference,
            bits=settings.base_bits,
        ),
        largest_forest([Lengths.of(row) for row in rows], settings, context.seed),
    )
    free = free_memory(context.device)
    if context.device.type == "cpu":  # a GPU is a rank's own
        free //= context.ranks.neighbours
    held = torch.cuda.memory_allocated(context.device) if context.device.type == "cuda" else resident()
    needed = max(cost.peak - held, cost.activations)
    fits = needed <= USABLE * free
    context.event("checkpointing", on=not fits, needed_bytes=needed, free_bytes=free)
    if not fits:
        context.reporter.say(
            f"{context.stage}: activations are recomputed to save memory, at a third more time: training would need "
            f"about {needed / 2**30:.1f} GiB more, and {free / 2**30:.1f} GiB are free"
        )
    return fits


def _go_on(context: Context, engine: Trained, memory: dict[str, Tensor]) -> int:
    """Steps of this stage that are done already: those of its last sound checkpoint, which fills `memory`."""
    checkpoint = _last_checkpoint(context)
    if checkpoint is None:
        context.run.rewind(context.stage, context.first_step)
        return 0
    try:
        engine.load_state(checkpoint.path / "trainer")
        memory |= load_file(checkpoint.path / "trainer" / MEMORY)
    except (OSError, KeyError) as error:
        raise StorageError(f"{checkpoint.path}: cannot go on from it: {error}: remove the folder") from error
    context.run.rewind(context.stage, checkpoint.step)
    return int(checkpoint.meta["step"])


def _last_checkpoint(context: Context) -> Checkpoint | None:
    """The one to go on from, which the first rank chooses for all."""

    def chosen() -> int | None:
        found = context.run.latest_checkpoint(context.key, finished=False)
        return None if found is None else found.step

    step = context.ranks.tell(chosen)
    same = [checkpoint for checkpoint in context.run.checkpoints(context.key) if checkpoint.step == step]
    if step is not None and not same:
        raise StorageError(
            f"{context.run.path}/checkpoint-{step}: not seen by rank {context.ranks.rank}: "
            "all ranks need the same run folder"
        )
    return same[0] if same else None


def _note(metrics: Mapping[str, Any]) -> str:
    shown = [("loss", "loss {:.3f}"), ("reward/accuracy", "accuracy {:.2f}"), ("tokens_per_second", "{:.0f} tokens/s")]
    return ", ".join(form.format(metrics[name]) for name, form in shown if name in metrics)
