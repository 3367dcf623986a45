"""Shares of other methods against the same steps written out on whole forward passes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from layerlens.artifacts.layers import LayerSpec
from layerlens.config import ProfilingConfig
from layerlens.nn.bottleneck import BOTTLENECK_RATE, Bottleneck
from layerlens.nn.prefix import PREFIX_RATE, Prefix
from layerlens.nn.prefix_attention import attend_prefixes_
from layerlens.profiling import proxies as module
from layerlens.profiling.method_shares import method_shares, proxy_size
from layerlens.profiling.proxy_bench import ProxyBench
from layerlens.words import Method, Role, TaskKind
from tests.unit.profiling.cases import Case, open_case

SETTINGS = {"proxy_steps": 3, "proxy_batch_size": 4, "proxy_held_out": 8, "proxy_rank": 2, "proxy_learning_rate": 0.01}
KINDS = [("bert", TaskKind.CLASSIFICATION), ("llama", TaskKind.CAUSAL_LM), ("vit", TaskKind.IMAGE_CLASSIFICATION)]


def _shares(case: Case, values: dict[str, float], **settings: object) -> dict[Method, float]:
    config = ProfilingConfig(**(SETTINGS | settings))
    train, held_out = module._split(len(case.examples), config)
    case.model.requires_grad_(False).eval()
    batches = [[case.examples[sample] for sample in batch] for batch in (*train, held_out)]
    bench = ProxyBench(case.model, case.task, case.layout.blocks, batches, len(train))
    return method_shares(bench, bench.held_out_losses(0), case.model, case.layout.layers, case.layout.blocks, values, config)


def _drop(case: Case, probe: nn.Module, rate: float) -> float:
    """What the steps gain with a proxy that is on the model, by whole forward passes."""
    train, held_out = module._split(len(case.examples), ProfilingConfig(**SETTINGS))
    optimizer = torch.optim.Adam(probe.parameters(), lr=0.01 * rate)
    for batch in train:
        optimizer.zero_grad()
        values = case.task.collate([case.examples[sample] for sample in batch])
        case.task.per_sample_loss(case.model(**case.task.model_inputs(values)), values).mean().backward()
        optimizer.step()
    return _loss(case, held_out)


def _loss(case: Case, samples: list[int]) -> float:
    with torch.no_grad():
        values = case.task.collate([case.examples[sample] for sample in samples])
        return case.task.per_sample_loss(case.model(**case.task.model_inputs(values)), values).double().mean().item()


@pytest.mark.parametrize(("family", "kind"), KINDS, ids=lambda value: str(value))
def test_a_share_is_the_gain_of_the_same_steps_over_that_of_lora(tmp_path: Path, family: str, kind: TaskKind) -> None:
    case = open_case(tmp_path, family, kind, num_samples=20)
    values = {spec.layer: 0.1 + 0.01 * number for number, spec in enumerate(case.layout.layers)}
    found = _shares(case, values)
    _, held_out = module._split(20, ProfilingConfig(**SETTINGS))
    before = _loss(case, held_out)
    gained, compared = 0.0, 0.0
    for spec in case.layout.layers:
        if not spec.role.is_sublayer_output:
            continue
        # A rank-2 LoRA of this layer has 2 (in + out) parameters; of width 32 a bottleneck has 65 m + 32.
        size = max(1, round((2 * (spec.in_features + 32) - 32) / 65))
        bottleneck = Bottleneck(32, size, generator=torch.Generator().manual_seed(0))
        take_off = bottleneck.place_after_(case.model.get_submodule(spec.layer))
        gained += before - _drop(case, bottleneck, BOTTLENECK_RATE)
        compared += values[spec.layer]
        take_off()
    assert found[Method.ADAPTER] == pytest.approx(max(0.0, gained / compared), rel=2e-2, abs=1e-4)
    gained, compared = 0.0, 0.0
    for block in case.layout.blocks:
        members = [spec for spec in case.layout.layers if spec.block == block.block and spec.role.is_attention]
        params = 2 * sum(spec.in_features + spec.out_features for spec in members) / len(members)
        tokens = max(1, round(params / (2 * block.kv_features)))
        prefix = Prefix(block.kv_features, tokens, generator=torch.Generator().manual_seed(0))
        attention = case.model.get_submodule(block.attention or "")
        put_back, take_off = attend_prefixes_(attention), prefix.place_before_(attention)
        gained += before - _drop(case, prefix, PREFIX_RATE)
        compared += sum(values[spec.layer] for spec in members) / len(members)
        take_off()
        put_back()
    assert found[Method.PREFIX] == pytest.approx(max(0.0, gained / compared), rel=2e-2, abs=1e-4)
    assert abs(gained) > 1e-4


def test_a_model_outside_the_interface_has_no_share_of_prefixes(tmp_path: Path) -> None:
    case = open_case(tmp_path, "gpt_neo", TaskKind.CAUSAL_LM, num_samples=20)
    assert set(_shares(case, {spec.layer: 0.1 for spec in case.layout.layers})) == {Method.ADAPTER}


def test_layers_that_gain_nothing_themselves_give_no_share(tmp_path: Path) -> None:
    case = open_case(tmp_path, "bert", TaskKind.CLASSIFICATION, num_samples=20)
    assert _shares(case, {spec.layer: -0.1 for spec in case.layout.layers}) == {}


def test_the_size_of_a_proxy_has_about_as_many_parameters_as_the_low_rank_one() -> None:
    spec = LayerSpec(layer="a", block=0, role=Role.MLP_DOWN, in_features=1536, out_features=384, input_group="a")
    # 4 · (1536 + 384) = 7680 parameters; a bottleneck of 9 has 2 · 384 · 9 + 9 + 384 = 7305, of 10 it has 8074.
    assert proxy_size(2 * 384 + 1, 384, [spec], 4) == 9
    assert proxy_size(2 * 384, 0, [spec], 4) == 10
    assert proxy_size(2 * 10**6, 0, [spec], 1) == 1


def test_the_proxies_of_a_profile_measure_shares_unless_they_are_blind(tmp_path: Path) -> None:
    case = open_case(tmp_path, "bert", TaskKind.CLASSIFICATION, num_samples=40)
    config = ProfilingConfig(**SETTINGS)
    lengths = [len(example["input_ids"]) for example in case.examples]

    def measure() -> module.Proxies:
        found = module.measure_proxies(
            case.model, case.layout.layers, case.layout.blocks, case.task, case.examples, lengths, config
        )
        assert found is not None
        return found

    found = measure()
    assert bool(found.settings.method_shares) == (not found.settings.is_blind)
    assert found == measure()
    assert not any("layerlens" in name for name, _ in case.model.named_modules())
