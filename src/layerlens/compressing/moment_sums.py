"""Second moments of rows, in two forms: a Gram to fit by, and thin roots to price by.

    fitted to   Σ z zᵀ over three quarters of the samples, in full (or its diagonal)
    held out    a root R [rows features] with Rᵀ R = Σ z zᵀ over the last quarter, in expectation

A root is a sketch, R = Σ ε z with m = 512 independent signs ε for every row z, so that E Rᵀ R = m Σ z zᵀ. A price ½ ‖L E Rᵀ‖²
with two such roots costs m multiply-adds for each entry of E, however many tokens there were, and every token takes part in it.
Its relative spread is √(2 / m) for an error of rank one and far less for one that is spread over many directions. Where rows are
few features wide the Gram itself is kept and its root is taken, which is exact.

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
#: Numbers that are squared at once.
_SQUARED = 1 << 22
#: More rows than any features, so that a sum is packed and not kept as rows.
_MANY = 1 << 40
#: A sum of squares below that is none: of numbers so small float32 keeps no digits, and scaled to one they would be infinite.
_LEAST = 1e-30


class FittedSum:
    """Σ z zᵀ over the rows that are fitted to, or its diagonal.

    Args:
        features: Width of a row.
        is_full: Keep the Gram; otherwise its diagonal.
    """

    def __init__(self, features: int, *, is_full: bool) -> None:
        self.features = features
        self._gram = GramSum(features, _MANY) if is_full else None
        self._diagonal = torch.zeros(0 if is_full else features)

    def add(self, rows: Float[Tensor, "_ features"]) -> None:
        """Take rows in."""
        if not len(rows):
            return
        if self._gram is None:
            self._diagonal += rows.square().sum(0)
        else:
            self._gram.add(rows)

    def moments(self, trace: float) -> Float[Tensor, "features features"] | Float[Tensor, " features"]:
        """The sum at a trace that is given.

        It is given away: nothing can be added, and it cannot be asked for again.
        """
        if self._gram is None:
            found, values = float(self._diagonal.double().sum()), self._diagonal
        elif self._gram.num_rows == 0:
            return torch.zeros(self.features, self.features)
        else:
            found, values = self._gram.trace(), self._gram.full()
            self._gram.clear()
        return values.mul_(trace / found) if found > _LEAST else values.zero_()


class HeldRoot:
    """A thin root of Σ z zᵀ over held-out rows."""

    def __init__(self, features: int) -> None:
        self.features, is_exact = features, features <= SKETCH_ROWS
        self._gram = GramSum(features, _MANY) if is_exact else None
        self._sketch = torch.zeros(0 if is_exact else SKETCH_ROWS, features)

    def add(self, rows: Float[Tensor, "rows features"], seed: tuple[int, ...]) -> None:
        """Take rows in; equal seeds draw equal signs."""
        if self._gram is not None:
            self._gram.add(rows)
            return
        random = np.random.default_rng(seed)
        for start in range(0, len(rows), _TOKENS):
            some = rows[start : start + _TOKENS]
            self._sketch.addmm_(random_signs(random, SKETCH_ROWS, len(some)), some)

    def root(self, trace: float) -> Float[Tensor, "held_rows features"]:
        """R, scaled so that ‖R‖² is `trace`; one row of zeros where nothing was held out, or all of it is zero."""
        root = self._sketch
        if self._gram is not None and self._gram.num_rows:
            values, vectors = torch.linalg.eigh(self._gram.full().double())
            root = (vectors * values.clamp_min(0.0).sqrt()).T.float()
        return sized(root, trace)


def random_signs(random: np.random.Generator, rows: int, columns: int) -> Float[Tensor, "rows columns"]:
    """Independent ±1."""
    return torch.from_numpy(random.integers(0, 2, size=(rows, columns), dtype=np.int8)).float().mul_(2.0).sub_(1.0)


def sized(root: Float[Tensor, "rows features"], trace: float) -> Float[Tensor, "held_rows features"]:
    """A root scaled so that its squares sum to `trace`; one row of zeros where it has none."""
    found = squares(root)
    if found <= 0 or trace <= 0:
        return torch.zeros(1, root.shape[1])
    return root * (trace / found) ** 0.5


def fitted_bytes(features: int, *, is_full: bool) -> int:
    """Bytes of a `FittedSum`."""
    return gram_bytes(features, _MANY) if is_full else 4 * features


def held_bytes(features: int) -> int:
    """Bytes of a `HeldRoot`."""
    return gram_bytes(features, _MANY) if features <= SKETCH_ROWS else 4 * SKETCH_ROWS * features


def squares(values: Tensor) -> float:
    """‖values‖², summed in float64 over rows that are summed in float32."""
    if not values.numel():
        return 0.0
    # A table's squares all at once would be a second table.
    step = len(values) if values.ndim < 2 else max(1, _SQUARED * len(values) // values.numel())
    sums = [part.square().sum(-1, dtype=torch.float32) for part in values.split(step)]
    return float((torch.cat(sums) if values.ndim > 1 else sums[0]).sum(dtype=torch.float64))
