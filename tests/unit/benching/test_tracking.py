"""Results in MLflow: one run for each arm, task and seed, beside the results unless the user says where."""

from __future__ import annotations

from pathlib import Path

import pytest

from layerlens.artifacts.store import write_json
from layerlens.benching import tracking
from layerlens.errors import ConfigError
from tests.unit.benching.suites import bench, run


@pytest.mark.filterwarnings("ignore")
def test_every_run_is_logged_under_the_suites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    made = bench(runs=[run("uniform", 0, 0.75), run("full", 0, None)])
    write_json(tmp_path / "bench.json", made)
    tracking.track(made, ["mlflow"], tmp_path)
    client = mlflow.MlflowClient(tracking_uri=(tmp_path / "mlruns").as_uri())
    experiment = client.get_experiment_by_name("small")
    found = {one.info.run_name: one for one in client.search_runs([experiment.experiment_id])}
    assert set(found) == {"small", "tiny docs uniform seed 0", "tiny docs full seed 0"}
    ours, parent = found["tiny docs uniform seed 0"], found["small"]
    assert ours.data.metrics["accuracy"] == 0.75
    assert ours.data.params["arm"] == "uniform"
    assert ours.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert found["tiny docs full seed 0"].info.status == parent.info.status == "FAILED"
    assert [entry.path for entry in client.list_artifacts(parent.info.run_id)] == ["bench.json"]


def test_nothing_is_logged_unless_asked_for(tmp_path: Path) -> None:
    tracking.track(bench(), [], tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_tracker_that_is_not_installed_is_told_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="mlflow is not installed"):
        tracking.check_tracker(["mlflow"])
    tracking.check_tracker([])
