"""Solving matrices here, in several processes, or on Ray: one job for each matrix, with the same bytes out.

A job for another process lies on disk with all it needs, so that nothing large goes through a pipe:

    jobs/LAYER.safetensors   weight, Grams, thin roots      ──► solve ──► factors/LAYER.safetensors, and the options
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from layerlens.artifacts.compression import MatrixCurve, Option
from layerlens.compressing.factor_cache import FactorCache, read_tensors, write_tensors
from layerlens.compressing.matrices import Matrix
from layerlens.compressing.matrix_curve import matrix_curve
from layerlens.compressing.option_grid import OptionGrid
from layerlens.compressing.options import Solved, solve_matrix
from layerlens.compressing.ray_jobs import RayJobs
from layerlens.compressing.sensitivity import Sensitivity, sensitivity_of, sensitivity_tensors
from layerlens.errors import CheckpointError, ConfigError
from layerlens.orphan import leave_with

#: Jobs of one worker that may wait on disk.
_WAITING = 2


class MatrixJobs:
    """Solves matrices, in the order they come or several at once.

    Args:
        folder: The run's curves folder, for the factors.
        work: Where jobs for other processes lie.
        grid: Which options there are.
        processes: How many; 1 to solve in this one.
        engine: `local`, or `ray`.

    Raises:
        ConfigError: Ray is asked for and not installed; a process was ended from outside.
    """

    def __init__(self, folder: Path, work: Path, grid: OptionGrid, *, processes: int = 1, engine: str = "local") -> None:
        self._work, self._grid = work / "jobs", grid
        self._cache = FactorCache(folder)
        self._pending: list[tuple[Matrix, str, Path, Callable[[], str]]] = []
        self._limit = _WAITING * processes
        self._pool: _Processes | RayJobs | None = None
        run = partial(solve_job, folder=str(folder.resolve()), grid=asdict(grid))
        if engine == "ray":
            self._pool = RayJobs(processes, run)
        elif processes > 1:
            self._pool = _Processes(processes, run)
        self._done: dict[str, MatrixCurve] = {}

    def add(
        self, matrix: Matrix, weight: Float[Tensor, "out_features in_features"], sensitivity: Sensitivity, input_group: str
    ) -> None:
        """Solve a matrix, or let another process do so.

        Args:
            matrix: Which.
            weight: In float32.
            sensitivity: What its errors cost.
            input_group: First layer that was seen to read the same input.
        """
        if self._pool is None:
            solved = solve_matrix(weight, sensitivity, matrix.kept_element_bytes, self._grid)
            self._cache.write(matrix.layer, solved.tensors)
            self._done[matrix.layer] = matrix_curve(matrix, input_group, solved.options, solved.spectrum_rank)
            return
        path = self._work / f"{matrix.layer}.safetensors"
        write_tensors(path, {"weight": weight, **sensitivity_tensors(sensitivity)})
        job = {"path": str(path.resolve()), "layer": matrix.layer, "kept_element_bytes": matrix.kept_element_bytes}
        self._pending.append((matrix, input_group, path, self._pool.submit(json.dumps(job))))
        if len(self._pending) >= self._limit:
            self._take()

    def finish(self) -> list[MatrixCurve]:
        """The curves of all matrices that came since the last call, in the order of their names."""
        while self._pending:
            self._take()
        done = [self._done[layer] for layer in sorted(self._done)]
        self._done.clear()
        return done

    def __enter__(self) -> MatrixJobs:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._pool is not None:
            self._pool.close()

    def _take(self) -> None:
        matrix, input_group, path, wait = self._pending.pop(0)
        found = json.loads(wait())
        # Not before: a process that is lost between its last write and its answer leaves the job to another try.
        path.unlink(missing_ok=True)
        options = [Option.model_validate(option) for option in found["options"]]
        self._done[matrix.layer] = matrix_curve(matrix, input_group, options, found["spectrum_rank"])


class _Processes:
    """Runs a function of a job in processes of this machine."""

    def __init__(self, processes: int, work: Callable[[str], str]) -> None:
        self._work = work
        self._pool = ProcessPoolExecutor(
            processes,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_begin,
            initargs=(os.getpid(), torch.get_num_threads()),
        )

    def submit(self, job: str) -> Callable[[], str]:
        """Start a job; what is returned waits for its result, and raises what the job raised."""
        try:
            future = self._pool.submit(self._work, job)
        except BrokenProcessPool as error:
            raise _ended() from error

        def result() -> str:
            try:
                return future.result()
            except BrokenProcessPool as error:
                raise _ended() from error

        return result

    def close(self) -> None:
        """Wait for jobs that run, and drop those that wait."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def _begin(parent: int, num_threads: int) -> None:
    """What a process of the pool does first; nothing tells it when whoever has the pool is killed: it would wait on."""
    leave_with(parent)
    torch.set_num_threads(num_threads)


def _ended() -> ConfigError:
    return ConfigError(
        "a process that solved matrices was ended from outside, as when memory is short; run the same command again to go on, "
        "with fewer --processes"
    )


def solve_job(job: str, folder: str, grid: dict[str, Any]) -> str:
    """Solve a matrix whose job lies on disk, and leave the job there; what other processes run.

    Args:
        job: Path, layer and the checkpoint's bytes of a number, as JSON.
        folder: The run's curves folder.
        grid: Fields of `OptionGrid`.

    Returns:
        Options and effective rank, as JSON.

    Raises:
        ConfigError: the job cannot be read, or the factors cannot be written.
    """
    values = json.loads(job)
    tensors = _job_tensors(Path(values["path"]))
    weight = tensors.pop("weight")
    solved: Solved = solve_matrix(weight, sensitivity_of(tensors), values["kept_element_bytes"], OptionGrid(**grid))
    FactorCache(Path(folder)).write(values["layer"], solved.tensors)
    options = [option.model_dump(mode="json") for option in solved.options]
    return json.dumps({"options": options, "spectrum_rank": solved.spectrum_rank})


def _job_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return read_tensors(path)
    except CheckpointError as error:
        # No fault of the checkpoint, which would take all that was measured with it.
        reason = str(error).partition(";")[0]
        raise ConfigError(
            f"a matrix's job was not found as it was left ({reason}); run the same command again to go on"
        ) from error
