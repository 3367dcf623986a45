"""Without dropout nothing is drawn: not by modules, not by numbers of a block's own, not when activations are computed again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import BartConfig, BartForSequenceClassification

from layerlens.adapting.attach import attached
from layerlens.adapting.dropout import rest_, without_dropout
from layerlens.adapting.training import train
from layerlens.adapting.tune import tune
from layerlens.config import BaseFormat, Precision, TrainingConfig, TuneConfig
from layerlens.data.partition import partition
from layerlens.models.checkpoint import open_checkpoint
from layerlens.models.load import load_task_model
from layerlens.words import TaskKind
from tests.unit.adapting.bases import need, save_family
from tests.unit.adapting.plans import info_of, made_data, make_plan, tiny_task_model

KIND = TaskKind.CLASSIFICATION


def _bart() -> BartForSequenceClassification:
    torch.manual_seed(0)
    config = BartConfig(
        vocab_size=50, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=24, decoder_ffn_dim=24, dropout=0.5, activation_dropout=0.5, max_position_embeddings=32, num_labels=2,
        eos_token_id=2, pad_token_id=1, decoder_start_token_id=2,
    )  # fmt: skip
    return BartForSequenceClassification(config)


def _gradients(model: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    model(input_ids=inputs).logits.square().sum().backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def test_checkpointed_blocks_that_draw_by_numbers_of_their_own_draw_nothing() -> None:
    model = _bart()
    inputs = torch.tensor([[5, 6, 7, 8, 2], [9, 10, 11, 12, 2]])
    expected = _gradients(model.eval(), inputs)
    model.activation_checkpointing_enable({"use_reentrant": False})
    block = model.model.encoder.layers[0]
    with without_dropout(model):
        model.train()
        rest_(model)
        assert block.training
        assert block.dropout == 0.0
        found = _gradients(model, inputs)
    assert block.dropout == 0.5
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)


def test_an_int8_base_multiplies_as_its_library_trains(tmp_path: Path) -> None:
    need(BaseFormat.INT8_BNB)
    checkpoint = open_checkpoint(str(save_family("bert", tmp_path / "model")))
    model = load_task_model(checkpoint, info_of(KIND), seed=0, base_format=BaseFormat.INT8_BNB).model
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    model.config.attention_probs_dropout_prob = 0.0
    inputs = torch.tensor([[5, 6, 7, 8, 2], [9, 10, 11, 12, 2]])
    as_the_library_trains = _gradients(model.train(), inputs)
    rest_(model)
    found = _gradients(model, inputs)
    assert found
    assert all(torch.equal(found[name], gradient) for name, gradient in as_the_library_trains.items())
    # It would round activations too.
    rounded = _gradients(model.eval(), inputs)
    assert not all(torch.equal(rounded[name], gradient) for name, gradient in found.items())


def _is_plain() -> bool:
    return torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed() and not torch.backends.cuda.flash_sdp_enabled()


@pytest.mark.parametrize(
    ("changes", "is_plain"), [({}, True), ({"dropout": True}, False), ({"precision": Precision.FP32}, False)]
)
def test_race_and_tuning_run_take_plain_attention_in_bfloat16_without_dropout(
    changes: dict[str, Any], is_plain: bool, tmp_path: Path
) -> None:
    task_model = tiny_task_model("bert", tmp_path / "base", KIND)
    data, part = made_data(task_model, KIND, 40), partition(40, None, seed=0, has_eval_data=False)
    plan = make_plan(task_model, KIND, 2)
    seen: list[bool] = []
    layer = next(path for path, module in task_model.model.named_modules() if path.endswith("attention.self"))
    task_model.model.get_submodule(layer).register_forward_hook(
        lambda *_: seen.append(_is_plain()) if torch.is_grad_enabled() else None
    )
    options = {"precision": Precision.BF16, "learning_rate": 1e-3, "batch_size": 8, "fit_head": False} | changes
    with attached(task_model.model, plan, seed=0) as adapted:
        batches = [list(range(8)), list(range(8, 16))]
        train(adapted, data.task, data.examples, batches, TrainingConfig.model_validate(options), seed=0)
    assert seen == [is_plain] * 2
    seen.clear()
    tune(plan, task_model, data, part, (data, part.test), TuneConfig(max_steps=2, **options), out=tmp_path / "out")
    assert seen == [is_plain] * 2
    assert not _is_plain()


def test_the_race_draws_nothing_either(tmp_path: Path) -> None:
    task_model = tiny_task_model("bert", tmp_path, KIND)
    data = made_data(task_model, KIND, 32)
    batches = [list(range(8)), list(range(8, 16))]

    def losses(seed: int, config: TrainingConfig) -> list[float]:
        with attached(task_model.model, make_plan(task_model, KIND, 2), seed=0) as adapted:
            return train(adapted, data.task, data.examples, batches, config, seed=seed)

    still = TrainingConfig(learning_rate=1e-2, precision=Precision.FP32)
    assert losses(0, still) == losses(1, still)
    drawn = still.model_copy(update={"dropout": True})
    assert losses(0, drawn) != losses(1, drawn)


def test_a_tuning_run_learns_the_same_with_its_activations_computed_again(tmp_path: Path) -> None:
    config = TuneConfig(
        learning_rate=1e-2, max_steps=6, batch_size=8, precision=Precision.FP32, fit_head=False, dropout=False
    )  # fmt: skip
    task_model = tiny_task_model("bert", tmp_path / "base", KIND)
    data, part = made_data(task_model, KIND, 40), partition(40, None, seed=0, has_eval_data=False)
    plan = make_plan(task_model, KIND, 2)
    adapters = []
    for name, again in (("plain", False), ("again", True)):
        asked = config.model_copy(update={"gradient_checkpointing": again})
        tune(plan, task_model, data, part, (data, part.test), asked, out=tmp_path / name)
        adapters.append(load_file(tmp_path / name / "adapter" / "adapter_model.safetensors"))
    for name, tensor in adapters[0].items():
        torch.testing.assert_close(adapters[1][name], tensor, rtol=0, atol=1e-6)
