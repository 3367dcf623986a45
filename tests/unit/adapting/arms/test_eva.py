"""EVA starts from the principal directions of what each layer reads, and ends at the plan's parameters."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from layerlens.adapting.arms import eva
from layerlens.errors import LayerLensError
from tests.unit.adapting.arms.settings import QUICK, Setting, after_training, made
from tests.unit.adapting.plans import kind_of as kind_of_family
from tests.unit.adapting.plans import made_data


def start_of(
    setting: Setting, out: str, name: str, patch: pytest.MonkeyPatch, **options: object
) -> dict[str, tuple[Tensor, Tensor]]:
    """Both factors of every layer before the first step."""
    found: dict[str, tuple[Tensor, Tensor]] = {}

    def look(model: nn.Module) -> None:
        for path, module in model.named_modules():
            if isinstance(module, LoraLayer):
                factors = (module.lora_A["default"].weight, module.lora_B["default"].weight)
                found[path.removeprefix("base_model.model.")] = (factors[0].detach().clone(), factors[1].detach().clone())

    after_training(patch, look, trains=False)
    setting.run(name, out, config=QUICK.model_copy(update={"max_steps": 1}), **options)
    return found


def rows_read(setting: Setting, layer: str) -> Tensor:
    """Every token that the layer reads in all training samples, without padding."""
    rows: list[Tensor] = []
    model = setting.task_model.model
    handle = model.get_submodule(layer).register_forward_hook(lambda _, args, __: rows.append(args[0].flatten(0, -2)))
    with torch.no_grad():
        for index in setting.part.train:
            task = setting.data.task
            model.eval()(**task.model_inputs(task.collate([setting.data.examples[index]])))
    handle.remove()
    return torch.cat(rows)


@pytest.mark.parametrize("family", ["bert", "gpt2", "vit"])
def test_each_layer_starts_from_its_principal_directions(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setting = made(tmp_path, family)
    start = start_of(setting, "out", "eva", monkeypatch)
    usual = start_of(setting, "usual", "uniform-rslora", monkeypatch)
    costs = {entry.layer: entry.in_features + entry.out_features for entry in setting.plan.layers}
    assert sum(costs[layer] * len(down) for layer, (down, _) in start.items()) == setting.plan.params
    explained, explained_usual = [], []
    for layer, (down, up) in start.items():
        assert not up.any()
        rows = rows_read(setting, layer)
        rows = rows - rows.mean(dim=0)
        rank = len(down)
        best = torch.linalg.svdvals(rows)[:rank].square().sum()
        explained.append(float((rows @ torch.linalg.qr(down.t()).Q).square().sum() / best))
        other = usual[layer][0] if layer in usual else torch.randn(rank, rows.shape[1])
        part = rows @ torch.linalg.qr(other.t()).Q
        explained_usual.append(float(part.square().sum() / torch.linalg.svdvals(rows)[: len(other)].square().sum()))
    # PEFT's incremental decomposition stops at a cosine of .99 between two batches, so it comes close and not nearer.
    assert min(explained) > 0.6
    assert max(explained) <= 1.0 + 1e-4
    assert sum(explained) / len(explained) > 0.9 > 2 * sum(explained_usual) / len(explained_usual)


def test_the_start_follows_the_data_and_repeats_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setting = made(tmp_path)
    first, again = (start_of(setting, out, "eva", monkeypatch) for out in ("first", "again"))
    assert all(torch.equal(first[layer][0], again[layer][0]) for layer in first)
    other = Setting(
        setting.task_model,
        made_data(setting.task_model, kind_of_family("bert"), 60, seed=9),
        setting.part,
        setting.plan,
        setting.folder,
    )
    found = start_of(other, "other", "eva", monkeypatch)
    assert any(layer not in found or not torch.equal(first[layer][0], found[layer][0]) for layer in first)


def test_no_layer_gets_more_than_twice_the_rank_that_it_was_given(tmp_path: Path) -> None:
    setting = made(tmp_path)
    arm = setting.run("eva", "out")
    assert arm.trainable_params == setting.plan.params == arm.details["allowed_params"]
    assert arm.details["own_params"] >= setting.plan.params
    given = setting.plan.params / sum(entry.in_features + entry.out_features for entry in setting.plan.layers)
    assert max(arm.details["ranks"].values()) <= eva.RHO * (given + 1)
    assert len(set(arm.details["ranks"].values())) > 1


def test_directions_that_never_settle_end_in_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eva, "MOST_BATCHES", 3)
    with pytest.raises(LayerLensError, match="have not settled after 3 batches"):
        made(tmp_path).run("eva", "out")
