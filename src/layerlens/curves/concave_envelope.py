"""The least concave, non-decreasing curve from zero that lies on or above the given points."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float


def concave_envelope(values: Float[np.ndarray, " ranks"]) -> Float[np.ndarray, " ranks"]:
    """Concave envelope of (0, 0), (1, values[0]), …, (R, values[R−1]), flat from its maximum on.

    Returns:
        The envelope at 1 … R in float64; never negative, non-decreasing, with non-increasing steps.
    """
    heights = np.concatenate(([0.0], np.asarray(values, dtype=np.float64)))
    peak = int(np.argmax(heights))
    hull: list[int] = []
    for point in range(peak + 1):
        while len(hull) >= 2 and _is_below(heights, hull[-2], hull[-1], point):
            hull.pop()
        hull.append(point)
    envelope = np.interp(np.arange(1, len(heights)), hull, heights[hull])
    return np.asarray(envelope, dtype=np.float64)


def _is_below(heights: Float[np.ndarray, " points"], first: int, middle: int, last: int) -> bool:
    """Whether the middle point lies on or under the chord of its neighbours."""
    return bool((heights[middle] - heights[first]) * (last - first) <= (heights[last] - heights[first]) * (middle - first))
