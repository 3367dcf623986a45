from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from layerlens.budget.candidates import ROLE_SETS, Candidate, distinct, structured, uniform_candidate
from layerlens.budget.costs import limits_of
from layerlens.budget.prices import PriceList
from layerlens.config import OptimizationConfig
from layerlens.words import BudgetName, Method
from tests.unit.budget.small_models import by_hand, priced, small

#: Limits, as shares of the way from adapting nothing to adapting everything.
BUDGETS = [
    {BudgetName.TRAINABLE_PARAMS: 0.3},
    {BudgetName.TRAINABLE_PARAMS: 0.3, BudgetName.VRAM_BYTES: 0.8, BudgetName.TIME_RATIO: 0.8},
]


def with_uniform(prices: PriceList, ranks: Sequence[int], limits: Mapping[BudgetName, float]) -> Iterator[Candidate]:
    uniform, reach = uniform_candidate(prices, ranks, limits)
    assert uniform is not None
    yield uniform
    yield from structured(prices, ranks, limits, reach=reach)


def test_every_structured_plan_keeps_every_budget_repriced_by_hand_and_none_could_take_one_rank_more() -> None:
    for shares in BUDGETS:
        costs, prices = priced(small(), OptimizationConfig(max_trainable_params=1, length=16))
        nothing = by_hand(costs, prices, np.zeros(len(prices.sites), dtype=np.int64))
        everything = by_hand(costs, prices, np.full(len(prices.sites), 4))
        limits = {name: nothing[name] + share * (everything[name] - nothing[name]) for name, share in shares.items()}
        found = list(with_uniform(prices, range(1, 5), limits))
        assert len(found) > 10
        for candidate in found:
            spent = by_hand(costs, prices, candidate.sizes)
            assert all(spent[name] <= limit for name, limit in limits.items())
            ranks = set(candidate.sizes[candidate.sizes > 0].tolist())
            assert max(ranks) - min(ranks) <= 1
            # A lump, such as one more block to go back through, may stop a rule that fills layer by layer earlier.
            if candidate.sizes.max() < 4 and len(limits) == 1:
                members = candidate.sizes > 0
                more = np.where(members, candidate.sizes.max() + 1, 0)
                over = by_hand(costs, prices, more)
                assert any(over[name] > limit for name, limit in limits.items())


def test_names_are_safe_in_file_names_and_say_roles_and_cut() -> None:
    _, prices = priced(small(), OptimizationConfig(max_trainable_params=2500))
    found = {candidate.name: candidate for candidate in with_uniform(prices, range(1, 5), {})}
    assert next(iter(found)) == "uniform"
    assert all(re.fullmatch(r"[A-Za-z0-9.+@_-]+", name) for name in found)
    for name, candidate in found.items():
        roles, _, cut = ("all" if name == "uniform" else name).partition("@")
        for site, size in zip(prices.sites, candidate.sizes, strict=True):
            is_in = (not ROLE_SETS[roles] or site.role in {role.value for role in ROLE_SETS[roles]}) and (site.block or 0) >= int(
                cut or 0
            )
            assert (size > 0) == is_in


def test_structured_plans_are_lora_alone_and_stay_within_narrow_layers() -> None:
    config = OptimizationConfig(max_trainable_params=10**9, max_rank=30, candidate_methods=[*Method])
    _, prices = priced(small(), config)
    uniform = next(with_uniform(prices, range(1, 31), limits_of(config)))
    for site, size in zip(prices.sites, uniform.sizes, strict=True):
        assert size == (min(30, site.in_features, site.out_features) if site.method is Method.LORA else 0)


def test_near_duplicates_merge_into_the_first_and_the_front_is_kept() -> None:
    _, prices = priced(small(), OptimizationConfig(max_trainable_params=2500))
    num = len(prices.sites)
    even = np.full(num, 2)
    nearly = even.copy()
    nearly[1] = 3
    others = [Candidate(f"shape-{number}", np.eye(num, dtype=np.int64)[number] * 4) for number in range(num)]
    made = [Candidate("uniform", even), Candidate("nearly", nearly), Candidate("empty", np.zeros(num, dtype=np.int64)), *others]
    everything = distinct(made, prices.sites, limit=100, kept_first=1)
    assert [candidate.name for candidate in everything] == ["uniform", *(other.name for other in others)]
    few = distinct(made, prices.sites, limit=4, kept_first=1)
    assert len(few) == 4
    assert few[0].name == "uniform"


def test_a_plan_set_apart_is_never_thinned_out() -> None:
    _, prices = priced(small(), OptimizationConfig(max_trainable_params=2500))
    num = len(prices.sites)
    made = [Candidate(f"shape-{number}", np.eye(num, dtype=np.int64)[number] * 4) for number in range(num)]
    for kept_first in (1, num):
        kept = distinct(made, prices.sites, limit=2, kept_first=kept_first, apart={"shape-9"})
        assert [candidate.name for candidate in kept] == ["shape-0", "shape-9"]
