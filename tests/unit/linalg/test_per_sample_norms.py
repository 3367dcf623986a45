"""Per-sample gradient norms against gradients that are written out, and against opacus."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

from layerlens.linalg import per_sample_norms
from layerlens.linalg.per_sample_norms import (
    add_gradients_,
    add_gradients_with_norms_,
    ghost_norms,
    is_direct_cheaper,
    is_ghost_cheaper_alone,
    token_gram,
)


def _case(samples: int = 5, tokens: int = 7, inputs: int = 6, outputs: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(samples, tokens, inputs, generator=generator), torch.randn(samples, tokens, outputs, generator=generator)


def test_ghost_norms_are_the_norms_of_the_written_out_gradients() -> None:
    x, g = _case()
    explicit = torch.einsum("sto,sti->soi", g.double(), x.double()).square().sum(dim=(1, 2))
    torch.testing.assert_close(ghost_norms(token_gram(x), g).double(), explicit, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scratch_entries", [6, 13, 1 << 20])
def test_direct_form_gives_the_same_norms_and_the_sums_of_both_parts(
    monkeypatch: pytest.MonkeyPatch, scratch_entries: int
) -> None:
    monkeypatch.setattr(per_sample_norms, "_SCRATCH_ENTRIES", scratch_entries)
    x, g = _case()
    first, second = torch.ones(4, 6), torch.zeros(4, 6)
    norms = add_gradients_with_norms_((first, second), (x[:2], x[2:]), (g[:2], g[2:]))
    explicit = torch.einsum("sto,sti->soi", g, x)
    torch.testing.assert_close(norms, explicit.square().sum(dim=(1, 2)), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(first, 1.0 + explicit[:2].sum(dim=0), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(second, explicit[2:].sum(dim=0), rtol=1e-5, atol=1e-5)


def test_plain_sums_equal_the_direct_form_even_where_one_part_is_empty() -> None:
    x, g = _case(samples=1)
    plain, direct = [torch.zeros(4, 6) for _ in range(2)], [torch.zeros(4, 6) for _ in range(2)]
    add_gradients_(plain, (x, x[1:]), (g, g[1:]))
    add_gradients_with_norms_(direct, (x, x[1:]), (g, g[1:]))
    torch.testing.assert_close(plain[0], direct[0])
    assert plain[0].abs().sum() > 0
    assert torch.equal(plain[1], torch.zeros(4, 6))


@pytest.mark.parametrize("tokens", [1, 9])
def test_both_forms_agree_with_opacus(tokens: int) -> None:
    with warnings.catch_warnings():
        # opacus warns about its own use of torch interfaces.
        warnings.simplefilter("ignore")
        from opacus.grad_sample import GradSampleModule
    torch.manual_seed(0)
    layer = nn.Linear(6, 4)
    x, _ = _case(tokens=tokens)
    wrapped = GradSampleModule(nn.Sequential(layer), loss_reduction="sum")
    outputs = wrapped(x)
    outputs.retain_grad()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        outputs.pow(3).sum().backward()
    expected = layer.weight.grad_sample.square().sum(dim=(1, 2))
    g = outputs.grad
    torch.testing.assert_close(ghost_norms(token_gram(x), g), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(add_gradients_with_norms_((torch.zeros(4, 6),), (x,), (g,)), expected, rtol=1e-4, atol=1e-4)


def test_the_direct_form_is_chosen_for_long_samples_and_small_layers_only() -> None:
    assert is_direct_cheaper(512, 384, 384)
    assert not is_direct_cheaper(8, 384, 384)
    assert not is_direct_cheaper(64, 4096, 11008)
    assert is_direct_cheaper(64, 384, 384)
    assert not is_direct_cheaper(64, 4096, 4096)


def test_sharing_the_input_gram_and_wanting_no_sum_favour_the_ghost_form() -> None:
    tokens = next(count for count in range(1, 10_000) if is_direct_cheaper(count, 384, 384, 1))
    assert not is_direct_cheaper(tokens, 384, 384, 3)
    assert is_ghost_cheaper_alone(tokens, 384, 384, 1)
    assert not is_ghost_cheaper_alone(2048, 384, 384, 1)
