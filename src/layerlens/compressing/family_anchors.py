"""Anchors of families: what a plan chose is measured alone, and corrects the predictions of its kind.

    predicted loss of an option  =  second-order prediction p × anchor of its matrix × anchor of its family

One probe at 3-bit codes anchors all options of a matrix; yet factors leave other errors than codes do, and the second-order model
takes some of them for several times too cheap. The optimum seeks out just those. So options that it picks far from any probe are
measured, and log(measured / (p × anchor)) of their family runs straight in log p between probes, and level beyond them.
A matrix without a probe in a family reads its anchors off the same options of its role, by depth.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from layerlens.artifacts.compression import Curves, MatrixCurve, Option, Probe, Rounding
from layerlens.artifacts.formats import Format, Scheme
from layerlens.compressing.anchors import FEW_PER_ROLE, LARGEST_ANCHOR, evenly_spaced, probed_option

#: A probe speaks for options of its family whose predicted loss is within this factor of its own. Codes three widths away were
#: foretold to a tenth; factors of twice the rank, two times wrong.
REACH = {Format.INTEGER: 100.0, Format.LOW_RANK: 8.0, Format.INTEGER_LOW_RANK: 8.0}
#: An option's place among the options of matrices of its shape.
_Place = tuple[Scheme, Rounding]
#: Points of a family of one matrix, rising: log of the second-order prediction, log of the family's anchor.
_Points = list[tuple[float, float]]


def unanchored(matrix: MatrixCurve, option: Option) -> float:
    """The loss of an option by the second-order model alone, nats."""
    return option.predicted_loss / (option.family_anchor * matrix.anchor)


def far_from_probes(chosen: Sequence[tuple[MatrixCurve, Option]]) -> list[tuple[MatrixCurve, Option]]:
    """The options of a plan that no probe of their own family speaks for.

    One that could not matter if it were as much too cheap as an anchor may say is left out.

    Args:
        chosen: Every matrix with what the plan gives it.
    """
    total = math.fsum(option.predicted_loss for _, option in chosen)
    return [
        (matrix, option)
        for matrix, option in chosen
        if option.scheme.format in REACH
        and option.predicted_loss * LARGEST_ANCHOR * len(chosen) >= total > 0
        and not _is_near(matrix, option)
    ]


def few_per_family(wanted: Sequence[tuple[MatrixCurve, Option]], curves: Curves) -> list[tuple[MatrixCurve, Option]]:
    """So many of them that each role has a few probes in each family, evenly spaced; all that stand outside the blocks."""
    members: dict[tuple[str, Format], list[int]] = {}
    for place, (matrix, option) in enumerate(wanted):
        members.setdefault((_role(matrix), option.scheme.format), []).append(place)
    kept: set[int] = set()
    for (role, family), places in members.items():
        done = sum(1 for matrix in curves.matrices if _role(matrix) == role and _probes(matrix, family))
        kept |= {places[at] for at in evenly_spaced(len(places), FEW_PER_ROLE - done)}
    return [each for place, each in enumerate(wanted) if place in kept]


def family_anchored(curves: Curves, probes: Mapping[str, Probe]) -> Curves:
    """The curves with more family probes, every predicted loss with the anchor of its family.

    Args:
        curves: Anchored by `anchored`; may have family probes already.
        probes: By layer.
    """
    matrices = [
        matrix.model_copy(update={"family_probes": [*matrix.family_probes, probes[matrix.layer]]})
        if matrix.layer in probes
        else matrix
        for matrix in curves.matrices
    ]
    points = [_points(matrix) for matrix in matrices]
    own: dict[tuple[str, _Place], list[tuple[int, float]]] = {}
    for matrix, families in zip(matrices, points, strict=True):
        for option in matrix.options if matrix.block is not None else []:
            if option.scheme.format in families and option.predicted_loss > 0:
                level = _level(families[option.scheme.format], matrix, option)
                own.setdefault((matrix.role, (option.scheme, option.rounding)), []).append((matrix.block or 0, level))
    return curves.model_copy(
        update={"matrices": [_with_anchors(matrix, each, own) for matrix, each in zip(matrices, points, strict=True)]}
    )


def _with_anchors(
    matrix: MatrixCurve, points: Mapping[Format, _Points], own: Mapping[tuple[str, _Place], Sequence[tuple[int, float]]]
) -> MatrixCurve:
    options = []
    for option in matrix.options:
        level = 0.0
        known = own.get((matrix.role, (option.scheme, option.rounding)))
        if option.scheme.format in points and option.predicted_loss > 0:
            level = _level(points[option.scheme.format], matrix, option)
        elif known and matrix.block is not None:
            blocks, levels = zip(*sorted(known), strict=True)
            level = float(np.interp(matrix.block, blocks, levels))
        options.append(_scaled(option, math.exp(level)))
    return matrix.model_copy(update={"options": options})


def _scaled(option: Option, anchor: float) -> Option:
    if option.family_anchor == anchor:
        return option
    loss = option.predicted_loss / option.family_anchor * anchor
    return option.model_copy(update={"predicted_loss": loss, "family_anchor": anchor})


def _points(matrix: MatrixCurve) -> dict[Format, _Points]:
    """The families of a matrix that have probes of their own; the matrix's anchor is a point of the family that it stands in."""
    found: dict[Format, _Points] = {}
    for probe in matrix.family_probes:
        if probe.predicted > 0:
            ratio = max(probe.measured, 0.0) / probe.predicted / matrix.anchor
            level = math.log(min(LARGEST_ANCHOR, max(1 / LARGEST_ANCHOR, ratio)))
            found.setdefault(probe.scheme.format, []).append((math.log(probe.predicted), level))
    base = probed_option(matrix)
    if base is not None and base.scheme.format in found:
        found[base.scheme.format].append((math.log(unanchored(matrix, base)), 0.0))
    return {family: sorted(points) for family, points in found.items()}


def _level(points: _Points, matrix: MatrixCurve, option: Option) -> float:
    places, levels = zip(*points, strict=True)
    return float(np.interp(math.log(unanchored(matrix, option)), places, levels))


def _is_near(matrix: MatrixCurve, option: Option) -> bool:
    family = option.scheme.format
    known = [probe.predicted for probe in _probes(matrix, family)]
    base = probed_option(matrix)
    if base is not None and base.scheme.format is family:
        known.append(unanchored(matrix, base))
    predicted, reach = unanchored(matrix, option), REACH[family]
    return any(predicted <= reach * each and each <= reach * predicted for each in known)


def _probes(matrix: MatrixCurve, family: Format) -> list[Probe]:
    return [probe for probe in matrix.family_probes if probe.scheme.format is family]


def _role(matrix: MatrixCurve) -> str:
    """What stands outside the blocks is a role of its own."""
    return matrix.role if matrix.block is not None else matrix.layer
