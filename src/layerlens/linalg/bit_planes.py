"""Packing b-bit codes without gaps, so that every width is unpacked by shifts and masks alone.

A code c is stored as u = c + 2^(b−1) ≥ 0, cut into planes of 4, 2 and 1 bits, the highest bits first:

    width     2    3      4    5      6      7        8
    planes    2    2+1    4    4+1    4+2    4+2+1    the code itself, one signed byte each

A row of n codes becomes its planes one after the other, n·bits/8 bytes each; byte j of a plane of p bits holds the codes
j, j + n·p/8, j + 2n·p/8, …, the first in its lowest bits. So one mask and one shift unpack a whole run of neighbouring codes.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Int8, Int64, UInt8
from torch import Tensor

#: A row's codes come in multiples of this, so that every plane fills whole bytes.
CODES_STEP = 8
#: Codes that are packed at once: a table's own are as many bytes as memory has room for.
_CODES_AT_ONCE = 1 << 22


def planes_of(bits: int) -> tuple[int, ...]:
    """Widths of the planes of a code, its highest bits first."""
    return tuple(width for width in (4, 2, 1) if bits & width)


def pack_codes(values: Int8[Tensor, "rows padded"], bits: int) -> UInt8[Tensor, "rows packed"]:
    """Pack codes of a width, −2^(bits−1) … 2^(bits−1) − 1, row by row.

    Args:
        values: Codes; a row's length is a multiple of 8.
        bits: 2 … 8.

    Returns:
        [rows padded·bits/8]; a view of `values` at 8 bits.
    """
    if bits == 8:
        return values.contiguous().view(torch.uint8)
    rows, padded = values.shape
    packed = torch.empty(rows, padded * bits // 8, dtype=torch.uint8, device=values.device)
    step = max(1, _CODES_AT_ONCE // max(1, padded))
    for start in range(0, rows, step):
        _pack_into(packed[start : start + step], values[start : start + step], bits)
    return packed


def _pack_into(packed: UInt8[Tensor, "rows packed"], values: Int8[Tensor, "rows padded"], bits: int) -> None:
    unsigned = (values + (1 << (bits - 1))).view(torch.uint8)
    for width, shift, start in _planes(bits, values.shape[1]):
        size = values.shape[1] * width // 8
        plane = packed[:, start : start + size].zero_()
        part = torch.bitwise_and(unsigned >> shift, (1 << width) - 1)
        for position, run in enumerate(part.split(size, dim=1)):
            plane |= run << (position * width)


def unpack_codes(packed: UInt8[Tensor, "rows packed"], bits: int, padded: int) -> Int8[Tensor, "rows padded"]:
    """Undo `pack_codes`.

    Args:
        packed: [rows padded·bits/8].
        bits: 2 … 8.
        padded: Codes in a row.

    Returns:
        The codes; a view of `packed` at 8 bits.
    """
    if bits == 8:
        return packed.view(torch.int8)
    unsigned = torch.empty(len(packed), padded, dtype=torch.uint8, device=packed.device)
    scratch = torch.empty(len(packed), padded // 2, dtype=torch.uint8, device=packed.device)
    for width, shift, start in _planes(bits, padded):
        size = padded * width // 8
        plane = packed[:, start : start + size]
        for position in range(8 // width):
            run = unsigned[:, position * size : (position + 1) * size]
            # The first plane writes the codes, the others add their bits.
            target = run if start == 0 else scratch[:, :size]
            up = shift - position * width
            if up >= 0:
                torch.bitwise_left_shift(plane, up, out=target)
            else:
                torch.bitwise_right_shift(plane, -up, out=target)
            target &= ((1 << width) - 1) << shift
            if start > 0:
                run |= target
    return unsigned.view(torch.int8).sub_(1 << (bits - 1))


def gather_codes(
    packed: UInt8[Tensor, "rows packed"], bits: int, padded: int, columns: Int64[Tensor, " columns"]
) -> Int8[Tensor, "rows columns"]:
    """Unpack single columns.

    Args:
        packed: [rows padded·bits/8].
        bits: 2 … 8.
        padded: Codes in a row.
        columns: Their numbers, below `padded`.
    """
    if bits == 8:
        return packed.view(torch.int8)[:, columns]
    unsigned = torch.zeros(len(packed), len(columns), dtype=torch.uint8, device=packed.device)
    for width, shift, start in _planes(bits, padded):
        size = padded * width // 8
        places = (columns // size * width).to(torch.uint8)
        unsigned |= ((packed[:, start + columns % size] >> places) & ((1 << width) - 1)) << shift
    return unsigned.view(torch.int8).sub_(1 << (bits - 1))


def _planes(bits: int, padded: int) -> Iterator[tuple[int, int, int]]:
    """Width of each plane, the place of its lowest bit in the code, and its first byte in a packed row."""
    shift, start = bits, 0
    for width in planes_of(bits):
        shift -= width
        yield width, shift, start
        start += padded * width // 8
