"""Jobs in processes: results come from records, and a death stays its own."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from layerlens.artifacts.store import write_json
from layerlens.benching.job import DONE_FILE, LOG_FILE, Done, Failed, Job, done_record, record_folder
from layerlens.benching.local_processes import Ended, Launcher, run_here, run_in_processes
from tests.unit.benching.suites import job

#: A worker without torch: the job's config says what becomes of it.
WORKER = """
import json, os, pathlib, signal, sys, time
root, path = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
job = json.loads(path.read_text())
print("threads", os.environ["OMP_NUM_THREADS"], "in", os.getcwd(), "one of", sys.argv[4], flush=True)
(path.parent / "started").write_text(str(os.getpid()))
fate = job["config"].get("fate")
if fate == "killed": os.kill(os.getpid(), signal.SIGKILL)
if fate == "fault":
    (path.parent / "failed.json").write_text(json.dumps({"error": "the data is gone"})); sys.exit(1)
if fate == "mute":
    print("ValueError: the last word")
    sys.exit(3)
time.sleep(job["config"].get("seconds", 0))
(path.parent / "done.json").write_text(json.dumps({"job": job, "seconds": 1.0}))
"""


@pytest.fixture
def launcher(tmp_path: Path) -> Launcher:
    script = tmp_path / "worker.py"
    script.write_text(WORKER, encoding="utf-8")
    return Launcher(tmp_path / "suite", (sys.executable, str(script)), 1, tmp_path)


def errors(found: list[Ended]) -> dict[str, str | None]:
    return {ended.job.name: ended.error for ended in found}


def test_one_that_dies_stops_no_other_and_its_end_is_told(launcher: Launcher) -> None:
    jobs = [job(fate, config={"fate": fate}) for fate in ("killed", "fault", "mute", "fine", "well")]
    found = errors(list(run_in_processes(jobs, launcher, processes=2)))
    assert found["killed"] is not None
    assert found["killed"].startswith(f"killed by signal {int(signal.SIGKILL)}; see ")
    assert found["fault"] == "the data is gone"
    assert found["mute"] is not None
    assert "ended with code 3 (ValueError: the last word); see " in found["mute"]
    assert (found["fine"], found["well"]) == (None, None)


def test_a_process_gets_its_threads_its_folder_its_number_at_a_time_and_a_log(launcher: Launcher) -> None:
    list(run_in_processes([job("one")], launcher, processes=3))
    log = (record_folder(launcher.root, job("one")) / LOG_FILE).read_text()
    assert log == f"threads 1 in {launcher.folder} one of 3\n"


def test_no_more_run_at_a_time_than_asked(launcher: Launcher) -> None:
    jobs = [job(f"j{number}", config={"seconds": 0.3}) for number in range(3)]
    started = [record_folder(launcher.root, one) / "started" for one in jobs]
    seen = [sum(path.exists() for path in started) for _ in run_in_processes(jobs, launcher, processes=1)]
    assert seen == [1, 2, 3]


def test_what_still_runs_is_stopped_when_the_caller_leaves(launcher: Launcher) -> None:
    jobs = [job("quick"), job("slow", config={"seconds": 60})]
    ended = run_in_processes(jobs, launcher, processes=2)
    assert next(iter(ended)).job.name == "quick"
    started = record_folder(launcher.root, jobs[1]) / "started"
    while not (started.exists() and started.read_text()):
        time.sleep(0.01)
    ended.close()  # type: ignore[attr-defined]
    with pytest.raises(ProcessLookupError):
        os.kill(int(started.read_text()), 0)


def test_a_record_of_another_config_is_not_this_jobs(tmp_path: Path) -> None:
    made = job("one", config={"seed": 0})
    write_json(record_folder(tmp_path, made) / DONE_FILE, Done(job=made, seconds=1.0))
    assert done_record(tmp_path, made) is not None
    assert done_record(tmp_path, job("one", config={"seed": 1})) is None
    (record_folder(tmp_path, made) / DONE_FILE).write_text("{", encoding="utf-8")
    assert done_record(tmp_path, made) is None


def test_an_old_failure_is_forgotten_when_a_job_starts_again(launcher: Launcher) -> None:
    died = job("one", config={"fate": "fault"})
    list(run_in_processes([died], launcher, processes=1))
    again = job("one", config={"fate": "killed"})
    (found,) = run_in_processes([again], launcher, processes=1)
    assert found.error is not None
    assert "signal" in found.error


def test_jobs_run_here_leave_the_same_records(tmp_path: Path) -> None:
    def work(root: Path, one: Job) -> None:
        folder = record_folder(root, one)
        assert json.loads((folder / "job.json").read_text())["name"] == one.name
        if one.name == "bad":
            write_json(folder / "failed.json", Failed(error="no luck"))
        else:
            write_json(folder / DONE_FILE, Done(job=one, seconds=1.0))

    assert errors(list(run_here([job("bad"), job("good")], tmp_path, work))) == {"bad": "no luck", "good": None}
