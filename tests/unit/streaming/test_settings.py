"""Settings within caps: the fastest that fit, and errors that name what would do."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

import pytest

from layerlens.errors import ConfigError
from layerlens.streaming.boundaries import block_groups, fewest_slots, most_slots
from layerlens.streaming.settings import fastest_within, halvings, input_groups, slots_within

MIB = 1 << 20


@dataclass(frozen=True)
class Reader:
    layer: str
    input_group: str


def test_readers_of_one_input_come_together_in_their_order() -> None:
    readers = [Reader(layer, group) for layer, group in [("q", "q"), ("o", "o"), ("k", "q"), ("up", "up"), ("v", "q")]]
    assert [[reader.layer for reader in group] for group in input_groups(readers)] == [["q", "k", "v"], ["o"], ["up"]]
    assert input_groups(readers[:0]) == []


@pytest.mark.parametrize(("most", "least"), [(2048, 128), (2048, 100), (300, 300), (5, 1), (64, 500)])
def test_halves_go_from_the_most_to_the_least(most: int, least: int) -> None:
    values = halvings(most, least)
    assert values[0] == max(most, least)
    assert all(after == before // 2 for before, after in pairwise(values))
    assert values[-1] >= least > values[-1] // 2


@pytest.mark.parametrize("num_gradients", [1, 2])
@pytest.mark.parametrize("num_blocks", [1, 6, 24])
def test_the_store_holds_what_its_bytes_allow_and_no_more_than_is_of_use(num_blocks: int, num_gradients: int) -> None:
    slot, least = 3 * MIB, fewest_slots(num_blocks, num_gradients)
    for num_slots in range(least, most_slots(num_blocks, num_gradients) + 1):
        assert slots_within((num_slots + 1) * slot - 1, slot, num_blocks, num_gradients) == num_slots
        assert block_groups(num_blocks, num_slots, num_gradients)
    assert slots_within(1 << 50, slot, num_blocks, num_gradients) == most_slots(num_blocks, num_gradients)
    with pytest.raises(ConfigError, match=f"the least that would do is {least * 3:,} MiB"):
        slots_within(least * slot - 1, slot, num_blocks, num_gradients)


def test_the_fastest_that_fits_is_taken_and_of_equal_ones_the_first() -> None:
    peaks = {"slow": 100 * MIB, "fast": 300 * MIB, "as fast": 290 * MIB, "fastest": 900 * MIB}
    times = {"slow": 9.0, "fast": 2.0, "as fast": 2.0, "fastest": 1.0}

    def chosen(cap: int) -> str:
        return fastest_within(list(peaks), cap, peak=peaks.__getitem__, slowness=times.__getitem__, purpose="profile")

    assert [chosen(cap * MIB) for cap in (900, 899, 299, 289, 100)] == ["fastest", "fast", "as fast", "slow", "slow"]
    with pytest.raises(ConfigError, match="too little to profile this model") as caught:
        chosen(99 * MIB)
    told = re.search(r"the least that would do is about ([0-9,]+) MiB", str(caught.value))
    assert told is not None
    assert chosen(int(told[1]) * MIB) == "slow"
