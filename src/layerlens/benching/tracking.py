"""A suite's results in MLflow: one run for the suite, and under it one for every arm, task and seed.

`tracked.json` keeps a hash of what was logged, so that a call that finds the same results logs nothing again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerlens.artifacts.bench import Bench, BenchRun
from layerlens.artifacts.store import sha256_of_json, write_json
from layerlens.errors import ConfigError

if TYPE_CHECKING:
    from mlflow import MlflowClient

MLFLOW = "mlflow"
#: Where runs go unless `MLFLOW_TRACKING_URI` says otherwise, in the suite's folder.
STORE_FOLDER = "mlruns"
#: In the suite's folder.
LOGGED_FILE = "tracked.json"
_URI = "MLFLOW_TRACKING_URI"


def check_tracker(report_to: Sequence[str]) -> None:
    """Raises:
    ConfigError: MLflow is asked for and not installed.
    """
    if MLFLOW in report_to and find_spec(MLFLOW) is None:
        raise ConfigError('report_to: mlflow is not installed; pip install "layerlens-plan[track]", or leave report_to out')


def track(bench: Bench, report_to: Sequence[str], root: Path) -> None:
    """Log a suite to MLflow where `report_to` names it, unless these very results are there already.

    The store is that of `MLFLOW_TRACKING_URI`, else a folder of files beside the results. What differs from what was logged, as
    where runs that had died came to an end, is logged whole, as another run for the suite.

    Raises:
        ConfigError: MLflow fails; the next call logs.
    """
    if MLFLOW not in report_to:
        return
    uri = os.environ.get(_URI) or (root / STORE_FOLDER).resolve().as_uri()
    # The store is part of it, and stands there as a hash alone: its address may hold a password.
    logged = {"sha256": sha256_of_json({"store": uri, "runs": [run.model_dump(mode="json") for run in bench.runs]})}
    if _was_logged(root) == logged:
        return
    # Its own store of files is what needs no database; MLflow asks to be told that this is meant.
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient

    try:
        client = MlflowClient(tracking_uri=uri)
        found = client.get_experiment_by_name(bench.suite)
        experiment = client.create_experiment(bench.suite) if found is None else found.experiment_id
        parent = client.create_run(experiment, run_name=bench.suite, tags={"command": bench.command})
        for run in bench.runs:
            _log(client, experiment, parent.info.run_id, run)
        client.log_artifact(parent.info.run_id, str(root / "bench.json"))
        client.set_terminated(parent.info.run_id, "FAILED" if bench.failed else "FINISHED")
    except Exception as error:
        # Each kind of store raises its own: MLflow's, the database's, the network's, the file system's.
        raise ConfigError(f"report_to: mlflow failed ({' '.join(str(error).split())}); results are in {root}") from error
    write_json(root / LOGGED_FILE, logged)


def _was_logged(root: Path) -> Any:
    try:
        return json.loads((root / LOGGED_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _log(client: MlflowClient, experiment: str, parent: str, run: BenchRun) -> None:
    tags = {"mlflow.parentRunId": parent}
    if run.error is not None:
        tags["error"] = run.error
    name = f"{run.model} {run.task} {run.arm} seed {run.seed}"
    made = client.create_run(experiment, run_name=name, tags=tags).info.run_id
    for key in ("model", "task", "arm", "seed", "learning_rate", "steps", "trainable_params", "head_params"):
        client.log_param(made, key, getattr(run, key))
    for key, value in run.metrics.items():
        client.log_metric(made, key, value)
    client.log_metric(made, "train_seconds", run.train_seconds)
    client.log_metric(made, "peak_memory_bytes", float(run.peak_memory_bytes))
    client.set_terminated(made, "FINISHED" if run.error is None else "FAILED")
