"""Coverage of the intervals on synthetic gradients whose truth is known, and replicates that move together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from layerlens.profiling.intervals import intervals, mean_interval, replicates, resampled_counts, utility_intervals
from layerlens.profiling.layer_statistics import GradientProducts, LayerStatistics
from layerlens.profiling.metrics import raw_metrics
from layerlens.profiling.spaces import Space
from layerlens.profiling.statistics import Statistics
from layerlens.words import TaskKind
from tests.unit.profiling.cases import Vectors, open_case, vector_examples, vector_statistics


class Written(LayerStatistics):
    """Statistics of a layer from gradients that are written out, one row for each sample; nothing else is known of it."""

    add = add_zero = mean_gradients = gain_curve = output_gram = None

    def __init__(self, gradients: np.ndarray) -> None:
        self.gradients = torch.from_numpy(gradients)
        self.norms = {"empirical": [self.gradients.square().sum(dim=1)], "true": []}

    def mean_gradient_energy(self, num_samples: int) -> float:
        return self.gradients.mean(dim=0).square().sum().item()

    def products(self, num_samples: int) -> GradientProducts:
        between = self.gradients @ self.gradients.t()
        return GradientProducts(torch.arange(num_samples), between, between.sum(dim=1))


def _statistics(layers: dict[str, np.ndarray]) -> Statistics:
    size = len(next(iter(layers.values())))
    written = {name: Written(gradients) for name, gradients in layers.items()}
    return Statistics(written, {}, np.zeros(size), (size // 2, size - size // 2), 1.0, list(range(size)))


@dataclass
class Noise:
    """Gradients mean + scale · noise of `rank` directions, with sizes that differ from sample to sample."""

    size: int
    signal: float
    rank: int = 40
    spread: float = 0.5
    features: int = 60

    def draw(self, random: np.random.Generator) -> np.ndarray:
        basis = np.random.default_rng(5).normal(size=(self.rank, self.features)) / (self.rank * self.features) ** 0.5
        scale = random.lognormal(0.0, self.spread, size=(self.size, 1))
        return self.mean + scale * (random.normal(size=(self.size, self.rank)) @ basis)

    @property
    def mean(self) -> np.ndarray:
        direction = np.random.default_rng(6).normal(size=self.features)
        return self.signal * direction / np.linalg.norm(direction)

    def fisher(self) -> float:
        basis = np.random.default_rng(5).normal(size=(self.rank, self.features)) / (self.rank * self.features) ** 0.5
        return self.signal**2 + np.exp(2.0 * self.spread**2) * (basis**2).sum()


@pytest.mark.parametrize(
    "noise",
    [
        Noise(64, 0.0),
        Noise(64, 0.0, rank=3),
        Noise(64, 0.2),
        Noise(64, 1.0),
        Noise(64, 1.0, rank=3),
        Noise(16, 0.3),
        Noise(8, 0.3),
    ],
    ids=str,
)
def test_intervals_cover_the_truth_about_as_often_as_they_say(noise: Noise) -> None:
    rounds, hits, widths = 300, {"gradient_energy": 0, "fisher": 0}, []
    counts = resampled_counts(noise.size, seed=0, num_replicates=400)
    # The metric averages to this: its debiasing leaves out N of the N² pairs.
    truth = {"gradient_energy": (noise.size - 1) / noise.size * noise.signal**2, "fisher": noise.fisher()}
    for seed in range(rounds):
        statistics = _statistics({"one": noise.draw(np.random.default_rng([7, seed]))})
        found = intervals(statistics, counts)["one"]
        for metric, (low, high) in found.items():
            hits[metric] += low <= truth[metric] <= high
        widths.append(found["gradient_energy"][1] - found["gradient_energy"][0])
    assert hits["gradient_energy"] / rounds >= 0.9
    # Eight squared norms, as skewed as these, say little about their own tail.
    assert hits["fisher"] / rounds >= (0.88 if noise.size > 8 else 0.84)
    # Not by being needlessly wide: the metric itself spreads nearly as far.
    values = [
        raw_metrics(_statistics({"one": noise.draw(np.random.default_rng([8, seed]))}))["one"]["gradient_energy"]
        for seed in range(rounds)
    ]
    reach = np.subtract(*np.quantile(values, [0.975, 0.025]))
    assert 0.6 * reach < np.median(widths) < (1.6 if noise.size > 8 else 2.0) * reach


def test_replicates_spread_as_far_as_the_metric_on_fresh_samples() -> None:
    for noise in (Noise(64, 0.0), Noise(64, 0.5), Noise(64, 1.0, rank=3)):
        counts = resampled_counts(noise.size, seed=1)
        spreads, values = [], []
        for seed in range(200):
            statistics = _statistics({"one": noise.draw(np.random.default_rng([9, seed]))})
            raw = raw_metrics(statistics)["one"]
            values.append([raw["gradient_energy"], raw["fisher"]])
            if seed < 40:
                drawn = replicates(statistics, counts)["one"]
                assert drawn["gradient_energy"].mean() == pytest.approx(
                    raw["gradient_energy"], abs=0.3 * drawn["gradient_energy"].std()
                )
                spreads.append([drawn["gradient_energy"].std(), drawn["fisher"].std()])
        np.testing.assert_allclose(np.sqrt(np.mean(np.square(spreads), axis=0)), np.std(values, axis=0), rtol=0.3)


def test_two_copies_of_a_layer_move_together_and_two_strangers_do_not() -> None:
    noise = Noise(32, 1.0)
    one, other = (noise.draw(np.random.default_rng(seed)) for seed in (0, 1))
    drawn = replicates(_statistics({"one": one, "copy": 2.0 * one, "other": other}), resampled_counts(32, seed=0))
    for metric in ("gradient_energy", "fisher"):
        np.testing.assert_allclose(drawn["copy"][metric], 4.0 * drawn["one"][metric])
        assert abs(np.corrcoef(drawn["one"][metric], drawn["other"][metric])[0, 1]) < 0.7


def test_utility_intervals_lie_within_bounds_and_hold_the_utility_of_the_whole() -> None:
    layers = {f"layer {size}": size * Noise(48, 0.8, rank=5).draw(np.random.default_rng(size)) for size in (1, 2, 5)}
    statistics = _statistics(layers)
    drawn = replicates(statistics, resampled_counts(48, seed=0, num_replicates=300))
    weights = {"gradient_energy": 0.4, "fisher": 0.4, "proxy_eval": 0.2}
    fixed = {name: {"proxy_eval": float(size)} for name, size in zip(layers, (1, 2, 4), strict=True)}
    found = utility_intervals(drawn, weights, fixed)
    raw = raw_metrics(statistics)
    for name, (low, high) in found.items():
        share = {
            metric: max(0.0, raw[name][metric]) ** 0.5 / raw["layer 5"][metric] ** 0.5 for metric in ("gradient_energy", "fisher")
        }
        whole = 0.4 * share["gradient_energy"] + 0.4 * share["fisher"] + 0.2 * fixed[name]["proxy_eval"] / 4.0
        assert 0.0 <= low <= whole <= high <= 1.0
        assert high - low < 0.5
    # The best layer is the best in every replicate.
    assert found["layer 5"] == pytest.approx((1.0, 1.0))


def test_a_layer_without_a_gradient_has_none_on_any_samples() -> None:
    statistics = _statistics({"idle": np.zeros((9, 4)), "other": Noise(9, 1.0).draw(np.random.default_rng(0))})
    counts = resampled_counts(9, seed=0)
    assert intervals(statistics, counts)["idle"] == {"gradient_energy": (0.0, 0.0), "fisher": (0.0, 0.0)}
    assert np.abs(replicates(statistics, counts)["idle"]["gradient_energy"]).max() == 0.0


@pytest.mark.parametrize("size", [2, 3, 5])
def test_very_few_samples_have_very_wide_intervals(size: int) -> None:
    statistics = _statistics({"one": Noise(size, 0.3).draw(np.random.default_rng(0))})
    found = intervals(statistics, resampled_counts(size, seed=0))["one"]
    energy = raw_metrics(statistics)["one"]
    assert found["gradient_energy"][1] - found["gradient_energy"][0] > 2.0 * abs(energy["gradient_energy"])
    assert 0.0 <= found["fisher"][0] <= energy["fisher"] <= found["fisher"][1]


def test_the_interval_of_a_mean_is_never_below_zero_and_reaches_further_up() -> None:
    values = np.random.default_rng(0).lognormal(0.0, 1.5, size=20)
    low, high = mean_interval(values, resampled_counts(20, seed=0))
    assert 0.0 <= low < values.mean() < high
    assert high - values.mean() > values.mean() - low


def test_counts_are_seeded_and_draw_as_many_samples_as_there_are() -> None:
    counts = resampled_counts(13, seed=4, num_replicates=50)
    assert counts.shape == (50, 13)
    assert (counts.sum(axis=1) == 13).all()
    assert np.array_equal(counts, resampled_counts(13, seed=4, num_replicates=50))
    assert not np.array_equal(counts, resampled_counts(13, seed=5, num_replicates=50))


def test_sketches_give_intervals_of_about_the_same_width() -> None:
    examples = vector_examples(40, features=64)
    torch.manual_seed(0)
    counts = resampled_counts(40, seed=0)
    exact, sketched = (
        intervals(vector_statistics(Vectors(64, 48), examples, space=space), counts) for space in (Space.TOKENS, Space.FEATURES)
    )
    for layer in ("lower", "upper"):
        assert sketched[layer]["fisher"] == pytest.approx(exact[layer]["fisher"], rel=1e-4)
        widths = [found[layer]["gradient_energy"][1] - found[layer]["gradient_energy"][0] for found in (exact, sketched)]
        assert 0.5 * widths[0] < widths[1] < 2.5 * widths[0]
        assert sum(sketched[layer]["gradient_energy"]) == pytest.approx(
            sum(exact[layer]["gradient_energy"]), abs=1e-3 * widths[0]
        )


def test_of_many_samples_some_are_sketched_and_say_much_the_same() -> None:
    examples = vector_examples(600, features=24)
    exact, some = (vector_statistics(Vectors(24, 20), examples, space=space) for space in (Space.TOKENS, Space.FEATURES))
    products = some.layers["lower"].products(600)
    assert len(products.positions) == 150
    whole = exact.layers["lower"].products(600)
    # Both sides are small enough to be taken as they are.
    torch.testing.assert_close(products.between, whole.between[products.positions][:, products.positions], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(products.with_all, whole.with_all[products.positions], rtol=1e-3, atol=1e-2)
    counts = resampled_counts(600, seed=0)
    spreads = [replicates(found, counts)["lower"]["gradient_energy"].std() for found in (exact, some)]
    assert spreads[1] == pytest.approx(spreads[0], rel=0.35)


def test_intervals_of_a_real_pass_are_about_its_metrics(tmp_path: Path) -> None:
    case = open_case(tmp_path, "bert", TaskKind.CLASSIFICATION, num_samples=20)
    for space in Space:
        statistics = case.statistics(space=space)
        raw = raw_metrics(statistics)
        for layer, found in intervals(statistics, resampled_counts(20, seed=0)).items():
            for metric, (low, high) in found.items():
                assert low < raw[layer][metric] < high
