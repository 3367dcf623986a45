"""Who runs a suite's jobs: processes of this machine, Ray, or this process itself."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from layerlens.benching.job import Job, done_record
from layerlens.benching.local_processes import Ended, Launcher, run_here, run_in_processes
from layerlens.benching.ray_processes import check_ray, run_on_ray
from layerlens.config.bench import BenchConfig
from layerlens.progress import Progress

OwnerT = TypeVar("OwnerT")


@dataclass(frozen=True)
class JobRunner:
    """Runs what is missing of a stage.

    Attributes:
        launcher: How a job becomes a process.
        processes: How many at a time; 0 runs jobs in this process by `work`.
        engine: `local`, or `ray`.
        work: Does a job here and leaves its record.
    """

    launcher: Launcher
    processes: int
    engine: str
    work: Callable[[Path, Job], None]

    @classmethod
    def of(cls, root: Path, config: BenchConfig, threads: int, module: str, work: Callable[[Path, Job], None]) -> JobRunner:
        """Check that the engine is there, and say how jobs start: `python -m MODULE ROOT JOB.json PARENT PROCESSES`.

        Raises:
            ConfigError: the engine is Ray, which is not installed.
        """
        if config.engine == "ray":
            check_ray()
        launcher = Launcher(root.resolve(), (sys.executable, "-m", module), threads, Path.cwd())
        return cls(launcher, config.processes, config.engine, work)

    def run(self, jobs: Sequence[tuple[OwnerT, Job]], title: str, progress: Progress) -> Iterator[tuple[OwnerT, Job, str | None]]:
        """Run the jobs that no record says are done.

        Args:
            jobs: With whoever they belong to; one that stands twice is run once.
            title: Of the stage.
            progress: Shows how many have ended, and the time left.

        Yields:
            Owner, job, and why it died or None, as each ends.
        """
        owners = {job.name: owner for owner, job in jobs}
        left = list({job.name: job for _, job in jobs if done_record(self.launcher.root, job) is None}.values())
        if len(left) < len(jobs):
            progress.note(f"{title}: {len(jobs) - len(left)} of {len(jobs)} are done already")
        if not left:
            return
        for ended in progress.track(self._ended(left), title, len(left)):
            yield owners[ended.job.name], ended.job, ended.error

    def _ended(self, jobs: Sequence[Job]) -> Iterator[Ended]:
        if self.engine == "ray":
            return run_on_ray(jobs, self.launcher, processes=max(1, self.processes))
        if self.processes == 0:
            return run_here(jobs, self.launcher.root, self.work)
        return run_in_processes(jobs, self.launcher, processes=self.processes)
