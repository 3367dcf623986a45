"""Norms against opacus and Kronecker factors against curvlinops, on tiny models of every family, in both spaces."""

from __future__ import annotations

import copy
import warnings
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from layerlens.profiling.spaces import Space
from layerlens.words import TaskKind
from tests.unit.profiling.cases import Case, open_case

FAMILIES = [
    ("bert", TaskKind.CLASSIFICATION),
    ("roberta", TaskKind.CLASSIFICATION),
    ("gpt2", TaskKind.CLASSIFICATION),
    ("gpt_neo", TaskKind.CLASSIFICATION),
    ("llama", TaskKind.CLASSIFICATION),
    ("vit", TaskKind.IMAGE_CLASSIFICATION),
]


def _with_linears(model: nn.Module) -> nn.Module:
    """A copy with every Conv1D as the Linear that computes the same, which is what the other libraries know."""
    model = copy.deepcopy(model)
    for name, module in list(model.named_modules()):
        if isinstance(module, Conv1D):
            linear = nn.Linear(*module.weight.shape)
            linear.weight, linear.bias = nn.Parameter(module.weight.detach().t().contiguous()), module.bias
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, linear)
    return model.eval()


@pytest.mark.parametrize("space", list(Space))
@pytest.mark.parametrize(("family", "kind"), FAMILIES, ids=lambda value: str(value))
def test_per_sample_norms_with_padding_are_those_of_opacus(tmp_path: Path, family: str, kind: TaskKind, space: Space) -> None:
    with warnings.catch_warnings():
        # opacus warns about its own use of torch interfaces.
        warnings.simplefilter("ignore")
        from opacus.grad_sample import GradSampleModule
    case = open_case(tmp_path, family, kind)
    plain = _with_linears(case.model)
    planned = {spec.layer for spec in case.layout.layers}
    for name, parameter in plain.named_parameters():
        parameter.requires_grad_(name.removesuffix(".weight") in planned)
    for name in planned:
        # opacus looks at layers in training mode only; the others stay out of it for their dropout.
        plain.get_submodule(name).training = True
    batch = case.task.collate(case.examples)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = GradSampleModule(plain, loss_reduction="sum", strict=False)
        case.task.per_sample_loss(wrapped(**case.task.model_inputs(batch)), batch).sum().backward()
    statistics = case.statistics(space=space, batch_size=3)
    for name in planned:
        samples = plain.get_submodule(name).weight.grad_sample
        expected = samples.double().square().sum(dim=(1, 2)).numpy()
        assert expected.max() > 0
        np.testing.assert_allclose(statistics.norms(name, "empirical"), expected, rtol=1e-3, atol=1e-5 * expected.max())


class _Inputs(MutableMapping):
    """Inputs that can be moved, as curvlinops wants them."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values_ = values

    def __getitem__(self, key: str) -> Any:
        return self.values_[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self.values_[key] = value

    def __delitem__(self, key: str) -> None:
        del self.values_[key]

    def __iter__(self) -> Any:
        return iter(self.values_)

    def __len__(self) -> int:
        return len(self.values_)

    def to(self, _: Any) -> _Inputs:
        return self


class _Logits(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: MutableMapping) -> Tensor:
        return self.model(**inputs).logits


def _equally_long(case: Case) -> None:
    for example in case.examples:
        if "input_ids" in example:
            example["input_ids"] = [10 + (7 * len(example["input_ids"]) + 3 * place) % 150 for place in range(6)]
            example["attention_mask"] = [1] * 6


@pytest.mark.parametrize("space", list(Space))
@pytest.mark.parametrize(("family", "kind"), FAMILIES, ids=lambda value: str(value))
def test_kronecker_factors_are_those_of_curvlinops_expand(tmp_path: Path, family: str, kind: TaskKind, space: Space) -> None:
    """With `reduction="sum"` its gradient factor is summed over samples, ours is their mean; the input factors are equal."""
    with warnings.catch_warnings():
        # curvlinops imports packages that use deprecated parts of torch.
        warnings.simplefilter("ignore")
        from curvlinops import KFACLinearOperator
    case = open_case(tmp_path, family, kind)
    # It knows no padding.
    _equally_long(case)
    plain = _Logits(_with_linears(case.model))
    names = [spec.layer for spec in case.layout.layers]
    batch = case.task.collate(case.examples)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        operator = KFACLinearOperator(
            plain,
            nn.CrossEntropyLoss(reduction="sum"),
            [plain.model.get_submodule(name).weight for name in names],
            [(_Inputs(case.task.model_inputs(batch)), batch["labels"])],
            fisher_type="empirical",
            kfac_approx="expand",
            check_deterministic=False,
            batch_size_fn=lambda inputs: len(next(iter(inputs.values()))),
        )
        operator.compute_kronecker_factors()
    statistics = case.statistics(space=space, batch_size=3)
    for name in names:
        sums = statistics.layers[name]
        inputs, outputs = (factors[f"model.{name}"] for factors in (operator._input_covariances, operator._gradient_covariances))
        outputs = outputs / len(case.examples)
        torch.testing.assert_close(sums.shared.input_gram, inputs, rtol=1e-3, atol=1e-5 * inputs.max().item())
        torch.testing.assert_close(sums.output_gram, outputs, rtol=1e-3, atol=1e-5 * outputs.max().item())
