"""bf16 is used where it is asked for or fast."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from layerlens.adapting import precision
from layerlens.adapting.precision import attention, autocast, has_fast_bf16, own_forward, uses_bf16
from layerlens.config import Precision, TuneConfig

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("capabilities", "is_fast"),
    [({"avx512_bf16": True}, True), ({"amx_bf16": True}, True), ({"avx512_f": True}, False), ({}, False)],
)
def test_a_processor_is_fast_with_its_bf16_instructions(
    capabilities: dict[str, bool], is_fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert has_fast_bf16(CPU) is is_fast
    assert uses_bf16(Precision.AUTO, CPU) is is_fast


def test_what_is_asked_for_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for is_fast in (True, False):
        monkeypatch.setattr(precision, "has_fast_bf16", lambda device, is_fast=is_fast: is_fast)
        assert uses_bf16(Precision.BF16, CPU)
        assert not uses_bf16(Precision.FP32, CPU)


@pytest.mark.parametrize(("wanted", "dtype"), [(Precision.BF16, torch.bfloat16), (Precision.FP32, torch.float32)])
def test_autocast_changes_the_arithmetic_of_the_forward_pass(wanted: Precision, dtype: torch.dtype) -> None:
    with autocast(wanted, CPU):
        assert torch.nn.functional.linear(torch.ones(2, 2), torch.ones(2, 2)).dtype is dtype


@pytest.mark.parametrize(
    ("changed", "is_plain"),
    [({}, True), ({"dropout": True}, False), ({"precision": "fp32"}, False), ({"gradient_checkpointing": True}, False)],
)
def test_attention_is_plain_in_bf16_without_dropout_where_nothing_is_computed_again(
    changed: dict[str, object], is_plain: bool
) -> None:
    config = TuneConfig.model_validate({"precision": "bf16", **changed})
    with attention(config, CPU, torch.nn.Module(), {"attention_mask": torch.ones(2, 16)}):
        assert torch.backends.cuda.flash_sdp_enabled() is not is_plain


@pytest.fixture
def accelerator() -> Iterator[Accelerator]:
    """One in bf16, whatever the process's tests before have set for all of it, and nothing left of it for those after."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield Accelerator(cpu=True, mixed_precision="bf16")
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("has_own", [False, True])
def test_what_accelerate_puts_on_a_model_is_taken_off(accelerator: Accelerator, has_own: bool) -> None:
    model = torch.nn.Linear(2, 2)
    if has_own:
        model.forward = lambda rows: rows  # type: ignore[method-assign]
    before = dict(vars(model))
    with own_forward(model):
        accelerator.prepare_model(model)
        assert vars(model).keys() > before.keys() | {"forward"}
    assert vars(model) == before
