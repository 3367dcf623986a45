from __future__ import annotations

from layerlens.data.padding import pad_tokens, padded_length


def test_tokens_are_padded_on_the_right_to_a_length() -> None:
    batch = pad_tokens([{"input_ids": [5], "attention_mask": [1]}, {"input_ids": [6, 7], "attention_mask": [1, 1]}], 9, 3)
    assert batch["input_ids"].tolist() == [[5, 9, 9], [6, 7, 9]]
    assert batch["attention_mask"].tolist() == [[1, 0, 0], [1, 1, 0]]


def test_token_types_are_there_only_where_the_examples_have_them() -> None:
    rows = [{"input_ids": [5], "attention_mask": [1]}]
    assert set(pad_tokens(rows, 0, 1)) == {"input_ids", "attention_mask"}
    assert set(pad_tokens([{**rows[0], "token_type_ids": [1]}], 0, 1)) == {"input_ids", "attention_mask", "token_type_ids"}


def test_a_length_is_rounded_up_within_what_samples_may_have() -> None:
    rows = [{"input_ids": [0] * length} for length in (3, 17)]
    assert padded_length(rows) == 17
    assert padded_length(rows, 16, 64) == 32
    assert padded_length(rows, 16, 20) == 20
    assert padded_length(rows, 16) == 17, "no limit is known, so nothing longer than the data is tried"
