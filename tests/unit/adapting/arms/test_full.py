"""Full fine-tuning: measured without a copy of the weights in memory, and scored in float32 like every arm."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from layerlens.adapting.arms.full import all_trainable
from layerlens.config import Precision
from layerlens.data.inference import score
from tests.unit.adapting.arms.settings import QUICK, after_training, made
from tests.unit.adapting.plans import tiny_task_model
from tests.unit.adapting.test_attach import assert_same, snapshot
from tests.unit.adapting.test_weights_on_disk import bytes_beside


def test_no_copy_of_the_weights_is_in_memory_while_all_of_them_train(tmp_path: Path) -> None:
    model = made(tmp_path).task_model.model
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    beside = bytes_beside(model)
    with all_trainable(model, tmp_path / "out"):
        largest = max(parameter.nbytes for parameter in model.parameters())
        assert bytes_beside(model) - beside < largest
        assert all(parameter.requires_grad for parameter in model.parameters())
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(1.0)
    assert flags.keys() == dict(model.named_parameters()).keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_its_scores_after_bf16_are_those_of_its_weights_in_float32(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = made(tmp_path, family)
    before = snapshot(setting.task_model.model)
    trained: dict[str, Tensor] = {}

    def look(model: nn.Module) -> None:
        trained.update({name: tensor.clone() for name, tensor in model.state_dict().items()})

    after_training(monkeypatch, look)
    arm = setting.run("full", "out", config=QUICK.model_copy(update={"precision": Precision.BF16}))
    assert_same(before, snapshot(setting.task_model.model))
    plain = tiny_task_model(family, tmp_path / "plain", setting.plan.task.kind).model
    plain.load_state_dict(trained)
    found = score(plain, setting.data.task, setting.data.take(sorted(setting.part.test)), batch_size=2 * QUICK.batch_size)
    assert found == arm.metrics
    assert not any(path.is_file() and path.name != "arm.json" for path in (tmp_path / "out").iterdir())
