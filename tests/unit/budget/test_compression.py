"""Plans of a whole model: exact sizes, proofs, limits to the byte, and errors that name the way out."""

from __future__ import annotations

import json
import subprocess
import sys
from fractions import Fraction
from typing import Any

import pytest

from layerlens.artifacts.compression import CompressionPlan, Curves, Measured
from layerlens.artifacts.compression_checks import curve_inconsistencies, inconsistencies
from layerlens.artifacts.formats import Format, size_bytes
from layerlens.budget.compression import CompressionPlans, plan_compression, smallest_told
from layerlens.budget.format_menu import menu_of
from layerlens.config import CompressConfig
from layerlens.errors import InfeasibleBudgetError
from layerlens.words import BudgetName
from tests.unit.budget.small_curves import best_of_all, milp_loss, small, tiny

CURVES = small(7)


def planned(curves: Curves = CURVES, **given: Any) -> CompressionPlans:
    return plan_compression(curves, CompressConfig(**given), command="a test")


def everything(plans: CompressionPlans) -> dict[str, CompressionPlan]:
    return {**plans.candidates, **plans.baselines}


def smallest(curves: Curves = CURVES) -> int:
    return curves.model.other_bytes + sum(min(each.size_bytes for each in matrix.options) for matrix in curves.matrices)


@pytest.mark.parametrize(
    "given",
    [
        {"size": "200KB"},
        {"bits_per_weight": 4.25},
        {"bits_per_weight": 6, "group_by": "fused", "keep": ["embedding"]},
        {"bits_per_weight": 5, "role_ranks": {"mlp.*": 32}, "rank_floor": 32},
        {"cosine": 0.98},
        {"rank": 32, "min_dim": 64},
    ],
)
def test_every_plan_adds_up_and_keeps_its_budget(given: dict[str, Any]) -> None:
    plans = planned(**given)
    assert curve_inconsistencies(CURVES) == []
    for name, plan in everything(plans).items():
        assert inconsistencies(plan) == []
        assert plan.chosen.name == name
        assert plan.size_bytes <= max(plans.plan.size_bytes, plan.budgets[BudgetName.SIZE_BYTES].limit or 0)
        needed = [
            size_bytes(layer.scheme, layer.out_features, layer.in_features, matrix.kept_element_bytes)
            for layer, matrix in zip(plan.layers, CURVES.matrices, strict=True)
        ]
        assert plan.size_bytes == CURVES.model.other_bytes + sum(needed)
        assert all(layer.why for layer in plan.layers)


@pytest.mark.parametrize("seed", range(4))
def test_the_optimum_is_the_best_of_all_combinations(seed: int) -> None:
    curves = tiny(seed)
    options = [matrix.options for matrix in curves.matrices]
    for share in (0.0, 0.2, 0.5, 0.9):
        limit = int(smallest(curves) * (1 + share))
        plan = planned(curves, size=limit).plan
        best = best_of_all(options, limit - curves.model.other_bytes)
        assert -plan.solver.value == pytest.approx(best, rel=2e-6)
        assert plan.chosen.value == pytest.approx(plan.solver.value)
        assert plan.solver.bound >= -best * (1 + 1e-9)


def test_policies_narrow_the_optimum_to_what_they_allow() -> None:
    plan = planned(bits_per_weight=5, keep=["attention.key"], formats="integer", widths="8,5,4,3").plan
    allowed = [
        [
            each
            for each in matrix.options
            if each.scheme.format is Format.KEEP
            or (each.scheme.format is Format.INTEGER and each.scheme.bits in (8, 5, 4, 3) and "k_proj" not in matrix.layer)
        ]
        for matrix in CURVES.matrices
    ]
    limit = int(5 * CURVES.model.num_parameters / 8)
    assert -plan.solver.value == pytest.approx(milp_loss(allowed, limit - CURVES.model.other_bytes), rel=3e-6)
    for layer in plan.layers:
        assert layer.scheme.format in (Format.KEEP, Format.INTEGER)
        assert ("k_proj" in layer.layer) == layer.why.startswith("kept, as --keep attention.key")


