"""Modules over stored matrices: the right product, one form in memory, and the very bytes given back."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from layerlens.artifacts.formats import Scheme, integer, low_rank, size_bytes
from layerlens.nn import coded_matrix
from layerlens.nn.int4_kernel import block_rows
from layerlens.nn.stored_module import StoredModule
from tests.unit.nn.stored_cases import IDS, SCHEMES, dense, filled

OUT, IN = 80, 100


def _module(scheme: Scheme) -> tuple[StoredModule, Tensor]:
    module = filled(StoredModule(scheme, OUT, IN))
    return module, dense(scheme, dict(module.named_buffers()), OUT, IN)


def _inputs(rows: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(2, rows, IN, generator=torch.Generator().manual_seed(1)).to(dtype)


def _error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2**-6), (torch.float16, 2**-9)])
@pytest.mark.parametrize("rows", [1, 60], ids=["few rows", "many rows"])
@pytest.mark.parametrize("scheme", SCHEMES, ids=IDS)
def test_the_product_is_that_of_the_decoded_matrix(scheme: Scheme, rows: int, dtype: torch.dtype, tolerance: float) -> None:
    module, matrix = _module(scheme)
    inputs = _inputs(rows, dtype)
    outputs, expected = module.product(inputs), inputs.double() @ matrix.t()
    assert outputs.dtype == dtype
    assert _error(outputs, expected) < tolerance


@pytest.mark.parametrize("scheme", SCHEMES, ids=IDS)
def test_rows_by_slice_and_by_number_are_those_of_the_whole_in_either_form(scheme: Scheme) -> None:
    module, matrix = _module(scheme)
    which = torch.tensor([79, 0, 64, 33, 33])
    for _ in range(2):
        assert _error(module.weight, matrix) < 1e-6
        assert _error(module.rows(slice(5, 70), torch.float32), matrix[5:70]) < 1e-6
        assert _error(module.rows(which, torch.float32), matrix[which]) < 1e-6
        module.product(_inputs(1, torch.bfloat16))


@pytest.mark.parametrize("scheme", SCHEMES, ids=IDS)
def test_small_slices_give_what_one_slice_gives(scheme: Scheme, monkeypatch: pytest.MonkeyPatch) -> None:
    module, matrix = _module(scheme)
    monkeypatch.setattr(coded_matrix, "SLICE_NUMBERS", 64 * 128)
    monkeypatch.setattr("layerlens.nn.stored_module.SLICE_NUMBERS", 500)
    inputs = _inputs(3, torch.float32)
    assert _error(module.product(inputs), inputs.double() @ matrix.t()) < 1e-6


@pytest.mark.parametrize("scheme", SCHEMES, ids=IDS)
def test_the_state_is_the_stored_tensors_bit_for_bit_after_use_and_after_a_cast(scheme: Scheme) -> None:
    module, _ = _module(scheme)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with torch.inference_mode():
        module.product(_inputs(1, torch.bfloat16))
    for state in (module.state_dict(), module.half().state_dict(), copy.deepcopy(module).float().state_dict()):
        assert state.keys() == before.keys()
        assert all(torch.equal(state[name], before[name]) and state[name].dtype == before[name].dtype for name in before)


@pytest.mark.parametrize("scheme", SCHEMES, ids=IDS)
def test_a_state_is_loaded_whichever_form_is_in_memory(scheme: Scheme) -> None:
    module, _ = _module(scheme)
    other = filled(StoredModule(scheme, OUT, IN), seed=5)
    other.product(_inputs(1, torch.bfloat16))
    other.load_state_dict(module.state_dict())
    assert torch.equal(other.weight, module.weight)


@pytest.mark.skipif(block_rows() == 0, reason="torch has no 4-bit product of a known layout on this processor")
@pytest.mark.parametrize("scheme", [integer(4, 128), integer(8, 128), low_rank(64, 4, 128)], ids=["int4", "int8", "lr64x4"])
def test_one_form_is_in_memory_and_it_takes_what_the_plan_says(scheme: Scheme) -> None:
    module = filled(StoredModule(scheme, 512, 512))
    planned = size_bytes(scheme, 512, 512, 2)
    assert sum(buffer.nbytes for buffer in module.buffers()) == planned
    module.product(torch.ones(1, 512, dtype=torch.bfloat16))
    assert any(name.endswith("_kernel") for name, _ in module.named_buffers())
    assert sum(buffer.nbytes for buffer in module.buffers()) == planned


@pytest.mark.parametrize("group_size", [104, 112])
def test_codes_of_eight_bits_with_one_scale_for_a_row_are_used_as_they_are_stored(group_size: int) -> None:
    module, _ = _module(integer(8, group_size))
    module.product(_inputs(1, torch.bfloat16))
    assert {name for name, _ in module.named_buffers()} == {"codes", "scales"}


@pytest.mark.parametrize("scheme", SCHEMES, ids=IDS)
def test_gradients_flow_to_the_inputs(scheme: Scheme) -> None:
    module, matrix = _module(scheme)
    inputs = _inputs(1, torch.bfloat16).requires_grad_()
    module.product(inputs).float().sum().backward()
    expected = matrix.sum(0).expand(2, 1, IN)
    assert inputs.grad is not None
    assert _error(inputs.grad, expected) < 2**-6


def test_a_module_on_the_meta_device_takes_no_memory_and_names_its_tensors() -> None:
    module = StoredModule(integer(3), OUT, IN, device="meta")
    assert {name: buffer.device.type for name, buffer in module.named_buffers()} == {"codes": "meta", "scales": "meta"}


def test_codes_and_inputs_that_start_anywhere_in_memory_are_multiplied_all_the_same() -> None:
    module, matrix = _module(integer(8, 112))
    for name, buffer in module.named_buffers():
        odd = torch.empty(buffer.nbytes + 2, dtype=torch.uint8)[2:].view(buffer.dtype).view(buffer.shape)
        module._buffers[name] = odd.copy_(buffer)
    inputs = torch.empty(IN + 1, dtype=torch.bfloat16)[1:].copy_(_inputs(1, torch.bfloat16)[0, 0])
    with torch.inference_mode():
        product = module.product(inputs)
    assert _error(product, inputs.double() @ matrix.t()) < 2**-6
    # What is kept of it can be used and written to afterwards.
    module.load_state_dict(_module(integer(8, 112))[0].state_dict())
