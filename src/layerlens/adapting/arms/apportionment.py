"""Ranks in proportion to scores, at an exact number of parameters.

Minimises how far whole ranks r_i lie from their ideal shares x_i = min(cap_i, λ s_i), where λ makes Σ c_i x_i = P, subject to

    Σ c_i r_i = P,    0 ≤ r_i ≤ cap_i,

c_i parameters per rank, s_i scores, P the parameters to spend. Every layer gets ⌊x_i⌋, then the largest remainders get one
rank more (Hamilton's method of apportionment, 1792), each only if what is left can still be made up of the layers' costs. Where
what is left can not, single ranks are taken back first. Equal scores give uniform ranks with the rest on evenly spaced layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd

import numpy as np
from jaxtyping import Bool, Float, Int

#: Halvings of the bracket around λ.
_HALVINGS = 200
#: Sums of costs, in units of their greatest common divisor, up to which it is looked up whether they can be made up;
#: widths of real models make up every larger one.
_LARGEST_TABLE = 1 << 16
#: Scores below this share of the largest count as this much, so that no share overflows.
_LEAST_SCORE = 1e-12
#: Remainders closer than this are equal.
_EQUAL = 1e-9


def apportion(scores: Sequence[float], costs: Sequence[int], caps: Sequence[int], params: int) -> list[int]:
    """Spend `params` on ranks in proportion to `scores`.

    Args:
        scores: Of each layer, not negative; a layer without a score gets nothing.
        costs: Parameters of one rank of each layer, above zero.
        caps: Largest rank of each layer.
        params: Parameters to spend.

    Returns:
        The ranks. They spend `params` exactly where the scored layers can make that up, else the most below it.
    """
    found = np.zeros(len(scores), dtype=np.int64)
    scored = np.flatnonzero(np.asarray(scores, dtype=np.float64) > 0.0)
    if len(scored) and params > 0:
        of = np.asarray(costs, dtype=np.int64)[scored]
        most = np.asarray(caps, dtype=np.int64)[scored]
        found[scored] = _apportioned(np.asarray(scores, dtype=np.float64)[scored], of, most, params)
    return [int(rank) for rank in found]


def _apportioned(
    scores: Float[np.ndarray, " layers"], costs: Int[np.ndarray, " layers"], caps: Int[np.ndarray, " layers"], params: int
) -> Int[np.ndarray, " layers"]:
    if int(costs @ caps) <= params:
        return caps
    unit = gcd(*(int(cost) for cost in costs))
    costs, left = costs // unit, params // unit
    while not _can_spend(left, costs, caps):
        left -= 1
    ideal = _shares(np.maximum(scores / scores.max(), _LEAST_SCORE), costs, caps, left)
    ranks = np.floor(ideal + _EQUAL).astype(np.int64)
    left -= int(costs @ ranks)
    turn = np.argsort(spread_order(len(ranks)))
    while not _can_spend(left, costs, caps - ranks):
        given_up = _first(np.where(ranks > 0, ranks - ideal, -np.inf), -turn)
        ranks[given_up] -= 1
        left += int(costs[given_up])
    while left > 0:
        fits = _fitting(left, costs, caps - ranks)
        if not fits.any():
            break
        chosen = _first(np.where(fits, ideal - ranks, -np.inf), turn)
        ranks[chosen] += 1
        left -= int(costs[chosen])
    return ranks


def spread_order(num: int) -> list[int]:
    """All of 0 … num − 1 in an order whose every beginning is spread evenly over them.

    Steps of about the golden section, free of a common divisor with `num`: so layers of one role, which come round at a fixed
    distance, take turns with the others.
    """
    step = round(num * (5**0.5 - 1) / 2) or 1
    while gcd(step, num) > 1:
        step += 1
    return [(num // 2 + step * turn) % num for turn in range(num)]


def _first(priority: Float[np.ndarray, " layers"], turn: Int[np.ndarray, " layers"]) -> int:
    """The layer of the highest priority; of equal ones that with the lowest turn."""
    best = np.flatnonzero(priority >= priority.max() - _EQUAL)
    return int(best[np.argmin(turn[best])])


def _shares(
    scores: Float[np.ndarray, " layers"], costs: Int[np.ndarray, " layers"], caps: Int[np.ndarray, " layers"], params: int
) -> Float[np.ndarray, " layers"]:
    """min(cap, λ s) that cost `params`, to rounding from below."""
    low, high = 0.0, float(params) / float((scores * costs).min())
    while float(costs @ np.minimum(caps, high * scores)) < params:
        high *= 2.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2.0
        if middle in (low, high):
            break
        if float(costs @ np.minimum(caps, middle * scores)) <= params:
            low = middle
        else:
            high = middle
    return np.minimum(caps, low * scores)


def _fitting(left: int, costs: Int[np.ndarray, " layers"], room: Int[np.ndarray, " layers"]) -> Bool[np.ndarray, " layers"]:
    """Layers that can take one rank more such that what is then left can still be spent."""
    fits = (room > 0) & (costs <= left)
    for cost in np.unique(costs[fits]).tolist():
        alike = fits & (costs == cost)
        one_less = room.copy()
        one_less[np.argmax(alike)] -= 1
        if not _can_spend(left - cost, costs, one_less):
            fits &= ~alike
    return fits


def _can_spend(left: int, costs: Int[np.ndarray, " layers"], room: Int[np.ndarray, " layers"]) -> bool:
    """Whether `left` is a sum of costs, each layer's used as often as it has room."""
    if left == 0 or left > _LARGEST_TABLE:
        return left == 0 or bool((room > 0).any())
    is_sum = np.zeros(left + 1, dtype=bool)
    is_sum[0] = True
    for cost in np.unique(costs).tolist():
        most = int(room[costs == cost].sum())
        for start in range(min(cost, left + 1)):
            found = is_sum[start::cost]
            at = np.arange(len(found))
            # How many of these costs lie between a sum and the next smaller one that was one before.
            last = np.maximum.accumulate(np.where(found, at, -most - 1))
            is_sum[start::cost] = at - last <= most
    return bool(is_sum[left])
