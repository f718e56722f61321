"""What a run folder says, gathered for the page: typed, in order, and with whatever is missing as None or empty."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from truing.blending import Share
from truing.errors import StorageError
from truing.statistics import Interval
from truing.store import Artifact, Run

EVALUATION = "evaluation.json"
AUDIT = "audit.json"
CURATION = "curation.json"
SELECTION = "selection.json"
REWARD = "reward.json"
LENGTHS = ("chosen_tokens", "rejected_tokens", "answer_tokens", "prompt_tokens")


@dataclass
class Curve:
    """One metric over the steps. Values that are not finite are kept: they are news."""

    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    @property
    def broken(self) -> list[int]:
        """The steps at which the value was NaN or infinite."""
        return [step for step, value in zip(self.steps, self.values, strict=True) if not math.isfinite(value)]

    @property
    def end(self) -> float:
        """The mean of the last tenth of the values; one of them that is not finite spoils it, and shall."""
        last = self.values[-max(1, len(self.values) // 10) :]
        return sum(last) / len(last)


@dataclass(frozen=True)
class HeldOut:
    """How well the policy ranks held-out comparisons, at one step."""

    step: int
    accuracy: Interval | None
    loss: float | None


@dataclass(frozen=True)
class Data:
    """What a stage read, refused and used.

    lengths: tokens of each row by name, such as `chosen_tokens`. scores: at even steps from the lowest to the highest.
    shares: what each source of a blend gave.
    """

    source: str
    rows: int | None
    used: int | None
    refused: dict[str, int]
    lengths: dict[str, list[int]]
    scores: dict[str, list[float]]
    shares: list[Share]


@dataclass(frozen=True)
class Preview:
    """One row as the model sees it: pieces of text, each with whether it is scored."""

    row: str
    pieces: list[tuple[str, bool]]


@dataclass
class Stage:
    """One stage, as its events tell it."""

    name: str
    key: str = ""
    inputs: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    data: list[Data] = field(default_factory=list)
    previews: list[Preview] = field(default_factory=list)
    curves: dict[str, Curve] = field(default_factory=dict)
    held_out: list[HeldOut] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    step: int = 0
    steps: int | None = None
    seconds: float | None = None
    memory: float | None = None
    ended: bool = False

    @property
    def state(self) -> str:
        """How it ended, or where it stands."""
        if self.ended:
            return "finished"
        return f"unfinished, at step {self.step:,} of {self.steps:,}" if self.steps else "unfinished"

    @property
    def scores(self) -> bool:
        """Whether it trained a reward model, and no policy."""
        return any(name.startswith("score/") for name in self.curves)

    @property
    def before_and_after(self) -> list[tuple[str, HeldOut]]:
        """The first and the last look at the held-out comparisons; after an interruption there may be only one."""
        if len(self.held_out) > 1:
            return [("Before", self.held_out[0]), ("After", self.held_out[-1])]
        return [("Before", held) for held in self.held_out]

    @property
    def broken(self) -> dict[str, list[int]]:
        """The steps at which a metric was not finite, by metric."""
        return {name: curve.broken for name, curve in self.curves.items() if curve.broken}


@dataclass(frozen=True)
class Answer:
    """One answer to a held-out prompt."""

    text: str
    tokens: int | None
    finished: bool
    score: float | None


@dataclass(frozen=True)
class Example:
    """A held-out prompt with both answers. `winner` is model, base or tie."""

    prompt: list[tuple[str, str]]
    base: Answer
    model: Answer
    winner: str


@dataclass(frozen=True)
class Side:
    """One of the two compared models."""

    name: str
    mean_tokens: float | None
    finished: Interval | None


@dataclass(frozen=True)
class Evaluation:
    """What `evaluation.json` of one evaluate stage says.

    outcomes: share of won comparisons at each prompt. accuracy, margin, chosen: on held-out comparisons, where there
    are some: how often the model moved towards the chosen answer, by how much, and what became of its log-likelihood.
    """

    stage: str
    verdict: str
    judge: str
    judge_description: str
    principle: str
    prompts: int
    answers_per_prompt: int
    wins: int
    ties: int
    losses: int
    win_rate: Interval | None
    kl: Interval | None
    length_ratio: Interval | None
    model: Side
    base: Side
    sampling: dict[str, Any]
    examples: list[Example]
    outcomes: list[float]
    accuracy: Interval | None
    margin: Interval | None
    chosen: Interval | None


@dataclass(frozen=True)
class Voted:
    """A comparison as an audit's models see it."""

    place: str
    prompt: list[tuple[str, str]]
    chosen: str
    rejected: str
    mean: float
    deviation: float
    for_label: float
    fate: str


