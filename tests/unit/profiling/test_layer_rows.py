"""Token space against feature space, and both against explicit roots and SVDs of what was fed to them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import Tensor

from layerlens.artifacts.layers import LayerSpec
from layerlens.curves.concave_envelope import concave_envelope
from layerlens.linalg.token_mixing import TokenMixer
from layerlens.profiling.layer_statistics import LayerStatistics
from layerlens.profiling.spaces import Space, Tokens
from layerlens.profiling.statistics_spaces import empty_statistics
from layerlens.words import Role

IN, OUT, RANKS = 96, 64, 12


@dataclass
class Feed:
    """Random tokens of a layer in batches of four samples, with all that makes a layer's life hard."""

    num_samples: int
    num_tokens: int
    gram_rows: int = 1000
    has_padding: bool = False
    is_last_token_only: bool = False
    large: float = 1.0
    is_true: bool = False
    dtype: torch.dtype = torch.float32
    zero_samples: tuple[int, ...] = ()
    inputs: Tensor = field(init=False)
    gradients: dict[str, Tensor] = field(init=False)
    mask: Tensor = field(init=False)

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(self.num_tokens)
        shape = (self.num_samples, self.num_tokens)
        x = torch.randn(*shape, IN, generator=generator) + torch.randn(IN, generator=generator)
        # The first token of every sample is the same, and may be far larger than the others.
        x[:, 0] = self.large * torch.randn(IN, generator=generator)
        self.inputs = x.to(self.dtype)
        mapping = torch.randn(IN, OUT, generator=generator) / IN**0.5
        self.gradients = {}
        for labels in ("empirical", "true"):
            g = 0.3 * x @ mapping / self.large + torch.randn(*shape, OUT, generator=generator)
            lengths = torch.randint(1, self.num_tokens + 1, (self.num_samples, 1), generator=torch.Generator().manual_seed(1))
            self.mask = torch.arange(self.num_tokens) < lengths if self.has_padding else torch.ones(shape, dtype=torch.bool)
            g = g * self.mask[..., None]
            if self.is_last_token_only:
                g = g * (self.mask & ~torch.roll(self.mask, -1, dims=1))[..., None] if self.has_padding else g
                g[:, :-1] = 0 if not self.has_padding else g[:, :-1]
            g[list(self.zero_samples)] = 0.0
            self.gradients[labels] = g.to(self.dtype)

    def into(self, space: Space, cut: int = 4) -> LayerStatistics:
        """Statistics in a space, batches cut into parts of `cut` samples."""
        spec = LayerSpec(layer="one", block=0, role=Role.OTHER, in_features=IN, out_features=OUT, input_group="one")
        total = self.num_samples * self.num_tokens
        found = empty_statistics(spec, space, Tokens(total, total), torch.device("cpu"))
        found.share(found.shared)
        for start in range(0, self.num_samples, 4):
            batch = slice(start, start + 4)
            for first in range(0, 4, cut):
                part = slice(first, min(first + cut, 4))
                mixer = TokenMixer(self.gram_rows, start, self.mask[batch], num_samples=4, part=part)
                x = self.inputs[batch][part]
                found.shared.add(x, mixer, start + first)
                num_first = min(max(0, 2 - first), len(x))
                found.add(x, self.gradients["empirical"][batch][part], num_first, "empirical", None if self.is_true else mixer)
                if self.is_true:
                    found.add(x, self.gradients["true"][batch][part], num_first, "true", mixer)
                found.shared.end_batch()
        return found

    @property
    def half_sizes(self) -> tuple[int, int]:
        return self.num_samples // 2, self.num_samples // 2

    def sample_gradients(self) -> Tensor:
        return torch.einsum("sto,sti->soi", self.gradients["empirical"].double(), self.inputs.double())


