"""One matrix of codes among the buffers of a module: decoded in slices, or held in the form that a kernel computes with.

    stored form     <name> packed codes, <scales>     as in the file; any type, any device
    kernel form     <name>_kernel, <scales>_kernel    bfloat16 on a CPU, few rows; made at the first such product

Only one of the two is in memory; the stored one is made again, bit for bit, when the module is saved or moved.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import BFloat16, Float, Int8, Int64
from torch import Tensor, nn
from torch.nn import functional

from layerlens.linalg.bit_planes import gather_codes, pack_codes, unpack_codes
from layerlens.nn import int4_kernel
from layerlens.nn.frozen_product import wide
from layerlens.nn.stored_form import CodedShape
from layerlens.nn.weighted_rows import weighted_code_rows

#: Numbers decoded at once: a slice stays small beside any activation, and near the processor.
SLICE_NUMBERS = 1 << 20
#: With more input rows than these, decoding once and multiplying is faster than the kernel: by half bytes of a code. Out of the
#: kernel's own form decoding takes longer, and twice as many rows are as fast.
KERNEL_INPUT_ROWS = {1: 64, 2: 24}
#: torch's 8-bit product loads whole registers: rows must be multiples of this, and tensors start at multiples of `_ALIGNMENT`
#: bytes, or the process dies.
_INT8_STEP = 16
_ALIGNMENT = 64


class CodedMatrix:
    """Codes [rows features] whose tensors are buffers of a module.

    Args:
        owner: Module that has the buffers, in stored form.
        shape: What they hold.
    """

    def __init__(self, owner: nn.Module, shape: CodedShape) -> None:
        self._owner, self.shape = owner, shape
        self._kernel_names = (f"{shape.name}_kernel", f"{shape.scales_name}_kernel")
        for name in self._kernel_names:
            owner.register_buffer(name, None, persistent=False)

    @property
    def has_kernel_form(self) -> bool:
        """Whether the kernel's form is the one in memory."""
        return self._owner._buffers[self._kernel_names[0]] is not None

    def rows(self, which: slice | Tensor, dtype: torch.dtype) -> Float[Tensor, "rows features"]:
        """Decode some rows: a slice, or rows by their numbers."""
        return self._decoded(*self._codes(which), dtype)

    def columns(self, which: Int64[Tensor, " columns"], dtype: torch.dtype) -> Float[Tensor, "rows columns"]:
        """Decode some columns by their numbers."""
        shape = self.shape
        packed, scales = self.stored()
        which = which.to(packed.device)
        codes = gather_codes(packed, shape.bits, shape.padded, which)
        return codes.to(dtype) * scales[:, which // shape.group_size].to(dtype)

    def slices(self, dtype: torch.dtype) -> Iterator[tuple[slice, Float[Tensor, "rows features"]]]:
        """Decode all rows, a slice at a time."""
        for which in self._row_slices():
            yield which, self.rows(which, dtype)

    def row_sums(self, weights: BFloat16[Tensor, "tokens rows"]) -> Iterator[BFloat16[Tensor, "tokens features"]]:
        """Rows weighted and added up, x W, for few tokens: one sum for each slice of rows."""
        for which in self._row_slices():
            yield weighted_code_rows(weights[:, which], *self._codes(which))[:, : self.shape.features]

    def product(self, inputs: Float[Tensor, "tokens features"]) -> Float[Tensor, "tokens rows"]:
        """x Wᵀ."""
        few = KERNEL_INPUT_ROWS[int4_kernel.half_bytes(self.shape.bits)] * (2 if self.has_kernel_form else 1)
        if len(inputs) <= few and inputs.dtype == torch.bfloat16 and inputs.device.type == "cpu":
            product = self._kernel_product(inputs)
            if product is not None:
                return product
        return torch.cat([functional.linear(inputs, weight) for _, weight in self.slices(inputs.dtype)], dim=-1)

    def product_back(self, gradient: Float[Tensor, "tokens rows"]) -> Float[Tensor, "tokens features"]:
        """ȳ W."""
        total = gradient.new_zeros(len(gradient), self.shape.features, dtype=wide(gradient.dtype))
        for which, weight in self.slices(gradient.dtype):
            total += gradient[:, which] @ weight
        return total.to(gradient.dtype)

    def stored(self) -> tuple[Tensor, Tensor]:
        """Codes and scales in stored form, whichever form is in memory."""
        shape = self.shape
        if not self.has_kernel_form:
            return self._buffer(shape.name), self._buffer(shape.scales_name)
        weight, kernel_scales = (self._buffer(name) for name in self._kernel_names)
        with torch.inference_mode(False):
            packed = torch.empty(shape.rows, shape.padded * shape.bits // 8, dtype=torch.uint8)
            scales = kernel_scales[:, : shape.rows].t().contiguous()
        for which in int4_kernel.slices(shape.rows):
            packed[which] = pack_codes(int4_kernel.unpack_rows(weight, which, shape.bits), shape.bits)
        return packed, scales

    def to_stored_form(self) -> None:
        """Hold the stored form."""
        if self.has_kernel_form:
            packed, scales = self.stored()
            self._hold(packed, scales, None, None)

    def to_kernel_form(self) -> None:
        """Hold the kernel's form."""
        shape = self.shape
        if self.has_kernel_form:
            return
        packed, scales = self.stored()
        # Buffers outlive a caller's inference mode, whose tensors could not be used outside it.
        with torch.inference_mode(False):
            weight, kernel_scales = int4_kernel.empty_form(shape.rows, shape.padded, shape.groups, shape.bits)
        for which in int4_kernel.slices(shape.rows):
            codes = unpack_codes(packed[which], shape.bits, shape.padded)
            int4_kernel.pack_rows(weight, kernel_scales, which, codes, scales[which], shape.bits)
        self._hold(None, None, weight, kernel_scales)

    def _kernel_product(self, inputs: Tensor) -> Tensor | None:
        """The product by a kernel; None where there is none for these codes."""
        shape = self.shape
        if shape.bits == 8 and shape.groups == 1 and shape.padded % _INT8_STEP == 0:
            # One scale for each row: torch's 8-bit product takes the stored form as it is.
            codes = self._owner._buffers[shape.name] = _aligned(self._buffer(shape.name))
            if shape.padded != shape.features:
                inputs = functional.pad(inputs, (0, shape.padded - shape.features))
            scales = self._buffer(shape.scales_name).view(-1)
            return torch._weight_int8pack_mm(_aligned(inputs.contiguous()), codes.view(torch.int8), scales)
        if not int4_kernel.has_kernel(shape.bits, shape.group_size):
            return None
        self.to_kernel_form()
        weight, kernel_scales = (self._buffer(name) for name in self._kernel_names)
        if shape.padded != shape.features:
            inputs = functional.pad(inputs, (0, shape.padded - shape.features))
        return int4_kernel.multiply(inputs.contiguous(), weight, kernel_scales, shape.rows, shape.group_size, shape.bits)

    def _row_slices(self) -> Iterator[slice]:
        """All rows, few enough at a time that their numbers stay small beside any activation."""
        step = max(1, SLICE_NUMBERS // self.shape.padded // 64) * 64
        for start in range(0, self.shape.rows, step):
            yield slice(start, min(start + step, self.shape.rows))

    def _codes(self, which: slice | Tensor) -> tuple[Int8[Tensor, "rows padded"], BFloat16[Tensor, "rows groups"]]:
        """Codes and scales of some rows, whichever form is in memory."""
        shape = self.shape
        if not self.has_kernel_form:
            packed, scales = self._buffer(shape.name)[which], self._buffer(shape.scales_name)[which]
            return unpack_codes(packed, shape.bits, shape.padded), scales
        weight, kernel_scales = (self._buffer(name) for name in self._kernel_names)
        scales = kernel_scales[:, : shape.rows].t()[which]
        if not isinstance(which, slice):
            return int4_kernel.gather_rows(weight, which, shape.bits), scales
        start, stop, _ = which.indices(shape.rows)
        block = int4_kernel.block_rows()
        first = start // block * block
        return int4_kernel.unpack_rows(weight, slice(first, stop), shape.bits)[start - first :], scales

    def _decoded(self, codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
        # In bfloat16 the product of a code and a scale rounds to the same number as in float32; a half's range is too small.
        exact = dtype if dtype == torch.bfloat16 else torch.float32
        grouped = codes.to(exact).view(len(codes), self.shape.groups, self.shape.group_size)
        decoded = grouped.mul_(scales.to(exact).unsqueeze(-1)).view(len(codes), -1)
        return decoded[:, : self.shape.features].to(dtype)

    def _buffer(self, name: str) -> Tensor:
        buffer: Tensor = self._owner._buffers[name]  # type: ignore[assignment]
        return buffer

    def _hold(self, packed: Tensor | None, scales: Tensor | None, weight: Tensor | None, kernel_scales: Tensor | None) -> None:
        names = (self.shape.name, self.shape.scales_name, *self._kernel_names)
        for name, tensor in zip(names, (packed, scales, weight, kernel_scales), strict=True):
            self._owner._buffers[name] = tensor


def _aligned(tensor: Tensor) -> Tensor:
    """The tensor itself where its memory starts at a full register, else a copy; tensors of a mapped file start anywhere."""
    if tensor.data_ptr() % _ALIGNMENT == 0:
        return tensor
    # The copy may become a buffer, and that outlives a caller's inference mode.
    with torch.inference_mode(False):
        return tensor.clone()
