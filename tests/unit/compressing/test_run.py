"""Curves of whole models: complete, the same bytes however they were made, and resumed where a run was stopped."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import layerlens
from layerlens.artifacts.compression import Curves, MatrixCurve, Rounding, load_curves, save_curves
from layerlens.artifacts.formats import Format, size_bytes
from layerlens.compressing import matrices as matrices_file
from layerlens.compressing.factor_cache import FactorCache
from layerlens.compressing.matrices import matrices_of, read_matrix
from layerlens.compressing.option_grid import OptionGrid
from layerlens.compressing.run import MeasureOptions, measure_curves
from layerlens.compressing.stored_matrix import restored
from layerlens.errors import ConfigError, ManifestError
from layerlens.progress import Silent
from layerlens.streaming.activation_store import STATES_FILE
from layerlens.streaming.journal import Journal
from tests.unit.compressing.calibrations import Calibrated, calibrated

#: Few options, so that a run is short.
GRID = OptionGrid(widths=(4, 3), factor_bits=(16, 8), corrected_widths=(3,), two_sided_widths=(3,))
OPTIONS = MeasureOptions(grid=GRID, threads=1)


def measured(case: Calibrated, folder: Path, options: MeasureOptions = OPTIONS) -> Curves:
    curves = measure_curves(case.streamed(), case.data, case.samples, options, folder=folder, work=folder / "work")
    save_curves(folder, curves)
    return curves


def fingerprint(folder: Path) -> dict[str, str]:
    """Hash of every file that a run leaves."""
    files = [folder / "curves.json", *sorted((folder / "factors").iterdir())]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.fixture(autouse=True)
def _small_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrices_file, "LARGE", 1000)


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert", "vit"])
def test_every_option_can_be_taken_from_the_folder(tmp_path: Path, family: str) -> None:
    case = calibrated(tmp_path, family, num_samples=16)
    curves = measured(case, tmp_path / "curves")
    assert load_curves(tmp_path / "curves") == curves
    model = case.streamed()
    matrices = matrices_of(model)
    assert [curve.layer for curve in curves.matrices] == [matrix.layer for matrix in matrices]
    kept = sum(
        size_bytes(o.scheme, c.out_features, c.in_features, c.kept_element_bytes)
        for c in curves.matrices
        for o in c.options
        if o.scheme.format is Format.KEEP
    )
    assert kept + curves.model.other_bytes == curves.model.size_bytes
    cache = FactorCache(tmp_path / "curves", model)
    for curve, matrix in zip(curves.matrices, matrices, strict=True):
        weight = read_matrix(model, matrix)
        for option in curve.options:
            tensors = cache.tensors_of(curve.layer, option)
            assert sum(tensor.nbytes for tensor in tensors.values()) == option.size_bytes
            values = restored(option.scheme, tensors, curve.out_features, curve.in_features)
            assert torch.equal(values, cache.weight_of(curve.layer, option, curve.out_features, curve.in_features))
            assert float((values - weight).norm() / weight.norm()) == pytest.approx(option.weight_error, rel=1e-2, abs=1e-3)


def test_layers_that_no_sample_runs_through_take_the_widest_codes_alone(tmp_path: Path) -> None:
    case = calibrated(tmp_path, "gpt2", num_samples=8, add_cross_attention=True)
    idle, others = [], []
    for curve in measured(case, tmp_path / "curves").matrices:
        (idle if "crossattention" in curve.layer else others).append(curve)
    assert len(idle) == 2 * 3
    for curve in idle:
        assert {option.scheme.name for option in curve.options} == {"keep", "half", "int4"}
        assert not any(option.predicted_loss for option in curve.options)
    assert all(any(option.predicted_loss for option in curve.options) for curve in others)


class Stopped(BaseException):
    """Stands for a kill."""


def test_a_run_that_was_stopped_anywhere_ends_with_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = calibrated(tmp_path, "llama", num_samples=16)
    measured(case, tmp_path / "whole")
    expected = fingerprint(tmp_path / "whole")
    finish = Journal.finish
    num_steps = 0

    def count(self: Journal, step: int) -> None:
        nonlocal num_steps
        num_steps += 1
        finish(self, step)

    # Killed just before each step is noted as done, so that every step is done twice.
    stopped_at = set()

    def stop(self: Journal, step: int) -> None:
        if step not in stopped_at:
            stopped_at.add(step)
            raise Stopped
        count(self, step)

    monkeypatch.setattr(Journal, "finish", stop)
    for _ in range(20):
        try:
            measured(case, tmp_path / "stopped")
            break
        except Stopped:
            continue
    assert num_steps == len(stopped_at) == 2 + 1 + 2 + 1
    assert fingerprint(tmp_path / "stopped") == expected


def test_several_processes_give_the_same_bytes(tmp_path: Path) -> None:
    case = calibrated(tmp_path, "bert", num_samples=16)
    measured(case, tmp_path / "one")
    measured(case, tmp_path / "two", replace(OPTIONS, processes=2))
    assert fingerprint(tmp_path / "one") == fingerprint(tmp_path / "two")
    assert not list((tmp_path / "two" / "work" / "jobs").iterdir())


def test_hidden_states_that_are_gone_begin_a_stopped_run_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = calibrated(tmp_path, "llama", num_samples=16)
    measured(case, tmp_path / "whole")

    def stop(self: Journal, step: int) -> None:
        if step == 3:
            raise Stopped
        finish(self, step)

    finish = Journal.finish
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "finish", stop)
        with pytest.raises(Stopped):
            measured(case, tmp_path / "stopped")
    (tmp_path / "stopped" / "work" / STATES_FILE).unlink()
    measured(case, tmp_path / "stopped")
    assert fingerprint(tmp_path / "stopped") == fingerprint(tmp_path / "whole")


def test_a_run_that_was_stopped_under_another_release_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = calibrated(tmp_path, "llama", num_samples=16)
    done: list[int] = []

    def stop(self: Journal, step: int) -> None:
        if step == 3 and step not in done:
            done.append(step)
            raise Stopped
        done.append(step)
        finish(self, step)

    finish = Journal.finish
    monkeypatch.setattr(Journal, "finish", stop)
    with monkeypatch.context() as patch:
        patch.setattr(layerlens, "__version__", "0.0.0")
        with pytest.raises(Stopped):
            measured(case, tmp_path / "stopped")
    assert measured(case, tmp_path / "stopped").versions["layerlens"] == layerlens.__version__
    assert done == [0, 1, 2, 3, 0, 1, 2, 3, 4, 5]


def test_seeds_change_what_is_drawn_and_nothing_else_does(tmp_path: Path) -> None:
    case = calibrated(tmp_path, "llama", num_samples=16)
    first, again, other = (
        measured(case, tmp_path / name, replace(OPTIONS, seed=seed)) for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert first == again
    assert [m.options for m in first.matrices] != [m.options for m in other.matrices]


def test_a_full_disk_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    case = calibrated(tmp_path, "bert", num_samples=8)
    monkeypatch.setattr("layerlens.compressing.factor_cache.save_file", full)
    with pytest.raises(ConfigError, match=r"the disk of .* is too full for the factors of .*; free some space"):
        measured(case, tmp_path / "curves")
    assert not list((tmp_path / "curves" / "factors").iterdir())


def test_factors_that_are_gone_or_damaged_are_told(tmp_path: Path) -> None:
    case = calibrated(tmp_path, "llama", num_samples=8)
    curve: MatrixCurve = measured(case, tmp_path / "curves").matrices[3]
    option = next(option for option in curve.options if option.rounding is Rounding.SECOND_ORDER)
    cache = FactorCache(tmp_path / "curves")
    file = cache.path(curve.layer)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ManifestError, match=r"cannot take factors from .*; remove .* and run again"):
        cache.tensors_of(curve.layer, option)
    file.unlink()
    with pytest.raises(ManifestError, match="cannot take factors"):
        cache.tensors_of(curve.layer, option)
    with pytest.raises(ManifestError, match="is made from the checkpoint; open the model as well"):
        cache.tensors_of(curve.layer, curve.options[-1])


def test_steps_are_told_to_who_watches(tmp_path: Path) -> None:
    seen: list[int] = []

    class Watcher(Silent):
        def track(self, items, description, total=None):  # type: ignore[no-untyped-def]
            for item in items:
                seen.append(total)
                yield item

    case = calibrated(tmp_path, "bert", num_samples=8)
    folder = tmp_path / "curves"
    measure_curves(case.streamed(), case.data, case.samples, OPTIONS, folder=folder, work=folder / "work", progress=Watcher())
    assert len(seen) == seen[0] == 6


def test_a_trained_model_is_measured_and_its_options_are_in_order(tmp_path: Path, shared: Path) -> None:
    from layerlens.config import DataConfig
    from layerlens.models.checkpoint import open_checkpoint
    from layerlens.workflow.open import open_data

    checkpoint = open_checkpoint(str(shared / "models" / "stories260k"))
    text = (shared / "data" / "tinystories" / "tinystories_train_part.txt").read_text(encoding="utf-8")[:60_000]
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    data = open_data(checkpoint, str(tmp_path / "text.txt"), DataConfig(max_length=128))
    case = Calibrated(checkpoint, replace(data, examples=[data.examples[i] for i in range(8)]))
    curves = measured(case, tmp_path / "curves", replace(OPTIONS, grid=OptionGrid(widths=(4, 3, 2), factor_bits=(8,))))
    for curve in curves.matrices:
        losses = {(o.scheme.name, str(o.rounding)): o.predicted_loss for o in curve.options}
        assert losses["int4", "second-order"] < losses["int3", "second-order"] < losses["int2", "second-order"]
        assert all(losses[f"int{bits}", "second-order"] < losses[f"int{bits}", "nearest"] for bits in (2, 3, 4))
