"""Profile and plan on real trained models and real data, where ../shared is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.functional.conftest import Run


@pytest.mark.parametrize(
    ("model", "data", "more", "kind"),
    [
        ("models/stories260k", "data/tinyshakespeare/input.txt", ("--max-length", 32), "causal-lm"),
        ("models/deit-tiny", "data/cifar10/small.npz", (), "image-classification"),
    ],
)
def test_a_trained_model_is_profiled_and_planned(
    run: Run, shared: Path, tmp_path: Path, model: str, data: str, more: tuple[object, ...], kind: str
) -> None:
    sizes = ("--num-samples", 12, "--batch-size", 6, "--head-samples", 12, "--proxy", "off")
    profiled = run("profile", shared / model, "--data", shared / data, "--out", tmp_path / "profile", *sizes, *more)
    assert profiled.code == 0, profiled.err
    planned = run("plan", tmp_path / "profile", "--max-trainable-params", 20_000, "--out", tmp_path / "plan.json")
    assert planned.code == 0, planned.err
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert plan["task"]["kind"] == kind
    assert 0.7 * 20_000 <= sum(layer["params"] for layer in plan["layers"]) <= 20_000 or plan["metadata"]["notes"]
    assert run("validate", tmp_path / "plan.json").code == 0


def test_minilm_on_a_sentence_pair_task_is_profiled_and_planned(run: Run, shared: Path, minilm: Path, tmp_path: Path) -> None:
    data = shared / "data" / "mrpc" / "train.tsv"
    sizes = ("--num-samples", 24, "--batch-size", 8, "--head-samples", 32, "--proxy", "off", "--max-length", 48)
    profiled = run("profile", minilm, "--data", data, "--out", tmp_path / "profile", *sizes)
    assert profiled.code == 0, profiled.err
    assert run("plan", tmp_path / "profile", "--max-trainable-params", 50_000, "--out", tmp_path / "plan.json").code == 0
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert plan["task"]["kind"] == "pair-classification"
    assert len(plan["layers"]) == 36
    assert plan["head"] == ["bert.pooler", "classifier"]
