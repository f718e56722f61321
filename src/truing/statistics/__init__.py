"""How sure one may be: estimates with intervals, tests, agreement of raters, and strengths of models. No torch.

    rates          shares, win rates, lengths held equal, a judge's two orders
    means          means, differences, ratios; a bootstrap for any other statistic
    chances        tests against a coin, of two accuracies, of many at once
    sizes          how many comparisons it takes, and what a result allows one to say
    raters         agreement beyond chance                consensus    the truth behind raters who disagree
    ratings        strengths from comparisons of two      ranks        whether two scores give one order
    calibration    whether probabilities are right    suites        one model beside its base, in many respects

All are pure functions; `docs/statistics.md` says which answers what. An interval is a closed form, the same on every
machine, unless a function takes a `seed`. Several answers to one prompt are not independent: where a function takes
`prompts`, one key per value, each prompt counts once, by the mean of its values. With `weights`, one per value, that
mean is weighted, and a prompt counts by their sum. A result is never a silent NaN: where there is none, the docstring
names the value or the error.
"""

from truing.statistics.calibration import (
    Reliability,
    calibration_error,
    calibration_error_by_chance,
    equal_mass,
    reliability_curve,
)
from truing.statistics.chances import McNemar, holm, mcnemar, sign_test, t_test
from truing.statistics.consensus import Consensus, dawid_skene
from truing.statistics.intervals import CONFIDENCE, Interval
from truing.statistics.means import mean, mean_of, paired_bootstrap, paired_difference, ratio_of_means
from truing.statistics.ranks import kendall, spearman
from truing.statistics.raters import (
    cohen_kappa,
    fleiss_kappa,
    interval_distance,
    krippendorff_alpha,
    nominal_distance,
    ordinal_distance,
)
from truing.statistics.rates import (
    SwapConsistency,
    WinTieLoss,
    bounded_mean,
    exact_proportion,
    length_controlled_win_rate,
    proportion,
    share_difference,
    swap_consistency,
    win_rate,
    win_tie_loss,
)
from truing.statistics.ratings import Ratings, bradley_terry, elo
from truing.statistics.sizes import (
    NEAR,
    comparisons_needed,
    more_needed,
    paired_prompts_needed,
    reading,
    reading_of_difference,
    too_few,
    unpaired_prompts_needed,
)

__all__ = [
    "CONFIDENCE",
    "NEAR",
    "Consensus",
    "Interval",
    "McNemar",
    "Ratings",
    "Reliability",
    "SwapConsistency",
    "WinTieLoss",
    "bounded_mean",
    "bradley_terry",
    "calibration_error",
    "calibration_error_by_chance",
    "cohen_kappa",
    "comparisons_needed",
    "dawid_skene",
    "elo",
    "equal_mass",
    "exact_proportion",
    "fleiss_kappa",
    "holm",
    "interval_distance",
    "kendall",
    "krippendorff_alpha",
    "length_controlled_win_rate",
    "mcnemar",
    "mean",
    "mean_of",
    "more_needed",
    "nominal_distance",
    "ordinal_distance",
    "paired_bootstrap",
    "paired_difference",
    "paired_prompts_needed",
    "proportion",
    "ratio_of_means",
    "reading",
    "reading_of_difference",
    "reliability_curve",
    "share_difference",
    "sign_test",
    "spearman",
    "swap_consistency",
    "t_test",
    "too_few",
    "unpaired_prompts_needed",
    "win_rate",
    "win_tie_loss",
]
