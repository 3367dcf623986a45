"""The price of solving a matrix against what the solver really allocates."""

from __future__ import annotations

import pytest
import torch

from layerlens.compressing.matrices import Matrix, Place
from layerlens.compressing.option_grid import OptionGrid
from layerlens.compressing.options import solve_matrix
from layerlens.compressing.sensitivity import PriceTerm, Sensitivity
from layerlens.compressing.solving_memory import solving_bytes
from layerlens.words import Role
from tests.unit.allocations import peak_bytes

LEAN = OptionGrid(widths=(4,), sweeps=1, two_sided_widths=(), corrected_widths=(), is_iterated=True)


@pytest.mark.parametrize(
    ("rows", "columns", "place"),
    [(640, 2560, Place.BLOCK), (2560, 640, Place.BLOCK), (1280, 1280, Place.BLOCK), (16_384, 512, Place.TABLE)],
)
def test_a_lean_solve_takes_what_it_is_priced_at_or_less(rows: int, columns: int, place: Place) -> None:
    torch.manual_seed(0)
    weight, right = torch.randn(rows, columns) / 30, torch.randn(700, columns) * torch.logspace(0, -1, columns)
    if place is Place.TABLE:
        left = output_gram = torch.rand(rows)
    else:
        left = torch.randn(64, rows)
        output_gram = left.T @ left
    sensitivity = Sensitivity(right.T @ right, output_gram, (PriceTerm(left, right[:64].clone()),), inputs=right[:64].clone())
    held = weight.nbytes + sensitivity.input_gram.nbytes + output_gram.nbytes
    taken = held + peak_bytes(lambda: solve_matrix(weight, sensitivity, 2, LEAN))
    matrix = Matrix("h", place, 0, Role.OTHER, rows, columns, "h.weight", 2, "h")
    assert 0.5 * solving_bytes(matrix, LEAN) <= taken <= solving_bytes(matrix, LEAN)
