"""Proxies against the same steps written out on whole forward passes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from layerlens.config import ProfilingConfig
from layerlens.errors import NotFiniteError
from layerlens.nn.low_rank_probe import LowRankProbe
from layerlens.profiling import proxies as module
from layerlens.profiling.proxies import measure_proxies
from layerlens.words import TaskKind
from tests.unit.profiling.cases import Case, open_case

SETTINGS = {"proxy_steps": 3, "proxy_batch_size": 4, "proxy_held_out": 8, "proxy_rank": 2, "proxy_learning_rate": 0.02}


def _measure(case: Case, **settings: object) -> module.Proxies | None:
    config = ProfilingConfig(**(SETTINGS | settings))
    lengths = [len(example.get("input_ids", [0])) for example in case.examples]
    return measure_proxies(case.model, case.layout.layers, case.layout.blocks, case.task, case.examples, lengths, config)


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        ("bert", TaskKind.CLASSIFICATION),
        ("gpt2", TaskKind.CAUSAL_LM),
        ("llama", TaskKind.CLASSIFICATION),
        ("vit", TaskKind.IMAGE_CLASSIFICATION),
    ],
    ids=lambda value: str(value),
)
def test_a_proxy_is_what_the_same_steps_gain_without_any_replay(tmp_path: Path, family: str, kind: TaskKind) -> None:
    case = open_case(tmp_path, family, kind, num_samples=20)
    found = _measure(case, proxy="all")
    assert found is not None
    config = ProfilingConfig(**SETTINGS)
    train, held_out = module._split(20, config)
    for spec in case.layout.layers:
        probe = LowRankProbe(
            spec.in_features, spec.out_features, 2, scaling=module._SCALING, generator=torch.Generator().manual_seed(0)
        )
        optimizer = torch.optim.Adam(probe.parameters(), lr=0.02)
        before = _mean_loss(case, held_out)
        with probe.beside(case.model.get_submodule(spec.layer)):
            for batch in train:
                optimizer.zero_grad()
                values = case.task.collate([case.examples[sample] for sample in batch])
                case.task.per_sample_loss(case.model(**case.task.model_inputs(values)), values).mean().backward()
                optimizer.step()
            after = _mean_loss(case, held_out)
        assert found.values[spec.layer] == pytest.approx(before - after, rel=2e-2, abs=2e-5)
    case.model.zero_grad()
    assert max(abs(value) for value in found.values.values()) > 1e-3


def _mean_loss(case: Case, samples: list[int]) -> float:
    with torch.no_grad():
        values = case.task.collate([case.examples[sample] for sample in samples])
        return case.task.per_sample_loss(case.model(**case.task.model_inputs(values)), values).double().mean().item()


@pytest.mark.parametrize(("num_samples", "num_held_out"), [(100, 8), (9, 4), (2, 1)])
def test_samples_trained_on_and_scored_are_disjoint(num_samples: int, num_held_out: int) -> None:
    train, held_out = module._split(num_samples, ProfilingConfig(**SETTINGS))
    assert len(train) == 3
    assert len(held_out) == num_held_out
    assert not {sample for batch in train for sample in batch} & set(held_out)
    assert all(len(batch) == len(set(batch)) > 0 for batch in train)


def test_too_few_samples_or_proxies_off_measure_nothing(tmp_path: Path) -> None:
    case = open_case(tmp_path, "bert", TaskKind.CLASSIFICATION)
    assert _measure(case, proxy="off") is None
    case.examples = case.examples[:1]
    assert _measure(case) is None


def test_a_few_layers_are_measured_and_the_rest_interpolated(tmp_path: Path) -> None:
    case = open_case(tmp_path, "bert", TaskKind.CLASSIFICATION, num_samples=20)
    found = _measure(case, proxy="few", proxy_steps=40)
    assert found is not None
    assert len(found.measured) == found.settings.num_measured == 6
    assert not found.settings.is_complete
    assert set(found.values) == {spec.layer for spec in case.layout.layers}
    for role in {spec.role for spec in case.layout.layers}:
        one, other = (found.values[spec.layer] for spec in case.layout.layers if spec.role == role)
        assert one == other


@pytest.mark.parametrize("is_alike", [True, False])
def test_proxies_see_where_held_out_samples_gain_and_are_blind_where_they_do_not(tmp_path: Path, is_alike: bool) -> None:
    case = open_case(tmp_path, "bert", TaskKind.CLASSIFICATION, num_samples=40)
    settings = {"proxy": "few", "proxy_steps": 5, "proxy_held_out": 20}
    _, held_out = module._split(40, ProfilingConfig(**(SETTINGS | settings)))
    for sample, example in enumerate(case.examples):
        # What is learned on one class helps that class, and harms another.
        example["labels"] = 0 if is_alike or sample not in held_out else 1
    found = _measure(case, **settings)
    assert found is not None
    assert found.settings.is_blind is not is_alike


@pytest.mark.parametrize(
    ("drops", "is_seen"), [([1.0, 1.1, 0.9], True), ([1.0, -1.1, 0.2], False), ([-1.0, -1.1, -0.9], False), ([1.0], False)]
)
def test_a_drop_counts_where_it_is_above_zero_by_two_standard_errors(drops: list[float], is_seen: bool) -> None:
    assert module._is_significant(np.array(drops)) is is_seen


def test_the_model_is_left_as_it_was(tmp_path: Path) -> None:
    case = open_case(tmp_path, "bert", TaskKind.CLASSIFICATION, num_samples=12)
    before = {name: value.clone() for name, value in case.model.state_dict().items()}
    _measure(case, proxy="few")
    assert all(torch.equal(value, before[name]) for name, value in case.model.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in case.model.parameters())
    assert not any(part._forward_hooks or "forward" in part.__dict__ for part in case.model.modules())


def test_steps_that_end_in_nan_name_the_layer_and_the_rate(tmp_path: Path) -> None:
    case = open_case(tmp_path, "bert", TaskKind.REGRESSION, num_samples=12)
    with pytest.raises(NotFiniteError, match=r"proxy of layer bert\..* lower proxy_learning_rate"):
        _measure(case, proxy="all", proxy_learning_rate=1e25)
