"""The few vectors X that hold most of a positive semidefinite matrix K that is given by products alone: most of

    captured(X) = tr(Xᵀ K X) ≤ Σ_{i≤r} λ_i(K),   X orthonormal [size rank],

by Chebyshev-filtered subspace iteration. Each round: the block's Ritz values; a Chebyshev polynomial of K, small on all
that lies below the smallest of them, of a degree that lets the largest grow by 10⁴ at most; orthonormalisation.

Stop. Rounds were measured to cut what is missing to a third or less, so the last gain is twice what is still missing,
or more. Once it is at most 2 % of the energy left over, the error √(tr K − captured) is within .5 % of the best one. A
block that `_ROUNDS` rounds do not bring there is given up.

Filters multiply in the coarser type that the caller offers, unless so little is left over that its rounding would show.
Rounding is random: what it adds outside the leading span the next filter takes off, down to some 2⁻¹⁹ of the whole in
bfloat16.

Sources: Zhou, Saad, Tiago, Chelikowsky (2006), Parallel self-consistent-field calculations via Chebyshev-filtered
subspace acceleration; the start: Halko, Martinsson, Tropp (2011), arXiv 0909.4061; that no gap is needed: Musco, Musco
(2015), arXiv 1504.05477.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float32
from torch import Tensor

#: Vectors beyond the rank, which let the last ones converge.
OVERSAMPLING = 16
_ROUNDS = 7
#: Largest degree of the first filter, and of later ones, which mend less.
_DEGREE, _LATER_DEGREE = 4, 1
#: Largest growth that a filter may give the leading vector: beyond, the others drown in its rounding.
_GROWTH = 1e4
#: What the last gain may be of the energy left over.
_LAST_GAIN = 0.02
#: Least share left over for which coarse products serve.
_COARSE_SHARE = 2e-3
#: Share left over below which float32 cannot tell either.
_DROWNED_SHARE = 1e-5
#: Sizes up to which that is left to a decomposition in float64: above, its time and memory count, and all but that is found.
LARGEST_DOUBLE = 2048
_SEED = 0


class Seen(NamedTuple):
    """What a block sees: K X = back(weighted), Xᵀ K X = directᵀ weighted."""

    direct: Float32[Tensor, "large width"]
    weighted: Float32[Tensor, "large width"]


@dataclass(frozen=True)
class Products:
    """K as products with matrices: K = M A Mᵀ, each factor left out where it is the identity.

    Attributes:
        chain: Matrices whose product is M [size large], in one type.
        metric: A [large large], or its diagonal, in that type.
    """

    chain: tuple[Tensor, ...]
    metric: Tensor | None

    def see(self, block: Float32[Tensor, "size width"]) -> Seen:
        """Mᵀ X and A Mᵀ X."""
        direct = block
        for matrix in self.chain:
            direct = _times(matrix.t(), direct)
        return Seen(direct, direct if self.metric is None else _times(self.metric, direct))

    def back(self, weighted: Float32[Tensor, "large width"]) -> Float32[Tensor, "size width"]:
        """M times what was seen."""
        for matrix in reversed(self.chain):
            weighted = _times(matrix, weighted)
        return weighted

    def to(self, dtype: torch.dtype) -> Products:
        """The same in another type."""
        return Products(tuple(matrix.to(dtype) for matrix in self.chain), None if self.metric is None else self.metric.to(dtype))


def leading_subspace(exact: Products, coarse: Products, rank: int, energy: float) -> Seen | None:
    """Find what the leading eigenvectors see, by exact products; they themselves are of no use here.

    Args:
        exact: K in float32.
        coarse: The same in a coarser type, or in float32 again.
        rank: How many; with `OVERSAMPLING` at most the size.
        energy: tr K.

    Returns:
        What orthonormal vectors see, each the best addition to those before it in their span; None where the iteration did not
        converge, or less is left over than float32 resolves and the matrix is small enough for more.
    """
    width, large = rank + OVERSAMPLING, exact.chain[-1].shape[1]
    draw = torch.randn(large, width, generator=torch.Generator().manual_seed(_SEED)).to(exact.chain[0].device)
    products, last, degree = coarse, 0.0, _DEGREE
    block = torch.linalg.qr(products.back(draw))[0]
    for _ in range(_ROUNDS):
        seen = products.see(block)
        values, vectors = torch.linalg.eigh(seen.direct.t() @ seen.weighted)
        captured = values[-rank:].double().sum().item()
        left = max(energy - captured, 0.0)
        if products is coarse and left < _COARSE_SHARE * energy and exact is not coarse:
            products, last, seen = exact, 0.0, exact.see(block)
        elif left < _DROWNED_SHARE * energy:
            return None if len(block) <= LARGEST_DOUBLE else _ordered(exact.see(block), rank)
        elif captured - last <= _LAST_GAIN * left:
            return _ordered(exact.see(block), rank)
        else:
            last = captured
        block = _filtered(products, block @ vectors, seen.weighted @ vectors, values, degree)
        block, degree = torch.linalg.qr(block)[0], _LATER_DEGREE
    return None


def _ordered(seen: Seen, rank: int) -> Seen:
    turn = torch.linalg.eigh(seen.direct.t() @ seen.weighted)[1].flip(1)[:, :rank]
    direct = seen.direct @ turn
    return Seen(direct, direct if seen.weighted is seen.direct else seen.weighted @ turn)


def _filtered(
    products: Products,
    block: Float32[Tensor, "size width"],
    weighted: Float32[Tensor, "large width"],
    values: Float32[Tensor, " width"],
    degree: int,
) -> Float32[Tensor, "size width"]:
    """T_m(2K / λ − I) X for the interval [0, λ] up to the smallest Ritz value, from what X saw."""
    half, top = values[0].item() / 2.0, values[-1].item()
    after = products.back(weighted)
    if half <= torch.finfo(values.dtype).eps * top:
        return after
    # The first that m steps of cosh grow beyond the limit is one too many.
    growth = math.acosh(max(1.0, top / half - 1.0))
    while degree > 1 and degree * growth > math.log(_GROWTH):
        degree -= 1
    before, after = block, after / half - block
    for _ in range(degree - 1):
        before, after = after, (products.back(products.see(after).weighted) / half - after) * 2.0 - before
    return after


def _times(matrix: Tensor, block: Tensor) -> Tensor:
    if matrix.dim() == 1:
        return matrix.float().unsqueeze(1) * block
    return (matrix @ block.to(matrix.dtype)).float()
