"""torch's matrix product over 4-bit codes, bfloat16 inputs and few rows, and the form of the weights that it wants.

    y = x Wᵀ,   W[n, k] = (u[n, k] − 8) · scale[n, k // group]

A block of B rows (64 with AVX-512, 32 with AVX2) is [k, B/2] bytes: the low half of byte d is row d, the high half row d + B/2;
in a last block that is not full, rows 2d and 2d + 1. The layout is no promise of torch, so it is tried out once, and where it is
not as written here there is no kernel.

Codes of 8 bits are two such matrices side by side, c = 16·h + l with h = c >> 4 and l = c & 15: the inputs are [16x, x], and
l = (u − 8) + 8 takes its 8 from the kernel's zero points. Both share one sum in float32.

The kernel wants a pair (scale, zero point) for each group and row. Held, they would double the scales and add 6 to 9 % to a
matrix; so scales are held once, and the pairs made for each product, which takes a thirtieth of its time.

Functions: `torch.ops.aten._convert_weight_to_int4pack_for_cpu`, `_weight_int4pack_mm_for_cpu`.
"""

from __future__ import annotations

from functools import cache

import torch
from jaxtyping import BFloat16, Int8, Int64, UInt8
from torch import Tensor
from torch.nn import functional

#: Widths that it computes with.
KERNEL_BITS = (8, 4)
_GROUPS = (32, 64, 128, 256)
_ROW_STEP = 16
#: Rows unpacked at once when the form is made: a multiple of every block.
_SLICE_ROWS = 512


