"""The curve of a matrix: what the checkpoint says of it, beside its options."""

from __future__ import annotations

from layerlens.artifacts.compression import MatrixCurve, Option
from layerlens.compressing.matrices import Matrix


def matrix_curve(matrix: Matrix, input_group: str, options: list[Option], spectrum_rank: float = 0.0) -> MatrixCurve:
    """The curve of a matrix.

    Args:
        matrix: Which.
        input_group: First layer that reads the same input, as the checkpoint says it or as it was seen.
        options: Its options, cheapest first.
        spectrum_rank: Effective rank of the whitened matrix; 0 before it is measured.
    """
    return MatrixCurve(
        layer=matrix.layer,
        block=matrix.block,
        role=matrix.role,
        out_features=matrix.out_features,
        in_features=matrix.in_features,
        kept_element_bytes=matrix.kept_element_bytes,
        input_group=input_group,
        tied=list(matrix.tied),
        options=options,
        spectrum_rank=spectrum_rank,
    )
