from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, PreTrainedTokenizerFast

from layerlens.artifacts.profile import TaskInfo
from layerlens.config import DataConfig
from layerlens.data.encoders.prepared import sample_length
from layerlens.data.encoders.texts import TextEncoder
from layerlens.errors import DataError
from layerlens.words import TaskKind
from tests.tiny_models import save_tiny
from tests.unit.data.conftest import Load, processor_of

ROWS = [{"sentence1": f"w{row} w1", "sentence2": f"w2 w{row}", "label": row % 2} for row in range(20)]


def _write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def with_token_types(tiny: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """A tiny model whose tokenizer makes token types, whether or not the model takes them."""

    def folder_of(family: str) -> Path:
        # Published RoBERTas know one type only; the library's default for new ones is two.
        if family == "roberta":
            folder = save_tiny("roberta", tmp_path / "roberta", type_vocab_size=1)
        else:
            folder = shutil.copytree(tiny(family), tmp_path / family)
        path = folder / "tokenizer_config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        config["model_input_names"] = ["input_ids", "token_type_ids", "attention_mask"]
        path.write_text(json.dumps(config), encoding="utf-8")
        return folder

    return folder_of


@pytest.mark.parametrize(
    ("family", "has_types"),
    [("bert", True), ("roberta", False), ("distilbert", False), ("gpt2", False), ("llama", False)],
)
def test_a_batch_holds_exactly_what_the_model_takes(
    load_for: Load, with_token_types: Callable[[str], Path], tmp_path: Path, family: str, has_types: bool
) -> None:
    folder = with_token_types(family)
    data = load_for(folder, _write(tmp_path / "pairs.jsonl", ROWS))
    batch = data.task.collate(data.take([0, 1, 2]))
    assert ("token_type_ids" in batch) == has_types
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2, pad_token_id=0).eval()
    with torch.no_grad():
        outputs = model(**data.task.model_inputs(batch))
    assert torch.isfinite(data.task.per_sample_loss(outputs, batch)).all()


def test_token_types_are_left_out_where_the_tokenizer_makes_none(load: Load, tmp_path: Path) -> None:
    assert set(load(_write(tmp_path / "pairs.jsonl", ROWS)).examples[0]) == {"input_ids", "attention_mask", "labels"}


def test_a_pair_is_encoded_as_the_tokenizer_does(load_for: Load, with_token_types: Callable[[str], Path], tmp_path: Path) -> None:
    folder = with_token_types("bert")
    data = load_for(folder, _write(tmp_path / "pairs.jsonl", ROWS))
    expected = processor_of(folder, TaskKind.PAIR_CLASSIFICATION)("w3 w1", "w2 w3")
    example = data.examples[3]
    assert {name: example[name] for name in expected} == dict(expected)
    assert set(example["token_type_ids"]) == {0, 1}
    assert example["labels"] == 1
    assert data.columns == {"text": "sentence1", "text_pair": "sentence2", "label": "label"}


def test_a_pair_stays_apart_where_the_tokenizer_has_no_separator(load: Load, tmp_path: Path) -> None:
    rows = [{"sentence1": "w1", "sentence2": "w2", "label": row % 2} for row in range(4)]
    example = load(_write(tmp_path / "pairs.jsonl", rows), family="llama").examples[0]
    assert example["input_ids"] == [6, 7]


def test_samples_are_cut_at_the_length_asked_for(load: Load, tmp_path: Path) -> None:
    rows = [{"text": "w1 " * 40, "label": row % 2} for row in range(4)]
    data = load(_write(tmp_path / "long.jsonl", rows), max_length=16)
    assert len(data.examples[0]["input_ids"]) == 16
    assert data.task.info.max_length == 16
    assert data.notes == ()


@pytest.mark.parametrize(("family", "longest"), [("bert", 64), ("roberta", 64), ("gpt2", 64)])
def test_samples_are_never_longer_than_the_model_takes(
    load: Load, tiny: Callable[[str], Path], tmp_path: Path, family: str, longest: int
) -> None:
    rows = [{"text": "w1 " * 100, "label": row % 2} for row in range(4)]
    data = load(_write(tmp_path / "long.jsonl", rows), family=family)
    assert data.task.info.max_length == len(data.examples[0]["input_ids"]) == longest
    assert data.notes == ("samples are cut at 64 tokens, the most this model takes, not at 128",)
    model = AutoModelForSequenceClassification.from_pretrained(tiny(family), num_labels=2, pad_token_id=0).eval()
    with torch.no_grad():
        model(**data.task.model_inputs(data.task.collate(data.take([0]))))


def test_text_that_the_tokenizer_drops_still_makes_one_token() -> None:
    backend = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    backend.normalizer = normalizers.Replace("x", "")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    encoder = TextEncoder([["x", "a"]], [0, 1], tokenizer, max_length=8, has_token_types=False)
    assert tokenizer("x")["input_ids"] == []
    dropped, kept = encoder.encode([0, 1])
    assert dropped == {"input_ids": [0], "attention_mask": [1], "labels": 0}
    assert kept["input_ids"] == [1]