@dataclass(frozen=True)
class Audit:
    """What `audit.json` of one audit stage says.

    ordered: mean differences at even steps through the comparisons. bins, deciles: means over pieces of that order, of
    the mean, the deviation and the share of models that agree with the label.
    """

    stage: str
    comparisons: int
    members: int
    folds: int
    agreement: Interval | None
    fates: dict[str, int]
    ordered: list[float]
    bins: list[dict[str, float]]
    deciles: list[dict[str, float]]
    examples: dict[str, list[Voted]]


@dataclass(frozen=True)
class Refused:
    """A row that a curation left out, with what looks private masked. detail: the row it repeats, the test row, ..."""

    place: str
    detail: str
    prompt: list[tuple[str, str]]
    answers: list[str]


@dataclass(frozen=True)
class Curation:
    """What `curation.json` of one curate stage says.

    refused: rows by reason, in the order in which the rules were asked; 0 where a rule found none. warnings: places of
    rows by what they seem to hold. lengths: figures in characters by part of a row, before and after.
    """

    stage: str
    rows: int
    kept: int
    refused: dict[str, int]
    examples: dict[str, list[Refused]]
    warnings: dict[str, list[str]]
    lengths: dict[str, dict[str, dict[str, float]]]


@dataclass(frozen=True)
class Selected:
    """A row that a selection kept or left out."""

    place: str
    prompt: list[tuple[str, str]]
    answer: str
    score: float


@dataclass(frozen=True)
class Alike:
    """A row that was left out, the better one that it resembles, and the cosine of the two."""

    row: Selected
    better: Selected
    cosine: float


@dataclass(frozen=True)
class Selection:
    """What `selection.json` of one select stage says.

    scores, words: of `every row` and of those `kept`, at even steps from the lowest to the highest.
    """

    stage: str
    by: str
    rows: int
    kept: int
    refused: dict[str, int]
    similarity: str
    encoder: str
    scores: dict[str, list[float]]
    words: dict[str, list[float]]
    best: list[Selected]
    worst: list[Selected]
    alike: list[Alike]


@dataclass(frozen=True)
class Bin:
    """Comparisons that are near each other in strength or length, and how often a reward model is right on them."""

    low: float
    high: float
    mean: float
    accuracy: Interval


@dataclass(frozen=True)
class Reward:
    """What `reward.json` of one evaluate_reward stage says.

    longer: accuracy of "the longer one is better"; over_longer: the model's accuracy less that. curve: predicted shares
    with observed ones. gap: mean score of chosen answers less that of rejected ones. best_of: KL of the best of n
    answers, its own score and the gold one.
    """

    stage: str
    verdict: str
    prompts: int
    comparisons: int
    ties: int
    unused: dict[str, int]
    accuracy: Interval
    by_strength: list[Bin]
    by_length: list[Bin]
    by_source: dict[str, Interval]
    categories: dict[str, Interval]
    categories_mean: Interval | None
    error: float
    error_by_chance: float
    curve: list[tuple[float, Interval]]
    log_loss: Interval
    log_loss_mended: Interval | None
    brier: Interval
    temperature: Interval | None
    correlation: Interval | None
    balanced: Interval | None
    longer: Interval
    constant: float
    over_longer: Interval
    answers: int
    mean: float
    deviation: float
    gap: Interval
    best_of: list[tuple[float, Interval, Interval]]


