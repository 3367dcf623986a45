"""The memory that a plan over a base in few bits is charged for, against what is held and against the allocator's own record."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from layerlens.artifacts.plan import Plan
from layerlens.artifacts.profile import Profile, Timing
from layerlens.budget.costs import CostModel, cost_model
from layerlens.budget.prices import PriceList
from layerlens.budget.sites import plan_sites
from layerlens.config import BaseFormat, OptimizationConfig
from layerlens.data.dataset import LoadedData
from layerlens.models.checkpoint import open_checkpoint
from layerlens.models.load import TaskModel, load_task_model
from layerlens.models.quantised_base import LIBRARIES
from layerlens.words import BudgetName, Method, TaskKind
from tests.functional.test_training_memory import BATCH, Case, held, opened, planned, profiled, taken
from tests.unit.adapting.plans import info_of

#: Weights weigh as much here as what a step keeps of its samples.
CASE = Case(
    "bert", TaskKind.CLASSIFICATION, shape={"hidden_size": 256, "num_attention_heads": 8, "intermediate_size": 1024}, length=32
)
FORMATS = [base_format for base_format in BaseFormat if base_format is not BaseFormat.AS_IS]
Measured = tuple[Profile, dict[str, np.ndarray], Timing]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("base") / "model"


@pytest.fixture(scope="module")
def over_floats(folder: Path) -> tuple[LoadedData, Measured, Plan, int]:
    task_model, data = opened(CASE, folder)
    measured = profiled(task_model, data)
    plan, charged = planned(CASE, measured)
    return data, measured, plan, charged


def _costs(measured: Measured, base_format: BaseFormat) -> tuple[CostModel, OptimizationConfig]:
    config = OptimizationConfig(
        max_vram_gb=100.0, batch_size=BATCH, length=CASE.length, candidate_methods=[Method.LORA, Method.NONE], max_rank=4,
        base_format=base_format,
    )  # fmt: skip
    return cost_model(measured[0], measured[2], config), config


def _loaded(folder: Path, base_format: BaseFormat) -> TaskModel:
    pytest.importorskip(LIBRARIES[base_format])
    return load_task_model(open_checkpoint(str(folder)), info_of(CASE.kind), seed=0, base_format=base_format)


@pytest.mark.parametrize("base_format", FORMATS, ids=str)
def test_a_plan_is_charged_for_the_base_as_it_is_held(
    base_format: BaseFormat, folder: Path, over_floats: tuple[LoadedData, Measured, Plan, int]
) -> None:
    data, measured, plan, over_float_base = over_floats
    task_model = _loaded(folder, base_format)
    costs, config = _costs(measured, base_format)
    assert costs.base_bytes == sum(held(task_model.model).values())
    prices = PriceList.of(costs, plan_sites(measured[0], config))
    charged = prices.price(np.array([layer.size for layer in plan.layers], dtype=np.int64))[BudgetName.VRAM_BYTES]
    assert charged < over_float_base
    assert 0.95 <= charged / taken(CASE, task_model, data, plan) <= 1.2


@pytest.mark.parametrize("base_format", FORMATS, ids=str)
def test_full_fine_tuning_is_priced_over_floats_and_time_is_not_touched(
    base_format: BaseFormat, over_floats: tuple[LoadedData, Measured, Plan, int]
) -> None:
    measured = over_floats[1]
    in_floats, in_few_bits = _costs(measured, BaseFormat.AS_IS)[0], _costs(measured, base_format)[0]
    assert in_few_bits.full() == in_floats.full()
    same = in_few_bits.base(0) | {BudgetName.VRAM_BYTES: 0}
    assert same == in_floats.base(0) | {BudgetName.VRAM_BYTES: 0}
    assert replace(in_few_bits, base_format=BaseFormat.AS_IS) == in_floats
