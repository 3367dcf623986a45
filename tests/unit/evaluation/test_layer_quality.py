"""Quality of each layer against products taken by hand from the activations that reach it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from layerlens.artifacts.compression_evaluation import Verdict, verdict_of
from layerlens.artifacts.formats import HALF, integer
from layerlens.errors import UnsupportedModelError
from layerlens.evaluation.layer_quality import layer_bytes, layer_quality, matrix_of
from layerlens.models.weights import is_planned_module, weight_matrix
from layerlens.nn.half_modules import HalfLinear
from tests.unit.compressing.cases import case
from tests.unit.compressing.folders import compress_tiny
from tests.unit.evaluation.models import add_noise_


class Stored(nn.Module):
    """A layer that keeps its matrix otherwise: as halves, out by in."""

    def __init__(self, weight: Tensor, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.register_buffer("halves", weight.to(torch.bfloat16).contiguous())
        self.bias = bias

    @property
    def weight(self) -> Tensor:
        halves = self.get_buffer("halves")
        return halves.float()

    def forward(self, inputs: Tensor) -> Tensor:
        product = inputs @ self.weight.T
        return product if self.bias is None else product + self.bias


def stored_(model: nn.Module) -> nn.Module:
    for path, module in list(model.named_modules()):
        if is_planned_module(module):
            parent, _, name = path.rpartition(".")
            bias: Any = module.bias
            setattr(model.get_submodule(parent), name, Stored(weight_matrix(module).detach(), bias))
    return model


@pytest.mark.parametrize("family", ["bert", "gpt2", "gpt_neo", "llama", "vit"])
@pytest.mark.parametrize("is_stored", [False, True])
def test_each_layer_is_judged_on_the_inputs_it_sees(tmp_path: Path, family: str, is_stored: bool) -> None:
    measured = case(tmp_path, family)
    original = measured.in_memory()
    other = add_noise_(copy.deepcopy(original), 0.2)
    if is_stored:
        other = stored_(other)
    batches = [
        measured.task.model_inputs(measured.task.collate([measured.examples[one] for one in group])) for group in measured.groups
    ]
    found = {layer.layer: layer for layer in layer_quality(original, other, batches)}
    modules = {
        path: module for path, module in original.named_modules() if is_planned_module(module) or isinstance(module, nn.Embedding)
    }
    assert list(found) == list(modules)
    seen: dict[str, list[Tensor]] = {path: [] for path in modules}
    for path, module in modules.items():
        module.register_forward_hook(lambda _, inputs, __, path=path: seen[path].append(inputs[0]))
    for example in measured.examples:
        with torch.no_grad():
            original(**measured.task.model_inputs(measured.task.collate([example])))
    noisy_layers = 0
    for path, module in modules.items():
        mine, theirs = matrix_of(module).detach().double(), matrix_of(other.get_submodule(path)).detach().double()
        quality = found[path]
        assert quality.weight_error == pytest.approx(float((theirs - mine).norm() / mine.norm()), rel=1e-5, abs=1e-12)
        assert quality.weight_cosine == pytest.approx(float(torch.cosine_similarity(mine.flatten(), theirs.flatten(), dim=0)))
        if not isinstance(module, nn.Embedding):
            x = torch.cat([inputs.flatten(0, -2) for inputs in seen[path]]).double()
            y, z = x @ mine.T, x @ theirs.T
            assert quality.output_error == pytest.approx(float((z - y).norm() / y.norm()), rel=1e-3, abs=1e-6)
            assert quality.output_cosine == pytest.approx(
                float(torch.cosine_similarity(y.flatten(), z.flatten(), dim=0)), rel=1e-5
            )
            noisy_layers += quality.output_error > 0.01
        assert quality.verdict is verdict_of(quality.output_error)
        width = 2 if is_stored and not isinstance(module, nn.Embedding) else 4
        assert (quality.size_bytes.before, quality.size_bytes.after) == (4 * mine.numel(), width * mine.numel())
    assert noisy_layers > 10
    tied = {"gpt2": "transformer.wte", "gpt_neo": "transformer.wte", "llama": "model.embed_tokens"}
    assert [layer.tied_to for layer in found.values() if layer.tied_to] == ([tied[family]] if family in tied else [])


def test_the_widths_of_round_to_nearest_span_the_verdicts() -> None:
    # The figures beside the limits: Gaussian weights, groups of 64, the larger end of a group at the extra code.
    torch.manual_seed(0)
    groups = torch.randn(512, 16, 64)
    ends = groups.gather(-1, groups.abs().argmax(-1, keepdim=True))
    errors = {}
    for bits in (8, 5, 4, 3, 2):
        top = 2 ** (bits - 1)
        scales = (ends / -top).bfloat16().float()
        rounded = (groups / scales).round().clamp(-top, top - 1) * scales
        errors[bits] = float((rounded - groups).norm() / groups.norm())
    assert {bits: float(f"{error:.2g}") for bits, error in errors.items()} == {8: 0.0059, 5: 0.047, 4: 0.095, 3: 0.19, 2: 0.39}
    verdicts = [verdict_of(error) for error in errors.values()]
    assert verdicts == [Verdict.GOOD, Verdict.GOOD, Verdict.FAIR, Verdict.POOR, Verdict.CRITICAL]


def test_a_turned_matrix_of_halves_is_the_originals_and_its_bytes_are_the_files(tmp_path: Path) -> None:
    folder = compress_tiny("gpt2", tmp_path, [HALF, integer(8, 32)])
    original, compressed = (
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32) for path in (folder.source.folder, folder.folder)
    )
    sizes = layer_bytes(compressed)
    turned = [path for path, module in compressed.named_modules() if getattr(module, "is_transposed", False)]
    assert any(isinstance(compressed.get_submodule(path), HalfLinear) for path in turned)
    found = {layer.layer: layer for layer in layer_quality(original, compressed, [{"input_ids": torch.arange(5, 25)[None]}])}
    for path in turned:
        matrix, module = weight_matrix(original.get_submodule(path)), compressed.get_submodule(path)
        rows, columns = matrix.shape
        if isinstance(module, HalfLinear):
            assert torch.equal(matrix_of(module), matrix.bfloat16().float())
            assert sizes[path] == 2 * rows * columns
        else:
            assert sizes[path] == rows * (columns + 2 * (columns // 32))
        assert found[path].weight_error < 0.01
        assert found[path].output_error < 0.01


class _Branched(nn.Module):
    """One of its layers runs."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle = nn.Linear(3, 4), nn.Linear(3, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.used(inputs)


def test_a_layer_that_no_sample_ran_through_is_unseen_and_not_flawless() -> None:
    used, idle = layer_quality(_Branched(), _Branched(), [{"inputs": torch.randn(2, 3)}])
    assert used.verdict is not Verdict.UNSEEN
    assert used.output_error is not None
    assert (idle.output_cosine, idle.output_error, idle.verdict) == (None, None, Verdict.UNSEEN)
    assert idle.weight_error > 0


def test_models_of_other_trees_are_refused_by_the_layers_name() -> None:
    original = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    with pytest.raises(UnsupportedModelError, match="has no layer 0"):
        layer_quality(original, nn.ReLU(), [])
    with pytest.raises(UnsupportedModelError, match=r"0 is \[5, 3\], in the original \[4, 3\]"):
        layer_quality(original, nn.Sequential(nn.Linear(3, 5)), [])
    with pytest.raises(UnsupportedModelError, match="a ReLU has no weight"):
        layer_quality(original, nn.Sequential(nn.ReLU()), [])
