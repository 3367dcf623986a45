"""What a failure leaves beside the output: nothing after bad input, and else what the same command goes on with."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from layerlens.compressing import factor_cache, matrix_jobs, tensor_files
from layerlens.compressing.calibration_pass import CalibrationPass
from layerlens.compressing.held_out import HeldOut
from layerlens.errors import CheckpointError, ConfigError, LayerLensError, NotFiniteError
from layerlens.models.streamed import tensor_reader
from layerlens.streaming import memory_guard
from layerlens.streaming.memory_guard import MemoryGuard
from layerlens.workflow import compress_curves
from tests.unit.workflow.compressions import Place, digest


@pytest.mark.parametrize("name", ["model.layers.0.mlp.up_proj.weight", "model.embed_tokens.weight", "model.norm.weight"])
def test_a_tensor_that_is_not_finite_is_named_and_nothing_is_left(small_llama: Place, tmp_path: Path, name: str) -> None:
    shutil.copytree(small_llama.model, tmp_path / "model")
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    tensors[name].view(-1)[3] = float("nan")
    save_file(tensors, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    before = digest(tmp_path / "model")
    with pytest.raises(LayerLensError, match=f"(NaN|infinite).*{name.removesuffix('.weight')}"):
        Place(tmp_path / "model", small_llama.data).compress(tmp_path / "out", bits_per_weight=9)
    assert digest(tmp_path / "model") == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def no_space(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def refuse(*_: object, **__: object) -> None:
    raise AssertionError("what was measured before the failure was measured again")


def steps_done(curves: Path) -> int:
    return int(json.loads((curves / "work" / "journal.json").read_text())["num_done"])


def test_a_folder_that_another_process_works_in_is_left_to_it(
    small_llama: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same command typed twice: the second one is refused, and takes nothing of the first one's away."""
    told: list[str] = []

    def second(*_: object, **__: object) -> None:
        with pytest.raises(ConfigError, match="another process is working in") as caught:
            small_llama.compress(tmp_path / "out", bits_per_weight=9)
        told.append(str(caught.value))
        raise ConfigError("the first one fails later")

    monkeypatch.setattr(compress_curves, "measure_curves", second)
    with pytest.raises(ConfigError, match="the first one fails later"):
        small_llama.compress(tmp_path / "out", bits_per_weight=9)
    assert len(told) == 1
    assert list(tmp_path.iterdir()) == [], "the first one held its claim until it gave it up itself"
    monkeypatch.undo()
    assert small_llama.compress(tmp_path / "out", bits_per_weight=9).plan is not None


