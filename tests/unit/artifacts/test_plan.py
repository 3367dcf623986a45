"""What lies beside a plan is named after the whole of its name, and belongs to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from layerlens.artifacts.plan import Plan, candidates_folder, foreign_candidates, load_candidates, load_plan, save_plan
from layerlens.errors import ManifestError
from tests.unit.reporting import artifacts


def made_with(**metadata: Any) -> Plan:
    plan = artifacts.plan("uniform")
    return plan.model_copy(update={"metadata": plan.metadata.model_copy(update=metadata)})


def test_only_json_is_cut_off_a_plan_s_name() -> None:
    names = {"plan.json": "plan.candidates", "plan-0.5": "plan-0.5.candidates", "plan-0.7.json": "plan-0.7.candidates"}
    assert {name: candidates_folder(Path("runs") / name) for name in names} == {
        name: Path("runs") / folder for name, folder in names.items()
    }


def test_what_is_no_plan_is_told_with_what_to_give(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text("[]")
    for name in ("missing.json", "other.json", "."):
        with pytest.raises(ManifestError, match=r"; give a plan\.json that `layerlens plan` wrote$"):
            load_plan(tmp_path / name)


def test_the_plan_of_a_compressed_folder_is_told_in_one_clause(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text('{"bits_per_weight": 4.25, "layers": []}')
    with pytest.raises(ManifestError, match=r"plan\.json is the plan of a compressed folder, which has no adapters; give a plan"):
        load_plan(tmp_path / "plan.json")


def test_candidates_of_another_plan_are_refused_with_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    save_plan(path, artifacts.plan())
    save_plan(candidates_folder(path) / "uniform.json", artifacts.plan("uniform"))
    assert list(load_candidates(path)) == ["uniform"]
    limits = {name: budget.model_copy(update={"limit": 1e12}) for name, budget in artifacts.plan().budgets.items()}
    for other, said in (
        (made_with(profile_identity="0" * 64), r"candidates of another plan \(profile was 000"),
        (made_with(optimization={"max_trainable_params": 60_000}), r"options.max_trainable_params was 60000, now 50000"),
        (artifacts.plan("uniform", budgets=limits), r"limits.vram_bytes was 1000000000000.0, now 1610612736.0"),
        (artifacts.plan("uniform", model=artifacts.plan().model.model_copy(update={"hash": "f"})), "of another model"),
    ):
        save_plan(candidates_folder(path) / "uniform.json", other)
        with pytest.raises(ManifestError, match=said):
            load_candidates(path)
    assert foreign_candidates(artifacts.plan(), {"uniform": made_with(command="another", notes=["said"])}) == ""
