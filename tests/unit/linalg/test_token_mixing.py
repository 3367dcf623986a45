"""Mixed rows against the exact sum of outer products."""

from __future__ import annotations

import torch

from layerlens.linalg.token_mixing import TokenMixer

MASK = torch.tensor([[True] * 6 + [False] * 3, [True] * 9])


def _values() -> torch.Tensor:
    values = torch.randn(2, 9, 4, generator=torch.Generator().manual_seed(0))
    # Padding must not count, however large.
    return torch.where(MASK[..., None], values, torch.full_like(values, 1e3))


def _exact() -> torch.Tensor:
    rows = _values()[MASK]
    return rows.t() @ rows


def test_enough_rows_keep_every_unpadded_token_as_it_is() -> None:
    mixer = TokenMixer(9, 0, MASK)
    assert torch.equal(mixer.rows(_values()), _values()[MASK])
    assert mixer.count(_values()) == 15


def test_few_rows_have_the_exact_gram_in_expectation() -> None:
    draws = [TokenMixer(2, seed, MASK).rows(_values()) for seed in range(3000)]
    assert all(len(rows) == 4 for rows in draws)
    mean = torch.stack([rows.t() @ rows for rows in draws]).mean(dim=0)
    torch.testing.assert_close(mean, _exact(), rtol=0.1, atol=0.7)


def test_the_trace_of_one_sample_is_never_missed() -> None:
    """Any one token's energy is in every row, where a choice of tokens would lose it most of the time."""
    values = torch.zeros(1, 50, 3)
    values[0, 17, 1] = 5.0
    for seed in range(10):
        rows = TokenMixer(4, seed, None).rows(values)
        torch.testing.assert_close(rows.t() @ rows, torch.diag(torch.tensor([0.0, 25.0, 0.0])))


def test_one_mixer_mixes_all_layers_alike_and_another_seed_does_not() -> None:
    mixer = TokenMixer(2, 5, MASK)
    assert torch.equal(mixer.rows(_values()), mixer.rows(_values()))
    assert torch.equal(mixer.rows(_values()), TokenMixer(2, 5, MASK).rows(_values()))
    assert not torch.equal(mixer.rows(_values()), TokenMixer(2, 6, MASK).rows(_values()))


def test_a_layer_of_another_length_has_no_padding() -> None:
    mixer = TokenMixer(2, 0, MASK)
    pooled = torch.ones(2, 1, 4)
    assert torch.equal(mixer.rows(pooled), torch.ones(2, 4))
    assert mixer.count(pooled) == 2
