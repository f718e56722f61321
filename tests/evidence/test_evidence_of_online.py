"""What is measured of learning online: rows, noise, stability, frontiers by hand, and the page, on tiny models."""

from __future__ import annotations

import gzip
import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_model

from evidence import ablation, arithmetic, frontier, online_page, reviews, tradeoff
from evidence.ablation import ALL, ALONE, BESIDE, MIXTURE, PLAIN, Arm
from evidence.found import Found
from evidence.noise import heavy
from evidence.online import PARTS
from evidence.reviews import Trial
from evidence.tradeoff import Place, Point
from truing.errors import ConfigError
from truing.records import Completion, Group, assistant, text
from truing.scoring.scorers import make

SMALL = reviews.Size(
    vocabulary=280, width=16, layers=1, epochs=1, openings=8, held_out=3, pool=2, seeds=1, rollouts=2, rough=4,
    betas=(0.1,), alphas=(0.1,), passes=(1,), prices=(0.3,), rates=(1e-3, 1e-2), real=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file laid out as the real one is: what praises says good."""
    folder = tmp_path_factory.mktemp("reviews")
    (folder / "uci_sentiment").mkdir()
    with gzip.open(folder / "uci_sentiment" / "sentences.jsonl.gz", "wt", encoding="utf-8") as out:
        for number in range(60):
            kind = number % 2
            said = f"Thing {number // 2}  of {'all' if kind else 'these'} was really {'good' if kind else 'bad'} for me"
            out.write(json.dumps({"source": "a", "text": said, "label": kind}) + "\n")
        out.write(json.dumps({"source": "a", "text": "Too short.", "label": 0}) + "\n")
    return folder


def scored(*scores: float) -> Group:
    answers = (Completion((assistant(f"answer {n}"),), score=score) for n, score in enumerate(scores))
    return Group((text("so"),), tuple(answers))


def test_reviews_are_cut_and_an_opening_is_on_one_side_alone(data: Path) -> None:
    known = reviews.reviews(data)
    assert len(known) == 60
    for one in known:
        assert (one.opening + one.rest).startswith("thing ")
        assert (one.opening + one.rest).endswith("for me")
        assert 2 <= len(one.opening.split()) <= 4
        assert one.kind == ("good" in one.rest)
    seen, unseen = ({row.prompt[0].content for row in reviews.openings(known, held_out=side)} for side in (False, True))
    assert seen
    assert unseen
    assert not seen & unseen


def test_noise_is_students_t_with_two_degrees_of_freedom_and_the_same_for_the_same_answer() -> None:
    drawn = [heavy([{"content": "so"}], str(n)) for n in range(4000)]
    assert np.mean(np.abs(drawn) > 4.303) == pytest.approx(0.05, abs=0.012)  # the quantile of every table of t
    assert np.mean(np.abs(drawn) > 1.886) == pytest.approx(0.20, abs=0.02)
    assert np.median(drawn) == pytest.approx(0.0, abs=0.06)
    assert heavy([{"content": "so"}], "7") == drawn[7] != heavy([{"content": "no"}], "7")


def test_problems_have_their_results_and_the_scorer_knows_them() -> None:
    rows = arithmetic.problems(200)
    assert len({row.prompt[0].content for row in rows}) == 200
    says = make({"name": "maths"})
    for row in rows:
        words = row.prompt[0].content.removeprefix("What is ").split("?")[0]
        result = str(eval(words))
        assert row.extra["answer"] == result
        said = [Completion((assistant(f"It is {one}."),)) for one in (result, f"{result}1")]
        ((right, wrong),) = says([Group(row.prompt, tuple(said), extra=row.extra)])
        assert (right.value, wrong.value) == (1.0, 0.0)


def test_the_better_answer_of_every_comparison_is_a_demonstration() -> None:
    said = [row.completions[0].text for row in frontier.better_answers([scored(3.0, 1.0, 2.0, 2.0)])]
    assert sorted(said) == ["answer 0"] * 3 + ["answer 2", "answer 3"]


def test_every_arm_takes_out_its_own_measure_and_plain_takes_out_all(data: Path, tmp_path: Path) -> None:
    trial = Trial(data, tmp_path, Found(tmp_path / "a.json"), SMALL)
    for name in ("reference", "reward", "truth", "openings", "demonstrations"):
        trial.__dict__[name] = {"file": "thumbs"} if name == "truth" else name  # nothing is trained here
    trial.__dict__["reward_run"] = None

    def given(arm: Arm) -> dict[str, Any]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Trial, "reward", "reward")
            return ablation.settings_of(trial, arm, 1e-3)

    whole, none = given(ALL), given(PLAIN)
    for arm in ALONE:
        own = given(arm)
        assert own != whole, arm.name
        own_answers, answers = (one["online.prompts"] * one["online.rollouts"] for one in (own, whole))
        assert own_answers == answers, arm.name
        changed = {
            key for key in own["online.algorithm"] if own["online.algorithm"][key] != whole["online.algorithm"][key]
        }
        assert all(none["online.algorithm"][key] == own["online.algorithm"][key] for key in changed), arm.name
    for arm in BESIDE:
        assert "online.pretrain" not in given(arm), arm.name
        assert given(arm) != given(MIXTURE), arm.name
    for key in ("online.reward", "online.pretrain", "online.ema_decay"):
        assert key in whole
        assert key not in none
    assert set(none["online.algorithm"]) <= set(whole["online.algorithm"])
    assert len({arm.name for arm in ALONE}) == len(ALONE) == 15


def course(**late: float) -> list[dict[str, float]]:
    """Eight rollouts, the last two of which are as told."""
    well = {"kl": 1.0, "entropy": 2.0, "ratio/clipped": 0.1, "kl/behaviour": 0.01}
    return [well] * 6 + [well | {name.replace("_", "/"): value for name, value in late.items()}] * 2


def test_what_is_stable_is_what_was_said_before() -> None:
    assert ablation.faults({"reward": 1.0, "course": course()}, 0.5) == []
    assert ablation.faults({"reward": 0.4, "course": course()}, 0.5) == ["reward"]
    assert ablation.faults({"reward": 1.0, "course": course(kl=21.0)}, 0.5) == ["kl"]
    assert ablation.faults({"reward": 1.0, "course": course(entropy=0.05)}, 0.5) == ["entropy"]
    assert ablation.faults({"reward": 1.0, "course": course(ratio_clipped=0.3, kl_behaviour=0.2)}, 0.5) == [
        "ratio/clipped", "kl/behaviour",
    ]  # fmt: skip
    assert ablation.faults({"reward": 1.0, "course": course(kl=math.inf)}, 0.5) == ["kl"]
    assert ablation.faults({"broke": "nan", "course": []}, 0.5) == ["broke off"]
    early = [{"kl": 50.0}] * 6 + [{"kl": 1.0}] * 2
    assert ablation.faults({"reward": 1.0, "course": early}, 0.5) == []


def pieces_of_ablation(plain_breaks_at: float, alone: dict[str, tuple[float, float]]) -> dict[str, Any]:
    """Three seeds at two rates; of arms the reward and the KL."""
    found: dict[str, Any] = {"size": json.loads(json.dumps(asdict(SMALL))), "ablation/reference": {"reward": 0.0}}
    for rate in (1e-3, 1e-2):
        for seed in range(3):
            broken = rate >= plain_breaks_at
            found[f"ablation/{rate:g}/{ALL.name}/{seed}"] = {"reward": 2.0 + seed / 10, "kl": 1, "course": course()}
            run = {"reward": 1.0, "kl": 1, "course": course(kl=50.0 if broken else 1.0)}
            found[f"ablation/{rate:g}/{PLAIN.name}/{seed}"] = run
    for name, (reward, kl) in alone.items():
        for seed in range(3):
            rate = min(max(plain_breaks_at, 1e-3), 1e-2)
            run = {"reward": reward + seed / 10, "kl": 1, "course": course(kl=kl)}
            found[f"ablation/{rate:g}/{name}/{seed}"] = run
    return found


def test_the_rate_is_the_lowest_at_which_plain_breaks(tmp_path: Path) -> None:
    for breaks_at, expected in ((1e-3, 1e-3), (1e-2, 1e-2), (1.0, 1e-2)):
        found = Found(tmp_path / "a.json")
        found.pieces = pieces_of_ablation(breaks_at, {})
        assert ablation.breaking_rate(found) == expected


def test_the_page_of_the_ablation_says_which_way_it_falls(tmp_path: Path) -> None:
    def told(breaks_at: float, alone: dict[str, tuple[float, float]]) -> str:
        found = Found(tmp_path / online_page.KEPT)
        found.pieces = pieces_of_ablation(breaks_at, alone)
        found.save()
        online_page.write(tmp_path)
        return (tmp_path / "online.md").read_text()

    page = told(1e-2, {"critic warm-up": (1.0, 30.0), "small buffer": (2.5, 1.0), "value clipping": (2.0, 1.0)})
    assert "At 0.01 PPO with all measures is stable in 3 of 3 trainings, and without any in 0 of 3 (" in page
    assert "p = 0.1)" in page  # 1 in 20 ways to have all three on one side, and as many on the other
    assert "is likely, and not certain. Without any the true reward of the end is less (-1.10" in page
    assert "Fewer trainings are stable without critic warm-up." in page
    assert "The reward is clearly lower without critic warm-up." in page
    assert "It is clearly higher without small buffer." in page
    assert "| value clipping | 3 of 3 | 2.10 [1.85, 2.35] | 1.00 [1.00, 1.00] |  | +0.00 [+0.00, +0.00] |" in page
    assert "| 0.01 | plain | 0 of 3 | 1.00 [1.00, 1.00] | 50.00 [50.00, 50.00] | kl |" in page
    whole = told(1.0, {})
    assert "did not break here, at no rate that was tried" in whole
    for picture in ("ablation", "course"):
        assert (tmp_path / f"online-{picture}.svg").stat().st_size > 1000


def test_a_frontier_is_the_best_line_between_points() -> None:
    points = [Place(4.0, 2.0), Place(2.0, 0.5), Place(8.0, 1.0)]
    assert tradeoff.at(points, 0.0, 4.0) == 2.0
    assert tradeoff.at(points, 0.0, 2.0) == 1.0  # half of the way to the point at 4, which is above the one at 2
    assert tradeoff.at(points, 0.0, 6.0) == 1.5
    assert tradeoff.at(points, 0.0, 0.0) == 0.0
    assert math.isnan(tradeoff.at(points, 0.0, 9.0))


def test_a_bootstrap_over_openings_is_as_wide_as_their_mean_scatters() -> None:
    rewards = np.random.default_rng(1).normal(size=(1, 400))
    some = {"best of n": [Point("1", rewards, np.zeros((1, 400)))]}
    ((_, found),) = tradeoff.spread(some, tradeoff.drawn(some))["best of n"]
    half = 1.96 * rewards.std() / 20
    assert found.value == pytest.approx(rewards.mean())
    assert (found.high - found.value, found.value - found.low) == (pytest.approx(half, rel=0.15),) * 2


def pieces_of_frontier(reward_of_dpo: float) -> dict[str, Any]:
    """Eight openings; DPO at a KL of 2, the others with a reward of 1 there."""
    wave = [(-1) ** n / 20 for n in range(8)]

    def run(reward: float, kl: float) -> dict[str, Any]:
        return {"reward": [reward + one for one in wave], "kl": [kl] * 8, "length": 5, "finished": 1}

    found: dict[str, Any] = {"size": json.loads(json.dumps(asdict(SMALL)))}
    found["frontier/reference"] = {
        "reviews": 60, "openings": 8, "comparisons": 40, "accuracy": {"value": 0.8, "low": 0.7, "high": 0.9, "n": 9},
    }  # fmt: skip
    found["frontier/best-of-n"] = {name: {"1": wave, "16": [1.0 + one for one in wave]} for name in frontier.BEST_OF}
    for seed in range(2):
        for method in frontier.METHODS:
            reward = reward_of_dpo if method is frontier.DPO else 1.0
            found[f"frontier/{method.name}/1 at 0.1/{seed}"] = run(reward + seed / 100, 2.0)
    found["frontier/unlikelihood/2 at 0.1/0"] = {"broke": "not a number"}
    return found


def test_the_page_of_the_frontier_says_which_way_it_falls(tmp_path: Path) -> None:
    def told(reward: float) -> str:
        found = Found(tmp_path / online_page.KEPT)
        found.pieces = pieces_of_frontier(reward)
        found.save()
        online_page.write(tmp_path)
        return (tmp_path / "online.md").read_text()

    good, bad = told(2.0), told(0.5)
    assert "Its frontier dominates all of these, as in the paper." in good
    assert "does not hold here" in bad
    assert "Broke off and are not counted: unlikelihood/2 at 0.1/0." in good
    assert "| DPO | beta 1 at 0.1 | 2 | 2.00 [2.00, 2.00] | 2.00" in good
    kl = math.log(16) - 15 / 16
    assert f"| best of n | n 16 |  | {kl:.2f} [{kl:.2f}, {kl:.2f}] | 1.00" in good
    assert "- PPO: +0.25" in good  # at 0.5 nats: a quarter of the way to 2.005 and to 1.005
    assert (tmp_path / "online-frontier.svg").stat().st_size > 1000


def test_the_page_of_a_real_model_counts_what_rises(tmp_path: Path) -> None:
    def run(low: float, ended: float) -> dict[str, Any]:
        side = {"value": 0.3, "low": 0.2, "high": 0.4, "n": 64}
        return {
            "before": side, "after": side, "gain": {"value": low + 0.1, "low": low, "high": low + 0.2, "n": 64},
            "settings": {"max_new_tokens": 32}, "minutes": 7.4, "stopped": False,
            "course": [
                {"rollout": n, "reward": n / 9, "kl": n / 3, "length": 10 * n, "finished": ended if n > 1 else 0.5}
                for n in range(1, 4)
            ],
        }  # fmt: skip

    found = Found(tmp_path / online_page.KEPT)
    found.pieces = {"real/sentiment/grpo": run(0.1, 0.25), "real/arithmetic/rloo": run(-0.1, 0.4)}
    found.save()
    online_page.write(tmp_path)
    page = (tmp_path / "online.md").read_text()
    assert "rises clearly in 1 of 2 runs: grpo on sentiment." in page
    row = (
        "| sentiment | grpo | 3 | 0.30 [0.20, 0.40] | 0.30 [0.20, 0.40] | +0.20 [+0.10, +0.30] | 1.0 | 10 to 30 of 32 |"
    )
    assert f"{row} 50 to 25 % | 7 |" in page
    assert "by half or more: grpo on sentiment." in page


@pytest.mark.slow
def test_all_parts_run_and_the_page_is_made_of_what_is_kept(data: Path, tmp_path: Path) -> None:
    model = str(tiny_model.save(tmp_path / "tiny"))
    out = tmp_path / "out"

    def trial(size: reviews.Size = SMALL) -> Trial:
        return Trial(data, tmp_path / "runs", Found(out / online_page.KEPT, "here"), size, model)

    for part in PARTS.values():
        made = trial()
        made.found.settle(asdict(made.size))
        part(made)
        online_page.write(out)  # whatever is there yet
    page = (out / "online.md").read_text()
    for heading in ("PPO-max's measures for", "Reward against KL", "A real model"):
        assert heading in page
    for picture in ("ablation", "course", "frontier", "real"):
        assert (out / f"online-{picture}.svg").stat().st_size > 1000
    found = trial().found
    assert sum(1 for _ in found.under("ablation")) == 1 + 2 * 2 + len(ALONE) + len(BESIDE)
    assert sum(1 for _ in found.under("frontier")) == 2 + 2 * len(frontier.METHODS)
    assert sum(1 for _ in found.under("real")) == 6
    for _, run in found.under("frontier", frontier.DPO.name):
        assert len(run["reward"]) == len(run["kl"]) == SMALL.held_out
    kept = (out / online_page.KEPT).read_text()
    assert "was really" not in kept + page, "texts of people are not kept"
    for part in PARTS.values():
        part(trial())
    assert (out / online_page.KEPT).read_text() == kept
    with pytest.raises(ConfigError, match="choose another --out"):
        found.settle(asdict(reviews.Size()))
