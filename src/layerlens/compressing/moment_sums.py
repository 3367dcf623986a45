"""Second moments of a layer's inputs or output gradients, in two forms: a Gram to fit by, and a thin root to price by.

    fitted to   Σ z zᵀ over three quarters of the samples, in full (or its diagonal)
    held out    a root R [rows features] with Rᵀ R = Σ z zᵀ over the last quarter, in expectation

The root is a sketch, R = Σ ε z with m = 512 independent signs ε for every token, so that E Rᵀ R = m Σ z zᵀ. A price ½ ‖L E Rᵀ‖²
with two such roots costs m multiply-adds for each entry of E, however many tokens there were, and every token takes part in it.
Its relative spread is √(2 / m) for an error of rank one and far less for one that is spread over many directions. With no more
features than that the Gram itself is kept and its root is taken, which is exact.

Source: Hutchinson (1990), A stochastic estimator of the trace, for the sketch's spread. Sums in float32, scalars in float64.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from layerlens.linalg.gram import GramSum, gram_bytes

#: Rows of a sketch.
SKETCH_ROWS = 512
#: Columns up to which a Gram is kept in full.
MOST_FULL = 4096
#: Tokens that signs are drawn for at once.
_TOKENS = 1024
#: More rows than any features, so that a sum is packed and not kept as rows.
MANY_ROWS = 1 << 40


class HeldRoot:
    """A thin root of Σ z zᵀ over held-out rows."""

    def __init__(self, features: int) -> None:
        self.features, is_exact = features, features <= SKETCH_ROWS
        self._gram = GramSum(features, MANY_ROWS) if is_exact else None
        self._sketch = None if is_exact else torch.zeros(SKETCH_ROWS, features)
        self.square_sum = 0.0

    def add(self, rows: Float[Tensor, "rows features"], seed: tuple[int, ...]) -> None:
        """Take rows in; equal seeds draw equal signs."""
        self.square_sum += squares(rows)
        if self._gram is not None:
            self._gram.add(rows)
        elif self._sketch is not None:
            random = np.random.default_rng(seed)
            for start in range(0, len(rows), _TOKENS):
                some = rows[start : start + _TOKENS]
                drawn = random.integers(0, 2, size=(SKETCH_ROWS, len(some)), dtype=np.int8)
                self._sketch.addmm_(torch.from_numpy(drawn).to(rows).mul_(2.0).sub_(1.0), some)

    def root(self, square_sum: float) -> Float[Tensor, "held_rows features"]:
        """R, scaled so that ‖R‖² is `square_sum`: directions of the held-out rows, and another sum's size."""
        if self.square_sum == 0:
            # Nothing was held out, or all of it is zero.
            return torch.zeros(1, self.features)
        if self._sketch is not None or self._gram is None:
            root = torch.zeros(1, self.features) if self._sketch is None else self._sketch
        else:
            values, vectors = torch.linalg.eigh(self._gram.full().double())
            root = (vectors * values.clamp_min(0.0).sqrt()).T.float()
        found = squares(root)
        return root * (square_sum / found) ** 0.5 if found > 0 else torch.zeros_like(root)


class MomentSum:
    """Second moments of the rows of one layer's inputs or output gradients.

    Args:
        features: Width of a row.
        is_full: Keep the Gram; otherwise its diagonal.

    Attributes:
        square_sum: Σ ‖z‖² over all rows, fitted to and held out.
        num_rows: How many these were.
    """

    def __init__(self, features: int, *, is_full: bool) -> None:
        self.features, self.is_full = features, is_full
        self._gram = GramSum(features, MANY_ROWS) if is_full else None
        self._diagonal = None if is_full else torch.zeros(features)
        self._fitted_squares = 0.0
        self._held = HeldRoot(features)
        self.square_sum, self.num_rows = 0.0, 0

    def add(self, fitted: Float[Tensor, "_ features"], held: Float[Tensor, "_ features"], seed: tuple[int, ...]) -> None:
        """Take rows in, those that are fitted to and those that are held out."""
        self.num_rows += len(fitted) + len(held)
        if len(fitted):
            own = squares(fitted)
            self.square_sum += own
            self._fitted_squares += own
            if self._gram is not None:
                self._gram.add(fitted)
            elif self._diagonal is not None:
                self._diagonal += fitted.square().sum(0)
        if len(held):
            self.square_sum += squares(held)
            self._held.add(held, seed)

    def moments(self, divisor: float) -> Float[Tensor, "features features"] | Float[Tensor, " features"]:
        """Σ z zᵀ of the rows that are fitted to, or its diagonal, at the size of all rows' sum over `divisor`.

        The sum is given away: nothing can be added, and it cannot be asked for again.
        """
        scale = self.square_sum / (self._fitted_squares * divisor) if self._fitted_squares > 0 else 0.0
        if self._diagonal is not None:
            return self._diagonal * scale
        if self._gram is None or self._fitted_squares == 0:
            return torch.zeros(self.features, self.features)
        full = self._gram.full()
        self._gram.clear()
        return full.mul_(scale)

    def sized_moments(self, trace: float) -> Float[Tensor, "features features"] | Float[Tensor, " features"]:
        """The same at a trace that is given."""
        return self.moments(self.square_sum / trace) if trace > 0 and self.square_sum > 0 else self.moments(1.0).zero_()

    def sized_root(self, trace: float) -> Float[Tensor, "held_rows features"]:
        """Thin root of the held-out rows' moments, at a trace that is given."""
        return self._held.root(trace)

    def root(self, divisor: float) -> Float[Tensor, "held_rows features"]:
        """Thin root of the held-out rows' moments, at the size of all rows' sum over `divisor`."""
        return self._held.root(self.square_sum / divisor)


def held_bytes(features: int) -> int:
    """Bytes of a `HeldRoot`."""
    return gram_bytes(features, MANY_ROWS) if features <= SKETCH_ROWS else 4 * SKETCH_ROWS * features


def moment_bytes(features: int, *, is_full: bool) -> int:
    """Bytes of a `MomentSum`."""
    return held_bytes(features) + (gram_bytes(features, MANY_ROWS) if is_full else 4 * features)


def squares(values: Tensor) -> float:
    """‖values‖², summed in float64 over rows that are summed in float32."""
    return float(values.square().sum(-1, dtype=torch.float32).sum(dtype=torch.float64)) if values.numel() else 0.0
