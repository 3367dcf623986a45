"""Plain plans with adapters and prefixes: within every budget, uniform in each part, filled, and named by what they hold."""

from __future__ import annotations

import re

import numpy as np
import pytest

from layerlens.budget.mixed_candidates import MIXES, mixed
from layerlens.budget.run import make_plan
from layerlens.budget.sites import plan_sites
from layerlens.config import OptimizationConfig
from layerlens.errors import ConfigError
from layerlens.words import ROLE_SETS, BudgetName, Method, Role
from tests.unit.budget.small_models import by_hand, priced, small

EVERYTHING = OptimizationConfig(max_trainable_params=1, length=16, candidate_methods=[*Method])
BUDGETS = [
    {BudgetName.TRAINABLE_PARAMS: 4000.0},
    {BudgetName.TRAINABLE_PARAMS: 900.0},
    {BudgetName.TRAINABLE_PARAMS: 6000.0, BudgetName.TIME_RATIO: 0.8},
]


@pytest.mark.parametrize("limits", BUDGETS)
def test_every_mix_keeps_every_budget_repriced_by_hand(limits: dict[BudgetName, float]) -> None:
    costs, prices = priced(small(), EVERYTHING)
    found = list(mixed(prices, [*Method], limits))
    assert {candidate.name for candidate in found} > {"adapter", "prefix"}
    for candidate in found:
        spent = by_hand(costs, prices, candidate.sizes)
        assert all(spent[name] <= limit for name, limit in limits.items())


def test_names_are_safe_in_file_names_and_say_what_sits_where() -> None:
    _, prices = priced(small(), EVERYTHING)
    found = {candidate.name: candidate for candidate in mixed(prices, [*Method], {BudgetName.TRAINABLE_PARAMS: 10**7})}
    assert set(MIXES) < set(found)
    assert all(re.fullmatch(r"[A-Za-z0-9.+@_-]+", name) for name in found)
    roles = {"attention": ROLE_SETS["attention"], "mlp": ROLE_SETS["mlp"], "all": frozenset(Role)}
    for name, candidate in found.items():
        mix, _, cut = name.partition("@")
        for site, size in zip(prices.sites, candidate.sizes, strict=True):
            match site.method:
                case Method.ADAPTER:
                    is_named = "adapter" in mix and ("adapter.mlp" not in mix or site.role == Role.MLP_DOWN)
                case Method.PREFIX:
                    is_named = "prefix" in mix
                case _:
                    is_named = any(site.role in roles[part] for part in mix.split("+") if part in roles)
            assert (size > 0) == (is_named and (site.block or 0) >= int(cut or 0))


def test_each_part_is_uniform_to_one_step_of_its_sizes_and_the_last_fills_the_budget() -> None:
    costs, prices = priced(small(), EVERYTHING)
    limit = 3000
    for candidate in mixed(prices, [*Method], {BudgetName.TRAINABLE_PARAMS: float(limit)}):
        for method in Method:
            members = [at for at, site in enumerate(prices.sites) if site.method is method and candidate.sizes[at]]
            on_offer = sorted({size for at in members for size in prices.sites[at].sizes})
            places = {on_offer.index(int(candidate.sizes[at])) for at in members}
            assert not places or max(places) - min(places) <= 1
        last = MIXES[candidate.name.partition("@")[0]][-1].method
        more = candidate.sizes.copy()
        for at, site in enumerate(prices.sites):
            if site.method is last and candidate.sizes[at]:
                smallest = min(
                    candidate.sizes[other] for other in np.flatnonzero(candidate.sizes) if prices.sites[other].method is last
                )
                more[at] = min((size for size in site.sizes if size > smallest), default=smallest)
        if (more > candidate.sizes).any():
            assert by_hand(costs, prices, more)[BudgetName.TRAINABLE_PARAMS] > limit


def test_methods_that_are_not_allowed_appear_in_no_plan() -> None:
    _, prices = priced(small(), EVERYTHING)
    limits = {BudgetName.TRAINABLE_PARAMS: 4000.0}
    assert list(mixed(prices, [Method.LORA, Method.NONE], limits)) == []
    alone = {candidate.name.partition("@")[0] for candidate in mixed(prices, [Method.ADAPTER, Method.NONE], limits)}
    assert alone == {"adapter", "adapter.mlp"}
    for candidate in mixed(prices, [Method.PREFIX, Method.LORA], limits):
        for site, size in zip(prices.sites, candidate.sizes, strict=True):
            assert not size or site.method in (Method.PREFIX, Method.LORA)


def test_a_prefix_in_a_mix_leaves_most_of_the_budget_to_the_other_part() -> None:
    _, prices = priced(small(), EVERYTHING)
    found = {candidate.name: candidate for candidate in mixed(prices, [*Method], {BudgetName.TRAINABLE_PARAMS: 4000.0})}

    def params(name: str, method: Method) -> int:
        sizes = found[name].sizes.tolist()
        return sum(site.params(size) for site, size in zip(prices.sites, sizes, strict=True) if site.method is method)

    alone, beside = params("prefix", Method.PREFIX), params("prefix+all", Method.PREFIX)
    assert 0 < beside <= 0.25 * alone
    assert params("prefix+all", Method.LORA) > beside


def test_plans_of_each_allowed_method_are_among_the_candidates_of_a_plan() -> None:
    made = small()
    config = OptimizationConfig(max_trainable_params=4000, candidate_methods=[*Method])
    _, candidates = make_plan(made.profile, made.arrays, made.timing, config, profile_path="p", command="c")
    assert {"uniform", "adapter", "prefix", "prefix+mlp", "attention+adapter.mlp"} <= set(candidates)
    methods = {name: {layer.method for layer in plan.adapted} for name, plan in candidates.items()}
    assert methods["adapter"] == {Method.ADAPTER}
    assert methods["prefix"] == {Method.PREFIX}
    assert methods["uniform"] == {Method.LORA}
    assert all(plan.budgets[BudgetName.TRAINABLE_PARAMS].spent <= 4000 for plan in candidates.values())
    assert len(candidates) <= config.max_candidates


def test_prefixes_for_a_model_that_cannot_have_them_are_refused_when_it_is_planned() -> None:
    profile = small().profile
    without = profile.model_copy(
        update={"blocks": [block.model_copy(update={"takes_prefix": False}) for block in profile.blocks]}
    )
    with pytest.raises(ConfigError, match=r"attention interface, which a prefix needs; leave prefix out of --methods") as error:
        plan_sites(without, EVERYTHING)
    assert profile.model.architecture in str(error.value)
    assert plan_sites(without, OptimizationConfig(max_trainable_params=1, candidate_methods=[Method.LORA, Method.ADAPTER]))
    some = [block.model_copy(update={"takes_prefix": block.block == 1}) for block in profile.blocks]
    sites = plan_sites(profile.model_copy(update={"blocks": some}), EVERYTHING)
    assert [site.block for site in sites if site.method is Method.PREFIX] == [1]
    assert np.all([site.sizes for site in sites if site.method is Method.PREFIX])
