"""Bounds of a search: what the items that are still to come can do for a state.

For any prices u <= λ (free at equalities):  total >= loss + u·slack + Σ_left min(0, min_a loss_a - u·delta_a),
the Lagrangian bound of the rest of the search. A few directions of u, at several lengths, are tried; the sums over the
items from each place to the end are made once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from layerlens.budget.core import Item

#: Lengths of u, in units of a typical loss over a typical step.
LENGTHS = np.geomspace(0.03, 10.0, 7)


@dataclass(frozen=True)
class Alternatives:
    """All alternatives side by side; `starts` says where each item's begin."""

    losses: Float[np.ndarray, " alternatives"]
    deltas: Int[np.ndarray, "rows alternatives"]
    starts: Int[np.ndarray, " items"]

    @classmethod
    def of(cls, items: list[Item], num_rows: int) -> Alternatives:
        if not items:
            return cls(np.zeros(0), np.zeros((num_rows, 0), np.int64), np.zeros(0, np.int64))
        sizes = np.array([len(item.losses) for item in items])
        losses = np.concatenate([item.losses for item in items])
        return cls(losses, np.concatenate([item.deltas for item in items], axis=1), np.cumsum(sizes) - sizes)


def directions_of(
    flat: Alternatives, slope: Float[np.ndarray, " rows"], is_equality: Bool[np.ndarray, " rows"]
) -> Float[np.ndarray, "directions rows"]:
    """Prices u <= λ worth bounding with: along each row and along the main axes of the steps, at several lengths."""
    if not len(flat.starts):
        return np.zeros((0, len(slope)))
    steps = flat.deltas.astype(float)
    typical = np.abs(steps).max(axis=1)
    unit = 1.0 / np.maximum(typical, 1.0)
    scaled = steps * unit[:, None]
    axes = list(np.eye(len(slope)))
    if len(slope) > 1:
        covariance = (scaled[:, None, :] * scaled[None, :, :]).sum(axis=2)
        axes += list(np.linalg.eigh(covariance)[1].T)
    positive = flat.losses[flat.losses > 0]
    if not len(positive):
        return np.zeros((0, len(slope)))
    loss = float(np.median(positive))
    found = []
    for axis in axes:
        along = np.abs((axis[:, None] * scaled).sum(axis=0))
        if not (along > 0).any():
            continue
        length = loss / float(np.median(along[along > 0]))
        for factor in LENGTHS:
            for sign in (1.0, -1.0):
                price = sign * factor * length * axis * unit
                found.append(np.where(is_equality, price, np.minimum(price, slope)))
    return np.array(found).reshape(-1, len(slope))


def rests_of(
    flat: Alternatives, directions: Float[np.ndarray, "directions rows"]
) -> Float[np.ndarray, "items_and_end directions"]:
    """For each place in the order and each u, the least that the items from there on can add."""
    if not len(flat.starts) or not len(directions):
        return np.zeros((len(flat.starts) + 1, len(directions)))
    priced = np.repeat(flat.losses[None], len(directions), axis=0)
    for row in range(len(flat.deltas)):
        priced -= directions[:, row, None] * flat.deltas[row][None]
    return _from_the_end(np.minimum(0.0, np.minimum.reduceat(priced, flat.starts, axis=1)).T)


def reach_of(flat: Alternatives) -> tuple[Int[np.ndarray, "items_and_end rows"], Int[np.ndarray, "items_and_end rows"]]:
    """How far the items from each place on can raise and lower the slack of each row."""
    if not len(flat.starts):
        nothing = np.zeros((1, len(flat.deltas)), np.int64)
        return nothing, nothing
    gain = np.maximum(0, np.maximum.reduceat(-flat.deltas, flat.starts, axis=1)).T
    fall = np.maximum(0, np.maximum.reduceat(flat.deltas, flat.starts, axis=1)).T
    return _from_the_end(gain), _from_the_end(fall)


def _from_the_end(per_item: np.ndarray) -> np.ndarray:
    """Sums over the items from each place to the end; the last row is the empty sum."""
    sums = np.zeros((len(per_item) + 1, per_item.shape[1]), per_item.dtype)
    sums[:-1] = np.cumsum(per_item[::-1], axis=0)[::-1]
    return sums
