"""What a matrix may be stored as, and what that costs in bytes; the planner, the writer and the loader count with this file.

    keep                as the checkpoint has it
    half                bfloat16
    integer             b-bit codes (8 … 2) and one bfloat16 scale for each group of `group_size` inputs: w ≈ scale · code
    low-rank            up [out_features rank] @ down [rank in_features], factors in bfloat16 or as integers
    integer + low-rank  both, added: the factors make good what the codes lost

Codes are symmetric, −2^(b−1) … 2^(b−1) − 1, and a scale may be negative, so that the larger end of a group gets the extra code.
A row is padded to whole groups; its codes are packed without gaps in planes of 4, 2 and 1 bits, so that every width is decoded by
shifts. Factors are stored as [rank features], both in groups along the features.
"""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field, model_validator

from layerlens.words import Frozen

#: Widths of integer codes.
WIDTHS = (8, 7, 6, 5, 4, 3, 2)
#: Bits of a factor: bfloat16, or codes.
FACTOR_BITS = (16, 8, 4)
SCALE_BYTES = 2
#: Ranks are multiples of this, as kernels like them.
RANK_STEP = 16


class Format(StrEnum):
    """How a matrix is stored."""

    KEEP = "keep"
    HALF = "half"
    INTEGER = "integer"
    LOW_RANK = "low-rank"
    INTEGER_LOW_RANK = "integer+low-rank"

    @property
    def has_codes(self) -> bool:
        return self in (Format.INTEGER, Format.INTEGER_LOW_RANK)

    @property
    def has_factors(self) -> bool:
        return self in (Format.LOW_RANK, Format.INTEGER_LOW_RANK)


class Scheme(Frozen):
    """A format with its numbers; says nothing about how the numbers inside were found."""

    format: Format
    bits: int = Field(default=0, description="width of the codes; 0 where there are none")
    group_size: int = Field(default=64, gt=0, multiple_of=8, description="features that share a scale, of codes and of factors")
    rank: int = Field(default=0, ge=0, description="rank of the factors; 0 where there are none")
    factor_bits: int = Field(default=0, description="bits of a factor's number: 16, 8 or 4; 0 where there are no factors")

    @model_validator(mode="after")
    def _fits_its_format(self) -> Scheme:
        if (self.bits in WIDTHS) != self.format.has_codes or (self.bits and not self.format.has_codes):
            raise ValueError(f"bits {self.bits} do not suit {self.format}; integer formats take {', '.join(map(str, WIDTHS))}")
        if (self.rank > 0) != self.format.has_factors:
            raise ValueError(f"rank {self.rank} does not suit {self.format}")
        if (self.factor_bits in FACTOR_BITS) != self.format.has_factors or (self.factor_bits and not self.format.has_factors):
            raise ValueError(f"factor_bits {self.factor_bits} do not suit {self.format}; factors take 16, 8 or 4")
        return self

    @property
    def name(self) -> str:
        """`keep`, `half`, `int4`, `lr128x8`, `int3+lr32x8`: what tables show."""
        factors = f"lr{self.rank}x{self.factor_bits}"
        match self.format:
            case Format.INTEGER:
                return f"int{self.bits}"
            case Format.LOW_RANK:
                return factors
            case Format.INTEGER_LOW_RANK:
                return f"int{self.bits}+{factors}"
            case _:
                return str(self.format)


KEEP = Scheme(format=Format.KEEP)
HALF = Scheme(format=Format.HALF)


def integer(bits: int, group_size: int = 64) -> Scheme:
    """Codes of a width."""
    return Scheme(format=Format.INTEGER, bits=bits, group_size=group_size)


def low_rank(rank: int, factor_bits: int, group_size: int = 64) -> Scheme:
    """Factors of a rank."""
    return Scheme(format=Format.LOW_RANK, rank=rank, factor_bits=factor_bits, group_size=group_size)


def integer_low_rank(bits: int, rank: int, factor_bits: int, group_size: int = 64) -> Scheme:
    """Codes of a width, and factors of a rank for what they lost."""
    return Scheme(format=Format.INTEGER_LOW_RANK, bits=bits, rank=rank, factor_bits=factor_bits, group_size=group_size)


def codes_bytes(rows: int, features: int, bits: int, group_size: int) -> int:
    """Bytes of a matrix of codes [rows features] with its scales, padding to whole groups included."""
    groups = -(-features // group_size)
    return rows * groups * (group_size * bits // 8 + SCALE_BYTES)


def size_bytes(scheme: Scheme, out_features: int, in_features: int, kept_element_bytes: int) -> int:
    """Bytes of a stored matrix [out_features in_features].

    Args:
        scheme: How it is stored.
        out_features: Its rows.
        in_features: Its columns.
        kept_element_bytes: Bytes of a number in the checkpoint's own type.
    """
    match scheme.format:
        case Format.KEEP:
            return out_features * in_features * kept_element_bytes
        case Format.HALF:
            return out_features * in_features * 2
        case Format.INTEGER:
            return codes_bytes(out_features, in_features, scheme.bits, scheme.group_size)
        case Format.LOW_RANK:
            return _factor_bytes(scheme, out_features) + _factor_bytes(scheme, in_features)
        case Format.INTEGER_LOW_RANK:
            codes = codes_bytes(out_features, in_features, scheme.bits, scheme.group_size)
            return codes + _factor_bytes(scheme, out_features) + _factor_bytes(scheme, in_features)


def _factor_bytes(scheme: Scheme, features: int) -> int:
    if scheme.factor_bits == 16:
        return 2 * scheme.rank * features
    return codes_bytes(scheme.rank, features, scheme.factor_bits, scheme.group_size)
