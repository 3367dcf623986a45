"""Jobs on Ray end as they do in processes of this machine; slow, since Ray takes seconds to start."""

from __future__ import annotations

import os

import pytest

from layerlens.benching import ray_processes
from layerlens.benching.local_processes import Launcher
from layerlens.benching.ray_processes import check_ray, run_on_ray
from layerlens.errors import ConfigError
from tests.unit.benching.suites import job
from tests.unit.benching.test_local_processes import errors, launcher  # noqa: F401


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_on_ray_one_that_dies_stops_no_other(launcher: Launcher) -> None:  # noqa: F811
    pytest.importorskip("ray")
    jobs = [job(fate, config={"fate": fate}) for fate in ("killed", "fault", "fine")]
    found = errors(list(run_on_ray(jobs, launcher, processes=2)))
    assert found["killed"] is not None
    assert "killed by signal 9" in found["killed"]
    assert (found["fault"], found["fine"]) == ("the data is gone", None)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_jobs_on_ray_have_the_priority_of_who_starts_them() -> None:
    ray = pytest.importorskip("ray")
    ray_processes._start(ray, 1)
    try:
        assert ray.get(ray.remote(lambda: os.nice(0)).remote()) == os.nice(0)
    finally:
        ray.shutdown()


def test_ray_that_is_not_installed_is_told_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_processes, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="--engine ray needs Ray, which is not installed"):
        check_ray()
