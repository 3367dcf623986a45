from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from layerlens.artifacts.plan import Plan
from layerlens.artifacts.validation import Check, Verdict
from layerlens.validation.sensitivity import check_sensitivity
from layerlens.words import Method
from tests.unit.reporting import artifacts
from tests.unit.validation.checking import check_named, with_layers


def _check(plan: Plan, name: str) -> Check:
    return check_named(check_sensitivity(plan), name)


def test_correlations_are_those_of_scipy_over_the_plan_s_own_numbers() -> None:
    plan = artifacts.plan()
    utility = [entry.utility for entry in plan.layers]
    for name, metric in (
        ("utility_gradient_pearson", plan.metadata.gradient_norms),
        ("utility_fisher_pearson", plan.metadata.fisher_traces),
    ):
        expected = stats.pearsonr(utility, [metric[entry.layer] for entry in plan.layers]).statistic
        assert _check(plan, name).value == pytest.approx(expected)
        assert _check(plan, name).verdict is Verdict.PASS


@pytest.mark.parametrize(("name", "target"), [("utility_gradient_pearson", "≥ 0.7"), ("utility_fisher_pearson", "≥ 0.6")])
def test_a_utility_that_goes_against_its_metrics_is_warned_about(name: str, target: str) -> None:
    turned = with_layers(artifacts.plan(), lambda number, entry: {"utility": 1 - entry.utility})
    check = _check(turned, name)
    assert (check.verdict, check.target) == (Verdict.WARN, target)


@pytest.mark.parametrize("name", ["utility_gradient_pearson", "utility_fisher_pearson", "rank_utility_spearman"])
def test_a_correlation_with_a_constant_utility_does_not_apply(name: str) -> None:
    flat = with_layers(artifacts.plan(), lambda number, entry: {"utility": 0.5})
    check = _check(flat, name)
    assert check.verdict is Verdict.NOT_APPLICABLE
    assert check.value == "utility is constant"


def test_correlations_over_constant_ranks_do_not_apply() -> None:
    flat = artifacts.plan("flat", dict.fromkeys(artifacts.even(range(6), list(artifacts.SHAPES)), 1))
    for name in ("rank_utility_spearman", "rank_utility_consistency"):
        check = _check(flat, name)
        assert check.verdict is Verdict.NOT_APPLICABLE
        assert check.value == "every rank is 1"


def test_ranks_that_follow_utility_pass_and_ranks_that_defy_it_are_warned_about() -> None:
    order = np.random.default_rng(0).permutation(36)

    def ranked(rank_of: Callable[[int], int]) -> Plan:
        return with_layers(
            artifacts.plan(),
            lambda number, entry: {"method": Method.LORA, "utility": order[number] / 36, "size": rank_of(int(order[number]))},
        )

    following, defying = ranked(lambda place: 1 + place), ranked(lambda place: 36 - place)
    for name, best, worst in (("rank_utility_spearman", 1.0, -1.0), ("rank_utility_consistency", 1.0, 0.0)):
        assert _check(following, name).value == pytest.approx(best)
        assert _check(following, name).verdict is Verdict.PASS
        assert _check(defying, name).value == pytest.approx(worst)
        assert _check(defying, name).verdict is Verdict.WARN


def test_layers_that_get_nothing_stay_out_of_the_rank_checks() -> None:
    plan = artifacts.plan()
    adapted = [(entry.size, entry.utility) for entry in plan.layers if entry.size]
    assert len(adapted) < len(plan.layers)
    expected = stats.spearmanr([size for size, _ in adapted], [utility for _, utility in adapted]).statistic
    assert _check(plan, "rank_utility_spearman").value == pytest.approx(expected)


@pytest.mark.parametrize(("spread", "verdict"), [(0.15, Verdict.WARN), (0.25, Verdict.PASS)])
def test_the_spread_of_utility_is_wanted_at_a_fifth_of_its_mean(spread: float, verdict: Verdict) -> None:
    plan = with_layers(artifacts.plan(), lambda number, entry: {"utility": 0.5 * (1 + spread * (-1) ** number)})
    check = _check(plan, "utility_variation")
    assert check.value == pytest.approx(spread)
    assert check.verdict is verdict


def test_utilities_that_collapsed_to_zero_are_warned_about() -> None:
    check = _check(with_layers(artifacts.plan(), lambda number, entry: {"utility": 0.0}), "utility_variation")
    assert check.verdict is Verdict.WARN
    assert check.value == "every utility is zero"


def test_metrics_that_are_missing_leave_the_correlation_out() -> None:
    plan = artifacts.plan()
    bare = plan.model_copy(update={"metadata": plan.metadata.model_copy(update={"gradient_norms": {}})})
    assert _check(bare, "utility_gradient_pearson").verdict is Verdict.NOT_APPLICABLE
