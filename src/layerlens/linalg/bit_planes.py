"""Packing b-bit codes without gaps, so that every width is unpacked by shifts and masks alone.

A code c is stored as u = c + 2^(b−1) ≥ 0, cut into planes of 4, 2 and 1 bits, the highest bits first:

    width     2    3      4    5      6      7        8
    planes    2    2+1    4    4+1    4+2    4+2+1    the code itself, one signed byte each

A row of n codes becomes its planes one after the other, n·bits/8 bytes each; byte j of a plane of p bits holds the codes
j, j + n·p/8, j + 2n·p/8, …, the first in its lowest bits. So one mask and one shift unpack a whole run of neighbouring codes.

The same for bytes that hold two codes of up to four bits, one in each half, as `nn/int4_kernel.py` has them: a `Layout` says how
a byte is divided.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Int8, Int64, UInt8
from torch import Tensor

#: A row's codes come in multiples of this, so that every plane fills whole bytes.
CODES_STEP = 8
#: Codes that are packed at once: a table's own are as many bytes as memory has room for.
_CODES_AT_ONCE = 1 << 22
#: Bytes that are shifted and masked at once where the places of all planes allow it, and the type that does it.
_WORD, _WORD_TYPE = 8, torch.int64


class Plane(NamedTuple):
    """One plane of a row: its width, the place of its lowest bit in the code's lane, its first byte and its bytes.

    The last two are numbers, or tensors of them where rows of several lengths are looked at together.
    """

    width: int
    shift: int
    start: Any
    size: Any


@dataclass(frozen=True)
class Layout:
    """How unpacked bytes hold codes.

    Attributes:
        bits: Width of a code.
        lane: Bits that a code has for itself: 8, or 4 where two codes share a byte.
        low: The place of a code's lowest bit in its lane; the lane's other bits are 0.
    """

    bits: int
    lane: int = 8
    low: int = 0

    def planes(self, size: int | Int64[Tensor, "*sizes"]) -> list[Plane]:
        """The planes of a row of `size` unpacked bytes, the highest bits first."""
        planes: list[Plane] = []
        shift = self.low + self.bits
        for width in planes_of(self.bits):
            shift -= width
            start = planes[-1].start + planes[-1].size if planes else 0
            planes.append(Plane(width, shift, start, size * width // self.lane))
        return planes

    def mask(self, width: int) -> int:
        """The lowest `width` bits of every lane of a byte."""
        return sum(((1 << width) - 1) << place for place in range(0, 8, self.lane))

    def located(
        self, size: int | Int64[Tensor, "*sizes"], at: Int64[Tensor, "*places"]
    ) -> Iterator[tuple[Plane, Int64[Tensor, "*places"], UInt8[Tensor, "*places"]]]:
        """Where bits of the unpacked bytes `at` lie: for each plane the packed byte, and by how much it is shifted there."""
        for plane in self.planes(size):
            yield plane, plane.start + at % plane.size, (at // plane.size * plane.width).to(torch.uint8)


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
        unsigned = (values[start : start + step] + (1 << (bits - 1))).view(torch.uint8)
        pack_into(packed[start : start + step], unsigned, Layout(bits))
    return packed


def pack_into(packed: UInt8[Tensor, "rows packed"], values: UInt8[Tensor, "rows size"], layout: Layout) -> None:
    """Write the codes of unpacked bytes as planes."""
    for width, shift, start, size in layout.planes(values.shape[1]):
        plane = packed[:, start : start + size].zero_()
        part = torch.bitwise_and(values >> shift, layout.mask(width))
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
    unpack_into(unsigned, packed, Layout(bits), scratch_for(unsigned))
    return unsigned.view(torch.int8).sub_(1 << (bits - 1))


def scratch_for(values: UInt8[Tensor, "rows size"]) -> UInt8[Tensor, "rows quarter"]:
    """What `unpack_into` needs beside its target: the planes after the first have a quarter of its bytes at most."""
    return torch.empty(len(values), values.shape[1] // 4, dtype=torch.uint8, device=values.device)


def unpack_into(
    values: UInt8[Tensor, "rows size"],
    packed: UInt8[Tensor, "rows packed"],
    layout: Layout,
    scratch: UInt8[Tensor, "rows quarter"],
) -> None:
    """Undo `pack_into`.

    Args:
        values: Where the unpacked bytes are written.
        packed: Planes.
        layout: How the unpacked bytes hold codes.
        scratch: From `scratch_for` of these rows; its numbers mean nothing afterwards.
    """
    planes = layout.planes(values.shape[1])
    step = _WORD if all(plane.size % _WORD == 0 for plane in planes) and all(map(_has_words, (values, packed, scratch))) else 1
    if step == _WORD:
        values, packed, scratch = (tensor.view(_WORD_TYPE) for tensor in (values, packed, scratch))
    for width, shift, start, size in planes:
        # Bits that a shift takes over the end of a byte never fall where the mask looks.
        mask = int.from_bytes(bytes([layout.mask(width) << shift]) * step, "little", signed=step == _WORD)
        plane, length = packed[:, start // step : (start + size) // step], size // step
        for position in range(layout.lane // width):
            run = values[:, position * length : (position + 1) * length]
            # The first plane writes the codes, the others add their bits.
            target = run if start == 0 else scratch[:, :length]
            up = shift - position * width
            if up > 0:
                torch.bitwise_left_shift(plane, up, out=target)
            elif up < 0:
                torch.bitwise_right_shift(plane, -up, out=target)
            torch.bitwise_and(target if up else plane, mask, out=target)
            if start > 0:
                run |= target


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
    layout = Layout(bits)
    unsigned = torch.zeros(len(packed), len(columns), dtype=torch.uint8, device=packed.device)
    for plane, places, down in layout.located(padded, columns):
        unsigned |= ((packed[:, places] >> down) & layout.mask(plane.width)) << plane.shift
    return unsigned.view(torch.int8).sub_(1 << (bits - 1))


def _has_words(tensor: Tensor) -> bool:
    """Whether rows of bytes can be looked at as rows of words; tensors of a mapped file start anywhere."""
    places = (tensor.storage_offset(), tensor.stride(0), tensor.shape[1])
    return tensor.stride(1) == 1 and all(place % _WORD == 0 for place in places)
