"""The exact solver against every combination, against scipy, and on the instances it was built for."""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import pairwise
from subprocess import run
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerlens.budget import solver
from layerlens.budget.knapsack import Knapsack
from layerlens.budget.solver import INFEASIBLE, OPTIMAL, relative_gap, solve
from tests.unit.budget.knapsacks import best_of_all, milp_bounds, small_knapsacks


@settings(max_examples=300, deadline=None)
@given(small_knapsacks())
def test_it_finds_the_best_of_all_combinations_and_proves_it(make: Callable[[], Knapsack]) -> None:
    problem = make()
    solution, best = solve(problem), best_of_all(problem)
    if best == -np.inf:
        assert solution.status == INFEASIBLE
        assert solution.choice is None
        return
    assert solution.choice is not None
    assert solution.status == OPTIMAL
    assert problem.is_feasible(solution.choice)
    assert solution.value == problem.value_of(solution.choice)
    assert best * (1 - np.sign(best) * 1e-6) - 1e-12 <= solution.value <= best + 1e-12 * abs(best)
    assert solution.bound >= best - 1e-9 * abs(best)
    assert solution.gap == relative_gap(solution.value, solution.bound) <= 1e-6


def middling(kind: str, seed: int) -> Knapsack:
    rng = np.random.default_rng(seed)
    groups, ranks = 36, np.arange(1, 9)
    width = rng.integers(500, 2000, groups)[:, None]
    params, second = width * ranks, rng.integers(500, 2000, groups)[:, None] * ranks
    curve = 1 - 0.7**ranks
    gain = {
        "concave": rng.lognormal(0, 1, (groups, 1)) * curve,
        "equal": np.repeat(curve[None], groups, axis=0),
        "one group matters": np.where(np.arange(groups)[:, None] == 7, 1.0, 1e-9) * curve,
        "noisy": rng.random((groups, len(ranks))),
        "half of them zero": rng.lognormal(0, 1, (groups, 1)) * (np.arange(groups) % 2)[:, None] * curve,
    }[kind]
    none = np.zeros((groups, 1))
    costs = np.stack([np.concatenate([none, each], axis=1) for each in (params, second)]).astype(np.int64)
    limits = (0.15 * costs.max(axis=2).sum(axis=1)).astype(np.int64)
    return Knapsack.of(np.concatenate([none, gain], axis=1), costs, limits)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["concave", "equal", "one group matters", "noisy", "half of them zero"])
def test_it_agrees_with_scipy_on_middling_instances(kind: str, seed: int) -> None:
    problem = middling(kind, seed)
    solution, (value, bound) = solve(problem), milp_bounds(problem)
    assert solution.status == OPTIMAL
    assert solution.choice is not None
    assert problem.is_feasible(solution.choice)
    assert value * (1 - 1.1e-6) <= solution.value <= bound * (1 + 1e-6)
    assert solution.bound >= value * (1 - 1e-9)


