"""A plan over a base in 8 bits, in 4 bits or compressed: exact sums, whole gradients, and a base that nothing changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from layerlens.adapting.attach import attached
from layerlens.adapting.stored_lora import StoredLora
from layerlens.errors import ConfigError, UnsupportedModelError
from layerlens.models.load import TaskModel
from layerlens.models.quantised_base import plain_tensors
from layerlens.words import TaskKind
from tests.unit.adapting.bases import BASES, CASES, COMPRESSED, decoded, open_base, save_family
from tests.unit.adapting.plans import kind_of, make_plan, uneven_ranks
from tests.unit.adapting.test_attach import assert_same, perturb, snapshot

IDS = [f"{family}-{base}" for family, base in CASES]
#: int8-bnb rounds the inputs of every layer to 8 bits.
TOLERANCE = {"int8-bnb": 0.05, "int8-torchao": 1e-5, "int4-bnb": 1e-5, COMPRESSED: 1e-5}


def _tokens() -> Tensor:
    return torch.randint(5, 190, (3, 12), generator=torch.Generator().manual_seed(0))


def _logits(model: nn.Module) -> Tensor:
    logits: Tensor = model(input_ids=_tokens()).logits
    return logits


def _gradients(task_model: TaskModel, plan_of: TaskModel, *, is_bf16: bool = False) -> dict[str, Tensor]:
    """Gradient of every trainable parameter of an adapted model that has left its start."""
    kind = kind_of(task_model.model.config.model_type)
    plan = make_plan(plan_of, kind, uneven_ranks(plan_of))
    with attached(task_model.model, plan, seed=0) as adapted:
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for parameter in adapted.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        adapted.eval()
        with torch.no_grad():
            _logits(adapted)
        adapted.train()
        for module in adapted.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_bf16):
            logits = _logits(adapted).float()
        logits.square().mean().backward()
        found = {name: parameter.grad for name, parameter in adapted.named_parameters() if parameter.requires_grad}
        assert all(gradient is not None for gradient in found.values())
        return {name: gradient.clone() for name, gradient in found.items() if gradient is not None}


def _snapshot(model: nn.Module) -> dict[str, Any]:
    found = snapshot(model)
    tensors = dict(plain_tensors(found["tensors"]))
    return {**found, "tensors": tensors, "config": [found["config"], {name: tensor.dtype for name, tensor in tensors.items()}]}


def _error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm().clamp(min=1e-12))


@pytest.mark.parametrize(("family", "base"), CASES, ids=IDS)
def test_logits_and_gradients_are_those_of_the_decoded_model(family: str, base: str, tmp_path: Path) -> None:
    kind, folder = kind_of(family), save_family(family, tmp_path / "model")
    quantised = open_base(base, folder, kind)
    plain = decoded(quantised, folder, kind)
    with torch.no_grad():
        assert _error(_logits(quantised.model), _logits(plain.model)) < TOLERANCE[base]
    found, expected = _gradients(quantised, plain), _gradients(plain, plain)
    assert found.keys() == expected.keys()
    errors = {name: _error(found[name], expected[name]) for name in expected}
    assert max(errors.values()) < 10 * TOLERANCE[base], errors


@pytest.mark.parametrize("base", BASES)
def test_under_autocast_every_adapter_gets_its_gradient(base: str, tmp_path: Path) -> None:
    folder = save_family("llama", tmp_path / "model")
    quantised = open_base(base, folder, TaskKind.CAUSAL_LM)
    plain = decoded(quantised, folder, TaskKind.CAUSAL_LM)
    found, expected = _gradients(quantised, plain, is_bf16=True), _gradients(plain, plain)
    errors = [_error(found[name], expected[name]) for name in expected]
    assert max(errors) < 0.5
    assert sorted(errors)[len(errors) // 2] < 0.1


@pytest.mark.parametrize(("family", "base"), CASES, ids=IDS)
def test_training_and_scoring_leave_the_base_bit_for_bit(family: str, base: str, tmp_path: Path) -> None:
    kind, folder = kind_of(family), save_family(family, tmp_path / "model")
    task_model = open_base(base, folder, kind)
    plan = make_plan(decoded(task_model, folder, kind), kind, 2)
    before = _snapshot(task_model.model)
    with torch.autocast("cpu", dtype=torch.bfloat16), attached(task_model.model, plan, seed=0) as adapted:
        adapted.eval()
        with torch.no_grad():
            _logits(adapted)
        adapted.train()
        _logits(adapted).float().square().mean().backward()
        perturb(adapted)
    assert_same(before, _snapshot(task_model.model))


def test_adapters_start_at_the_compressed_model_itself(tmp_path: Path) -> None:
    folder = save_family("gpt2", tmp_path / "model")
    task_model = open_base(COMPRESSED, folder, TaskKind.CAUSAL_LM)
    plan = make_plan(decoded(task_model, folder, TaskKind.CAUSAL_LM), TaskKind.CAUSAL_LM, 2)
    with torch.no_grad():
        base = _logits(task_model.model)
        with attached(task_model.model, plan, seed=0) as adapted:
            wrapped = [module for module in adapted.modules() if isinstance(module, StoredLora)]
            assert torch.equal(_logits(adapted), base)
            perturb(adapted)
            assert not torch.equal(_logits(adapted), base)
            assert wrapped
            with pytest.raises(ConfigError, match="cannot be merged into a compressed matrix"):
                wrapped[0].merge()


def test_a_compressed_decoder_is_refused_for_a_task_whose_class_has_another_name_for_its_body(tmp_path: Path) -> None:
    save_family("llama", tmp_path / "base")
    with pytest.raises(UnsupportedModelError, match=r"LlamaForQuestionAnswering has another name for its body.* without --base"):
        open_base(COMPRESSED, tmp_path / "base", TaskKind.QUESTION_ANSWERING)
