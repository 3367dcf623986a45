"""A plan that was edited so that it no longer adds up is caught, whatever was edited."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from examples.synthetic_curves import DecoderShape, synthesise_curves
from layerlens.artifacts.compression import CompressionPlan, save_compression_plan
from layerlens.artifacts.compression_checks import curve_inconsistencies, inconsistencies, load_checked_plan
from layerlens.artifacts.plan import Budget
from layerlens.budget.compression import plan_compression
from layerlens.config import CompressConfig
from layerlens.errors import ManifestError
from layerlens.words import BudgetName

CURVES = synthesise_curves(DecoderShape(blocks=1, hidden=128, inner=320, kv=64, vocabulary=512))
PLAN = plan_compression(CURVES, CompressConfig(bits_per_weight=5, keep=["attention.output"])).plan
Edit = Callable[[CompressionPlan], CompressionPlan]


def plan_with(**changes: Any) -> Edit:
    return lambda plan: plan.model_copy(update=changes)


def layer_with(place: int, **changes: Any) -> Edit:
    def edit(plan: CompressionPlan) -> CompressionPlan:
        layers = list(plan.layers)
        layers[place] = layers[place].model_copy(update=changes)
        return plan.model_copy(update={"layers": layers})

    return edit


KEPT = next(place for place, layer in enumerate(PLAN.layers) if layer.format == "keep")


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (plan_with(size_bytes=PLAN.size_bytes + 1), "size_bytes says"),
        (plan_with(bits_per_weight=PLAN.bits_per_weight * 1.001), "bits_per_weight says"),
        (plan_with(budgets={}), "budgets has no size_bytes"),
        (plan_with(budgets={BudgetName.SIZE_BYTES: Budget(limit=None, spent=1)}), "spent says 1"),
        (
            plan_with(budgets={BudgetName.SIZE_BYTES: Budget(limit=PLAN.size_bytes - 1, spent=PLAN.size_bytes)}),
            "over the limit",
        ),
        (plan_with(chosen=PLAN.chosen.model_copy(update={"value": PLAN.chosen.value * 1.01})), "chosen.value says"),
        (plan_with(solver=PLAN.solver.model_copy(update={"bound": 2 * PLAN.solver.value})), "solver.bound"),
        (plan_with(layers=[*PLAN.layers, PLAN.layers[1]]), "stands twice"),
        (plan_with(model=PLAN.model.model_copy(update={"num_parameters": 1000})), "counted twice"),
        (layer_with(1, size_bytes=PLAN.layers[1].size_bytes - 2), "size_bytes says"),
        (layer_with(1, format="int9"), "its scheme is"),
        (layer_with(1, rank=PLAN.layers[1].rank + 16), "its scheme is"),
        (layer_with(1, bits=PLAN.layers[1].bits + 1), "its scheme is"),
        (layer_with(1, tied=[PLAN.layers[2].layer]), "stands twice"),
        (layer_with(KEPT, size_bytes=PLAN.layers[KEPT].size_bytes - 4), "no whole bytes"),
        (layer_with(1, scheme={"format": "low-rank", "rank": 512, "factor_bits": 8}), "above the matrix"),
    ],
)
def test_each_edit_is_caught_and_named(edit: Edit, told: str) -> None:
    assert inconsistencies(PLAN) == []
    edited = CompressionPlan.model_validate(edit(PLAN).model_dump(warnings=False))
    assert any(told in fault for fault in inconsistencies(edited))


def test_a_plan_is_read_strictly(tmp_path: Path) -> None:
    save_compression_plan(tmp_path, PLAN)
    assert load_checked_plan(tmp_path) == PLAN
    save_compression_plan(tmp_path, plan_with(size_bytes=7)(PLAN))
    with pytest.raises(ManifestError, match="does not add up: size_bytes says 7"):
        load_checked_plan(tmp_path)


def test_curves_with_wrong_bytes_or_a_matrix_too_many_are_caught() -> None:
    assert curve_inconsistencies(CURVES) == []
    first = CURVES.matrices[0]
    cheaper = first.options[0].model_copy(update={"size_bytes": 1})
    edited = CURVES.model_copy(
        update={"matrices": [first.model_copy(update={"options": [cheaper, *first.options[1:]]}), *CURVES.matrices[1:]]}
    )
    assert "says 1 bytes" in curve_inconsistencies(edited)[0]
    twice = curve_inconsistencies(CURVES.model_copy(update={"matrices": [*CURVES.matrices, first]}))
    assert any("stands twice" in fault for fault in twice)
    assert any("model.size_bytes" in fault for fault in twice)
