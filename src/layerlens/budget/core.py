"""The core: at given prices, the few ways to decide each group that a plan close to the bound can contain.

With prices λ every choice x has   value(x) = L(λ) - Σ loss(x_g) - λ·slack(x),   loss >= 0 and slack >= 0. So a plan within
δ of the bound uses only options with loss <= δ: the core (Balas and Zemel 1980; Pisinger 1995 for multiple choice).
Options that the core leaves out are fixed by this proof and not by a guess. A bundle is decided as a whole, because
its charge ties its groups together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from layerlens.budget.kinds import Kind
from layerlens.budget.knapsack import Knapsack
from layerlens.budget.lagrangian import Priced, Rows

#: Options that are not there lose infinitely much; no search reaches them.
LARGEST_LOSS = 1e300


@dataclass(frozen=True)
class Item:
    """The alternatives of one group or bundle to its choice at the current prices.

    Args:
        losses: float64 [alternatives]; how much bound each gives up.
        deltas: int64 [rows, alternatives]; what each spends beyond the current choice.
        groups: int64 [members]; the groups that it decides.
        options: int64 [alternatives, members]; the options that each alternative gives them.
    """

    losses: Float[np.ndarray, " alternatives"]
    deltas: Int[np.ndarray, "rows alternatives"]
    groups: Int[np.ndarray, " members"]
    options: Int[np.ndarray, "alternatives members"]


class Core:
    """Lists alternatives by loss."""

    def __init__(self, problem: Knapsack, rows: Rows, priced: Priced) -> None:
        self._problem = problem
        self._rows = rows
        self._priced = priced
        groups = np.arange(problem.num_groups)
        self._losses = priced.best[:, None] - priced.reduced
        self._base_cost = rows.costs[:, groups, priced.choice]
        self._bundles = [np.flatnonzero(problem.bundle_of == b) for b in range(problem.charges.shape[1])]
        self._bundles = [members for members in self._bundles if len(members)]
        own = self._losses.copy()
        own[groups, priced.choice] = np.inf
        own[problem.bundle_of >= 0] = np.inf
        self._own = own
        self._floors = np.sort(self._every_loss())

    def _every_loss(self) -> Float[np.ndarray, " alternatives"]:
        """A loss for each single alternative; for bundles, of changing one member or of opening or closing it."""
        losses = [self._own[np.isfinite(self._own)]]
        steps = [self._bundle(members, LARGEST_LOSS, is_single_step=True) for members in self._bundles]
        losses += [item.losses for item in steps if item is not None]
        return np.concatenate(losses)

    def count(self, delta: float) -> int:
        """How many single alternatives lose at most `delta`."""
        return int(np.searchsorted(self._floors, delta, side="right"))

    def nth_loss(self, count: int) -> float:
        """The loss that `count` single alternatives stay within; infinite where there are no more."""
        return float(self._floors[count - 1]) if 0 < count <= len(self._floors) else np.inf

    def least_loss_that_changes(self, kind: Kind) -> float:
        """The smallest loss of an alternative that changes how many of a kind are taken."""
        groups = np.arange(self._problem.num_groups)
        changes = kind.costs != kind.costs[groups, self._priced.choice][:, None]
        losses = [self._own[changes], np.abs(self._priced.opened[kind.charges > 0])]
        return float(np.concatenate(losses).min(initial=np.inf))

    def count_ties(self, kind: Kind, delta: float) -> int:
        """How many groups and bundles of a kind could change its count for a loss of `delta` at most."""
        groups = np.arange(self._problem.num_groups)
        changes = kind.costs != kind.costs[groups, self._priced.choice][:, None]
        own = (changes & (self._own <= delta)).any(axis=1).sum()
        return int(own + (np.abs(self._priced.opened[kind.charges > 0]) <= delta).sum())

    def items(self, delta: float) -> list[Item]:
        """All alternatives that lose at most `delta`, those with the largest steps first."""
        delta = min(delta, LARGEST_LOSS)
        found = []
        for group in np.flatnonzero((self._own <= delta).any(axis=1)).tolist():
            options = np.flatnonzero(self._own[group] <= delta)
            deltas = self._rows.costs[:, group, options] - self._base_cost[:, group, None]
            found.append(Item(self._own[group, options], deltas, np.array([group]), options[:, None]))
        for members in self._bundles:
            item = self._bundle(members, delta)
            if item is not None:
                found.append(item)
        weight = np.maximum(np.abs(self._priced.multipliers), 1e-300)[:, None]
        sizes = [float((weight * np.abs(item.deltas)).max()) for item in found]
        return [found[i] for i in sorted(range(len(found)), key=lambda i: (-sizes[i], i))]

    def _bundle(self, members: Int[np.ndarray, " members"], delta: float, *, is_single_step: bool = False) -> Item | None:
        """Alternatives of a bundle: closing it, or opening it with any mix of its members' options."""
        bundle = int(self._problem.bundle_of[members[0]])
        opened = float(self._priced.opened[bundle])
        base = self._priced.choice[members]
        is_open = bool((base > 0).any())
        opening = max(0.0, -opened)
        losses, options = self._mixes(members, delta - opening, is_single_step=is_single_step)
        losses = losses + opening
        is_new = (options > 0).any(axis=1) & ~(is_open & (options == base).all(axis=1))
        losses, options = losses[is_new], options[is_new]
        if is_open and opened <= delta:
            losses = np.append(losses, opened)
            options = np.concatenate([options, np.zeros((1, len(members)), np.int64)])
        if not len(losses):
            return None
        charge = self._rows.charges[:, bundle, None]
        deltas = np.where((options > 0).any(axis=1), charge, 0) - (self._base_cost[:, members].sum(axis=1)[:, None])
        deltas = deltas - (charge if is_open else 0)
        for place, group in enumerate(members.tolist()):
            deltas = deltas + self._rows.costs[:, group, options[:, place]]
        return Item(losses, deltas, members, options)

    def _mixes(
        self, members: Int[np.ndarray, " members"], delta: float, *, is_single_step: bool
    ) -> tuple[Float[np.ndarray, " mixes"], Int[np.ndarray, "mixes members"]]:
        """Every mix of the members' options whose losses add up to `delta` at most; or only changes of one member."""
        best = self._priced.reduced[members].argmax(axis=1)
        losses = np.zeros(1 if delta >= 0 else 0)
        mixes = np.zeros((len(losses), 0), np.int64)
        if is_single_step:
            places, options = np.nonzero(np.isfinite(self._losses[members]))
            steps = np.repeat(best[None], len(places), axis=0)
            steps[np.arange(len(places)), places] = options
            return self._losses[members[places], options], steps
        for group in members.tolist():
            options = np.flatnonzero(self._losses[group] <= delta)
            sums = losses[:, None] + self._losses[group, options][None]
            first, second = np.nonzero(sums <= delta)
            losses = sums[first, second]
            mixes = np.concatenate([mixes[first], options[second][:, None]], axis=1)
        return losses, mixes
