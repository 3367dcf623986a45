"""Matrices solved here and on Ray: the same bytes, and one line when a job fails or its process ends."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from layerlens.artifacts.compression import MatrixCurve
from layerlens.compressing import ray_jobs
from layerlens.compressing.factor_cache import write_tensors
from layerlens.compressing.matrices import Matrix, Place
from layerlens.compressing.matrix_jobs import MatrixJobs, _Processes, solve_job
from layerlens.compressing.option_grid import OptionGrid
from layerlens.compressing.ray_jobs import RayJobs
from layerlens.compressing.sensitivity import PriceTerm, Sensitivity, sensitivity_tensors
from layerlens.errors import ConfigError
from layerlens.words import Role

GRID = OptionGrid(group_size=32, widths=(4, 3), factor_bits=(8,), corrected_widths=(3,))
#: More matrices than two processes may keep waiting.
COUNT = 6


def solved(folder: Path, *, processes: int = 1, engine: str = "local") -> list[MatrixCurve]:
    """The curves of some small matrices; their factors lie in the folder."""
    with MatrixJobs(folder / "out.curves", folder / "work", GRID, processes=processes, engine=engine) as jobs:
        for number in range(COUNT):
            torch.manual_seed(number)
            rows, features = 64, 32 + 32 * (number % 2)
            left, right = torch.randn(200, rows) / 20, torch.randn(200, features) / 20
            sensitivity = Sensitivity(right.T @ right, left.T @ left, (PriceTerm(left, right),), inputs=right)
            layer = f"layer.{number}"
            matrix = Matrix(layer, Place.BLOCK, 0, Role.OTHER, rows, features, f"{layer}.weight", 4, layer)
            jobs.add(matrix, torch.randn(rows, features), sensitivity, layer)
        return jobs.finish()


def factors(folder: Path) -> dict[str, str]:
    files = sorted((folder / "out.curves" / "factors").iterdir())
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[MatrixCurve], dict[str, str]]:
    """What solving in this process gives."""
    folder = tmp_path_factory.mktemp("here")
    return solved(folder), factors(folder)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Ray, started once for all tests that need it."""
    pytest.importorskip("ray", reason="ray is not installed: the engine cannot be tested")
    jobs = RayJobs(1, str.upper)
    yield
    jobs.close()


def test_ray_leaves_the_same_bytes(tmp_path: Path, here: tuple[list[MatrixCurve], dict[str, str]], cluster: None) -> None:
    assert (solved(tmp_path, engine="ray"), factors(tmp_path)) == here
    assert list((tmp_path / "work" / "jobs").iterdir()) == []


def test_a_job_that_fails_on_ray_is_told_as_it_would_be_here(tmp_path: Path, cluster: None) -> None:
    (tmp_path / "out.curves").mkdir()
    (tmp_path / "out.curves" / "factors").write_text("a file where a folder should be")
    said = []
    for engine in ("local", "ray"):
        with pytest.raises(ConfigError, match=r"cannot write .*layer\.0\.safetensors") as caught:
            solved(tmp_path, engine=engine)
        said.append(str(caught.value))
    assert said[0] == said[1]


def test_ray_that_was_started_elsewhere_is_left_running(cluster: None) -> None:
    import ray

    with_others = RayJobs(1, str.upper)
    assert with_others.submit("done")() == "DONE"
    with_others.close()
    assert ray.is_initialized()


def test_a_process_that_is_ended_from_outside_is_one_line(cluster: None) -> None:
    job = "import os; os._exit(9)"
    jobs = _Processes(1, exec)
    with pytest.raises(
        ConfigError, match=r"was ended from outside.*run the same command again to go on, with fewer --processes$"
    ):
        jobs.submit(job)()
    jobs.close()
    with pytest.raises(ConfigError, match=r"Ray lost a job \(.*\); run the same command again to go on$") as caught:
        RayJobs(1, exec).submit(job)()
    assert "\n" not in str(caught.value)


def test_a_job_that_cannot_be_read_is_no_fault_of_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "layer.0.safetensors"
    job = json.dumps({"path": str(path), "layer": "layer.0", "kept_element_bytes": 4})
    with pytest.raises(
        ConfigError, match=r"layer\.0\.safetensors: No such file or directory\); run the same command again to go on$"
    ):
        solve_job(job, str(tmp_path), asdict(GRID))


def test_a_job_may_be_tried_twice(tmp_path: Path) -> None:
    path = tmp_path / "layer.0.safetensors"
    sensitivity = Sensitivity(torch.eye(32), torch.eye(64), (PriceTerm(torch.eye(64), torch.eye(64, 32)),), inputs=torch.eye(32))
    write_tensors(path, {"weight": torch.ones(64, 32), **sensitivity_tensors(sensitivity)})
    job = json.dumps({"path": str(path), "layer": "layer.0", "kept_element_bytes": 4})
    assert solve_job(job, str(tmp_path), asdict(GRID)) == solve_job(job, str(tmp_path), asdict(GRID))


def test_processes_leave_with_the_one_that_is_killed() -> None:
    """They have its output open, so it ends when the last of them has; an orphan would end it by its alarm, long after."""
    code = """
import os, signal
from layerlens.compressing.matrix_jobs import _Processes
jobs = _Processes(1, eval)
jobs.submit("__import__('signal').alarm(120)")()
print("solved", flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as killed:
        assert killed.wait() == -signal.SIGKILL
        assert killed.communicate(timeout=60) == ("solved\n", None)


def test_ray_that_is_not_installed_is_told_before_anything_is_solved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_jobs, "find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match="--engine ray needs Ray, which is not installed; install ray, or leave the engine local"
    ):
        solved(tmp_path, engine="ray")
    assert list(tmp_path.iterdir()) == []
