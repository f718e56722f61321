"""The rows that are worth training on: the best by any score, of which no two are alike (DEITA, arXiv:2312.15685)."""

from __future__ import annotations

import functools
import io
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from truing import formats
from truing.compute import Engine
from truing.errors import DataError, by_reason
from truing.models.sentence import SentenceModel, is_sentence_model
from truing.packing import pack
from truing.records import Completion, Group
from truing.scoring.rules import length_of
from truing.scoring.score import Score
from truing.scoring.scorers import Spec
from truing.selection.diversity import Choice, Vectors, best_first, centred, most_diverse
from truing.signatures import Count, Settings
from truing.stages.context import Context, Groups, Judges, Model, write_json
from truing.stages.score import in_order, scores_of
from truing.store import disk

PART = 256
"""Rows whose embeddings are kept on disk together: what an interruption loses at most."""
FILE = "groups.jsonl"
FINDINGS = "selection.json"
VECTORS = "vectors.npy"
SHOWN = 12
"""Rows of each kind that are shown with their text."""
ALIKE = "too like a better row"
BEYOND = "worse than the rows that fill the budget"

Embed = Callable[[Sequence[Group]], NDArray[np.float32]]


class Select(Settings):
    """Settings of `select`."""

    by: Spec = Field(
        "deita",
        description="what makes a row good: deita, complexity, quality, ifd, length, random, any other scorer's name, "
        "or a table with name and settings",
        validate_default=True,
    )
    keep: Count | Annotated[float, Field(gt=0, le=1)] = Field(
        0.1, description="rows to keep at most, or their share of all rows"
    )
    similarity: Annotated[float, Field(gt=0, le=1)] | Literal["none"] = Field(
        0.9, description='cosine from which a row is too like a better one to be kept; "none": the score alone decides'
    )
    embeddings: str = Field(
        "auto",
        description="the model by which rows are alike: a sentence model's or a language model's folder; auto: the "
        "sentence model of the extra 'sentences' where that is installed, else the run's own model",
    )
    forest_tokens: Count = Field(2048, description="tokens that a model reads at once; changes time and memory")

    def budget(self, rows: int) -> int:
        """How many of so many rows are kept at most."""
        return self.keep if isinstance(self.keep, int) else max(1, round(self.keep * rows))


def select(context: Context, settings: Select, data: Groups, judges: Judges, encoder: Model | None = None) -> None:
    """Scores every row, and keeps the best that are not alike, in the order of the data.

    Of a row with several answers the preferred one is scored. encoder: by which rows are compared; none: they are not.
    """
    groups = data.read()
    heads = [head(group) for group in groups]
    answered = [one if one.completions else replace(one, completions=(Completion(()),)) for one in heads]
    said = [one for (one,) in scores_of(context, settings.by, judges, answered, budget=settings.forest_tokens)]
    scored = [place for place, score in enumerate(said) if score.value is not None]
    refused = Counter(score.reason for score in said if score.value is None)
    if not scored:
        raise DataError(f"stage '{context.stage}' has no row with a score: {by_reason(refused)}")
    values = [_value(said[place]) for place in scored]
    budget = settings.budget(len(groups))
    if encoder is None or settings.similarity == "none":
        choice = Choice(best_first(values)[:budget], {})
    else:
        vectors = _embedded(context, settings, encoder, [heads[place] for place in scored])
        choice = most_diverse(values, vectors, similarity=settings.similarity, budget=budget)
    beyond = len(scored) - len(choice.taken) - len(choice.alike)
    refused.update({ALIKE: len(choice.alike), BEYOND: beyond})
    made = [_with_score(groups[scored[place]], values[place]) for place in sorted(choice.taken)]
    found = findings([heads[place] for place in scored], values, choice)
    found |= {"by": settings.by["name"], "rows": len(groups), "kept": len(made), "budget": budget}
    found |= {"refused": dict(+refused), "similarity": settings.similarity}
    found |= {"encoder": encoder.source if encoder else ""}
    context.event(
        "data",
        source=data.description,
        rows=len(groups),
        used=len(made),
        refused=found["refused"],
        scores=found["scores"],
    )
    with context.output({"groups": FILE, "selection": FINDINGS, "rows": len(made)}) as folder:
        formats.write_data(made, folder / FILE, format="group")
        write_json(folder / FINDINGS, found)


