"""Tuning over a quantised base: what is trained comes back over the same base, and over no other by accident."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from layerlens.adapting.base_record import BASE_FILE
from layerlens.adapting.load import load_adapted, load_adapter, open_adapter
from layerlens.adapting.race import race
from layerlens.adapting.tune import tune
from layerlens.artifacts.plan import Plan, save_plan
from layerlens.config import BaseFormat, Precision, RaceConfig, TuneConfig
from layerlens.data.dataset import LoadedData
from layerlens.data.inference import score
from layerlens.data.partition import Partition, partition
from layerlens.errors import ManifestError
from layerlens.models.foreign import quiet
from layerlens.models.load import TaskModel
from layerlens.models.quantised_base import quantization_config
from layerlens.words import TaskKind
from tests.unit.adapting.bases import BASES, COMPRESSED, open_base, save_family
from tests.unit.adapting.mixed_plans import mixed_plan
from tests.unit.adapting.plans import made_data, make_plan, uneven_ranks

KIND = TaskKind.CLASSIFICATION
QUICK = TuneConfig(learning_rate=1e-2, max_steps=5, batch_size=8, precision=Precision.FP32, fit_head=False)


def _made(base: str, folder: Path, num: int = 40) -> tuple[TaskModel, LoadedData, Partition, Plan]:
    save_family("bert", folder)
    plain = open_base(BaseFormat.AS_IS, folder, KIND)
    plan = make_plan(plain, KIND, uneven_ranks(plain))
    return open_base(base, folder, KIND), made_data(plain, KIND, num), partition(num, None, seed=0, has_eval_data=False), plan


def _logits(model: nn.Module, data: LoadedData, part: Partition) -> Tensor:
    batch = data.task.model_inputs(data.task.collate(data.take(part.test[:4])))
    with torch.no_grad():
        logits: Tensor = model(**batch).logits
    return logits


def _loaded_by_hand(base: str, folder: Path) -> PreTrainedModel:
    """The model in some form, as a user loads it."""
    load = AutoModelForSequenceClassification.from_pretrained
    with quiet():
        if base == COMPRESSED:
            open_base(base, folder / "model", KIND)
            stored: PreTrainedModel = load(folder / "model-compressed", num_labels=3)
            return stored
        config = quantization_config(BaseFormat(base), kept=["classifier", "bert.pooler.dense"])
        quantised: PreTrainedModel = load(folder / "model", num_labels=3, quantization_config=config)
        return quantised


@pytest.mark.parametrize("base", BASES)
def test_what_was_trained_comes_back_over_the_same_base_with_identical_logits(base: str, tmp_path: Path) -> None:
    task_model, data, part, plan = _made(base, tmp_path / "model")
    arm = tune(plan, task_model, data, part, (data, part.test), QUICK, out=tmp_path / "out")
    save_plan(tmp_path / "out" / "plan.json", plan)
    assert (arm.trainable_params, arm.head_params) == (plan.params, plan.head_params)
    adapter = tmp_path / "out" / "adapter"
    assert sorted(path.name for path in adapter.iterdir()) == ["adapter_config.json", "adapter_model.safetensors", BASE_FILE]
    named = json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"]
    folder = tmp_path / ("model-compressed" if base == COMPRESSED else "model")
    assert named == str(folder)
    loaded = load_adapted(tmp_path / "out")
    scored = score(loaded, data.task, data.take(sorted(part.test)), batch_size=2 * QUICK.batch_size)
    assert scored["loss"] == arm.metrics["loss"]
    assert torch.equal(_logits(loaded, data, part), _logits(load_adapter(open_adapter(adapter), task_model), data, part))


def test_the_users_own_model_of_a_compressed_folder_serves_as_the_base(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    task_model, data, part, plan = _made(COMPRESSED, tmp_path / "model")
    arm = tune(plan, task_model, data, part, (data, part.test), QUICK, out=tmp_path / "out")
    with quiet():
        own = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model-compressed", num_labels=3, dtype=torch.float32)
    assert not isinstance(own.bert.pooler.dense, nn.Linear), "the head is stored in few bits, too"
    loaded = load_adapted(tmp_path / "out", own)
    assert score(loaded, data.task, data.take(sorted(part.test)), batch_size=2 * QUICK.batch_size)["loss"] == arm.metrics["loss"]
    assert not caplog.records


def test_the_same_adapter_over_the_float_base_gives_other_logits_and_warns(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    task_model, data, part, plan = _made(BaseFormat.INT4_BNB, tmp_path / "model")
    tune(plan, task_model, data, part, (data, part.test), QUICK, out=tmp_path / "out")
    over_base = load_adapter(open_adapter(tmp_path / "out" / "adapter"), task_model)
    assert not caplog.records
    plain = open_base(BaseFormat.AS_IS, tmp_path / "model", KIND)
    over_float = load_adapter(open_adapter(tmp_path / "out" / "adapter"), plain)
    assert not torch.allclose(_logits(over_base, data, part), _logits(over_float, data, part), atol=1e-3)
    assert "trained over the model in int4-bnb and put on the model in its own numbers" in caplog.text


@pytest.mark.parametrize("base", [BaseFormat.INT8_TORCHAO, BaseFormat.INT4_BNB, COMPRESSED])
def test_a_model_in_memory_of_another_form_is_warned_of(base: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _, data, part, plan = _made(BaseFormat.AS_IS, tmp_path / "model")
    plain = open_base(BaseFormat.AS_IS, tmp_path / "model", KIND)
    tune(plan, plain, data, part, (data, part.test), QUICK, out=tmp_path / "out")
    load_adapted(tmp_path / "out", _loaded_by_hand(base, tmp_path))
    assert "trained over the model in its own numbers and put on " in caplog.text
    assert ("a compressed folder" if base == COMPRESSED else f"the model in {base}") in caplog.text


@pytest.mark.parametrize("base", [BaseFormat.INT4_BNB, COMPRESSED])
def test_every_method_and_a_depth_cut_work_over_the_base(base: str, tmp_path: Path) -> None:
    task_model, data, part, _ = _made(base, tmp_path / "model")
    plan = mixed_plan(open_base(BaseFormat.AS_IS, tmp_path / "model", KIND), KIND, blocks=[1])
    arm = tune(plan, task_model, data, part, (data, part.test), QUICK, out=tmp_path / "out")
    assert (arm.trainable_params, arm.frozen_blocks) == (plan.params, 1)
    loaded = load_adapted(tmp_path / "out")
    assert score(loaded, data.task, data.take(sorted(part.test)), batch_size=2 * QUICK.batch_size)["loss"] == arm.metrics["loss"]


@pytest.mark.parametrize("base", BASES)
def test_a_race_runs_over_the_base(base: str, tmp_path: Path) -> None:
    task_model, data, part, plan = _made(base, tmp_path / "model", num=100)
    uniform = make_plan(open_base(BaseFormat.AS_IS, tmp_path / "model", KIND), KIND, 1, name="uniform")
    config = RaceConfig(
        learning_rate=1e-2, batch_size=4, tuning_steps=4, min_steps=2, share=2, precision=Precision.FP32, fit_head=False
    )
    raced = race(plan, {"made": plan, "uniform": uniform}, task_model, data, part, config, state_path=tmp_path / "state.json")
    assert raced.race is not None
    losses = {candidate.name: candidate.held_out_loss for candidate in raced.race.candidates}
    assert losses.keys() == {"made", "uniform"}
    starts = [candidate.start_loss for candidate in raced.race.candidates]
    assert starts[0] != losses["made"]


def test_another_base_is_another_run(tmp_path: Path) -> None:
    save_family("bert", tmp_path / "model")
    found = {base: open_base(base, tmp_path / "model", KIND) for base in (BaseFormat.AS_IS, *BASES)}
    assert len({task_model.identity for task_model in found.values()}) == len(found)
    assert {task_model.checkpoint.hash() for task_model in found.values()} == {found[BaseFormat.AS_IS].identity}


def test_a_damaged_record_is_refused(tmp_path: Path) -> None:
    task_model, data, part, plan = _made(BaseFormat.INT8_TORCHAO, tmp_path / "model")
    tune(plan, task_model, data, part, (data, part.test), QUICK, out=tmp_path / "out")
    path = tmp_path / "out" / "adapter" / BASE_FILE
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "base_format": "int2-none"}))
    with pytest.raises(ManifestError, match="base_format"):
        open_adapter(path.parent)
    path.write_text(json.dumps({**record, "schema_version": 99}))
    with pytest.raises(ManifestError, match="schema version 99"):
        open_adapter(path.parent)


def test_a_folder_that_was_compressed_anew_is_refused_unless_it_is_named(tmp_path: Path) -> None:
    task_model, data, part, plan = _made(COMPRESSED, tmp_path / "model")
    tune(plan, task_model, data, part, (data, part.test), QUICK, out=tmp_path / "out")
    save_plan(tmp_path / "out" / "plan.json", plan)
    weights = tmp_path / "model-compressed" / "model.safetensors"
    tensors = load_file(weights)
    tensors["embeddings.LayerNorm.bias"] += 1
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(ManifestError, match=r"was trained over .* which now has .*; tune again, or name the base to use"):
        load_adapted(tmp_path / "out")
    load_adapted(tmp_path / "out", tmp_path / "model-compressed")
