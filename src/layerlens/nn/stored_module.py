"""What all modules over a stored matrix share: buffers that are the stored tensors, and products that decode on use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from layerlens.artifacts.formats import Scheme
from layerlens.nn.coded_matrix import SLICE_NUMBERS, CodedMatrix
from layerlens.nn.frozen_product import FrozenMatrix, wide
from layerlens.nn.stored_form import coded_shapes, stored_tensors
from layerlens.nn.weighted_rows import is_for_bags, weighted_rows


class StoredModule(FrozenMatrix):
    """Holds a matrix [out_features in_features] in stored form; abstract.

    Buffers bear the names of the file and hold its very bytes.

    Args:
        scheme: How the matrix is stored.
        out_features: Its rows.
        in_features: Its columns.
        device: Where the empty buffers are made; `meta` before loading.
    """

    def __init__(self, scheme: Scheme, out_features: int, in_features: int, device: torch.device | str | None = None) -> None:
        super().__init__()
        self.scheme, self.out_features, self.in_features = scheme, out_features, in_features
        for name, (shape, dtype) in stored_tensors(scheme, out_features, in_features).items():
            self.register_buffer(name, torch.empty(shape, dtype=dtype, device=device))
        shapes = coded_shapes(scheme, out_features, in_features)
        self._coded = {name: CodedMatrix(self, shape) for name, shape in shapes.items()}

    @property
    def weight(self) -> Float[Tensor, "out_features in_features"]:
        """The whole matrix in float32, decoded anew each time: for code that looks at a weight, not for computing."""
        return self.rows(slice(None), torch.float32)

    @property
    def qweight(self) -> Tensor:
        """The first stored tensor, under the name that PEFT knows: it asks for a device, and need not decode `weight` for it."""
        return next(tensor for tensor in self._buffers.values() if tensor is not None)

    def rows(self, which: slice | Tensor, dtype: torch.dtype) -> Float[Tensor, "rows in_features"]:
        """Decode some rows: a slice, or rows by their numbers."""
        parts = [self._coded["codes"].rows(which, dtype)] if self.scheme.format.has_codes else []
        if self.scheme.format.has_factors:
            up = self._up_columns(which, dtype)
            parts += [up[ranks].t() @ down for ranks, down in self._factor("down", dtype)]
        return _sum(parts)

    def multiply(self, inputs: Float[Tensor, "tokens in_features"]) -> Float[Tensor, "tokens out_features"]:
        """x Wᵀ."""
        parts = [self._coded["codes"].product(inputs)] if self.scheme.format.has_codes else []
        if self.scheme.format.has_factors:
            parts += self._risen(self._hidden(inputs))
        return _sum(parts)

    def multiply_back(self, gradient: Float[Tensor, "tokens out_features"]) -> Float[Tensor, "tokens in_features"]:
        """ȳ W."""
        parts = [self._coded["codes"].product_back(gradient)] if self.scheme.format.has_codes else []
        if self.scheme.format.has_factors:
            hidden = torch.cat([gradient @ up.t() for _, up in self._factor("up", gradient.dtype)], dim=-1)
            total = gradient.new_zeros(len(gradient), self.in_features, dtype=wide(gradient.dtype))
            for ranks, down in self._factor("down", gradient.dtype):
                total += hidden[:, ranks] @ down
            parts.append(total.to(gradient.dtype))
        return _sum(parts)

    def stored_state(self) -> dict[str, Tensor]:
        """The tensors as a file has them, whichever form is in memory."""
        state = {}
        for name in stored_tensors(self.scheme, self.out_features, self.in_features):
            matrix = self._coded.get(name.removesuffix("_scales") if name != "scales" else "codes")
            if matrix is None:
                state[name] = self._buffers[name]
            else:
                state[name] = matrix.stored()[name.endswith("scales")]
        return state  # type: ignore[return-value]

    def extra_repr(self) -> str:
        return f"{self.scheme.name}, in_features={self.in_features}, out_features={self.out_features}"

    def _hidden(self, flat: Float[Tensor, "tokens in_features"]) -> Float[Tensor, "tokens rank"]:
        if "down" in self._coded:
            return self._coded["down"].product(flat)
        return torch.cat([flat @ down.t() for _, down in self._factor("down", flat.dtype)], dim=-1)

    def _risen(self, hidden: Float[Tensor, "tokens rank"]) -> list[Float[Tensor, "tokens out_features"]]:
        """Parts whose sum is the product with the second factor."""
        if not is_for_bags(hidden):
            return [hidden[:, ranks] @ up for ranks, up in self._factor("up", hidden.dtype)]
        if "up" in self._coded:
            return list(self._coded["up"].row_sums(hidden))
        return [weighted_rows(hidden[:, ranks], up) for ranks, up in self._factor("up", hidden.dtype)]

    def _factor(self, name: str, dtype: torch.dtype) -> Iterator[tuple[slice, Float[Tensor, "ranks features"]]]:
        """A factor in slices of its ranks."""
        if name in self._coded:
            yield from self._coded[name].slices(dtype)
            return
        factor: Tensor = self._buffers[name]  # type: ignore[assignment]
        step = len(factor) if factor.dtype == dtype else max(1, SLICE_NUMBERS // factor.shape[1])
        for start in range(0, len(factor), step):
            ranks = slice(start, start + step)
            yield ranks, factor[ranks].to(dtype)

    def _up_columns(self, which: slice | Tensor, dtype: torch.dtype) -> Tensor:
        numbers = which if isinstance(which, Tensor) else torch.arange(self.out_features)[which]
        if "up" in self._coded:
            return self._coded["up"].columns(numbers, dtype)
        return self._buffers["up"][:, numbers].to(dtype)  # type: ignore[index]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        for matrix in self._coded.values():
            matrix.to_stored_form()
        return super()._apply(fn, recurse)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name, tensor in self.stored_state().items():
            destination[prefix + name] = tensor

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        for matrix in self._coded.values():
            matrix.to_stored_form()
        super()._load_from_state_dict(*args, **kwargs)


def _sum(parts: list[Tensor]) -> Tensor:
    # A factor is cut only where it is large, so the parts are few.
    return parts[0] if len(parts) == 1 else sum(parts[2:], parts[0] + parts[1])
