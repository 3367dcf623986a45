"""torch's 4-bit product and its layout, against the codes themselves."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from layerlens.nn import int4_kernel
from layerlens.nn.int4_kernel import (
    block_rows,
    empty_form,
    gather_rows,
    has_kernel,
    multiply,
    pack_rows,
    slices,
    unpack_rows,
)

pytestmark = pytest.mark.skipif(block_rows() == 0, reason="torch has no 4-bit product of a known layout on this processor")

ROWS = [16, 40, 64, 100, 144, 600]


def _form(rows: int, bits: int, group_size: int = 32, groups: int = 3) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows)
    half = 1 << (bits - 1)
    codes = torch.randint(-half, half, (rows, groups * group_size), dtype=torch.int8, generator=generator)
    scales = torch.randn(rows, groups, generator=generator).to(torch.bfloat16)
    weight, kernel_scales = empty_form(rows, groups * group_size, groups, bits)
    for which in slices(rows):
        pack_rows(weight, kernel_scales, which, codes[which], scales[which], bits)
    return codes, scales, weight, kernel_scales


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("rows", ROWS)
def test_codes_and_scales_come_back_bit_for_bit(rows: int, bits: int) -> None:
    codes, scales, weight, kernel_scales = _form(rows, bits)
    assert torch.equal(torch.cat([unpack_rows(weight, which, bits) for which in slices(rows)]), codes)
    assert torch.equal(kernel_scales[:, :rows].t(), scales)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("rows", ROWS)
def test_single_rows_are_those_of_the_whole(rows: int, bits: int) -> None:
    codes, _, weight, _ = _form(rows, bits)
    which = torch.tensor([0, rows - 1, rows // 2, 1, rows - 2, 0])
    assert torch.equal(gather_rows(weight, which, bits), codes[which])


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("rows", ROWS)
def test_the_product_is_that_of_the_decoded_matrix(rows: int, bits: int) -> None:
    codes, scales, weight, kernel_scales = _form(rows, bits)
    inputs = torch.randn(3, codes.shape[1], generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    matrix = codes.double() * scales.double().repeat_interleave(32, dim=1)
    expected = inputs.double() @ matrix.t()
    product = multiply(inputs, weight, kernel_scales, rows, 32, bits)
    assert product.shape == (3, rows)
    # A bfloat16 has eight significant bits: the sum itself is one of them, and the kernel rounds its weights.
    assert float((product.double() - expected).norm() / expected.norm()) < 2**-8


@pytest.mark.parametrize("bits", range(2, 9))
def test_the_form_takes_no_more_than_codes_and_scales(bits: int) -> None:
    codes, scales, weight, kernel_scales = _form(144, bits)
    assert weight.nbytes + kernel_scales.nbytes == codes.numel() * bits // 8 + scales.nbytes


@pytest.mark.parametrize("bits", range(2, 9))
def test_scales_of_any_size_and_sign_are_kept_to_the_bit(bits: int) -> None:
    scales = torch.tensor([[0.0], [-3e-5], [1e30], [-1e-30]], dtype=torch.bfloat16).repeat(4, 1)
    codes = torch.full((16, 32), -2, dtype=torch.int8)
    weight, kernel_scales = empty_form(16, 32, 1, bits)
    pack_rows(weight, kernel_scales, slice(0, 16), codes, scales, bits)
    one = torch.zeros(1, 32, dtype=torch.bfloat16)
    one[0, 5] = 1
    product = multiply(one, weight, kernel_scales, 16, 32, bits)
    assert torch.allclose(product[0].double(), -2 * scales[:, 0].double(), rtol=2**-7, atol=0)


def test_there_is_a_kernel_for_its_widths_and_groups_alone() -> None:
    assert has_kernel(4, 64)
    assert has_kernel(8, 128)
    assert not has_kernel(4, 48)
    assert not has_kernel(9, 64)


def test_an_unknown_layout_means_no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int4_kernel, "_pack", lambda codes: torch.zeros(len(codes), codes.shape[1] // 2, dtype=torch.uint8))
    block_rows.cache_clear()
    try:
        assert not has_kernel(4, 64)
    finally:
        monkeypatch.undo()
        block_rows.cache_clear()


@pytest.mark.parametrize("bits", [2, 3, 5, 6, 7])
@pytest.mark.parametrize("rows", [144, 600])
def test_a_product_by_some_blocks_at_a_time_is_that_of_all(monkeypatch: pytest.MonkeyPatch, rows: int, bits: int) -> None:
    codes, _, weight, kernel_scales = _form(rows, bits)
    inputs = torch.randn(2, codes.shape[1], generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    whole = multiply(inputs, weight, kernel_scales, rows, 32, bits)
    monkeypatch.setattr(int4_kernel, "_HALF_BYTES_AT_ONCE", 1)
    assert torch.equal(multiply(inputs, weight, kernel_scales, rows, 32, bits), whole)
