from __future__ import annotations

from itertools import chain

from hypothesis import given
from hypothesis import strategies as st

from layerlens.data.batches import epoch_batches, length_sorted_batches, step_batches


@given(st.lists(st.integers(1, 9), max_size=40), st.integers(1, 7))
def test_batches_of_like_length_hold_every_sample_once_longest_first(lengths: list[int], batch_size: int) -> None:
    examples = [{"input_ids": [1] * length} for length in lengths]
    batches = length_sorted_batches(examples, batch_size)
    order = list(chain.from_iterable(batches))
    assert sorted(order) == list(range(len(lengths)))
    assert [lengths[index] for index in order] == sorted(lengths, reverse=True)
    assert all(len(batch) == batch_size for batch in batches[:-1])


def test_images_keep_their_order() -> None:
    assert length_sorted_batches([{"pixel_values": None}] * 5, 2) == [[0, 1], [2, 3], [4]]


@given(st.integers(1, 50), st.integers(1, 8), st.integers(0, 3))
def test_an_epoch_holds_every_sample_once(num: int, batch_size: int, seed: int) -> None:
    assert sorted(chain.from_iterable(epoch_batches(num, batch_size, seed))) == list(range(num))


def test_epochs_differ_and_repeat_with_their_seed() -> None:
    assert epoch_batches(50, 8, 1, epoch=0) == epoch_batches(50, 8, 1, epoch=0)
    assert epoch_batches(50, 8, 1, epoch=0) != epoch_batches(50, 8, 1, epoch=1)
    assert epoch_batches(50, 8, 1) != epoch_batches(50, 8, 2)


def test_steps_run_through_epochs_and_stop_in_the_middle_of_one() -> None:
    batches = list(step_batches(10, 4, 5, seed=2))
    assert batches == [*epoch_batches(10, 4, 2, epoch=0), *epoch_batches(10, 4, 2, epoch=1)[:2]]


def test_no_samples_give_no_steps() -> None:
    assert list(step_batches(0, 4, 5, seed=2)) == []
