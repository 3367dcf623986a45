"""Gradients through a frozen matrix are those of the decoded one, and nothing of it is kept for them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from layerlens.artifacts.formats import Scheme, integer, integer_low_rank, low_rank
from layerlens.nn import coded_matrix, half_modules
from layerlens.nn.frozen_product import FrozenMatrix
from layerlens.nn.half_modules import HalfLinear
from layerlens.nn.stored_module import StoredModule
from layerlens.nn.tied_modules import TiedLinear
from tests.unit.nn.stored_cases import IDS, SCHEMES, dense, filled

OUT, IN = 80, 100


def _stored(scheme: Scheme) -> tuple[FrozenMatrix, Tensor]:
    module = filled(StoredModule(scheme, OUT, IN))
    return module, dense(scheme, dict(module.named_buffers()), OUT, IN)


def _half(*, is_transposed: bool) -> tuple[FrozenMatrix, Tensor]:
    weight = torch.randn(OUT, IN, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    module = HalfLinear(OUT, IN, is_transposed=is_transposed)
    module.load_state_dict({"weight": weight.t() if is_transposed else weight})
    return module, weight.double()


def _inputs(rows: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(2, rows, IN, generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_()


def _outer(rows: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(2, rows, OUT, generator=torch.Generator().manual_seed(2)).to(dtype)


def _error(found: Tensor | None, expected: Tensor) -> float:
    assert found is not None
    return float((found.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2**-6), (torch.float64, 1e-6)])
@pytest.mark.parametrize("rows", [1, 60], ids=["few rows", "many rows"])
@pytest.mark.parametrize("scheme", SCHEMES, ids=IDS)
def test_the_gradient_of_the_inputs_is_that_of_the_decoded_matrix(
    scheme: Scheme, rows: int, dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coded_matrix, "SLICE_NUMBERS", 64 * 128)
    monkeypatch.setattr("layerlens.nn.stored_module.SLICE_NUMBERS", 500)
    module, matrix = _stored(scheme)
    inputs, outer = _inputs(rows, dtype), _outer(rows, dtype)
    outputs = module.product(inputs)
    outputs.backward(outer)
    assert inputs.grad is not None
    assert inputs.grad.dtype == dtype
    assert _error(outputs.detach(), inputs.detach().double() @ matrix.t()) < tolerance
    assert _error(inputs.grad, outer.double() @ matrix) < tolerance


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2**-6)])
@pytest.mark.parametrize("is_transposed", [False, True])
def test_a_matrix_in_bfloat16_gives_its_own_gradient(
    is_transposed: bool, dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(half_modules, "SLICE_NUMBERS", 700)
    module, matrix = _half(is_transposed=is_transposed)
    inputs, outer = _inputs(3, dtype), _outer(3, dtype)
    module.product(inputs).backward(outer)
    assert _error(inputs.grad, outer.double() @ matrix) < tolerance


def test_a_hook_on_an_output_that_is_then_changed_in_place_sees_its_gradient() -> None:
    module, _ = _stored(integer(4, 32))
    seen: list[Tensor] = []
    outputs, outer = module.product(_inputs(3)), _outer(3)
    outputs.register_hook(seen.append)
    # As Falcon adds its attention to what its MLP gave.
    outputs += 1.0
    outputs.backward(outer)
    assert torch.equal(seen[0], outer)


@pytest.mark.parametrize("scheme", [integer(4, 32), low_rank(16, 8, 32), integer_low_rank(3, 16, 4, 32)], ids=lambda s: s.name)
def test_nothing_decoded_is_kept_for_the_backward_pass(scheme: Scheme) -> None:
    kept: list[tuple[int, ...]] = []
    module, _ = _stored(scheme)
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.append(tuple(tensor.shape)) or tensor, lambda tensor: tensor
    ):
        module.product(_inputs(60))
        _half(is_transposed=False)[0].product(_inputs(60))
        assert kept == []
        nn.Linear(IN, OUT)(_inputs(60))
        assert kept != [], "the hook sees nothing"


def test_gradients_reach_the_bias_and_what_lies_below_a_tied_layer() -> None:
    holder, matrix = _stored(integer(4, 32))
    assert isinstance(holder, StoredModule)
    layer = TiedLinear(holder, nn.Parameter(torch.zeros(OUT)))
    inputs, outer = _inputs(5), _outer(5)
    layer(inputs).backward(outer)
    assert layer.bias is not None
    assert _error(layer.bias.grad, outer.sum((0, 1)).double()) < 1e-6
    assert _error(inputs.grad, outer.double() @ matrix) < 1e-5


@pytest.mark.parametrize("case", ["codes", "half"])
def test_autocast_computes_in_its_own_type_and_gives_gradients_in_that_of_the_inputs(case: str) -> None:
    module, matrix = _stored(integer(4, 32)) if case == "codes" else _half(is_transposed=False)
    inputs = _inputs(40)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = module.product(inputs)
    assert outputs.dtype == torch.bfloat16
    outputs.backward(_outer(40, torch.bfloat16))
    assert inputs.grad is not None
    assert inputs.grad.dtype == torch.float32
    assert _error(inputs.grad, _outer(40).double() @ matrix) < 2**-6


def test_after_a_product_in_the_kernels_form_training_goes_on_with_the_same_matrix() -> None:
    module, matrix = _stored(integer(4, 32))
    with torch.inference_mode():
        module.product(_inputs(1, torch.bfloat16).detach())
    inputs, outer = _inputs(9), _outer(9)
    module.product(inputs).backward(outer)
    assert _error(inputs.grad, outer.double() @ matrix) < 1e-5
