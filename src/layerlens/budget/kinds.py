"""Kinds: groups and bundles that pay a like lump as soon as they are taken, counted so that a solver can branch on it.

A lump shows as a charge, or as costs that rise along a line which does not start at zero: 2 · cost(1) - cost(2) > 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from layerlens.budget.knapsack import Knapsack

#: Branching on more kinds costs more than it settles.
MAX_KINDS = 6
#: A smaller lump leaves no more of a budget unused than single steps do, and a rare one needs no count.
STEPS_PER_LUMP = 4
FEW_ALIKE = 3


@dataclass(frozen=True)
class Kind:
    """How many of some groups and bundles are taken, as a row: 1 for each option and charge that counts.

    Args:
        costs: int64 [groups, options]; 1 where the option counts.
        charges: int64 [bundles]; 1 where opening the bundle counts.
        bundle_of: int64 [groups]; as in the problem.
    """

    costs: Int[np.ndarray, "groups options"]
    charges: Int[np.ndarray, " bundles"]
    bundle_of: Int[np.ndarray, " groups"]

    def count(self, choice: Int[np.ndarray, " groups"]) -> int:
        """How many are taken by a choice."""
        opened = np.unique(self.bundle_of[(choice > 0) & (self.bundle_of >= 0)])
        return int(self.costs[np.arange(len(choice)), choice].sum() + self.charges[opened].sum())

    @property
    def largest(self) -> int:
        return int(self.costs.max(axis=1).sum() + self.charges.sum())


def kinds_of(original: Knapsack, tidied: Knapsack) -> list[Kind]:
    """Find the kinds of a problem: bundles with equal charges, and the sets of groups its maker has marked.

    Args:
        original: The problem as it was posed; its charges tell the kinds.
        tidied: The same problem without idle bundles; its bundles are what a search can open.
    """
    kinds = []
    charged = np.flatnonzero(original.charges.any(axis=0))
    columns = np.unique(original.charges[:, charged].T, axis=0) if len(charged) else np.zeros((0, 0), np.int64)
    for column in columns:
        costs = np.zeros(original.values.shape, np.int64)
        charges = np.zeros(original.charges.shape[1], np.int64)
        for bundle in charged[(column == original.charges[:, charged].T).all(axis=1)].tolist():
            members = np.flatnonzero(original.bundle_of == bundle)
            if (tidied.bundle_of == bundle).any():
                charges[bundle] = 1
            elif len(members) == 1:
                costs[members, 1:] = 1
        kinds.append(Kind(costs, charges, tidied.bundle_of))
    for marked in original.counted or _lumpy(original):
        costs = np.zeros(original.values.shape, np.int64)
        costs[marked, 1:] = 1
        kinds.append(Kind(costs, np.zeros(original.charges.shape[1], np.int64), tidied.bundle_of))
    return sorted((kind for kind in kinds if kind.largest > 0), key=lambda kind: -kind.largest)[:MAX_KINDS]


def _lumpy(problem: Knapsack) -> list[Bool[np.ndarray, " groups"]]:
    """Sets of groups whose first option costs the same lump beyond a step, where a lump is worth several steps."""
    if problem.costs.shape[2] < 3:
        return []
    first, second = problem.costs[:, :, 1], problem.costs[:, :, 2]
    lumps = np.maximum(0, 2 * first - second)
    lumps[lumps < STEPS_PER_LUMP * (second - first)] = 0
    found = []
    for lump in np.unique(lumps[:, lumps.any(axis=0)].T, axis=0):
        alike = (lumps == lump[:, None]).all(axis=0)
        if alike.sum() >= FEW_ALIKE:
            found.append(alike)
    return found
