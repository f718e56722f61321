"""What a stage is given: its inputs, the place of its output, and how to speak of what it does."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

import torch

from truing.blending import Share
from truing.compute import Engine
from truing.compute.engine.local import LocalEngine
from truing.compute.generate.native import NativeGenerator
from truing.compute.ranks import ALONE, Ranks
from truing.errors import ConfigError, Interrupted
from truing.models import Loaded, Scored, demand_scores, load, roles
from truing.models.precision import Precision, compute_dtype
from truing.models.quantised import Bits
from truing.progress import Reporter
from truing.records import Group
from truing.scoring.score import Tools, Writer
from truing.store import Run, disk, hash_of


@dataclass(frozen=True, slots=True)
class Model:
    """A model artifact: where it lies and the hash of what it is.

    members: the models whose average it is. scored: what a reward model that a plan will make scores.
    """

    key: str
    source: str
    members: tuple[str, ...] = ()
    scored: Scored | None = None


@dataclass(frozen=True, slots=True)
class Groups:
    """A data artifact: the hash of its content, how to read it, and what it is.

    bad: the rows that were left out when it was read, each with its place and reason.
    ready: whether it can be read already, or an earlier stage has yet to make it.
    shares: what each source of a blend gives to it; nothing where it is no blend.
    """

    key: str
    read: Callable[[], list[Group]]
    description: str = ""
    bad: list[str] = field(default_factory=list)
    ready: bool = True
    shares: Callable[[], Sequence[Share]] = tuple


@dataclass(frozen=True, slots=True)
class Judges:
    """The models that a stage's scorers name. The key is of these, and of the files and functions that they name.

    models: reward models. language: models that write.
    """

    key: str
    models: Mapping[str, Model]
    language: Mapping[str, Model] = field(default_factory=dict)

    @property
    def description(self) -> str:
        """Where the models are from; nothing where no scorer names one."""
        return ", ".join(dict.fromkeys(model.source for model in (*self.models.values(), *self.language.values())))


@dataclass(frozen=True, slots=True)
class Measurements:
    """What was measured before a stage: the key of each, by the name of the stage that measures it."""

    keys: Mapping[str, str]

    @property
    def key(self) -> str:
        """The hash of all keys."""
        return hash_of(list(self.keys.items()))

    @property
    def description(self) -> str:
        """The stages."""
        return ", ".join(self.keys)


@dataclass(frozen=True, slots=True)
class Earlier:
    """The rows that a stage of a loop made in the rounds before this one, by round."""

    rounds: tuple[Groups, ...]

    @property
    def key(self) -> str:
        """The hash of all keys."""
        return hash_of([rows.key for rows in self.rounds])

    @property
    def description(self) -> str:
        """The stages."""
        return ", ".join(rows.description for rows in self.rounds)

    def read(self) -> list[Group]:
        """All rows."""
        return [row for rows in self.rounds for row in rows.read()]


@dataclass(slots=True)
class Stop:
    """Whether somebody asked to stop."""

    requested: bool = False


@dataclass(frozen=True, slots=True)
class Context:
    """One stage of one run.

    stage, key: its name in the recipe, and the hash of its function, settings and inputs.
    first_step: optimizer steps of the run before this stage.
    ranks: the processes that run this stage together.
    """

    run: Run
    stage: str
    key: str
    seed: int
    device: torch.device
    precision: Precision
    reporter: Reporter
    first_step: int = 0
    chat_template: Path | None = None
    stop: Stop = field(default_factory=Stop)
    ranks: Ranks = ALONE

    def event(self, kind: str, **values: Any) -> None:
        """One line in the run's events."""
        self.run.event(self.stage, kind, **values)

    def warn(self, message: str) -> None:
        """A warning in the report and on the terminal."""
        self.event("warning", message=message)
        self.reporter.say(f"warning: {message}")

    def check_stop(self) -> None:
        """Leaves the stage if somebody asked to stop."""
        if self.stop.requested:
            self.leave()

    def leave(self) -> NoReturn:
        """Leaves the stage, as somebody asked to stop."""
        raise Interrupted(f"stopped in stage '{self.stage}': run the same command again to go on")

    def agree_to_stop(self) -> bool:
        """Whether all ranks stop here, as one of them was asked to. What is asked of one later counts for later."""
        return any(self.ranks.gather(self.stop.requested))

    def is_made(self) -> bool:
        """Whether the stage is done already, as the first rank sees it."""
        return self.ranks.tell(lambda: self.run.artifact(self.key) is not None)

    def first_makes(self, key: str, make: Callable[[Context], None]) -> None:
        """Has the first rank make the artifact of this key, unless it is there, while the others wait for it."""
        if self.ranks.rank == 0 and self.run.artifact(key) is None:
            make(replace(self, ranks=ALONE))
        self.ranks.wait()

    def load(
        self,
        model: Model,
        *,
        full_width: bool = False,
        outputs: int = 0,
        writes: bool = False,
        bits: Bits | None = None,
    ) -> Loaded:
        """The model in memory, in the run's precision, or in fp32 to be trained.

        outputs: of its reward head. writes: whether beside it the head is kept that it wrote with. bits: in which a
        base that stays as it is is kept.
        """
        return load(
            model.source,
            dtype=torch.float32 if full_width else compute_dtype(self.precision, self.device),
            device=self.device,
            chat_template=self.chat_template,
            outputs=outputs,
            writes=writes,
            bits=bits,
        )

    def shares(self, source: str, base: Loaded, role: str) -> bool:
        """Whether a role that begins as `source` uses the weights of a base in memory. That is told."""
        found = roles.lies_on(source, base.source)
        self.event("one_base", role=role, base=base.source, shared=found)
        return found

    def scorer(self, model: Model, *, of: Scored | None = None, base: Loaded | None = None) -> Engine:
        """An engine that does not train the model.

        of: what the reward model that it must be scores. base: a model in memory whose weights it uses if it can.
        """
        if of:
            demand_scores(model.source, of)
        if base is not None and self.shares(model.source, base, f"scorer {model.source}"):
            loaded = roles.beside(base, model.source, scores=of is not None, chat_template=self.chat_template)
        else:
            loaded = self.load(model, outputs=1 if of else 0)
        return LocalEngine(loaded, trainable=False)

    def tools(self, judges: Judges, budget: int, base: Loaded | None = None) -> Tools:
        """What scorers need to run the models that they name. base: a model in memory that some may lie on."""

        @functools.cache
        def engine(model: Model, of: Scored | None) -> Engine:
            return self.scorer(model, of=of, base=base)

        def engines(name: str, members: bool) -> list[Engine]:
            model = judges.models[name]
            if members and not model.members:
                raise ConfigError(
                    f"reward_model: '{name or model.source}' has no members: name a stage with members = 2 or more"
                )
            sources = model.members if members else [model.source]
            return [engine(Model(model.key, source), "answers") for source in sources]

        @functools.cache
        def writer(model: Model) -> Writer:
            loaded = self.load(model)
            return Writer(NativeGenerator(loaded, policy=model.key), loaded.renderer)

        return Tools(
            engines,
            lambda name: engine(judges.language[name], None),
            budget,
            process=lambda name: engine(judges.models[name], "steps"),
            writer=lambda name: writer(judges.language[name]),
            seed=self.seed,
            tell=lambda kind, values: self.event(kind, **values),
            on_finished=lambda _: self.check_stop(),
        )

    @contextmanager
    def output(self, meta: Mapping[str, Any], part: str = "") -> Iterator[Path]:
        """The folder to put the stage's result into; `part` names a piece of it that is kept on the way.

        All ranks see it once the block has ended; what the first one puts into it is what counts.
        """
        key = f"{self.key}-{part}" if part else self.key
        with self.run.new_artifact(key, stage=self.stage, meta={**meta, "part": part} if part else meta) as folder:
            yield folder
        self.ranks.wait()


def write_json(path: Path, value: Any) -> None:
    """Plain values as indented JSON."""
    disk.write(path, json.dumps(value, indent=1, ensure_ascii=False).encode())
