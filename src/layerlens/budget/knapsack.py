"""The problem: a multiple-choice knapsack with several budgets and shared charges, in integers.

Maximise  Σ_g values[g, x_g] - Σ_{b opened} fees[b]
subject   Σ_g costs[k, g, x_g] + Σ_{b opened} charges[k, b] <= limits[k]   for every budget k,

where every group g takes exactly one option x_g, and option 0 is "none" (value 0, cost 0; a group that must take
something has value -inf there). A bundle is a set of groups that share a charge: it is paid once as soon as one of
them takes an option other than none (layers that read the same input keep that input once for their backward pass).
Where the charge is not only limited but weighed against value, the bundle's fee is subtracted with it.

Costs are int64, so that sums are exact and no plan is ever over budget by a rounding error; values and fees are float64.
Axes: groups, options (padded with value -inf), budgets, bundles.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from layerlens.errors import ConfigError

#: Sums of costs stay below this, so that float64 holds them exactly where bounds are computed.
LARGEST_SUM = 2**53
#: Beyond so many options per group, comparing each with each costs more than it saves.
MANY_OPTIONS = 64


@dataclass(frozen=True)
class Knapsack:
    """One instance.

    Args:
        values: float64 [groups, options]; column 0 is none; -inf marks an option that is not there.
        costs: int64 [budgets, groups, options], not negative; column 0 is zero.
        limits: int64 [budgets].
        bundle_of: int64 [groups]; index of the group's bundle, -1 for none.
        charges: int64 [budgets, bundles], not negative.
        fees: float64 [bundles], not negative; value that opening a bundle takes away.
        counted: Sets of groups whose number of takers the solver may branch on: groups that pay a like lump.
    """

    values: Float[np.ndarray, "groups options"]
    costs: Int[np.ndarray, "budgets groups options"]
    limits: Int[np.ndarray, " budgets"]
    bundle_of: Int[np.ndarray, " groups"]
    charges: Int[np.ndarray, "budgets bundles"]
    fees: Float[np.ndarray, " bundles"]
    counted: list[Bool[np.ndarray, " groups"]] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        values: Float[np.ndarray, "groups options"],
        costs: Int[np.ndarray, "budgets groups options"],
        limits: Sequence[int] | Int[np.ndarray, " budgets"],
        *,
        bundle_of: Int[np.ndarray, " groups"] | None = None,
        charges: Int[np.ndarray, "budgets bundles"] | None = None,
        fees: Float[np.ndarray, " bundles"] | None = None,
        counted: list[Bool[np.ndarray, " groups"]] | None = None,
    ) -> Knapsack:
        """Build an instance and check it.

        Raises:
            ConfigError: a cost or fee is negative, a sum of costs leaves the exact range, or none is not free.
        """
        num_budgets, num_groups, _ = costs.shape
        bundle_of = np.full(num_groups, -1, np.int64) if bundle_of is None else bundle_of.astype(np.int64)
        charges = np.zeros((num_budgets, 0), np.int64) if charges is None else charges.astype(np.int64)
        fees = np.zeros(charges.shape[1]) if fees is None else fees
        faults = []
        if (costs < 0).any() or (charges < 0).any() or (fees < 0).any():
            faults.append("knapsack: a cost is negative; costs must be zero or more")
        if costs[:, :, 0].any() or not np.isin(values[:, 0], (0.0, -np.inf)).all():
            faults.append("knapsack: option 0 is none; it must cost nothing and be worth nothing")
        if np.isnan(values).any() or np.isposinf(values).any():
            faults.append("knapsack: a value is not a number; profile again")
        totals = costs.max(axis=2, initial=0).astype(float).sum(axis=1) + charges.astype(float).sum(axis=1)
        if (totals >= LARGEST_SUM).any():
            faults.append(f"knapsack: costs add up to {totals.max():.3g}, more than {LARGEST_SUM} units; use a larger unit")
        if faults:
            raise ConfigError.of(faults)
        return cls(values, costs.astype(np.int64), np.asarray(limits, np.int64), bundle_of, charges, fees, counted or [])

    @property
    def num_groups(self) -> int:
        return self.values.shape[0]

    @property
    def num_budgets(self) -> int:
        return self.costs.shape[0]

    def value_of(self, choice: Int[np.ndarray, " groups"]) -> float:
        """Add up the value of one option per group, less the fees, correctly rounded whatever the order."""
        values = self.values[np.arange(self.num_groups), choice].tolist()
        return math.fsum([*values, *(-self.fees[self.opened(choice)]).tolist()])

    def opened(self, choice: Int[np.ndarray, " groups"]) -> Int[np.ndarray, " bundles"]:
        """The bundles of which some group takes an option other than none."""
        return np.unique(self.bundle_of[(choice > 0) & (self.bundle_of >= 0)])

    def spend_of(self, choice: Int[np.ndarray, " groups"]) -> Int[np.ndarray, " budgets"]:
        """Add up what one option per group costs, charges included, exactly."""
        spend = self.costs[:, np.arange(self.num_groups), choice].sum(axis=1)
        return spend + self.charges[:, self.opened(choice)].sum(axis=1)

    def is_feasible(self, choice: Int[np.ndarray, " groups"]) -> bool:
        """Whether every option is there and every budget is kept."""
        is_there = np.isfinite(self.values[np.arange(self.num_groups), choice]).all()
        return bool(is_there and (self.spend_of(choice) <= self.limits).all())


def tidy(problem: Knapsack) -> Knapsack:
    """Write the same problem in fewer options and tighter budgets; choices keep their meaning.

    Options that another one of the same group makes pointless (at least its value, at most its costs) and options
    that exceed a budget on their own go; charges and fees of bundles with one member move into its options; limits come
    down to the greatest common divisor of their costs; a budget that another one implies goes too.
    """
    problem = _without_idle_bundles(problem)
    values = problem.values.copy()
    least = np.where(np.isfinite(values)[None], problem.costs, LARGEST_SUM).min(axis=2)
    room = problem.limits[:, None] - (least.sum(axis=1)[:, None] - least)
    values[(problem.costs > room[:, :, None]).any(axis=0)] = -np.inf
    _drop_dominated(values, problem.costs)
    problem = replace(problem, values=values)
    costs = np.where(np.isfinite(values)[None], problem.costs, 0)
    limits = problem.limits.copy()
    for k in range(problem.num_budgets):
        divisor = int(np.gcd(np.gcd.reduce(costs[k].ravel()), np.gcd.reduce(problem.charges[k], initial=0)))
        limits[k] = limits[k] // divisor * divisor if divisor else limits[k]
    keep = _binding(costs, problem.charges, limits)
    return replace(problem, costs=costs[keep], limits=limits[keep], charges=problem.charges[keep])


def _without_idle_bundles(problem: Knapsack) -> Knapsack:
    """Move charge and fee of a bundle with a single member, or with a member that must take something, out of the way."""
    bundle_of, charges, costs, limits = problem.bundle_of.copy(), problem.charges.copy(), problem.costs.copy(), problem.limits
    values, fees, counted = problem.values.copy(), problem.fees.copy(), list(problem.counted)
    is_required = ~np.isfinite(problem.values[:, 0])
    members = np.bincount(bundle_of[bundle_of >= 0], minlength=charges.shape[1])
    for bundle in range(charges.shape[1]):
        inside = np.flatnonzero(bundle_of == bundle)
        if is_required[inside].any():
            limits = limits - charges[:, bundle]
            values[inside[is_required[inside]][0], 1:] -= fees[bundle]
        elif members[bundle] == 1:
            costs[:, inside[0], 1:] += charges[:, bundle, None]
            values[inside[0], 1:] -= fees[bundle]
        elif charges[:, bundle].any() or fees[bundle]:
            continue
        charges[:, bundle], fees[bundle] = 0, 0.0
        bundle_of[inside] = -1
    return replace(
        problem, values=values, bundle_of=bundle_of, charges=charges, fees=fees, costs=costs, limits=limits, counted=counted
    )


def _drop_dominated(values: Float[np.ndarray, "groups options"], costs: Int[np.ndarray, "budgets groups options"]) -> None:
    """Set the value of pointless options to -inf, in place; of equals the first stays."""
    if (np.diff(costs, axis=2) >= 0).all():
        best_before = np.maximum.accumulate(values, axis=1)[:, :-1]
        values[:, 1:][values[:, 1:] <= best_before] = -np.inf
        return
    num_options = values.shape[1]
    if num_options > MANY_OPTIONS:
        return
    original = values.copy()
    for option in range(1, num_options):
        for other in range(num_options):
            if other == option:
                continue
            is_better = original[:, other] > original[:, option]
            is_first = (original[:, other] == original[:, option]) & (
                (costs[:, :, other] != costs[:, :, option]).any(axis=0) | (other < option)
            )
            is_cheaper = (costs[:, :, other] <= costs[:, :, option]).all(axis=0)
            values[(is_better | is_first) & is_cheaper, option] = -np.inf


def _binding(
    costs: Int[np.ndarray, "budgets groups options"],
    charges: Int[np.ndarray, "budgets bundles"],
    limits: Int[np.ndarray, " budgets"],
) -> list[int]:
    """Indices of the budgets that no other budget and no total implies; at least one is kept."""
    totals = costs.max(axis=2).sum(axis=1) + charges.sum(axis=1)
    open_ones = [k for k in range(len(limits)) if totals[k] > limits[k]]
    kept: list[int] = []
    for k in open_ones:
        others = [other for other in open_ones if other != k and limits[other] > 0 and limits[k] > 0]
        if not any(_implies(costs, charges, limits, other, k) for other in others):
            kept.append(k)
    return kept or [0]


def _implies(
    costs: Int[np.ndarray, "budgets groups options"],
    charges: Int[np.ndarray, "budgets bundles"],
    limits: Int[np.ndarray, " budgets"],
    other: int,
    budget: int,
) -> bool:
    """Whether keeping `other` keeps `budget`: each cost is no larger a share of it. Of two equal ones the first stays."""
    mine = np.concatenate([costs[budget].ravel(), charges[budget]])
    theirs = np.concatenate([costs[other].ravel(), charges[other]])
    if (mine / limits[budget] > theirs / limits[other] * (1 + 1e-9)).any():
        return False
    # Products of two costs leave int64: Python's integers decide.
    difference = mine.astype(object) * int(limits[other]) - theirs.astype(object) * int(limits[budget])
    return bool((difference <= 0).all()) and (other < budget or bool((difference < 0).any()))
