"""Jobs in fresh processes, several at a time: one that dies takes nothing with it.

A run gets a process of its own rather than a place in a pool, because a killed worker breaks a pool, and because memory that
an earlier run left behind would count as the next one's.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from layerlens.benching.job import LOG_FILE, Job, done_record, failure_of, write_job

_POLL_SECONDS = 0.05
_PATIENCE_SECONDS = 10.0
#: Thread pools that would each take all cores.
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Ended:
    """A job that has ended; `error` says why where it died."""

    job: Job
    error: str | None


@dataclass(frozen=True)
class Launcher:
    """How a job becomes a process: `command`, the suite's folder, the path of `job.json`, this process's number, jobs at a time.

    Attributes:
        root: The suite's folder, absolute.
        command: What to start.
        threads: Of each pool of threads in the process.
        folder: Where the process starts, so that relative paths of data mean the same there.
    """

    root: Path
    command: tuple[str, ...]
    threads: int
    folder: Path

    def run(self, job: Job, processes: int) -> int:
        """Do a job in a process and wait for it.

        Args:
            job: Which.
            processes: How many go on at a time, which its record keeps.

        Returns:
            The exit code, negative for a signal.
        """
        return self.start(job, processes).wait()

    def start(self, job: Job, processes: int) -> subprocess.Popen[bytes]:
        """Start a job's process as one of so many; what it prints goes to its log."""
        path = write_job(self.root, job)
        environment = os.environ | dict.fromkeys(_THREADS, str(self.threads))
        with (path.parent / LOG_FILE).open("wb") as log:
            return subprocess.Popen(
                [*self.command, str(self.root), str(path), str(os.getpid()), str(processes)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=self.folder,
            )

    def ended(self, job: Job, exit_code: int) -> Ended:
        """What a job's end came to: its record decides, whatever the exit code."""
        is_done = done_record(self.root, job) is not None
        return Ended(job, None if is_done else failure_of(self.root, job, exit_code))


def run_in_processes(jobs: Sequence[Job], launcher: Launcher, *, processes: int) -> Iterator[Ended]:
    """Run jobs, so many at a time, and yield each as it ends; what still runs is stopped when the caller leaves."""
    waiting = list(jobs)
    live: dict[subprocess.Popen[bytes], Job] = {}
    try:
        while waiting or live:
            while waiting and len(live) < processes:
                job = waiting.pop(0)
                live[launcher.start(job, processes)] = job
            over = [process for process in live if process.poll() is not None]
            for process in over:
                yield launcher.ended(live.pop(process), process.returncode)
            if not over:
                time.sleep(_POLL_SECONDS)
    finally:
        for process in live:
            process.terminate()
        for process in live:
            try:
                process.wait(_PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def run_here(jobs: Sequence[Job], root: Path, work: Callable[[Path, Job], None]) -> Iterator[Ended]:
    """Run jobs one after the other in this process; `work` leaves the record, also of a death."""
    for job in jobs:
        write_job(root, job)
        work(root, job)
        yield Ended(job, None if done_record(root, job) is not None else failure_of(root, job, 1))
