"""PEFT makes exactly what the plan says, for every family; what it cannot make is refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from peft.tuners.lora import LoraLayer

from layerlens.adapting.attach import attached
from layerlens.adapting.lora import adapted_modules, check_model, check_realised, lora_config
from layerlens.errors import LayerLensError, ManifestError
from layerlens.words import Method, TaskKind
from tests.unit.adapting.mixed_plans import mixed_plan
from tests.unit.adapting.plans import EVERY_FAMILY, kind_of, make_plan, tiny_task_model, uneven_ranks


@pytest.mark.parametrize("family", EVERY_FAMILY)
def test_realised_ranks_and_parameters_are_the_plans_to_the_unit(family: str, tmp_path: Path) -> None:
    kind = kind_of(family)
    task_model = tiny_task_model(family, tmp_path, kind)
    plan = make_plan(task_model, kind, uneven_ranks(task_model))
    with attached(task_model.model, plan, seed=0) as adapted:
        found = {
            path.removeprefix("base_model.model."): module
            for path, module in adapted.named_modules()
            if isinstance(module, LoraLayer)
        }
        assert {layer: module.r["default"] for layer, module in found.items()} == plan.ranks
        assert {module.scaling["default"] for module in found.values()} == {plan.alpha_over_rank}
        trainable = {name: parameter.numel() for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    of_adapters = sum(count for name, count in trainable.items() if "lora_" in name)
    # The formula of LoRA, not of our code: r · (in + out) on each layer.
    assert of_adapters == sum(entry.size * (entry.in_features + entry.out_features) for entry in plan.layers)
    assert sum(trainable.values()) == of_adapters + plan.head_params


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_a_sequence_classifier_trains_its_head_beside_the_plan(family: str, tmp_path: Path) -> None:
    task_model = tiny_task_model(family, tmp_path, TaskKind.CLASSIFICATION)
    plan = make_plan(task_model, TaskKind.CLASSIFICATION, 2)
    assert plan.head_params > 0
    with attached(task_model.model, plan, seed=0) as adapted:
        trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad and "lora_" not in name}
    assert len(trained) > 0
    assert all(any(head in name for head in plan.head) for name in trained)


def test_alpha_is_whole_where_it_can_be_and_constant_over_rank(tmp_path: Path) -> None:
    task_model = tiny_task_model("bert", tmp_path, TaskKind.CLASSIFICATION)
    plan = make_plan(task_model, TaskKind.CLASSIFICATION, uneven_ranks(task_model))
    config = lora_config(plan, is_transposed=False)
    assert config.r == 3
    assert (config.lora_alpha, type(config.lora_alpha)) == (6, int)
    assert {config.alpha_pattern[key] / rank for key, rank in config.rank_pattern.items()} == {2.0}


def test_the_config_holds_the_lora_of_a_mixed_plan_alone(tmp_path: Path) -> None:
    task_model = tiny_task_model("bert", tmp_path, TaskKind.CLASSIFICATION)
    mixed, plain = (mixed_plan(task_model, TaskKind.CLASSIFICATION, methods) for methods in (tuple(Method), (Method.LORA,)))
    assert lora_config(mixed, is_transposed=False).to_dict() == lora_config(plain, is_transposed=False).to_dict()
    without = mixed_plan(task_model, TaskKind.CLASSIFICATION, (Method.ADAPTER, Method.PREFIX))
    assert lora_config(without, is_transposed=False).target_modules == "dummy-target-modules"


def test_a_plan_of_another_model_is_refused(tmp_path: Path) -> None:
    task_model = tiny_task_model("bert", tmp_path / "one", TaskKind.CLASSIFICATION)
    other = tiny_task_model("bert", tmp_path / "two", TaskKind.CLASSIFICATION, seed=1)
    check_model(make_plan(task_model, TaskKind.CLASSIFICATION, 1), task_model)
    with pytest.raises(ManifestError, match="a plan of another model"):
        check_model(make_plan(task_model, TaskKind.CLASSIFICATION, 1), other)


def test_every_layer_that_does_not_fit_is_named(tmp_path: Path) -> None:
    task_model = tiny_task_model("bert", tmp_path, TaskKind.CLASSIFICATION)
    plan = make_plan(task_model, TaskKind.CLASSIFICATION, 1)
    wrong = [
        plan.layers[0].model_copy(update={"layer": "bert.encoder.layer.9.output.dense"}),
        plan.layers[1].model_copy(update={"out_features": 7}),
        *plan.layers[2:],
    ]
    with pytest.raises(ManifestError) as error:
        adapted_modules(plan.model_copy(update={"layers": wrong, "head": ["absent"]}), task_model.model)
    for part in ("bert.encoder.layer.9.output.dense: the model has no such layer", "the plan says 7 × 32", "absent"):
        assert part in str(error.value)


def test_a_model_that_is_not_what_the_plan_says_is_never_trained(tmp_path: Path) -> None:
    task_model = tiny_task_model("bert", tmp_path, TaskKind.CLASSIFICATION)
    plan, lower = (make_plan(task_model, TaskKind.CLASSIFICATION, rank) for rank in (2, 1))
    with attached(task_model.model, plan, seed=0) as adapted:
        check_realised(plan, adapted)
        with pytest.raises(LayerLensError, match="parameters are trainable, the plan has"):
            check_realised(plan.model_copy(update={"head_params": plan.head_params + 1}), adapted)
        with pytest.raises(LayerLensError, match="rank 2 in place of 1"):
            check_realised(lower, adapted)
        with pytest.raises(LayerLensError, match="alpha / r"):
            check_realised(plan.model_copy(update={"alpha_over_rank": 4.0}), adapted)
        adapted.base_model.model.bert.embeddings.word_embeddings.weight.requires_grad_(True)
        with pytest.raises(LayerLensError, match="PEFT did not realise the plan"):
            check_realised(plan, adapted)


def test_attaching_checks_what_peft_made(tmp_path: Path) -> None:
    task_model = tiny_task_model("bert", tmp_path, TaskKind.CLASSIFICATION)
    plan = make_plan(task_model, TaskKind.CLASSIFICATION, 2).model_copy(update={"head_params": 1})
    with pytest.raises(LayerLensError, match="PEFT did not realise the plan"), attached(task_model.model, plan, seed=0):
        pytest.fail("a model that is not the plan's was handed out")
    assert not any(isinstance(module, LoraLayer) for module in task_model.model.modules())