def kernel_rows(rows: int) -> int:
    """Rows that the kernel's form has: padded with zeros to a multiple of 16."""
    return -(-rows // _ROW_STEP) * _ROW_STEP


@cache
def block_rows() -> int:
    """Rows of a block of the kernel's layout on this machine; 0 where there is no kernel or an unknown layout."""
    codes = torch.randint(-8, 8, (144, 32), dtype=torch.int8, generator=torch.Generator().manual_seed(0))
    try:
        packed = _pack(codes)
        return next((block for block in (64, 32) if torch.equal(_unpack(packed, block), codes)), 0)
    except (AttributeError, NotImplementedError, RuntimeError):
        return 0


def has_kernel(bits: int, group_size: int) -> bool:
    """Whether codes of a width in groups of a size can be computed with here."""
    return bits in KERNEL_BITS and group_size in _GROUPS and block_rows() > 0


def empty_form(rows: int, padded: int, groups: int, bits: int) -> tuple[Tensor, Tensor]:
    """Codes and scales of the kernel's form, to be filled by `pack_rows`."""
    rows = kernel_rows(rows)
    return torch.zeros(rows, padded * bits // 8, dtype=torch.uint8), torch.zeros(groups, rows, dtype=torch.bfloat16)


def slices(rows: int) -> list[slice]:
    """Row ranges to fill a form by: whole blocks each, so that each is a run of bytes of its own."""
    return [slice(start, min(start + _SLICE_ROWS, rows)) for start in range(0, rows, _SLICE_ROWS)]


def pack_rows(
    weight: UInt8[Tensor, "padded_rows packed"],
    kernel_scales: BFloat16[Tensor, "groups padded_rows"],
    which: slice,
    values: Int8[Tensor, "rows padded"],
    scales: BFloat16[Tensor, "rows groups"],
    bits: int,
) -> None:
    """Write some rows of codes into the kernel's form, in place.

    Args:
        weight: Codes, from `empty_form`.
        kernel_scales: Scales, from `empty_form`.
        which: Rows, one of `slices`.
        values: Codes of these rows.
        scales: Scales of these rows.
        bits: 4 or 8.
    """
    planes = values if bits == 4 else torch.cat([values >> 4, (values & 15) - 8], dim=1)
    planes = functional.pad(planes, (0, 0, 0, kernel_rows(len(values)) - len(values)))
    weight[which.start : which.start + len(planes)] = _pack(planes)
    kernel_scales[:, which] = scales.t()


def unpack_rows(weight: UInt8[Tensor, "padded_rows packed"], which: slice, bits: int) -> Int8[Tensor, "rows padded"]:
    """The codes of some rows, from `which.start`, a multiple of the block, to `which.stop`."""
    block = block_rows()
    planes = _unpack(weight[which.start : -(-which.stop // block) * block], block)
    return _joined(planes[: which.stop - which.start], bits)


def gather_rows(
    weight: UInt8[Tensor, "padded_rows packed"], which: Int64[Tensor, " rows"], bits: int
) -> Int8[Tensor, "rows padded"]:
    """The codes of single rows by their numbers."""
    block, features = block_rows(), 2 * weight.shape[1]
    whole = len(weight) // block * block
    # Rows of a last block that is not full lie in pairs: 2d in the low half and 2d + 1 in the high half of byte d.
    is_last = which >= whole
    size = torch.where(is_last, len(weight) - whole, block)
    first = which // block * block
    byte = torch.where(is_last, (which - first) // 2, (which - first) % (block // 2))
    shift = torch.where(is_last, (which - first) % 2, (which - first) // (block // 2)) * 4
    places = first * features // 2 + byte
    steps = torch.arange(features) * (size // 2).unsqueeze(1)
    codes = (weight.view(-1)[places.unsqueeze(1) + steps] >> shift.to(torch.uint8).unsqueeze(1)) & 15
    return _joined(codes.view(torch.int8).sub_(8), bits)


def multiply(
    inputs: BFloat16[Tensor, "tokens padded"],
    weight: UInt8[Tensor, "padded_rows packed"],
    kernel_scales: BFloat16[Tensor, "groups padded_rows"],
    rows: int,
    group_size: int,
    bits: int,
) -> BFloat16[Tensor, "tokens rows"]:
    """x Wᵀ, summed in float32."""
    pairs = _pairs(kernel_scales, zero=0)
    if bits == 8:
        inputs = torch.cat([16 * inputs, inputs], dim=1)
        pairs = torch.cat([pairs, _pairs(kernel_scales, zero=8)])
    product: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(inputs, weight, group_size, pairs)
    return product[:, :rows]


def _pairs(scales: BFloat16[Tensor, "groups rows"], zero: int) -> BFloat16[Tensor, "groups rows 2"]:
    """(scale, zero · scale), written as one 32-bit number each: ten times as fast as two strided copies.

    The first of a pair is the lower half, as on every processor that the kernel is made for (little-endian).
    """
    both = scales.view(torch.uint16).to(torch.int32)
    if zero:
        both |= (scales * zero).view(torch.uint16).to(torch.int32) << 16
    return both.view(torch.bfloat16).view(*scales.shape, 2)


def _joined(planes: Int8[Tensor, "rows packed"], bits: int) -> Int8[Tensor, "rows padded"]:
    if bits == 4:
        return planes
    high, low = planes.chunk(2, dim=1)
    return (high << 4) + (low + 8)


def _pack(codes: Int8[Tensor, "rows padded"]) -> UInt8[Tensor, "rows packed"]:
    packed: Tensor = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes.to(torch.int32) + 8, 1)
    return packed


def _unpack(packed: UInt8[Tensor, "rows packed"], block: int) -> Int8[Tensor, "rows padded"]:
    rows, half = packed.shape
    whole = rows // block * block
    codes = torch.empty(rows, 2 * half, dtype=torch.uint8)
    blocks = packed[:whole].reshape(-1, 2 * half, block // 2).transpose(1, 2)
    full = codes[:whole].view(-1, 2, block // 2, 2 * half)
    torch.bitwise_and(blocks, 15, out=full[:, 0])
    torch.bitwise_right_shift(blocks, 4, out=full[:, 1])
    if whole < rows:
        last = packed[whole:].reshape(2 * half, -1).t()
        codes[whole::2] = last & 15
        codes[whole + 1 :: 2] = last >> 4
    return codes.view(torch.int8).sub_(8)
