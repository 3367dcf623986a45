"""Probes and the race measure what really replacing the weights of a plain model in memory gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from layerlens.artifacts.compression import CompressionPlan, Curves
from layerlens.artifacts.formats import Format
from layerlens.budget.compression import plan_compression
from layerlens.compressing import held_out as module
from layerlens.compressing.anchors import probed_option
from layerlens.compressing.factor_cache import FactorCache
from layerlens.compressing.held_out import HeldOut, choice_of, held_out_samples, measured_of, option_of
from layerlens.compressing.option_grid import OptionGrid
from layerlens.compressing.run import MeasureOptions, measure_curves
from layerlens.compressing.variants import Variant
from layerlens.config import CompressConfig
from layerlens.errors import DataError, ManifestError
from layerlens.models.streamed.weight_source import WeightSource
from layerlens.models.weights import is_planned_module, weight_matrix
from tests.unit.compressing.calibrations import Calibrated, calibrated

GRID = OptionGrid(group_size=32, widths=(8, 3), corrected_widths=())
#: The word embedding of the language models is large enough to be compressed; GPT-2's is tied to its head.
CASES: list[tuple[str, dict[str, Any]]] = [
    ("gpt2", {"n_layer": 1, "vocab_size": 2048}),
    ("llama", {"num_hidden_layers": 1, "vocab_size": 2048, "tie_word_embeddings": False}),
]


class Setting:
    """A tiny model with its curves."""

    def __init__(self, folder: Path, family: str, overrides: dict[str, Any]) -> None:
        self.case: Calibrated = calibrated(folder, family, num_samples=12, **overrides)
        self.model = self.case.streamed()
        options = MeasureOptions(GRID, batch_size=4)
        self.curves: Curves = measure_curves(
            self.model, self.case.data, self.case.samples[:6], options, folder=folder / "c", work=folder / "work"
        )
        samples = held_out_samples(self.model, self.case.data, self.case.samples, batch_size=5, tokens_at_once=64)
        self.held_out = HeldOut(self.model, samples, self.curves, FactorCache(folder / "c", self.model), folder / "work")

    def plan(self, bits_per_weight: float) -> CompressionPlan:
        return plan_compression(self.curves, CompressConfig(bits_per_weight=bits_per_weight, group_size=32, widths=[8, 3])).plan

    def replaced(self, plan: CompressionPlan) -> dict[str, torch.Tensor]:
        """Parameters of the model in memory with the plan's matrices in them."""
        model = self.case.in_memory()
        curves = {matrix.layer: matrix for matrix in self.curves.matrices}
        found = {}
        for entry in plan.layers:
            if entry.scheme.format is Format.KEEP:
                continue
            option = option_of(curves[entry.layer], entry)
            weight = self.held_out.cache.weight_of(entry.layer, option, entry.out_features, entry.in_features)
            place = model.get_submodule(entry.layer)
            is_turned = is_planned_module(place) and weight_matrix(place) is not place.weight
            for path in (entry.layer, *entry.tied):
                found[f"{path}.weight"] = weight.T if is_turned else weight
        return found


