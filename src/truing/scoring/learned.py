"""Scorers that have learned: reward models, classifiers of transformers, and a bag of words as a baseline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate, repeat
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from truing import formats
from truing.errors import ConfigError, DataError, MissingError
from truing.models.quiet import quiet_libraries
from truing.records import AnswerStep, Completion, Group
from truing.rendering import Row
from truing.scoring.answers import of_answers, rendered, rewards
from truing.scoring.score import FileName, ModelName, Pooling, ProcessModelName, Score, Scorer, Tools, each, pooled
from truing.signatures import Count
from truing.tensors import Forest

Joining = Literal["minimum", "product", "last"]
JOINED: dict[Joining, Callable[[Tensor], Tensor]] = {
    "minimum": torch.min,
    "product": torch.prod,
    "last": lambda chances: chances[-1],
}
"""One chance made of those of an answer's steps."""


def reward_model(
    tools: Tools,
    *,
    model: ModelName = "",
    members: Pooling | None = None,
    deviations: float = 1.0,
    max_length: Count = 4096,
) -> Scorer:
    """What a reward model gives an answer, at the token that ended it; of a cut answer at its last token.

    model: a reward model's folder, run, hub id, or the stage that trains it; none: the last one of the recipe.
    members: of a stage that trained several, what they say one by one: mean; min; or lower, the mean less some
        deviations; none: their average weights.
    deviations: how many, for lower.
    max_length: longer rows, in tokens, fail.
    """
    engines = tools.engines(model, members is not None)

    def score(groups: Sequence[Group]) -> list[tuple[Score, ...]]:
        said: list[tuple[Score, ...]] = [()] * len(groups)
        rows: list[Row] = []
        places: list[int] = []
        for place, group in enumerate(groups):
            row = rendered(engines[0].renderer.render, group, max_length)
            if isinstance(row, Row):
                rows.append(row)
                places.append(place)
            else:
                said[place] = (row,) * len(group.completions)
        each = [rewards(engine, rows, budget=tools.budget) for engine in engines]
        for number, place in enumerate(places):
            answers = zip(*(values[number] for values in each), strict=True)
            said[place] = tuple(
                pooled(values, members, deviations) if members else Score.of(*values) for values in answers
            )
        return said

    return score


def process_reward(
    tools: Tools,
    *,
    model: ProcessModelName = "",
    by: Joining = "minimum",
    separator: Annotated[str, Field(min_length=1)] = "\n",
    max_length: Count = 4096,
) -> Scorer:
    """What a process reward model makes of an answer: its chances that each step is right, as one number from 0 to 1.

    model: a reward model that was trained by objective `process`, as the scorer `reward_model` names it.
    by: minimum, the chance of the most doubtful step; product, that all are right if each errs by itself; or last.
    separator: what ends a step, in answers that do not say where their steps end.
    max_length: longer rows, in tokens, fail.
    """
    engine = tools.process(model)

    def say(forest: Forest) -> Tensor:
        said = engine.scores(forest)[0].at(forest.step)
        each = torch.split(said.token.sigmoid(), said.length.long().tolist())
        return torch.stack([JOINED[by](chances) for chances in each])

    def score(groups: Sequence[Group]) -> list[tuple[Score, ...]]:
        stepped = [tuple(in_steps(answer, separator) for answer in group.completions) for group in groups]
        lacking = Score.failed("an answer without a step")
        read: list[Row | Score] = []
        for group, answers in zip(groups, stepped, strict=True):
            judged = tuple(answer for answer in answers if answer.steps)
            row = (
                rendered(engine.renderer.render, replace(group, completions=judged), max_length) if judged else lacking
            )
            read.append(row)
        said = iter(of_answers([row for row in read if isinstance(row, Row)], say, budget=tools.budget))
        scores: list[tuple[Score, ...]] = []
        for row, answers in zip(read, stepped, strict=True):
            own = map(Score.of, next(said)) if isinstance(row, Row) else repeat(row)
            scores.append(tuple(next(own) if answer.steps else lacking for answer in answers))
        return scores

    return score


