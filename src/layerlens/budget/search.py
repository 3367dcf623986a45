"""Search of the core: every combination of alternatives that loses at most δ, states merged and bounded.

The quantity minimised is Σ loss + λ·slack over combinations with slack >= 0 (= 0 for equalities). States (loss, slack)
are extended item by item, largest steps first (Nemhauser and Ullmann 1969), and dropped when

- loss exceeds δ or the best total found;
- a bound says that what is left cannot bring the slack to rest: for any u <= λ,
  total >= loss + u·slack + Σ_left min(0, min_a loss_a - u·delta_a), a Lagrangian bound of the rest of the search;
- another state has spent exactly the same and lost no more (with one budget: spent no more and is worth as much).

So an exhausted search proves that no plan lies within δ of the bound but the one it returns. The work is counted in
states and never in seconds: the same input gives the same result on any machine.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from layerlens.budget.core import Item
from layerlens.budget.search_bounds import Alternatives, directions_of, reach_of, rests_of

#: Below so many states, exact bounds on each row are cheaper than a choice of directions.
FEW_STATES = 400
SAMPLE = 256
MAX_DIRECTIONS = 8


@dataclass(frozen=True)
class Found:
    """What a search found.

    Args:
        total: Least Σ loss + λ·slack; infinite where nothing fits.
        changes: The (group, option) pairs that reach it from the choice at the current prices.
        is_exhausted: Whether every combination within δ was looked at.
        work: States that were extended.
    """

    total: float
    changes: list[tuple[int, int]]
    is_exhausted: bool
    work: int


class _Trail:
    """How each state came about: append-only pairs (earlier node, item and alternative)."""

    def __init__(self) -> None:
        self._parents = [np.array([-1], np.int64)]
        self._steps = [np.array([-1], np.int64)]
        self._count = 1

    def extend(self, parents: Int[np.ndarray, " states"], item: int, alternative: int) -> Int[np.ndarray, " states"]:
        nodes = np.arange(self._count, self._count + len(parents))
        self._parents.append(parents)
        self._steps.append(np.full(len(parents), item * 2**32 + alternative, np.int64))
        self._count += len(parents)
        return nodes

    def changes(self, node: int, items: list[Item]) -> list[tuple[int, int]]:
        parents, steps = np.concatenate(self._parents), np.concatenate(self._steps)
        found: list[tuple[int, int]] = []
        while node > 0:
            item, alternative = divmod(int(steps[node]), 2**32)
            found.extend(zip(items[item].groups.tolist(), items[item].options[alternative].tolist()))
            node = int(parents[node])
        return sorted(found)


@dataclass
class _States:
    loss: Float[np.ndarray, " states"]
    slack: Int[np.ndarray, "rows states"]
    node: Int[np.ndarray, " states"]

    def take(self, which: Int[np.ndarray, " kept"]) -> _States:
        return _States(self.loss[which], self.slack[:, which], self.node[which])


def search(
    items: list[Item],
    slack: Int[np.ndarray, " rows"],
    multipliers: Float[np.ndarray, " rows"],
    is_equality: Bool[np.ndarray, " rows"],
    *,
    delta: float,
    work_limit: int,
    noise: float,
    good_enough: float = 0.0,
    patience: int = 0,
    width: int | None = None,
) -> Found:
    """Find the combination of alternatives with the least total, among those that lose at most `delta`.

    Args:
        items: Alternatives with their losses and spends; at most one of each item is taken.
        slack: int64 [rows]; what the current choice leaves; may be negative.
        multipliers: λ; zero or more except at equalities.
        is_equality: Rows that must end with no slack at all.
        delta: How much loss to look through.
        work_limit: States to extend at most.
        noise: Differences in value up to this are rounding.
        good_enough: Stop, unexhausted, at a total of this or less,
        patience: but only after so many states.
        width: Keep about so many states, spread over the slacks, and prove nothing: a heuristic.
    """
    slope = np.where(is_equality, 0.0, multipliers)
    trail = _Trail()
    states = _States(np.zeros(1), slack.reshape(-1, 1).copy(), np.zeros(1, np.int64))
    best, best_node = _best_end(states, slope, is_equality)
    threshold = min(delta, best)
    flat = Alternatives.of(items, len(slack))
    directions = directions_of(flat, slope, is_equality)
    rest = rests_of(flat, directions)
    gain, fall = reach_of(flat)
    work = 0
    last_merged = FEW_STATES
    for index, item in enumerate(items):
        if work + len(states.loss) * (1 + len(item.losses)) > 2 * work_limit:
            return Found(best, trail.changes(best_node, items), False, work)
        states = _extend(states, item, index, threshold, trail)
        work += len(states.loss)
        total, node = _best_end(states, slope, is_equality)
        if total < best:
            best, best_node = total, node
            threshold = min(threshold, best)
        if len(states.loss) > FEW_STATES:
            states = _bounded(states, directions, rest[index + 1], threshold)
        else:
            states = _reachable(states, slope, is_equality, gain[index + 1], fall[index + 1], threshold)
        if len(states.loss) > 1.3 * last_merged or (np.count_nonzero(~is_equality) == 1 and len(states.loss) > SAMPLE):
            states = _merged(states, slope, is_equality, noise)
            last_merged = max(FEW_STATES, len(states.loss))
        if width is not None and len(states.loss) > width:
            states = _thinned(states, slope, width)
        if not len(states.loss):
            break
        if work > work_limit or (best <= good_enough and work > patience):
            return Found(best, trail.changes(best_node, items), False, work)
    return Found(best, trail.changes(best_node, items), width is None, work)


def _extend(states: _States, item: Item, index: int, threshold: float, trail: _Trail) -> _States:
    """Take each alternative of one item, or none of them, from every state."""
    losses, slacks, nodes = [states.loss], [states.slack], [states.node]
    for alternative, loss in enumerate(item.losses.tolist()):
        which = np.flatnonzero(states.loss + loss <= threshold)
        if len(which):
            losses.append(states.loss[which] + loss)
            slacks.append(states.slack[:, which] - item.deltas[:, alternative : alternative + 1])
            nodes.append(trail.extend(states.node[which], index, alternative))
    return _States(np.concatenate(losses), np.concatenate(slacks, axis=1), np.concatenate(nodes))


def _best_end(states: _States, slope: Float[np.ndarray, " rows"], is_equality: Bool[np.ndarray, " rows"]) -> tuple[float, int]:
    """The least total among states that are plans as they stand, and its node."""
    fits = np.ones(len(states.loss), bool)
    for row in range(len(slope)):
        fits &= (states.slack[row] == 0) if is_equality[row] else (states.slack[row] >= 0)
    which = np.flatnonzero(fits)
    if not len(which):
        return np.inf, 0
    total = states.loss[which] + sum(slope[row] * states.slack[row, which] for row in range(len(slope)))
    first = int(total.argmin())
    return float(total[first]), int(states.node[which[first]])


def _bounded(
    states: _States, directions: Float[np.ndarray, "directions rows"], rest: Float[np.ndarray, " directions"], threshold: float
) -> _States:
    """Drop states by the few directions that drop most of a sample."""
    sample = states.take(np.arange(0, len(states.loss), max(1, len(states.loss) // SAMPLE)))
    bound = sample.loss[None] + (directions[:, :, None] * sample.slack[None].astype(float)).sum(axis=1) + rest[:, None]
    drops = bound > threshold
    for _ in range(MAX_DIRECTIONS):
        counts = drops.sum(axis=1)
        chosen = int(counts.argmax()) if len(counts) else 0
        if not len(counts) or counts[chosen] < max(2, 0.02 * drops.shape[1]):
            break
        bound_of_all = states.loss + rest[chosen]
        for row in np.flatnonzero(directions[chosen]).tolist():
            bound_of_all += directions[chosen, row] * states.slack[row]
        states = states.take(np.flatnonzero(bound_of_all <= threshold))
        drops &= ~drops[chosen]
    return states


def _reachable(
    states: _States,
    slope: Float[np.ndarray, " rows"],
    is_equality: Bool[np.ndarray, " rows"],
    gain: Int[np.ndarray, " rows"],
    fall: Int[np.ndarray, " rows"],
    threshold: float,
) -> _States:
    """Drop states that the remaining items cannot bring to rest, row by row."""
    keep = np.ones(len(states.loss), bool)
    least = states.loss.copy()
    for row in range(len(slope)):
        keep &= states.slack[row] + gain[row] >= 0
        if is_equality[row]:
            keep &= states.slack[row] - fall[row] <= 0
        else:
            least += slope[row] * np.maximum(0, states.slack[row] - fall[row])
    return states.take(np.flatnonzero(keep & (least <= threshold)))


def _merged(states: _States, slope: Float[np.ndarray, " rows"], is_equality: Bool[np.ndarray, " rows"], noise: float) -> _States:
    """Keep one of several states that have spent the same; with one budget, drop all that are no better in anything."""
    if np.count_nonzero(~is_equality) == 1:
        return _undominated(states, slope, is_equality, noise)
    key = np.zeros(states.slack.shape[1], np.int64)
    for row in range(len(slope)):
        key = key * np.int64(6364136223846793005) + states.slack[row]
    order = np.lexsort((states.loss, key))
    ordered = states.slack[:, order]
    is_new = np.ones(len(order), bool)
    is_new[1:] = (ordered[:, 1:] != ordered[:, :-1]).any(axis=0)
    return states.take(np.sort(order[is_new]))


def _undominated(
    states: _States, slope: Float[np.ndarray, " rows"], is_equality: Bool[np.ndarray, " rows"], noise: float
) -> _States:
    """With one budget: among states that agree in all equalities, drop those that have spent no less and are worth no more."""
    row = int(np.flatnonzero(~is_equality)[0])
    lost = states.loss + slope[row] * states.slack[row]
    rest = np.flatnonzero(is_equality)
    order = np.lexsort((lost, -states.slack[row], *states.slack[rest]))
    is_first = np.zeros(len(order), bool)
    is_first[0] = True
    for other in rest.tolist():
        is_first[1:] |= np.diff(states.slack[other, order]) != 0
    # Lowered group by group, so that one running minimum starts afresh in each.
    lowered = lost[order] - (np.cumsum(is_first) - 1) * (np.ptp(lost) + 1.0e-300)
    is_better = is_first
    is_better[1:] |= lowered[1:] < np.minimum.accumulate(lowered)[:-1] - noise
    return states.take(order[is_better])


def _thinned(states: _States, slope: Float[np.ndarray, " rows"], width: int) -> _States:
    """Keep the state of least loss in each cell of a grid over the two slacks that matter most."""
    spread = np.abs(slope) * np.ptp(states.slack, axis=1)
    rows = np.argsort(-spread, kind="stable")[:2]
    per_row = round(width ** (1 / len(rows)))
    cell = np.zeros(len(states.loss), np.int64)
    for row in rows.tolist():
        ranks = np.empty(len(states.loss), np.int64)
        ranks[np.argsort(states.slack[row], kind="stable")] = np.arange(len(ranks))
        cell = cell * per_row + ranks * per_row // len(ranks)
    order = np.lexsort((states.loss, cell))
    return states.take(np.sort(order[np.flatnonzero(np.diff(cell[order], prepend=-1))]))
