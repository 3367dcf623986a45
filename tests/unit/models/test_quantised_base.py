"""A base in few bits: only planned layers are held so, nothing keeps the float weights, and what cannot be had is told."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from layerlens.artifacts.formats import integer
from layerlens.config import BaseFormat
from layerlens.errors import ConfigError, UnsupportedModelError
from layerlens.models import quantised_base
from layerlens.models.checkpoint import open_checkpoint
from layerlens.models.load import load_task_model
from layerlens.models.quantised_base import LIBRARIES, check_library, densify_
from layerlens.models.roles import describe_layers
from layerlens.nn.half_modules import HalfLinear
from layerlens.nn.quantised_linear import QuantisedLinear
from layerlens.nn.tied_modules import TiedLinear
from layerlens.words import TaskKind
from tests.tiny_models import save_tiny
from tests.unit.adapting.bases import need, save_family
from tests.unit.adapting.plans import info_of
from tests.unit.nn.stored_cases import filled

FORMATS = list(LIBRARIES)


@pytest.mark.parametrize("base_format", FORMATS)
def test_planned_layers_alone_are_quantised_and_nothing_else_changes(base_format: BaseFormat, tmp_path: Path) -> None:
    need(base_format)
    checkpoint, task = open_checkpoint(str(save_family("bert", tmp_path / "model"))), info_of(TaskKind.CLASSIFICATION)
    plain = load_task_model(checkpoint, task, seed=0)
    model = load_task_model(checkpoint, task, seed=0, base_format=base_format)
    assert describe_layers(model.model).layers == describe_layers(plain.model).layers
    assert model.new_parameters == plain.new_parameters
    planned = {f"{spec.layer}.weight" for spec in describe_layers(plain.model).layers}
    others = {name: tensor for name, tensor in plain.model.named_parameters() if name not in planned}
    found = dict(model.model.named_parameters())
    assert all(torch.equal(found[name], tensor) for name, tensor in others.items() if not name.startswith("classifier"))
    held = [module for path, module in model.model.named_modules() if f"{path}.weight" in planned]
    assert len({type(module).__name__ for module in held}) == 1
    assert type(held[0]) is not nn.Linear


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("base_format", FORMATS)
def test_the_float_weights_are_not_kept_mapped(base_format: BaseFormat, tmp_path: Path) -> None:
    need(base_format)
    folder = save_family("llama", tmp_path / "model")
    kept = [
        load_task_model(open_checkpoint(str(folder)), info_of(TaskKind.CAUSAL_LM), seed=0, base_format=held)
        for held in (BaseFormat.AS_IS, base_format)
    ]
    weights = str(folder / "model.safetensors")
    assert weights in Path("/proc/self/maps").read_text(), "the model as it is maps its file"
    del kept[0]
    assert weights not in Path("/proc/self/maps").read_text()


def test_a_format_that_cannot_hold_a_layer_is_refused_by_name(tmp_path: Path) -> None:
    need(BaseFormat.INT8_TORCHAO)
    checkpoint = open_checkpoint(str(save_tiny("gpt2", tmp_path / "model")))
    with pytest.raises(
        UnsupportedModelError, match=r"leaves 8 of 8 layers as they are \(transformer\.h\.0\.attn\.c_attn, a Conv1D\)"
    ):
        load_task_model(checkpoint, info_of(TaskKind.CAUSAL_LM), seed=0, base_format=BaseFormat.INT8_TORCHAO)


@pytest.mark.parametrize("base_format", FORMATS)
def test_a_library_that_is_missing_is_told_with_what_to_install(
    base_format: BaseFormat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantised_base, "find_spec", lambda _: None)
    checkpoint = open_checkpoint(str(save_tiny("llama", tmp_path / "model")))
    with pytest.raises(ConfigError, match=f"needs {LIBRARIES[base_format]}, which is not installed; run `pip install"):
        load_task_model(checkpoint, info_of(TaskKind.CAUSAL_LM), seed=0, base_format=base_format)
    check_library(BaseFormat.AS_IS)


@pytest.mark.parametrize("is_transposed", [False, True])
def test_a_stored_head_becomes_an_ordinary_layer_that_computes_the_same(is_transposed: bool) -> None:
    holder = filled(QuantisedLinear(integer(4, 32), 8, 8, nn.Parameter(torch.randn(8))))
    half = HalfLinear(8, 8, is_transposed=is_transposed)
    half.load_state_dict({"weight": torch.randn(8, 8).to(torch.bfloat16)})
    model = nn.ModuleDict({"head": nn.Sequential(holder, half, TiedLinear(holder)), "body": nn.Sequential(holder)})  # type: ignore[arg-type]
    inputs = torch.randn(3, 8)
    before = model["head"](inputs)
    densify_(model, ["head"])
    assert [type(module) for module in model["head"]] == [nn.Linear] * 3  # type: ignore[attr-defined]
    torch.testing.assert_close(model["head"](inputs), before)
    assert all(parameter.requires_grad for parameter in model["head"].parameters())
    assert isinstance(model["body"][0], QuantisedLinear)  # type: ignore[index]
