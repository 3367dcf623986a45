"""The smallest size whose plan is predicted to reach a mean output cosine.

The predicted cosine of a matrix's outputs with the original's is  cos = sqrt(max(0, 1 - e²)),  e the relative error of
the outputs on calibration inputs: an approximation. It is exact where the error is orthogonal to what is left
(truncation), and a little low for rounding noise (1 / sqrt(1 + e²) there). The mean is over matrices, kept ones included.

At every size the formats are those of least predicted loss. The choices at a price per byte are such plans too, and cost
nothing to compute, so prices bracket the size; bisection between two neighbouring ones then ends at the byte. The mean
cosine of such plans rises with the size but for small steps back, so the size found is one at which the target is
reached and just below which it was not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from layerlens.artifacts.compression import Option
from layerlens.budget.format_menu import Menu, Offer, Selection
from layerlens.budget.format_optimum import FormatOptimum, optimal_formats, staircase
from layerlens.budget.solver import OPTIMAL
from layerlens.errors import InfeasibleBudgetError

PRICE_STEPS = 60


def mean_cosine(options: Sequence[Option]) -> float:
    """Predicted cosine of the outputs, mean over matrices."""
    return math.fsum(math.sqrt(max(0.0, 1.0 - option.output_error**2)) for option in options) / len(options)


def smallest_for_cosine(menu: Menu, target: float) -> FormatOptimum:
    """Find the smallest size.

    Args:
        menu: The groups and their offers.
        target: Mean cosine to reach.

    Returns:
        The plan of least predicted loss at this size.

    Raises:
        InfeasibleBudgetError: nothing on offer reaches the target; the highest cosine is named.
    """
    stairs = [staircase(group.offers) for group in menu.groups]
    cheapest, finest = tuple(steps[0] for steps in stairs), tuple(steps[-1] for steps in stairs)
    highest = mean_cosine(menu.options_of(finest))
    if highest < target:
        raise InfeasibleBudgetError(
            f"cosine: {target:g} is out of reach, the formats that lose least come to {highest:.6g}; "
            "ask for less or allow more formats"
        )
    if mean_cosine(menu.options_of(cheapest)) >= target:
        return _proved(cheapest)
    below, above = _bracket(menu, stairs, target)
    best = _proved(above)
    # Every plan's bytes differ from the cheapest one's by a multiple of this.
    unit = math.gcd(*(offer.size_bytes - steps[0].size_bytes for steps in stairs for offer in steps)) or 1
    start = _bytes(below)
    low, high = 0, (_bytes(above) - start) // unit
    while high - low > 1:
        middle = (low + high) // 2
        found = optimal_formats(stairs, start + middle * unit)
        if found is None or mean_cosine(menu.options_of(found.selection)) < target:
            low = middle
        else:
            # The best plan within some bytes is the best within those that it takes.
            best, high = found, (_bytes(found.selection) - start) // unit
    return best


def _bracket(menu: Menu, stairs: Sequence[Sequence[Offer]], target: float) -> tuple[Selection, Selection]:
    """Two neighbouring plans by price: one that misses the target, and a larger one that reaches it."""
    width = max(len(steps) for steps in stairs)
    losses, sizes = np.full((len(stairs), width), np.inf), np.zeros((len(stairs), width))
    for number, steps in enumerate(stairs):
        losses[number, : len(steps)] = [offer.loss for offer in steps]
        sizes[number, : len(steps)] = [offer.size_bytes for offer in steps]

    def at(price: float) -> Selection:
        choice = (losses + price * sizes).argmin(axis=1).tolist()
        return tuple(steps[place] for steps, place in zip(stairs, choice, strict=True))

    slopes = [(one.loss - other.loss) / (other.size_bytes - one.size_bytes) for steps in stairs for one, other in pairwise(steps)]
    low, high = math.log(min(slopes) / 2), math.log(max(slopes) * 2)
    below, above = tuple(steps[0] for steps in stairs), tuple(steps[-1] for steps in stairs)
    for _ in range(PRICE_STEPS):
        middle = (low + high) / 2
        found = at(math.exp(middle))
        if mean_cosine(menu.options_of(found)) >= target:
            low, above = middle, found
        else:
            high, below = middle, found
    return below, above


def _bytes(selection: Selection) -> int:
    return sum(offer.size_bytes for offer in selection)


def _proved(selection: Selection) -> FormatOptimum:
    """A plan that is the best within its bytes by its price: nothing as small loses less."""
    loss = math.fsum(offer.loss for offer in selection)
    return FormatOptimum(selection, loss, loss, 0.0, OPTIMAL)
