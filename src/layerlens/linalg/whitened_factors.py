"""The best factors up @ down of a matrix, in the metric of its loss: ½ tr(B E A Eᵀ) with E = up·down − W is least.

    K = Lᵀ W A Wᵀ L [out out], B = L Lᵀ      V_r: its leading eigenvectors
    down = V_rᵀ Lᵀ W      Θ = down A downᵀ, diagonal      up = W A downᵀ Θ⁻¹

`up` is the best one for its `down`, so that nothing but the diagonal Θ is inverted; for exact eigenvectors it is L⁻ᵀ
V_r, or V_r where there is no B. Rank i takes ½ θ_i up_iᵀ B up_i off the loss: one decomposition prices every rank. With
more rows than columns the transposed problem is solved (A and B change places), so that the smaller side is decomposed:
by `leading_subspace` where few vectors of a large matrix are asked for, else in full.

The root L is of B with a ridge of 10⁻⁶ of its mean eigenvalue, or as much as Cholesky's factorisation needs; it only
steers V. A Gram of zeros, of a matrix that nothing reached, is taken for the identity.

Sources: Eckart, Young (1936), in a weighted norm; A alone: Wang et al. (2024), arXiv 2403.07378 (SVD-LLM); both sides,
B diagonal: Hsu et al. (2022), arXiv 2207.00112. Float32; in full float64 up to 512, and up to 2,048 where an iteration
could not tell in float32. Sums in float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor

from layerlens.linalg.fast_products import fast_products
from layerlens.linalg.leading_subspace import (
    COLUMNS_AT_ONCE,
    LARGEST_DOUBLE,
    LONG,
    OVERSAMPLING,
    Products,
    Seen,
    leading_subspace,
)
from layerlens.linalg.quadratic_form import trace_form
from layerlens.linalg.singular_values import multiplies_bfloat16

#: A Gram in full, or its diagonal; None for the identity.
Metric = Float[Tensor, "..."] | None

#: Smallest side from which, and largest share of it up to which, iterating beats a full decomposition.
_SMALLEST_ITERATED = 512
_LARGEST_SHARE = 0.25
#: Smallest side up to which a full decomposition is in float64 where none was tried before.
_LARGEST_DOUBLE = 512
_RIDGE = 1e-6
#: Directions below this share of the leading one are rounding.
_DROWNED = {torch.float64: 1e-12, torch.float32: 1e-10}
#: Numbers of a table's factors that are gone through at once; rows of a Gram that are in float64 at once.
_NUMBERS_AT_ONCE, _ROWS_AT_ONCE = 1 << 23, 1024
_TINY = torch.finfo(torch.float64).tiny


@dataclass(frozen=True)
class Factors:
    """Factors of a matrix, leading ones first: those of a smaller rank are the first rows of these.

    Attributes:
        up: Left factor, transposed.
        down: Right factor.
        loss_of_rank: ½ tr(B E A Eᵀ) with 0, 1, … rank factors; float64, never rising.
    """

    up: Float32[Tensor, "rank out_features"]
    down: Float32[Tensor, "rank in_features"]
    loss_of_rank: Float64[Tensor, " ranks"]


@fast_products()
def whitened_factors(
    weight: Float[Tensor, "out_features in_features"],
    input_gram: Float[Tensor, "in_features in_features"],
    output_gram: Float[Tensor, "out_features out_features"] | Float[Tensor, " out_features"] | None,
    rank: int,
) -> Factors:
    """Factor a matrix so that its loss is least at every rank.

    Args:
        weight: W.
        input_gram: A = E[x xᵀ].
        output_gram: B = E[g gᵀ], its diagonal, or None for the identity.
        rank: Factors at most; no more than the smaller side come.
    """
    return _factors(weight.detach().float(), _seen(input_gram), _seen(output_gram), rank)


@fast_products()
def plain_factors(weight: Float[Tensor, "out_features in_features"], rank: int) -> Factors:
    """Factor a matrix so that ½ ‖up·down − W‖² is least at every rank: the truncated singular value decomposition.

    Args:
        weight: W.
        rank: Factors at most; no more than the smaller side come.
    """
    return _factors(weight.detach().float(), None, None, rank)


def most_iterated(smaller_side: int) -> int:
    """Largest rank for which a few vectors are iterated; beyond, and in small matrices, all are decomposed."""
    return int(_LARGEST_SHARE * smaller_side) - OVERSAMPLING if smaller_side >= _SMALLEST_ITERATED else smaller_side


def _factors(weight: Float32[Tensor, "rows columns"], inner: Metric, outer: Metric, rank: int) -> Factors:
    if weight.shape[0] > weight.shape[1]:
        turned = _factors(weight.t(), outer, inner, rank)
        return Factors(up=turned.down, down=turned.up, loss_of_rank=turned.loss_of_rank)
    rank = min(rank, len(weight))
    energy = _energy(weight, inner, outer)
    root = None if outer is None else _root(outer)
    is_iterated = len(weight) >= _SMALLEST_ITERATED and rank <= most_iterated(len(weight))
    products = Products((weight,) if root is None else (root.t(), weight), inner)
    coarse = torch.bfloat16 if multiplies_bfloat16(weight.device) else None
    found = leading_subspace(products, rank, energy, coarse) if is_iterated else None
    if products.is_long:
        vectors = _vectors_long(weight, inner, root, rank) if found is None else found.vectors
        down = (vectors if root is None else _times(root.to(vectors.dtype), vectors)).float().t() @ weight
        values, seen = _seen_long(weight, inner, down)
        return _priced(down, values, seen, outer, energy)
    dtype = torch.float64 if len(weight) <= (LARGEST_DOUBLE if is_iterated else _LARGEST_DOUBLE) else torch.float32
    across, weighted = (found and found.seen) or _decomposed(weight, inner, root, rank, dtype)
    values = (across * weighted).sum(0, dtype=torch.float64)
    return _priced(across.t(), values, weight.to(across.dtype) @ weighted, outer, energy)


def _priced(
    down: Float[Tensor, "rank large"],
    values: Float64[Tensor, " rank"],
    seen: Float[Tensor, "small rank"],
    outer: Metric,
    energy: float,
) -> Factors:
    """The factors of a `down`, with the diagonal of Θ = down A downᵀ and W A downᵀ."""
    is_kept = values > _DROWNED[down.dtype] * values.amax().clamp_min(_TINY) if len(values) else values > 0
    up = seen * torch.where(is_kept, 1.0 / values, 0.0).to(down.dtype)
    gains = values * is_kept * (up.double() * (up if outer is None else _times(outer.to(up.dtype), up))).sum(0)
    losses = 0.5 * (energy - torch.cat([gains.new_zeros(1), gains.clamp_min(0.0).cumsum(0)])).clamp_min(0.0)
    return Factors(up=up.t().float().contiguous(), down=down.float().contiguous(), loss_of_rank=losses)


def _decomposed(weight: Float32[Tensor, "small large"], inner: Metric, root: Metric, rank: int, dtype: torch.dtype) -> Seen:
    """downᵀ and A downᵀ by all eigenvectors."""
    scaled = (weight if root is None else _times(root.t(), weight)).to(dtype)
    gram = scaled @ scaled.t() if inner is None else _form(scaled, inner)
    vectors = torch.linalg.eigh((gram + gram.t()) / 2)[1].flip(1)[:, :rank]
    down = scaled.t() @ vectors
    return Seen(down, down if inner is None else _metric_times(inner, down))


def _vectors_long(
    weight: Float32[Tensor, "small large"], inner: Metric, root: Metric, rank: int
) -> Float64[Tensor, "small rank"]:
    """Leading eigenvectors of a table's K: only the Gram is float64, and beside it nothing has as many columns."""
    gram = _gram_long(weight, inner)
    if root is not None:
        double = root.double()
        gram = _times(double.t(), _times(double.t(), gram).t())
    return torch.linalg.eigh((gram + gram.t()) / 2)[1].flip(1)[:, :rank]