def in_steps(answer: Completion, separator: str) -> Completion:
    """The answer with the ends of its steps; those that it has stay. A step that is blank is none."""
    if answer.steps:
        return answer
    parts = answer.text.split(separator)
    ends = accumulate(len(part) + len(separator) for part in parts)
    last = len(answer.text)
    found = [AnswerStep(min(end, last)) for part, end in zip(parts, ends, strict=True) if part.strip()]
    return replace(answer, steps=tuple(found))


def classifier(
    *,
    model: ModelName,
    label: str,
    reads: Literal["answer", "prompt_and_answer"] = "answer",
    scale: Literal["probability", "log_odds"] = "probability",
    max_length: Count = 512,
) -> Scorer:
    """The probability that a text classifier of transformers gives to a label.

    model: a folder or hub id that transformers reads as AutoModelForSequenceClassification.
    label: the label, as the model's configuration names it.
    reads: the answer alone, or the last turn of the prompt and the answer as a pair.
    scale: probability, from 0 to 1, or its logarithmic odds.
    max_length: longer texts, in tokens, fail.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    with quiet_libraries():
        tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
        network: Any = AutoModelForSequenceClassification.from_pretrained(
            model, use_safetensors=True, trust_remote_code=False
        ).eval()
    known: dict[str, int] = network.config.label2id
    if label not in known:
        raise ConfigError(f"{model}: there is no label '{label}': it has {', '.join(known)}")
    if len(known) < 2:
        raise ConfigError(f"{model}: a model with one label is a reward model: use the scorer 'reward_model'")

    def say(group: Group, answer: Completion) -> Score:
        asked = group.prompt[-1].content if reads == "prompt_and_answer" and group.prompt else None
        texts = (answer.text,) if asked is None else (asked, answer.text)
        inputs = tokenizer(*texts, return_tensors="pt")
        count = inputs["input_ids"].shape[1]
        if count > max_length:
            return Score.failed(f"{count} tokens, and max_length is {max_length}")
        with torch.no_grad():
            logits = network(**inputs).logits[0].double()
        own = logits[known[label]]
        others = torch.cat((logits[: known[label]], logits[known[label] + 1 :])).logsumexp(0)
        odds = own - others
        return Score.of(float(odds if scale == "log_odds" else odds.sigmoid()))

    return each(say)


def bag_of_words(*, file: FileName, ngrams: Count = 2, regularisation: float = 1.0) -> Scorer:
    """Logistic regression on TF-IDF of an answer's words: the baseline that a reward model must beat.

    It learns from the file when it is made. Of comparisons it learns which differences of words are preferred, of
    thumbs which words are; the score is the logarithmic odds, without a constant for comparisons.

    file: comparisons or thumbs, in any format that `truing data` reads.
    ngrams: up to how many words in a row count as one.
    regularisation: inverse strength, C of scikit-learn.
    """
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
    except ImportError:
        raise MissingError("bag_of_words needs scikit-learn: pip install 'truing[classifiers]'") from None
    groups = formats.read_groups(file)
    vectorizer = TfidfVectorizer(ngram_range=(1, ngrams), sublinear_tf=True)
    vectorizer.fit([answer.text for group in groups for answer in group.completions])
    pairs = [group.comparison() for group in groups if len(group.completions) == 2]
    if pairs:
        chosen, rejected = (vectorizer.transform([pair[side].text for pair in pairs]) for side in (0, 1))
        difference = chosen - rejected
        sign = np.where(np.arange(len(pairs)) % 2 == 0, 1, -1)  # half of them turned round, so that there are two sides
        features, labels = difference.multiply(sign[:, None]).tocsr(), sign > 0
    else:
        thumbs = [(answer.text, answer.label) for group in groups for answer in group.completions]
        if any(label is None for _, label in thumbs) or len({label for _, label in thumbs}) < 2:
            raise DataError(f"{file}: bag_of_words learns from comparisons, or from thumbs of both kinds")
        features, labels = vectorizer.transform([text for text, _ in thumbs]), np.array([label for _, label in thumbs])
    fitted = LogisticRegression(C=regularisation, fit_intercept=not pairs, max_iter=1000).fit(features, labels)

    def score(asked: Sequence[Group]) -> list[tuple[Score, ...]]:
        texts = [answer.text for group in asked for answer in group.completions]
        values = iter(fitted.decision_function(vectorizer.transform(texts)).tolist() if texts else [])
        return [tuple(Score.of(next(values)) for _ in group.completions) for group in asked]

    return score
