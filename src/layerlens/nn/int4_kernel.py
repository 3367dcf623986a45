"""torch's matrix product over 4-bit codes, bfloat16 inputs and few rows, for codes of 2 to 8 bits, and the form they have for it.

    y = x Wᵀ,   W[n, k] = (u[n, k] − 8) · scale[n, k // group]

A block of B rows (64 with AVX-512, 32 with AVX2) is [k, B/2] bytes: the low half of byte d is row d, the high half row d + B/2;
in a last block that is not full, rows 2d and 2d + 1. The layout is no promise of torch, so it is tried out once, and where it is
not as written here there is no kernel.

Codes of 5 to 8 bits are two such matrices side by side, c = 16·h + l with h = c >> 4 and l = c & 15: the inputs are [16x, x], and
l = (u − 8) + 8 takes its 8 from the kernel's zero points. Both share one sum in float32.

Codes of fewer than 4 bits (h of fewer than 8) lie in the upper bits of their half byte, u − 8 = 2^(4−b)·c, and the inputs make
up for the factor. Held are only those bits, packed block by block without gaps (`linalg/bit_planes.py`), so that the form takes
the bytes of the stored one; for a product some blocks at a time become half bytes.

The kernel wants a pair (scale, zero point) for each group and row. Held, they would double the scales and add 6 to 9 % to a
matrix; so scales are held once, and the pairs made for each product, which takes a thirtieth of its time.

Functions: `torch.ops.aten._convert_weight_to_int4pack_for_cpu`, `_weight_int4pack_mm_for_cpu`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import torch
from jaxtyping import BFloat16, Int8, Int64, UInt8
from torch import Tensor
from torch.nn import functional

from layerlens.linalg.bit_planes import Layout, pack_into, scratch_for, unpack_into

#: Widths that it computes with.
KERNEL_BITS = range(2, 9)
_GROUPS = (32, 64, 128, 256)
_ROW_STEP = 16
#: Rows unpacked at once when the form is made: a multiple of every block.
_SLICE_ROWS = 512
#: Bytes of half bytes that a product makes at once: few steps of the interpreter, and near the processor.
_HALF_BYTES_AT_ONCE = 1 << 20


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


def half_bytes(bits: int) -> int:
    """Half bytes that a code takes in the kernel's own form."""
    return 1 if bits <= 4 else 2


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
        bits: Width of the codes.
    """
    planes = _in_halves(values, bits)
    planes = functional.pad(planes, (0, 0, 0, kernel_rows(len(values)) - len(values)))
    target = weight[which.start : which.start + len(planes)]
    for packed, whole in zip(_blocks(target), _blocks(_pack(planes)), strict=True):
        upper, lower = _upper_and_lower(whole, bits)
        held = packed.shape[1] - lower.shape[1]
        pack_into(packed[:, :held], upper, _layout(bits))
        packed[:, held:] = lower
    kernel_scales[:, which] = scales.t()


def unpack_rows(weight: UInt8[Tensor, "padded_rows packed"], which: slice, bits: int) -> Int8[Tensor, "rows padded"]:
    """The codes of some rows, from `which.start`, a multiple of the block, to `which.stop`."""
    block = block_rows()
    packed = weight[which.start : -(-which.stop // block) * block]
    whole = packed
    if _is_packed(bits):
        whole = _empty_half_bytes(packed, bits)
        _unpack_half_bytes(whole, packed, bits, scratch_for(whole))
    return _joined(_unpack(whole, block)[: which.stop - which.start], bits)


def gather_rows(
    weight: UInt8[Tensor, "padded_rows packed"], which: Int64[Tensor, " rows"], bits: int
) -> Int8[Tensor, "rows padded"]:
    """The codes of single rows by their numbers."""
    block, row_bytes = block_rows(), weight.shape[1]
    features = row_bytes * 8 // bits
    whole = len(weight) // block * block
    # Rows of a last block that is not full lie in pairs: 2d in the low half and 2d + 1 in the high half of byte d.
    is_last = which >= whole
    size = torch.where(is_last, len(weight) - whole, block)
    first = which // block * block
    byte = torch.where(is_last, (which - first) // 2, (which - first) % (block // 2))
    up = torch.where(is_last, (which - first) % 2, (which - first) // (block // 2)) * 4
    places = byte.unsqueeze(1) + torch.arange(features) * (size // 2).unsqueeze(1)
    bytes_of, start, layout = weight.view(-1), (first * row_bytes).unsqueeze(1), _layout(bits)
    sizes = (size * features // 2).unsqueeze(1)
    found = torch.zeros(places.shape, dtype=torch.uint8)
    for plane, at, down in layout.located(sizes, places):
        found |= ((bytes_of[start + at] >> down) & layout.mask(plane.width)) << plane.shift
    if half_bytes(bits) == 2:
        found = torch.cat([found, bytes_of[start + sizes * layout.bits // layout.lane + places]], dim=1)
    return _joined(((found >> up.to(torch.uint8).unsqueeze(1)) & 15).view(torch.int8).sub_(8), bits)


def multiply(
    inputs: BFloat16[Tensor, "tokens padded"],
    weight: UInt8[Tensor, "padded_rows packed"],
    kernel_scales: BFloat16[Tensor, "groups padded_rows"],
    rows: int,
    group_size: int,
    bits: int,
) -> BFloat16[Tensor, "tokens rows"]:
    """x Wᵀ, summed in float32."""
    if bits != 4:
        inputs = torch.cat([2.0 ** (bits - 4) * inputs, inputs][: half_bytes(bits)], dim=1)
    pairs = _pairs(kernel_scales, zero=0)
    if half_bytes(bits) == 2:
        pairs = torch.cat([pairs, _pairs(kernel_scales, zero=8)])
    products = [
        torch.ops.aten._weight_int4pack_mm_for_cpu(inputs, own, group_size, pairs[:, which].contiguous())
        for which, own in _own_form(weight, bits)
    ]
    product = products[0] if len(products) == 1 else torch.cat(products, dim=1)
    return product[:, :rows]


def _own_form(weight: UInt8[Tensor, "rows packed"], bits: int) -> Iterator[tuple[slice, UInt8[Tensor, "some half_bytes"]]]:
    """Rows as the kernel takes them, some blocks at a time where that is not how they are held; the next ones overwrite them."""
    if not _is_packed(bits):
        yield slice(None), weight
        return
    block = block_rows()
    step = max(1, _HALF_BYTES_AT_ONCE // _half_byte_columns(weight, bits) // block) * block
    own = _empty_half_bytes(weight[:step], bits)
    scratch = scratch_for(own)
    for start in range(0, len(weight), step):
        which = slice(start, min(start + step, len(weight)))
        some = own[: which.stop - which.start]
        _unpack_half_bytes(some, weight[which], bits, scratch)
        yield which, some


def _layout(bits: int) -> Layout:
    """How the upper (or only) half bytes hold their part of the codes."""
    width = bits if bits <= 4 else bits - 4
    return Layout(width, lane=4, low=4 - width)


def _is_packed(bits: int) -> bool:
    """Whether half bytes have bits that are not held."""
    return _layout(bits).low > 0


def _blocks(rows: UInt8[Tensor, "rows bytes"]) -> Iterator[UInt8[Tensor, "blocks block_bytes"]]:
    """Rows of a form as its whole blocks, and as the last one where that is not full."""
    whole = len(rows) // block_rows() * block_rows()
    if whole:
        yield rows[:whole].view(whole // block_rows(), -1)
    if whole < len(rows):
        yield rows[whole:].view(1, -1)


def _upper_and_lower(
    blocks: UInt8[Tensor, "blocks block_bytes"], bits: int
) -> tuple[UInt8[Tensor, "blocks upper_bytes"], UInt8[Tensor, "blocks lower_bytes"]]:
    """The half bytes of blocks: those of the codes' upper (or only) parts, and those of the lower ones, if any."""
    size = blocks.shape[1] // half_bytes(bits)
    return blocks[:, :size], blocks[:, size:]