def test_a_few_rows_without_text_or_label_are_left_out_and_counted(load: Load, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"text": f"w{row % 90} w1", "label": row % 2} for row in range(300)]
    rows[7]["text"] = "  "
    rows[9]["label"] = None
    path = _write(tmp_path / "gaps.jsonl", rows)
    data = load(path, max_length=64)
    assert len(data.examples) == 298
    assert [data.examples[place]["input_ids"][1] - 5 for place in (6, 7, 8)] == [6, 8, 10]
    assert data.notes == (f"{path}: 2 of 300 rows have no text in text or no label in label (first: line 8); they are left out",)


def test_many_rows_without_text_are_refused(load: Load, tmp_path: Path) -> None:
    rows = [{"text": "w1 w2" if row % 3 else None, "label": row % 2} for row in range(30)]
    with pytest.raises(DataError, match=r"10 of 30 rows have no text in text .*check the columns"):
        load(_write(tmp_path / "gaps.jsonl", rows), text_columns=["text"])


def test_plain_text_has_no_labels_to_classify_by(load: Load, tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("just words\n", encoding="utf-8")
    with pytest.raises(DataError, match="holds running text, not a table with labels"):
        load(path, task=TaskKind.CLASSIFICATION)


def test_a_plans_label_set_and_length_hold(load_for: Load, tiny: Callable[[str], Path], tmp_path: Path) -> None:
    rows = [{"text": "w1 " * 30, "label": name} for name in ("b", "a", "b")]
    plan_task = TaskInfo(
        kind=TaskKind.CLASSIFICATION,
        num_labels=3,
        label_names=["c", "b", "a"],
        text_columns=["text"],
        label_column="label",
        max_length=20,
    )
    path = _write(tmp_path / "rows.jsonl", rows)
    data = load_for(tiny("bert"), path, plan_task)
    assert [example["labels"] for example in data.examples] == [1, 2, 1]
    assert data.task.info == plan_task
    assert load_for(tiny("bert"), path, plan_task, max_length=12).task.info.max_length == 12


def test_a_length_that_is_the_default_is_as_good_as_any_other(load_for: Load, tmp_path: Path) -> None:
    path = _write(tmp_path / "rows.jsonl", [{"text": "w1 " * 300, "label": row % 2} for row in range(4)])
    plan_task = TaskInfo(kind=TaskKind.CLASSIFICATION, num_labels=2, label_names=["0", "1"], max_length=32)
    model = save_tiny("bert", tmp_path / "long", max_position_embeddings=200)
    # The tokenizer of the tiny models takes 64 tokens.
    config = model / "tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "model_max_length": 200}))
    for asked, expected in ((None, 32), (127, 127), (128, 128)):
        data = load_for(model, path, plan_task, max_length=asked)
        assert {len(example["input_ids"]) for example in data.examples} == {expected}
    assert load_for(model, path, max_length=None).task.info.max_length == 128


def test_a_default_that_the_model_cannot_take_is_cut_and_the_same_when_asked_for_is_refused(load: Load, tmp_path: Path) -> None:
    path = _write(tmp_path / "rows.jsonl", [{"text": "w1 " * 300, "label": row % 2} for row in range(4)])
    data = load(path)
    assert data.task.info.max_length == 64
    assert any("samples are cut at 64 tokens" in note for note in data.notes)
    with pytest.raises(DataError, match="samples of 128 tokens are longer than the 64 positions"):
        load(path, max_length=128)


@pytest.mark.parametrize(("num_texts", "needed"), [(1, 3), (2, 5)])
def test_a_length_without_room_for_a_token_of_each_text_is_refused(
    load: Load, tmp_path: Path, num_texts: int, needed: int
) -> None:
    names = ["sentence1", "sentence2"][:num_texts]
    path = _write(tmp_path / "rows.jsonl", ROWS)
    with pytest.raises(DataError, match=rf"max_length is {needed - 1}, too short .* --max-length {needed} or more"):
        load(path, text_columns=names, max_length=needed - 1)
    assert len(load(path, text_columns=names, max_length=needed).examples[0]["input_ids"]) == needed


@pytest.mark.parametrize("family", ["luke", "markuplm", "layoutlmv3"])
def test_families_that_count_positions_past_their_padding_token_take_fewer_tokens(
    tiny: Callable[[str], Path], family: str
) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    own = {
        "luke": {"entity_vocab_size": 4, "entity_emb_size": 8},
        "markuplm": {"max_depth": 2, "xpath_unit_hidden_size": 4},
        "layoutlmv3": {"max_2d_position_embeddings": 64, "coordinate_size": 2, "shape_size": 4, "visual_embed": False},
    }
    config = AutoConfig.for_model(family, vocab_size=200, max_position_embeddings=20, **sizes, **own[family])
    length, _ = sample_length(DataConfig(), None, config.to_dict(), processor_of(tiny("bert"), TaskKind.CLASSIFICATION))
    model = AutoModel.from_config(config).eval()
    model(input_ids=torch.full((1, length), 7))
    with pytest.raises(IndexError):
        model(input_ids=torch.full((1, length + 1), 7))


def test_numbers_make_a_regression(load: Load, tmp_path: Path) -> None:
    rows = [{"text": f"w{row} w1", "score": row / 7} for row in range(40)]
    data = load(_write(tmp_path / "scores.jsonl", rows))
    assert data.task.info.kind is TaskKind.REGRESSION
    assert data.task.info.num_labels == 1
    assert data.examples[7]["labels"] == 1.0
