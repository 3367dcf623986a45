"""A matrix stored in bfloat16, in a model that may compute in another type: cast a slice at a time, on use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from layerlens.nn.coded_matrix import SLICE_NUMBERS
from layerlens.nn.frozen_product import FrozenMatrix, wide
from layerlens.nn.row_scale import PLAIN, RowScale


class HalfModule(FrozenMatrix):
    """Holds `weight` in bfloat16 in the checkpoint's own orientation; abstract.

    Args:
        out_features: Outputs, or rows of a table.
        in_features: Inputs, or columns of a table.
        is_transposed: It is stored as [in_features out_features], as GPT-2's `Conv1D` has it.
        device: Where the empty buffer is made.
    """

    def __init__(
        self, out_features: int, in_features: int, *, is_transposed: bool = False, device: torch.device | str | None = None
    ) -> None:
        super().__init__()
        self.out_features, self.in_features, self.is_transposed = out_features, in_features, is_transposed
        shape = (in_features, out_features) if is_transposed else (out_features, in_features)
        self.register_buffer("weight", torch.empty(shape, dtype=torch.bfloat16, device=device))

    def rows(self, which: slice | Tensor, dtype: torch.dtype) -> Float[Tensor, "rows in_features"]:
        """Some rows: a slice, or rows by their numbers."""
        return self._matrix()[which].to(dtype)

    def multiply(self, inputs: Float[Tensor, "tokens in_features"]) -> Float[Tensor, "tokens out_features"]:
        """x Wᵀ."""
        if inputs.dtype == torch.bfloat16:
            return functional.linear(inputs, self._matrix())
        return torch.cat([functional.linear(inputs, self.rows(which, inputs.dtype)) for which in self._slices()], dim=-1)

    def multiply_back(self, gradient: Float[Tensor, "tokens out_features"]) -> Float[Tensor, "tokens in_features"]:
        """ȳ W."""
        if gradient.dtype == torch.bfloat16:
            return gradient @ self._matrix()
        total = gradient.new_zeros(len(gradient), self.in_features, dtype=wide(gradient.dtype))
        for which in self._slices():
            total += gradient[:, which] @ self.rows(which, gradient.dtype)
        return total.to(gradient.dtype)

    def extra_repr(self) -> str:
        return f"half, in_features={self.in_features}, out_features={self.out_features}"

    def _slices(self) -> list[slice]:
        step = max(1, SLICE_NUMBERS // self.in_features)
        return [slice(start, start + step) for start in range(0, self.out_features, step)]

    def _matrix(self) -> Float[Tensor, "out_features in_features"]:
        weight: Tensor = self._buffers["weight"]  # type: ignore[assignment]
        return weight.t() if self.is_transposed else weight


class HalfLinear(HalfModule):
    """y = x Wᵀ + b.

    Args:
        out_features: Outputs.
        in_features: Inputs.
        bias: As the original has it.
        is_transposed: As `HalfModule`.
        device: As `HalfModule`.
    """

    def __init__(
        self,
        out_features: int,
        in_features: int,
        bias: nn.Parameter | None = None,
        *,
        is_transposed: bool = False,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(out_features, in_features, is_transposed=is_transposed, device=device)
        self.bias = bias

    def forward(self, inputs: Float[Tensor, "*axes in_features"]) -> Float[Tensor, "*axes out_features"]:
        outputs = self.product(inputs)
        return outputs if self.bias is None else outputs + self.bias.to(outputs.dtype)


class HalfEmbedding(HalfModule):
    """A table of which only the rows that are looked up are cast.

    Args:
        num_embeddings: Rows.
        embedding_dim: Columns.
        padding_idx: As the original has it; it only matters to training.
        dtype: Type of the rows it gives; follows the model when that is cast.
        device: As `HalfModule`.
        scale: What its rows are multiplied by on their way out.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
        scale: RowScale = PLAIN,
    ) -> None:
        super().__init__(num_embeddings, embedding_dim, device=device)
        self.num_embeddings, self.embedding_dim, self.padding_idx = num_embeddings, embedding_dim, padding_idx
        self.dtype, self.scale = dtype, scale

    def forward(self, input_ids: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape embedding_dim"]:
        rows = functional.embedding(input_ids, self._buffers["weight"])  # type: ignore[arg-type]
        return self.scale.times(rows.to(self.dtype))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        self.dtype = fn(torch.empty(0, dtype=self.dtype)).dtype
        return super()._apply(fn, recurse)