def _half_byte_columns(packed: UInt8[Tensor, "rows packed"], bits: int) -> int:
    """Bytes of a row of the kernel's own form."""
    return packed.shape[1] * 4 // bits * half_bytes(bits)


def _empty_half_bytes(packed: UInt8[Tensor, "rows packed"], bits: int) -> UInt8[Tensor, "rows half_bytes"]:
    """Room for the half bytes of packed rows."""
    return torch.empty(len(packed), _half_byte_columns(packed, bits), dtype=torch.uint8)


def _unpack_half_bytes(
    whole: UInt8[Tensor, "rows half_bytes"],
    packed: UInt8[Tensor, "rows packed"],
    bits: int,
    scratch: UInt8[Tensor, "as_many quarter"],
) -> None:
    """Write the half bytes of some rows, as the kernel takes them."""
    for target, blocks in zip(_blocks(whole), _blocks(packed), strict=True):
        upper, lower = _upper_and_lower(target, bits)
        held = blocks.shape[1] - lower.shape[1]
        unpack_into(upper, blocks[:, :held], _layout(bits), scratch.view(-1)[: upper.numel() // 4].view(len(upper), -1))
        lower[:] = blocks[:, held:]


def _pairs(scales: BFloat16[Tensor, "groups rows"], zero: int) -> BFloat16[Tensor, "groups rows 2"]:
    """(scale, zero · scale), written as one 32-bit number each: ten times as fast as two strided copies.

    The first of a pair is the lower half, as on every processor that the kernel is made for (little-endian).
    """
    both = scales.view(torch.uint16).to(torch.int32)
    if zero:
        both |= (scales * zero).view(torch.uint16).to(torch.int32) << 16
    return both.view(torch.bfloat16).view(*scales.shape, 2)


def _in_halves(values: Int8[Tensor, "rows padded"], bits: int) -> Int8[Tensor, "rows half_bytes"]:
    """Codes as numbers of 4 bits, −8 … 7."""
    up = _layout(bits).low
    return values << up if bits <= 4 else torch.cat([values >> 4 << up, (values & 15) - 8], dim=1)


def _joined(planes: Int8[Tensor, "rows half_bytes"], bits: int) -> Int8[Tensor, "rows padded"]:
    """Undo `_in_halves`."""
    up = _layout(bits).low
    if bits <= 4:
        return planes >> up
    high, low = planes.chunk(2, dim=1)
    return (high >> up << 4) + (low + 8)


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