FEEDS = {
    "very few tokens": Feed(4, 2),
    "few tokens": Feed(8, 5),
    "nearly as many tokens as features": Feed(8, 7),
    "more tokens than features": Feed(16, 13),
    "padding": Feed(8, 9, has_padding=True),
    "mixed rows": Feed(8, 12, gram_rows=3),
    "mixed rows and padding": Feed(8, 12, gram_rows=3, has_padding=True),
    "one token with a gradient": Feed(8, 9, is_last_token_only=True),
    "one token with a gradient, mixed rows": Feed(8, 9, gram_rows=3, is_last_token_only=True, has_padding=True),
    "one token": Feed(8, 1),
    "samples without a gradient": Feed(8, 9, zero_samples=(1, 6)),
    "a far larger token": Feed(8, 9, large=1000.0),
    "true labels": Feed(8, 9, is_true=True, has_padding=True),
    "true labels, mixed rows": Feed(8, 9, is_true=True, gram_rows=3),
    "bfloat16": Feed(8, 9, dtype=torch.bfloat16),
}


def _curve(statistics: LayerStatistics, feed: Feed, damping: float = 0.1, releases: bool = False) -> np.ndarray:
    return statistics.gain_curve(feed.half_sizes, damping=damping, max_rank=RANKS, num_terms=2.0, releases=releases)


def _root(gram: Tensor, damping: float) -> Tensor:
    values, vectors = torch.linalg.eigh(gram.double())
    return vectors @ torch.diag((values + damping * values.mean()).rsqrt()) @ vectors.t()


def _oracle(feed: Feed, input_gram: Tensor, output_gram: Tensor, damping: float) -> tuple[np.ndarray, float]:
    """By explicit roots and SVDs of the gradients of every sample, in float64; and the scale that its digits are relative to.

    Where the halves agree on next to nothing the curve is a small rest of the gain that fitting them would show.
    """
    gradients = feed.sample_gradients()
    is_first = torch.arange(feed.num_samples) % 4 < 2
    left, right = _root(output_gram, damping), _root(input_gram, damping)
    halves = [left @ gradients[half].mean(dim=0) @ right for half in (is_first, ~is_first)]
    curves = []
    for fitted, scored in (halves, halves[::-1]):
        u, sigma, vt = torch.linalg.svd(fitted, full_matrices=False)
        curves.append(torch.cumsum(sigma * torch.diagonal(u.t() @ scored @ vt.t()), dim=0).numpy()[:RANKS])
    fitted = sum(half.square().sum().item() for half in halves) / 8
    curve = concave_envelope((curves[0] + curves[1]) / 8)
    return curve, max(curve[-1], 0.01 * fitted)


@pytest.mark.parametrize("name", FEEDS)
def test_energy_norms_and_inner_products_are_those_of_the_written_out_gradients(name: str) -> None:
    feed = FEEDS[name]
    gradients = feed.sample_gradients().flatten(1)
    exact = gradients @ gradients.t()
    scale = exact.diagonal().mean().item()
    for space in Space:
        found = feed.into(space)
        norms = torch.cat(found.norms["empirical"]).double()
        torch.testing.assert_close(norms, exact.diagonal(), rtol=1e-4, atol=1e-6 * scale)
        # Relative to the noise that the debiasing subtracts.
        energy = exact.mean().item()
        assert found.mean_gradient_energy(feed.num_samples) == pytest.approx(energy, abs=1e-4 * scale / feed.num_samples)
        if space is Space.TOKENS:
            products = found.products(feed.num_samples)
            torch.testing.assert_close(products.between, exact, rtol=1e-4, atol=1e-5 * scale)
            torch.testing.assert_close(products.with_all, exact.sum(dim=1), rtol=1e-4, atol=1e-4 * scale)
            assert products.between.sum().item() / feed.num_samples**2 == found.mean_gradient_energy(feed.num_samples)


@pytest.mark.parametrize("name", FEEDS)
def test_written_out_means_and_grams_are_the_same_in_both_spaces(name: str) -> None:
    feed = FEEDS[name]
    tokens, features = (feed.into(space) for space in (Space.TOKENS, Space.FEATURES))
    for one, other in zip(tokens.mean_gradients(feed.half_sizes), features.mean_gradients(feed.half_sizes), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * other.abs().max().item())
    for one, other in (
        (tokens.output_gram, features.output_gram),
        (tokens.shared.input_gram, features.shared.input_gram),
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * other.abs().max().item())
    assert tokens.shared.num_rows == features.shared.num_rows
    assert tokens.shared.num_tokens == features.shared.num_tokens


