"""Rounds of planning and measuring, against a model whose true losses are known: predictions times an error of their family."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest

from layerlens.artifacts.compression import CompressionPlan, Curves, MatrixCurve, Option, Probe
from layerlens.artifacts.formats import Format
from layerlens.budget.compression import plan_compression
from layerlens.compressing.family_anchors import far_from_probes, unanchored
from layerlens.compressing.held_out import chosen_options, option_of
from layerlens.config import CompressConfig
from layerlens.progress import Silent
from layerlens.workflow.compress_rounds import MAX_ROUNDS, probed_choices, settled_plans
from tests.unit.budget.small_curves import small

#: Factors lose four times what the second-order model says, corrections twice.
ERRORS = {Format.LOW_RANK: 4.0, Format.INTEGER_LOW_RANK: 2.0}
CURVES = small(3)


def true_loss(matrix: MatrixCurve, option: Option) -> float:
    return ERRORS.get(option.scheme.format, 1.0) * matrix.anchor * unanchored(matrix, option)


class Truth:
    """Measures one matrix at a time, and remembers what it was asked."""

    def __init__(self, refuse_after: int = 1000) -> None:
        self.asked: list[list[tuple[str, str]]] = []
        self.refuse_after = refuse_after

    def __call__(self, wanted: Sequence[tuple[MatrixCurve, Option]]) -> dict[str, Probe]:
        if len(self.asked) == self.refuse_after:
            raise KeyboardInterrupt
        self.asked.append([(matrix.layer, option.scheme.name) for matrix, option in wanted])
        return {
            matrix.layer: Probe(
                scheme=option.scheme,
                rounding=option.rounding,
                predicted=unanchored(matrix, option),
                measured=true_loss(matrix, option),
            )
            for matrix, option in wanted
        }


def at(bits: float, **settings: Any) -> CompressConfig:
    return CompressConfig(bits_per_weight=bits, **settings)


def truly(plan: CompressionPlan) -> float:
    """What a plan really loses."""
    matrices = {matrix.layer: matrix for matrix in CURVES.matrices}
    return math.fsum(true_loss(matrices[entry.layer], option_of(matrices[entry.layer], entry)) for entry in plan.layers)


@pytest.mark.parametrize("bits", [2.3, 2.5, 3.0, 3.25])
def test_the_settled_optimum_really_loses_less_and_foretells_it(bits: float) -> None:
    truth = Truth()
    plans, curves = settled_plans(CURVES, at(bits), truth, probes_all=True)
    before = plan_compression(CURVES, at(bits))
    assert 1 <= len(truth.asked) <= MAX_ROUNDS
    assert truly(plans.plan) < truly(before.plan)
    predicted = -plans.plan.chosen.value
    assert abs(math.log(predicted / truly(plans.plan))) < abs(math.log(-before.plan.chosen.value / truly(before.plan)))
    named = plans.candidates["optimum-one-anchor"]
    assert [entry.scheme for entry in named.layers] == [entry.scheme for entry in before.plan.layers]
    assert named.size_bytes == before.plan.size_bytes
    if len(truth.asked) < MAX_ROUNDS:
        assert predicted == pytest.approx(truly(plans.plan), rel=1e-9), "every factor that it took was measured"
        assert far_from_probes(chosen_options(curves, plans.plan)) == []


def test_what_is_measured_is_what_the_optimum_took_far_from_its_probe() -> None:
    truth = Truth()
    settled_plans(CURVES, at(3.0), truth, probes_all=True)
    plan = plan_compression(CURVES, at(3.0)).plan
    wanted = far_from_probes(chosen_options(CURVES, plan))
    assert truth.asked[0] == [(matrix.layer, option.scheme.name) for matrix, option in wanted]
    taken = {entry.layer: entry.format for entry in plan.layers}
    assert all(taken[layer] == name for layer, name in truth.asked[0])


def test_the_same_target_measures_nothing_again_and_gives_the_same_plans() -> None:
    plans, curves = settled_plans(CURVES, at(3.0), Truth(), probes_all=True)
    again = Truth()
    assert settled_plans(curves, at(3.0), again, probes_all=True) == (plans, curves)
    assert again.asked == []
    other = Truth()
    settled_plans(curves, at(3.02), other, probes_all=True)
    first = Truth()
    settled_plans(CURVES, at(3.02), first, probes_all=True)
    assert sum(map(len, other.asked)) < sum(map(len, first.asked)), "another size starts from what is known"


def test_a_run_that_is_stopped_between_rounds_ends_with_the_same_plans() -> None:
    bits = next(bits for bits in (2.3, 2.7, 3.0) if len(rounds_of(bits)) == MAX_ROUNDS)
    whole = settled_plans(CURVES, at(bits), Truth(), probes_all=True)
    kept: list[Curves] = []
    with pytest.raises(KeyboardInterrupt):
        settled_plans(CURVES, at(bits), Truth(refuse_after=1), probes_all=True, save=kept.append)
    assert len(kept) == 1
    rest = Truth()
    assert settled_plans(kept[0], at(bits), rest, probes_all=True) == whole
    assert rest.asked == rounds_of(bits)[1:]


def rounds_of(bits: float) -> list[list[tuple[str, str]]]:
    truth = Truth()
    settled_plans(CURVES, at(bits), truth, probes_all=True)
    return truth.asked


def test_no_probes_means_none_and_few_are_fewer() -> None:
    none = Truth()
    plans, curves = settled_plans(CURVES, at(3.0, probes="off"), none, probes_all=True)
    assert none.asked == []
    assert curves == CURVES
    assert plans.left_out["optimum-one-anchor"] == "no family has an anchor of its own"
    deep = small(3, blocks=16)
    few, everything = Truth(), Truth()
    settled_plans(deep, at(2.3), few, probes_all=False)
    settled_plans(deep, at(2.3), everything, probes_all=True)
    assert 0 < len(few.asked[0]) < len(everything.asked[0])


def test_one_line_says_what_happened() -> None:
    notes: list[str] = []

    class Watcher(Silent):
        def note(self, text: str) -> None:
            notes.append(text)

    truth = Truth()
    plans, curves = settled_plans(CURVES, at(3.0), truth, probes_all=True, progress=Watcher())
    measured = sum(map(len, truth.asked))
    before = -plan_compression(CURVES, at(3.0)).plan.chosen.value
    assert len(notes) == 1
    assert notes[0].startswith(f"choices of the plan that lay far from any probe, measured alone: {measured};")
    assert notes[0].endswith(f"lose {-plans.plan.chosen.value:.4g} where {before:.4g} was predicted before")
    assert probed_choices(CURVES) == []
    (sentence,) = probed_choices(curves)
    told = f"options of plans that lay far from what their matrix was probed at, measured alone too: {measured};"
    assert sentence.startswith(told)
    settled_plans(curves, at(3.0), truth, probes_all=True, progress=Watcher())
    assert len(notes) == 1
