"""Hidden states come back as they were put in, and lie where their size says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from layerlens.adapting.boundary_store import BoundaryShelf, BoundaryStore, FileStore, MemoryStore, open_store

LENGTHS = {7: 3, 2: 1, 11: 5}
WIDTH = 4
NEEDED = 9 * WIDTH * 4


def filled(store: BoundaryStore, dtype: torch.dtype) -> dict[int, torch.Tensor]:
    torch.manual_seed(0)
    given = {sample: torch.randn(length, WIDTH).to(dtype) for sample, length in LENGTHS.items()}
    for sample in (11, 7):
        store.put(sample, given[sample])
    return given


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("is_file", [True, False])
def test_what_was_put_in_comes_back_to_the_bit(is_file: bool, dtype: torch.dtype, tmp_path: Path) -> None:
    store: BoundaryStore = FileStore(tmp_path / "kept", LENGTHS, WIDTH) if is_file else MemoryStore()
    given = filled(store, dtype)
    assert [sample for sample in LENGTHS if sample in store] == [7, 11]
    for sample in (7, 11):
        assert store.get(sample).dtype is dtype
        assert torch.equal(store.get(sample), given[sample])
    store.put(7, torch.zeros(3, WIDTH, dtype=dtype))
    assert not store.get(7).any()
    assert torch.equal(store.get(11), given[11])
    store.close()
    assert list(tmp_path.iterdir()) == []


def test_memory_is_not_shared_with_what_was_put_in() -> None:
    store = MemoryStore()
    hidden = torch.ones(3, WIDTH)
    store.put(7, hidden)
    hidden.zero_()
    assert store.get(7).all()


def test_the_size_decides_where_they_lie(tmp_path: Path) -> None:
    hidden, path = torch.zeros(1, 1, WIDTH), tmp_path / "kept"
    assert isinstance(open_store(LENGTHS, hidden, in_memory_bytes=NEEDED, at_most_bytes=NEEDED, path=path), MemoryStore)
    in_file = open_store(LENGTHS, hidden, in_memory_bytes=NEEDED - 1, at_most_bytes=NEEDED, path=path)
    assert isinstance(in_file, FileStore)
    assert path.stat().st_size == NEEDED
    in_file.close()
    assert open_store(LENGTHS, hidden, in_memory_bytes=NEEDED, at_most_bytes=NEEDED - 1, path=path) is None
    assert open_store(LENGTHS, hidden, in_memory_bytes=0, at_most_bytes=NEEDED, path=None) is None
    # A file holds float32, and would round these.
    assert open_store(LENGTHS, hidden.double(), in_memory_bytes=0, at_most_bytes=NEEDED, path=path) is None


def test_a_file_that_cannot_be_made_means_that_nothing_is_kept(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file where a folder is wanted")
    found = open_store(
        LENGTHS, torch.zeros(1, 1, WIDTH), in_memory_bytes=0, at_most_bytes=NEEDED, path=tmp_path / "taken" / "kept"
    )
    assert found is None


def test_a_shelf_gives_one_store_per_seed_and_cut_and_counts_each_sample_once() -> None:
    shelf = BoundaryShelf(2 * NEEDED)
    store = shelf.store(0, 3, LENGTHS, WIDTH)
    assert store is not None
    assert shelf.store(0, 3, LENGTHS, WIDTH) is store
    other = shelf.store(1, 3, LENGTHS, WIDTH)
    assert other is not None
    assert other is not store
    assert shelf.store(0, 3, LENGTHS, WIDTH) is store


def test_whether_a_run_has_a_store_on_the_shelf_depends_on_the_run_alone() -> None:
    shelf = BoundaryShelf(2 * NEEDED)
    stores = [shelf.store(0, cut, LENGTHS, WIDTH) for cut in (1, 2, 1, 3)]
    assert None not in stores
    # The one that was asked for the longest ago has made room.
    assert shelf.store(0, 1, LENGTHS, WIDTH) is stores[0]
    assert shelf.store(0, 2, LENGTHS, WIDTH) is not stores[1]
    assert BoundaryShelf(NEEDED).store(0, 1, {**LENGTHS, 12: 1}, WIDTH) is None