@dataclass(frozen=True)
class View:
    """A run, ready to be shown."""

    path: Path
    name: str
    model: str
    seed: str
    created: str
    versions: dict[str, Any]
    machine: dict[str, Any]
    stages: list[Stage]
    evaluations: list[Evaluation]
    audits: list[Audit]
    curations: list[Curation]
    selections: list[Selection]
    rewards: list[Reward]
    artifacts: list[Artifact]
    recipe: str
    resolved: str

    @property
    def evaluation(self) -> Evaluation | None:
        """The last one, which is of the final model."""
        return self.evaluations[-1] if self.evaluations else None

    @property
    def made_reward(self) -> bool:
        """Whether the last model that the run made is a reward model."""
        made = [artifact.meta for artifact in self.artifacts if "model" in artifact.meta or "reward" in artifact.meta]
        return bool(made) and "reward" in made[-1]


def view(folder: Path) -> View:
    """Reads a run folder. What is damaged raises StorageError; what is missing is only missing."""
    run = Run.read(folder)
    info = _mapping(_json(folder / "run.json"))
    artifacts = [artifact for artifact in run.artifacts() if not artifact.meta.get("part")]
    return View(
        path=folder,
        name=str(info.get("name") or folder.resolve().name),
        model=str(info.get("model", "")),
        seed=str(info.get("seed", "")),
        created=str(info.get("created", "")),
        versions=_mapping(info.get("versions")),
        machine=_mapping(info.get("machine")),
        stages=_stages(run),
        evaluations=[_evaluation(artifact) for artifact in artifacts if (artifact.path / EVALUATION).is_file()],
        audits=[_audit(artifact) for artifact in artifacts if (artifact.path / AUDIT).is_file()],
        curations=[_curation(artifact) for artifact in artifacts if (artifact.path / CURATION).is_file()],
        selections=[_selection(artifact) for artifact in artifacts if (artifact.path / SELECTION).is_file()],
        rewards=[_reward(artifact) for artifact in artifacts if (artifact.path / REWARD).is_file()],
        artifacts=artifacts,
        recipe=_text(folder / "recipe.toml"),
        resolved=_text(folder / "recipe.resolved.toml"),
    )


def _stages(run: Run) -> list[Stage]:
    """The stages in the order in which they first spoke."""
    stages: dict[str, Stage] = {}
    for event in run.events():
        name = str(event["stage"])
        _hear(stages.setdefault(name, Stage(name)), event)
    return list(stages.values())


def _hear(stage: Stage, event: Mapping[str, Any]) -> None:
    """Adds what one event says to the stage."""
    match event["kind"]:
        case "start":
            _start(stage, event)
        case "data":
            stage.data.append(_data(event))
        case "preview":
            stage.previews.append(_preview(event))
        case "step":
            _step(stage, event)
        case "held_out":
            _watch(stage, _held_out(event))
        case "warning":
            stage.warnings.append(str(event.get("message", "")))
        case "end":
            stage.seconds, stage.memory = _float(event.get("seconds")), _float(event.get("peak_memory_bytes"))
            stage.ended = True


def _start(stage: Stage, event: Mapping[str, Any]) -> None:
    """A stage that was interrupted starts again and says again what it said before its first step."""
    stage.key = str(event.get("key", ""))
    stage.settings = _mapping(event.get("settings"))
    stage.inputs = {name: str(value) for name, value in _mapping(event.get("inputs")).items()}
    stage.data, stage.previews, stage.ended = [], [], False


def _step(stage: Stage, event: Mapping[str, Any]) -> None:
    stage.step, stage.steps = int(event["step"]), event.get("steps")
    for metric, value in _mapping(event.get("metrics")).items():
        number = _float(value)
        if number is not None:
            curve = stage.curves.setdefault(metric, Curve())
            curve.steps.append(stage.step)
            curve.values.append(number)


def _watch(stage: Stage, held: HeldOut) -> None:
    """A stage that goes on after an interruption looks at the same step again."""
    stage.held_out = [*(other for other in stage.held_out if other.step != held.step), held]


def _held_out(event: Mapping[str, Any]) -> HeldOut:
    return HeldOut(int(event.get("step", 0)), _interval(event.get("accuracy")), _float(event.get("loss")))


