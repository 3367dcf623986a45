"""Anchoring predicted losses to measured ones: one probe per matrix, or a few per role with the rest read off by depth.

    anchor of a matrix = measured / predicted divergence at its probe,   predicted loss of every option × anchor

The second-order model prices every option of a matrix in the same metric, so its errors are largely one factor per matrix: how
far curvature at the labels drawn, averaged apart over inputs and gradients, is from the divergence itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from layerlens.artifacts.compression import Curves, MatrixCurve, Option, Probe, Rounding
from layerlens.artifacts.formats import Format

#: Width of a probe: its loss stands clear of rounding, and is still small enough to be second order.
PROBE_BITS = 3
#: An anchor further from the typical one than this says that the probe drowned in noise or left the quadratic; it is held there.
LARGEST_ANCHOR = 20.0
#: Probes of each role where not every matrix is measured.
FEW_PER_ROLE = 4


def probed_option(matrix: MatrixCurve) -> Option | None:
    """The option that is measured: codes of three bits, or of the nearest width on offer; None where nothing loses anything."""
    codes = [
        option
        for option in matrix.options
        if option.scheme.format is Format.INTEGER and option.rounding is Rounding.SECOND_ORDER and option.predicted_loss > 0
    ] or [option for option in matrix.options if option.predicted_loss > 0]
    return min(codes, key=lambda one: (abs(one.scheme.bits - PROBE_BITS), one.scheme.bits), default=None)


def few_per_role(matrices: Sequence[MatrixCurve]) -> list[MatrixCurve]:
    """The first, the last and some evenly spaced matrices of every role; all of what stands outside the blocks."""
    chosen: set[str] = set()
    by_role: dict[str, list[MatrixCurve]] = {}
    for matrix in matrices:
        by_role.setdefault(matrix.role if matrix.block is not None else matrix.layer, []).append(matrix)
    for members in by_role.values():
        chosen |= {members[place].layer for place in evenly_spaced(len(members), FEW_PER_ROLE)}
    return [matrix for matrix in matrices if matrix.layer in chosen]


def evenly_spaced(count: int, wanted: int) -> list[int]:
    """So many of `count` places at most, the first and the last among them where there are two."""
    return np.unique(np.linspace(0, count - 1, max(0, min(wanted, count))).round().astype(int)).tolist()


def anchored(curves: Curves, probes: Mapping[str, Probe]) -> Curves:
    """The curves with their probes, every predicted loss multiplied by its anchor."""
    typical = _typical(probes)
    anchors = {layer: _anchor(probe, typical) for layer, probe in probes.items()}
    matrices = []
    for matrix in curves.matrices:
        anchor = anchors.get(matrix.layer) or _by_depth(matrix, curves.matrices, anchors, typical)
        options = [option.model_copy(update={"predicted_loss": option.predicted_loss * anchor}) for option in matrix.options]
        matrices.append(matrix.model_copy(update={"options": options, "anchor": anchor, "probe": probes.get(matrix.layer)}))
    return curves.model_copy(update={"matrices": matrices})


def _typical(probes: Mapping[str, Probe]) -> float:
    """The median of measured over predicted: what is measured may have another unit than what was predicted."""
    ratios = [probe.measured / probe.predicted for probe in probes.values() if probe.predicted > 0 and probe.measured > 0]
    return float(np.exp(np.median(np.log(ratios)))) if ratios else 1.0


def _anchor(probe: Probe, typical: float) -> float:
    if probe.predicted <= 0:
        return typical
    return min(LARGEST_ANCHOR * typical, max(typical / LARGEST_ANCHOR, probe.measured / probe.predicted))


def _by_depth(matrix: MatrixCurve, matrices: Sequence[MatrixCurve], anchors: Mapping[str, float], typical: float) -> float:
    """Between the measured matrices of its role, straight in logarithms over depth; the typical one where none was measured."""
    known = [
        (other.block, math.log(anchors[other.layer]))
        for other in matrices
        if other.role == matrix.role and other.block is not None and other.layer in anchors
    ]
    if matrix.block is None or not known:
        return typical
    blocks, logs = zip(*sorted(known), strict=True)
    return float(np.exp(np.interp(matrix.block, blocks, logs)))
