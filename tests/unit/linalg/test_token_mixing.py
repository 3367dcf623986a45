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


def test_parts_of_a_batch_get_the_rows_that_the_whole_gives_them() -> None:
    values = torch.randn(5, 9, 4, generator=torch.Generator().manual_seed(3))
    mask = torch.arange(9) < torch.tensor([9, 5, 7, 9, 1])[:, None]
    for num_rows in (3, 9):
        whole = TokenMixer(num_rows, 8, mask).rows(values)
        parts = [
            TokenMixer(num_rows, 8, mask, num_samples=5, part=part).rows(values[part])
            for part in (slice(0, 2), slice(2, 3), slice(3, 5))
        ]
        torch.testing.assert_close(torch.cat(parts), whole)


def test_a_sample_with_few_tokens_that_are_not_zero_is_taken_as_it_is_beside_one_that_is_mixed() -> None:
    values = torch.randn(3, 9, 4, generator=torch.Generator().manual_seed(3))
    values[1, 2:] = 0.0
    mixer = TokenMixer(2, 0, None)
    taken, mixed = mixer.split(values, 9)
    assert taken.tolist() == [[False] * 9, [True] * 2 + [False] * 7, [False] * 9]
    assert mixed is not None
    torch.testing.assert_close(mixed, mixer.rows(values)[[0, 1, 4, 5]])


def test_a_compacted_sample_is_mixed_by_the_signs_of_its_own_tokens() -> None:
    values = torch.zeros(2, 9, 4)
    positions = torch.tensor([[1, 3, 5], [0, 4, 8]])
    kept = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(3))
    values.scatter_(1, positions[..., None].expand(-1, -1, 4), kept)
    for mask in (None, torch.arange(9) < torch.tensor([[9], [8]])):
        mixer = TokenMixer(2, 0, mask)
        taken, mixed = mixer.split(kept, 9, positions)
        # With its last token masked the second sample has only two left.
        assert taken.tolist() == [[False] * 3, [mask is not None] * 2 + [False]]
        expected = mixer.rows(values)
        torch.testing.assert_close(mixed, expected if mask is None else expected[:2])
