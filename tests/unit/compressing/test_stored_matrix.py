"""Stored tensors take the planned bytes and stand for the matrix that was stored."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from layerlens.artifacts.formats import HALF, KEEP, WIDTHS, Scheme, integer, integer_low_rank, low_rank, size_bytes
from layerlens.compressing.stored_matrix import check_tensors, restored, stored
from layerlens.linalg.codes import dequantise
from layerlens.linalg.nearest_rounding import round_to_nearest
from tests.unit.compressing.folders import stored_matrix

_GROUPS = st.sampled_from([8, 32, 64, 72])
_SCHEMES = st.one_of(
    st.builds(integer, st.sampled_from(WIDTHS), _GROUPS),
    st.builds(low_rank, st.integers(1, 20), st.sampled_from([16, 8, 4]), _GROUPS),
    st.builds(integer_low_rank, st.sampled_from(WIDTHS), st.integers(1, 20), st.sampled_from([16, 8, 4]), _GROUPS),
)


@settings(deadline=None, max_examples=40)
@given(scheme=_SCHEMES, rows=st.integers(1, 70), columns=st.integers(1, 150))
def test_stored_bytes_are_the_planned_ones(scheme: Scheme, rows: int, columns: int) -> None:
    tensors = stored_matrix(torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows)), scheme)
    assert sum(tensor.nbytes for tensor in tensors.values()) == size_bytes(scheme, rows, columns, 4)
    assert check_tensors(scheme, tensors, rows, columns) == []
    assert restored(scheme, tensors, rows, columns).shape == (rows, columns)


@pytest.mark.parametrize("bits", WIDTHS)
def test_codes_come_back_as_they_were_found(bits: int) -> None:
    codes = round_to_nearest(torch.randn(20, 50), bits, 16)
    tensors = stored(integer(bits, 16), codes=codes)
    assert torch.equal(restored(integer(bits, 16), tensors, 20, 50), dequantise(codes))


def test_factors_in_bfloat16_multiply_to_the_matrix() -> None:
    up, down = torch.randn(16, 20), torch.randn(16, 50)
    matrix = restored(low_rank(16, 16), stored(low_rank(16, 16), up=up, down=down), 20, 50)
    expected = up.to(torch.bfloat16).double().t() @ down.to(torch.bfloat16).double()
    torch.testing.assert_close(matrix.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("bits", "error"), [(8, 0.01), (4, 0.13)])
def test_factors_in_codes_multiply_to_nearly_the_matrix(bits: int, error: float) -> None:
    up, down = torch.randn(16, 64), torch.randn(16, 64)
    matrix = restored(low_rank(16, bits, 32), stored(low_rank(16, bits, 32), up=up, down=down), 64, 64)
    expected = up.t() @ down
    assert 0 < float((matrix - expected).norm() / expected.norm()) < error


def test_codes_and_factors_add_up() -> None:
    weight = torch.randn(20, 50)
    codes = round_to_nearest(weight, 3, 16)
    up, down = torch.randn(16, 20), torch.randn(16, 50)
    scheme = integer_low_rank(3, 16, 16, 16)
    sum_of_both = dequantise(codes) + restored(low_rank(16, 16), stored(low_rank(16, 16), up=up, down=down), 20, 50)
    torch.testing.assert_close(restored(scheme, stored(scheme, codes=codes, up=up, down=down), 20, 50), sum_of_both)


def test_plain_formats_hold_the_weight_itself() -> None:
    weight = torch.randn(4, 6)
    assert torch.equal(stored(KEEP, weight=weight)["weight"], weight)
    half = stored(HALF, weight=weight)
    assert half["weight"].dtype == torch.bfloat16
    assert torch.equal(restored(HALF, half, 4, 6), weight.to(torch.bfloat16).float())


def test_what_a_scheme_needs_must_be_given_and_must_suit_it() -> None:
    codes = round_to_nearest(torch.randn(4, 32), 3, 32)
    with pytest.raises(ValueError, match="int4 needs codes"):
        stored(integer(4, 32))
    with pytest.raises(ValueError, match="codes of 3 bits by 32 do not suit int4 by 32"):
        stored(integer(4, 32), codes=codes)
    with pytest.raises(ValueError, match="codes of 3 bits by 32 do not suit int3 by 64"):
        stored(integer(3, 64), codes=codes)
    with pytest.raises(ValueError, match="factor up of rank 8 does not suit lr16x8"):
        stored(low_rank(16, 8), up=torch.ones(8, 4), down=torch.ones(8, 4))


def test_wrong_tensors_are_named_with_what_is_wrong() -> None:
    good = stored(integer(3, 32), codes=round_to_nearest(torch.randn(4, 64), 3, 32))
    assert check_tensors(integer(3, 32), {"codes": good["codes"]}, 4, 64) == ["scales is missing for int3"]
    assert check_tensors(integer(3, 32), {**good, "up": good["codes"]}, 4, 64) == ["up is not part of int3"]
    infinite = {**good, "scales": torch.full((4, 2), torch.inf, dtype=torch.bfloat16)}
    assert check_tensors(integer(3, 32), infinite, 4, 64) == ["scales holds NaN or infinite values"]
    strided = {**good, "scales": good["scales"].t().contiguous().t()}
    assert check_tensors(integer(3, 32), strided, 4, 64) == ["scales is not contiguous"]
    (fault,) = check_tensors(integer(3, 32), {**good, "scales": good["scales"].float()}, 4, 64)
    assert fault == "scales is torch.float32 [4, 2], needed torch.bfloat16 [4, 2]"
