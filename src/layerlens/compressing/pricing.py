"""The price of an error, and of every rank of a pair of factors at once.

    loss(E)            ½ Σ over terms of ‖L E Rᵀ‖²                                              nats for each prediction
    ranks(E, up, down) the same of E + Σ_{k<r} up_k down_kᵀ, for r in a list, adding factor after factor

Products in float32, their squares summed in float64. Rows are taken a few thousand at a time, and so are long factors: beside a
matrix and its factors nothing of their size is made, an error included.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from layerlens.compressing.moment_sums import squares
from layerlens.compressing.sensitivity import PriceTerm, Sensitivity

#: Rows of a table that are priced together.
_ROWS = 2048
#: Numbers of a factor that are weighted at once.
_WEIGHTED = 1 << 23


@dataclass(frozen=True)
class Errors:
    """What an error costs, and its size.

    Attributes:
        loss: ½ tr(B E A Eᵀ), nats for each prediction.
        weight: ‖E‖ / ‖W‖.
        output: Relative size of what it does to the outputs.
    """

    loss: float
    weight: float
    output: float


class Pricer:
    """Prices errors of one matrix.

    Args:
        weight: The matrix.
        sensitivity: What errors cost.
    """

    def __init__(self, weight: Float[Tensor, "out_features in_features"], sensitivity: Sensitivity) -> None:
        self._sensitivity = sensitivity
        self._terms = list(sensitivity.terms)
        if sensitivity.inputs is not None:
            self._output = PriceTerm(weight.new_ones(len(weight)), sensitivity.inputs)
        else:
            # The outputs of a table are its rows.
            seen = weight.new_ones(len(weight)) if sensitivity.seen_rows is None else sensitivity.seen_rows
            self._output = PriceTerm(seen, torch.zeros(0, weight.shape[1]))
        self._weight_square = squares(weight)
        observed = self._observation()
        for rows, part in _placed(weight.split(_ROWS)):
            observed.add(rows, part)
        self._output_square = observed.total()

    def errors(self, error: Float[Tensor, "out_features in_features"]) -> Errors:
        """Of one error."""
        return self.errors_of_parts(error.split(_ROWS))

    def errors_of_parts(self, parts: Iterable[Float[Tensor, "_ in_features"]]) -> Errors:
        """Of an error that comes in parts of its rows, in order."""
        costs, observed = [_Cost(term) for term in self._terms], self._observation()
        weight = 0.0
        for rows, part in _placed(parts):
            weight += squares(part)
            for cost in [*costs, observed]:
                cost.add(rows, part)
        return self._relative(0.5 * sum(cost.total() for cost in costs), weight, observed.total())

    def ranks(
        self,
        error: Float[Tensor, "out_features in_features"],
        up: Float[Tensor, "rank out_features"],
        down: Float[Tensor, "rank in_features"],
        ranks: Sequence[int],
    ) -> list[Errors]:
        """Of `error` + up[:r]ᵀ down[:r], for each r of an increasing list."""
        losses = [0.5 * sum(costs) for costs in zip(*(_rank_costs(t, error, up, down, ranks) for t in self._terms), strict=True)]
        weights = _rank_squares(error, up, down, ranks)
        if self._sensitivity.inputs is None:
            outputs = _rank_squares(error, up, down, ranks, self._output.left)
        else:
            outputs = _rank_costs(self._output, error, up, down, ranks)
        return [self._relative(*found) for found in zip(losses, weights, outputs, strict=True)]

    def _observation(self) -> _Cost | _RowSum:
        if self._sensitivity.inputs is None:
            return _RowSum(self._output.left)
        return _Cost(self._output)

    def _relative(self, loss: float, weight_square: float, output_square: float) -> Errors:
        return Errors(
            loss,
            (weight_square / self._weight_square) ** 0.5 if self._weight_square > 0 else 0.0,
            (output_square / self._output_square) ** 0.5 if self._output_square > 0 else 0.0,
        )


class _Cost:
    """‖L E Rᵀ‖² of an error that comes in parts of its rows."""

    def __init__(self, term: PriceTerm) -> None:
        self._term = term
        self._by_row = 0.0
        self._seen: list[Tensor] = []

    def add(self, rows: slice, part: Float[Tensor, "_ in_features"]) -> None:
        seen = part @ self._term.right.T
        if self._term.left.ndim == 2:
            self._seen.append(seen)
        else:
            self._by_row += float((seen.square().sum(1) * self._term.left[rows]).sum(dtype=torch.float64))

    def total(self) -> float:
        return squares(self._term.left @ torch.cat(self._seen)) if self._seen else self._by_row


class _RowSum:
    """Σ over rows of weight · ‖row‖² of an error that comes in parts of its rows."""

    def __init__(self, weights: Float[Tensor, " out_features"]) -> None:
        self._weights, self._sum = weights, 0.0

    def add(self, rows: slice, part: Float[Tensor, "_ in_features"]) -> None:
        self._sum += _weighted_squares(part, self._weights[rows])

    def total(self) -> float:
        return self._sum


def _rank_costs(
    term: PriceTerm,
    error: Float[Tensor, "out_features in_features"],
    up: Float[Tensor, "rank out_features"],
    down: Float[Tensor, "rank in_features"],
    ranks: Sequence[int],
) -> list[float]:
    """‖L (E + up[:r]ᵀ down[:r]) Rᵀ‖² for each r: only the products with the thin roots grow."""
    right = down @ term.right.T
    if term.left.ndim == 2:
        return list(_growing(term.left @ (error @ term.right.T), up @ term.left.T, right, ranks))
    costs = [0.0] * len(ranks)
    for rows in _rows(len(error)):
        scale = term.left[rows].sqrt()
        base = (error[rows] @ term.right.T) * scale[:, None]
        for position, cost in enumerate(_growing(base, up[:, rows] * scale, right, ranks)):
            costs[position] += cost
    return costs


def _growing(base: Tensor, up: Tensor, down: Tensor, ranks: Sequence[int]) -> Iterator[float]:
    start = 0
    for rank in ranks:
        base = torch.addmm(base, up[start:rank].T, down[start:rank])
        start = rank
        yield squares(base)


def _rank_squares(
    error: Tensor, up: Tensor, down: Tensor, ranks: Sequence[int], row_weights: Tensor | None = None
) -> list[float]:
    """‖E + up[:r]ᵀ down[:r]‖² for each r, rows weighted, from the factors' own Grams and their products with E, in float64."""
    total = squares(error) if row_weights is None else _weighted_squares(error, row_weights)
    step = max(1, _WEIGHTED // up.shape[1])
    products: list[Tensor] = []
    grams = (down @ down.T).double()
    for start in range(0, len(up), step):
        some = slice(start, start + step)
        weighted = up[some] if row_weights is None else up[some] * row_weights
        products.append(((weighted @ error) * down[some]).sum(1, dtype=torch.float64))
        grams[some] *= weighted @ up.T
    crossed = 2.0 * torch.cat(products).cumsum(0)
    return [max(0.0, total + float(crossed[rank - 1]) + float(grams[:rank, :rank].sum())) for rank in ranks]


def _weighted_squares(error: Tensor, row_weights: Tensor) -> float:
    """Σ over rows of weight · ‖row‖²."""
    return sum(float((error[rows].square().sum(1) * row_weights[rows]).sum(dtype=torch.float64)) for rows in _rows(len(error)))


def _placed(parts: Iterable[Float[Tensor, "_ in_features"]]) -> Iterator[tuple[slice, Tensor]]:
    """Parts of a matrix's rows, in order, each with the rows that it is."""
    start = 0
    for part in parts:
        rows = slice(start, start + len(part))
        yield rows, part
        start = rows.stop


def _rows(count: int) -> Iterator[slice]:
    return (slice(start, min(start + _ROWS, count)) for start in range(0, count, _ROWS))
