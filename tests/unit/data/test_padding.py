from __future__ import annotations

from layerlens.data.padding import pad_tokens


def test_tokens_are_padded_on_the_right_to_the_longest() -> None:
    batch = pad_tokens([{"input_ids": [5], "attention_mask": [1]}, {"input_ids": [6, 7], "attention_mask": [1, 1]}], 9)
    assert batch["input_ids"].tolist() == [[5, 9], [6, 7]]
    assert batch["attention_mask"].tolist() == [[1, 0], [1, 1]]


def test_token_types_are_there_only_where_the_examples_have_them() -> None:
    rows = [{"input_ids": [5], "attention_mask": [1]}]
    assert set(pad_tokens(rows, 0)) == {"input_ids", "attention_mask"}
    assert set(pad_tokens([{**rows[0], "token_type_ids": [1]}], 0)) == {"input_ids", "attention_mask", "token_type_ids"}
