from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import transformers

from layerlens.data.example import Example
from layerlens.data.lazy import Encoder, LazyExamples
from layerlens.data.token_ids import TokenIds
from layerlens.errors import DataError
from tests.unit.data.conftest import Load


class Rows(Encoder):
    """Row r is the token r."""

    def __len__(self) -> int:
        return 1000

    def encode(self, rows: Sequence[int]) -> list[Example]:
        return [{"input_ids": [row]} for row in rows]

    def source(self, row: int) -> bytes:
        return b"%d" % row


def test_an_id_without_a_row_is_refused_and_the_last_row_is_not() -> None:
    ids = TokenIds(200, 0)
    ids.check([{"input_ids": [0, 199]}, {"pixel_values": [[250]]}])
    with pytest.raises(DataError, match=r"gives token id 200, .* has 200 rows"):
        ids.check([{"input_ids": [7, 8]}, {"input_ids": [200, 3]}])


def test_the_padding_id_is_needed_once_samples_differ_in_length() -> None:
    ids = TokenIds(200, 200)
    ids.check([{"input_ids": [1, 2]}, {"input_ids": [3, 4]}])
    with pytest.raises(DataError, match="pads with token id 200"):
        ids.check([{"input_ids": [1, 2, 3]}])


def test_the_vocabulary_may_be_that_of_the_text_part_and_may_be_unknown() -> None:
    nested = TokenIds.of({"text_config": {"vocab_size": 3}}, 0)
    assert nested is not None
    with pytest.raises(DataError, match="has 3 rows"):
        nested.check([{"input_ids": [3]}])
    assert TokenIds.of({"hidden_size": 3}, 0) is None


def test_examples_are_looked_at_when_they_are_taken() -> None:
    examples = LazyExamples(Rows(), TokenIds(200, 0))
    assert examples.take([0, 199])[1] == {"input_ids": [199]}
    with pytest.raises(DataError, match="gives token id 200"):
        examples.take([7, 200])
    with pytest.raises(DataError, match="gives token id 201"):
        examples[201]


def test_a_padding_token_that_was_added_is_told_by_the_id_that_the_model_lacks(
    tiny: Callable[[str], Path], load_for: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, data = tmp_path / "model", tmp_path / "data.csv"
    shutil.copytree(tiny("bert"), folder)
    config = json.loads((folder / "config.json").read_text())
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    num_rows = len(tokenizer)
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": num_rows}))
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    tokenizer.save_pretrained(folder)
    data.write_text("text,label\n" + "w1 w2 w3,0\nw4 w5,1\n" * 5, encoding="utf-8")
    looked: list[tuple[TokenIds, list[Example]]] = []
    with monkeypatch.context() as patched:
        # The tests' type checker takes a sample of its own choice, where an error would be one of types.
        patched.setattr(TokenIds, "check", lambda ids, examples: looked.append((ids, list(examples))))
        load_for(folder, data).take(range(10))
    with pytest.raises(DataError, match=rf"pads with token id {num_rows}, .* has {num_rows} rows"):
        looked[0][0].check(example for _, examples in looked for example in examples)
