"""The joint run against what each layer's step alone does to the loss, and against the drop that it shares out."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch
from predicted_gain_joint_run import Adapters, Step, best, has_risen, measured

from layerlens.words import TaskKind
from tests.unit.profiling.cases import open_case

FAMILIES = [("bert", TaskKind.CLASSIFICATION), ("llama", TaskKind.CAUSAL_LM), ("vit", TaskKind.IMAGE_CLASSIFICATION)]
RATES = np.geomspace(1e-4, 5e-2, 10).tolist()


def _step(*drops: float) -> Step:
    return Step(np.array(drops), {})


@pytest.mark.parametrize(("family", "kind"), FAMILIES, ids=lambda value: str(value))
def test_a_share_is_what_the_layers_own_step_does_where_steps_are_small(tmp_path: Path, family: str, kind: TaskKind) -> None:
    case = open_case(tmp_path, family, kind, num_samples=16)
    seen, unseen = case.examples[:8], case.examples[8:]

    def loss() -> float:
        batch = case.task.collate(unseen)
        with torch.no_grad():
            return case.task.per_sample_loss(case.model(**case.task.model_inputs(batch)), batch).double().mean().item()

    before = loss()
    run = Adapters(case.model, case.layout.layers, case.task, rank=2, seed=0)
    with ExitStack() as placed:
        for layer, probe in run.probes.items():
            placed.enter_context(probe.beside(case.model.get_submodule(layer)))
        run.look_at(seen)
        step = run.step(3e-4, unseen)
    alone = {}
    for layer, probe in run.probes.items():
        with probe.beside(case.model.get_submodule(layer)):
            alone[layer] = before - loss()
    largest = max(abs(value) for value in alone.values())
    assert largest > 1e-6
    for layer, value in alone.items():
        assert step.shares[layer] == pytest.approx(value, rel=0.1, abs=0.05 * largest)
    assert sum(step.shares.values()) == pytest.approx(float(step.drops.mean()), rel=0.02, abs=1e-6)


@pytest.mark.parametrize(("family", "kind"), FAMILIES, ids=lambda value: str(value))
def test_shares_sum_to_the_drop_and_the_model_stays_as_it_was(tmp_path: Path, family: str, kind: TaskKind) -> None:
    case = open_case(tmp_path, family, kind, num_samples=44)
    batches = [case.examples[first : first + 4] for first in range(0, 44, 4)]
    before = {name: value.clone() for name, value in case.model.state_dict().items()}
    found = measured(case.model, case.layout.layers, case.task, batches, RATES, rank=2)
    assert set(found.shares) == {spec.layer for spec in case.layout.layers}
    assert 1 <= found.steps <= 10
    assert sum(found.shares.values()) == pytest.approx(found.drop, rel=0.1, abs=5e-3)
    assert found == measured(case.model, case.layout.layers, case.task, batches, RATES, rank=2)
    assert all(torch.equal(value, before[name]) for name, value in case.model.state_dict().items())
    assert not any(module._forward_hooks for module in case.model.modules())


def test_a_run_that_learns_gains_more_than_noise(tmp_path: Path) -> None:
    case = open_case(tmp_path, "bert", TaskKind.CLASSIFICATION, num_samples=84)
    for example in case.examples:
        example["labels"] = 1
    batches = [case.examples[first : first + 4] for first in range(0, 84, 4)]
    found = measured(case.model, case.layout.layers, case.task, batches, np.geomspace(1e-4, 5e-2, 20).tolist(), rank=2)
    assert found.drop > 0.05
    assert found.drop > 3 * found.error


def test_what_counts_are_the_steps_up_to_the_lowest_loss() -> None:
    steps = [_step(0.2, 0.2), _step(0.3, 0.3), _step(-0.1, -0.1), _step(0.05, 0.05)]
    assert best(steps) == 2
    assert not has_risen(steps)
    assert has_risen([*steps, _step(-0.5, -0.5)])
    # A rise within noise does not end the run.
    assert not has_risen([*steps, _step(-3.0, 2.0)])


def test_a_run_whose_first_step_diverges_shares_nothing_out(tmp_path: Path) -> None:
    case = open_case(tmp_path, "bert", TaskKind.CLASSIFICATION, num_samples=12)
    batches = [case.examples[first : first + 4] for first in range(0, 12, 4)]
    found = measured(case.model, case.layout.layers, case.task, batches, [1e30, 1e30], rank=2)
    assert found.steps <= 1
    assert not found.drop > 3 * found.error
