"""What the hooks refuse, and what they put up with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from layerlens.errors import UnsupportedModelError
from layerlens.profiling.capture import frozen
from layerlens.words import TaskKind
from tests.unit.profiling.cases import Vectors, open_case, vector_examples, vector_statistics


def test_a_layer_that_runs_twice_is_refused_by_name() -> None:
    class Twice(Vectors):
        def forward(self, x: Tensor) -> Tensor:
            return self.upper(torch.tanh(self.lower(x) + self.lower(2 * x)))

    with pytest.raises(UnsupportedModelError, match="layer lower runs more than once"):
        vector_statistics(Twice(), vector_examples(3))


def test_a_layer_whose_rows_belong_to_no_sample_is_refused_by_name() -> None:
    class Pruned(Vectors):
        def forward(self, x: Tensor) -> Tensor:
            hidden = torch.tanh(self.lower(x.flatten(0, 1)[1:]))
            return self.upper(hidden).mean(dim=0).expand(*x.shape[:2], 3)

    with pytest.raises(UnsupportedModelError, match=r"layer lower reads .* rows cannot be told apart"):
        vector_statistics(Pruned(), vector_examples(3, length=4))


def test_an_input_that_is_overwritten_after_it_was_read_is_refused_by_name() -> None:
    class Overwriting(Vectors):
        def forward(self, x: Tensor) -> Tensor:
            x = x.clone()
            hidden = self.lower(x)
            x.add_(1.0)
            return self.upper(torch.tanh(hidden))

    with pytest.raises(UnsupportedModelError, match="input of layer lower is changed in place"):
        vector_statistics(Overwriting(), vector_examples(3))


def test_a_layer_that_reads_flattened_tokens_is_told_apart_by_sample() -> None:
    class Flat(Vectors):
        def forward(self, x: Tensor) -> Tensor:
            return self.upper(torch.tanh(self.lower(x.flatten(0, 1)))).view(*x.shape[:2], 3)

    examples = vector_examples(5)
    flat, plain = vector_statistics(Flat(), examples), vector_statistics(Vectors(), examples)
    for layer in ("lower", "upper"):
        np.testing.assert_allclose(flat.norms(layer, "empirical"), plain.norms(layer, "empirical"), rtol=1e-4)
        torch.testing.assert_close(flat.layers[layer].shared.input_gram, plain.layers[layer].shared.input_gram)


def test_a_layer_that_the_loss_does_not_depend_on_has_no_gradient() -> None:
    class Idle(Vectors):
        def __init__(self) -> None:
            super().__init__()
            self.idle = nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            self.idle(x)
            return super().forward(x)

    statistics = vector_statistics(Idle(), vector_examples(5))
    assert statistics.norms("idle", "empirical").tolist() == [0.0] * 5
    assert statistics.layers["idle"].output_gram is None
    assert (statistics.norms("lower", "empirical") > 0).all()


def test_frozen_puts_flags_mode_and_cache_back_even_after_an_error(tmp_path: Path) -> None:
    model = open_case(tmp_path, "gpt2", TaskKind.CAUSAL_LM).model
    model.train()
    model.config.use_cache = True
    next(model.parameters()).requires_grad_(False)
    flags = [parameter.requires_grad for parameter in model.parameters()]

    def fail() -> None:
        with frozen(model):
            assert not any(parameter.requires_grad for parameter in model.parameters())
            assert not model.training
            assert model.config.use_cache is False
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert model.training
    assert model.config.use_cache is True


def test_inputs_that_are_views_of_other_shapes_do_not_pass_for_one_another() -> None:
    class Permuted(nn.Module):
        """Both layers read copies that live only for a moment, at what may be one address."""

        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.one, self.two = nn.Linear(5, 3), nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            turned = x.transpose(0, 1)
            return self.one((2.0 * turned).transpose(0, 1)) + self.two((3.0 * turned).transpose(0, 1))

    statistics = vector_statistics(Permuted(), vector_examples(5, length=4))
    assert statistics.input_groups == {"one": "one", "two": "two"}
    one, two = (statistics.layers[name].shared.input_gram for name in ("one", "two"))
    torch.testing.assert_close(9.0 * one, 4.0 * two)
