from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from examples.synthetic_profile import SyntheticProfile
from layerlens.artifacts.profile import ProxySettings
from layerlens.budget.costs import cost_model, in_units
from layerlens.budget.sites import plan_sites
from layerlens.budget.values import STAND_IN_SHARE, ValueModel, joint_share, site_values, value_models
from layerlens.config import OptimizationConfig
from layerlens.words import BudgetName, Method, Role
from tests.unit.budget.small_models import small

BUDGET = {"max_trainable_params": 2000}


def values_of(made: SyntheticProfile, model: ValueModel, **options: object) -> list[np.ndarray]:
    config = OptimizationConfig.model_validate({**BUDGET, **options})
    costs = cost_model(made.profile, made.timing, config)
    return site_values(model, plan_sites(made.profile, config), made.profile, made.arrays, config, costs)


def test_whitened_values_are_the_measured_gains_behind_none_and_half_of_them_where_attention_reads() -> None:
    made = small()
    halved = set()
    for layer, values in zip(made.profile.layers, values_of(made, ValueModel.WHITENED), strict=True):
        makes_scores_or_values = layer.role.value in ("attention.query", "attention.key", "attention.value", "attention.qkv")
        share = 0.5 if makes_scores_or_values else 1.0
        assert values.tolist() == [0.0, *(share * made.arrays[f"gain/{layer.layer}"]).tolist()]
        halved.add(share)
    assert halved == {0.5, 1.0}


def test_every_role_of_attention_but_its_output_counts_half() -> None:
    shares = {role: joint_share(role) for role in Role}
    assert {role for role, share in shares.items() if share != 1.0} == {
        role for role in Role if role.is_attention and role is not Role.ATTENTION_OUTPUT
    }
    assert set(shares.values()) == {0.5, 1.0}


def test_utility_values_end_at_the_utility_with_diminishing_returns() -> None:
    made = small()
    for layer, values in zip(made.profile.layers, values_of(made, ValueModel.UTILITY), strict=True):
        assert values[-1] == pytest.approx(layer.utility)
        assert values[1] == pytest.approx(layer.utility * math.log(2) / math.log(5))
        assert (np.diff(values, 2) < 0).all()


def test_a_proxy_below_zero_is_worth_nothing_and_a_profile_without_proxies_has_no_such_model() -> None:
    made = small()
    first = made.profile.layers[0]
    lost = first.model_copy(update={"metrics": {**first.metrics, "proxy_eval": -0.01}})
    profile = made.profile.model_copy(update={"layers": [lost, *made.profile.layers[1:]]})
    values = values_of(SyntheticProfile(profile, made.arrays, made.timing), ValueModel.PROXY)
    assert not values[0].any()
    assert all(entry.any() for entry in values[1:])
    assert ValueModel.PROXY in value_models(profile)
    assert value_models(profile.model_copy(update={"proxy": None})) == [ValueModel.WHITENED, ValueModel.UTILITY]


def test_a_curve_shorter_than_the_ranks_on_offer_is_flat_beyond_its_end() -> None:
    made = small(num_ranks=2)
    for values in values_of(made, ValueModel.WHITENED):
        assert values[2] == values[3] == values[4] > values[1]


def test_a_penalty_divides_the_values_of_its_method_alone() -> None:
    methods = {"candidate_methods": [*Method]}
    plain = values_of(small(), ValueModel.WHITENED, **methods)
    cheap = values_of(small(), ValueModel.WHITENED, **methods, method_penalties={Method.LORA: 0.8})
    config = OptimizationConfig.model_validate({**BUDGET, **methods})
    for site, before, after in zip(plan_sites(small().profile, config), plain, cheap, strict=True):
        assert after == pytest.approx(before / 0.8 if site.method is Method.LORA else before)


def test_an_adapter_is_worth_its_share_of_a_lora_of_as_many_parameters() -> None:
    made = small()
    config = OptimizationConfig.model_validate({**BUDGET, "candidate_methods": [Method.ADAPTER, Method.NONE]})
    sites = plan_sites(made.profile, config)
    values = values_of(made, ValueModel.WHITENED, candidate_methods=[Method.ADAPTER, Method.NONE])
    number = next(n for n, site in enumerate(sites) if site.method is Method.ADAPTER)
    site = sites[number]
    rank = (2 * 40 * 4 + 4 + 40) / (site.in_features + 40)
    gains = [0.0, *made.arrays[f"gain/{site.layer}"]]
    below = min(int(rank), 4)
    wanted = gains[below] + (min(rank, 4) - below) * (gains[min(below + 1, 4)] - gains[below])
    assert values[number][1 + site.sizes.index(4)] == pytest.approx(STAND_IN_SHARE * wanted)


def test_shares_that_the_profile_measured_take_the_place_of_the_stand_in() -> None:
    made, methods = small(), {"candidate_methods": [*Method]}
    settings = ProxySettings(
        rank=4,
        steps=4,
        learning_rate=1e-3,
        train_samples=8,
        held_out_samples=8,
        is_complete=True,
        num_measured=18,
        method_shares={Method.ADAPTER: 0.8},
    )
    told = replace(made, profile=made.profile.model_copy(update={"proxy": settings}))
    config = OptimizationConfig.model_validate({**BUDGET, **methods})
    before, after = (values_of(each, ValueModel.WHITENED, **methods) for each in (made, told))
    for site, old, new in zip(plan_sites(made.profile, config), before, after, strict=True):
        # Prefixes were not measured and keep the stand-in.
        assert new == pytest.approx(old * 0.8 / STAND_IN_SHARE if site.method is Method.ADAPTER else old)


def test_objective_weights_subtract_each_cost_as_its_share_of_the_budget_or_of_full_fine_tuning() -> None:
    made = small()
    weights = {"utility": 0.5, "cost": 0.2, "flops": 0.1, "vram": 0.1, "latency": 0.1}
    plain = values_of(made, ValueModel.WHITENED)
    net = values_of(made, ValueModel.WHITENED, objective_weights=weights)
    config = OptimizationConfig.model_validate(BUDGET)
    costs = cost_model(made.profile, made.timing, config)
    full = costs.full()
    total = sum(values.max() for values in plain)
    site = plan_sites(made.profile, config)[3]
    price = costs.option(site, 2)
    expected = 0.5 * plain[3][2] / total - 0.2 * price[BudgetName.TRAINABLE_PARAMS] / 2000
    for term in (BudgetName.FLOPS, BudgetName.VRAM_BYTES, BudgetName.LATENCY_MS):
        expected -= 0.1 * price[term] / full[term]
    assert net[3][2] == pytest.approx(expected)
    assert all(values[0] == 0.0 for values in net)
    assert in_units(BudgetName.TRAINABLE_PARAMS, 2000) == 2000
