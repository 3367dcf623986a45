"""The curves of a model before anything is measured: every option with its exact bytes, and no loss.

Sizes and ranks follow from shapes alone, so a target below the smallest size, a pattern that matches nothing or a rank above a
matrix is told at once, not after hours of calibration.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

from layerlens.artifacts.compression import CompressedModelInfo, Curves, Option, Rounding
from layerlens.artifacts.formats import HALF, KEEP, Scheme, integer, size_bytes
from layerlens.artifacts.profile import TaskInfo
from layerlens.compressing.matrices import Matrix, Place, checkpoint_size, matrices_of
from layerlens.compressing.matrix_curve import matrix_curve
from layerlens.compressing.option_grid import OptionGrid
from layerlens.models.streamed.load import StreamedModel
from layerlens.words import TaskKind


def unmeasured_curves(model: StreamedModel, task: TaskInfo, grid: OptionGrid) -> Curves:
    """The options that measuring would price.

    Args:
        model: Only headers of its checkpoint are read.
        task: What it does.
        grid: Which options there are. A layer of a block that no sample's loss depends on turns out to have fewer.
    """
    matrices = matrices_of(model)
    checkpoint, size = model.checkpoint, checkpoint_size(model, matrices)
    return Curves(
        model=CompressedModelInfo(
            id=checkpoint.id, hash=checkpoint.hash(), architecture=str(model.info.architecture), **asdict(size)
        ),
        task=task,
        data={},
        matrices=[
            matrix_curve(
                matrix,
                matrix.input_group,
                sorted(_options(matrix, task, grid), key=lambda option: (option.size_bytes, option.scheme.name)),
            )
            for matrix in matrices
        ],
    )


def _options(matrix: Matrix, task: TaskInfo, grid: OptionGrid) -> Iterator[Option]:
    for scheme, rounding in _schemes(matrix, task, grid):
        size = size_bytes(scheme, matrix.out_features, matrix.in_features, matrix.kept_element_bytes)
        yield Option(scheme=scheme, rounding=rounding, size_bytes=size, predicted_loss=0.0, weight_error=0.0, output_error=0.0)


def _schemes(matrix: Matrix, task: TaskInfo, grid: OptionGrid) -> Iterator[tuple[Scheme, Rounding]]:
    shape = matrix.out_features, matrix.in_features
    yield KEEP, Rounding.NONE
    if matrix.kept_element_bytes > 2:
        yield HALF, Rounding.NONE
    if task.kind is TaskKind.EMBEDDING and matrix.place is Place.HEAD:
        # An embedding is the mean of the hidden states: no loss depends on the pooler behind them.
        for bits in grid.idle_widths:
            yield integer(bits, grid.group_size), Rounding.NEAREST
        return
    for bits in grid.widths:
        yield integer(bits, grid.group_size), Rounding.NEAREST
        yield integer(bits, grid.group_size), Rounding.SECOND_ORDER
        for scheme in grid.corrections(bits, *shape) if bits in grid.corrected_widths else []:
            yield scheme, Rounding.SECOND_ORDER
    ranks = grid.ranks(*shape)
    for bits in grid.factor_bits:
        for scheme in grid.factor_schemes(ranks, bits, *shape):
            yield scheme, Rounding.WHITENED
            if bits == 8:
                yield scheme, Rounding.PLAIN
