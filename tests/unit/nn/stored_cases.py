"""Schemes and modules with random stored tensors, and the matrix that they stand for, decoded one number at a time."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from layerlens.artifacts.formats import Scheme, integer, integer_low_rank, low_rank
from layerlens.linalg.bit_planes import unpack_codes
from layerlens.nn.stored_form import stored_tensors
from layerlens.nn.stored_module import StoredModule

SCHEMES = [
    *(integer(bits, 32) for bits in range(2, 9)),
    integer(8, 104),
    integer(8, 112),
    low_rank(16, 16),
    low_rank(16, 8, 32),
    low_rank(32, 4, 64),
    integer_low_rank(3, 16, 8, 32),
    integer_low_rank(4, 16, 4, 32),
    integer_low_rank(2, 16, 16, 32),
]
IDS = [f"{scheme.name}g{scheme.group_size}" for scheme in SCHEMES]


def filled(module: StoredModule, seed: int = 0) -> StoredModule:
    """Fill the buffers of a module with random codes, scales and factors."""
    generator = torch.Generator().manual_seed(seed)
    for name, (shape, dtype) in stored_tensors(module.scheme, module.out_features, module.in_features).items():
        if dtype == torch.uint8:
            values = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        else:
            values = (0.05 * torch.randn(shape, generator=generator)).to(dtype)
        module.get_buffer(name).copy_(values)
    return module


def dense(scheme: Scheme, tensors: Mapping[str, Tensor], out_features: int, in_features: int) -> Tensor:
    """The matrix in float64."""
    total = torch.zeros(out_features, in_features, dtype=torch.float64)
    if scheme.format.has_codes:
        total += _coded(tensors["codes"], tensors["scales"], scheme.bits, scheme.group_size, in_features)
    if scheme.format.has_factors:
        factors = []
        for name, features in (("up", out_features), ("down", in_features)):
            if scheme.factor_bits == 16:
                factors.append(tensors[name].double())
            else:
                bits = scheme.factor_bits
                factors.append(_coded(tensors[name], tensors[f"{name}_scales"], bits, scheme.group_size, features))
        total += factors[0].t() @ factors[1]
    return total


def _coded(packed: Tensor, scales: Tensor, bits: int, group_size: int, features: int) -> Tensor:
    codes = unpack_codes(packed, bits, scales.shape[1] * group_size)
    return (codes.double() * scales.double().repeat_interleave(group_size, dim=1))[:, :features]
