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


@pytest.mark.filterwarnings("ignore")
def test_the_same_results_are_logged_once_and_others_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    died, whole = bench(runs=[run("full", 0, None)]), bench(runs=[run("full", 0, 0.5)])
    write_json(tmp_path / "bench.json", whole)
    for made in (died, died.model_copy(update={"command": "another call"}), whole, whole):
        tracking.track(made, ["mlflow"], tmp_path)
    client = mlflow.MlflowClient(tracking_uri=(tmp_path / "mlruns").as_uri())
    experiment = client.get_experiment_by_name("small")
    names = [one.info.run_name for one in client.search_runs([experiment.experiment_id])]
    assert names.count("small") == names.count("tiny docs full seed 0") == 2


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("uri", ["nope://x", "sqlite:////proc/none/x.db", "file:///proc/none"])
def test_a_store_that_cannot_be_is_told_on_one_line_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    write_json(tmp_path / "bench.json", bench())
    for _ in range(2):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        with pytest.raises(ConfigError, match="report_to: mlflow failed") as caught:
            tracking.track(bench(), ["mlflow"], tmp_path)
        assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["bench.json"]


def test_nothing_is_logged_unless_asked_for(tmp_path: Path) -> None:
    tracking.track(bench(), [], tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_tracker_that_is_not_installed_is_told_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="mlflow is not installed"):
        tracking.check_tracker(["mlflow"])
    tracking.check_tracker([])
