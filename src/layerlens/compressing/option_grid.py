"""Which options a matrix is given: integer widths, ranks of its factors, ranks that make good what low widths lose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from layerlens.artifacts.formats import FACTOR_BITS, RANK_STEP, WIDTHS, Scheme, integer, integer_low_rank, low_rank, size_bytes
from layerlens.linalg.whitened_factors import most_iterated

#: Ranks of a matrix's factors at most.
_MOST_RANKS = 12
#: Rows from which on a matrix is a table whose factors take at most the bytes of 4-bit codes: longer ones would fill the memory
#: for options that codes of as many bytes have beaten wherever it was measured.
_TABLE_ROWS = 16_384
#: Ranks of corrections, and the share of the smaller side that they may reach.
_CORRECTION_RANKS, _CORRECTION_SHARE = (16, 32, 64, 128), 0.25


@dataclass(frozen=True)
class OptionGrid:
    """The options that every matrix is given, where they fit it.

    Attributes:
        group_size: Features that share a scale.
        widths: Integer widths.
        factor_bits: Bits of a factor's number.
        corrected_widths: Widths that are corrected by factors.
        extra_ranks: Ranks beside those of the list, as a fixed rank asks for; rounded up to whole steps.
        is_iterated: Whether the list ends where all vectors of a large matrix would have to be decomposed: above a quarter of its
            smaller side, where codes of as many bytes have beaten factors wherever it was measured.
        damping: Ridge on the input Gram of second-order rounding, as a share of its mean eigenvalue.
        output_damping: The same of the output Gram.
        sweeps: Times that codes and scales descend together after rounding.
        two_sided_widths: Widths at which second-order rounding makes a row's error good in other rows too, where the output Gram
            is known in full: about half the loss, for five times the time.
    """

    group_size: int = 64
    widths: tuple[int, ...] = WIDTHS
    factor_bits: tuple[int, ...] = FACTOR_BITS
    corrected_widths: tuple[int, ...] = (4, 3, 2)
    extra_ranks: tuple[int, ...] = ()
    is_iterated: bool = False
    damping: float = 0.03
    output_damping: float = 0.03
    sweeps: int = 2
    two_sided_widths: tuple[int, ...] = WIDTHS

    @property
    def idle_widths(self) -> tuple[int, ...]:
        """Widths of a matrix that no sample's loss depends on: the widest alone, for somebody may use it yet."""
        return (max(self.widths),)

    def ranks(self, out_features: int, in_features: int) -> list[int]:
        """Ranks of a matrix's factors, in about equal ratios, until in 8 bits they take the bytes of 8-bit (tables: 4) codes."""
        most = self._most_rank(low_rank(RANK_STEP, 8, self.group_size), out_features, in_features)
        if most < RANK_STEP:
            return []
        spaced = np.geomspace(RANK_STEP, most, min(_MOST_RANKS, most // RANK_STEP))
        listed = {RANK_STEP * round(float(rank) / RANK_STEP) for rank in spaced}
        extra = {RANK_STEP * -(-rank // RANK_STEP) for rank in self.extra_ranks}
        return sorted(listed | {rank for rank in extra if rank <= min(out_features, in_features)})

    def factor_schemes(self, ranks: Sequence[int], factor_bits: int, out_features: int, in_features: int) -> list[Scheme]:
        """Low-rank schemes that take no more bytes than 8-bit codes."""
        schemes = [low_rank(rank, factor_bits, self.group_size) for rank in ranks]
        extra = {RANK_STEP * -(-rank // RANK_STEP) for rank in self.extra_ranks}
        limit = size_bytes(integer(8, self.group_size), out_features, in_features, 1)
        return [s for s in schemes if s.rank in extra or size_bytes(s, out_features, in_features, 1) <= limit]

    def corrections(self, bits: int, out_features: int, in_features: int) -> list[Scheme]:
        """Corrected codes of a width."""
        most = int(min(out_features, in_features) * _CORRECTION_SHARE)
        limit = size_bytes(integer(8, self.group_size), out_features, in_features, 1)
        schemes = [integer_low_rank(bits, rank, 8, self.group_size) for rank in _CORRECTION_RANKS if rank <= most]
        return [s for s in schemes if size_bytes(s, out_features, in_features, 1) <= limit]

    def _most_rank(self, scheme: Scheme, out_features: int, in_features: int) -> int:
        step = size_bytes(scheme, out_features, in_features, 1)
        widest = 4 if out_features >= _TABLE_ROWS else 8
        limit = size_bytes(integer(widest, self.group_size), out_features, in_features, 1)
        smaller = min(out_features, in_features)
        return RANK_STEP * min(limit // step, (most_iterated(smaller) if self.is_iterated else smaller) // RANK_STEP)


def kept_bytes(grid: OptionGrid, out_features: int, in_features: int) -> int:
    """Bytes that a matrix's options take on disk: codes of every width, and the longest factors of each kind in bfloat16."""
    shape = out_features, in_features
    codes = sum(size_bytes(integer(bits, grid.group_size), *shape, 2) for bits in grid.widths)
    corrected = [grid.corrections(bits, *shape) for bits in grid.widths if bits in grid.corrected_widths]
    # Whitened and plain ones; a correction's are kept in bfloat16 too, whatever it stores.
    ranks = 2 * max(grid.ranks(*shape), default=0) + sum(schemes[-1].rank for schemes in corrected if schemes)
    return codes + 2 * ranks * (out_features + in_features)
