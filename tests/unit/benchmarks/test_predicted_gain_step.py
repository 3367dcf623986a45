"""One measured step of a layer alone, against the update's definition by symmetric roots and against the loss done by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from predicted_gain_step import MANY_ROWS, SHORTEST, best_updates, highest, step_drops, step_predictors, update

from layerlens.linalg.gram import GramSum
from layerlens.words import Role, TaskKind
from tests.unit.profiling.cases import open_case

FAMILIES = [("bert", TaskKind.CLASSIFICATION), ("llama", TaskKind.CAUSAL_LM), ("vit", TaskKind.IMAGE_CLASSIFICATION)]


def _root_of_inverse(gram: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(gram)
    return (vectors / np.sqrt(values)) @ vectors.T


def test_the_update_is_that_of_symmetric_roots() -> None:
    torch.manual_seed(0)
    inputs, outputs = torch.randn(40, 6), torch.randn(40, 5) @ torch.randn(5, 5)
    gradient = torch.randn(5, 6)
    sums, grams = [], []
    for rows, count in ((inputs, 40), (outputs, 8)):
        one = GramSum(rows.shape[1], MANY_ROWS)
        one.add(rows)
        sums.append(one)
        mean = (rows.double().T @ rows.double() / count).numpy()
        grams.append(mean + 0.1 * np.trace(mean) / len(mean) * np.eye(len(mean)))
    left, right = _root_of_inverse(grams[1]), _root_of_inverse(grams[0])
    u, s, v = np.linalg.svd(left @ gradient.double().numpy() @ right, full_matrices=False)
    expected = -left @ (u[:, :2] * s[:2]) @ v[:2] @ right
    assert update(gradient, sums[0], sums[1], 2, num_samples=8, damping=0.1).numpy() == pytest.approx(
        expected, rel=1e-4, abs=1e-5
    )


def test_the_walk_finds_the_highest_of_either_side_and_leaves_losses_that_are_none() -> None:
    for top in (-9, -3, 2):
        assert highest(lambda power, top=top: -float((power - top) ** 2), -3) == (0.0, top)
    assert highest(lambda power: -math.inf if power > -6 else float(-power), -3) == (12.0, SHORTEST)


@pytest.mark.parametrize(("family", "kind"), FAMILIES, ids=lambda value: str(value))
def test_a_drop_is_that_of_the_loss_with_the_step_in_the_weight(tmp_path: Path, family: str, kind: TaskKind) -> None:
    case = open_case(tmp_path, family, kind, num_samples=32)
    names = [spec.layer for spec in case.layout.layers]
    before = {name: value.clone() for name, value in case.model.state_dict().items()}
    drops = step_drops(case.model, names, case.task, case.examples[:16], case.examples[:16], rank=2)
    assert all(torch.equal(value, before[name]) for name, value in case.model.state_dict().items())
    assert not any(module._forward_hooks for module in case.model.modules())
    assert list(drops) == names
    assert max(drops.values()) > 0.0

    def loss() -> float:
        batch = case.task.collate(case.examples[:16])
        with torch.no_grad():
            return case.task.per_sample_loss(case.model(**case.task.model_inputs(batch)), batch).double().mean().item()

    case.model.eval()
    start = loss()
    updates = best_updates(case.model.requires_grad_(False), names, case.task, case.examples[:16], rank=2)
    for name in names[:3]:
        weight = case.model.get_submodule(name).weight
        by_hand = []
        for power in range(SHORTEST, 5):
            weight.data.copy_(before[f"{name}.weight"] + 2.0**power * updates[name])
            by_hand.append(start - loss())
        weight.data.copy_(before[f"{name}.weight"])
        assert any(abs(drops[name] - one) < 1e-5 for one in [0.0, *by_hand])
        assert drops[name] <= max(0.0, *by_hand) + 1e-5


def test_plans_are_scored_by_the_steps_of_their_layers_whatever_their_ranks(tmp_path: Path) -> None:
    layers = open_case(tmp_path, "bert", TaskKind.CLASSIFICATION, num_samples=8).layout.layers
    query = next(spec for spec in layers if spec.role is Role.ATTENTION_QUERY and spec.block == 0)
    up = next(spec for spec in layers if spec.role is Role.MLP_UP and spec.block == 0)
    above = next(spec for spec in layers if spec.role is Role.MLP_UP and spec.block == 1)
    steps = {spec.layer: 0.0 for spec in layers} | {query.layer: 0.4, up.layer: 0.5, above.layer: 0.36}
    plans = {"low": {query.layer: 1, up.layer: 8}, "both": {up.layer: 2, above.layer: 2}}
    found = {predictor.name: predictor.scores.tolist() for predictor in step_predictors(layers, plans, steps)}
    assert found["additive, one measured step"] == pytest.approx([0.9, 0.86])
    assert found["additive, attention's inputs × 0.5, one measured step"] == pytest.approx([0.7, 0.86])
    assert found["√ by block, one measured step"] == pytest.approx([0.9**0.5, 0.5**0.5 + 0.6])