@pytest.fixture(scope="module", params=CASES, ids=[family for family, _ in CASES])
def setting(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Setting:
    family, overrides = request.param
    return Setting(tmp_path_factory.mktemp(family), family, overrides)


def test_a_probe_is_the_divergence_with_that_matrix_alone_replaced(setting: Setting) -> None:
    wanted = [(matrix, option) for matrix in setting.curves.matrices if (option := probed_option(matrix)) is not None]
    probes = setting.held_out.probes(wanted)
    assert list(probes) == [matrix.layer for matrix in setting.curves.matrices]
    model = setting.case.in_memory()
    for matrix in setting.curves.matrices:
        probe = probes[matrix.layer]
        assert (probe.scheme.name, probe.rounding) == ("int3", "second-order")
        option = next(one for one in matrix.options if (one.scheme, one.rounding) == (probe.scheme, probe.rounding))
        assert probe.predicted == option.predicted_loss
        weight = setting.held_out.cache.weight_of(matrix.layer, option, matrix.out_features, matrix.in_features)
        place = model.get_submodule(matrix.layer)
        is_turned = is_planned_module(place) and weight_matrix(place) is not place.weight
        changed = {f"{path}.weight": weight.T if is_turned else weight for path in (matrix.layer, *matrix.tied)}
        assert probe.measured == pytest.approx(setting.case.divergence(model, changed), rel=1e-3, abs=1e-9)
        assert probe.measured > 1e-6


def test_a_raced_plan_is_the_divergence_with_all_its_matrices_replaced(setting: Setting) -> None:
    plans = {str(bits): setting.plan(bits) for bits in (5.0, 9.0)}
    found = setting.held_out.race(plans)
    for name, plan in plans.items():
        expected = setting.case.divergence(setting.case.in_memory(), setting.replaced(plan))
        assert found[name].mean == pytest.approx(expected, rel=1e-3)
    assert found["5.0"].mean > found["9.0"].mean > 0


def test_weights_that_are_read_in_slices_measure_the_same(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    plans = {"a": setting.plan(5.0)}
    held = setting.held_out.race(plans)["a"]
    holding = []
    hold = WeightSource.hold
    monkeypatch.setattr(WeightSource, "hold", lambda self: (holding.append(self), hold(self)))
    sliced = replace(setting.held_out, holds_weights=False).race(plans)["a"]
    assert not holding
    assert sliced.mean == pytest.approx(held.mean, rel=1e-4)


def test_plans_of_one_choice_are_measured_once(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    measure: Any = vars(module)["measure_variants"]

    def counted(model: Any, samples: Any, variants: Sequence[Variant], **options: Any) -> Any:
        asked.extend(variant.name for variant in variants)
        return measure(model, samples, variants, **options)

    monkeypatch.setattr(module, "measure_variants", counted)
    small, large = setting.plan(5.0), setting.plan(9.0)
    again = small.model_copy(update={"metadata": {"by": "another rule"}})
    assert choice_of(again) == choice_of(small) != choice_of(large)
    found = setting.held_out.race({"one": small, "two": large, "three": again})
    assert asked == ["one", "two"]
    assert list(found) == ["one", "two", "three"]
    assert found["three"] is found["one"]


def test_reverting_starts_from_the_whole_plan_and_takes_every_compressed_matrix(setting: Setting) -> None:
    plan = setting.plan(5.0)
    trials = setting.held_out.leave_one_out(plan, seed=0)
    assert trials.kl_nats == pytest.approx(setting.held_out.race({"plan": plan})["plan"].mean, rel=1e-6)
    assert {one.layer for one in trials.layers} == {
        entry.layer for entry in plan.layers if entry.scheme.format is not Format.KEEP
    }
    replaced = setting.replaced(plan)
    reverted = trials.layers[0]
    own = next(entry for entry in plan.layers if entry.layer == reverted.layer)
    kept = {f"{path}.weight" for path in (own.layer, *own.tied)}
    others = {name: values for name, values in replaced.items() if name not in kept}
    assert reverted.kl_nats == pytest.approx(setting.case.divergence(setting.case.in_memory(), others), rel=1e-3)


def test_what_measured_least_comes_first_and_of_equals_the_smaller_then_ours(setting: Setting) -> None:
    small, large = setting.plan(5.0), setting.plan(9.0)
    plans = {"large": large, "theirs": small, "ours": small}
    found = setting.held_out.race(plans)
    assert [one.name for one in measured_of(plans, found, ["theirs"])] == ["large", "ours", "theirs"]
    same = dict.fromkeys(plans, found["large"])
    ranked = measured_of(plans, same, ["theirs"])
    assert [one.name for one in ranked] == ["ours", "theirs", "large"]
    assert [one.is_baseline for one in ranked] == [False, True, False]
    assert ranked[0].predicted_loss == pytest.approx(sum(layer.predicted_loss for layer in small.layers))


def test_what_cannot_be_measured_is_told(setting: Setting) -> None:
    with pytest.raises(DataError, match="leaves no samples to measure on"):
        held_out_samples(setting.model, setting.case.data, [], batch_size=4, tokens_at_once=64)
    entry = setting.plan(5.0).layers[0]
    bare = replace(setting.held_out, curves=setting.curves).curves.matrices[0].model_copy(update={"options": []})
    with pytest.raises(ManifestError, match="the curves do not offer"):
        option_of(bare, entry)
