"""The smallest size whose plan is predicted to reach a mean output cosine.

    minimise  Σ_g size[g, x_g]   subject to   Σ_g Σ_m (1 - cos[m, x_g]) <= n (1 - target),   one offer x_g for every group g

over the groups' members m, n matrices in all, kept ones included. The predicted cosine of a matrix's outputs with the
original's is  cos = sqrt(max(0, 1 - e²)),  e the relative error of the outputs on calibration inputs: an approximation. It is
exact where the error is orthogonal to what is left (truncation), and a little low for rounding noise (1 / sqrt(1 + e²) there).

It is the knapsack of `format_optimum` with its roles swapped: against the offer of the highest cosine, what another one loses
of it is its cost, and the bytes that it saves are its worth. Of a scheme's roundings the one of the highest cosine stands for
it, so no baseline on offer reaches the target in fewer bytes. Predicted losses have no say.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from layerlens.artifacts.compression import Option
from layerlens.budget.format_menu import MatrixGroup, Menu, Offer, Selection
from layerlens.budget.format_optimum import staircase
from layerlens.budget.knapsack import Knapsack
from layerlens.budget.solver import solve
from layerlens.errors import InfeasibleBudgetError

#: What the cosines of all matrices can lose together, in the whole units that the knapsack counts.
UNITS = 2**52
#: Units by which sums of cosines may be off.
ROUNDING = 4


@dataclass(frozen=True)
class Smallest:
    """The smallest plan found.

    Args:
        selection: One offer per group.
        gap_bytes: No plan that reaches the target is smaller by more than this; 0 is the proof.
    """

    selection: Selection
    gap_bytes: int = 0


def mean_cosine(options: Sequence[Option]) -> float:
    """Predicted cosine of the outputs, mean over matrices."""
    return math.fsum(map(_cosine, options)) / len(options)


def smallest_for_cosine(menu: Menu, target: float) -> Smallest:
    """Find the plan of fewest bytes.

    Args:
        menu: The groups and their offers.
        target: Mean cosine to reach.

    Returns:
        The plan and its proof.

    Raises:
        InfeasibleBudgetError: nothing on offer reaches the target; the highest cosine is named.
    """
    # Finest first: from step to step bytes are saved and cosine is lost.
    stairs = [staircase(_offers(group))[::-1] for group in menu.groups]
    finest, coarsest = tuple(steps[0] for steps in stairs), tuple(steps[-1] for steps in stairs)
    highest = _reached(menu, finest)
    if highest < target:
        raise InfeasibleBudgetError(
            f"cosine: {target:g} is out of reach, the formats that come nearest to it reach {highest:.6g}; "
            "ask for less or allow more formats"
        )
    if _reached(menu, coarsest) >= target:
        return Smallest(coarsest)
    number = len(menu.curves.matrices)
    spare = UNITS * (1 - target - math.fsum(offer.loss for offer in finest) / number)
    # Counted down, costs rule no plan out. Where what is found falls short of the target by that rounding, they are counted up.
    found = _fewest_bytes(stairs, math.ceil(spare) + ROUNDING, lambda lost: math.floor(UNITS * lost / number))
    if _reached(menu, found.selection) < target:
        found = _fewest_bytes(stairs, max(0, math.floor(spare) - ROUNDING), lambda lost: math.ceil(UNITS * lost / number))
    return found


def _fewest_bytes(stairs: Sequence[Sequence[Offer]], room_units: int, units_of: Callable[[float], int]) -> Smallest:
    """Save the most bytes at a loss of cosine within the room; shorter groups are padded with offers that are not there."""
    width = max(len(steps) for steps in stairs)
    # What plans differ by is a multiple of this, so a gap below it is none.
    unit_bytes = math.gcd(*(steps[0].size_bytes - offer.size_bytes for steps in stairs for offer in steps))
    values = np.full((len(stairs), width), -np.inf)
    costs = np.zeros((1, len(stairs), width), np.int64)
    for number, steps in enumerate(stairs):
        values[number, : len(steps)] = [(steps[0].size_bytes - offer.size_bytes) // unit_bytes for offer in steps]
        costs[0, number, : len(steps)] = [units_of(offer.loss - steps[0].loss) for offer in steps]
    finest = np.zeros(len(stairs), np.int64)
    solution = solve(Knapsack.of(values, costs, [room_units]), incumbents=[finest])
    choice = finest if solution.choice is None else solution.choice
    selection = tuple(steps[at] for steps, at in zip(stairs, choice.tolist(), strict=True))
    return Smallest(selection, unit_bytes * math.floor(solution.bound - solution.value))


def _offers(group: MatrixGroup) -> list[Offer]:
    """Every scheme by its rounding of the highest cosine; the loss is what the members' cosines lack of one."""
    found = []
    for scheme, members in group.roundings.items():
        options = [max(ways.values(), key=lambda way: (_cosine(way), -way.predicted_loss)) for ways in members]
        lost = math.fsum(1.0 - _cosine(option) for option in options)
        found.append(Offer(scheme, tuple(options), sum(option.size_bytes for option in options), lost))
    return found


def _reached(menu: Menu, selection: Selection) -> float:
    return mean_cosine(menu.options_of(selection))


def _cosine(option: Option) -> float:
    return math.sqrt(max(0.0, 1.0 - option.output_error**2))
