"""Where hidden states lie: a file that gives back what was written, and says when it cannot grow."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch

from layerlens.errors import ConfigError
from layerlens.streaming.activation_store import ActivationStore

SHAPES = [(3, 5, 4), (2, 7, 4)]


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
    with pytest.raises(ConfigError, match=r"has become shorter .*run the same command again"):
        store.read(1, 1, 0, 2)
    store.close()
