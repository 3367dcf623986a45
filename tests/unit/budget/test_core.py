"""Losses and spends of the core's alternatives, recomputed from the problem."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from layerlens.budget.core import Core
from layerlens.budget.knapsack import Knapsack
from layerlens.budget.lagrangian import Lagrangian, Rows


def bundled(seed: int) -> Knapsack:
    rng = np.random.default_rng(seed)
    values, costs = rng.random((6, 4)), rng.integers(1, 50, (2, 6, 4))
    values[:, 0], costs[:, :, 0] = 0, 0
    bundle_of = np.array([0, 0, 0, 1, 1, -1])
    return Knapsack.of(values, costs, [70, 80], bundle_of=bundle_of, charges=rng.integers(1, 60, (2, 2)))


@pytest.mark.parametrize("seed", range(8))
def test_every_choice_is_the_bound_less_its_losses_less_its_priced_slack(seed: int) -> None:
    problem = bundled(seed)
    rows = Rows(problem.costs, problem.charges, problem.limits, np.zeros(2, bool))
    priced = Lagrangian(problem, rows).minimise()
    core = Core(problem, rows, priced)
    reached = {tuple(priced.choice.tolist())}
    for picks in itertools.product(*[[None, *range(len(item.losses))] for item in core.items(np.inf)]):
        choice, loss, slack = priced.choice.copy(), 0.0, priced.slack.copy()
        for item, pick in zip(core.items(np.inf), picks, strict=True):
            if pick is not None:
                choice[item.groups] = item.options[pick]
                loss += float(item.losses[pick])
                slack = slack - item.deltas[:, pick]
        assert (slack == problem.limits - problem.spend_of(choice)).all()
        assert problem.value_of(choice) == pytest.approx(priced.bound - loss - float((priced.multipliers * slack).sum()))
        reached.add(tuple(choice.tolist()))
        if len(reached) > 300:
            break
    everything = 4**6
    assert len(reached) > min(300, everything - 1)


def test_a_small_delta_leaves_only_what_loses_no_more() -> None:
    problem = bundled(1)
    rows = Rows(problem.costs, problem.charges, problem.limits, np.zeros(2, bool))
    core = Core(problem, rows, Lagrangian(problem, rows).minimise())
    delta = core.nth_loss(4)
    assert core.count(delta) == 4
    assert all((item.losses <= delta).all() for item in core.items(delta))
    assert sum(len(item.losses) for item in core.items(delta)) >= 4
