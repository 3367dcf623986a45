"""From a compressed matrix to the tensors of a file, and back.

stored(scheme, codes | factors | weight) ──► {"codes", "scales", "up", …} ──► restored(scheme, …) = Ŵ [out in]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from layerlens.artifacts.formats import Format, Scheme
from layerlens.linalg.bit_planes import pack_codes, unpack_codes
from layerlens.linalg.codes import Codes, dequantise
from layerlens.linalg.nearest_rounding import round_with_searched_scales
from layerlens.nn.stored_form import CodedShape, coded_shapes, is_plain, stored_tensors

ValueT = TypeVar("ValueT")


def stored(
    scheme: Scheme,
    *,
    weight: Float[Tensor, "out_features in_features"] | None = None,
    codes: Codes | None = None,
    up: Float[Tensor, "rank out_features"] | None = None,
    down: Float[Tensor, "rank in_features"] | None = None,
) -> dict[str, Tensor]:
    """The tensors of one matrix as they stand in a file, by their name within the module.

    Args:
        scheme: How the matrix is stored; it says which of the others are needed.
        weight: The matrix, for `keep` (as it is) and `half`.
        codes: Its codes, of the scheme's width and group size.
        up: Left factor, in float; rounded here to the scheme's factor bits.
        down: Right factor, the same.

    Raises:
        ValueError: something that the scheme needs is missing, or is of another width, group size or rank.
    """
    if is_plain(scheme):
        values = _needed(scheme, "weight", weight)
        values = values.to(torch.bfloat16) if scheme.format is Format.HALF else values
        return {"weight": values.contiguous()}
    tensors: dict[str, Tensor] = {}
    if scheme.format.has_codes:
        given = _needed(scheme, "codes", codes)
        if (given.bits, given.group_size) != (scheme.bits, scheme.group_size):
            raise ValueError(f"codes of {given.bits} bits by {given.group_size} do not suit {scheme.name} by {scheme.group_size}")
        tensors |= {"codes": pack_codes(given.values, given.bits), "scales": given.scales.contiguous()}
    if scheme.format.has_factors:
        for name, factor in (("up", up), ("down", down)):
            values = _needed(scheme, name, factor)
            if len(values) != scheme.rank:
                raise ValueError(f"factor {name} of rank {len(values)} does not suit {scheme.name}")
            tensors |= _stored_factor(name, values, scheme)
    return tensors


def restored(
    scheme: Scheme, tensors: Mapping[str, Tensor], out_features: int, in_features: int
) -> Float[Tensor, "out_features in_features"]:
    """The matrix that stored tensors stand for, in float32.

    Args:
        scheme: How it is stored.
        tensors: By their name within the module.
        out_features: Its rows.
        in_features: Its columns.
    """
    if is_plain(scheme):
        return tensors["weight"].float()
    shapes = coded_shapes(scheme, out_features, in_features)
    total = _decoded(tensors, shapes["codes"]) if scheme.format.has_codes else torch.zeros(out_features, in_features)
    if scheme.format.has_factors:
        up, down = (_decoded(tensors, shapes[name]) if name in shapes else tensors[name].float() for name in ("up", "down"))
        total.addmm_(up.t(), down)
    return total


def check_tensors(scheme: Scheme, tensors: Mapping[str, Tensor], out_features: int, in_features: int) -> list[str]:
    """What is wrong with the tensors of one matrix; nothing where they are what the scheme stores."""
    faults = []
    needed = stored_tensors(scheme, out_features, in_features)
    for name in sorted(needed.keys() | tensors.keys()):
        if name not in needed or name not in tensors:
            faults.append(f"{name} is {'not part of' if name in tensors else 'missing for'} {scheme.name}")
            continue
        tensor, (shape, dtype) = tensors[name], needed[name]
        if tuple(tensor.shape) != shape or tensor.dtype != dtype:
            faults.append(f"{name} is {tensor.dtype} {list(tensor.shape)}, needed {dtype} {list(shape)}")
        elif not tensor.is_contiguous():
            faults.append(f"{name} is not contiguous")
        elif tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            faults.append(f"{name} holds NaN or infinite values")
    return faults


def _stored_factor(name: str, values: Float[Tensor, "rank features"], scheme: Scheme) -> dict[str, Tensor]:
    if scheme.factor_bits == 16:
        return {name: values.to(torch.bfloat16).contiguous()}
    codes = round_with_searched_scales(values, scheme.factor_bits, scheme.group_size, None)
    return {name: pack_codes(codes.values, codes.bits), f"{name}_scales": codes.scales.contiguous()}


def _decoded(tensors: Mapping[str, Tensor], shape: CodedShape) -> Float[Tensor, "rows features"]:
    values = unpack_codes(tensors[shape.name], shape.bits, shape.padded)
    return dequantise(Codes(values, tensors[shape.scales_name], shape.bits, shape.group_size, shape.features))


def _needed(scheme: Scheme, name: str, value: ValueT | None) -> ValueT:
    if value is None:
        raise ValueError(f"{scheme.name} needs {name}")
    return value
