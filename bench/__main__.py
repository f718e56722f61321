"""`python -m bench TASK` measures one task, `python -m bench all` every one, `python -m bench page` writes the page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from bench import curves, dpo, gpu, grpo, page, plan, reward, roles, sampling, scaling, sft
from bench import profile as profiling
from bench.rows import NotThereError
from bench.training import RESULTS, Settings, say

app = App(name="bench", help=__doc__, version_flags=[])


Given = Annotated[Settings | None, Parameter(name="*")]


@app.command(name="dpo")
def measure_dpo(profile: str = "all", settings: Given = None) -> None:
    """DPO on one profile (hh, ultrafeedback, tldr, real) or all of them."""
    _each(dpo.PROFILES, profile, dpo.run, settings or Settings())


@app.command(name="sft")
def measure_sft(profile: str = "all", settings: Given = None) -> None:
    """SFT on one profile (hh, real) or both."""
    _each(sft.PROFILES, profile, sft.run, settings or Settings())


@app.command(name="reward")
def measure_reward(profile: str = "all", settings: Given = None) -> None:
    """Reward models on one profile (hh) or all of them."""
    _each(reward.PROFILES, profile, reward.run, settings or Settings())


@app.command(name="sampling")
def measure_sampling(length: int = sampling.LENGTH, settings: Given = None) -> None:
    """Sampling of up to `length` new tokens."""
    sampling.run(settings or Settings(), length)


@app.command(name="grpo")
def measure_grpo(profile: str = "all", settings: Given = None) -> None:
    """Iterations of GRPO on one profile (brief, hh) or both, in one round if nothing is set: TRL's take minutes."""
    _each(grpo.PROFILES, profile, grpo.run, settings or Settings(rounds=1))


@app.command(name="scaling")
def measure_scaling(settings: Given = None) -> None:
    """Cost per useful token over the size of the data and of a step."""
    scaling.run(settings or Settings())


@app.command(name="curves")
def measure_curves(steps: int = curves.STEPS, seeds: int = curves.SEEDS, settings: Given = None) -> None:
    """Loss curves in bf16 and in fp32."""
    curves.run(settings or Settings(), steps, seeds)


@app.command(name="plan")
def measure_plan(case: str = "all", tokens: int = 0, settings: Given = None) -> None:
    """Predictions of `truing plan --measure` beside real runs: dpo, dpo-lora, sft or all; one forest budget or two."""
    plan.run(settings or Settings(), case, tokens)


@app.command(name="profile")
def measure_profile(settings: Given = None) -> None:
    """Where the time of a step goes, for DPO, SFT and reward models."""
    profiling.run(settings or Settings())


@app.command(name="roles")
def measure_roles(new_tokens: int = roles.NEW_TOKENS, settings: Given = None) -> None:
    """Memory of PPO as four models and as roles over one base, in full, in 8 and in 4 bits."""
    roles.run(settings or Settings(), new_tokens)


@app.command(name="gpu")
def measure_gpu(size: str = "0.6b", settings: Given = None) -> None:
    """DPO, SFT and sampling on CUDA, with random weights of size 0.6b, 1.7b or 8b."""
    try:
        gpu.run(settings or Settings(), size)
    except NotThereError as reason:
        raise SystemExit(f"bench: {reason}") from reason


@app.command(name="all")
def measure_all(settings: Given = None) -> None:
    """Every task on the CPU, then the page."""
    measure_dpo("all", settings)
    measure_sft("all", settings)
    measure_reward("all", settings)
    measure_sampling(settings=settings)
    _each(grpo.PROFILES, "all", grpo.run, replace(settings or Settings(), rounds=1))
    measure_scaling(settings)
    measure_curves(settings=settings)
    measure_plan(settings=settings)
    measure_profile(settings)
    _unless_missing(partial(measure_roles, settings=settings))
    write_page((settings or Settings()).out)


@app.command(name="page")
def write_page(results: Path = RESULTS) -> None:
    """The page and its pictures beside the results file, from that file alone."""
    page.write(results)


def _each(profiles: tuple[str, ...], wanted: str, run: Callable[[str, Settings], None], settings: Settings) -> None:
    for profile in profiles if wanted == "all" else (wanted,):
        _unless_missing(partial(run, profile, settings))


def _unless_missing(work: Callable[[], None]) -> None:
    """Goes on with the next where something is not at hand, and says what."""
    try:
        work()
    except NotThereError as reason:
        say(f"skipped: {reason}")


if __name__ == "__main__":
    app()
