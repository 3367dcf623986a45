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

K is multiplied as M A Mᵀ. The long side of M is gone through in parts where it is a table's, so that beside a table and its
coarser copy nothing has as many rows.

Sources: Zhou, Saad, Tiago, Chelikowsky (2006), Parallel self-consistent-field calculations via Chebyshev-filtered
subspace acceleration; the start: Halko, Martinsson, Tropp (2011), arXiv 0909.4061; that no gap is needed: Musco, Musco
(2015), arXiv 1504.05477.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
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
#: Columns of M from which on they are those of a table, and how many of them are gone through at once.
LONG, COLUMNS_AT_ONCE = 16_384, 4096


class Seen(NamedTuple):
    """What a block X sees of M, or of some of its columns: Mᵀ X and A Mᵀ X."""

    direct: Float32[Tensor, "large width"]
    weighted: Float32[Tensor, "large width"]

    @property
    def form(self) -> Float32[Tensor, "width width"]:
        """Xᵀ K X."""
        return self.direct.t() @ self.weighted


@dataclass(frozen=True)
class Products:
    """K as products with matrices: K = M A Mᵀ, each factor left out where it is the identity.

    Attributes:
        chain: Matrices whose product is M [size large], in one type.
        metric: A [large large], or its diagonal, in that type.
    """

    chain: tuple[Tensor, ...]
    metric: Tensor | None

    @property
    def is_long(self) -> bool:
        """Whether M's columns are as many as a table's rows, and may be taken in parts."""
        return self.chain[-1].shape[1] >= LONG and (self.metric is None or self.metric.dim() == 1)

    def see(self, block: Float32[Tensor, "size width"]) -> Seen:
        """Mᵀ X and A Mᵀ X."""
        return self._see_part(self._along(block), slice(None))

    def form(self, block: Float32[Tensor, "size width"]) -> Float32[Tensor, "width width"]:
        """Xᵀ K X."""
        along = self._along(block)
        return reduce(Tensor.add_, (self._see_part(along, part).form for part in self._parts()))

    def times(self, block: Float32[Tensor, "size width"]) -> Float32[Tensor, "size width"]:
        """K X."""
        along = self._along(block)
        return self._back((part, self._see_part(along, part).weighted) for part in self._parts())

    def back(self, weighted: Float32[Tensor, "large width"]) -> Float32[Tensor, "size width"]:
        """M times what was seen."""
        return self._back([(slice(None), weighted)])

    def drawn(self, width: int, generator: torch.Generator) -> Float32[Tensor, "size width"]:
        """M times a random block."""
        device = self.chain[-1].device
        drawn = ((part, torch.randn(part.stop - part.start, width, generator=generator)) for part in self._parts())
        return self._back((part, draw.to(device)) for part, draw in drawn)

    def to(self, dtype: torch.dtype) -> Products:
        """The same in another type."""
        return Products(tuple(matrix.to(dtype) for matrix in self.chain), None if self.metric is None else self.metric.to(dtype))

    def _parts(self) -> list[slice]:
        large = self.chain[-1].shape[1]
        step = COLUMNS_AT_ONCE if self.is_long else large
        return [slice(start, min(start + step, large)) for start in range(0, large, step)]

    def _along(self, block: Tensor) -> Tensor:
        """All of Mᵀ X but the product with the last matrix."""
        for matrix in self.chain[:-1]:
            block = _times(matrix.t(), block)
        return block

    def _see_part(self, along: Tensor, part: slice) -> Seen:
        direct = _times(self.chain[-1][:, part].t(), along)
        if self.metric is None:
            return Seen(direct, direct)
        return Seen(direct, _times(self.metric[part] if self.metric.dim() == 1 else self.metric, direct))

    def _back(self, parts: Iterable[tuple[slice, Tensor]]) -> Tensor:
        """M times a block that comes in parts of its rows."""
        block = reduce(Tensor.add_, (_times(self.chain[-1][:, part], rows) for part, rows in parts))
        for matrix in reversed(self.chain[:-1]):
            block = _times(matrix, block)
        return block


@dataclass(frozen=True)
class Leading:
    """The leading vectors, or what holds as much but for the last half percent.

    Attributes:
        vectors: Orthonormal, each the best addition to those before it in their span.
        seen: What they see by exact products; None where that is as long as a table.
    """

    vectors: Float32[Tensor, "size rank"]
    seen: Seen | None


def leading_subspace(exact: Products, rank: int, energy: float, coarse: torch.dtype | None = None) -> Leading | None:
    """Find the leading eigenvectors of K.

    Args:
        exact: K in float32.
        rank: How many; with `OVERSAMPLING` at most the size.
        energy: tr K.
        coarse: A type in which products are cheaper; none for float32 alone.

    Returns:
        None where the iteration did not converge, or less is left over than float32 resolves and the matrix is small enough for
        more.
    """
    width = rank + OVERSAMPLING
    products, last, degree = exact if coarse is None else exact.to(coarse), 0.0, _DEGREE
    block = torch.linalg.qr(products.drawn(width, torch.Generator().manual_seed(_SEED)))[0]
    for _ in range(_ROUNDS):
        seen = None if products.is_long else products.see(block)
        values, vectors = torch.linalg.eigh(products.form(block) if seen is None else seen.form)
        captured = values[-rank:].double().sum().item()
        left = max(energy - captured, 0.0)
        if products is not exact and left < _COARSE_SHARE * energy:
            products, last = exact, 0.0
            seen = None if products.is_long else products.see(block)
        elif left < _DROWNED_SHARE * energy and len(block) <= LARGEST_DOUBLE:
            return None
        elif left < _DROWNED_SHARE * energy or captured - last <= _LAST_GAIN * left:
            # The coarse copy of a table fills the memory.
            del products, seen
            return _ordered(exact, block, rank)
        else:
            last = captured
        block = block @ vectors
        after = products.times(block) if seen is None else products.back(seen.weighted @ vectors)
        block = torch.linalg.qr(_filtered(products, block, after, values, degree))[0]
        degree = _LATER_DEGREE
    return None


def _ordered(exact: Products, block: Float32[Tensor, "size width"], rank: int) -> Leading:
    seen = None if exact.is_long else exact.see(block)
    turn = torch.linalg.eigh(exact.form(block) if seen is None else seen.form)[1].flip(1)[:, :rank]
    if seen is None:
        return Leading(block @ turn, None)
    direct = seen.direct @ turn
    return Leading(block @ turn, Seen(direct, direct if seen.weighted is seen.direct else seen.weighted @ turn))


def _filtered(
    products: Products,
    block: Float32[Tensor, "size width"],
    after: Float32[Tensor, "size width"],
    values: Float32[Tensor, " width"],
    degree: int,
) -> Float32[Tensor, "size width"]:
    """T_m(2K / λ − I) X for the interval [0, λ] up to the smallest Ritz value, from K X."""
    half, top = values[0].item() / 2.0, values[-1].item()
    if half <= torch.finfo(values.dtype).eps * top:
        return after
    # The first that m steps of cosh grow beyond the limit is one too many.
    growth = math.acosh(max(1.0, top / half - 1.0))
    while degree > 1 and degree * growth > math.log(_GROWTH):
        degree -= 1
    before, after = block, after / half - block
    for _ in range(degree - 1):
        before, after = after, (products.times(after) / half - after) * 2.0 - before
    return after


def _times(matrix: Tensor, block: Tensor) -> Tensor:
    if matrix.dim() == 1:
        return matrix.float().unsqueeze(1) * block
    return (matrix @ block.to(matrix.dtype)).float()