def head(group: Group) -> Group:
    """The row with its preferred answer alone: that of the first rank, of equal ones that with the highest score."""
    first = sorted(group.completions, key=lambda answer: (answer.rank or 0, -(answer.score or 0.0)))[:1]
    return replace(group, completions=tuple(first))


def findings(heads: Sequence[Group], values: Sequence[float], choice: Choice) -> dict[str, Any]:
    """What the report shows: scores and lengths of all rows and of the kept ones, and examples.

    words: of the answers, at even steps from the shortest to the longest.
    """
    words = [float(length_of(_answer(one), "words")) for one in heads]
    order = best_first(values)
    closest = sorted(choice.alike, key=lambda place: -choice.alike[place][1])

    def before_and_after(numbers: Sequence[float]) -> dict[str, list[float]]:
        return {"every row": in_order(numbers), "kept": in_order([numbers[place] for place in choice.taken])}

    def shown(place: int) -> dict[str, Any]:
        prompt = [{"role": turn.role, "content": turn.content} for turn in heads[place].prompt]
        row = {"place": heads[place].place, "prompt": prompt, "answer": _answer(heads[place])}
        return row | {"score": values[place]}

    return {
        "scores": before_and_after(values),
        "words": before_and_after(words),
        "best": [shown(place) for place in choice.taken[:SHOWN]],
        "worst": [shown(place) for place in order[::-1][:SHOWN]],
        "alike": [
            {"row": shown(place), "better": shown(choice.alike[place][0]), "cosine": choice.alike[place][1]}
            for place in closest[:SHOWN]
        ],
    }


def row_text(group: Group) -> str:
    """All words of a row, as a sentence model reads it."""
    return "\n\n".join(turn.content for turn in (*group.prompt, *(m for a in group.completions for m in a.messages)))


def row_means(engine: Engine, groups: Sequence[Group], budget: int) -> NDArray[np.float32]:
    """The mean of the last layer's hidden states over the tokens of each row, [rows, width]."""
    rows = [engine.renderer.render(group, index) for index, group in enumerate(groups)]
    found: dict[int, NDArray[np.float32]] = {}
    for forest in pack(rows, budget):
        hidden = engine.hidden(forest)
        for index, tree in zip(forest.rows, forest.trees, strict=True):
            end = tree.answers[-1].stop if tree.answers else tree.prompt.stop
            found[index] = hidden[tree.prompt.start : end].mean(dim=0).to(torch.float32).cpu().numpy()
    return np.stack([found[index] for index in range(len(groups))])


def _embedded(context: Context, settings: Select, encoder: Model, groups: Sequence[Group]) -> Vectors:
    """A vector for each row. Those of a decoder are centred: as they are, any two are alike."""
    sentences = is_sentence_model(encoder.source)

    @functools.cache
    def embed() -> Embed:
        if sentences:
            model = SentenceModel(encoder.source, context.device)
            return lambda some: model.embed([row_text(group) for group in some])
        engine = context.scorer(encoder)
        return lambda some: row_means(engine, some, settings.forest_tokens)

    parts: list[Vectors] = []
    with context.reporter.task(f"{context.stage}: embedding", len(groups)) as task:
        for start in range(0, len(groups), PART):
            context.check_stop()
            parts.append(_part(context, embed, groups[start : start + PART], start))
            task.advance(min(start + PART, len(groups)))
    vectors = np.concatenate(parts)
    return vectors if sentences else centred(vectors)


def _part(context: Context, embed: Callable[[], Embed], groups: Sequence[Group], start: int) -> Vectors:
    """The vectors of some rows, kept as soon as they are known."""
    key = f"vectors-{start}"
    done = context.run.artifact(f"{context.key}-{key}")
    if done is None:
        vectors = embed()(groups)
        with context.output({"rows": len(groups)}, part=key) as folder:
            content = io.BytesIO()
            np.save(content, vectors)
            disk.write(folder / VECTORS, content.getvalue())
        done = context.run.artifact(f"{context.key}-{key}")
        assert done is not None, "it was just made"
    found: Vectors = np.load(done.path / VECTORS)
    return found


def _with_score(group: Group, score: float) -> Group:
    return replace(group, extra={**group.extra, "selection": {"score": score}})


def _answer(group: Group) -> str:
    return group.completions[0].text if group.completions else ""


def _value(score: Score) -> float:
    assert score.value is not None, "rows without a score do not come this far"
    return score.value
