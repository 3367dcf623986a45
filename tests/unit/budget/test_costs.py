from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from layerlens.artifacts.profile import Profile
from layerlens.budget.costs import PER_MS, cost_model, from_units, in_units, limits_of
from layerlens.budget.sites import plan_sites
from layerlens.config import OptimizationConfig
from layerlens.words import BudgetName, Method
from tests.unit.budget.small_models import SMALL, by_hand, priced, small

TOKENS, BATCH = 8, 2
EVEN = type(SMALL)(blocks=3, hidden=40, inner=160, kv=40, heads=1, other_parameters=5000, head_parameters=328)


class Block(nn.Module):
    """One attention head and a two-layer MLP, products of matrices alone, with a LoRA on any of its layers."""

    def __init__(self, ranks: dict[str, int]) -> None:
        super().__init__()
        hidden, inner = EVEN.hidden, EVEN.inner
        shapes = dict.fromkeys(("query", "key", "value", "output"), (hidden, hidden))
        shapes |= {"up": (hidden, inner), "down": (inner, hidden)}
        self.frozen = nn.ModuleDict({name: nn.Linear(*shape, bias=False) for name, shape in shapes.items()})
        self.frozen.requires_grad_(False)
        self.lora_down = nn.ModuleDict({name: nn.Linear(shapes[name][0], rank, bias=False) for name, rank in ranks.items()})
        self.lora_up = nn.ModuleDict({name: nn.Linear(rank, shapes[name][1], bias=False) for name, rank in ranks.items()})

    def apply_layer(self, name: str, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.frozen[name](inputs)
        return outputs + self.lora_up[name](self.lora_down[name](inputs)) if name in self.lora_down else outputs

    def forward(self, inputs: Tensor) -> Tensor:
        query, key, value = (self.apply_layer(name, inputs) for name in ("query", "key", "value"))
        mixed = (query @ key.transpose(1, 2)).softmax(-1) @ value
        hidden = inputs + self.apply_layer("output", mixed)
        return hidden + self.apply_layer("down", functional.gelu(self.apply_layer("up", hidden)))


@pytest.mark.parametrize("cut", [0, 1, 2])
def test_flops_are_those_that_torch_counts_down_to_the_lowest_adapted_block(cut: int) -> None:
    made = small(shape=EVEN)
    config = OptimizationConfig(max_flops=1e12, length=TOKENS, batch_size=BATCH)
    _, prices = priced(made, config)
    sizes = np.zeros(len(prices.sites), dtype=np.int64)
    names = ["query", "key", "value", "output", "up", "down"]
    ranks: list[dict[str, int]] = [{} for _ in range(EVEN.blocks)]
    for number, site in enumerate(prices.sites):
        assert site.block is not None
        name = names[number % len(names)]
        # Everything of the lowest block is adapted: the count then includes the gradients of all its activations.
        if site.block == cut or (site.block > cut and name in ("value", "down")):
            sizes[number] = ranks[site.block][name] = 1 + number % 3
    blocks = nn.Sequential(*(Block(chosen) for chosen in ranks))
    inputs = torch.randn(BATCH, TOKENS, EVEN.hidden, requires_grad=cut == 0)
    with FlopCounterMode(display=False) as counter:
        # Below the cut no activation asks for a gradient; at the cut the block's own input does in the formula.
        for number, block in enumerate(blocks):
            inputs = block(inputs.detach().requires_grad_() if number == cut else inputs)
        torch.autograd.backward(inputs.sum())
    assert counter.get_total_flops() == prices.price(sizes)[BudgetName.FLOPS] * BATCH * TOKENS


def test_memory_is_weights_head_saved_activations_options_and_each_shared_input_once() -> None:
    made = small()
    config = OptimizationConfig(max_vram_gb=1.0, length=TOKENS, batch_size=BATCH, optimizer_bytes=8)
    _, prices = priced(made, config)
    sizes = np.zeros(len(prices.sites), dtype=np.int64)
    in_last_block = [number for number, site in enumerate(prices.sites) if site.block == 2]
    query, key, down = in_last_block[0], in_last_block[1], in_last_block[5]
    sizes[[query, key, down]] = 3, 2, 1
    params = 3 * (40 + 40) + 2 * (40 + 20) + 1 * (160 + 40)
    model = made.profile.model
    expected: float = 4 * model.num_parameters + 12 * model.head_parameters
    block, memory = made.profile.blocks[2], made.profile.step_memory
    assert memory is not None
    expected += (block.activation_bytes_per_token + (block.attention_bytes_per_token_pair or 0) * TOKENS) * BATCH * TOKENS
    expected += (memory.working_bytes_per_token + memory.working_bytes_per_token_pair * TOKENS) * BATCH * TOKENS
    expected += 16 * params + 4 * BATCH * TOKENS * (3 + 2 + 1) + 4 * BATCH * TOKENS * (40 + 160)
    assert prices.price(sizes)[BudgetName.VRAM_BYTES] == expected


@pytest.mark.parametrize("cut", [0, 2, 3])
def test_logits_cost_the_same_at_every_cut_and_a_block_s_own_gradients_only_where_they_are_more(cut: int) -> None:
    made = small()
    memory = made.profile.step_memory
    assert memory is not None
    config = OptimizationConfig(max_vram_gb=1.0, length=TOKENS, batch_size=BATCH)

    def base(profile: Profile) -> float:
        return cost_model(profile, None, config).base(cut)[BudgetName.VRAM_BYTES]

    none = memory.model_copy(update={"working_bytes_per_token": 0.0, "working_bytes_per_token_pair": 0.0})
    small_logits = made.profile.model_copy(update={"step_memory": none})
    large_logits = made.profile.model_copy(update={"step_memory": none.model_copy(update={"outside_bytes_per_token": 1e6})})
    assert base(large_logits) - base(small_logits) == (1e6 - memory.outside_bytes_per_token) * BATCH * TOKENS
    both = memory.model_copy(update={"outside_bytes_per_token": 1e6})
    assert base(made.profile.model_copy(update={"step_memory": both})) == base(large_logits)
    assert base(made.profile) > base(small_logits)


@pytest.mark.parametrize("is_padded", [False, True])
def test_a_prefix_keeps_wider_keys_values_and_attention_weights_and_a_mask_where_there_was_none(is_padded: bool) -> None:
    made, size = small(), 4
    memory = made.profile.step_memory
    assert memory is not None
    profile = made.profile.model_copy(update={"step_memory": memory.model_copy(update={"is_padded": is_padded})})
    config = OptimizationConfig(max_vram_gb=1.0, length=TOKENS, batch_size=BATCH, candidate_methods=[*Method])
    costs = cost_model(profile, None, config)
    (site, *_) = (site for site in plan_sites(profile, config) if site.method is Method.PREFIX)
    # Heads share keys and values, 20 features of 40; under a mask each gets its own copy.
    expected = 16 * site.params(size) + BATCH * size * (
        2 * 4 * 40 + TOKENS * (profile.blocks[0].attention_bytes_per_token_pair or 0)
    )
    if not is_padded:
        expected += 2 * 4 * BATCH * TOKENS * (40 - 20) + 4 * TOKENS * (TOKENS + size)
    assert costs.option(site, size)[BudgetName.VRAM_BYTES] + costs.kept_input(site) == expected


def test_latency_is_the_measured_line_and_prefixes_add_no_launch() -> None:
    made = small()
    config = OptimizationConfig(max_trainable_params=1, candidate_methods=[*Method])
    costs = cost_model(made.profile, made.timing, config)
    for site in plan_sites(made.profile, config):
        line = made.timing.latency[site.members[0]]
        wanted = (0.0 if site.method is Method.PREFIX else line.intercept_ms) + 2 * line.slope_ms
        found = costs.option(site, 2)[BudgetName.LATENCY_MS] / PER_MS
        assert wanted <= found <= wanted + 1e-6


@pytest.mark.parametrize(("epochs", "passes"), [(0.5, 1.0), (1.0, 1.0), (3.0, 3.0)])
def test_time_falls_with_a_higher_cut_and_frozen_blocks_are_paid_for_once_per_sample(epochs: float, passes: float) -> None:
    made = small()
    costs, _ = priced(made, OptimizationConfig(max_trainable_params=1, epochs=epochs))
    ratios = [from_units(BudgetName.TIME_RATIO, costs.base(cut)[BudgetName.TIME_RATIO]) for cut in range(SMALL.blocks + 1)]
    seconds = made.timing.blocks[0].forward_seconds
    # forward 1, frozen backward 1, whole backward 2 per block; outside 0.1 and 0.2 of a block
    expected = [(0.3 + 2 * (3 - cut) + cut / passes) / 9.3 for cut in range(4)]
    assert ratios == pytest.approx(expected, abs=2e-9)
    assert costs.full_seconds == pytest.approx(9.3 * seconds)


def test_the_time_of_many_epochs_adds_up_to_the_time_of_each() -> None:
    made, num_samples, num_epochs, cut = small(), 64, 5, 2
    costs, _ = priced(made, OptimizationConfig(max_trainable_params=1, epochs=num_epochs))
    blocks = made.timing.blocks
    total = 0.0
    for epoch in range(num_epochs):
        for _ in range(num_samples // made.timing.batch_size):
            total += made.timing.outside_forward_seconds + made.timing.outside_backward_seconds
            total += sum(block.forward_seconds + block.backward_frozen_seconds for block in blocks[cut:])
            total += sum(block.forward_seconds for block in blocks[:cut]) if epoch == 0 else 0.0
    full = costs.full_seconds * num_epochs * (num_samples // made.timing.batch_size)
    priced_ratio = from_units(BudgetName.TIME_RATIO, costs.base(cut)[BudgetName.TIME_RATIO])
    assert priced_ratio == pytest.approx(total / full, abs=2e-9)


def test_full_fine_tuning_pays_for_embeddings_and_for_updating_everything() -> None:
    made = small()
    told_apart = {"outside_backward_frozen_seconds": 1e-6, "update_seconds_per_parameter": 1e-8}
    timing = made.timing.model_copy(update=told_apart)
    config = OptimizationConfig(max_trainable_params=1)
    plain, costs = cost_model(made.profile, made.timing, config), cost_model(made.profile, timing, config)
    model = made.profile.model
    assert costs.full_seconds == pytest.approx(plain.full_seconds + 1e-8 * model.num_parameters)
    seconds = costs.base(1)[BudgetName.TIME_RATIO] / 1e9 * costs.full_seconds
    expected = plain.base(1)[BudgetName.TIME_RATIO] / 1e9 * plain.full_seconds - timing.outside_backward_seconds + 1e-6
    assert seconds == pytest.approx(expected + 1e-8 * model.head_parameters, rel=1e-6)
    site = plan_sites(made.profile, config)[0]
    added = costs.option(site, 4)[BudgetName.TIME_RATIO] / 1e9 * costs.full_seconds
    before = plain.option(site, 4)[BudgetName.TIME_RATIO] / 1e9 * plain.full_seconds
    assert added - before == pytest.approx(1e-8 * site.params(4), rel=1e-3)


def test_what_is_kept_of_a_sample_is_its_real_tokens_in_float32() -> None:
    made = small()
    costs, _ = priced(made, OptimizationConfig(max_trainable_params=1))
    assert costs.kept_bytes_per_sample == 4 * SMALL.hidden * 56.5


def test_a_plan_is_priced_as_the_sum_of_its_options() -> None:
    made = small()
    costs, prices = priced(made, OptimizationConfig(max_trainable_params=1, candidate_methods=[*Method]))
    rng = np.random.default_rng(0)
    for share in (0.0, 0.05, 0.3, 1.0):
        sizes = np.array([rng.choice(site.sizes) if rng.random() < share else 0 for site in prices.sites], dtype=np.int64)
        found = {name: from_units(name, cost) for name, cost in prices.price(sizes).items()}
        assert found == by_hand(costs, prices, sizes)


def test_without_timing_neither_latency_nor_time_is_priced() -> None:
    costs = cost_model(small().profile, None, OptimizationConfig(max_trainable_params=1))
    assert set(costs.names) == set(costs.base(0)) == {BudgetName.TRAINABLE_PARAMS, BudgetName.FLOPS, BudgetName.VRAM_BYTES}


@given(limit=st.floats(1e-9, 1e9), name=st.sampled_from([BudgetName.LATENCY_MS, BudgetName.TIME_RATIO, BudgetName.FLOPS]))
def test_a_limit_in_units_is_the_largest_cost_not_above_it(limit: float, name: BudgetName) -> None:
    cost = in_units(name, limit)
    assert from_units(name, cost) <= limit
    assert cost == 2**53 or from_units(name, cost + 1) > limit


def test_a_limit_beyond_all_costs_is_no_overflow() -> None:
    assert in_units(BudgetName.FLOPS, 1e300) == 2**53
    assert in_units(BudgetName.LATENCY_MS, 0.05) == 50_000


def test_gibibytes_become_bytes() -> None:
    assert limits_of(OptimizationConfig(max_vram_gb=1.5)) == {BudgetName.VRAM_BYTES: 1.5 * 2**30}
