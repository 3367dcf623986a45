"""A matrix of codes is each code times the scale of its group."""

from __future__ import annotations

import torch

from layerlens.linalg.codes import Codes, dequantise


def test_each_code_is_multiplied_by_the_scale_of_its_group_and_padding_is_left_out() -> None:
    values = torch.tensor([[1, -2, 3, 4, 5, 0, 0, 0], [-8, 7, 0, 1, 2, 0, 0, 0]], dtype=torch.int8)
    scales = torch.tensor([[0.5, -2.0], [0.25, 3.0]], dtype=torch.bfloat16)
    expected = [[0.5, -1.0, 1.5, 2.0, -10.0], [-2.0, 1.75, 0.0, 0.25, 6.0]]
    matrix = dequantise(Codes(values, scales, bits=4, group_size=4, features=5))
    assert matrix.dtype == torch.float32
    assert matrix.tolist() == expected


def test_the_codes_themselves_are_left_as_they_were() -> None:
    codes = Codes(torch.ones(2, 8, dtype=torch.int8), torch.full((2, 1), 3.0, dtype=torch.bfloat16), 8, 8, 8)
    dequantise(codes)
    assert codes.values.unique().tolist() == [1]