def test_the_smallest_size_is_possible_and_a_byte_less_is_refused_by_name() -> None:
    least = smallest()
    plan = planned(size=least).plan
    assert plan.size_bytes == least
    with pytest.raises(
        InfeasibleBudgetError, match=rf"size: {least - 1:,} bytes .* smallest possible, {least:,} bytes"
    ) as caught:
        planned(size=least - 1)
    bits = float(str(caught.value).split(" bytes (")[2].split()[0])
    assert planned(bits_per_weight=bits).plan.size_bytes >= least
    with pytest.raises(InfeasibleBudgetError, match=r"bits_per_weight: 0\.5 \("):
        planned(bits_per_weight=0.5)


def test_a_layer_that_no_loss_depends_on_is_named_where_it_raises_the_smallest_size() -> None:
    """Before it is measured, shapes promise it every width."""
    promised = smallest()
    place = next(place for place, matrix in enumerate(CURVES.matrices) if matrix.block is not None)
    matrices = list(CURVES.matrices)
    widest = [option for option in matrices[place].options if option.scheme.name in ("keep", "half", "int8")]
    lossless = [option.model_copy(update={"predicted_loss": 0.0}) for option in widest]
    matrices[place] = matrices[place].model_copy(update={"options": lossless})
    with pytest.raises(InfeasibleBudgetError, match=rf"since {matrices[place].layer}, which no calibration sample's loss"):
        planned(CURVES.model_copy(update={"matrices": matrices}), size=promised)
    with pytest.raises(InfeasibleBudgetError) as caught:
        planned(size=promised - 1)
    assert "no calibration sample" not in str(caught.value)


