"""Moments from hooks against plain autograd, sample by sample."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from layerlens.compressing import moment_capture
from layerlens.compressing.calibration_samples import Tokens
from layerlens.compressing.moment_capture import MomentCapture
from layerlens.errors import NotFiniteError, UnsupportedModelError

SAMPLES, TOKENS = 8, 5


class Pair(nn.Module):
    """Two layers that read the same tensor, and one above them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.upper = nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.upper(torch.tanh(self.first(x) * self.second(x)))


def run(capture: MomentCapture, model: nn.Module, x: Tensor, mask: Tensor, *, parts: int = 1) -> None:
    """Forward and backward of Σ out³ at the real tokens, in parts."""
    step = SAMPLES // parts
    with capture.hooked():
        for start in range(0, SAMPLES, step):
            rows = slice(start, start + step)
            held = torch.arange(SAMPLES)[rows] % 4 == 3
            capture.start(Tokens(mask[rows], held, (7, start)))
            (model(x[rows]).pow(3).sum(-1) * mask[rows]).sum().backward()


@pytest.fixture
def inputs() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    mask = torch.ones(SAMPLES, TOKENS, dtype=torch.bool)
    mask[1, 3:] = mask[6, 2:] = False
    # What stands at padding must not matter.
    return torch.randn(SAMPLES, TOKENS, 6), mask


@pytest.mark.parametrize("is_ghost", [True, False])
@pytest.mark.parametrize("parts", [1, 4])
def test_fisher_traces_are_those_of_per_sample_gradients(
    monkeypatch: pytest.MonkeyPatch, inputs: tuple[Tensor, Tensor], is_ghost: bool, parts: int
) -> None:
    monkeypatch.setattr(moment_capture, "is_ghost_cheaper_alone", lambda *_: is_ghost)
    x, mask = inputs
    model = Pair().requires_grad_(False)
    capture = MomentCapture(dict(model.named_children()))
    run(capture, model, x, mask, parts=parts)
    plain = Pair()
    for name, layer in plain.named_children():
        traces = 0.0
        for sample in range(SAMPLES):
            own = x[sample, mask[sample]]
            (gradient,) = torch.autograd.grad(plain(own).pow(3).sum(), layer.weight)
            traces += float(gradient.square().sum())
        assert capture.moments[name].fisher_trace == pytest.approx(traces, rel=1e-4)


def test_padding_and_the_way_a_batch_is_cut_change_nothing(inputs: tuple[Tensor, Tensor]) -> None:
    x, mask = inputs
    grams = []
    for values, parts in ((x, 1), (torch.where(mask[..., None], x, 7.0), 4)):
        model = Pair().requires_grad_(False)
        capture = MomentCapture(dict(model.named_children()))
        run(capture, model, values, mask, parts=parts)
        grams.append({name: moments.grams() for name, moments in capture.moments.items()})
    for name, (A, B) in grams[0].items():
        torch.testing.assert_close(A, grams[1][name][0], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(B, grams[1][name][1], rtol=1e-4, atol=1e-6)


def test_the_root_of_an_input_is_that_of_its_held_out_real_tokens(inputs: tuple[Tensor, Tensor]) -> None:
    x, mask = inputs
    model = Pair().requires_grad_(False)
    capture = MomentCapture(dict(model.named_children()))
    run(capture, model, x, mask)
    held = torch.arange(SAMPLES) % 4 == 3
    rows = x[held][mask[held]]
    root = capture.moments["first"].inputs.held.root(float(rows.square().sum()))
    torch.testing.assert_close(root.T @ root, rows.T @ rows, rtol=1e-4, atol=1e-4)


def test_layers_that_read_one_tensor_share_its_sum(inputs: tuple[Tensor, Tensor]) -> None:
    model = Pair().requires_grad_(False)
    capture = MomentCapture(dict(model.named_children()))
    run(capture, model, *inputs)
    moments = capture.moments
    assert moments["first"].inputs is moments["second"].inputs
    assert moments["first"].inputs is not moments["upper"].inputs


def test_rows_alone_count_as_samples_of_their_own(inputs: tuple[Tensor, Tensor]) -> None:
    x = inputs[0]
    model = nn.Linear(6, 2).requires_grad_(False)
    capture = MomentCapture({"head": model}, is_row_alone=True)
    run(capture, nn.Sequential(model), x, torch.ones(SAMPLES, TOKENS, dtype=torch.bool))
    gradient = 3 * model(x).square()
    expected = (x.square().sum(-1) * gradient.square().sum(-1)).sum()
    assert capture.moments["head"].fisher_trace == pytest.approx(float(expected), rel=1e-5)


def test_a_layer_that_runs_twice_is_refused() -> None:
    layer = nn.Linear(4, 4).requires_grad_(False)
    capture = MomentCapture({"again": layer})
    with capture.hooked():
        capture.start(Tokens(None, torch.zeros(2, dtype=torch.bool), (0, 0)))
        output = layer(torch.randn(2, 3, 4))
        with pytest.raises(UnsupportedModelError, match="again runs more than once"):
            layer(output)


def test_text_with_its_tokens_first_is_refused_by_name() -> None:
    layer = nn.Linear(4, 4).requires_grad_(False)
    capture = MomentCapture({"turned": layer})
    with capture.hooked():
        capture.start(Tokens(torch.ones(2, 6, dtype=torch.bool), torch.zeros(2, dtype=torch.bool), (0, 0)))
        with pytest.raises(UnsupportedModelError, match=r"turned reads \(6, 2, 4\) in a batch of 2 samples, tokens first"):
            layer(torch.randn(6, 2, 4))


def test_an_infinite_gradient_is_told_by_its_layer() -> None:
    layer = nn.Linear(4, 4).requires_grad_(False)
    capture = MomentCapture({"bad": layer})
    with capture.hooked():
        capture.start(Tokens(None, torch.zeros(2, dtype=torch.bool), (0, 0)))
        total = (layer(torch.randn(2, 3, 4)) * torch.inf).sum()
        with pytest.raises(NotFiniteError, match="the gradient of bad is NaN or infinite"):
            total.backward()
