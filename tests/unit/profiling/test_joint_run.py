"""The joint run against what each layer's step alone does to the loss, and against the drop that it shares out."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch

from layerlens.artifacts.layers import LayerSpec
from layerlens.config import ProfilingConfig
from layerlens.profiling import joint_run as module
from layerlens.profiling.joint_run import Joint, measure_joint_run
from layerlens.profiling.layer_records import joint_warnings
from layerlens.words import Role, TaskKind
from tests.unit.profiling.cases import Case, open_case

SETTINGS = {"joint_steps": 10, "proxy_batch_size": 4, "proxy_rank": 2}
FAMILIES = [
    ("bert", TaskKind.CLASSIFICATION),
    ("gpt2", TaskKind.CAUSAL_LM),
    ("llama", TaskKind.CAUSAL_LM),
    ("vit", TaskKind.IMAGE_CLASSIFICATION),
]


def _measure(case: Case, **settings: object) -> Joint | None:
    return measure_joint_run(case.model, case.layout.layers, case.task, case.examples, ProfilingConfig(**(SETTINGS | settings)))


def _step(*drops: float, share: float = 0.0) -> module._Step:
    return module._Step(1e-3, np.array(drops), {"a": share})


@pytest.mark.parametrize(("family", "kind"), FAMILIES, ids=lambda value: str(value))
def test_a_share_is_what_the_layers_own_step_does_where_steps_are_small(tmp_path: Path, family: str, kind: TaskKind) -> None:
    case = open_case(tmp_path, family, kind, num_samples=16)
    config = ProfilingConfig(**SETTINGS)
    seen, unseen = case.examples[:8], case.examples[8:]

    def loss() -> float:
        batch = case.task.collate(unseen)
        with torch.no_grad():
            return case.task.per_sample_loss(case.model(**case.task.model_inputs(batch)), batch).double().mean().item()

    before = loss()
    run = module._Run(case.model, case.layout.layers, case.task, config)
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
    case = open_case(tmp_path, family, kind, num_samples=48)
    before = {name: value.clone() for name, value in case.model.state_dict().items()}
    flags = [parameter.requires_grad for parameter in case.model.parameters()]
    found = _measure(case)
    assert found is not None
    assert set(found.gains) == {spec.layer for spec in case.layout.layers}
    assert 1 <= found.settings.steps <= 10
    assert sum(found.gains.values()) == pytest.approx(found.settings.drop, rel=0.1, abs=5e-3)
    assert found == _measure(case)
    assert all(torch.equal(value, before[name]) for name, value in case.model.state_dict().items())
    assert [parameter.requires_grad for parameter in case.model.parameters()] == flags
    assert not any(module._forward_hooks for module in case.model.modules())


def test_a_run_that_learns_sees(tmp_path: Path) -> None:
    case = open_case(tmp_path, "bert", TaskKind.CLASSIFICATION, num_samples=96)
    for example in case.examples:
        example["labels"] = 1
    learned = _measure(case, joint_steps=20)
    assert learned is not None
    assert not learned.settings.is_blind
    assert learned.settings.drop > 0.05
    assert not joint_warnings(ProfilingConfig(**SETTINGS), learned)


def test_a_drop_within_noise_is_blind_however_many_steps_it_took() -> None:
    random = np.random.default_rng(0)
    steps = [_step(*random.normal(size=8).tolist()) for _ in range(24)]
    layers = [LayerSpec(layer="a", block=0, role=Role.MLP_UP, in_features=4, out_features=4, input_group="a")]
    guessed = module._shared_out(steps, layers, ProfilingConfig(**SETTINGS), samples=200)
    assert guessed.settings.drop > 0
    assert guessed.settings.is_blind
    assert "joint run is blind" in joint_warnings(ProfilingConfig(**SETTINGS), guessed)[0]


def test_no_sample_is_in_two_batches_and_too_few_samples_measure_nothing(tmp_path: Path) -> None:
    batches = module._batches(50, ProfilingConfig(**SETTINGS))
    assert len(batches) == 11
    assert len({sample for batch in batches for sample in batch}) == 44
    assert len(module._batches(35, ProfilingConfig(**SETTINGS))) == 8
    case = open_case(tmp_path, "bert", TaskKind.CLASSIFICATION, num_samples=35)
    assert _measure(case) is None
    assert _measure(case, joint_steps=0) is None
    assert "no joint run: 8 steps at least take 36 samples" in joint_warnings(ProfilingConfig(**SETTINGS), None)[0]
    assert joint_warnings(ProfilingConfig(joint_steps=0), None) == []


def test_what_counts_are_the_steps_up_to_the_lowest_loss() -> None:
    steps = [_step(0.2, 0.2, share=3.0), _step(0.3, 0.3, share=4.0), _step(-0.1, -0.1, share=50.0), _step(0.05, 0.05, share=6.0)]
    assert module._best(steps) == 2
    assert not module._has_risen(steps)
    assert module._has_risen([*steps, _step(-0.5, -0.5)])
    # A rise within noise does not end the run.
    assert not module._has_risen([*steps, _step(-3.0, 2.0)])


def test_a_run_whose_first_step_diverges_is_blind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = open_case(tmp_path, "bert", TaskKind.CLASSIFICATION, num_samples=48)
    monkeypatch.setattr(module, "_RATES", (1e30, 1e30))
    found = _measure(case)
    assert found is not None
    assert found.settings.is_blind
    assert found.settings.steps <= 1
