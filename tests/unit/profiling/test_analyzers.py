"""The analyzers give the very numbers of the profile."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from layerlens.errors import ConfigError
from layerlens.profiling.analyzers import FisherInformationAnalyzer, GradientEnergyAnalyzer, ProxyAnalyzer
from layerlens.words import TaskKind
from tests.unit.profiling.cases import Case, open_case, per_sample_gradients


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return open_case(tmp_path, "bert", TaskKind.CLASSIFICATION, num_samples=12)


def test_gradient_energy_is_the_debiased_norm_of_the_mean_gradient(case: Case) -> None:
    scores = GradientEnergyAnalyzer(batch_size=5).analyze(case.model, case.layout, case.task, case.examples)
    assert list(scores) == [spec.layer for spec in case.layout.layers]
    for layer, gradients in per_sample_gradients(case).items():
        noise = gradients.square().sum(dim=(1, 2)).mean().item() / 12
        energy = gradients.mean(dim=0).square().sum().item() - noise
        assert scores[layer] == pytest.approx(energy, rel=1e-3, abs=1e-4 * noise)


def test_fisher_information_is_the_mean_squared_norm(case: Case) -> None:
    scores = FisherInformationAnalyzer(batch_size=5).analyze(case.model, case.layout, case.task, case.examples)
    for layer, gradients in per_sample_gradients(case).items():
        assert scores[layer] == pytest.approx(gradients.square().sum(dim=(1, 2)).mean().item(), rel=1e-4)


def test_sampled_labels_give_another_fisher(case: Case) -> None:
    empirical, sampled = (
        FisherInformationAnalyzer(fisher_labels=labels).analyze(case.model, case.layout, case.task, case.examples)
        for labels in ("empirical", "true")
    )
    assert any(sampled[layer] != pytest.approx(empirical[layer], rel=1e-2) for layer in sampled)


def test_proxies_score_every_layer(case: Case) -> None:
    analyzer = ProxyAnalyzer(proxy="all", proxy_steps=2, proxy_batch_size=4, proxy_held_out=6, proxy_learning_rate=0.02)
    scores = analyzer.analyze(case.model, case.layout, case.task, case.examples)
    assert list(scores) == [spec.layer for spec in case.layout.layers]
    assert len(set(scores.values())) == len(scores)


def test_proxies_without_anything_to_measure_are_an_error(case: Case) -> None:
    with pytest.raises(ConfigError, match="proxy is off and there are 12 examples"):
        ProxyAnalyzer(proxy="off").analyze(case.model, case.layout, case.task, case.examples)


def test_an_option_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValidationError, match="batchsize"):
        GradientEnergyAnalyzer(batchsize=5)
