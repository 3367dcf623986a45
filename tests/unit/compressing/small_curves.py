"""Curves of a few matrices, made by hand."""

from __future__ import annotations

from layerlens.artifacts.compression import CompressedModelInfo, Curves, MatrixCurve, Option, Probe, Rounding
from layerlens.artifacts.formats import KEEP, Scheme, integer
from layerlens.artifacts.profile import TaskInfo
from layerlens.words import Role, TaskKind


def option(scheme: Scheme, rounding: Rounding, loss: float) -> Option:
    return Option(scheme=scheme, rounding=rounding, size_bytes=1, predicted_loss=loss, weight_error=0.0, output_error=0.0)


def matrix(block: int | None, role: Role = Role.MLP_UP, options: list[Option] | None = None) -> MatrixCurve:
    layer = f"block {block} {role}"
    return MatrixCurve(
        layer=layer,
        block=block,
        role=role,
        out_features=32,
        in_features=32,
        kept_element_bytes=4,
        input_group=layer,
        options=options
        or [option(KEEP, Rounding.NONE, 0.0), *(option(integer(bits), Rounding.SECOND_ORDER, 2.0**-bits) for bits in (8, 4, 3))],
    )


def curves(matrices: list[MatrixCurve]) -> Curves:
    info = CompressedModelInfo(id="m", hash="h", architecture="A", num_parameters=10_000, size_bytes=40_000, other_bytes=0)
    return Curves(model=info, task=TaskInfo(kind=TaskKind.CAUSAL_LM), data={}, matrices=matrices)


def probe(predicted: float, measured: float) -> Probe:
    return Probe(scheme=integer(3), rounding=Rounding.SECOND_ORDER, predicted=predicted, measured=measured)
