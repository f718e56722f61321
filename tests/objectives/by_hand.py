"""Every objective once more in plain Python, one row at a time, from its paper's equation: no tensors, only loops."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple


class Said(NamedTuple):
    """One answer: what the models say of its tokens, and what is said of it."""

    ours: Sequence[float]
    theirs: Sequence[float]
    divergence: Sequence[float] = ()
    concentration: Sequence[float] = ()
    reward: float = 0.0
    known: float = 0.0
    up: bool = True

    @property
    def sum(self) -> float:
        return math.fsum(self.ours)

    @property
    def mean(self) -> float:
        return math.fsum(self.ours) / len(self.ours)

    @property
    def ratio(self) -> float:
        """D: log policy/reference of the whole answer."""
        return math.fsum(self.ours) - math.fsum(self.theirs)

    @property
    def kl(self) -> float:
        return math.fsum(self.divergence)


def sig(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def lsig(x: float) -> float:
    return -math.log1p(math.exp(-x))


def gap(c: Said, r: Said) -> float:
    """h."""
    return c.ratio - r.ratio


def mean_gap(c: Said, r: Said) -> float:
    """h', each log-ratio divided by its answer's length."""
    return c.ratio / len(c.ours) - r.ratio / len(r.ours)


def smoothed(margin: float, share: float) -> float:
    return -(1 - share) * lsig(margin) - share * lsig(-margin)


def log_odds(answer: Said) -> float:
    p = math.exp(answer.mean)
    return math.log(p / (1 - p))


def kl_of_coins(p: float, q: float) -> float:
    return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))


def slope_of_f(u: float, divergence: str | float) -> float:
    """f'(u) up to a constant, of the f-divergences of arXiv:2309.16240."""
    if divergence == "reverse_kl":
        return math.log(u)
    if divergence == "forward_kl":
        return -1 / u
    if divergence == "js":
        return math.log(2 * u / (1 + u))
    return u ** (divergence - 1) / (divergence - 1)


def headed(c: Said, r: Said, tail: float) -> float:
    """h with the tokens beyond the shorter answer's length weighted."""
    shared = min(len(c.ours), len(r.ours))

    def ratio(answer: Said) -> float:
        terms = [a - b for a, b in zip(answer.ours, answer.theirs, strict=True)]
        return sum(term * (1.0 if place < shared else tail) for place, term in enumerate(terms))

    return ratio(c) - ratio(r)


def weight_of(c: Said, r: Said) -> float:
    """WPO's weight of a pair."""
    product = 1.0
    for answer in (c, r):
        terms = [a - b for a, b in zip(answer.ours, answer.concentration, strict=True)]
        product *= math.exp(sum(terms) / len(terms))
    return min(1.0, product)


def mixed(rho: float, tau: float) -> float:
    m = sig(rho / tau)
    return (1 - m) * -lsig(rho) + m * math.exp(-rho)


