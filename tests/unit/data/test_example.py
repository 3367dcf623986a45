from __future__ import annotations

import numpy as np
import pytest

from layerlens.data.example import Example, hash_examples

TOKENS: Example = {"input_ids": [1, 2], "labels": 0}


def test_equal_samples_hash_alike_whatever_the_order_of_their_keys() -> None:
    assert hash_examples([TOKENS]) == hash_examples([dict(reversed(TOKENS.items()))])


@pytest.mark.parametrize(
    "other",
    [
        [{"input_ids": [1, 2], "labels": 1}],
        [{"input_ids": [1], "labels": 0}],
        [{"input_ids": [1, 2]}],
        [TOKENS, TOKENS],
        [],
        [{"input_ids": [12], "labels": 0}],
    ],
)
def test_any_difference_changes_the_hash(other: list[Example]) -> None:
    assert hash_examples(other) != hash_examples([TOKENS])


def test_order_and_pixels_and_shapes_count() -> None:
    first, second = ({"pixel_values": np.full((1, 2, 2), value, dtype=np.float32)} for value in (0.0, 1.0))
    assert hash_examples([first, second]) != hash_examples([second, first])
    assert hash_examples([first]) != hash_examples([{"pixel_values": first["pixel_values"].reshape(2, 2, 1)}])
