from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from examples.synthetic_profile import SyntheticProfile
from layerlens.artifacts.plan import Plan
from layerlens.budget.run import make_plan
from layerlens.config import OptimizationConfig
from layerlens.words import Method
from tests.unit.budget.small_models import small


def notes(made: SyntheticProfile, **options: object) -> list[str]:
    return planned(made, **options).metadata.notes


def planned(made: SyntheticProfile, **options: object) -> Plan:
    config = OptimizationConfig.model_validate(options)
    return make_plan(made.profile, made.arrays, made.timing, config, profile_path="p", command="c")[0]


def test_an_unspent_budget_says_that_every_rank_is_at_its_largest() -> None:
    note, even = notes(small(), max_trainable_params=10**6)
    assert even.startswith("uniform would have done about as well")
    assert note.startswith("only 1% of trainable_params is spent: every adapted layer has the largest rank allowed, 4")


def test_a_budget_that_another_one_stops_says_which() -> None:
    (note,) = notes(small(), max_trainable_params=2000, max_vram_gb=10.0)
    assert "of vram_bytes is spent: trainable_params is" in note


def test_a_budget_that_the_next_step_does_not_fit_into_is_said_to_have_stopped_it() -> None:
    (note,) = [note for note in notes(small(), max_trainable_params=130) if "is spent" in note]
    assert note == "only 62% of trainable_params is spent: what would gain more takes more of trainable_params than is left"


def test_a_plan_says_what_a_method_is_believed_to_be_worth_and_whether_that_was_measured() -> None:
    made = small()
    proxy = made.profile.proxy
    assert proxy is not None
    measured = proxy.model_copy(update={"method_shares": {Method.ADAPTER: 0.8}})
    profile = made.profile.model_copy(update={"proxy": measured})
    options = {"max_trainable_params": 2000, "candidate_methods": [*Method]}
    told = planned(replace(made, profile=profile), **options).metadata.assumptions
    assert "adapter is valued at 0.8 of a LoRA of as many parameters, as the profile measured at a few sites" in told
    assert sum("is valued at 0.5 of a LoRA" in line and "cautious guess" in line for line in told) == 1
    assert not any("is valued at" in line for line in planned(made, max_trainable_params=2000).metadata.assumptions)


def test_a_plan_says_what_its_memory_holds_and_what_that_of_an_older_profile_leaves_out() -> None:
    made = small()
    told = planned(made, max_vram_gb=10.0).metadata.assumptions
    assert any("without gradient checkpointing" in line for line in told)
    assert any("without the model's own dropout" in line and "gradients of the outputs" in line for line in told)
    assert any("head" in line and "the same in every plan and left out" in line for line in told)
    older = made.profile.model_copy(update={"step_memory": None})
    told = planned(replace(made, profile=older), max_vram_gb=10.0).metadata.assumptions
    assert [line.endswith("profile again") and "logits" in line for line in told if "earlier version" in line] == [True]
    assert not any("without the model's own dropout" in line for line in told)


def test_a_weight_of_latency_that_decides_nothing_says_so() -> None:
    made, weights = small(), {"utility": 0.5, "latency": 0.5}
    assert made.timing is not None
    blocks = [block.model_copy(update={"forward_seconds": 1e3}) for block in made.timing.blocks]
    slow = replace(made, timing=made.timing.model_copy(update={"blocks": blocks}))
    said = [note for note in notes(slow, max_trainable_params=2000, objective_weights=weights) if "weight of latency" in note]
    assert len(said) == 1
    assert "give --latency-target-ms" in said[0]
    for options in ({"latency_target_ms": 10.0}, {"objective_weights": {"utility": 1.0}}):
        asked = {"max_trainable_params": 2000, "objective_weights": weights, **options}
        assert not any("weight of latency" in note for note in notes(slow, **asked))


def test_a_well_spent_budget_says_nothing() -> None:
    assert notes(small(), max_trainable_params=2000) == []


def test_flat_utilities_guessed_roles_and_a_uniform_plan_as_good_are_told() -> None:
    made = small()
    layers = [layer.model_copy(update={"utility": 0.5}) for layer in made.profile.layers]
    profile = made.profile.model_copy(update={"layers": layers, "is_roles_guessed": True})
    found = notes(SyntheticProfile(profile, made.arrays, made.timing), max_trainable_params=10**4)
    assert any("roles are guessed" in note for note in found)
    assert any("coefficient of variation 0.00" in note for note in found)


@pytest.mark.parametrize("weights", [{"utility": 1.0}, {"utility": 0.001, "cost": 1.0}])
def test_a_profile_without_gains_and_weights_that_forbid_all_fall_back_to_uniform_for_their_own_reason(
    weights: dict[str, float],
) -> None:
    made = small()
    arrays = made.arrays if "cost" in weights else {name: np.zeros_like(values) for name, values in made.arrays.items()}
    plan = planned(SyntheticProfile(made.profile, arrays, made.timing), max_trainable_params=2000, objective_weights=weights)
    assert plan.chosen.name == "uniform"
    assert plan.adapted
    expected = "objective weights" if "cost" in weights else "no layer shows a gain beyond noise on 512 samples"
    assert any(expected in note for note in plan.metadata.notes)
