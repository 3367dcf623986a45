"""How a pass is streamed within its caps, by shapes alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from layerlens.compressing.calibration_settings import Demand, choose_settings, group_bytes, settings_begun_with
from layerlens.compressing.matrices import Matrix, Place
from layerlens.compressing.option_grid import OptionGrid
from layerlens.errors import ConfigError
from layerlens.streaming.settings import input_groups
from layerlens.words import Role

GIB = 1 << 30


def matrix(layer: str, out_features: int, in_features: int, group: str) -> Matrix:
    return Matrix(layer, Place.BLOCK, 0, Role.OTHER, out_features, in_features, layer, 2, group)


LEAN = OptionGrid(two_sided_widths=(), corrected_widths=(), is_iterated=True)
#: A block of Llama-2-7B.
BLOCK = [
    *(matrix(name, 4096, 4096, "q") for name in "qkv"),
    matrix("o", 4096, 4096, "o"),
    *(matrix(name, 11008, 4096, "gate") for name in ("gate", "up")),
    matrix("down", 4096, 11008, "down"),
]
DEMAND = Demand(
    resident=2 << 20,
    kept_per_token=4 * (2 * sum(m.in_features + m.out_features for m in BLOCK) + 16 * 4096),
    longest=512,
    most_tokens=4096,
    blocks=[BLOCK] * 32,
    outside=[],
    block_bytes=sum(m.num_bytes for m in BLOCK),
    logits_per_token=32000,
    hidden_size=4096,
    slot_bytes=4 * 64 * 512 * 4096,
    grid=LEAN,
)


def test_a_block_of_seven_billion_stays_under_two_gigabytes_of_sums() -> None:
    settings = choose_settings(DEMAND, max_memory=None, max_store=1 << 50)
    sweeps = settings.sweeps(BLOCK)
    assert all(sum(group_bytes(group) for group in input_groups(sweep)) < 1.2 * GIB for sweep in sweeps)


def test_seven_billion_fit_three_gibibytes_in_sweeps() -> None:
    settings = choose_settings(DEMAND, max_memory=3 * GIB, max_store=1 << 50)
    assert DEMAND.peak(settings) <= 3 * GIB


def test_readers_of_one_input_stay_together_and_every_layer_has_its_sweep() -> None:
    settings = choose_settings(DEMAND, max_memory=None, max_store=1 << 50)
    for limit in (0, 300 << 20, 10 * GIB):
        sweeps = replace(settings, sums_bytes=limit).sweeps(BLOCK)
        assert [m for sweep in sweeps for m in sweep] == BLOCK
        places = {m.layer: number for number, sweep in enumerate(sweeps) for m in sweep}
        assert places["q"] == places["k"] == places["v"]
        assert places["gate"] == places["up"]


def test_query_key_and_value_of_an_unknown_family_share_a_sweep_and_are_priced_apart() -> None:
    roles = {
        "q": Role.ATTENTION_QUERY,
        "k": Role.ATTENTION_KEY,
        "v": Role.ATTENTION_VALUE,
        "gate": Role.MLP_GATE,
        "up": Role.MLP_UP,
    }
    unknown = [
        replace(
            m, layer=f"h.0.{'mlp' if m.layer in ('gate', 'up', 'down') else 'attn'}.{m.layer}", input_group=m.layer, role=role
        )
        for m in BLOCK
        for role in [roles.get(m.layer, m.role)]
    ]
    settings = replace(choose_settings(DEMAND, max_memory=None, max_store=1 << 50), sums_bytes=0)
    sweeps = [[m.layer.rpartition(".")[2] for m in sweep] for sweep in settings.sweeps(unknown)]
    assert sweeps == [["q", "k", "v"], ["o"], ["gate", "up"], ["down"]]
    whole = replace(settings, sums_bytes=sum(group_bytes([m]) for m in unknown))
    assert len(whole.sweeps(unknown)) == 1
    assert len(replace(whole, sums_bytes=whole.sums_bytes - 1).sweeps(unknown)) == 2


def test_less_memory_never_gives_a_higher_price() -> None:
    peaks = [DEMAND.peak(choose_settings(DEMAND, max_memory=cap * GIB, max_store=1 << 50)) for cap in (3, 4, 6, 12)]
    assert peaks == sorted(peaks)


def test_caps_that_nothing_fits_name_the_least_that_would_do() -> None:
    with pytest.raises(ConfigError, match=r"--max-memory 500 MiB is too little to compress this model; the least .* MiB"):
        choose_settings(DEMAND, max_memory=500 << 20, max_store=1 << 50)
    with pytest.raises(ConfigError, match=r"--max-store 1 MiB is too little for the hidden states"):
        choose_settings(DEMAND, max_memory=None, max_store=1 << 20)


def test_a_run_goes_on_as_it_was_begun_where_that_keeps_the_caps() -> None:
    begun = choose_settings(DEMAND, max_memory=3 * GIB, max_store=1 << 50)
    larger = choose_settings(DEMAND, max_memory=12 * GIB, max_store=1 << 50)
    assert begun != larger
    identity = {**begun.identity(), "seed": 0}
    for cap in (3 * GIB, 12 * GIB, None):
        assert settings_begun_with(identity, DEMAND, max_memory=cap, max_store=1 << 50) == begun
    assert settings_begun_with(larger.identity(), DEMAND, max_memory=3 * GIB, max_store=1 << 50) is None
    store = begun.num_slots * DEMAND.slot_bytes
    assert settings_begun_with(identity, DEMAND, max_memory=None, max_store=store) == begun
    assert settings_begun_with(identity, DEMAND, max_memory=None, max_store=store - 1) is None
    assert settings_begun_with({"seed": 0}, DEMAND, max_memory=None, max_store=1 << 50) is None
