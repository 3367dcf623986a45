"""The bound: least over multipliers of the knapsack with its budgets priced instead of kept.

    L(λ) = Σ_bundles max(0, Σ_g max_j (values[g, j] - λ·costs[g, j]) - λ·charge - fee) + λ·limits,  λ >= 0 (free for equalities)

L is convex, piecewise linear and no smaller than any feasible value, whatever λ is; the least L is the bound of the
linear relaxation over whole bundles (Geoffrion 1974; Fisher 1981). It is minimised by the ellipsoid method with deep
cuts (Bland, Goldfarb and Todd 1981): few multipliers, exact subgradients, no step size to choose, and a proof of how
far the best value still is from the least. One evaluation is linear in the number of options.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from layerlens.budget.knapsack import Knapsack

#: Relative distance to the least bound at which the ellipsoid stops.
DUAL_TOLERANCE = 1e-9
MAX_CUTS = 4000
#: How far around a start to look, as a share of the bound there.
NEAR = 0.6


@dataclass(frozen=True)
class Rows:
    """The constraints of one node: the budgets, then counts of takers that branching has limited.

    Args:
        costs: int64 [rows, groups, options].
        charges: int64 [rows, bundles].
        limits: int64 [rows].
        is_equality: [rows]; an equality has a free multiplier and leaves no slack.
    """

    costs: Int[np.ndarray, "rows groups options"]
    charges: Int[np.ndarray, "rows bundles"]
    limits: Int[np.ndarray, " rows"]
    is_equality: Bool[np.ndarray, " rows"]


@dataclass(frozen=True)
class Priced:
    """The knapsack at one λ.

    Args:
        bound: L(λ).
        slack: int64 [rows]; limits minus what the best choice at these prices spends; a subgradient of L.
        choice: int64 [groups]; the best option of each group at these prices.
        reduced: float64 [groups, options]; values minus priced costs.
        best: float64 [groups]; the best reduced value of each group if its bundle is open.
        opened: float64 [bundles]; what the bundle is worth when open, its priced charge and its fee paid.
        multipliers: float64 [rows].
    """

    bound: float
    slack: Int[np.ndarray, " rows"]
    choice: Int[np.ndarray, " groups"]
    reduced: Float[np.ndarray, "groups options"]
    best: Float[np.ndarray, " groups"]
    opened: Float[np.ndarray, " bundles"]
    multipliers: Float[np.ndarray, " rows"]


@dataclass(frozen=True)
class _Point:
    """L(λ) with its subgradient: all that minimising needs."""

    bound: float
    slack: Float[np.ndarray, " rows"]
    multipliers: Float[np.ndarray, " rows"]


class Lagrangian:
    """Evaluates and minimises L for one node. Only options that are there take part, as one flat list."""

    def __init__(self, problem: Knapsack, rows: Rows) -> None:
        self.problem = problem
        self.rows = rows
        self._limits = rows.limits.astype(float)
        groups, options = np.nonzero(np.isfinite(problem.values))
        self._group, self._option = groups, options
        self._values = problem.values[groups, options]
        self._costs = rows.costs[:, groups, options].astype(float)
        self._charges = rows.charges.astype(float)
        self._starts = np.flatnonzero(np.diff(groups, prepend=-1))
        self._is_possible = len(self._starts) == problem.num_groups
        bundled = np.flatnonzero(problem.bundle_of >= 0)
        self._bundled, self._members = bundled, problem.bundle_of[bundled]
        self._num_bundles = problem.charges.shape[1] if len(bundled) else 0

    def at(self, multipliers: Float[np.ndarray, " rows"]) -> Priced:
        """Evaluate L(λ) with everything that a search of the core needs."""
        problem = self.problem
        if not self._is_possible:
            nothing = np.zeros(problem.num_groups, np.int64)
            return Priced(-np.inf, self.rows.limits, nothing, problem.values, nothing.astype(float), np.zeros(0), multipliers)
        reduced = problem.values.copy()
        for row, price in enumerate(multipliers.tolist()):
            if price != 0.0:
                reduced -= price * self.rows.costs[row]
        best = reduced.max(axis=1)
        opened = self._opened(multipliers, best)
        choice = self._choice(multipliers)
        slack = self.rows.limits - self.rows.costs[:, np.arange(problem.num_groups), choice].sum(axis=1)
        has_taker = np.unique(problem.bundle_of[(choice > 0) & (problem.bundle_of >= 0)])
        slack = slack - self.rows.charges[:, has_taker].sum(axis=1)
        return Priced(self._point(multipliers).bound, slack, choice, reduced, best, opened, multipliers)

    def choice_at(self, multipliers: Float[np.ndarray, " rows"]) -> Int[np.ndarray, " groups"]:
        """The best option of each group at these prices."""
        return self._choice(multipliers)

    def _reduced(self, multipliers: Float[np.ndarray, " rows"]) -> Float[np.ndarray, " alternatives"]:
        reduced = self._values.copy()
        for row, price in enumerate(multipliers.tolist()):
            if price != 0.0:
                reduced -= price * self._costs[row]
        return reduced

    def _opened(
        self, multipliers: Float[np.ndarray, " rows"], best: Float[np.ndarray, " groups"]
    ) -> Float[np.ndarray, " bundles"]:
        """What each bundle is worth when it is open."""
        charge = (multipliers[:, None] * self._charges).sum(axis=0) + self.problem.fees
        if not self._num_bundles:
            return -charge
        return np.bincount(self._members, weights=best[self._bundled], minlength=self._num_bundles) - charge

    def _picked(
        self, reduced: Float[np.ndarray, " alternatives"], best: Float[np.ndarray, " groups"]
    ) -> Int[np.ndarray, " groups"]:
        """Place in the flat list of each group's best option; of equals the first."""
        places = np.flatnonzero(reduced == best[self._group])
        return places[np.flatnonzero(np.diff(self._group[places], prepend=-1))]

    def _choice(self, multipliers: Float[np.ndarray, " rows"]) -> Int[np.ndarray, " groups"]:
        reduced = self._reduced(multipliers)
        best = np.maximum.reduceat(reduced, self._starts)
        choice = self._option[self._picked(reduced, best)]
        if self._num_bundles:
            closed = self._opened(multipliers, best) <= 0
            choice[self._bundled[closed[self._members]]] = 0
        return choice

    def _point(self, multipliers: Float[np.ndarray, " rows"]) -> _Point:
        if not self._is_possible:
            return _Point(-np.inf, np.zeros(len(multipliers)), multipliers)
        reduced = self._reduced(multipliers)
        best = np.maximum.reduceat(reduced, self._starts)
        picked = self._picked(reduced, best)
        total = float((multipliers * self._limits).sum())
        if not self._num_bundles:
            return _Point(total + float(best.sum()), self._limits - self._costs[:, picked].sum(axis=1), multipliers)
        opened = self._opened(multipliers, best)
        is_open = opened > 0
        counts = np.ones(len(best), bool)
        counts[self._bundled] = is_open[self._members]
        alone = np.ones(len(best), bool)
        alone[self._bundled] = False
        total += float(best[alone].sum()) + float(opened[is_open].sum())
        spend = self._costs[:, picked[counts]].sum(axis=1) + self._charges[:, is_open].sum(axis=1)
        return _Point(total, self._limits - spend, multipliers)

    def minimise(self, start: Float[np.ndarray, " rows"] | None = None, cutoff: float = -np.inf) -> Priced:
        """Find multipliers with the least L, up to `DUAL_TOLERANCE`, or stop once L is at or below `cutoff`.

        Args:
            start: Multipliers to look around: those of the node's parent. From there the search stays near, which
                is faster; a least L farther away only makes the bound weaker, never wrong.
            cutoff: A bound low enough.
        """
        scale = np.maximum(np.abs(self._limits), 1.0)
        radius = float(np.where(np.isfinite(self.problem.values), self.problem.values, 0.0).max(axis=1).sum()) or 1.0
        found = self._bisect(scale, radius) if self._is_single else self._ellipsoid(scale, radius, start, cutoff)
        return self.at(self._without_idle_prices(found).multipliers)

    @property
    def _is_single(self) -> bool:
        return len(self._limits) == 1 and not self.rows.is_equality[0]

    def _bisect(self, scale: Float[np.ndarray, " rows"], radius: float) -> _Point:
        """One budget: the slack grows with the price, so bisection finds where it changes sign."""
        best = self._point(np.zeros(1))
        low, high = 0.0, radius / float(scale[0])
        if best.slack[0] >= 0:
            return best
        for _ in range(200):
            middle = (low + high) / 2
            if not low < middle < high:
                break
            at = self._point(np.array([middle]))
            if at.bound < best.bound:
                best = at
            if at.slack[0] >= 0:
                high = middle
            else:
                low = middle
        return best

    def _ellipsoid(
        self, scale: Float[np.ndarray, " rows"], radius: float, start: Float[np.ndarray, " rows"] | None, cutoff: float
    ) -> _Point:
        n = len(scale)
        is_free = self.rows.is_equality
        center = np.where(is_free, 0.0, radius / (n + 1))
        if start is not None:
            center = start * scale
            radius = NEAR * abs(self._point(start).bound)
        shape = np.eye(n) * (radius * radius)
        best = self._point(np.where(is_free, center, np.maximum(center, 0.0)) / scale)
        for _ in range(MAX_CUTS):
            outside = np.where(is_free, 0.0, np.minimum(center, 0.0))
            if (outside < 0).any():
                worst = int(outside.argmin())
                gradient = np.zeros(n)
                gradient[worst] = -1.0
                excess = -float(outside[worst])
            else:
                at = self._point(center / scale)
                if at.bound < best.bound:
                    best = at
                    if best.bound <= cutoff:
                        return best
                gradient = at.slack / scale
                excess = at.bound - best.bound
            shaped = (shape * gradient).sum(axis=1)
            reach = float(np.sqrt(max(float((gradient * shaped).sum()), 0.0)))
            is_close = not (outside < 0).any() and reach - excess < DUAL_TOLERANCE * abs(best.bound)
            if reach == 0.0 or is_close or excess >= reach:
                return best
            depth = excess / reach
            direction = shaped / reach
            center = center - (1 + n * depth) / (n + 1) * direction
            if n == 1:
                shape = shape * ((1 - depth) / 2) ** 2
                continue
            shrink = n * n * (1 - depth * depth) / (n * n - 1)
            shape = shrink * (shape - 2 * (1 + n * depth) / ((n + 1) * (1 + depth)) * np.outer(direction, direction))
        return best

    def _without_idle_prices(self, found: _Point) -> _Point:
        """Set prices to zero that the ellipsoid only brought close to it: their budgets do not bind."""
        for row in range(len(found.multipliers)):
            if found.multipliers[row] != 0.0 and not self.rows.is_equality[row]:
                trial = found.multipliers.copy()
                trial[row] = 0.0
                at = self._point(trial)
                if at.bound <= found.bound + DUAL_TOLERANCE * abs(found.bound):
                    found = at
        return found
