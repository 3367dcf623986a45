"""Packed codes against the layout that the module's docstring promises, read bit by bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from layerlens.linalg import bit_planes
from layerlens.linalg.bit_planes import (
    Layout,
    gather_codes,
    pack_codes,
    pack_into,
    planes_of,
    scratch_for,
    unpack_codes,
    unpack_into,
)


def _codes(rows: int, padded: int, bits: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-(1 << (bits - 1)), 1 << (bits - 1), (rows, padded), dtype=torch.int8, generator=generator)


def _code_at(packed: np.ndarray, bits: int, padded: int, row: int, column: int) -> int:
    """One code, read plane by plane as the docstring says."""
    if bits == 8:
        return int(packed[row, column].view(np.int8))
    value, start = 0, 0
    for width in {2: [2], 3: [2, 1], 4: [4], 5: [4, 1], 6: [4, 2], 7: [4, 2, 1]}[bits]:
        size = padded * width // 8
        byte = int(packed[row, start + column % size])
        value = (value << width) | ((byte >> (column // size * width)) & ((1 << width) - 1))
        start += size
    return value - (1 << (bits - 1))


@settings(deadline=None, max_examples=60)
@given(bits=st.integers(2, 8), rows=st.integers(1, 5), eighths=st.integers(1, 20), seed=st.integers(0, 99))
def test_codes_come_back_and_take_just_their_bits(bits: int, rows: int, eighths: int, seed: int) -> None:
    codes = _codes(rows, 8 * eighths, bits, seed)
    packed = pack_codes(codes, bits)
    assert packed.dtype == torch.uint8
    assert packed.shape == (rows, eighths * bits)
    assert torch.equal(unpack_codes(packed, bits, 8 * eighths), codes)


@pytest.mark.parametrize("bits", range(2, 9))
def test_every_code_lies_where_the_layout_says(bits: int) -> None:
    codes = _codes(3, 48, bits)
    packed = pack_codes(codes, bits).numpy()
    assert [[_code_at(packed, bits, 48, row, column) for column in range(48)] for row in range(3)] == codes.tolist()


@pytest.mark.parametrize("rows_at_once", [1, 2])
def test_rows_that_are_packed_a_few_at_a_time_lie_there_too(monkeypatch: pytest.MonkeyPatch, rows_at_once: int) -> None:
    monkeypatch.setattr(bit_planes, "_CODES_AT_ONCE", 48 * rows_at_once)
    codes = _codes(5, 48, 7)
    packed = pack_codes(codes, 7).numpy()
    assert [[_code_at(packed, 7, 48, row, column) for column in range(48)] for row in range(5)] == codes.tolist()


@pytest.mark.parametrize("bits", range(2, 9))
def test_the_smallest_and_the_largest_code_survive(bits: int) -> None:
    ends = torch.tensor([[-(1 << (bits - 1)), (1 << (bits - 1)) - 1] * 8], dtype=torch.int8)
    assert torch.equal(unpack_codes(pack_codes(ends, bits), bits, 16), ends)


@pytest.mark.parametrize("bits", range(2, 9))
def test_single_columns_are_those_of_the_whole(bits: int) -> None:
    codes = _codes(4, 64, bits)
    columns = torch.tensor([63, 0, 17, 17, 32])
    assert torch.equal(gather_codes(pack_codes(codes, bits), bits, 64, columns), codes[:, columns])


@pytest.mark.parametrize("bits", range(2, 9))
def test_a_slice_of_packed_rows_unpacks_alone(bits: int) -> None:
    codes = _codes(6, 32, bits)
    assert torch.equal(unpack_codes(pack_codes(codes, bits)[1:4], bits, 32), codes[1:4])


def test_planes_of_a_width_add_up_to_it() -> None:
    assert [planes_of(bits) for bits in range(2, 8)] == [(2,), (2, 1), (4,), (4, 1), (4, 2), (4, 2, 1)]


@pytest.mark.parametrize("bits", range(1, 4))
@pytest.mark.parametrize("size", [4, 12, 64])
def test_two_codes_in_a_byte_lose_just_the_bits_that_they_lack(bits: int, size: int) -> None:
    layout = Layout(bits, lane=4, low=4 - bits)
    halves = torch.randint(0, 1 << bits, (3, 2 * size), dtype=torch.uint8, generator=torch.Generator().manual_seed(bits)) << (
        4 - bits
    )
    values = halves[:, ::2] | halves[:, 1::2] << 4
    packed = torch.empty(3, size * bits // 4, dtype=torch.uint8)
    pack_into(packed, values, layout)
    unpacked = torch.empty_like(values)
    unpack_into(unpacked, packed, layout, scratch_for(values))
    assert torch.equal(unpacked, values)


@pytest.mark.parametrize("bits", [3, 7])
def test_rows_of_a_mapped_file_start_anywhere(bits: int) -> None:
    codes = _codes(3, 64, bits)
    packed = pack_codes(codes, bits)
    moved = torch.empty(packed.numel() + 3, dtype=torch.uint8)[3:].view(packed.shape)
    assert torch.equal(unpack_codes(moved.copy_(packed), bits, 64), codes)