PAIRWISE: dict[str, Callable[[Said, Said, Any], float]] = {
    "dpo": lambda c, r, s: smoothed(s.beta * gap(c, r), s.label_smoothing),
    "soft_dpo": lambda c, r, s: smoothed(s.beta * gap(c, r), r.reward / (c.reward + r.reward)),
    "robust_dpo": lambda c, r, s: (
        (-(1 - s.label_smoothing) * lsig(s.beta * gap(c, r)) + s.label_smoothing * lsig(-s.beta * gap(c, r)))
        / (1 - 2 * s.label_smoothing)
    ),
    "ipo": lambda c, r, s: (mean_gap(c, r) - 1 / (2 * s.tau)) ** 2,
    "ipo_sum": lambda c, r, s: (gap(c, r) - 1 / (2 * s.tau)) ** 2,
    "hinge": lambda c, r, s: max(0.0, 1 - s.beta * gap(c, r)),
    "rso": lambda c, r, s: max(0.0, 1 - s.gamma * gap(c, r)),
    "slic": lambda c, r, s: max(0.0, s.delta - c.sum + r.sum) - s.weight * c.sum,
    "simpo": lambda c, r, s: smoothed(s.beta * c.mean - s.beta * r.mean - s.gamma, s.label_smoothing),
    "alphapo": lambda c, r, s: (
        -lsig(
            s.beta / s.alpha * (1 - math.exp(c.mean) ** -s.alpha)
            - s.beta / s.alpha * (1 - math.exp(r.mean) ** -s.alpha)
            - s.gamma
        )
    ),
    "cpo": lambda c, r, s: smoothed(s.beta * (c.sum - r.sum), s.label_smoothing) - s.nll_weight * c.mean,
    "orpo": lambda c, r, s: -c.mean - s.weight * lsig(log_odds(c) - log_odds(r)),
    "dpop": lambda c, r, s: -lsig(s.beta * (gap(c, r) - s.penalty * max(0.0, -c.ratio))),
    "r_dpo": lambda c, r, s: -lsig(s.beta * gap(c, r) + s.length_weight * (len(c.ours) - len(r.ours))),
    "ld_dpo": lambda c, r, s: -lsig(s.beta * headed(c, r, s.tail_weight)),
    "ln_dpo": lambda c, r, s: -lsig(s.beta * mean_gap(c, r)),
    "odpo": lambda c, r, s: -lsig(s.beta * gap(c, r) - s.alpha * math.log(s.strength)),
    "f_dpo": lambda c, r, s: (
        -lsig(s.beta * (slope_of_f(math.exp(c.ratio), s.divergence) - slope_of_f(math.exp(r.ratio), s.divergence)))
    ),
    "exo": lambda c, r, s: kl_of_coins(sig(s.beta * gap(c, r)), 1 - s.label_smoothing),
    "nca": lambda c, r, s: -lsig(s.beta * c.ratio) - lsig(-s.beta * c.ratio) / 2 - lsig(-s.beta * r.ratio) / 2,
    "bco_pair": lambda c, r, s: -lsig(s.beta * c.ratio) - lsig(-s.beta * r.ratio),
    "sppo_hard": lambda c, r, s: (c.ratio - s.eta * (1 - 0.5)) ** 2 + (r.ratio - s.eta * (0 - 0.5)) ** 2,
    "sppo": lambda c, r, s: (c.ratio - s.eta * (c.reward - 0.5)) ** 2 + (r.ratio - s.eta * (r.reward - 0.5)) ** 2,
    "apo_zero": lambda c, r, s: 1 - sig(s.beta * c.ratio) + sig(s.beta * r.ratio),
    "apo_down": lambda c, r, s: sig(s.beta * c.ratio) + 1 - sig(s.beta * gap(c, r)),
    "discopop": lambda c, r, s: mixed(s.beta * gap(c, r), s.tau),
    "wpo": lambda c, r, s: -weight_of(c, r) * lsig(s.beta * gap(c, r)),
    "cal_dpo": lambda c, r, s: (
        -lsig(gap(c, r)) + s.weight * ((c.ratio - 1 / (2 * s.beta)) ** 2 + (r.ratio + 1 / (2 * s.beta)) ** 2)
    ),
    "tdpo1": lambda c, r, s: -lsig(s.beta * (gap(c, r) - (r.kl - c.kl))),
    "tdpo2": lambda c, r, s: -lsig(s.beta * (gap(c, r) - s.alpha * (r.kl - c.kl))),
    "spin": lambda c, r, s: -lsig(s.beta * gap(c, r)),
    "xpo": lambda c, r, s: -lsig(s.beta * gap(c, r)) + s.alpha * (c.known * c.sum + r.known * r.sum),
    "unlikelihood": lambda c, r, s: -c.sum + s.alpha * r.sum,
    "rpo": lambda c, r, s: -lsig(s.beta * gap(c, r)) - s.nll_weight * c.mean,
    "mpo": lambda c, r, s: (
        -s.preference_weight * lsig(s.beta * gap(c, r))
        - s.quality_weight * (lsig(s.beta * c.ratio) + lsig(-s.beta * r.ratio))
        - s.nll_weight * c.mean
    ),
}

POINTWISE: dict[str, Callable[[Said, Any], float]] = {
    "kto": lambda a, s: (
        s.desirable_weight * (1 - sig(s.beta * (a.ratio - s.kl)))
        if a.up
        else s.undesirable_weight * (1 - sig(s.beta * (s.kl - a.ratio)))
    ),
    "apo_zero_unpaired": lambda a, s: 1 - sig(s.beta * a.ratio) if a.up else sig(s.beta * a.ratio),
    "token_unlikelihood": lambda a, s: (
        -a.mean if a.up else -s.alpha * sum(math.log(1 - math.exp(x)) for x in a.ours) / len(a.ours)
    ),
    "weighted_nll": lambda a, s: -a.reward * a.mean,
    "reward_weighted": lambda a, s: -min(s.max_weight, math.exp(a.reward / s.beta)) * a.mean,
}


def plackett_luce(row: Sequence[Said], s: Any) -> float:
    """Of tied answers none competes with the other."""
    total = 0.0
    for first in row:
        below = [math.exp(s.beta * other.ratio) for other in row if other.reward < first.reward]
        mine = math.exp(s.beta * first.ratio)
        total -= math.log(mine / (mine + sum(below)))
    return total


def lipo(row: Sequence[Said], s: Any) -> float:
    score = [s.beta * a.ratio for a in row]
    low, high = min(a.reward for a in row), max(a.reward for a in row)
    gain = [2 ** ((a.reward - low) / (high - low)) - 1 for a in row]
    place = [1 + sum(other > mine for other in score) for mine in score]
    total = 0.0
    for i in range(len(row)):
        for j in range(len(row)):
            if row[i].reward > row[j].reward:
                discount = abs(1 / math.log(1 + place[i]) - 1 / math.log(1 + place[j]))
                total += abs(gain[i] - gain[j]) * discount * math.log(1 + math.exp(-(score[i] - score[j])))
    return total


