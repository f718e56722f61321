"""What the page calls each metric, and what a healthy curve of it looks like."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Metric:
    """Heading and hint of a curve. `rule` is a value worth comparing with; an exact curve needs no average."""

    heading: str
    hint: str
    rule: float | None = None
    shown: Literal["values", "both"] = "both"


LOSS = Metric("Loss", "Falls, then flattens. Close to nothing, it has learned the data by heart.")
LOGISTIC_LOSS = Metric(
    "Loss",
    "Starts at ln 2 = 0.693 (dashed), falls, then flattens. Close to nothing, it has learned by heart.",
    math.log(2),
)
ONLINE_LOSS = Metric(
    "Loss", "Says little: advantages are about 0 on average, whatever is learnt. Look at the reward instead."
)
OF_ALGORITHM = {"online_dpo": LOGISTIC_LOSS, "xpo": LOGISTIC_LOSS, "best_of_n": LOSS}
"""The loss of an online algorithm that has no advantages."""
STEPS_RIGHT = Metric(
    "Steps judged right",
    "Steps of which the model says what people said. Compare it with the share of right steps, which a model would "
    "reach that calls every step right.",
)
METRICS = {
    "loss": LOSS,
    "reward/margin": Metric(
        "Reward margin",
        "Rises slowly, a policy's with a reference from 0. Rising while held-out accuracy stands is over-fitting.",
        0.0,
    ),
    "reward/accuracy": Metric(
        "Reward accuracy",
        "Comparisons of the step ranked right; half (dashed) is a coin. All right, early on, is too easy.",
        0.5,
    ),
    "reward/chosen": Metric(
        "Reward of the chosen", "May fall a little. A steep fall takes good answers down too.", 0.0
    ),
    "reward/rejected": Metric("Reward of the rejected", "Falls, faster than that of the chosen.", 0.0),
    "logprob/chosen": Metric(
        "Log-probability of the chosen",
        "In nats an answer. Sinking with the rejected ones is common; sinking as fast is not.",
    ),
    "logprob/rejected": Metric("Log-probability of the rejected", "In nats an answer. It sinks as training goes on."),
    "logprob/answer": Metric("Log-probability of the answers", "In nats an answer. Thumbs up hold, thumbs down sink."),
    "logprob/best": Metric("Log-probability of the best answer", "In nats an answer. It holds or rises."),
    "logprob/token": Metric(
        "Log-probability of a token", "In nats. It rises; above -0.1 the answers are known by heart."
    ),
    "pretrain/nll": Metric(
        "Negative log-likelihood of the rows mixed in", "In nats a token. It holds, or falls slowly."
    ),
    "nll/chosen": Metric("Negative log-likelihood of the chosen", "In nats a token. It holds or falls."),
    "reward/signed": Metric(
        "Reward, turned for thumbs down", "Rises, with a reference from 0: thumbs up gain, down lose.", 0.0
    ),
    "score/chosen": Metric("Score of the chosen", "Rises above that of the rejected; only the difference has meaning."),
    "score/rejected": Metric("Score of the rejected", "Falls below that of the chosen."),
    "score/answer": Metric("Score of the answers", "What the reward model says; it nears the ratings of the data."),
    "score/spread": Metric("Best less worst", "Rises from about 0.", 0.0),
    "step/right": Metric("Right steps", "The data's own share of them; training does not change it."),
    "step/score": Metric("Score of the steps", "Its mean nears the log odds of a right step."),
    "regulariser": Metric("Regulariser", "What the head that writes has to pay; it falls slowly beside the loss."),
    "correlation/quality": Metric("Correlation of score and length", "Of the head that is kept. Stays near 0.", 0.0),
    "correlation/length": Metric("Correlation of the second head", "With length. Rises towards 1.", 0.0),
    "head/cosine": Metric("Cosine of the two heads' weights", "Stays near 0: they read different things.", 0.0),
    "contrast": Metric("Contrastive term", "Falls at first, then flattens above 0: some answers are alike."),
    "meta/difference": Metric(
        "Difference between unlabelled answers", "What MetaRM raises. From a half of (K - 1) / K at first up to that."
    ),
    "reward/score": Metric("Score of the answers", "The data's own; training does not change it."),
    "kl": Metric(
        "KL from the reference", "In nats an answer, on answers to other prompts. A few nats; tens are another model."
    ),
    "ratio": Metric(
        "Policy now / policy that wrote",
        "1 at the first update of a rollout; its mean stays within some hundredths of 1.",
        1.0,
    ),
    "ratio/clipped": Metric("Tokens out of bounds", "0 at the first update; then below a fifth.", 0.0),
    "kl/behaviour": Metric(
        "KL from the policy that wrote",
        "In nats a token. Hundredths at most; more asks for fewer updates or smaller steps.",
        0.0,
    ),
    "kl/reference": Metric(
        "KL from the reference, a token", "In nats, by the algorithm's estimator. Rises slowly from 0.", 0.0
    ),
    "entropy/update": Metric("Entropy while it learns", "In nats a token, of the policy as it is updated."),
    "value": Metric("Value of the critic", "Follows the mean reward still to come."),
    "value/error": Metric("Squared error of the critic", "Falls below the variance of the returns."),
    "value/clipped": Metric("Values out of range", "Below a fifth; more asks for a wider `value_range`.", 0.0),
    "length/start": Metric("Length, of that of the first rollout", "Within a factor of two of 1.", 1.0),
    "perplexity/start": Metric("Perplexity, of that of the first rollout", "Within a factor of three of 1.", 1.0),
    "weight": Metric("Weight of the rows", "Spread below its limit. All near 0, the rows teach nothing."),
    "shift": Metric("Shift of the reward", "The moving mean of the reward; it follows it slowly."),
    "beta": Metric("Beta of the step", "Within a factor of two of its setting."),
    "kept": Metric("Pairs that counted", "Its mean is the setting `keep`."),
    "gradient_norm": Metric(
        "Gradient norm", "Stays within a factor of a few. Growing spikes ask for a lower learning rate."
    ),
    "learning_rate": Metric(
        "Learning rate", "As the recipe set it: up during the warm-up, then by the schedule.", shown="values"
    ),
    "tokens_per_second": Metric("Tokens per second", "Level. A slow decline means that memory is short."),
}

ROLLOUT = {
    "reward": Metric("Reward", "Mean score of the answers. Rises; fast and without end, look at what it rewards."),
    "reward/deviation": Metric("Deviation of the reward", "Above 0: of answers that are all alike nothing is learnt."),
    "win_rate": Metric(
        "Chance to be preferred to the rival",
        "About one half (dashed) while the two are near; above it, the policy leads.",
        0.5,
    ),
    "reward/disagreement": Metric(
        "Disagreement of the scorers",
        "Share of the variance of their scores that is theirs and not the answers'. Rising, they are led astray.",
    ),
    "kl": Metric("KL from the reference", "In nats an answer. Rises slowly from 0; tens are another model.", 0.0),
    "kl/price": Metric("Price of KL", "In units of the reward. Settles once the KL is near its target."),
    "entropy": Metric("Entropy", "In nats a token. Falls slowly; near 0 the policy writes one answer only."),
    "perplexity": Metric(
        "Perplexity under the reference", "Of a token of the answers. Level; rising without end, the scorer is gamed."
    ),
    "length": Metric("Length", "In tokens an answer. Steadily up may be the reward's love of length."),
    "finished": Metric("Answers that come to their end", "As a share. Falling, the policy forgets how to stop."),
    "accepted": Metric("Prompts learnt from", "As a share; the answers to the others all did alike."),
    "explained_variance": Metric(
        "Explained variance", "Of the returns by the critic. Rises towards 1; below 0 a constant would do better.", 0.0
    ),
    "critic_error": Metric(
        "Squared error of the critic on a new rollout", "Before it learns from it. Falls, then flattens."
    ),
    "generator_gap": Metric(
        "Generator gap", "Mean difference of log-probabilities in nats a token: 0 in fp32, hundredths in bf16.", 0.0
    ),
}
"""What rollouts of online learning tell, in the order in which one looks at it."""


def metric(name: str, settings: Mapping[str, Any]) -> Metric:
    """The metric of this name; the settings of its stage say which objective the loss is of."""
    objective = settings.get("objective")
    if name == "loss" and isinstance(objective, Mapping) and objective.get("name") == "dpo":
        return LOGISTIC_LOSS
    if name == "reward/accuracy" and isinstance(objective, Mapping) and objective.get("name") == "process":
        return STEPS_RIGHT
    algorithm = settings.get("algorithm")
    if name == "loss" and isinstance(algorithm, Mapping):
        return OF_ALGORITHM.get(str(algorithm.get("name")), ONLINE_LOSS)
    if name in ROLLOUT and (name not in METRICS or "algorithm" in settings):
        return ROLLOUT[name]
    return METRICS.get(name, Metric(name, ""))


def in_order(names: Iterable[str]) -> list[str]:
    """The metrics as a reader looks for them: the known ones first, the others by name."""
    known = list(METRICS)
    return sorted(names, key=lambda name: (known.index(name) if name in known else len(known), name))
