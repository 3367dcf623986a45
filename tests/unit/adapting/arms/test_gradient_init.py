"""The start that looks where the whitened gradient points."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from layerlens.adapting.arms.gradient_init import DAMPING, gradient_directions
from layerlens.adapting.arms.ranks import with_ranks
from layerlens.models.weights import is_transposed
from tests.unit.adapting.arms.settings import Setting, made
from tests.unit.adapting.arms.test_eva import start_of


def root_of_inverse(gram: Tensor) -> Tensor:
    """The symmetric one, damped."""
    values, vectors = torch.linalg.eigh(gram.double())
    return vectors @ torch.diag((values + DAMPING * values.mean()).rsqrt()) @ vectors.t()


def plainly(setting: Setting, layer: str, rank: int) -> Tensor:
    """Directions from autograd's own weight gradient and Grams of every token, one sample at a time."""
    model, task = setting.task_model.model.eval(), setting.data.task
    module = model.get_submodule(layer)
    weight = module.weight
    weight.requires_grad_(True)
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []

    def keep(_: object, args: tuple[Tensor, ...], output: Tensor) -> None:
        inputs.append(args[0].detach().flatten(0, -2))
        output.register_hook(lambda gradient: outputs.append(gradient.flatten(0, -2)))

    handle = module.register_forward_hook(keep)
    for index in setting.part.train:
        batch = task.collate([setting.data.examples[index]])
        task.per_sample_loss(model(**task.model_inputs(batch)), batch).sum().backward()
    handle.remove()
    gradient = weight.grad.t() if is_transposed(module) else weight.grad
    weight.grad = None
    a, b = torch.cat(inputs), torch.cat(outputs)
    root = root_of_inverse(a.t() @ a / len(a))
    _, _, right = torch.linalg.svd(root_of_inverse(b.t() @ b / len(b)) @ gradient.double() @ root)
    rows = right[:rank] @ root
    return rows / rows.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("family", ["bert", "gpt2", "vit"])
def test_directions_are_those_of_the_whitened_gradient(family: str, tmp_path: Path) -> None:
    setting = made(tmp_path, family)
    job = setting.job("gradient-init", "out")
    ranks = {entry.layer: 2 for entry in setting.plan.layers}
    found = gradient_directions(job, ranks)
    for layer in list(ranks)[:: len(ranks) // 4]:
        cosines = (found[layer].double() * plainly(setting, layer, 2)).sum(dim=1).abs()
        torch.testing.assert_close(cosines, torch.ones_like(cosines), atol=2e-3, rtol=0)


def test_rows_start_as_long_as_usual_and_the_update_is_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setting = made(tmp_path)
    start = start_of(setting, "out", "gradient-init", monkeypatch)
    usual = start_of(setting, "usual", "uniform-rslora", monkeypatch)
    assert start.keys() == usual.keys()
    lengths = torch.cat([down.norm(dim=1) for down, _ in usual.values()]).square().mean()
    for layer, (down, up) in start.items():
        assert not up.any()
        assert down.shape == usual[layer][0].shape
        torch.testing.assert_close(down.norm(dim=1).square(), torch.full((len(down),), 1 / 3))
    assert abs(float(lengths) - 1 / 3) < 0.1


def test_directions_that_are_not_there_leave_the_usual_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setting = made(tmp_path)
    layer = setting.plan.layers[0].layer
    plan = with_ranks(setting.plan, {layer: 20})
    # One sample of few tokens has a gradient of no higher rank than that.
    part = setting.part.__class__(setting.part.train[:1], setting.part.race, setting.part.test)
    one = Setting(setting.task_model, setting.data, part, plan, setting.folder, {"uniform": plan})
    start = start_of(one, "out", "gradient-init", monkeypatch)[layer][0]
    usual = start_of(one, "usual", "uniform-rslora", monkeypatch)[layer][0]
    same = (start == usual).all(dim=1)
    assert 0 < int(same.sum()) < 20
    assert bool((start.norm(dim=1) > 0.1).all()), "no row starts where it could never learn"
