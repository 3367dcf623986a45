"""The exact optimum of a knapsack, with the bound that proves it.

1. Tidy the instance; minimise the Lagrangian bound (`lagrangian`).
2. Search the core (`search`) within a δ that grows until no plan within δ of the bound is left unseen:
   then  value <= optimum <= max(value, L - δ).
3. Where lumps (charges paid once per group or bundle) keep plans away from the bound, branch on how many groups of a
   kind take anything: = n, < n, > n. With the count fixed the lumps are a constant and the bound closes.

The effort is limited in states and nodes, not in seconds. Optimality is claimed at a relative gap of 1e-6; small
instances are taken further, until the gap is nothing but rounding.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float, Int

from layerlens.budget.core import Core
from layerlens.budget.greedy import filled, priced_start
from layerlens.budget.highs import solve_with_highs
from layerlens.budget.kinds import kinds_of
from layerlens.budget.knapsack import Knapsack, tidy
from layerlens.budget.lagrangian import Lagrangian, Priced, Rows
from layerlens.budget.search import Found, search
from layerlens.budget.solution import INFEASIBLE, OPTIMAL, TOLERANCE, WORK_LIMIT, Solution, relative_gap

__all__ = ["INFEASIBLE", "OPTIMAL", "TOLERANCE", "WORK_LIMIT", "Solution", "relative_gap", "solve"]

#: While a solve has cost no more states than this, it goes on below the tolerance, down to `EXACT`.
CHEAP_WORK = 100_000
EXACT = 1e-10
#: Relative error of a bound or a loss.
ROUNDING = 1e-12
#: States per search at a node that can be branched, at a root with one scarce budget, and where no branching is left.
BRANCH_WORK = 10_000
SINGLE_WORK = 400_000
LEAF_WORK = 2_000_000
TOTAL_WORK = 8_000_000
MAX_NODES = 300
FEW_TIES = 8
#: A search starts with so many alternatives; δ grows by a factor, or to the end where that foresees so few states.
FIRST_ALTERNATIVES = 24
GROWTH = 1.7
JUMP_WORK = 400_000
BEAM_WIDTH = 1024
MANY_ALTERNATIVES = 1000


def solve(
    problem: Knapsack,
    *,
    incumbents: Sequence[Int[np.ndarray, " groups"]] = (),
    tolerance: float = TOLERANCE,
    cutoff: float = -np.inf,
) -> Solution:
    """Find the feasible choice of highest value.

    Args:
        problem: The instance.
        incumbents: Choices to start from; the result is never worse than a feasible one of them.
        tolerance: Relative gap at which the result counts as optimal.
        cutoff: Stop once the bound is at or below this: the caller has something as good.

    Returns:
        The choice with its proof. Status `infeasible` comes with no choice.
    """
    return _BranchAndBound(problem, tolerance, cutoff).run(incumbents)


@dataclass(order=True)
class _Node:
    priority: float
    number: int
    ranges: dict[int, tuple[int, int]] = field(compare=False)
    lagrangian: Lagrangian = field(compare=False)
    priced: Priced = field(compare=False)


class _BranchAndBound:
    def __init__(self, problem: Knapsack, tolerance: float, cutoff: float) -> None:
        self.original = problem
        self.problem = tidy(problem)
        self.tolerance = tolerance
        self.cutoff = cutoff
        self.kinds = kinds_of(problem, self.problem)
        self.choice: Int[np.ndarray, " groups"] | None = None
        self.value = -np.inf
        self.work = 0
        self.num_nodes = 0
        self.settled_bound = -np.inf

    def run(self, incumbents: Sequence[Int[np.ndarray, " groups"]]) -> Solution:
        for choice in incumbents:
            self._offer(choice)
        root = self._node({})
        if np.isfinite(root.priced.bound):
            start = priced_start(self.problem, root.lagrangian, root.priced.multipliers)
            if start is not None:
                self._offer(filled(self.problem, start, root.priced.reduced))
        is_stopped = False
        heap = [root]
        while heap:
            node = heapq.heappop(heap)
            if self._is_settled(node.priced.bound):
                self.settled_bound = max(self.settled_bound, node.priced.bound)
                continue
            if is_stopped or self.num_nodes > MAX_NODES or self.work > TOTAL_WORK:
                is_stopped = True
                self.settled_bound = max(self.settled_bound, node.priced.bound)
                continue
            free = [kind for kind in range(len(self.kinds)) if kind not in node.ranges or len(set(node.ranges[kind])) == 2]
            core = Core(node.lagrangian.problem, node.lagrangian.rows, node.priced)
            bound = self._deepen(node, core, self._effort(node, has_children=bool(free)))
            if self._is_settled(bound):
                self.settled_bound = max(self.settled_bound, bound)
            elif free:
                self._shrink(node)
                for child in self._children(node, core, free):
                    heapq.heappush(heap, child)
            else:
                is_stopped = True
                self.settled_bound = max(self.settled_bound, bound)
        if is_stopped and not self._is_proved(self.settled_bound):
            self._fall_back(root)
        return self._solution()

    def _effort(self, node: _Node, *, has_children: bool) -> int:
        """States to search at a node: many where nothing else is left, or where one scarce budget lets states dominate."""
        if not has_children:
            return LEAF_WORK
        is_single = not node.ranges and np.count_nonzero(node.priced.multipliers) <= 1
        return SINGLE_WORK if is_single else BRANCH_WORK

    def _fall_back(self, root: _Node) -> None:
        """Let HiGHS try what the search could not settle."""
        self._shrink(root)
        choice, bound = solve_with_highs(self.problem, self.tolerance / 4)
        if choice is not None:
            self._offer(choice)
        # HiGHS saw only what beats the incumbent of the time; `_solution` raises the bound to the value.
        self.settled_bound = min(self.settled_bound, bound)

    def _solution(self) -> Solution:
        if self.choice is None:
            status = INFEASIBLE if self.settled_bound == -np.inf else WORK_LIMIT
            return Solution(None, -np.inf, self.settled_bound, 0.0 if status == INFEASIBLE else np.inf, status, self.work)
        bound = max(self.value, self.settled_bound)
        gap = relative_gap(self.value, bound)
        is_closed = gap <= self.tolerance or bound <= self.cutoff
        return Solution(self.choice, self.value, bound, gap, OPTIMAL if is_closed else WORK_LIMIT, self.work)

    def _offer(self, choice: Int[np.ndarray, " groups"]) -> None:
        if self.original.is_feasible(choice):
            value = self.original.value_of(choice)
            if value > self.value:
                self.value, self.choice = value, choice.copy()

    def _tolerated(self) -> float:
        """How far the bound may stay above the value: less while the solve is cheap."""
        share = EXACT if self.work < CHEAP_WORK else 0.995 * self.tolerance
        return share * abs(self.value) if np.isfinite(self.value) else 0.0

    def _is_settled(self, bound: float) -> bool:
        return bound == -np.inf or bound <= max(self.value + self._tolerated(), self.cutoff)

    def _shrink(self, node: _Node) -> None:
        """At the root: drop every option that no better plan than the incumbent can contain."""
        if node.ranges or self.choice is None or not np.isfinite(node.priced.bound):
            return
        priced, bundle_of = node.priced, self.problem.bundle_of
        losses = priced.best[:, None] - priced.reduced
        is_bundled = bundle_of >= 0
        if is_bundled.any():
            losses[is_bundled, 1:] += np.maximum(0.0, -priced.opened[bundle_of[is_bundled]])[:, None]
            losses[is_bundled, 0] = 0.0
        within = losses <= self._missing(priced.bound) + ROUNDING * abs(priced.bound)
        values = np.where(within, self.problem.values, -np.inf)
        self.problem = replace(self.problem, values=values)

    def _is_proved(self, bound: float) -> bool:
        return self.choice is not None and bound <= self.value + self.tolerance * abs(self.value)

    def _node(self, ranges: dict[int, tuple[int, int]], parent: _Node | None = None) -> _Node:
        rows = self._rows(ranges)
        lagrangian = Lagrangian(self.problem, rows)
        start = self._start(parent, ranges, len(rows.limits)) if parent is not None else None
        priced = lagrangian.minimise(start, cutoff=max(self.value, self.cutoff))
        self.num_nodes += 1
        return _Node(-priced.bound, self.num_nodes, ranges, lagrangian, priced)

    def _start(self, parent: _Node, ranges: dict[int, tuple[int, int]], num_rows: int) -> Float[np.ndarray, " rows"]:
        """The parent's multipliers; new rows start at zero."""
        start = np.zeros(num_rows)
        start[: self.problem.num_budgets] = parent.priced.multipliers[: self.problem.num_budgets]
        return start

    def _rows(self, ranges: dict[int, tuple[int, int]]) -> Rows:
        problem = self.problem
        costs, charges, limits = [*problem.costs], [*problem.charges], problem.limits.tolist()
        is_equality = [False] * problem.num_budgets
        for kind, (low, high) in sorted(ranges.items()):
            counted = self.kinds[kind]
            for sign, limit in ((1, high), (-1, -low)):
                if low == high and sign < 0:
                    continue
                costs.append(sign * counted.costs)
                charges.append(sign * counted.charges)
                limits.append(limit)
                is_equality.append(low == high)
        return Rows(np.stack(costs), np.stack(charges), np.array(limits, np.int64), np.array(is_equality, bool))

    def _deepen(self, node: _Node, core: Core, work_limit: int) -> float:
        """Search the node's core within a growing δ; returns the bound that stands when it stops."""
        bound = node.priced.bound
        if not np.isfinite(bound):
            return bound
        delta = max(core.nth_loss(FIRST_ALTERNATIVES), EXACT * abs(bound))
        proved = bound
        spent = last = 0
        while True:
            delta = min(delta, self._missing(bound))
            if core.count(delta) == core.count(np.inf) and self.choice is None:
                delta = np.inf
            if self._is_proved(proved):
                work_limit = min(work_limit, spent + max(0, CHEAP_WORK - self.work))
            found = self._search(node, core, delta, work_limit - spent)
            spent += found.work
            if not found.is_exhausted:
                if work_limit == LEAF_WORK and not self._is_settled(proved):
                    self._look_wide(node, core)
                return proved
            proved = bound - min(delta, found.total)
            if delta >= self._missing(bound):
                # Nothing better than the incumbent is left unseen, whatever the last digit of `proved` says.
                return min(proved, self.value)
            if self._is_settled(proved) or delta == np.inf:
                return proved
            growth = found.work / max(last, 1)
            aim = EXACT if self._is_proved(proved) else self.tolerance
            delta = self._next_delta(core, delta, bound, found.work, growth, aim)
            last = found.work

    def _look_wide(self, node: _Node, core: Core) -> None:
        """Improve the incumbent by a wide but thin search."""
        delta = min(self._missing(node.priced.bound), core.nth_loss(min(MANY_ALTERNATIVES, core.count(np.inf))))
        self._search(node, core, delta, TOTAL_WORK, width=BEAM_WIDTH)

    def _search(self, node: _Node, core: Core, delta: float, work_limit: int, width: int | None = None) -> Found:
        """Search without the rows that cost nothing at these prices; with them only where the result breaks one."""
        priced, is_equality = node.priced, node.lagrangian.rows.is_equality
        binding = np.flatnonzero((priced.multipliers != 0.0) | is_equality)
        everything = np.arange(len(is_equality))
        items = core.items(delta)
        found = Found(np.inf, [], False, 0)
        for rows in [binding, everything] if 0 < len(binding) < len(everything) else [everything]:
            found = search(
                [replace(item, deltas=item.deltas[rows]) for item in items],
                priced.slack[rows],
                priced.multipliers[rows],
                is_equality[rows],
                delta=delta,
                work_limit=work_limit,
                noise=1e-13 * abs(priced.bound),
                good_enough=0.9 * self.tolerance * abs(priced.bound),
                patience=CHEAP_WORK - self.work,
                width=width,
            )
            self.work += found.work
            if not np.isfinite(found.total):
                break
            choice = priced.choice.copy()
            for group, option in found.changes:
                choice[group] = option
            self._offer(choice)
            if self.problem.is_feasible(choice):
                break
        return found

    def _missing(self, bound: float) -> float:
        """The δ that leaves nothing better than the incumbent unseen."""
        return bound - self.value if self.choice is not None else np.inf

    def _next_delta(self, core: Core, delta: float, bound: float, work: int, growth: float, tolerance: float) -> float:
        """Grow δ step by step, or at once to what settles the node where that is foreseeably little work."""
        wanted = max(self._missing(bound) - 0.99 * tolerance * abs(self.value), 1.05 * delta)
        if np.isfinite(wanted):
            steps = np.log(wanted / delta) / np.log(GROWTH)
            is_small = core.count(wanted) <= MANY_ALTERNATIVES
            if is_small and max(work, 100) * min(max(growth, 2.0), 6.0) ** steps <= JUMP_WORK:
                return float(wanted)
        return min(max(GROWTH * delta, core.nth_loss(min(core.count(delta) + 8, core.count(np.inf)))), wanted)

    def _children(self, node: _Node, core: Core, free: list[int]) -> list[_Node]:
        """Split the count of one kind into = n, < n and > n, with n where the bound is highest."""
        kind = min(free, key=lambda k: (core.least_loss_that_changes(self.kinds[k]), k))
        low, high = node.ranges.get(kind, (0, self.kinds[kind].largest))
        count = min(max(self.kinds[kind].count(node.priced.choice), low), high)
        if core.count_ties(self.kinds[kind], 1e-9 * abs(node.priced.bound)) > FEW_TIES:
            count = self._best_count(node, kind, low, high)
        pieces = ((count, count), (low, count - 1), (count + 1, high))
        return [self._node({**node.ranges, kind: piece}, node) for piece in pieces if piece[0] <= piece[1]]

    def _best_count(self, node: _Node, kind: int, low: int, high: int) -> int:
        """Where many ties leave the count open, the price of one more says on which side of it the bound rises."""
        while low < high:
            middle = (low + high) // 2
            rows = self._rows({**node.ranges, kind: (middle, middle)})
            at = Lagrangian(self.problem, rows).minimise()
            self.num_nodes += 1
            fixed = sorted({k for k, (least, most) in node.ranges.items() if least == most} | {kind})
            place = np.flatnonzero(rows.is_equality)[fixed.index(kind)]
            if at.multipliers[place] > 0:
                low = middle + 1
            else:
                high = middle
        return low
