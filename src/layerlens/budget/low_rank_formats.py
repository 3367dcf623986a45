"""Plans of factors alone: the baseline of one ratio everywhere, and the fixed-rank form that a person asks for.

The ratio of a rank r is what its factors hold of the matrix's own parameters, r (out + in) / (out in), as SVD-LLM counts (Wang et
al. 2024, arXiv 2403.07378). Ranks are those of the curves: multiples of 16, from the floor up.
"""

from __future__ import annotations

from collections.abc import Sequence

from layerlens.artifacts.compression import Rounding
from layerlens.artifacts.formats import RANK_STEP, Format, Scheme, low_rank, size_bytes
from layerlens.budget.format_menu import MatrixGroup, Menu, Offer, Selection
from layerlens.budget.format_policy import check_ranks
from layerlens.budget.uniform_formats import LeftOut, integer_offer, kept_scheme, topped_up
from layerlens.errors import ConfigError
from layerlens.words import Role

FACTOR_BITS = 8
INTEGER_BITS = 8


def low_rank_plan(menu: Menu, limit_bytes: int, rounding: Rounding) -> Selection | LeftOut:
    """Choose the largest common ratio of 8-bit factors that fits.

    Embeddings, and matrices whose factors would not be smaller than 8-bit codes, are 8-bit codes rounded to nearest. Where the
    curves' next ratio is far, evenly spaced groups take it, as many as fit, so that the comparison is at the same bytes; where
    the curves end, it is at fewer.

    Args:
        menu: The groups and their offers.
        limit_bytes: Bytes of the whole folder's tensors at most.
        rounding: Plain or whitened factors.

    Returns:
        One offer per group, or why there is none.
    """
    codes = [integer_offer(menu, group, INTEGER_BITS, Rounding.NEAREST) for group in menu.groups]
    factors = [_factors(menu, group, rounding) for group in menu.groups]
    ratios = sorted({ratio for rungs in factors for ratio, _ in rungs})
    if not ratios:
        return LeftOut(f"no {rounding} factors of {FACTOR_BITS} bits are on offer")

    def at(ratio: float) -> Selection:
        return tuple(_rung(rungs, ratio, code) for rungs, code in zip(factors, codes, strict=True))

    smallest = menu.size_of(at(ratios[0]))
    if smallest > limit_bytes:
        return LeftOut(f"the smallest ranks everywhere take {smallest:,} bytes, {smallest - limit_bytes:,} more than there are")
    low, high = 0, len(ratios) - 1
    while low < high:
        middle = (low + high + 1) // 2
        if menu.size_of(at(ratios[middle])) <= limit_bytes:
            low = middle
        else:
            high = middle - 1
    base = at(ratios[low])
    return base if low == len(ratios) - 1 else topped_up(menu, limit_bytes, base, at(ratios[low + 1])) or base


def _factors(menu: Menu, group: MatrixGroup, rounding: Rounding) -> list[tuple[float, Offer]]:
    """Offers of 8-bit factors by ratio, rising; none for embeddings."""
    matrices = menu.matrices_of(group)
    if any(matrix.role is Role.EMBEDDING for matrix in matrices):
        return []
    sides = sum(matrix.out_features + matrix.in_features for matrix in matrices)
    parameters = sum(matrix.out_features * matrix.in_features for matrix in matrices)
    schemes = [
        scheme
        for scheme in group.roundings
        if scheme.format is Format.LOW_RANK and scheme.factor_bits == FACTOR_BITS and group.is_rounded(scheme, rounding)
    ]
    schemes.sort(key=lambda scheme: scheme.rank)
    return [(scheme.rank * sides / parameters, group.rounded(scheme, rounding)) for scheme in schemes]


def _rung(rungs: list[tuple[float, Offer]], ratio: float, codes: Offer) -> Offer:
    """The largest rank within the ratio, else the smallest; codes where those are no larger."""
    if not rungs:
        return codes
    factors = next((offer for at, offer in reversed(rungs) if at <= ratio), rungs[0][1])
    return factors if factors.size_bytes < codes.size_bytes else codes