def test_a_disk_that_is_full_before_the_first_step_leaves_nothing(
    small_llama: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "posix_fallocate", no_space)
    with pytest.raises(ConfigError, match="too full for the activations") as caught:
        small_llama.compress(tmp_path / "out", bits_per_weight=9)
    assert "is kept in" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_while_measuring_costs_no_finished_step(
    small_llama: Place, first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, curves = tmp_path / "first", tmp_path / "first.curves"
    said = rf"too full for the factors of .*; what was measured is kept in {curves}, and the same command goes on from there$"
    with monkeypatch.context() as patch:
        patch.setattr(factor_cache, "save_file", no_space)
        with pytest.raises(ConfigError, match=said):
            small_llama.compress(out, bits_per_weight=9)
    assert [path.name for path in tmp_path.iterdir()] == ["first.curves"]
    assert steps_done(curves) == 1
    assert not [path for path in curves.rglob(".*") if path.is_file()], "a half-written file stayed"
    with monkeypatch.context() as patch:
        patch.setattr(CalibrationPass, "forward", refuse)
        small_llama.compress(out, bits_per_weight=9)
    assert digest(out) == digest(first)
    assert digest(curves) == digest(first.with_name("first.curves"))


def test_a_disk_that_cannot_be_read_for_a_moment_costs_no_finished_step(
    small_llama: Place, first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, read = tmp_path / "first", os.preadv

    def fails_late(descriptor: int, buffers: Any, offset: int) -> int:
        if (tmp_path / "first.curves" / "factors").exists():
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(descriptor, buffers, offset)

    with monkeypatch.context() as patch:
        patch.setattr(tensor_reader.os, "preadv", fails_late)
        with pytest.raises(CheckpointError, match=r"Input/output error.*what was measured is kept in .*first.curves"):
            small_llama.compress(out, bits_per_weight=9)
    assert steps_done(tmp_path / "first.curves") >= 1
    small_llama.compress(out, bits_per_weight=9)
    assert digest(out) == digest(first)


def test_a_run_that_passed_its_memory_goes_on_under_a_larger_cap(
    small_llama: Place, first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, curves = tmp_path / "first", tmp_path / "first.curves"
    peaks = iter([1 << 20] * 8 + [3 << 30] * 1000)
    with monkeypatch.context() as patch:
        patch.setattr(memory_guard, "peak_memory", lambda: next(peaks))
        with pytest.raises(ConfigError, match=r"give it 3,136 MiB or more; what was measured is kept in .*first\.curves"):
            small_llama.compress(out, bits_per_weight=9, max_memory="2GB")
    done = steps_done(curves)
    assert done >= 1
    with pytest.raises(ConfigError, match="--max-memory 100 MiB is too little"):
        small_llama.compress(out, bits_per_weight=9, max_memory="100MB")
    assert steps_done(curves) == done, "an option that does not suit took the work of an earlier run"
    monkeypatch.setattr(memory_guard, "peak_memory", lambda: 3 << 30)
    monkeypatch.setattr(CalibrationPass, "forward", refuse)
    small_llama.compress(out, bits_per_weight=9, max_memory="4GB")
    assert digest(curves) == digest(first.with_name("first.curves"))
    assert {**digest(out), "plan.json": ""} == {**digest(first), "plan.json": ""}


def test_a_failure_of_the_probes_costs_no_matrix(
    small_llama: Place, first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "first"

    def fail(*_: object) -> None:
        raise ConfigError("the disk is too full")

    with monkeypatch.context() as patch:
        patch.setattr(HeldOut, "probes", fail)
        with pytest.raises(ConfigError, match=r"the disk is too full; what was measured is kept in .*the same command goes on"):
            small_llama.compress(out, bits_per_weight=9)
    monkeypatch.setattr(matrix_jobs, "solve_matrix", refuse)
    small_llama.compress(out, bits_per_weight=9)
    assert digest(out) == digest(first)


def test_a_plan_that_is_not_finite_in_the_race_leaves_the_curves_to_another_size(
    small_llama: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"formats": ["integer", "half"], "probes": "off"}

    def overflow(*_: object) -> None:
        raise NotFiniteError("the hidden state of variant optimum is infinite")

    with monkeypatch.context() as patch:
        patch.setattr(HeldOut, "race", overflow)
        with pytest.raises(NotFiniteError, match=r"is infinite; the curves are kept in .*, for this or another size"):
            small_llama.compress(tmp_path / "out", bits_per_weight=9, **settings)
        with pytest.raises(NotFiniteError, match=r"is infinite$"):
            small_llama.compress(tmp_path / "out", bits_per_weight=9, **settings)
    assert sorted(path.name for path in (tmp_path / "out.curves").iterdir()) == ["curves.json", "factors", "run.json"]
    monkeypatch.setattr(compress_curves, "measure_curves", refuse)
    assert small_llama.compress(tmp_path / "out", bits_per_weight=12, **settings).plan is not None


def test_a_disk_that_is_full_while_writing_leaves_the_curves_alone(
    small_llama: Place, measured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = digest(tmp_path / "out.curves")
    with monkeypatch.context() as patch:
        patch.setattr(tensor_files.TensorFiles, "write", no_space)
        with pytest.raises(ConfigError, match=r"cannot write .*out: No space left on device; make room"):
            small_llama.compress(measured, bits_per_weight=9)
    assert digest(tmp_path / "out.curves") == kept
    assert [path.name for path in tmp_path.iterdir()] == ["out.curves"]
    assert small_llama.compress(measured, bits_per_weight=9).plan is not None


def killed(run: Callable[[], object], owner: type, name: str, places: int) -> int:
    """Run in a process of its own that ends the hard way at so many calls of a method; its exit code, or minus the signal."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    left, method = places, getattr(owner, name)

    def counted(*given: Any, **named: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return method(*given, **named)

    try:
        setattr(owner, name, counted)
        run()
    finally:
        os._exit(0)


def test_a_run_that_is_killed_here_and_there_goes_on_to_the_same_bytes(small_llama: Place, first: Path, tmp_path: Path) -> None:
    out = tmp_path / "first"
    done: list[int] = []
    for places in (2, 9, 12):
        assert killed(lambda: small_llama.compress(out, bits_per_weight=9), MemoryGuard, "check", places) == -signal.SIGKILL
        journal = tmp_path / "first.curves" / "work" / "journal.json"
        done.append(json.loads(journal.read_text())["num_done"])
    assert 1 <= done[0] < done[1] < done[2], "no run went on where the one before was"
    assert killed(lambda: small_llama.compress(out, bits_per_weight=9), tensor_files.TensorFiles, "write", 5) == -signal.SIGKILL
    assert len(list(tmp_path.glob(".first.unfinished-*"))) == 1
    assert not out.exists()
    small_llama.compress(out, bits_per_weight=9)
    assert digest(out) == digest(first)
    assert digest(tmp_path / "first.curves") == digest(first.with_name("first.curves"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "first.curves"]


def test_a_run_that_is_interrupted_while_it_probes_or_writes_measures_no_curve_again(
    small_llama: Place, first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "first"
    for owner, name in ((HeldOut, "probes"), (HeldOut, "race"), (tensor_files.TensorFiles, "write")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, interrupted)
            if name != "probes":
                patch.setattr("layerlens.compressing.matrix_jobs.solve_matrix", interrupted)
            with pytest.raises(KeyboardInterrupt):
                small_llama.compress(out, bits_per_weight=9)
        assert [path.name for path in tmp_path.iterdir()] == ["first.curves"]
    started = time.time_ns()
    small_llama.compress(out, bits_per_weight=9)
    factors = (tmp_path / "first.curves" / "factors").iterdir()
    assert all(path.stat().st_mtime_ns < started for path in factors), "a matrix was solved again"
    assert digest(out) == digest(first)