@pytest.mark.parametrize("damping", [0.1, 0.01])
@pytest.mark.parametrize("name", FEEDS)
def test_curves_of_both_spaces_are_those_of_explicit_roots_and_svds(name: str, damping: float) -> None:
    feed = FEEDS[name]
    statistics = {space: feed.into(space) for space in Space}
    exact = statistics[Space.TOKENS]
    expected, scale = _oracle(feed, exact.shared.input_gram, exact.output_gram, damping)
    assert scale > 0
    # Grams that are written out in float32 blur the oracle itself where one token is far larger than the others.
    tolerance = {Space.TOKENS: 1e-4, Space.FEATURES: 1e-4 if damping == 0.1 and feed.large == 1.0 else 2e-3}
    for space, found in statistics.items():
        np.testing.assert_allclose(_curve(found, feed, damping), expected, rtol=0, atol=tolerance[space] * scale)


@pytest.mark.parametrize("space", list(Space))
@pytest.mark.parametrize("name", FEEDS)
@pytest.mark.parametrize("cut", [1, 3])
def test_a_batch_cut_into_parts_gives_what_the_whole_gives(name: str, cut: int, space: Space) -> None:
    feed = FEEDS[name]
    whole, parts = feed.into(space), feed.into(space, cut)
    for labels in ("empirical", "true"):
        assert bool(whole.norms[labels]) == (labels == "empirical" or feed.is_true)
        if whole.norms[labels]:
            torch.testing.assert_close(torch.cat(parts.norms[labels]), torch.cat(whole.norms[labels]), rtol=1e-5, atol=1e-5)
    assert parts.mean_gradient_energy(feed.num_samples) == pytest.approx(whole.mean_gradient_energy(feed.num_samples), rel=1e-5)
    found, expected = parts.products(feed.num_samples), whole.products(feed.num_samples)
    assert torch.equal(found.positions, expected.positions)
    scale = expected.between.diagonal().max().item()
    torch.testing.assert_close(found.between, expected.between, rtol=1e-4, atol=1e-5 * scale)
    torch.testing.assert_close(found.with_all, expected.with_all, rtol=1e-4, atol=1e-4 * scale)
    for one, other in ((parts.output_gram, whole.output_gram), (parts.shared.input_gram, whole.shared.input_gram)):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6 * other.abs().max().item())
    _, scale = _oracle(feed, whole.shared.input_gram, whole.output_gram, 0.1)
    np.testing.assert_allclose(_curve(parts, feed), _curve(whole, feed), rtol=0, atol=1e-4 * scale)


@pytest.mark.parametrize("space", list(Space))
def test_releasing_changes_nothing_and_without_it_the_statistics_stay(space: Space) -> None:
    feed = FEEDS["padding"]
    found = feed.into(space)
    curve = _curve(found, feed)
    found.shared.forget(releases=False)
    assert np.array_equal(_curve(found, feed), curve)
    assert np.array_equal(_curve(found, feed, releases=True), curve)


@pytest.mark.parametrize("space", list(Space))
def test_no_gradient_at_all_is_worth_nothing(space: Space) -> None:
    feed = Feed(8, 5, zero_samples=tuple(range(8)))
    found = feed.into(space)
    assert found.mean_gradient_energy(8) == 0.0
    assert _curve(found, feed).tolist() == [0.0] * RANKS
    assert found.products(8).between.abs().max().item() == found.products(8).with_all.abs().max().item() == 0.0


@pytest.mark.parametrize("space", list(Space))
def test_samples_that_do_not_reach_the_layer_have_no_gradient(space: Space) -> None:
    feed = FEEDS["few tokens"]
    found = feed.into(space)
    found.add_zero(2, "empirical", fills_gram=False)
    assert torch.cat(found.norms["empirical"])[-2:].tolist() == [0.0, 0.0]
    products = found.products(10)
    assert products.positions.tolist() == list(range(10))
    assert products.between[-2:].abs().max().item() == products.with_all[-2:].abs().max().item() == 0.0
    assert found.mean_gradient_energy(10) == pytest.approx(feed.into(space).mean_gradient_energy(8) * 0.64)