def info_nca(row: Sequence[Said], s: Any) -> float:
    wanted = [math.exp(a.reward / s.alpha) for a in row]
    given = [math.exp(s.beta * a.ratio) for a in row]
    return -sum(w / sum(wanted) * math.log(g / sum(given)) for w, g in zip(wanted, given, strict=True))


def rrhf(row: Sequence[Said], s: Any) -> float:
    p = [a.sum / len(a.ours) ** s.length_exponent for a in row]
    total = -s.nll_weight * row[0].sum
    for i in range(len(row)):
        for j in range(len(row)):
            if row[i].reward < row[j].reward:
                total += max(0.0, p[i] - p[j])
    return total


def pro(row: Sequence[Said], s: Any) -> float:
    total, n = 0.0, len(row)
    for k in range(n - 1):
        heat = {i: row[k].reward - row[i].reward for i in range(k + 1, n)}
        heat[k] = max(heat.values())
        among = sum(math.exp(row[i].mean * heat[i]) for i in range(k, n))
        total -= math.log(math.exp(row[k].mean * heat[k]) / among)
    return total - s.nll_weight * (n - 1) ** 2 * row[0].sum


def tpo(row: Sequence[Said], s: Any) -> float:
    return -lsig(s.beta * (row[1].sum - row[-1].sum)) - s.nll_weight * row[0].mean


LISTWISE: dict[str, Callable[[Sequence[Said], Any], float]] = {
    "plackett_luce": plackett_luce,
    "lipo": lipo,
    "info_nca": info_nca,
    "rrhf": rrhf,
    "pro": pro,
    "tpo": tpo,
}

LIKELIHOOD: dict[str, Callable[[float], float]] = {
    "nll": lambda x: -x,
    "dft": lambda x: -math.exp(x) * x,
    "csft": lambda x: -x,
    "chain_of_hindsight": lambda x: -x,
}


def aot(rows: Sequence[tuple[Said, Said]], s: Any) -> list[float]:
    """One loss per rank, from the lowest."""
    ours = sorted(c.sum - r.sum for c, r in rows)
    theirs = sorted(math.fsum(c.theirs) - math.fsum(r.theirs) for c, r in rows)
    return [smoothed(s.beta * (a - b), s.label_smoothing) for a, b in zip(ours, theirs, strict=True)]


def aot_unpaired(rows: Sequence[tuple[Said, Said]], s: Any) -> list[float]:
    chosen, rejected = sorted(c.ratio for c, _ in rows), sorted(r.ratio for _, r in rows)
    return [smoothed(s.beta * (a - b), s.label_smoothing) for a, b in zip(chosen, rejected, strict=True)]


def bco(answers: Sequence[Said], s: Any, shift: float | None) -> tuple[list[float], float]:
    reward = [s.beta * a.ratio for a in answers]
    up = [x for x, a in zip(reward, answers, strict=True) if a.up] or reward
    down = [x for x, a in zip(reward, answers, strict=True) if not a.up] or reward
    now = (sum(up) / len(up) + sum(down) / len(down)) / 2
    shift = now if shift is None else s.decay * shift + (1 - s.decay) * now
    losses = [-lsig(x - shift) if a.up else -lsig(shift - x) for x, a in zip(reward, answers, strict=True)]
    return losses, shift


def beta_dpo(
    rows: Sequence[tuple[Said, Said]], uniform: Sequence[float], s: Any, memory: tuple[float, float]
) -> tuple[list[float], tuple[float, float]]:
    """The largest of log weight + Gumbel noise are drawn; the loss of the drawn is scaled so that their mean counts."""
    middle, spread = memory
    h = [gap(c, r) for c, r in rows]
    weight = [math.exp(-(((x - middle) / spread) ** 2) / 2) for x in h]
    key = [math.log(w) - math.log(-math.log(u)) for w, u in zip(weight, uniform, strict=True)]
    count = max(1, round(s.keep * len(h)))
    drawn = sorted(range(len(h)), key=lambda place: -key[place])[:count]
    now = max(1e-3, s.beta * (1 + s.alpha * (sum(h[place] for place in drawn) / count - middle)))
    losses = [-lsig(now * x) * len(h) / count if place in drawn else 0.0 for place, x in enumerate(h)]
    mean = sum(h) / len(h)
    deviation = math.sqrt(sum((x - mean) ** 2 for x in h) / len(h))
    return losses, (s.decay * middle + (1 - s.decay) * mean, s.decay * spread + (1 - s.decay) * deviation)


BATCHWISE: dict[str, Callable[..., Any]] = {"aot": aot, "aot_unpaired": aot_unpaired, "bco": bco, "beta_dpo": beta_dpo}

EVERY = {**PAIRWISE, **POINTWISE, **LISTWISE, **LIKELIHOOD, **BATCHWISE}
