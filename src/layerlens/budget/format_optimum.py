"""The exact choice of formats under bytes.

Minimise  Σ_g loss[g, x_g]   subject to   Σ_g size[g, x_g] <= room,   one offer x_g for every group g.

It is a multiple-choice knapsack: the cheapest offer of a group is its "none"; any other costs the bytes beyond it and is
worth the loss that it avoids. The solver's gap is relative to that value, which the losses of the cheapest offers (nats at
two bits) can make many orders larger than the loss of a good plan. So the gap is proved relative to the loss: no offer
that alone loses more than a known plan is in a better one, which brings the scale down, and the rest is asked of the
solver as a finer tolerance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from layerlens.budget.format_menu import Offer, Selection
from layerlens.budget.knapsack import Knapsack
from layerlens.budget.solver import OPTIMAL, TOLERANCE, solve

#: Rounds of solving with fewer offers and a finer tolerance.
MAX_ROUNDS = 3
#: What sums of losses may be off by, as a share of the largest sum.
ROUNDING = 1e-13


@dataclass(frozen=True)
class FormatOptimum:
    """A proved choice.

    Args:
        selection: One offer per group.
        loss: What they lose together.
        bound: No choice within the room loses less.
        gap: (loss - bound) / loss, and 0 where nothing is lost.
        status: optimal, or what stopped the proof.
    """

    selection: Selection
    loss: float
    bound: float
    gap: float
    status: str


def staircase(offers: Sequence[Offer]) -> list[Offer]:
    """The offers that lose less than everything as cheap, cheapest first."""
    steps: list[Offer] = []
    for offer in sorted(offers, key=lambda each: (each.size_bytes, each.loss)):
        if not steps or offer.loss < steps[-1].loss:
            steps.append(offer)
    return steps


def optimal_formats(offers: Sequence[Sequence[Offer]], room_bytes: int, *, tolerance: float = TOLERANCE) -> FormatOptimum | None:
    """Find the choice of least loss.

    Args:
        offers: The offers of every group; none is empty.
        room_bytes: Bytes that they may take together.
        tolerance: Gap at which the choice counts as optimal.

    Returns:
        The choice with its proof; none where even the cheapest offers take more than the room.
    """
    stairs = [staircase(group) for group in offers]
    if sum(steps[0].size_bytes for steps in stairs) > room_bytes:
        return None
    found: FormatOptimum | None = None
    bound, finer = 0.0, tolerance
    for _ in range(MAX_ROUNDS):
        problem = _knapsack(stairs, room_bytes)
        start = [] if found is None else [np.array([steps.index(offer) for steps, offer in zip(stairs, found.selection)])]
        solution = solve(problem, incumbents=start, tolerance=finer)
        if solution.choice is None:
            break
        selection = tuple(steps[at] for steps, at in zip(stairs, solution.choice.tolist(), strict=True))
        loss = math.fsum(offer.loss for offer in selection)
        most = math.fsum(steps[0].loss for steps in stairs)
        bound = min(loss, max(bound, most - solution.bound - ROUNDING * most))
        gap = (loss - bound) / loss if loss > bound else 0.0
        found = FormatOptimum(selection, loss, bound, gap, OPTIMAL if gap <= tolerance else solution.status)
        if gap <= tolerance:
            break
        stairs = [[offer for offer in steps if offer.loss <= loss] for steps in stairs]
        most = math.fsum(steps[0].loss for steps in stairs)
        finer = min(finer, 0.5 * tolerance * loss / max(most - loss, loss))
    return found


def _knapsack(stairs: Sequence[Sequence[Offer]], room_bytes: int) -> Knapsack:
    """Bytes and loss against each group's cheapest offer; shorter groups are padded with offers that are not there."""
    width = max(len(steps) for steps in stairs)
    values = np.full((len(stairs), width), -np.inf)
    costs = np.zeros((1, len(stairs), width), np.int64)
    for number, steps in enumerate(stairs):
        values[number, : len(steps)] = [steps[0].loss - offer.loss for offer in steps]
        costs[0, number, : len(steps)] = [offer.size_bytes - steps[0].size_bytes for offer in steps]
    return Knapsack.of(values, costs, [room_bytes - sum(steps[0].size_bytes for steps in stairs)])
