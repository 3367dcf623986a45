"""What a solver answers: a choice, its value, and the bound that proves how good it is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

OPTIMAL = "optimal"
WORK_LIMIT = "work limit"
INFEASIBLE = "infeasible"

#: Relative gap at which a plan counts as optimal.
TOLERANCE = 1e-6


@dataclass(frozen=True)
class Solution:
    """A proved plan.

    Args:
        choice: int64 [groups]; the option of each group; none where nothing is feasible.
        value: Its value.
        bound: No choice within the budgets has a higher value.
        gap: (bound - value) / max(|value|, tiny).
        status: optimal, or what stopped the proof.
        work: States and nodes that it took.
    """

    choice: Int[np.ndarray, " groups"] | None
    value: float
    bound: float
    gap: float
    status: str
    work: int


def relative_gap(value: float, bound: float) -> float:
    """(bound - value) / |value|, and 0 where both are nothing."""
    difference = max(0.0, bound - value)
    return difference / max(abs(value), 1e-300) if difference > 0 else 0.0
