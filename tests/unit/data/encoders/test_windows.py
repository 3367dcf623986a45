from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from layerlens.config import DataConfig
from layerlens.data.encoders.windows import prepare_windows
from layerlens.data.table import Table
from layerlens.errors import DataError
from layerlens.words import TaskKind
from tests.unit.data.conftest import Load, processor_of

FIRST_WORD = 5
END = 3


def _text(path: Path, num_words: int) -> Path:
    path.write_text(" ".join(f"w{number % 190}" for number in range(num_words)), encoding="utf-8")
    return path


def test_text_is_cut_into_windows_that_lose_no_token(load: Load, tmp_path: Path) -> None:
    data = load(_text(tmp_path / "a.txt", 100), family="llama", max_length=32)
    assert data.task.info.kind is TaskKind.CAUSAL_LM
    assert [len(example["input_ids"]) for example in data.examples] == [32, 32, 32, 4]
    joined = [token for example in data.examples for token in example["input_ids"]]
    assert joined == [FIRST_WORD + number for number in range(100)]
    assert all(example["labels"] == example["input_ids"] for example in data.examples)


def test_a_last_window_that_predicts_nothing_is_left_out(load: Load, tmp_path: Path) -> None:
    data = load(_text(tmp_path / "a.txt", 33), family="llama", max_length=32)
    assert [len(example["input_ids"]) for example in data.examples] == [32]


def test_documents_end_with_the_end_token_where_the_tokenizer_adds_none(load: Load, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in ("w0 w1", "", "w2")), encoding="utf-8")
    data = load(path, family="llama", max_length=16)
    assert data.examples[0]["input_ids"] == [5, 6, END, 7, END]


def test_documents_bear_the_tokenizers_own_special_tokens(load: Load, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in ("w0 w1", "w2")), encoding="utf-8")
    data = load(path, family="bert", task=TaskKind.CAUSAL_LM, max_length=16)
    assert data.examples[0]["input_ids"] == [2, 5, 6, 3, 2, 7, 3]


def test_several_columns_are_joined_in_the_order_asked_for(load: Load, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"answer": "w3", "prompt": "w9"}), encoding="utf-8")
    data = load(path, family="gpt2", text_columns=["prompt", "answer"])
    assert data.examples[0]["input_ids"] == [14, 8]


def test_a_model_takes_the_batch_as_it_is(load: Load, tiny: Callable[[str], Path], tmp_path: Path) -> None:
    data = load(_text(tmp_path / "a.txt", 40), family="gpt2", max_length=32)
    batch = data.task.collate(data.take([0, 1]))
    assert set(batch) == {"input_ids", "attention_mask", "labels"}
    with torch.no_grad():
        outputs = AutoModelForCausalLM.from_pretrained(tiny("gpt2")).eval()(**data.task.model_inputs(batch))
    assert torch.isfinite(data.task.per_sample_loss(outputs, batch)).all()


def test_windows_of_one_split_hold_no_token_of_another(tiny: Callable[[str], Path]) -> None:
    texts = [" ".join([word] * 5) for word in ("w1", "w2", "w1", "w3")]
    table = Table(where="rows", columns={"text": texts}, splits=("train", "test", "train", "validation"), text_columns=("text",))
    tokenizer = processor_of(tiny("llama"), TaskKind.CAUSAL_LM)
    prepared = prepare_windows(table, DataConfig(max_length=4), None, {}, tokenizer)
    assert prepared.splits is not None
    words: defaultdict[str, set[int]] = defaultdict(set)
    for split, example in zip(prepared.splits, prepared.encoder.encode(range(len(prepared.encoder))), strict=True):
        words[split] |= set(example["input_ids"]) - {END}
    assert words == {"train": {6}, "validation": {8}, "test": {7}}


def test_docstrings_are_text_with_their_own_splits(load: Load) -> None:
    data = load("stdlib-docs", family="llama", task=TaskKind.CAUSAL_LM, max_length=64)
    assert data.splits is not None
    assert len(data.splits) == len(data.examples)
    assert set(data.splits) == {"train", "validation", "test"}


def test_text_of_one_token_is_refused(load: Load, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds fewer than two tokens"):
        load(_text(tmp_path / "a.txt", 1), family="llama")


def test_a_window_of_one_token_is_refused(load: Load, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least 2; give --max-length"):
        load(_text(tmp_path / "a.txt", 50), family="llama", max_length=1)
