from __future__ import annotations

from collections.abc import Sequence

import pytest

from layerlens.data.example import Example
from layerlens.data.lazy import Encoder, LazyExamples


class Counting(Encoder):
    """Encodes row r as r squared and remembers every call."""

    def __init__(self, num: int, max_cached: int | None = None) -> None:
        self.num = num
        self.max_cached = max_cached
        self.calls: list[list[int]] = []

    def __len__(self) -> int:
        return self.num

    def encode(self, rows: Sequence[int]) -> list[Example]:
        self.calls.append(list(rows))
        return [{"labels": row * row} for row in rows]

    def source(self, row: int) -> bytes:
        return b"%d" % row


def test_only_what_is_asked_for_is_encoded_in_one_call_and_once() -> None:
    encoder = Counting(1_000_000)
    examples = LazyExamples(encoder)
    assert [example["labels"] for example in examples.take([9, 3, 9])] == [81, 9, 81]
    assert examples[3]["labels"] == 9
    assert [example["labels"] for example in examples.take([3, 5])] == [9, 25]
    assert encoder.calls == [[3, 9], [5]]
    assert examples.num_kept == 3


def test_it_is_a_sequence() -> None:
    examples = LazyExamples(Counting(4))
    assert len(examples) == 4
    assert [example["labels"] for example in examples] == [0, 1, 4, 9]
    assert [example["labels"] for example in examples[1:3]] == [1, 4]
    assert examples[-1]["labels"] == 9
    with pytest.raises(IndexError):
        examples[4]


def test_past_its_limit_nothing_more_is_kept_but_all_is_given() -> None:
    encoder = Counting(10, max_cached=2)
    examples = LazyExamples(encoder)
    assert [example["labels"] for example in examples.take([0, 1, 2])] == [0, 1, 4]
    assert examples.num_kept == 2
    assert [example["labels"] for example in examples.take([2, 0])] == [4, 0]
    assert encoder.calls == [[0, 1, 2], [2]]


def test_all_can_be_told_by_what_they_are_encoded_from_without_encoding_any() -> None:
    encoder = Counting(1000)
    examples = LazyExamples(encoder)
    assert examples.source_hash(range(1000)) == LazyExamples(Counting(1000)).source_hash(range(1000))
    assert len({examples.source_hash(indices) for indices in ([1, 23], [12, 3], [23, 1], [1])}) == 4
    assert encoder.calls == []
