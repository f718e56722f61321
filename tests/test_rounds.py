"""Rounds of a loop: names and seeds."""

from __future__ import annotations

import torch

from truing.rounds import Round, round_seed, stage_names


def test_names() -> None:
    second = Round("self", 2, 3)
    assert (second.name, second.stage("sample"), str(second)) == ("self.2", "self.2/sample", "round 2 of 3")


def test_no_two_rounds_and_no_two_recipes_draw_alike() -> None:
    seeds = [round_seed(seed, place) for seed in (*range(40), 10**7) for place in range(1, 40)]
    assert len(set(seeds)) == len(seeds)
    assert min(seeds) > 10**7, "nor as what stands outside of loops"


def test_a_seed_stays_one_after_all_that_stages_multiply_it_by() -> None:
    torch.Generator().manual_seed((round_seed(0, 900) * 1_000_003 + 10**6) * 1_009)


def test_a_resolved_recipe_is_unrolled_in_the_written_order() -> None:
    body = [{"use": "sample", "name": "drawn"}, {"use": "sft", "name": "sft"}]
    loop = {"use": "loop", "name": "self", "rounds": 2, "stage": body}
    names = stage_names([{"use": "curate", "name": "curate"}, loop, {"use": "evaluate"}])
    assert names == ["curate", "self.1/drawn", "self.1/sft", "self.2/drawn", "self.2/sft", "evaluate"]


def test_what_is_measured_beside_every_earlier_round_is_a_stage_for_each() -> None:
    third = Round("self", 3, 3)
    assert third.beside("wins", "sft") == {"self.3/wins": "sft"}
    earlier = {"self.3/wins/start": "start", "self.3/wins/self.1": "self.1", "self.3/wins/self.2": "self.2"}
    assert third.beside("wins", "earlier") == earlier
    body = [{"use": "sft", "name": "sft"}, {"use": "win_rate", "name": "wins", "base": "earlier"}]
    names = stage_names([{"use": "loop", "name": "self", "rounds": 3, "stage": body}])
    assert names[:3] == ["self.1/sft", "self.1/wins/start", "self.2/sft"]
    assert names[-3:] == list(earlier)
