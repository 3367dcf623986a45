"""Texts without labels: every text of every text column is a sample."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from layerlens.config import DataConfig
from layerlens.data.dataset import LoadedData, load_dataset
from layerlens.errors import DataError
from layerlens.models.checkpoint import open_checkpoint
from layerlens.models.load import load_task_model
from layerlens.models.processor import load_processor
from layerlens.words import TaskKind


def load(model: Path, data: Path, **options: object) -> LoadedData:
    checkpoint = open_checkpoint(str(model))
    return load_dataset(
        str(data),
        DataConfig(task=TaskKind.EMBEDDING, **options),  # type: ignore[arg-type]
        checkpoint_config=checkpoint.config,
        processor_for=lambda kind: load_processor(checkpoint, kind),
    )


def test_both_texts_of_a_pair_are_samples_and_its_score_is_not_used(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("sentence1,sentence2,score\nw1 w2,w3,1.5\nw4,w5 w6 w7,0.5\n")
    data = load(tiny("bert"), tmp_path / "pairs.csv")
    assert data.task.info.kind is TaskKind.EMBEDDING
    assert [len(example["input_ids"]) - 2 for example in data.take(range(4))] == [2, 1, 1, 3]
    assert all("labels" not in example for example in data.take(range(4)))
    assert len(data.examples) == 4


def test_running_text_is_cut_into_paragraphs(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("w1 w2\nw3\n\n  \nw4\n\n")
    data = load(tiny("bert"), tmp_path / "text.txt")
    assert [len(example["input_ids"]) - 2 for example in data.take(range(len(data.examples)))] == [3, 1]


def test_no_text_is_told(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "none.csv").write_text("text,label\n ,1\n ,0\n")
    with pytest.raises(DataError, match="column text holds no text"):
        load(tiny("bert"), tmp_path / "none.csv")


def test_the_base_model_is_loaded_without_a_head(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "text.csv").write_text("text\nw1 w2\n")
    model = tiny("bert")
    data = load(model, tmp_path / "text.csv")
    loaded = load_task_model(open_checkpoint(str(model)), data.task.info, seed=0)
    assert type(loaded.model).__name__ == "BertModel"
    assert loaded.new_parameters == ()
