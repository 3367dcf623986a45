"""Jobs as tasks of Ray, each in a process of its own: on a running cluster where there is one, else on this machine.

The suite's folder and its data must be seen by every machine of the cluster under the same path, as on a shared disk.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import Any

from layerlens.benching.job import Job
from layerlens.benching.local_processes import Ended, Launcher
from layerlens.errors import ConfigError


def check_ray() -> None:
    """Raises:
    ConfigError: Ray is not installed.
    """
    if find_spec("ray") is None:
        raise ConfigError("--engine ray needs Ray, which is not installed; install ray, or leave the engine local")


def run_on_ray(jobs: Sequence[Job], launcher: Launcher, *, processes: int) -> Iterator[Ended]:
    """Run jobs as Ray tasks and yield each as it ends; what still runs is stopped when the caller leaves.

    Args:
        jobs: What to run.
        launcher: How a job becomes a process.
        processes: How many at a time, where Ray is started for these jobs; a running cluster has as many as it has. GPUs are
            shared out evenly between as many.

    Raises:
        ConfigError: Ray is not installed, or does not start.
    """
    check_ray()
    # Nothing is told to Ray's makers, unless the person who runs this says so.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    is_mine = not ray.is_initialized()
    if is_mine:
        _start(ray, processes)
    pending: dict[Any, Job] = {}
    try:
        gpus = min(1.0, ray.cluster_resources().get("GPU", 0.0) / processes)
        # A run that died is told, not tried again behind the user's back.
        remote = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=0)(_work)
        pending = {remote.remote(launcher, job, processes): job for job in jobs}
        while pending:
            (ready,), _ = ray.wait(list(pending), num_returns=1)
            job = pending.pop(ready)
            yield launcher.ended(job, _exit_code(ray, ready))
    finally:
        for reference in pending:
            ray.cancel(reference, force=True)
        if is_mine:
            ray.shutdown()


def _work(launcher: Launcher, job: Job, processes: int) -> int:
    return launcher.run(job, processes)


def _exit_code(ray: Any, reference: Any) -> int:
    try:
        return int(ray.get(reference))
    except ray.exceptions.RayError:
        return 1  # Ray's own process died, and the job's with it


def _start(ray: Any, processes: int) -> None:
    # Ray gives its workers a lower priority than all else has; what else goes on would be in the seconds of every run.
    os.environ.setdefault("RAY_worker_niceness", "0")
    quiet: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
    try:
        try:
            ray.init(address="auto", **quiet)
        except ConnectionError:
            ray.init(address="local", num_cpus=processes, **quiet)
    except (OSError, RuntimeError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"Ray does not start ({reason}); leave the engine local") from error