def _data(event: Mapping[str, Any]) -> Data:
    return Data(
        source=" ".join(str(event[name]) for name in ("source", "format") if event.get(name)),
        rows=event.get("rows"),
        used=event.get("used"),
        refused=_mapping(event.get("refused")),
        lengths={name: list(event[name]) for name in LENGTHS if event.get(name)},
        scores=_mapping(event.get("scores")),
        shares=[Share(**share) for share in event.get("shares", [])],
    )


def _preview(event: Mapping[str, Any]) -> Preview:
    return Preview(str(event.get("row", "")), [(str(text), bool(scored)) for text, scored in event.get("pieces", [])])


def _audit(artifact: Artifact) -> Audit:
    found = _mapping(_json(artifact.path / AUDIT))
    return Audit(
        stage=artifact.stage,
        comparisons=int(found["comparisons"]),
        members=int(found["members"]),
        folds=int(found["folds"]),
        agreement=_interval(found["agree_with_label"]),
        fates=_mapping(found["fates"]),
        ordered=[float(value) for value in found["sorted"]],
        bins=list(found["bins"]),
        deciles=list(found["deciles"]),
        examples={kind: [_voted(example) for example in found[kind]] for kind in ("wrong", "ambiguous", "strong")},
    )


def _voted(example: Mapping[str, Any]) -> Voted:
    turns = [(str(turn["role"]), str(turn["content"])) for turn in example["prompt"]]
    names = ("place", "chosen", "rejected", "mean", "deviation", "for_label", "fate")
    return Voted(prompt=turns, **{name: example[name] for name in names})


def _curation(artifact: Artifact) -> Curation:
    found = _mapping(_json(artifact.path / CURATION))
    return Curation(
        stage=artifact.stage,
        rows=int(found["rows"]),
        kept=int(found["kept"]),
        refused=_mapping(found["refused"]),
        examples={reason: [_refused(row) for row in rows] for reason, rows in found["examples"].items()},
        warnings={kind: list(warning["places"]) for kind, warning in found["warnings"].items()},
        lengths=_mapping(found["lengths"]),
    )


def _refused(row: Mapping[str, Any]) -> Refused:
    return Refused(str(row["place"]), str(row["detail"]), _turns(row["prompt"]), [str(text) for text in row["answers"]])


def _selection(artifact: Artifact) -> Selection:
    found = _mapping(_json(artifact.path / SELECTION))
    return Selection(
        stage=artifact.stage,
        by=str(found["by"]),
        rows=int(found["rows"]),
        kept=int(found["kept"]),
        refused=_mapping(found["refused"]),
        similarity=str(found["similarity"]),
        encoder=str(found["encoder"]),
        scores=_mapping(found["scores"]),
        words=_mapping(found["words"]),
        best=[_selected(row) for row in found["best"]],
        worst=[_selected(row) for row in found["worst"]],
        alike=[Alike(_selected(one["row"]), _selected(one["better"]), float(one["cosine"])) for one in found["alike"]],
    )


def _selected(row: Mapping[str, Any]) -> Selected:
    return Selected(str(row["place"]), _turns(row["prompt"]), str(row["answer"]), float(row["score"]))


