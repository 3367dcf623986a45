"""Jobs on Ray: on a running cluster where there is one, else on this machine for as long as the jobs last.

A job's files must be seen by every machine of the cluster under the same path, as on a shared disk.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch

from layerlens.errors import ConfigError


class RayJobs:
    """Runs a function of a job in Ray's processes.

    Args:
        processes: How many, where Ray is started for these jobs; a running cluster has as many as it has.
        work: What to run, importable there.

    Raises:
        ConfigError: Ray is not installed, or does not start.
    """

    def __init__(self, processes: int, work: Callable[[str], str]) -> None:
        if find_spec("ray") is None:
            raise ConfigError("--engine ray needs Ray, which is not installed; install ray, or leave the engine local")
        # Nothing is told to Ray's makers, unless the person who runs this says so.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import ray

        self._ray = ray
        self._is_mine = not ray.is_initialized()
        if self._is_mine:
            self._start(processes)
        self._work, self._num_threads = work, torch.get_num_threads()
        # One more try for a machine that was lost; a job that is too large for its machine ends there every time.
        self._remote = ray.remote(num_cpus=1, max_retries=1)(_run)

    def submit(self, job: str) -> Callable[[], str]:
        """Start a job; what is returned waits for its result, and raises what the job raised."""
        reference = self._remote.remote(self._work, self._num_threads, job)

        def result() -> str:
            try:
                return str(self._ray.get(reference))
            except self._ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, Exception):
                    # Ray's own error is a whole report of many lines.
                    raise error.cause from error
                raise
            except self._ray.exceptions.RayError as error:
                raise ConfigError(f"Ray lost a job ({_first_line(error)}); run the same command again to go on") from error

        return result

    def close(self) -> None:
        """Stop what was started for these jobs."""
        if self._is_mine:
            self._ray.shutdown()

    def _start(self, processes: int) -> None:
        quiet: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
        try:
            try:
                self._ray.init(address="auto", **quiet)
            except ConnectionError:
                self._ray.init(address="local", num_cpus=processes, **quiet)
        except (OSError, RuntimeError, ValueError) as error:
            raise ConfigError(f"Ray does not start ({_first_line(error)}); leave the engine local") from error


def _run(work: Callable[[str], str], num_threads: int, job: str) -> str:
    """What Ray's processes run; results depend on the number of threads in their last bits."""
    torch.set_num_threads(num_threads)
    return work(job)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
