"""How far raters agree beyond chance: Cohen's, Fleiss' and Krippendorff's coefficients, each with an interval.

All are 1 - observed / expected disagreement: 1 where raters always agree, 0 where they agree as often as labels drawn
by chance would, below 0 where less often. They fall when one label is much more common than the others, though raters
agree as often as before: give the plain share of agreement beside them.

Every interval is Student's on the logarithm of observed / expected, with the variance of the infinitesimal jackknife
over items (Efron 1982), which for Cohen's kappa is that of Fleiss, Cohen and Everitt (1969). So it never exceeds 1, and
is lopsided where agreement is high. Where raters always agree there is no scatter to measure: the value is 1, and the
lower end is where it would be if as many items were disagreed on as Wilson's interval of none of n allows. Where
nothing scatters although raters disagree, as of a single item, everything is open: [-1, 1]. Items must be independent,
such as answers to different prompts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence

import numpy as np

from truing.errors import DataError
from truing.statistics.intervals import CONFIDENCE, Array, Interval, finite, numbered, same_length, student, wilson

Distance = Callable[[Sequence[Hashable], Array], Array]
"""From the labels [K] and how often each was given [K] to how far apart each two are [K, K]: 0 on the diagonal."""

Item = Sequence[Hashable | None]
"""What each rater said of one item; None where a rater did not see it."""


def cohen_kappa(first: Sequence[Hashable], second: Sequence[Hashable], *, confidence: float = CONFIDENCE) -> Interval:
    """Cohen's kappa (1960): the agreement of two raters on the same items, each with habits of their own.

    first, second: [n], the labels of each rater. What is expected by chance follows from how often *each* rater gives
    each label, so a rater who always says the same has a kappa of 0 with everyone else. Labels have no order.

    Of no item, or where both raters gave one and the same label throughout, kappa does not exist, which is an error.
    """
    same_length(first, second)
    labels = _codes([*first, *second])
    one, other = labels[: len(first)], labels[len(first) :]
    if not len(one) or labels.max() == 0:
        raise DataError(_undefined(len(one)))
    kinds = labels.max() + 1
    ours, theirs = np.bincount(one, minlength=kinds) / one.size, np.bincount(other, minlength=kinds) / other.size
    expected = 1 - float(ours @ theirs)
    apart = (one != other).astype(np.float64)
    pull = (2 * float(ours @ theirs) - ours[other] - theirs[one]) / expected
    return _beyond_chance(apart, float(apart.mean()) / expected, pull, 1 / expected, confidence)


def fleiss_kappa(items: Sequence[Item], *, confidence: float = CONFIDENCE) -> Interval:
    """Fleiss' kappa (1971): the agreement of equally many raters on each item, who need not be the same ones.

    items: [n], the labels of each, two or more; None where there is none. Labels have no order. What is expected by
    chance follows from how often each label is given by all. With unequally many labels take `krippendorff_alpha`.

    Of no item, or where all labels are alike, kappa does not exist, which is an error.
    """
    _, counts = _table(items)
    sizes = counts.sum(axis=1)
    if sizes.size and (sizes.min() != sizes.max() or sizes.min() < 2):
        raise DataError(
            f"items have from {sizes.min():.0f} to {sizes.max():.0f} labels: Fleiss' kappa needs the same number for "
            "each, two or more; krippendorff_alpha takes any"
        )
    if counts.shape[1] < 2:
        raise DataError(_undefined(len(items)))
    size = float(sizes[0])
    shares = counts.sum(axis=0) / counts.sum()
    expected = 1 - float(shares @ shares)
    apart = 1 - ((counts**2).sum(axis=1) - size) / (size * (size - 1))
    pull = -2 * (counts / size - shares) @ shares / expected
    return _beyond_chance(apart, float(apart.mean()) / expected, pull, 1 / expected, confidence)


def nominal_distance(labels: Sequence[Hashable], counts: Array) -> Array:
    """Labels without an order: two different ones are as far apart as any other two."""
    return 1 - np.eye(len(counts))


def ordinal_distance(labels: Sequence[Hashable], counts: Array) -> Array:
    """Labels that are ordered numbers: apart by how many labels were given between the two, squared.

    The labels at both ends count one half.
    """
    values = _numbers(labels)
    order = np.argsort(values)
    middle = np.empty_like(values)
    middle[order] = np.cumsum(counts[order]) - counts[order] / 2
    return np.asarray((middle[:, None] - middle) ** 2)


def interval_distance(labels: Sequence[Hashable], counts: Array) -> Array:
    """Labels that are numbers on a scale with equal steps: apart by the square of their difference."""
    values = _numbers(labels)
    return np.asarray((values[:, None] - values) ** 2)


def krippendorff_alpha(
    items: Sequence[Item], *, distance: Distance = nominal_distance, confidence: float = CONFIDENCE
) -> Interval:
    """Krippendorff's alpha (2011): the agreement of any number of raters, of whom some did not see some items.

    items: [n], what each rater said of it, None where nothing: raters are exchangeable, so their order does not matter.
    distance: `nominal_distance`, `ordinal_distance`, `interval_distance`, or any other of this form. Items with fewer
    than two labels say nothing of agreement and are left out; n counts the others. What is expected by chance is drawn
    without replacement, so with few items alpha is a little above the kappas. The interval takes distances as known.

    Where no item has two labels, or all labels are alike, alpha does not exist, which is an error.
    """
    labels, counts = _table([item for item in items if sum(label is not None for label in item) > 1])
    if len(labels) < 2:
        raise DataError(_undefined(len(counts)))
    sizes, given = counts.sum(axis=1), counts.sum(axis=0)
    far = distance(labels, given)
    total = float(given.sum())
    apart = ((counts @ far) * counts).sum(axis=1) / (sizes - 1)
    expected = float(given @ far @ given) / (total * (total - 1))
    # Logarithmic slopes by an item's weight, n times each: of its labels, and of how many there are.
    count = len(counts)
    pull = count * (
        2 * (counts @ far @ given) / float(given @ far @ given) - sizes * (2 * total - 1) / total / (total - 1)
    )
    lean = 1 - count * sizes / total
    return _beyond_chance(
        apart * count / total,
        float(apart.sum()) / total / expected,
        pull - lean,
        float(far.max()) / expected,
        confidence,
    )


def _beyond_chance(apart: Array, ratio: float, pull: Array, worst: float, confidence: float) -> Interval:
    """1 - ratio, where ratio is observed / expected disagreement.

    apart [n]: the disagreement of each item, whose mean is the observed one. pull [n]: how the logarithm of the
    expected one, less what else the ratio depends on, moves with each item. worst: the ratio if all were disagreed on.
    """
    n, value = apart.size, 1 - ratio
    if ratio <= 0:
        _, most = wilson(0.0, n, confidence)
        return Interval(1.0, max(-1.0, 1 - most * worst), 1.0, n, confidence)
    moved = apart / apart.mean() - 1 - pull
    moved -= moved.mean()
    if n == 1 or np.abs(moved).max() < 1e-12:
        return Interval(value, min(-1.0, value), 1.0, n, confidence)
    error = math.sqrt(float((moved**2).sum()) / (n * (n - 1)))
    reach = math.exp(min(50.0, student(confidence, n - 1) * error))
    return Interval(value, min(value, max(-1.0, 1 - ratio * reach)), 1 - ratio / reach, n, confidence)


def _table(items: Sequence[Item]) -> tuple[list[Hashable], Array]:
    """The labels [K] in the order in which they come, and how often each was given to each item [n, K]."""
    given = [[label for label in item if label is not None] for item in items]
    every = [label for labels in given for label in labels]
    codes = _codes(every)
    kinds = int(codes.max()) + 1 if codes.size else 0
    places = np.repeat(np.arange(len(given)), [len(labels) for labels in given])
    counts = np.bincount(places * kinds + codes, minlength=len(given) * kinds) if kinds else np.zeros(0)
    return list(dict.fromkeys(every)), counts.reshape(len(given), kinds).astype(np.float64)


def _codes(labels: Sequence[Hashable]) -> np.typing.NDArray[np.intp]:
    if any(label != label for label in labels):
        raise DataError("a label is nan: say None where a rater gave none, and leave the item out for Cohen's kappa")
    return numbered(labels)


def _numbers(labels: Sequence[Hashable]) -> Array:
    strange = [label for label in labels if not isinstance(label, int | float | np.number)]
    if strange:
        raise DataError(f"label {strange[0]!r} is no number: labels with an order are given as numbers, such as 1 to 5")
    return finite([float(label) for label in labels if isinstance(label, int | float | np.number)])


def _undefined(n: int) -> str:
    if n == 0:
        return "there is no item with two labels: agreement needs items that two raters have labelled"
    return f"all labels of {n} items are alike: what raters would agree on by chance is then everything"
