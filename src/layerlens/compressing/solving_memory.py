"""What memory the options of one matrix take, from shapes alone: the larger of rounding it and of factoring it.

    rounding     weight, A and its factor, B, copies of the rows at hand
    factoring    weight, A, B and its root, all of these in bfloat16 too, a few blocks of vectors; or, of a small matrix, copies
                 of it in float64

Beside either lie the codes and factors that were found. Rounding that sees both sides, and ranks for which all vectors are
decomposed, take copies of the whole matrix instead.
"""

from __future__ import annotations

from functools import cache

from layerlens.compressing.matrices import Matrix, Place
from layerlens.compressing.moment_sums import MOST_FULL
from layerlens.compressing.option_grid import OptionGrid, kept_bytes
from layerlens.linalg.error_feedback import num_largest
from layerlens.linalg.leading_subspace import COLUMNS_AT_ONCE, LARGEST_DOUBLE, LONG, OVERSAMPLING
from layerlens.linalg.second_order_rounding import rows_at_once

_HALF, _FLOAT, _DOUBLE = 2, 4, 8
#: Copies of the rows that are rounded together; of the vectors that are iterated, on either side.
_ROW_COPIES, _LONG_BLOCKS, _SHORT_BLOCKS = 16, 4, 6


def solving_bytes(matrix: Matrix, grid: OptionGrid) -> int:
    """Bytes that the options of one matrix take at most, its Grams in full among them.

    Args:
        matrix: Which.
        grid: Its options.
    """
    is_row_by_row = matrix.place is not Place.BLOCK and matrix.out_features > MOST_FULL
    return _bytes_of_shape(matrix.out_features, matrix.in_features, is_row_by_row, grid)


@cache
def _bytes_of_shape(rows: int, columns: int, is_row_by_row: bool, grid: OptionGrid) -> int:
    numbers, smaller = rows * columns, min(rows, columns)
    inputs, outputs = columns**2, 0 if is_row_by_row or rows > MOST_FULL else rows**2
    kept = kept_bytes(grid, rows, columns)
    if grid.two_sided_widths or not grid.is_iterated:
        if is_row_by_row:
            return kept + (_FLOAT + _HALF) * numbers + _FLOAT * (3 * inputs + 4 * smaller**2)
        return _FLOAT * (3 * inputs + 2 * outputs + 4 * numbers + 2 * smaller**2)
    at_once = min(rows, rows_at_once(columns)) * columns
    rounding = _FLOAT * (2 * inputs + columns * num_largest(columns) + outputs + numbers + _ROW_COPIES * at_once)
    long = max(rows, columns)
    width = max(grid.ranks(rows, columns), default=0) + OVERSAMPLING
    # A table's long side is gone through in parts, but for the factor itself.
    seen = long + (_LONG_BLOCKS - 1) * COLUMNS_AT_ONCE if long >= LONG else _LONG_BLOCKS * long
    vectors = width * (seen + _SHORT_BLOCKS * smaller)
    factoring = _FLOAT * (inputs + 2 * outputs + numbers + vectors) + _HALF * (inputs + outputs + numbers)
    if smaller <= LARGEST_DOUBLE and long < LONG:
        # Where an iteration gives up.
        double = _DOUBLE * (2 * numbers + 5 * smaller**2)
        factoring = max(factoring, _FLOAT * (inputs + outputs + numbers) + double)
    return kept + max(rounding, factoring)