def _reward(artifact: Artifact) -> Reward:
    found = _mapping(_json(artifact.path / REWARD))
    calibration, length, scores = found["calibration"], found["length"], found["scores"]
    categories = _mapping(found["categories"])
    return Reward(
        stage=artifact.stage,
        verdict=str(found["verdict"]),
        prompts=int(found["prompts"]),
        comparisons=int(found["comparisons"]),
        ties=int(found["ties"]),
        unused=_mapping(found["unused"]),
        accuracy=_known(found["accuracy"]),
        by_strength=[_bin(one) for one in found["by_strength"]],
        by_length=[_bin(one) for one in found["by_length"]],
        by_source={name: _known(one) for name, one in found["by_source"].items()},
        categories={name: _known(one) for name, one in _mapping(categories.get("accuracy")).items()},
        categories_mean=_interval(categories.get("mean")),
        error=float(calibration["error"]),
        error_by_chance=float(calibration["error_by_chance"]),
        curve=[(float(one["predicted"]), _known(one["observed"])) for one in calibration["curve"]],
        log_loss=_known(calibration["log_loss"]),
        log_loss_mended=_interval(calibration["log_loss_mended"]),
        brier=_known(calibration["brier"]),
        temperature=_interval(calibration["temperature"]),
        correlation=_interval(length["correlation"]),
        balanced=_interval(length["balanced"]),
        longer=_known(length["longer"]),
        constant=float(length["constant"]),
        over_longer=_known(length["over_longer"]),
        answers=int(scores["answers"]),
        mean=float(scores["mean"]),
        deviation=float(scores["deviation"]),
        gap=_known(scores["gap"]),
        best_of=[(float(one["kl"]), _known(one["proxy"]), _known(one["gold"])) for one in found.get("best_of", [])],
    )


def _bin(found: Mapping[str, Any]) -> Bin:
    return Bin(float(found["low"]), float(found["high"]), float(found["mean"]), _known(found["accuracy"]))


def _known(found: Mapping[str, Any]) -> Interval:
    """An interval that is never missing."""
    return Interval(float(found["value"]), float(found["low"]), float(found["high"]), int(found["n"]))


def _evaluation(artifact: Artifact) -> Evaluation:
    found = _mapping(_json(artifact.path / EVALUATION))
    preferences = _mapping(found.get("preferences"))
    return Evaluation(
        stage=artifact.stage,
        verdict=str(found.get("verdict", "")),
        judge=str(found.get("judge", "")),
        judge_description=str(found.get("judge_description", "")),
        principle=str(found.get("principle") or ""),
        prompts=int(found.get("prompts", 0)),
        answers_per_prompt=int(found.get("answers_per_prompt", 1)),
        wins=int(found.get("wins", 0)),
        ties=int(found.get("ties", 0)),
        losses=int(found.get("losses", 0)),
        win_rate=_interval(found.get("win_rate")),
        kl=_interval(found.get("kl")),
        length_ratio=_interval(found.get("length_ratio")),
        model=_side(found.get("model")),
        base=_side(found.get("base")),
        sampling=_mapping(found.get("sampling")),
        examples=[_example(example) for example in found.get("examples", [])],
        outcomes=[float(outcome) for outcome in found.get("outcomes", [])],
        accuracy=_interval(preferences.get("accuracy")),
        margin=_interval(preferences.get("margin")),
        chosen=_interval(preferences.get("chosen")),
    )


def _side(found: object) -> Side:
    side = _mapping(found)
    return Side(str(side.get("name", "")), _float(side.get("mean_tokens")), _interval(side.get("finished")))


def _example(found: Mapping[str, Any]) -> Example:
    return Example(
        prompt=_turns(found.get("prompt", [])),
        base=_answer(found.get("base")),
        model=_answer(found.get("model")),
        winner=str(found.get("winner", "")),
    )


def _turns(found: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    return [(str(turn.get("role", "")), str(turn.get("content", ""))) for turn in found]


def _answer(found: object) -> Answer:
    answer = _mapping(found)
    return Answer(
        text=str(answer.get("text", "")),
        tokens=answer.get("tokens"),
        finished=bool(answer.get("finished", True)),
        score=_float(answer.get("score")),
    )


def _interval(found: object) -> Interval | None:
    """An interval as it is stored; None where it or one of its numbers is missing."""
    numbers = _mapping(found)
    value, low, high = (_float(numbers.get(name)) for name in ("value", "low", "high"))
    if value is None or low is None or high is None:
        return None
    return Interval(value, low, high, int(numbers.get("n", 0)))


def _float(found: Any) -> float | None:
    """A stored number. NaN and the infinities are stored by their names, which `float` knows."""
    return None if found is None else float(found)


def _mapping(found: Any) -> dict[str, Any]:
    return dict(found or {})


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _json(path: Path) -> Any:
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StorageError(f"{path}: damaged: {error}: restore it, or remove it") from error
