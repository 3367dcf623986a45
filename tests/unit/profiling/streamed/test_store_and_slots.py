"""Where hidden states lie: slots that never overwrite what is still needed, and a file that says when it cannot grow."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch

from layerlens.errors import ConfigError
from layerlens.profiling.streamed.boundaries import block_groups, fewest_slots, most_slots
from layerlens.profiling.streamed.slots import Slots
from layerlens.streaming.activation_store import ActivationStore
from layerlens.streaming.journal import Journal

SHAPES = [(3, 5, 4), (2, 7, 4)]


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


def test_parts_of_batches_come_back_as_they_were_written(tmp_path: Path) -> None:
    values = {(slot, batch): torch.randn(SHAPES[batch]) for slot in range(3) for batch in range(2)}
    with ActivationStore(tmp_path / "a.bin", SHAPES, 3) as store:
        for (slot, batch), whole in values.items():
            store.write(slot, batch, 0, whole[:1])
            store.write(slot, batch, 1, whole[1:])
        for (slot, batch), whole in values.items():
            assert torch.equal(store.read(slot, batch, 0, len(whole)), whole)
            assert torch.equal(store.read(slot, batch, 1, 2), whole[1:2])
    assert (tmp_path / "a.bin").stat().st_size == 3 * sum(4 * n * t * d for n, t, d in SHAPES)
    with ActivationStore(tmp_path / "a.bin", SHAPES, 3) as again:
        assert torch.equal(again.read(2, 1, 0, 2), values[2, 1])
        again.remove()
    assert not (tmp_path / "a.bin").exists()


@pytest.mark.parametrize("call", ["posix_fallocate", "pwrite"])
def test_a_full_disk_is_told_in_one_line_and_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(ConfigError, match=r"the disk of .* is too full for the activations, 0 MiB; free some space"):
        ActivationStore(tmp_path / "a.bin", SHAPES, 3).write(0, 0, 0, torch.zeros(SHAPES[0]))
    assert call == "pwrite" or not (tmp_path / "a.bin").exists()


def test_a_file_cut_short_meanwhile_is_told(tmp_path: Path) -> None:
    store = ActivationStore(tmp_path / "a.bin", SHAPES, 2)
    os.truncate(tmp_path / "a.bin", 10)
    with pytest.raises(ConfigError, match="has become shorter"):
        store.read(1, 1, 0, 2)
    store.close()


def test_a_journal_goes_on_only_with_the_same_settings(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "work", {"tokens": 8})
    journal.finish(0)
    journal.finish(1)
    (tmp_path / "work" / "activations.bin").write_bytes(b"kept")
    again = Journal(tmp_path / "work", {"tokens": 8})
    assert [again.is_done(step) for step in range(3)] == [True, True, False]
    assert (tmp_path / "work" / "activations.bin").exists()
    other = Journal(tmp_path / "work", {"tokens": 16})
    assert not other.is_done(0)
    assert not (tmp_path / "work" / "activations.bin").exists()


def test_a_damaged_journal_begins_anew(tmp_path: Path) -> None:
    Journal(tmp_path / "work", {}).finish(4)
    (tmp_path / "work" / "journal.json").write_text("{")
    assert not Journal(tmp_path / "work", {}).is_done(0)
