"""Reviews and their openings, a small model of them, and what the parts of the evidence on online learning share."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from evidence import running, synthetic
from evidence.found import Found, short
from evidence.human import fold_of, rows_of
from truing.compute.engine.local import LocalEngine
from truing.models import load, locate
from truing.models.precision import best_device
from truing.records import Completion, Group, text
from truing.scoring.principle import answer_logprobs
from truing.store import Run

SHORTEST = 7
"""Words of a review that is cut into an opening and a rest."""
OPENINGS = (2, 4)
"""Words of an opening: from, to."""
FOLDS = 6
"""Openings fall into so many parts, of which one is held out."""
END = "<|end|>"
FOREST = 8192
"""Tokens that the small model reads at once."""


class Review(NamedTuple):
    """A sentence of a review, lower case, cut into its first words and the rest. kind: whether it praises."""

    opening: str
    rest: str
    kind: bool


@dataclass(frozen=True, slots=True)
class Size:
    """How much is tried.

    vocabulary, width, layers: of the small model. openings: that answers are drawn to, at most. held_out: openings
    that are measured on. pool: answers to each, of which the best is chosen. seeds: trainings of each setting.
    epochs: of the reference. rollouts: of each PPO of the frontier. rough: rollouts where measures are taken out.
    betas, alphas, passes, prices: what DPO, unlikelihood, fine-tuning and PPO are swept over.
    rates: learning rates at which PPO with all of its measures meets PPO without any. real: updates of a real model.
    """

    vocabulary: int = 1000
    width: int = 64
    layers: int = 2
    epochs: int = 8
    openings: int = 600
    held_out: int = 96
    pool: int = 32
    seeds: int = 3
    rollouts: int = 40
    rough: int = 24
    betas: tuple[float, ...] = (0.05, 0.1, 0.3, 1.0, 5.0)
    alphas: tuple[float, ...] = (0.05, 0.1, 0.5, 1.0)
    passes: tuple[int, ...] = (1, 2, 4)
    prices: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0)
    rates: tuple[float, ...] = (3e-4, 1e-3)
    real: int = 20


QUICK = Size(
    vocabulary=300,
    width=32,
    epochs=1,
    openings=16,
    held_out=6,
    pool=4,
    seeds=2,
    rollouts=3,
    rough=8,
    betas=(0.1, 1.0),
    alphas=(0.1,),
    passes=(1,),
    prices=(0.1, 1.0),
    rates=(1e-3, 1e-2),
    real=2,
)
"""Everything once, so small that its numbers mean nothing."""


@dataclass(frozen=True)
class Trial:
    """Where data are read and runs are made, what was found so far, and what all parts begin with, made once.

    model: the real one.
    """

    data: Path
    folder: Path
    found: Found
    size: Size = Size()
    model: str = "smollm2"

    @cached_property
    def reviews(self) -> list[Review]:
        """All reviews that are long enough to be cut."""
        return reviews(self.data)

    @cached_property
    def demonstrations(self) -> str:
        """The file of the reviews that nothing is measured on: openings, and how they go on."""
        known = [one for one in self.reviews if not is_held_out(one)]
        rows = [Group((text(one.opening),), (Completion((text(one.rest),)),)) for one in known]
        return running.write(rows, self.folder / "reviews.jsonl")

    @cached_property
    def reference(self) -> str:
        """The folder of the model that every training begins with: it has learnt to go on with openings."""
        known = [one for one in self.reviews if not is_held_out(one)]
        small = small_model(self.folder / "small", [one.opening + one.rest for one in known], self.size)
        settings = {"model": small, "data.path": self.demonstrations, "sft.epochs": self.size.epochs}
        return running.model_of(running.run("frontier-reference", self.folder / "reference", settings), "model")

    @cached_property
    def truth(self) -> dict[str, Any]:
        """The true reward: log odds that a continuation is praise, by a classifier of words."""
        thumbs = [Group((text(one.opening),), (Completion((text(one.rest),), label=one.kind),)) for one in self.reviews]
        return {"name": "bag_of_words", "ngrams": 1, "file": running.write(thumbs, self.folder / "thumbs.jsonl")}

    @cached_property
    def openings(self) -> str:
        """The file of openings that answers are drawn to in training."""
        some = openings(self.reviews, held_out=False)[: self.size.openings]
        return running.write(some, self.folder / "openings.jsonl")

    @cached_property
    def held_out(self) -> str:
        """The file of openings that everything is measured on."""
        some = openings(self.reviews, held_out=True)[: self.size.held_out]
        return running.write(some, self.folder / "held-out.jsonl")

    @cached_property
    def ranked(self) -> list[Group]:
        """Four answers of the reference to each opening with their true rewards; where all are equal the row is out."""
        settings = {"model": self.reference, "data.path": self.openings, "score.scorer": self.truth}
        finished = running.run("frontier-pairs", self.folder / "pairs", settings)
        rows = running.made_groups(finished, "score")
        return [row for row in rows if len({answer.score for answer in row.completions}) > 1]

    @cached_property
    def comparisons(self) -> str:
        """The file of them."""
        return running.write(self.ranked, self.folder / "ranked.jsonl")

    @cached_property
    def reward_run(self) -> Run:
        """The training of the reward model on these comparisons."""
        settings = {"model": self.reference, "data.path": self.comparisons}
        return running.run("frontier-reward", self.folder / "reward", settings)

    @property
    def reward(self) -> str:
        """The folder of the reward model."""
        return running.model_of(self.reward_run, "reward")

    @cached_property
    def engine(self) -> LocalEngine:
        """The reference, to read answers with."""
        return LocalEngine(load(locate(self.reference), dtype=torch.float32, device=best_device()), trainable=False)

    def measuring(self) -> dict[str, Any]:
        """Settings of the stages that measure a trained model on held-out openings."""
        return {"sample.data": self.held_out, "score.scorer": self.truth}

    def measured(self, finished: Run, stage: str = "score") -> dict[str, Any]:
        """True reward and KL from the reference, in nats an answer, of each held-out opening's answers; their shape.

        The KL is the mean of log policy / reference over whole answers that the policy drew.
        """
        groups = running.made_groups(finished, stage)
        read = answer_logprobs(self.engine, groups, budget=FOREST)
        kls, lengths, ended = [], [], []
        for group, reference in zip(groups, read, strict=True):
            drawn = [answer.sampled for answer in group.completions if answer.sampled is not None]
            kls.append(fmean(sum(one.logprobs) - known for one, known in zip(drawn, reference, strict=True)))
            lengths += [len(one.tokens) for one in drawn]
            ended += [answer.finished for answer in group.completions]
        rewards = [fmean(running.score_of(answer) for answer in group.completions) for group in groups]
        shape = {"length": short([fmean(lengths)])[0], "finished": short([fmean(ended)])[0]}
        return {"reward": short(rewards), "kl": short(kls), **shape}


def reviews(folder: Path) -> list[Review]:
    """UCI's labelled sentences of reviews, each once, that have at least `SHORTEST` words."""
    found: dict[str, Review] = {}
    for sentence, kind in sentences(folder):
        words = sentence.lower().split()
        if len(words) >= SHORTEST:
            cut = random.Random(sentence.lower()).randint(*OPENINGS)
            found[sentence.lower()] = Review(" ".join(words[:cut]), " " + " ".join(words[cut:]), kind)
    return list(found.values())


def sentences(folder: Path) -> list[tuple[str, bool]]:
    """All sentences as people wrote them, and whether they praise."""
    rows = rows_of(folder / "uci_sentiment" / "sentences.jsonl.gz")
    return [(re.sub(r"\s+", " ", str(row["text"])).strip(), bool(row["label"])) for row in rows]


def openings(known: Sequence[Review], *, held_out: bool) -> list[Group]:
    """The openings as prompts, each once."""
    found = {one.opening: Group((text(one.opening),)) for one in known if is_held_out(one) == held_out}
    return list(found.values())


def is_held_out(one: Review) -> bool:
    """Whether a review's opening, and so all reviews that begin with it, is kept to measure on."""
    return fold_of(Group((text(one.opening),)), FOLDS, "openings") == 0


def small_model(folder: Path, texts: Sequence[str], size: Size) -> str:
    """A decoder with random weights and a byte-level vocabulary of these texts; returns its name."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=size.vocabulary, special_tokens=[END], initial_alphabet=letters, show_progress=False
    )
    core.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token=END)
    return synthetic.decoder(folder, tokenizer, width=size.width, layers=size.layers)
