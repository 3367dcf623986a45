from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerlens.data.partition import MAX_RACE, partition
from layerlens.errors import DataError

SPLITS = ["train", "validation", "test"]


@given(st.integers(3, 400), st.integers(0, 5), st.booleans())
def test_a_draw_uses_no_sample_twice_and_leaves_no_use_empty(num: int, seed: int, has_eval_data: bool) -> None:
    part = partition(num, None, seed=seed, has_eval_data=has_eval_data)
    used = [*part.train, *part.race, *part.test]
    assert sorted(used) == list(range(num))
    assert part.train
    assert part.race
    assert bool(part.test) != has_eval_data


def test_a_draw_takes_a_fifth_for_the_test_and_a_tenth_for_the_race() -> None:
    part = partition(1000, None, seed=0, has_eval_data=False)
    assert (len(part.train), len(part.race), len(part.test)) == (700, 100, 200)


def test_a_race_never_takes_more_than_its_cap() -> None:
    assert len(partition(50_000, None, seed=0, has_eval_data=True).race) == MAX_RACE


def test_a_seed_gives_the_same_draw_and_another_seed_another() -> None:
    draws = [partition(100, None, seed=seed, has_eval_data=False) for seed in (7, 7, 8)]
    assert draws[0] == draws[1]
    assert draws[0] != draws[2]


def test_what_a_profile_calibrates_on_decides_no_race_even_once_evaluation_has_its_own_data() -> None:
    calibration = set(partition(500, None, seed=3, has_eval_data=False).train)
    assert not calibration & set(partition(500, None, seed=3, has_eval_data=True).race)


def test_the_sources_own_splits_are_kept_in_its_order() -> None:
    splits = ["test", "train", "validation", "train", "test", "train"]
    part = partition(6, splits, seed=5, has_eval_data=False)
    assert part.train == (1, 3, 5)
    assert part.race == (2,)
    assert part.test == (0, 4)


def test_the_sources_test_split_is_never_trained_on() -> None:
    part = partition(6, ["test", "train", "validation", "train", "test", "train"], seed=5, has_eval_data=True)
    assert part.test == ()
    assert not {0, 4} & {*part.train, *part.race}


def test_what_the_source_lacks_is_drawn_from_its_training_samples() -> None:
    splits = ["train"] * 100 + ["test"] * 20
    part = partition(120, splits, seed=0, has_eval_data=False)
    assert part.test == tuple(range(100, 120))
    assert len(part.race) == 10
    assert sorted([*part.train, *part.race]) == list(range(100))


def test_too_few_samples_are_refused_with_the_number_needed() -> None:
    with pytest.raises(DataError, match=r"2 training samples.*at least 3"):
        partition(2, None, seed=0, has_eval_data=False)


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(DataError, match="unknown split holdout"):
        partition(2, ["train", "holdout"], seed=0, has_eval_data=False)
