"""Uniform at a budget: the largest rank that fits everywhere, the rest as one rank more on evenly spaced layers.

Where rank 1 everywhere does not fit, rank 1 on as many evenly spaced layers as fit, and on what else fits then, from the top
down: beside dear layers the cheap ones would leave up to a third of a small budget unspent. The same rule fills every structured
candidate, over its own set of layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int

Fits = Callable[[Int[np.ndarray, " sites"]], bool]


def evenly_spaced(num_layers: int, num_chosen: int) -> Int[np.ndarray, " chosen"]:
    """Positions of `num_chosen` out of `num_layers`, as far apart as can be, the same for the same numbers."""
    return ((np.arange(num_chosen) + 0.5) * num_layers / max(num_chosen, 1)).astype(np.int64)


def uniform_sizes(
    largest: Int[np.ndarray, " sites"], members: Sequence[int], ranks: Sequence[int], fits: Fits
) -> Int[np.ndarray, " sites"] | None:
    """Spread a budget evenly over some sites.

    Args:
        largest: Largest rank that each site of the model can have; a narrow layer stays at its own.
        members: The sites that take part, in forward order.
        ranks: Ranks on offer, rising.
        fits: Whether sizes are within every budget.

    Returns:
        Sizes of all sites; none where not even the smallest rank on one site fits.
    """
    if not members or not ranks:
        return None
    inside = np.asarray(members, dtype=np.int64)

    number = _num_even(largest, inside, ranks, fits)
    if number == len(ranks):
        return _even(largest, inside, ranks[-1])
    even = _even(largest, inside, ranks[number - 1] if number else 0)
    # Spread sets of different sizes are not nested and their costs need not rise one by one: try from the top.
    for num_more in range(len(inside) - 1, 0, -1):
        raised = inside[evenly_spaced(len(inside), num_more)]
        sizes = even.copy()
        sizes[raised] = np.minimum(ranks[number], largest[raised])
        if fits(sizes):
            return sizes if number else _filled(sizes, inside, np.minimum(ranks[0], largest), fits)
    return even if number else None


def _filled(
    sizes: Int[np.ndarray, " sites"], inside: Int[np.ndarray, " members"], smallest: Int[np.ndarray, " sites"], fits: Fits
) -> Int[np.ndarray, " sites"]:
    """Sizes with the smallest rank on every further member that still fits, the last one first."""
    for member in inside[::-1]:
        if not sizes[member]:
            sizes[member] = smallest[member]
            if not fits(sizes):
                sizes[member] = 0
    return sizes


def even_sizes(
    largest: Int[np.ndarray, " sites"], members: Sequence[int], ranks: Sequence[int], fits: Fits
) -> Int[np.ndarray, " sites"] | None:
    """The largest rank that fits on every member at once, and nothing more; none where the smallest does not."""
    inside = np.asarray(members, dtype=np.int64)
    number = _num_even(largest, inside, ranks, fits) if len(inside) else 0
    return _even(largest, inside, ranks[number - 1]) if number else None


def _even(largest: Int[np.ndarray, " sites"], inside: Int[np.ndarray, " members"], rank: int) -> Int[np.ndarray, " sites"]:
    sizes = np.zeros(len(largest), dtype=np.int64)
    sizes[inside] = rank
    return np.minimum(sizes, largest)


def _num_even(largest: Int[np.ndarray, " sites"], inside: Int[np.ndarray, " members"], ranks: Sequence[int], fits: Fits) -> int:
    """How many of the ranks fit on every member at once."""
    return _largest(len(ranks), lambda count: count == 0 or fits(_even(largest, inside, ranks[count - 1])))


def _largest(stop: int, holds: Callable[[int], bool]) -> int:
    """The largest number in 0 … stop for which a property that holds up to some point still holds."""
    low, high = 0, stop
    while low < high:
        middle = (low + high + 1) // 2
        if holds(middle):
            low = middle
        else:
            high = middle - 1
    return low