def fixed_rank_plan(menu: Menu) -> Selection:
    """The fixed-rank form: factors of one rank for matrices with both sides long enough, the rest kept.

    Policies for the first block, the last block and roles go before the one rank. Word tables without a policy of their own, and
    matrices that factors would make no smaller, are kept too.

    Raises:
        ConfigError: the rank is above a matrix or not on its curve, the bits are not, a group's members differ in rank, or no
            matrix would become smaller.
    """
    config = menu.config
    if config.rank is None:
        raise ConfigError("rank: the fixed-rank form needs one; give --rank")
    ranks = [allowed.rank or config.rank for allowed in menu.allowed]
    # A word table is stored at the one rank only where a policy names its role: few ranks hold what its rows are told apart by.
    is_long = [
        min(matrix.out_features, matrix.in_features) >= config.min_dim
        and (matrix.role is not Role.EMBEDDING or allowed.rank is not None)
        for matrix, allowed in zip(menu.curves.matrices, menu.allowed, strict=True)
    ]
    if not any(is_long):
        longest = max(min(matrix.out_features, matrix.in_features) for matrix in menu.curves.matrices)
        raise ConfigError(
            f"min_dim: no matrix has both sides of {config.min_dim} or more, so nothing would be compressed; give --min-dim "
            f"{longest} or less"
        )
    check_ranks(
        menu.curves,
        [
            ("rank", rank) if is_asked and not allowed.kept_by else None
            for rank, is_asked, allowed in zip(ranks, is_long, menu.allowed, strict=True)
        ],
    )
    selection, faults = [], []
    for group in menu.groups:
        kept = group.rounded(kept_scheme(group), Rounding.NONE)
        has_factors = any(scheme.format is Format.LOW_RANK for scheme in group.roundings)
        if not has_factors or not all(is_long[place] for place in group.members):
            selection.append(kept)
            continue
        asked = {ranks[place] for place in group.members}
        found = [scheme for scheme in group.roundings if _is_factors(scheme, config.quant_bits) and {scheme.rank} == asked]
        if found:
            factors = group.rounded(found[0], Rounding.WHITENED)
            selection.append(factors if factors.size_bytes < kept.size_bytes else kept)
        else:
            wanted = ", ".join(f"rank {rank} x {config.quant_bits} bits" for rank in sorted(asked))
            faults.append(f"rank: {menu.matrices_of(group)[0].layer} has no {wanted} on its curve")
    if faults:
        raise ConfigError.of(faults)
    if not any(offer.scheme.format is Format.LOW_RANK for offer in selection):
        raise ConfigError(_nothing_saved(menu, is_long))
    return tuple(selection)


def _nothing_saved(menu: Menu, is_long: Sequence[bool]) -> str:
    """Why the fixed-rank form leaves every matrix as it is, and the largest rank that would not."""
    config = menu.config
    most = max((_largest_rank(menu, group) for group in menu.groups if all(is_long[place] for place in group.members)), default=0)
    ranks = ", ".join(map(str, config.ranks_asked))
    told = f"rank: factors of rank {ranks} x {config.quant_bits} bits make no matrix smaller, so nothing would be compressed"
    if most:
        return f"{told}; those of rank {most} or less would"
    return f"{told}, and no other rank would; keep less, or give fewer --quant-bits or a lower --min-dim"


def _largest_rank(menu: Menu, group: MatrixGroup) -> int:
    """The largest rank whose factors are smaller than the group as it is kept; 0 where none are, or none are on offer."""
    if not any(scheme.format is Format.LOW_RANK for scheme in group.roundings):
        return 0
    config, matrices = menu.config, menu.matrices_of(group)
    kept = group.rounded(kept_scheme(group), Rounding.NONE).size_bytes
    smaller = min(min(matrix.out_features, matrix.in_features) for matrix in matrices)
    for rank in range(smaller // RANK_STEP * RANK_STEP, 0, -RANK_STEP):
        factors = low_rank(rank, config.quant_bits, config.group_size)
        if sum(size_bytes(factors, each.out_features, each.in_features, each.kept_element_bytes) for each in matrices) < kept:
            return rank
    return 0


def _is_factors(scheme: Scheme, factor_bits: int) -> bool:
    return scheme.format is Format.LOW_RANK and scheme.factor_bits == factor_bits
