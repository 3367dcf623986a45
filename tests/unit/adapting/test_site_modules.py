"""Bottlenecks and prefixes go on beside LoRA, every part learns, and the base is afterwards what it was."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest
import torch

from layerlens.adapting.attach import attached
from layerlens.adapting.frozen_blocks import FrozenBlocks
from layerlens.adapting.lora import check_realised
from layerlens.adapting.site_modules import check_sites, site_modules, site_parameters, sites_attached, trained_identity
from layerlens.errors import LayerLensError, ManifestError, UnsupportedModelError
from layerlens.words import Method, TaskKind
from tests.unit.adapting.mixed_plans import PREFIX_FAMILIES, inputs_of, logits_of, mixed_plan, randomise_
from tests.unit.adapting.plans import EVERY_FAMILY, kind_of, tiny_task_model
from tests.unit.adapting.test_attach import assert_same, perturb, snapshot

METHODS = (Method.LORA, Method.ADAPTER, Method.PREFIX)
MIXES = [mix for count in (1, 2, 3) for mix in combinations(METHODS, count)]


def methods_of(family: str) -> tuple[Method, ...]:
    return METHODS if family in PREFIX_FAMILIES else (Method.LORA, Method.ADAPTER)


@pytest.mark.parametrize("family", EVERY_FAMILY)
def test_a_mixed_plan_leaves_the_base_bit_identical(family: str, tmp_path: Path) -> None:
    kind = kind_of(family)
    task_model = tiny_task_model(family, tmp_path, kind)
    before, implementation = snapshot(task_model.model), task_model.model.config._attn_implementation
    with attached(task_model.model, mixed_plan(task_model, kind, methods_of(family)), seed=0) as adapted:
        adapted.train()
        perturb(adapted)
    assert_same(before, snapshot(task_model.model))
    assert task_model.model.config._attn_implementation == implementation
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in task_model.model.modules())


@pytest.mark.parametrize("family", EVERY_FAMILY)
def test_realised_parameters_are_the_plans_to_the_unit(family: str, tmp_path: Path) -> None:
    kind = kind_of(family)
    task_model = tiny_task_model(family, tmp_path, kind)
    plan = mixed_plan(task_model, kind, methods_of(family))
    with attached(task_model.model, plan, seed=0) as adapted:
        counts = {name: parameter.numel() for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    # The formulas of the methods, not of our code.
    bottlenecks = sum(2 * 32 * 3 + 3 + 32 for entry in plan.layers if entry.method is Method.ADAPTER)
    prefixes = sum(2 * 2 * entry.kv_features for entry in plan.layers if entry.method is Method.PREFIX)
    assert sum(count for name, count in counts.items() if ".layerlens_bottleneck." in name) == bottlenecks > 0
    assert sum(count for name, count in counts.items() if ".layerlens_prefix." in name) == prefixes
    assert sum(counts.values()) == plan.params + plan.head_params


@pytest.mark.parametrize("mix", MIXES, ids=lambda mix: "+".join(mix))
@pytest.mark.parametrize("family", EVERY_FAMILY)
def test_every_part_of_every_mix_learns(family: str, mix: tuple[Method, ...], tmp_path: Path) -> None:
    if not set(mix) <= set(methods_of(family)):
        pytest.skip("this family's attention cannot have prefixes")
    kind = kind_of(family)
    task_model = tiny_task_model(family, tmp_path, kind)
    with attached(task_model.model, mixed_plan(task_model, kind, mix), seed=0) as adapted:
        # At the start the up projections are zero and hide the down projections from the loss.
        randomise_(adapted)
        adapted.train()
        output = adapted(**inputs_of(kind)).logits
        output.square().sum().backward()
        silent = [
            name
            for name, parameter in adapted.named_parameters()
            if parameter.requires_grad and (parameter.grad is None or not parameter.grad.abs().sum() > 0)
        ]
    # Softmax does not change when all keys move alike, so a key's bias is nobody's gain; weights are.
    assert silent == []


def test_sites_that_two_plans_share_start_alike_whatever_else_they_hold(tmp_path: Path) -> None:
    kind = TaskKind.CLASSIFICATION
    task_model = tiny_task_model("bert", tmp_path, kind)
    starts = []
    for mix, size in (((Method.ADAPTER, Method.PREFIX), 2), (METHODS, 3)):
        plan = mixed_plan(task_model, kind, mix, bottleneck=size, tokens=size)
        with attached(task_model.model, plan, seed=3):
            parameters = site_parameters(task_model.model, site_modules(plan))
            starts.append({name: parameter.detach().clone() for name, parameter in parameters.items()})
    small, large = starts
    assert small.keys() == large.keys()
    for name in (name for name in small if name.endswith((".down", ".keys"))):
        assert torch.equal(large[name][:2], small[name])
    first, second = (name for name in small if name.endswith(".down") and "layer.0" in name)
    assert not torch.equal(small[first], small[second])


def test_bottlenecks_start_at_the_base_model(tmp_path: Path) -> None:
    kind = TaskKind.CAUSAL_LM
    task_model = tiny_task_model("gpt2", tmp_path, kind)
    base = logits_of(task_model.model, kind)
    with attached(task_model.model, mixed_plan(task_model, kind, (Method.LORA, Method.ADAPTER)), seed=0) as adapted:
        assert torch.equal(logits_of(adapted, kind), base)
        randomise_(adapted)
        assert not torch.allclose(logits_of(adapted, kind), base)


def test_a_bottleneck_stands_behind_the_lora_of_its_layer(tmp_path: Path) -> None:
    kind = TaskKind.CLASSIFICATION
    task_model = tiny_task_model("bert", tmp_path, kind)
    with attached(task_model.model, mixed_plan(task_model, kind, (Method.LORA, Method.ADAPTER)), seed=0) as adapted:
        randomise_(adapted)
        layer = task_model.model.bert.encoder.layer[1].output.dense
        inputs = torch.randn(2, 5, 64)
        down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        summed = inputs @ (layer.base_layer.weight + 2.0 * up @ down).T + layer.base_layer.bias
        own = layer.layerlens_bottleneck
        inner = torch.nn.functional.gelu(summed @ own.down.T + own.down_bias)
        torch.testing.assert_close(layer(inputs), summed + inner @ own.up.T + own.up_bias, rtol=1e-4, atol=1e-4)


def test_a_model_without_the_sites_of_a_plan_is_not_touched(tmp_path: Path) -> None:
    kind = TaskKind.CLASSIFICATION
    task_model = tiny_task_model("bert", tmp_path, kind)
    before = snapshot(task_model.model)
    plan = mixed_plan(task_model, kind, (Method.ADAPTER, Method.PREFIX))
    wrong = [
        entry.model_copy(update={"layer": f"{entry.layer}.absent"} if entry.method is Method.PREFIX else {"out_features": 7})
        for entry in plan.layers
    ]
    broken = plan.model_copy(update={"layers": wrong})
    with pytest.raises(ManifestError) as error, attached(task_model.model, broken, seed=0):
        pytest.fail("a model without the sites was handed out")
    assert "the model gives out 32 features, the plan says 7" in str(error.value)
    assert "absent: the model has no such attention" in str(error.value)
    assert "\n" not in str(error.value)
    assert_same(before, snapshot(task_model.model))


def test_a_prefix_on_an_attention_outside_the_interface_is_refused_by_name(tmp_path: Path) -> None:
    task_model = tiny_task_model("gpt_neo", tmp_path, TaskKind.CAUSAL_LM)
    plan = mixed_plan(task_model, TaskKind.CAUSAL_LM, METHODS)
    with pytest.raises(UnsupportedModelError) as error, attached(task_model.model, plan, seed=0):
        pytest.fail("a model that ignores its prefixes was handed out")
    for part in ("transformer.h.0.attn.attention", "GPTNeoSelfAttention", "plan again without prefix in --methods"):
        assert part in str(error.value)


def test_what_was_made_is_compared_with_the_plan(tmp_path: Path) -> None:
    kind = TaskKind.CLASSIFICATION
    task_model = tiny_task_model("bert", tmp_path, kind)
    plan, wider = mixed_plan(task_model, kind), mixed_plan(task_model, kind, bottleneck=5)
    without = mixed_plan(task_model, kind, (Method.LORA, Method.ADAPTER))
    with attached(task_model.model, plan, seed=0) as adapted:
        check_realised(plan, adapted)
        with pytest.raises(LayerLensError, match=r"dense\.layerlens_bottleneck: size 3 in place of 5"):
            check_realised(wider, adapted)
        with pytest.raises(LayerLensError, match=r"self\.layerlens_prefix: size 2 in place of 0"):
            check_realised(without, adapted)
        with pytest.raises(ManifestError, match="already carries adapter; load it anew"):
            check_sites(site_modules(plan), task_model.model)


def test_an_error_while_sites_go_on_leaves_the_base_as_it_was(tmp_path: Path) -> None:
    kind = TaskKind.CLASSIFICATION
    task_model = tiny_task_model("bert", tmp_path, kind)
    before = snapshot(task_model.model)
    sites = site_modules(mixed_plan(task_model, kind))
    with (
        pytest.raises(AttributeError),
        sites_attached(task_model.model, [*sites, sites[0].model_copy(update={"layer": "bert.absent"})], seed=0),
    ):
        pytest.fail("a site that is not there was attached")
    assert_same(before, snapshot(task_model.model))


def test_runs_of_plans_that_differ_in_a_method_or_size_alone_are_told_apart(tmp_path: Path) -> None:
    kind = TaskKind.CLASSIFICATION
    task_model = tiny_task_model("bert", tmp_path, kind)
    plans = [mixed_plan(task_model, kind, mix, tokens=tokens) for mix in MIXES for tokens in (2, 3)]
    identities = [str(trained_identity(plan)) for plan in plans]
    with_prefix = [mix for mix in MIXES if Method.PREFIX in mix]
    assert len(set(identities)) == len(MIXES) + len(with_prefix)
    # A plan of LoRA alone is known by what it was known by before there were others.
    assert set(trained_identity(mixed_plan(task_model, kind, (Method.LORA,)))) == {"ranks", "alpha_over_rank", "head"}


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_blocks_below_the_lowest_bottleneck_or_prefix_stay_frozen_and_can_be_left_out(family: str, tmp_path: Path) -> None:
    kind = kind_of(family)
    task_model = tiny_task_model(family, tmp_path, kind)
    plan, inputs = mixed_plan(task_model, kind, (Method.ADAPTER, Method.PREFIX), blocks=(1,)), inputs_of(kind)
    with attached(task_model.model, plan, seed=0) as adapted:
        randomise_(adapted)
        halves = FrozenBlocks.of(adapted)
        assert halves is not None
        assert halves.cut == 1
        whole = logits_of(adapted, kind)
        mask = inputs["attention_mask"].bool()
        assert halves.learn(inputs, mask)
        with halves.starting_from(halves.boundary(inputs)):
            parted = logits_of(adapted, kind)
    # Where logits come per token, those of padding are nobody's.
    real = mask if kind is TaskKind.CAUSAL_LM else slice(None)
    torch.testing.assert_close(parted[real], whole[real])
