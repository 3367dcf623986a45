"""The whole profile on tiny models: complete, saved and read back, the same bytes every time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from layerlens.artifacts.profile import Profile, Timing, load_profile, save_profile
from layerlens.config import ProfilingConfig
from layerlens.data.dataset import LoadedData
from layerlens.data.example import Example
from layerlens.data.partition import Partition
from layerlens.errors import ConfigError, DataError
from layerlens.linalg.singular_values import singular_values
from layerlens.models.weights import weight_matrix
from layerlens.profiling.metrics import raw_metrics
from layerlens.profiling.run import profile_model
from layerlens.progress import Progress, Silent
from layerlens.streaming import memory_guard
from layerlens.words import TaskKind
from tests.unit.profiling.cases import Case, open_case

SETTINGS: dict[str, Any] = {
    "num_samples": 16,
    "batch_size": 4,
    "gram_tokens": 60,
    "head_samples": 12,
    "proxy_steps": 2,
    "proxy_batch_size": 4,
    "proxy_held_out": 4,
    "max_rank": 3,
}
KINDS = [
    ("bert", TaskKind.CLASSIFICATION),
    ("gpt2", TaskKind.CAUSAL_LM),
    ("llama", TaskKind.CLASSIFICATION),
    ("vit", TaskKind.IMAGE_CLASSIFICATION),
]


def _profile(
    case: Case, num_train: int = 40, progress: Progress | None = None, **settings: Any
) -> tuple[Profile, dict[str, np.ndarray], Timing]:
    # Samples that are not for the profile hold nothing, so reading one would fail.
    examples: list[Example] = [*case.examples[:num_train], *({} for _ in case.examples[num_train:])]
    data = LoadedData(id="random", task=case.task, examples=examples, splits=None, columns={"text": "text"})
    indices = range(len(case.examples))
    part = Partition(train=tuple(indices[:num_train]), race=tuple(indices[num_train : num_train + 2]), test=())
    config = ProfilingConfig(**(SETTINGS | settings))
    return profile_model(case.task_model, case.layout, data, part, config, command="layerlens profile", progress=progress)


def test_switches_for_ablations_change_what_they_say_and_nothing_else(tmp_path: Path) -> None:
    case = open_case(tmp_path, "bert", TaskKind.CLASSIFICATION, num_samples=44)
    plain, curves, _ = _profile(case, proxy="off")
    for switch in ("cross_fit", "whiten"):
        other, changed, _ = _profile(case, proxy="off", **{switch: False})
        assert [layer.metrics for layer in other.layers] == [layer.metrics for layer in plain.layers]
        names = [name for name in curves if name.startswith("gain/")]
        assert any(not np.allclose(changed[name], curves[name]) for name in names)
        if switch == "cross_fit":
            # Directions that are scored on what they were fitted to claim more.
            assert sum(changed[name][-1] for name in names) > sum(curves[name][-1] for name in names)
    biased, same, _ = _profile(case, proxy="off", debias=False)
    assert all(np.array_equal(same[name], curves[name]) for name in curves)
    for layer, before in zip(biased.layers, plain.layers, strict=True):
        assert layer.metrics["gradient_energy"] == before.metrics["gradient_norm_squared"] > before.metrics["gradient_energy"]
        assert "gradient_energy" in before.intervals
        assert {"gradient_energy", "utility"}.isdisjoint(layer.intervals)
    assert len({biased.identity, plain.identity}) == 2


@pytest.mark.parametrize(("family", "kind"), KINDS, ids=lambda value: str(value))
def test_a_profile_is_complete_and_survives_the_disk(tmp_path: Path, family: str, kind: TaskKind) -> None:
    case = open_case(tmp_path, family, kind, num_samples=44)
    profile, arrays, timing = _profile(case)
    assert [layer.layer for layer in profile.layers] == [spec.layer for spec in case.layout.layers]
    assert [block.path for block in profile.blocks] == [spec.path for spec in case.layout.blocks]
    for layer in profile.layers:
        assert {"gradient_energy", "fisher", "gradient_norm_squared", "proxy_eval"} <= set(layer.metrics)
        curve = arrays[f"gain/{layer.layer}"]
        assert curve.dtype == np.float64
        assert curve.shape == (3,)
        assert (np.diff(curve, prepend=0.0) >= 0).all()
        weight = weight_matrix(case.model.get_submodule(layer.layer))
        expected = singular_values(weight).numpy()
        np.testing.assert_allclose(arrays[f"spectrum/{layer.layer}"], expected)
    assert max(layer.utility for layer in profile.layers) > 0
    assert profile.proxy is not None
    assert ("proxy_eval" in profile.metric_weights) != profile.proxy.is_blind
    assert any("proxies are blind" in warning for warning in profile.warnings) == profile.proxy.is_blind
    assert all(block.activation_bytes_per_token > 0 for block in profile.blocks)
    assert profile.step_memory is not None
    assert profile.step_memory.is_padded == (kind is not TaskKind.IMAGE_CLASSIFICATION)
    assert (profile.head_fit is None) == (kind is TaskKind.CAUSAL_LM)
    assert profile.data.num_samples == 16
    assert 0 < profile.data.gram_tokens <= 60
    assert profile.data.num_tokens == pytest.approx(16 * profile.mean_length)
    assert set(profile.versions) == {"python", "torch", "transformers", "numpy", "layerlens"}
    assert set(timing.latency) == {layer.layer for layer in profile.layers}
    assert set(timing.stages) == {"head_fit", "statistics", "spectra", "curves", "proxies", "timing"}
    save_profile(tmp_path / "profile", profile, arrays, timing)
    loaded, loaded_arrays, loaded_timing = load_profile(tmp_path / "profile")
    assert loaded == profile
    assert loaded_timing == timing
    assert all(np.array_equal(loaded_arrays[name], arrays[name]) for name in arrays)


@pytest.mark.parametrize(("family", "kind"), KINDS, ids=lambda value: str(value))
def test_two_profiles_of_the_same_thing_are_the_same_bytes(tmp_path: Path, family: str, kind: TaskKind) -> None:
    written = []
    for run in ("one", "two"):
        # Whatever ran before must not matter.
        torch.manual_seed(len(written) + 99)
        np.random.seed(len(written) + 99)
        case = open_case(tmp_path / "model", family, kind, num_samples=44)
        profile, arrays, timing = _profile(case)
        save_profile(tmp_path / run, profile, arrays, timing)
        written.append([(tmp_path / run / name).read_bytes() for name in ("profile.json", "profile.safetensors")])
    assert written[0] == written[1]


def test_another_seed_measures_other_samples(tmp_path: Path) -> None:
    case = open_case(tmp_path, "gpt2", TaskKind.CAUSAL_LM, num_samples=44)
    one, other = (_profile(case, seed=seed)[0] for seed in (0, 1))
    assert one.data.hash != other.data.hash
    assert one.base_loss != other.base_loss


def test_the_metrics_are_those_of_the_pass_at_the_fitted_head(tmp_path: Path) -> None:
    case = open_case(tmp_path, "bert", TaskKind.CLASSIFICATION, num_samples=44)
    profile, _, _ = _profile(case, num_samples=40)
    # The head stays fitted, so the pass over the same samples finds the same.
    case.examples = case.examples[:40]
    metrics = raw_metrics(case.statistics())
    for layer in profile.layers:
        assert layer.metrics["fisher"] == pytest.approx(metrics[layer.layer]["fisher"], rel=1e-3)


def test_sampled_labels_are_recorded(tmp_path: Path) -> None:
    case = open_case(tmp_path, "bert", TaskKind.CLASSIFICATION, num_samples=44)
    profile, _, _ = _profile(case, fisher_labels="true")
    assert profile.fisher_labels == "true"
    assert all("fisher_empirical" in layer.metrics for layer in profile.layers)


def test_proxies_off_leave_the_utility_to_the_other_metrics_and_say_so(tmp_path: Path) -> None:
    case = open_case(tmp_path, "bert", TaskKind.CLASSIFICATION, num_samples=44)
    profile, _, _ = _profile(case, proxy="off")
    assert profile.proxy is None
    assert profile.metric_weights == {"gradient_energy": 0.4, "fisher": 0.4}
    assert any("proxy_eval was not measured" in warning for warning in profile.warnings)
    assert all(layer.proxy_source == "none" for layer in profile.layers)


def test_a_head_fitted_on_measured_samples_is_told(tmp_path: Path) -> None:
    case = open_case(tmp_path, "bert", TaskKind.CLASSIFICATION, num_samples=44)
    assert not any("the head was fitted" in warning for warning in _profile(case)[0].warnings)
    assert any("the head was fitted" in warning for warning in _profile(case, num_train=20)[0].warnings)


def test_one_sample_is_too_few(tmp_path: Path) -> None:
    case = open_case(tmp_path, "bert", TaskKind.CLASSIFICATION, num_samples=44)
    with pytest.raises(DataError, match="random leaves 1 training samples"):
        _profile(case, num_train=1)


def test_threads_are_put_back(tmp_path: Path) -> None:
    case = open_case(tmp_path, "gpt2", TaskKind.CAUSAL_LM, num_samples=44)
    before = torch.get_num_threads()
    _, _, timing = _profile(case, threads=before + 1)
    assert timing.threads == before + 1
    assert torch.get_num_threads() == before


class _Grows(Silent):
    """Lets the process's peak pass the cap at one item of one stage, and keeps what came."""

    def __init__(self, stage: str, item: int) -> None:
        self.peak, self.seen = 1, []
        self._stage, self._item = stage, item

    def track(self, items: Iterable[Any], description: str, total: int | None = None) -> Iterator[Any]:
        for number, item in enumerate(items):
            self.seen.append(description)
            if (description, number) == (self._stage, self._item):
                self.peak = 3 << 30
            yield item


@pytest.mark.parametrize(
    ("stage", "item", "seen"),
    [
        # Sixteen samples in batches of four, of which the second one is too large; of the other stages all is seen.
        ("statistics", 1, {"statistics": 2}),
        ("spectra", 0, {"statistics": 4, "spectra": 12}),
        ("gain curves", 3, {"statistics": 4, "spectra": 12, "gain curves": 12}),
    ],
)
def test_a_cap_that_is_passed_ends_the_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, item: int, seen: dict[str, int]
) -> None:
    case = open_case(tmp_path, "bert", TaskKind.CLASSIFICATION, num_samples=44)
    watcher = _Grows(stage, item)
    monkeypatch.setattr(memory_guard, "peak_memory", lambda: watcher.peak)
    with pytest.raises(ConfigError, match=r"the process took 3,072 MiB, above --max-memory 2,048 MiB; give it 3,136 MiB or more"):
        _profile(case, progress=watcher, proxy="off", max_memory=2 << 30)
    assert Counter(watcher.seen) == seen
    assert _profile(case, progress=_Grows(stage, item), proxy="off")[0].layers