def test_more_budget_never_loses_value() -> None:
    problem = middling("concave", 0)
    limits = [problem.limits // 4, problem.limits // 2, problem.limits, 2 * problem.limits, 4 * problem.limits]
    values = [solve(Knapsack.of(problem.values, problem.costs, limit)).value for limit in limits]
    assert all(more > less for less, more in pairwise(values))


def test_it_is_never_worse_than_where_it_was_told_to_start() -> None:
    problem = middling("noisy", 1)
    best = solve(problem)
    assert best.choice is not None
    assert solve(problem, incumbents=[best.choice], tolerance=0.5).value >= best.value


@settings(max_examples=150, deadline=None)
@given(small_knapsacks(max_groups=7), st.sampled_from([0.3, 0.1, 0.03]))
def test_a_solve_that_may_stop_early_still_bounds_the_optimum(make: Callable[[], Knapsack], tolerance: float) -> None:
    problem = make()
    with mock.patch.multiple(solver, CHEAP_WORK=0, FIRST_ALTERNATIVES=1):
        early = solve(problem, tolerance=tolerance)
    best = best_of_all(problem)
    assert (early.choice is None) == (best == -np.inf)
    assert early.bound >= best - 1e-9 * abs(best)
    assert early.choice is None or early.gap <= tolerance


def test_budgets_that_differ_in_the_twelfth_digit_are_both_kept() -> None:
    large = 5 * 10**11
    costs = np.array([[[0, large + 1], [0, large + 1], [0, 1]], [[0, large], [0, large], [0, 4 * 10**11]]])
    values = np.array([[0.0, 1.0], [0.0, 1.0], [0.0, 0.1]])
    solution = solve(Knapsack.of(values, costs, [2 * large + 1, 2 * large]))
    assert solution.status == OPTIMAL
    assert solution.value == pytest.approx(1.1)


def test_it_stops_at_a_cutoff_that_nothing_beats() -> None:
    problem = middling("concave", 1)
    full = solve(problem)
    stopped = solve(problem, cutoff=full.bound * 1.5)
    assert stopped.status == OPTIMAL
    assert full.value <= stopped.bound <= full.bound * 1.5
    assert stopped.work < full.work


def class_70b(seed: int, *, lump: int) -> Knapsack:
    """80 blocks × 7 layers × 33 options, parameters and memory, the second with a lump per group or none at all."""
    rng = np.random.default_rng(seed)
    shapes = [(8192, 8192), (8192, 1024), (8192, 1024), (8192, 8192), (8192, 28672), (8192, 28672), (28672, 8192)]
    inputs, outputs = (np.array([shape[axis] for shape in shapes] * 80) for axis in (0, 1))
    ranks = np.arange(33)
    params = (inputs + outputs)[:, None] * ranks
    memory = (rng.uniform(0.3, 3.0, 560)[:, None] * params if not lump else 16 * params + 8192 * ranks).astype(np.int64)
    memory += lump * inputs[:, None] * (ranks > 0)
    gains = rng.lognormal(0, 1, 560)[:, None] * (1 - rng.uniform(0.6, 0.95, 560)[:, None] ** ranks)
    first = int(0.2 * params[:, -1].sum())
    alone = solve(Knapsack.of(gains, params[None], [first])).choice
    assert alone is not None
    second = int(0.93 * memory[np.arange(560), alone].sum())
    return Knapsack.of(gains, np.stack([params, memory]), [first, second])


@pytest.mark.parametrize("lump", [0, 8192])
def test_a_70b_class_instance_under_two_budgets_is_solved_to_the_gap(lump: int) -> None:
    problem = class_70b(0, lump=lump)
    solution = solve(problem)
    assert solution.status == OPTIMAL
    assert solution.gap <= 1e-6
    assert solution.choice is not None
    assert problem.is_feasible(solution.choice)
    assert (problem.spend_of(solution.choice) > 0.99 * problem.limits).all()


def test_the_same_instance_gives_the_same_bytes_in_another_process() -> None:
    code = (
        "from tests.unit.budget.test_solver import class_70b, solve; "
        "s = solve(class_70b(1, lump=0)); print(repr(s.value), repr(s.bound), s.work, s.choice.tolist())"
    )
    here = solve(class_70b(1, lump=0))
    assert here.choice is not None
    expected = f"{here.value!r} {here.bound!r} {here.work} {here.choice.tolist()}"
    other = run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == expected


def test_what_the_search_gives_up_on_is_still_solved(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in ("LEAF_WORK", "BRANCH_WORK", "CHEAP_WORK"):
        monkeypatch.setattr(solver, limit, 1)
    monkeypatch.setattr(solver, "BEAM_WIDTH", 2)
    problem = middling("noisy", 0)
    solution, (value, _) = solve(problem), milp_bounds(problem)
    assert solution.status == OPTIMAL
    assert solution.value == pytest.approx(value, rel=1e-6)


def test_solving_imports_no_scipy_where_the_search_suffices() -> None:
    code = (
        "import sys, numpy as np; from layerlens.budget.knapsack import Knapsack; from layerlens.budget.solver import solve; "
        "solve(Knapsack.of(np.array([[0.0, 1.0]]), np.array([[[0, 3]]]), [5])); sys.exit('scipy' in sys.modules)"
    )
    assert run([sys.executable, "-c", code], check=False).returncode == 0