def _gram_long(weight: Float32[Tensor, "small large"], inner: Metric) -> Float64[Tensor, "small small"]:
    """W A Wᵀ."""
    gram = torch.zeros(len(weight), len(weight), dtype=torch.float64, device=weight.device)
    for start in range(0, weight.shape[1], COLUMNS_AT_ONCE):
        columns = slice(start, start + COLUMNS_AT_ONCE)
        part = weight[:, columns].double()
        gram += (part if inner is None else part * inner[columns]) @ part.t()
    return gram


def _seen_long(
    weight: Float32[Tensor, "small large"], inner: Metric, down: Float32[Tensor, "rank large"]
) -> tuple[Float64[Tensor, " rank"], Float32[Tensor, "small rank"]]:
    """The diagonal of down A downᵀ, and W A downᵀ, by a few rows of `down` at a time."""
    values, seen = torch.empty(len(down), dtype=torch.float64, device=down.device), down.new_empty(len(weight), len(down))
    step = max(1, _NUMBERS_AT_ONCE // weight.shape[1])
    for start in range(0, len(down), step):
        some = slice(start, start + step)
        weighted = down[some] if inner is None else down[some] * inner
        values[some] = (down[some] * weighted).sum(1, dtype=torch.float64)
        seen[:, some] = weight @ weighted.t()
    return values, seen


def _energy(weight: Float32[Tensor, "small large"], inner: Metric, outer: Metric) -> float:
    """tr(B W A Wᵀ)."""
    if inner is not None and inner.dim() == 2:
        return trace_form(weight, inner, outer)
    if outer is not None and outer.dim() == 2:
        return trace_form(weight.t(), outer, inner)
    if weight.shape[1] >= LONG:
        weighing = weight.new_ones(weight.shape[1]) if inner is None else inner
        rows = torch.stack([(row.square() * weighing).sum(dtype=torch.float64) for row in weight])
        return (rows if outer is None else rows * outer.double()).sum().item()
    squares = weight.square() if inner is None else weight.square() * inner
    sums = squares.sum(1, dtype=torch.float64 if len(weight) <= _LARGEST_DOUBLE else torch.float32).double()
    return (sums if outer is None else sums * outer.double()).sum().item()


def _seen(gram: Tensor | None) -> Tensor | None:
    """A Gram in float32; None where nothing was seen."""
    if gram is None:
        return None
    diagonal = gram if gram.dim() == 1 else gram.diagonal()
    return gram.float() if diagonal.double().sum().item() > 0.0 else None


def _root(gram: Float32[Tensor, "features features"] | Float32[Tensor, " features"]) -> Tensor:
    """L with L Lᵀ the Gram and its ridge, lower triangular; or its diagonal."""
    if gram.dim() == 1:
        return gram.clamp_min(0.0).sqrt()
    ridge = _RIDGE * gram.diagonal().double().mean().item()
    while True:
        factor, info = torch.linalg.cholesky_ex(gram + ridge * torch.eye(len(gram), device=gram.device))
        if info.item() == 0:
            return factor
        ridge *= 10.0


def _form(rows: Float[Tensor, "small large"], metric: Tensor) -> Float[Tensor, "small small"]:
    """W A Wᵀ in W's type, some of A's rows at a time: in float64 it would be the largest thing in memory."""
    if metric.dim() == 1:
        return rows @ _times(metric.to(rows.dtype), rows.t())
    parts = zip(rows.split(_ROWS_AT_ONCE, 1), metric.split(_ROWS_AT_ONCE), strict=True)
    return reduce(Tensor.add_, (some @ (weighing.to(rows.dtype) @ rows.t()) for some, weighing in parts))


def _metric_times(metric: Tensor, columns: Float[Tensor, "large width"]) -> Float[Tensor, "large width"]:
    """A times a block, in the block's type and as sparingly."""
    if metric.dim() == 1:
        return _times(metric.to(columns.dtype), columns)
    return torch.cat([rows.to(columns.dtype) @ columns for rows in metric.split(_ROWS_AT_ONCE)])


def _times(matrix: Tensor, columns: Tensor) -> Tensor:
    return matrix.unsqueeze(1) * columns if matrix.dim() == 1 else matrix @ columns
