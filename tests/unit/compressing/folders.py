"""Compressed folders of tiny models, with every format somewhere in them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from layerlens.artifacts.formats import HALF, KEEP, Format, Scheme, integer, integer_low_rank, low_rank, size_bytes
from layerlens.compressing.stored_matrix import stored
from layerlens.compressing.write_folder import ChosenMatrix, write_folder
from layerlens.linalg.nearest_rounding import round_to_nearest
from layerlens.models.checkpoint import Checkpoint, open_checkpoint
from layerlens.models.headers import ELEMENT_BYTES
from layerlens.models.streamed.tensor_reader import TensorReader
from tests.tiny_models import save_tiny

SCHEMES = [
    integer(4, 32),
    integer(3, 32),
    integer(8, 32),
    low_rank(16, 8, 32),
    integer_low_rank(3, 16, 4, 32),
    HALF,
    KEEP,
    low_rank(16, 16),
]
#: Linear layers of GPT-2 are stored transposed.
_TRANSPOSED = (".c_attn.", ".c_proj.", ".c_fc.")
_PASSED_OVER = ("position", "wpe", "token_type", "norm", "ln_")


@dataclass(frozen=True)
class Compressed:
    """A checkpoint and its compressed folder."""

    source: Checkpoint
    folder: Path
    chosen: list[ChosenMatrix]
    size_bytes: int

    @property
    def planned_bytes(self) -> int:
        """What a planner would count."""
        chosen = {matrix.tensor: matrix for matrix in self.chosen}
        reader = TensorReader(self.source.tensors)
        other = sum(reader.num_bytes(name) for name in self.source.tensors if name not in chosen)
        return other + sum(
            size_bytes(
                matrix.scheme, matrix.out_features, matrix.in_features, ELEMENT_BYTES[self.source.tensors[matrix.tensor].dtype]
            )
            for matrix in chosen.values()
        )


def choose(source: Checkpoint, schemes: list[Scheme] = SCHEMES) -> list[ChosenMatrix]:
    """Give each matrix of a checkpoint a scheme, in turn."""
    chosen: list[ChosenMatrix] = []
    for name, header in source.tensors.items():
        if len(header.shape) != 2 or any(part in name.lower() for part in _PASSED_OVER):
            continue
        is_transposed = source.config["model_type"] == "gpt2" and any(part in name for part in _TRANSPOSED)
        rows, columns = reversed(header.shape) if is_transposed else header.shape
        scheme = schemes[len(chosen) % len(schemes)]
        chosen.append(ChosenMatrix(f"layer of {name}", name, scheme, rows, columns, is_transposed))
    return chosen


def stored_matrices(source: Checkpoint, chosen: list[ChosenMatrix]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """The stored tensors of every matrix with codes or factors: rounded to nearest, factors by truncation."""
    reader = TensorReader(source.tensors)
    for matrix in chosen:
        if matrix.scheme.format not in (Format.KEEP, Format.HALF):
            values = reader.read(matrix.tensor).float()
            yield matrix.layer, stored_matrix(values.t() if matrix.is_transposed else values, matrix.scheme)
    reader.close()


def stored_matrix(weight: Tensor, scheme: Scheme) -> dict[str, Tensor]:
    """The stored tensors of one matrix."""
    found: dict[str, Any] = {}
    if scheme.format.has_codes:
        found["codes"] = round_to_nearest(weight, scheme.bits, scheme.group_size)
    if scheme.format.has_factors:
        u, s, vh = torch.linalg.svd(weight, full_matrices=False)
        up, down = torch.zeros(scheme.rank, weight.shape[0]), torch.zeros(scheme.rank, weight.shape[1])
        rank = min(scheme.rank, len(s))
        up[:rank], down[:rank] = (u[:, :rank] * s[:rank]).t(), vh[:rank]
        found |= {"up": up, "down": down}
    return stored(scheme, **found)


def compress_tiny(family: str, folder: Path, schemes: list[Scheme] = SCHEMES, **overrides: Any) -> Compressed:
    """Write a tiny model and its compressed folder."""
    source = open_checkpoint(str(save_tiny(family, folder / "original", **overrides)))
    return compress(source, folder / "compressed", schemes)


def compress(source: Checkpoint, out: Path, schemes: list[Scheme] = SCHEMES, **options: Any) -> Compressed:
    """Write a compressed folder."""
    chosen = choose(source, schemes)
    written = write_folder(out, source, chosen, stored_matrices(source, chosen), **options)
    return Compressed(source, out, chosen, written)
