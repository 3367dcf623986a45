"""Which boundaries are kept: groups that cover the blocks, and the fewest slots that do."""

from __future__ import annotations

import pytest

from layerlens.streaming.boundaries import block_groups, fewest_slots, most_slots


@pytest.mark.parametrize("num_blocks", [1, 2, 6, 12, 32])
def test_groups_cover_the_blocks_and_more_slots_never_cost_more(num_blocks: int) -> None:
    recomputed = []
    for num_slots in range(fewest_slots(num_blocks), most_slots(num_blocks) + 3):
        groups = block_groups(num_blocks, num_slots)
        assert [block for group in groups for block in group] == list(range(num_blocks))
        recomputed.append(num_blocks - len(groups))
    assert recomputed == sorted(recomputed, reverse=True)
    assert recomputed[-1] == 0
    with pytest.raises(ValueError, match="do not suffice"):
        block_groups(num_blocks, fewest_slots(num_blocks) - 1)


def test_twelve_blocks_need_six_slots() -> None:
    assert fewest_slots(12) == 6
    assert fewest_slots(32) == 9
