"""Rows weighted and added up by bags are the product with the matrix."""

from __future__ import annotations

import pytest
import torch

from layerlens.nn.weighted_rows import is_for_bags, weighted_code_rows, weighted_rows


def _randn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def _error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("tokens", [1, 2])
def test_a_matrix_of_numbers(tokens: int) -> None:
    inputs, matrix = _randn(tokens, 48, seed=0), _randn(48, 100, seed=1)
    assert _error(weighted_rows(inputs, matrix), inputs.double() @ matrix.double()) < 2**-8


@pytest.mark.parametrize("tokens", [1, 2])
@pytest.mark.parametrize(("rows", "groups", "size"), [(16, 1, 32), (48, 3, 64), (100, 5, 128)])
def test_a_matrix_of_codes(tokens: int, rows: int, groups: int, size: int) -> None:
    inputs, scales = _randn(tokens, rows, seed=0), _randn(rows, groups, seed=1)
    generator = torch.Generator().manual_seed(2)
    codes = torch.randint(-128, 128, (rows, groups * size), dtype=torch.int8, generator=generator)
    decoded = (codes.double().view(rows, groups, size) * scales.double().unsqueeze(-1)).view(rows, -1)
    assert _error(weighted_code_rows(inputs, codes, scales), inputs.double() @ decoded) < 2**-7


def test_a_first_call_under_inference_mode_leaves_nothing_that_others_cannot_use() -> None:
    inputs, matrix = _randn(1, 37, seed=0), _randn(37, 41, seed=1)
    with torch.inference_mode():
        first = weighted_rows(inputs, matrix)
    inputs.requires_grad_()
    second = weighted_rows(inputs, matrix)
    second.sum().backward()
    assert torch.equal(first, second)
    assert inputs.grad is not None


def test_only_a_few_inputs_in_bfloat16_are_for_bags() -> None:
    assert is_for_bags(_randn(2, 8, seed=0))
    assert not is_for_bags(_randn(3, 8, seed=0))
    assert not is_for_bags(_randn(1, 8, seed=0).float())
