"""The keys that other programs may rely on, in the files as they are written; more may be added, none may go."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from layerlens.artifacts.plan import save_plan
from layerlens.artifacts.store import write_json
from layerlens.artifacts.validation import Check, Validation, Verdict
from layerlens.budget.compression import plan_compression
from layerlens.config import CompressConfig
from layerlens.words import BudgetName, Frozen
from tests.unit.budget import small_curves
from tests.unit.reporting import artifacts

PROVENANCE = {"command", "versions", "seed"}


def written(path: Path, content: Frozen) -> dict[str, Any]:
    write_json(path, content)
    return dict(json.loads(path.read_text(encoding="utf-8")))


def test_names_of_budgets() -> None:
    assert {*BudgetName} == {"trainable_params", "flops", "vram_bytes", "latency_ms", "time_ratio", "size_bytes"}


def test_a_raced_plan(tmp_path: Path) -> None:
    save_plan(tmp_path / "plan.json", artifacts.raced_plan())
    plan = json.loads((tmp_path / "plan.json").read_text(encoding="utf-8"))
    assert {"schema_version", "model", "budgets", "solver", "chosen", "race", "layers", "metadata"} <= set(plan)
    assert {"id", "hash"} <= set(plan["model"])
    assert all({"limit", "spent"} <= set(budget) for budget in plan["budgets"].values())
    assert {"status", "value", "bound", "gap", "uniform_value"} <= set(plan["solver"])
    assert {"name", "value"} <= set(plan["chosen"])
    assert {"candidates", "winner", "margin", "interval", "share_of_tuning"} <= set(plan["race"])
    assert {"name", "held_out_loss", "steps", "seeds"} <= set(plan["race"]["candidates"][0])
    keys = {"layer", "block", "role", "method", "size", "utility", "value", "params", "flops", "vram_bytes", "latency_ms", "why"}
    assert keys <= set(plan["layers"][0])
    assert {"gradient_norms", "fisher_traces"} | PROVENANCE <= set(plan["metadata"])


def test_a_compression_plan(tmp_path: Path) -> None:
    plan = written(
        tmp_path / "plan.json", plan_compression(small_curves.small(), CompressConfig(bits_per_weight=5), command="c").plan
    )
    assert {"schema_version", "model", "budgets", "solver", "chosen", "bits_per_weight", "layers", "metadata"} <= set(plan)
    assert set(plan["budgets"]["size_bytes"]) == {"limit", "spent"}
    assert {"layer", "block", "role", "format", "rank", "bits", "size_bytes", "predicted_loss", "why"} <= set(plan["layers"][0])
    assert set(plan["metadata"]) >= PROVENANCE


def test_an_evaluation_of_tuning(tmp_path: Path) -> None:
    arm = written(tmp_path / "evaluation.json", artifacts.evaluation())["arms"][0]
    assert {"name", "metrics", "trainable_params", "train_seconds", "peak_memory_bytes", "seed"} <= set(arm)


def test_a_validation(tmp_path: Path) -> None:
    check = Check(name="sums", value=None, target="exact", verdict=Verdict.PASS, meaning="they add up")
    [found] = written(tmp_path / "validation.json", Validation(plan="p", checks=[check]))["checks"]
    assert {"name", "value", "target", "verdict"} <= set(found)
