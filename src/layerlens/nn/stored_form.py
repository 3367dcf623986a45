"""The tensors of a stored matrix [out_features in_features]: their names, shapes and types, as file and modules have them.

half        weight                   in the checkpoint's own orientation, bfloat16
codes       codes, scales            [out_features …]: packed bytes, one bfloat16 scale for each group of inputs
factors     up, down                 [rank out_features], [rank in_features], bfloat16
            up, up_scales, down, …   the same as codes
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from layerlens.artifacts.formats import Format, Scheme


@dataclass(frozen=True)
class CodedShape:
    """One matrix of codes [rows features] among the tensors of a module.

    Attributes:
        name: Tensor with the packed codes.
        rows: Rows.
        features: Columns, not padded.
        bits: Width of a code.
        group_size: Features that share a scale.
    """

    name: str
    rows: int
    features: int
    bits: int
    group_size: int

    @property
    def scales_name(self) -> str:
        """Tensor with the scales."""
        return "scales" if self.name == "codes" else f"{self.name}_scales"

    @property
    def groups(self) -> int:
        """Groups in a row."""
        return -(-self.features // self.group_size)

    @property
    def padded(self) -> int:
        """Codes in a row, padding included."""
        return self.groups * self.group_size

    def tensors(self) -> dict[str, tuple[tuple[int, int], torch.dtype]]:
        """Shapes and types."""
        return {
            self.name: ((self.rows, self.padded * self.bits // 8), torch.uint8),
            self.scales_name: ((self.rows, self.groups), torch.bfloat16),
        }


def coded_shapes(scheme: Scheme, out_features: int, in_features: int) -> dict[str, CodedShape]:
    """The matrices of codes that a scheme stores, by the name of their packed tensor."""
    shapes = []
    if scheme.format.has_codes:
        shapes.append(CodedShape("codes", out_features, in_features, scheme.bits, scheme.group_size))
    if scheme.format.has_factors and scheme.factor_bits < 16:
        shapes.append(CodedShape("up", scheme.rank, out_features, scheme.factor_bits, scheme.group_size))
        shapes.append(CodedShape("down", scheme.rank, in_features, scheme.factor_bits, scheme.group_size))
    return {shape.name: shape for shape in shapes}


def stored_tensors(scheme: Scheme, out_features: int, in_features: int) -> dict[str, tuple[tuple[int, int], torch.dtype]]:
    """Shape and type of every tensor of a matrix with codes or factors, in the order that files have them.

    `keep` and `half` are stored as the module's own `weight` and are none of them.
    """
    tensors: dict[str, tuple[tuple[int, int], torch.dtype]] = {}
    for shape in coded_shapes(scheme, out_features, in_features).values():
        tensors |= shape.tensors()
    if scheme.format.has_factors and scheme.factor_bits == 16:
        tensors["up"] = ((scheme.rank, out_features), torch.bfloat16)
        tensors["down"] = ((scheme.rank, in_features), torch.bfloat16)
    return tensors


def is_plain(scheme: Scheme) -> bool:
    """Whether a matrix is stored as an ordinary `weight`."""
    return scheme.format in (Format.KEEP, Format.HALF)
