"""Settings that stay within the caps, and errors that name what would do."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from layerlens.artifacts.layers import LayerSpec
from layerlens.errors import ConfigError
from layerlens.profiling.spaces import Tokens
from layerlens.profiling.streamed import memory_plan
from layerlens.profiling.streamed.memory_plan import Demand, balanced_sweeps, choose_settings
from layerlens.streaming import memory_guard
from layerlens.streaming.memory_guard import MemoryGuard, peak_memory
from layerlens.words import Role


def block_layers(block: int, hidden: int, inner: int) -> list[LayerSpec]:
    names = [("q", hidden, hidden, "q"), ("k", hidden, hidden, "q"), ("v", hidden, hidden, "q"), ("o", hidden, hidden, "o")]
    names += [("up", inner, hidden, "up"), ("down", hidden, inner, "down")]
    roles = [Role.ATTENTION_QUERY, Role.ATTENTION_KEY, Role.ATTENTION_VALUE, Role.ATTENTION_OUTPUT, Role.MLP_UP, Role.MLP_DOWN]
    return [
        LayerSpec(
            layer=f"{block}.{name}",
            block=block,
            role=role,
            out_features=outputs,
            in_features=inputs,
            has_bias=True,
            is_transposed=False,
            input_group=f"{block}.{group}",
        )
        for (name, outputs, inputs, group), role in zip(names, roles, strict=True)
    ]


def demand(*, num_blocks: int = 12, hidden: int = 768, inner: int = 3072) -> Demand:
    return Demand(
        resident=4 << 20,
        kept_per_token=60_000.0,
        hidden_size=hidden,
        longest=128,
        most_tokens=2048,
        layers=[block_layers(block, hidden, inner) for block in range(num_blocks)],
        block_bytes=4 * (4 * hidden**2 + 2 * hidden * inner),
        tokens=Tokens(16384, 4096),
        logits_per_token=0,
        slot_bytes=16384 * hidden * 4,
        num_labels=1,
    )


def test_without_a_cap_nothing_is_done_twice() -> None:
    settings = choose_settings(demand(), max_memory=None, max_store=1 << 30)
    assert settings.tokens_at_once == 2048
    assert settings.holds_weights
    assert settings.num_sweeps == 1
    assert settings.num_slots == 13


def test_a_tighter_cap_is_kept_by_slower_settings() -> None:
    asked = demand()
    before = None
    for cap in range(1600, 400, -50):
        try:
            settings = choose_settings(asked, max_memory=cap << 20, max_store=1 << 30)
        except ConfigError:
            break
        assert asked.peak(settings) <= cap << 20
        speed = memory_plan._slowness(settings)
        assert before is None or speed >= before
        before = speed
    else:
        raise AssertionError("the libraries alone take more than that")
    assert before is not None


def test_the_least_that_would_do_does() -> None:
    asked = demand()
    with pytest.raises(ConfigError) as caught:
        choose_settings(asked, max_memory=100 << 20, max_store=1 << 30)
    told = re.search(r"the least that would do is about ([0-9,]+) MiB", str(caught.value))
    assert told is not None
    least = int(told[1].replace(",", ""))
    assert asked.peak(choose_settings(asked, max_memory=least << 20, max_store=1 << 30)) <= least << 20
    with pytest.raises(ConfigError):
        choose_settings(asked, max_memory=(least - 1) << 20, max_store=1 << 30)


def test_a_process_that_puts_heavy_imports_off_fits_a_smaller_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, cap = demand(), 500 << 20
    with pytest.raises(ConfigError, match="too little"):
        choose_settings(asked, max_memory=cap, max_store=1 << 30)
    monkeypatch.setattr(memory_guard, "is_lean", lambda: True)
    assert asked.peak(choose_settings(asked, max_memory=cap, max_store=1 << 30)) <= cap


def test_the_least_store_that_would_do_does() -> None:
    asked = demand()
    with pytest.raises(ConfigError, match="the least that would do is 288 MiB"):
        choose_settings(asked, max_memory=None, max_store=100 << 20)
    assert choose_settings(asked, max_memory=None, max_store=288 << 20).num_slots == 6


def test_the_hidden_states_of_a_new_head_count_in_the_store() -> None:
    asked = replace(demand(), head_bytes=(300 << 20) + 1)
    for store in (100, 300):
        with pytest.raises(ConfigError, match=r"that the new head is fitted on; the least that would do is 301 MiB"):
            choose_settings(asked, max_memory=None, max_store=store << 20)
    assert choose_settings(asked, max_memory=None, max_store=301 << 20).num_slots == 6
    # Where the blocks need more than the head, that is the least.
    with pytest.raises(ConfigError, match="the least that would do is 288 MiB"):
        choose_settings(replace(demand(), head_bytes=200 << 20), max_memory=None, max_store=100 << 20)


@pytest.mark.parametrize("num_sweeps", [1, 2, 3, 4, 9])
def test_sweeps_take_every_layer_once_and_keep_readers_of_one_input_together(num_sweeps: int) -> None:
    layers = block_layers(0, 768, 3072)
    sweeps = balanced_sweeps(layers, num_sweeps)
    assert [spec for sweep in sweeps for spec in sweep] == layers
    assert len(sweeps) <= num_sweeps
    for sweep in sweeps:
        groups = {spec.input_group for spec in sweep}
        assert all(spec in sweep for spec in layers if spec.input_group in groups)


def test_the_guard_stops_a_process_above_its_cap() -> None:
    MemoryGuard(None).check()
    MemoryGuard(peak_memory() * 2).check()
    with pytest.raises(ConfigError, match=r"the process took [0-9,]+ MiB, above --max-memory 1 MiB"):
        MemoryGuard(1 << 20).check()
    MemoryGuard.trim()
