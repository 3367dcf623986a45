"""A streamed profile against the profile in memory: the same numbers in every family, however it is streamed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from layerlens.artifacts.profile import Profile
from layerlens.config import ProfilingConfig
from layerlens.data.dataset import LoadedData
from layerlens.data.partition import Partition, partition
from layerlens.errors import NotFiniteError
from layerlens.models.checkpoint import Checkpoint, open_checkpoint
from layerlens.models.load import load_task_model
from layerlens.models.roles import describe_layers
from layerlens.models.streamed.load import StreamedModel, load_streamed_model
from layerlens.profiling.calibration import samples_to_profile
from layerlens.profiling.run import profile_model
from layerlens.profiling.streamed import run
from layerlens.profiling.streamed.memory_plan import Demand, StreamSettings
from layerlens.profiling.streamed.run import profile_streamed
from layerlens.streaming.boundaries import fewest_slots, most_slots
from layerlens.streaming.journal import Journal
from layerlens.streaming.memory_guard import MemoryGuard
from layerlens.workflow.open import open_data
from tests.functional.test_main_job import write_data
from tests.tiny_models import FAMILIES, save_tiny

WHOLE = {"tokens_at_once": 1 << 20, "holds_weights": True, "num_sweeps": 1}
LEAN = {"tokens_at_once": 40, "holds_weights": False, "num_sweeps": 3, "loss_tokens": 20}


@dataclass
class Case:
    checkpoint: Checkpoint
    data: LoadedData
    part: Partition
    config: ProfilingConfig

    def streamed(self) -> StreamedModel:
        return load_streamed_model(self.checkpoint, self.data.task.info, seed=0)


def shuffle_labels(path: Path) -> None:
    """Leave nothing to learn, so that no loss is next to zero; running text has no labels."""
    generator = np.random.default_rng(0)
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            images, labels = arrays["x"], arrays["y"]
        np.savez(path, x=images, y=generator.permutation(labels))
    elif path.suffix == ".csv":
        head, *rows = path.read_text(encoding="utf-8").splitlines()
        texts, labels = zip(*(row.rsplit(",", 1) for row in rows), strict=True)
        pairs = zip(texts, generator.permutation(labels), strict=True)
        path.write_text("\n".join([head, *(f"{text},{label}" for text, label in pairs)]) + "\n", encoding="utf-8")


def case(folder: Path, family: str, *, is_learnable: bool = True, **options: object) -> Case:
    save_tiny(family, folder / "model")
    path = write_data(folder, family)
    if not is_learnable:
        shuffle_labels(path)
    return opened(folder / "model", path, **options)


def opened(model: Path, path: Path, **options: object) -> Case:
    checkpoint = open_checkpoint(str(model))
    config = ProfilingConfig(**{"num_samples": 24, "max_length": 16, "proxy": "off", "batch_size": 8, **options})
    data = open_data(checkpoint, str(path), config)
    return Case(checkpoint, data, partition(len(data.examples), data.splits, seed=0, has_eval_data=False), config)


def settings_for(num_slots: Callable[[int, int], int], **settings: object) -> Callable[[Demand], StreamSettings]:
    def choose(demand: Demand) -> StreamSettings:
        return StreamSettings(num_slots=num_slots(len(demand.layers), demand.num_labels), **settings)  # type: ignore[arg-type]

    return choose


def run_streamed(
    case: Case,
    work: Path,
    num_slots: Callable[[int, int], int] = most_slots,
    *,
    model: StreamedModel | None = None,
    **settings: object,
) -> tuple[Profile, dict[str, np.ndarray]]:
    profile, arrays, _ = profile_streamed(
        model or case.streamed(),
        case.data,
        case.part,
        case.config,
        work=work,
        settings_for=settings_for(num_slots, **settings),
        command="test",
    )
    return profile, arrays


def in_memory(case: Case) -> tuple[Profile, dict[str, np.ndarray]]:
    task_model = load_task_model(case.checkpoint, case.data.task.info, seed=0)
    layout = describe_layers(task_model.model)
    profile, arrays, _ = profile_model(task_model, layout, case.data, case.part, case.config, command="test")
    return profile, arrays


def assert_same_numbers(
    mine: tuple[Profile, dict[str, np.ndarray]], theirs: tuple[Profile, dict[str, np.ndarray]], *, of_gain: float = 1e-4
) -> None:
    """Within 1e-4 relative; the debiased energy relative to Fisher / N, a gain to the largest gain of the model.

    A cross-fitted gain is the little that is left of terms which cancel, so where all gains are noise they keep fewer digits.
    """
    (profile, arrays), (expected, expected_arrays) = mine, theirs
    assert [layer.layer for layer in profile.layers] == [layer.layer for layer in expected.layers]
    for layer, oracle in zip(profile.layers, expected.layers, strict=True):
        assert layer.input_group == oracle.input_group
        assert layer.metrics.keys() == oracle.metrics.keys()
        for metric, value in oracle.metrics.items():
            scale = oracle.metrics["fisher"] / expected.data.num_samples if metric == "gradient_energy" else abs(value)
            assert abs(layer.metrics[metric] - value) <= 1e-4 * scale + 1e-30, (layer.layer, metric)
        assert abs(layer.utility - oracle.utility) <= 1e-3
    assert arrays.keys() == expected_arrays.keys()
    largest = max((float(np.max(values)) for name, values in expected_arrays.items() if name.startswith("gain/")), default=0.0)
    for name, values in expected_arrays.items():
        scale = largest if name.startswith("gain/") else float(np.max(np.abs(values)))
        tolerance = of_gain if name.startswith("gain/") else 1e-4
        np.testing.assert_allclose(arrays[name], values, rtol=0, atol=tolerance * scale + 1e-30, err_msg=name)
    assert profile.base_loss == pytest.approx(expected.base_loss, rel=1e-6)
    assert profile.head_fit == expected.head_fit or profile.head_fit is not None
    assert (profile.model, profile.data, profile.blocks[0].path) == (expected.model, expected.data, expected.blocks[0].path)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("settings", [WHOLE, LEAN], ids=["whole", "lean"])
def test_streamed_and_in_memory_agree(tmp_path: Path, family: str, settings: dict[str, object]) -> None:
    measured = case(tmp_path, family)
    (profile, arrays), expected = run_streamed(measured, tmp_path / "work", fewest_slots, **settings), in_memory(measured)
    assert_same_numbers((profile, arrays), expected)
    if settings is WHOLE:
        assert (profile.blocks, profile.step_memory) == (expected[0].blocks, expected[0].step_memory)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("is_streamed", [False, True])
def test_products_in_bfloat16_stay_within_the_stated_bound(tmp_path: Path, family: str, is_streamed: bool) -> None:
    exact = case(tmp_path, family, is_learnable=False)
    rounded = Case(exact.checkpoint, exact.data, exact.part, exact.config.model_copy(update={"precision": "bf16"}))
    profile, arrays = run_streamed(rounded, tmp_path / "work", **LEAN) if is_streamed else in_memory(rounded)
    expected, expected_arrays = in_memory(exact)
    for layer, oracle in zip(profile.layers, expected.layers, strict=True):
        assert layer.input_group == oracle.input_group
        fisher = oracle.metrics["fisher"]
        assert abs(layer.metrics["fisher"] - fisher) <= 0.02 * fisher, layer.layer
        energy = layer.metrics["gradient_energy"] - oracle.metrics["gradient_energy"]
        assert abs(energy) <= 0.02 * fisher / expected.data.num_samples, layer.layer
    largest = max(float(np.max(values)) for name, values in expected_arrays.items() if name.startswith("gain/"))
    for name, values in expected_arrays.items():
        if name.startswith("gain/"):
            # Next to no layer of these models has a gain beyond noise; on MiniLM the largest difference is 0.7 %.
            np.testing.assert_allclose(arrays[name], values, rtol=0, atol=0.1 * largest + 1e-30, err_msg=name)
        else:
            np.testing.assert_allclose(arrays[name], values, rtol=0, atol=1e-4 * float(values.max()), err_msg=name)
    assert profile.base_loss == pytest.approx(expected.base_loss, rel=5e-3)
    assert profile.config["precision"] == "bf16"
    differences = [
        abs(layer.metrics["fisher"] / oracle.metrics["fisher"] - 1.0)
        for layer, oracle in zip(profile.layers, expected.layers, strict=True)
    ]
    # It was rounded at all: float32 alone leaves 1e-6.
    assert max(differences) > 1e-5


@pytest.mark.parametrize("family", ["bert", "gpt2"])
@pytest.mark.parametrize("settings", [WHOLE, LEAN], ids=["whole", "lean"])
def test_they_agree_at_sampled_labels_and_with_few_rows_in_the_grams(
    tmp_path: Path, family: str, settings: dict[str, object]
) -> None:
    measured = case(tmp_path, family, fisher_labels="true", gram_tokens=100)
    streamed = run_streamed(measured, tmp_path / "work", fewest_slots, **settings)
    assert_same_numbers(streamed, in_memory(measured), of_gain=5e-4)


def test_a_checkpoint_in_bfloat16_gives_the_numbers_of_its_weights_in_float32(tmp_path: Path) -> None:
    measured = case(tmp_path, "llama")
    model = load_task_model(measured.checkpoint, measured.data.task.info, seed=0, dtype=torch.bfloat16).model
    model.save_pretrained(tmp_path / "half")
    half = Case(open_checkpoint(str(tmp_path / "half")), measured.data, measured.part, measured.config)
    assert_same_numbers(run_streamed(half, tmp_path / "work", **WHOLE), in_memory(half))


class KilledError(BaseException):
    """Stands for the end of the process: nothing catches it, nothing is tidied up."""


@pytest.mark.parametrize(("family", "precision"), [("bert", "fp32"), ("gpt2", "fp32"), ("llama", "bf16")])
def test_a_run_stopped_anywhere_goes_on_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, precision: str
) -> None:
    measured = case(tmp_path, family, precision=precision)
    expected, expected_arrays = run_streamed(measured, tmp_path / "whole", fewest_slots, **LEAN)
    own = MemoryGuard.check
    stops = 0
    for places in range(3, 200, 7):
        left = places

        def check(guard: MemoryGuard) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise KilledError
            own(guard)

        monkeypatch.setattr(MemoryGuard, "check", check)
        try:
            profile, arrays = run_streamed(measured, tmp_path / "work", fewest_slots, **LEAN)
            break
        except KilledError:
            stops += 1
    assert stops >= 3
    assert profile == expected
    assert all(np.array_equal(arrays[name], values) for name, values in expected_arrays.items())


@contextmanager
def stopped_after(monkeypatch: pytest.MonkeyPatch, step: int) -> Iterator[None]:
    """Let a run end the hard way once a step is done, until the context ends."""
    own = Journal.finish

    def finish(journal: Journal, done: int) -> None:
        own(journal, done)
        if done == step:
            raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "finish", finish)
        yield


@pytest.mark.parametrize("is_of_head_alone", [False, True])
def test_a_run_goes_on_with_nothing_of_data_that_have_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_of_head_alone: bool
) -> None:
    before = case(tmp_path, "bert")
    # The head, two blocks forward, the loss.
    with stopped_after(monkeypatch, 3), pytest.raises(KilledError):
        run_streamed(before, tmp_path / "work", **WHOLE)
    kept = samples_to_profile(before.data.id, before.part.train, before.config.num_samples, 0) if is_of_head_alone else []
    file = tmp_path / "data.csv"
    head, *rows = file.read_text(encoding="utf-8").splitlines()
    other = {"early": "late", "late": "early"}
    for number, row in enumerate(rows):
        text, label = row.rsplit(",", 1)
        if number % 3 == 0 and number not in kept:
            rows[number] = f"{text},{other[label]}"
    file.write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")
    after = replace(before, data=open_data(before.checkpoint, str(file), before.config))
    profile, arrays = run_streamed(after, tmp_path / "work", **WHOLE)
    expected, expected_arrays = run_streamed(after, tmp_path / "whole", **WHOLE)
    assert profile == expected
    assert all(np.array_equal(arrays[name], values) for name, values in expected_arrays.items())


def test_a_run_whose_hidden_states_are_gone_computes_them_again_and_keeps_its_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = case(tmp_path, "bert")
    expected, expected_arrays = run_streamed(measured, tmp_path / "whole", **WHOLE)
    with stopped_after(monkeypatch, 3), pytest.raises(KilledError):
        run_streamed(measured, tmp_path / "work", **WHOLE)
    (tmp_path / "work" / "activations.bin").unlink()

    def fitted_again(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(run, "fit_new_head", fitted_again)
    profile, arrays = run_streamed(measured, tmp_path / "work", **WHOLE)
    assert profile == expected
    assert all(np.array_equal(arrays[name], values) for name, values in expected_arrays.items())


def test_a_block_that_gives_nan_is_named_with_its_layer(tmp_path: Path) -> None:
    measured = case(tmp_path, "bert")
    model = measured.streamed()
    layer = model.layers_of(1)["bert.encoder.layer.1.intermediate.dense"]
    assert layer.bias is not None
    with torch.no_grad():
        layer.bias[3] = float("nan")
    with pytest.raises(NotFiniteError, match=r"the output of bert\.encoder\.layer\.1\.intermediate\.dense is NaN or infinite"):
        run_streamed(measured, tmp_path / "work", model=model, **WHOLE)