def test_the_smallest_bits_per_weight_that_are_told_are_possible() -> None:
    model = CURVES.model.model_copy(update={"other_bytes": CURVES.model.other_bytes + -smallest() % 3})
    curves = CURVES.model_copy(update={"model": model})
    # The second is 0.3 to the last digit, which the binary number 0.3 lies below.
    for num_parameters in (CURVES.model.num_parameters, 80 * smallest(curves) // 3):
        sized = curves.model_copy(update={"model": model.model_copy(update={"num_parameters": num_parameters})})
        told = smallest_told(menu_of(sized, CompressConfig(size=1)))
        bits = float(told.split("(")[1].split()[0])
        assert planned(sized, bits_per_weight=bits).plan.size_bytes >= smallest(sized)
        with pytest.raises(InfeasibleBudgetError):
            planned(sized, bits_per_weight=bits - 1e-4)


def test_bits_per_weight_are_kept_to_the_byte() -> None:
    for bits in (3.1, 4.25, 6.7):
        for plan in everything(planned(bits_per_weight=bits)).values():
            assert Fraction(8 * plan.size_bytes, CURVES.model.num_parameters) <= Fraction(str(bits))
            assert plan.bits_per_weight == 8 * plan.size_bytes / CURVES.model.num_parameters


def test_with_bytes_for_everything_nothing_is_lost_and_the_plan_says_why_it_spends_little() -> None:
    plan = planned(size="1GB").plan
    assert {layer.scheme.format for layer in plan.layers} == {Format.KEEP}
    assert plan.size_bytes == CURVES.model.size_bytes
    assert plan.solver.value == 0.0
    assert plan.metadata["notes"] == ["only 0% of the bytes are spent: every matrix loses the least that is on offer"]


def test_more_bytes_never_lose_more() -> None:
    losses = [-planned(bits_per_weight=bits).plan.solver.value for bits in (2.5, 3, 3.5, 4, 5, 6, 8, 12)]
    assert losses == sorted(losses, reverse=True)


def test_a_cosine_and_a_rank_set_the_bytes_of_everyone() -> None:
    by_cosine = planned(cosine=0.97)
    assert by_cosine.plan.chosen.name == "smallest-for-cosine"
    assert by_cosine.plan.solver.value >= by_cosine.plan.chosen.value
    by_rank = planned(rank=64, min_dim=128)
    assert by_rank.plan.chosen.name == "fixed-rank"
    assert by_rank.plan.solver.value > by_rank.plan.chosen.value
    for plans in (by_cosine, by_rank):
        assert plans.plan.budgets[BudgetName.SIZE_BYTES].limit is None
        assert all(plan.size_bytes <= plans.plan.size_bytes for plan in everything(plans).values())


@pytest.mark.parametrize("cosine", [0.9, 0.99, 0.9999])
def test_of_our_plans_only_those_that_reach_the_cosine_race_and_of_the_baselines_only_those_may_be_written(cosine: float) -> None:
    plans = planned(cosine=cosine)
    reached = {name: plan.metadata["predicted_cosine"] for name, plan in everything(plans).items()}
    assert all(reached[name] >= cosine for name in plans.candidates)
    assert set(plans.only_measured) == {name for name in plans.baselines if reached[name] < cosine}
    assert all("is below" in reason for reason in plans.only_measured.values())
    assert "optimum" in plans.candidates or plans.left_out["optimum"].endswith(f"is below {cosine:g}")
    order = [*plans.only_measured, *reversed(everything(plans))]
    measured = [
        Measured(name=name, size_bytes=1, bits_per_weight=1.0, kl_nats=place, is_baseline=False)
        for place, name in enumerate(order)
    ]
    assert plans.first_to_write(measured) == next(one for one in measured if reached[one.name] >= cosine)
    assert {layer.why.rpartition(": ")[2] for layer in plans.plan.layers if "would cost" in layer.why} <= {
        "the cosine is reached without it"
    }


@pytest.mark.parametrize(
    ("formats", "outside"),
    [
        ("integer", {"plain-svd-int8", "whitened-svd-int8"}),
        (
            "low-rank,half",
            {"uniform-nearest", "uniform-nearest-topped-up", "uniform-second-order", "uniform-second-order-topped-up"},
        ),
    ],
)
def test_baselines_that_the_policies_rule_out_are_measured_but_not_written(formats: str, outside: set[str]) -> None:
    plans = planned(bits_per_weight=9, formats=formats, keep=["attention.key"])
    assert outside <= set(plans.baselines)
    for name, plan in plans.baselines.items():
        of_others = {layer.format for layer in plan.layers if layer.scheme.format.value not in ("keep", *formats.split(","))}
        assert (name in plans.only_measured) == bool(of_others)
        assert all(each in plans.only_measured[name] for each in sorted(of_others)[:1])
        assert all(layer.format == "keep" for layer in plan.layers if "k_proj" in layer.layer), "what is kept is kept by all"
        assert plan.size_bytes <= plans.plan.budgets[BudgetName.SIZE_BYTES].limit  # type: ignore[operator]
    assert outside <= set(plans.only_measured)


def test_every_plan_says_what_did_not_race_and_what_may_not_be_written() -> None:
    plans = planned(bits_per_weight=4, formats="integer")
    for plan in everything(plans).values():
        assert plan.metadata["left_out"] == plans.left_out
        assert plan.metadata["only_measured"] == plans.only_measured
    assert plans.left_out
    assert plans.only_measured


def test_baselines_are_named_or_their_absence_is_explained() -> None:
    names = {
        "uniform-nearest",
        "uniform-nearest-topped-up",
        "uniform-second-order",
        "uniform-second-order-topped-up",
        "plain-svd-int8",
        "whitened-svd-int8",
    }
    for bits in (2.4, 4, 8):
        plans = planned(bits_per_weight=bits)
        assert names == (set(plans.baselines) | set(plans.left_out)) & names
        assert all(plans.left_out.values())
        uniform = [plan.chosen.value for name, plan in plans.baselines.items() if name.startswith("uniform")]
        assert plans.plan.solver.uniform_value == (max(uniform) if uniform else None)


def test_the_same_curves_give_the_same_bytes_in_another_process() -> None:
    code = (
        "from tests.unit.budget.test_compression import planned, everything; import json; "
        "print(json.dumps({n: p.model_dump(mode='json') for n, p in everything(planned(bits_per_weight=4)).items()}))"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    here = {name: plan.model_dump(mode="json") for name, plan in everything(planned(bits_per_weight=4)).items()}
    assert json.loads(other.stdout) == here


def test_planning_imports_neither_torch_nor_scipy() -> None:
    code = (
        "import sys; from layerlens.budget.compression import plan_compression; from layerlens.config import CompressConfig; "
        "from examples.synthetic_curves import synthesise_curves; "
        "plan_compression(synthesise_curves(), CompressConfig(bits_per_weight=4)); "
        "sys.exit('torch' in sys.modules or 'scipy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
