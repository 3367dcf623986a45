"""Slots that never overwrite what is still needed."""

from __future__ import annotations

import pytest

from layerlens.streaming.boundaries import fewest_slots, most_slots
from layerlens.streaming.slots import Slots


class Tape:
    """Remembers what each slot holds, and refuses to read anything else."""

    def __init__(self, num_slots: int) -> None:
        self.num_slots, self.held = num_slots, dict[int, tuple[object, ...]]()

    def read(self, slot: int | None, what: tuple[object, ...]) -> None:
        assert what == ("hidden", 0) if slot is None else self.held[slot] == what

    def write(self, slot: int | None, what: tuple[object, ...]) -> None:
        assert slot is not None
        assert 0 <= slot < self.num_slots
        self.held[slot] = what


@pytest.mark.parametrize("labels", [["empirical"], ["empirical", "true"]])
def test_whatever_is_read_is_what_was_written_and_no_step_overwrites_its_input(labels: list[str]) -> None:
    for num_blocks in range(1, 34):
        least, most = (count(num_blocks, len(labels)) for count in (fewest_slots, most_slots))
        for num_slots in range(least, most + 2):
            slots = Slots(num_blocks, num_slots, labels)
            tape = Tape(num_slots)
            for block in range(num_blocks):
                assert slots.upward(block) != slots.upward(block + 1)
                tape.read(slots.upward(block), ("hidden", block))
                tape.write(slots.upward(block + 1), ("hidden", block + 1))
            for name in labels:
                tape.read(slots.upward(num_blocks), ("hidden", num_blocks))
                tape.write(slots.gradient(num_blocks, name), ("gradient", name, num_blocks))
            for group in reversed(range(len(slots.groups))):
                members = slots.groups[group]
                for block in members[:-1]:
                    tape.read(slots.inside(group, block), ("hidden", block))
                    tape.write(slots.inside(group, block + 1), ("hidden", block + 1))
                for block in reversed(members):
                    read = {slots.inside(group, block), *(slots.gradient(block + 1, name) for name in labels)}
                    written = {slots.gradient(block, name) for name in labels}
                    assert not read & written
                    assert len(written) == len(labels)
                    tape.read(slots.inside(group, block), ("hidden", block))
                    for name in labels:
                        tape.read(slots.gradient(block + 1, name), ("gradient", name, block + 1))
                        tape.write(slots.gradient(block, name), ("gradient", name, block))
