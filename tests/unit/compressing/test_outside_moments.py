"""Moments of the word embedding and of a language model's output, against sums written out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from layerlens.compressing.calibration_samples import Tokens
from layerlens.compressing.outside_moments import (
    OutputCapture,
    OutputMoments,
    TableMoments,
    predicting_tokens,
    softmax_curvature,
)

IDS = torch.tensor([[2, 5, 2, 0], [5, 5, 7, 0], [2, 3, 0, 0], [1, 2, 5, 5]])
MASK = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]]).bool()
TOKENS = Tokens(MASK, torch.tensor([False, False, False, True]), (0, 0))


def test_gradients_of_one_token_of_a_sample_are_added_up_before_they_are_squared() -> None:
    torch.manual_seed(0)
    gradient = torch.randn(4, 4, 3)
    moments = TableMoments(9, 3)
    moments.add(IDS, gradient, TOKENS)
    energies, counts = torch.zeros(9, dtype=torch.float64), torch.zeros(9, dtype=torch.long)
    rows = []
    for sample in range(4):
        for token in IDS[sample][MASK[sample]].unique().tolist():
            rows.append(gradient[sample][(IDS[sample] == token) & MASK[sample]].sum(0))
            energies[token] += rows[-1].double().square().sum()
            counts[token] += 1
    torch.testing.assert_close(moments.energies, energies)
    assert torch.equal(moments.counts, counts)
    assert moments.square_sum == pytest.approx(float(torch.stack(rows).square().sum()), rel=1e-5)
    # Three samples are fitted to: their rows come first.
    fitted = torch.stack(rows[: sum(len(IDS[s][MASK[s]].unique()) for s in range(3))])
    expected = fitted.T @ fitted
    torch.testing.assert_close(moments.fitted.moments(1.0), expected / expected.trace(), rtol=1e-4, atol=1e-5)


def test_tokens_never_seen_share_what_is_likely_to_be_new() -> None:
    moments = TableMoments(9, 3)
    moments.add(IDS, torch.ones(4, 4, 3), TOKENS)
    # Rows 1, 3 and 7 were used by one sample, 2 and 5 by three each: nine uses in all. Rows 0, 4, 6, 8 by none.
    assert moments.counts.tolist() == [0, 1, 3, 1, 0, 3, 0, 1, 0]
    shares = moments.row_shares()
    assert float(shares.sum()) == pytest.approx(1.0, rel=1e-6)
    assert shares[[0, 4, 6, 8]].tolist() == pytest.approx([3 / 9 / 4] * 4)
    assert float(shares[2]) == pytest.approx(3 / 9 * (1 - 3 / 9))
    weights = moments.row_weights()
    assert float(weights.sum()) == pytest.approx(1.0, rel=1e-6)
    assert float(weights[8]) == pytest.approx(3 / 9 / 4)


def test_no_gradient_gives_no_weight() -> None:
    moments = TableMoments(9, 3)
    moments.add(IDS, torch.zeros(4, 4, 3), TOKENS)
    assert not bool(moments.row_weights().any())


def test_a_token_predicts_where_the_next_one_has_a_label() -> None:
    labels = torch.tensor([[4, 5, -100, 6], [-100, 5, 6, 7]])
    assert predicting_tokens({"labels": labels}).tolist() == [[True, False, True, False], [True, True, True, False]]


def test_the_curvature_is_the_diagonal_of_the_softmax_hessian() -> None:
    torch.manual_seed(0)
    logits = 3.0 * torch.randn(3, 50, 11)
    predicts = torch.rand(3, 50) > 0.3
    sizes = torch.rand(3, 50)
    row_sums, energies = softmax_curvature(logits, sizes, predicts)
    expected = torch.zeros(11)
    for row, size, energy in zip(logits[predicts], sizes[predicts], energies[predicts], strict=True):
        hessian = torch.autograd.functional.hessian(lambda z: torch.logsumexp(z, 0), row)
        assert isinstance(hessian, Tensor)
        expected += size * hessian.diagonal()
        assert float(energy) == pytest.approx(float(hessian.trace()), abs=1e-5)
    torch.testing.assert_close(row_sums, expected, rtol=1e-4, atol=1e-5)
    assert not bool(energies[~predicts].any())


def capture(scale: float) -> OutputMoments:
    """Moments of an output layer whose logits are scaled after it."""
    torch.manual_seed(0)
    head = nn.Linear(6, 9, bias=False).requires_grad_(False)
    moments = OutputMoments(9, 6)
    taker = OutputCapture(head, moments)
    with taker.hooked():
        for seed in range(300):
            generator = torch.Generator().manual_seed(seed)
            hidden = torch.randn(4, 4, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
            logits = head(hidden)
            logits = logits if scale == 1.0 else logits * scale
            p = logits.detach().softmax(-1)
            drawn = torch.multinomial(p.flatten(0, 1), 1, generator=generator).view(4, 4)
            labels = torch.full((4, 4), -100)
            labels[:, 1:] = torch.where(MASK[:, 1:], drawn[:, :-1], -100)
            wanted = labels[:, 1:] != -100
            nn.functional.cross_entropy(logits[:, :-1][wanted], labels[:, 1:][wanted], reduction="sum").backward()
            taker.take(logits.detach(), {"labels": labels}, TOKENS)
    return moments


def test_scaled_logits_are_priced_by_the_drawn_labels_and_plain_ones_exactly() -> None:
    plain, scaled = capture(1.0), capture(1.0 + 1e-6)
    assert plain.num_tokens == scaled.num_tokens > 0
    # The squares of drawn gradients have the exact curvature for their mean.
    torch.testing.assert_close(scaled.row_weights(), plain.row_weights(), rtol=0.15, atol=1e-2)
    torch.testing.assert_close(scaled.fitted.moments(1.0), plain.fitted.moments(1.0), rtol=0.15, atol=1e-2)


def test_outputs_without_a_call_change_nothing() -> None:
    moments = OutputMoments(9, 6)
    OutputCapture(nn.Linear(6, 9), moments).take(torch.zeros(1, 2, 9), {}, TOKENS)
    assert moments.num_tokens == 0
    assert not bool(moments.row_weights().any())
