"""The baseline that a reward model must beat: which words are preferred, by logistic regression on TF-IDF."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from evidence.human import fold_of
from truing.records import Group

STRENGTHS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""Inverse strengths of the regularisation that are tried: C of scikit-learn."""
FOLDS = 5


class Words:
    """The features of the scorer `bag_of_words`: words and pairs of words of answers, chosen less rejected.

    Fitted on the answers of `train`; a fit on some of them keeps the features, for labels play no part in them.
    """

    def __init__(self, train: Sequence[Group]) -> None:
        self._vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
        self._vectorizer.fit([answer.text for group in train for answer in group.completions])

    def differences(self, groups: Sequence[Group]) -> Any:
        """Features of the chosen answer less those of the rejected one, [comparisons, features], sparse."""
        pairs = [group.comparison() for group in groups]
        chosen, rejected = (self._vectorizer.transform([pair[side].text for pair in pairs]) for side in (0, 1))
        return (chosen - rejected).tocsr()


def fitted(features: Any, strength: float) -> LogisticRegression:
    """Without a constant, and with every other comparison turned round, so that there are two sides to tell apart."""
    sign = np.where(np.arange(features.shape[0]) % 2 == 0, 1, -1)
    model = LogisticRegression(C=strength, fit_intercept=False, solver="liblinear", max_iter=1000)
    return model.fit(features.multiply(sign[:, None]).tocsr(), sign > 0)


def best_strength(features: Any, folds: NDArray[np.intp]) -> float:
    """The strength that is right most often over all folds, each held out in turn; of equal ones the lowest."""
    right = [
        sum(
            int((fitted(features[folds != fold], strength).decision_function(features[folds == fold]) > 0).sum())
            for fold in np.unique(folds)
        )
        for strength in STRENGTHS
    ]
    return STRENGTHS[int(np.argmax(right))]


def gaps(train: Sequence[Group], held_out: Sequence[Group]) -> tuple[float, list[float]]:
    """The strength chosen within `train`, and the score of each held-out comparison: chosen less rejected, in nats."""
    words = Words(train)
    features = words.differences(train)
    folds = np.array([fold_of(group, FOLDS, "words") for group in train])
    strength = best_strength(features, folds)
    found: list[float] = fitted(features, strength).decision_function(words.differences(held_out)).tolist()
    return strength, found
