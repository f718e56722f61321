"""What is true where raters disagree, and how far each is to be trusted: the model of Dawid and Skene."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from truing.errors import DataError
from truing.statistics.intervals import Array, numbered, same_length

MOST_ROUNDS = 10_000
ENOUGH = 1e-7
"""A round of EM that gains fewer nats than this was the last."""


@dataclass(frozen=True, slots=True)
class Consensus:
    """What `dawid_skene` found, of I items, R raters and K labels, each in the order in which it first came.

    prior [K]: how common each label is. posterior [I, K]: how probable each label is for each item. confusion
    [R, K, K]: how often a rater says the label in the column where the one in the row is true. log_likelihood: in nats.
    """

    items: tuple[Hashable, ...]
    raters: tuple[Hashable, ...]
    labels: tuple[Hashable, ...]
    prior: Array
    posterior: Array
    confusion: Array
    log_likelihood: float

    @property
    def best(self) -> dict[Hashable, Hashable]:
        """The most probable label of each item; of equally probable ones the one that came first."""
        return {item: self.labels[place] for item, place in zip(self.items, self.posterior.argmax(1), strict=True)}

    @property
    def accuracy(self) -> dict[Hashable, float]:
        """How often each rater is right, over labels as common as `prior` says."""
        return {name: float(self.prior @ np.diag(self.confusion[r])) for r, name in enumerate(self.raters)}


def dawid_skene(items: Sequence[Hashable], raters: Sequence[Hashable], labels: Sequence[Hashable]) -> Consensus:
    """True labels and raters' errors by EM: Dawid and Skene (1979), Eqs. 2.3 to 2.5.

    items, raters, labels: [n], one entry for each label that was given; a rater may skip items or label one again.

    Assumes that each item has one true label, and that raters err independently of each other and of the item, each
    after a row of their own of probabilities. What all raters mistake together is taken for the truth. EM begins with
    the shares of labels of each item, climbs to a maximum nearby, which need not be the highest, and ends when a round
    gains less than 1e-7 nats. There is no prior on errors, so a rater who was never wrong is taken to be
    infallible: with few labels for each rater, posteriors are too sure.

    Of no label it is an error; one rater alone is believed; where all agree posteriors are 1. A rater who met none of a
    label has there a row of equal probabilities.
    """
    same_length(items, raters)
    same_length(items, labels)
    if not items:
        raise DataError("there is no label to find a consensus of")
    item, rater, said = numbered(items), numbered(raters), numbered(labels)
    count, crowd, kinds = int(item.max()) + 1, int(rater.max()) + 1, int(said.max()) + 1
    posterior = np.bincount(item * kinds + said, minlength=count * kinds).reshape(count, kinds).astype(np.float64)
    posterior /= posterior.sum(axis=1, keepdims=True)
    reached = -np.inf
    for _ in range(MOST_ROUNDS):
        prior = posterior.mean(axis=0)
        confusion = np.empty((crowd, kinds, kinds))
        for true in range(kinds):
            heard = np.bincount(rater * kinds + said, posterior[item, true], crowd * kinds).reshape(crowd, kinds)
            met = heard.sum(axis=1, keepdims=True)
            confusion[:, true] = np.divide(heard, met, out=np.full_like(heard, 1 / kinds), where=met > 0)
        with np.errstate(divide="ignore"):  # the logarithm of a probability of 0 is what it should be
            log_prior, log_confusion = np.log(prior), np.log(confusion)
        joint = np.stack(
            [log_prior[true] + np.bincount(item, log_confusion[rater, true, said], count) for true in range(kinds)],
            axis=1,
        )
        total = np.logaddexp.reduce(joint, axis=1)
        posterior = np.exp(joint - total[:, None])
        before, reached = reached, float(total.sum())
        if reached - before < ENOUGH:
            return Consensus(
                tuple(dict.fromkeys(items)),
                tuple(dict.fromkeys(raters)),
                tuple(dict.fromkeys(labels)),
                prior,
                posterior,
                confusion,
                reached,
            )
    raise DataError(f"the consensus still grew after {MOST_ROUNDS:,} rounds: give more labels for each rater")
