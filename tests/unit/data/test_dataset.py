from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from layerlens.artifacts.profile import TaskInfo
from layerlens.data.lazy import LazyExamples
from layerlens.errors import DataError
from layerlens.words import TaskKind
from tests.unit.data.conftest import Load

PAIR, SINGLE = TaskKind.PAIR_CLASSIFICATION, TaskKind.CLASSIFICATION


@pytest.mark.parametrize(
    ("name", "num_rows", "kind", "columns"),
    [
        ("mrpc/train.tsv", 3667, PAIR, ["#1 String", "#2 String", "Quality"]),
        ("mrpc/dev.tsv", 408, PAIR, ["#1 String", "#2 String", "Quality"]),
        ("mrpc/msr_paraphrase_test.txt", 1725, PAIR, ["#1 String", "#2 String", "Quality"]),
        ("cola/train.tsv", 8551, SINGLE, ["sentence", "label"]),
        ("cola/dev.tsv", 1043, SINGLE, ["sentence", "label"]),
        ("sst2/train.tsv", 67349, SINGLE, ["sentence", "label"]),
        ("sst2/dev.tsv", 872, SINGLE, ["sentence", "label"]),
        ("stsb/train.tsv", 5749, TaskKind.REGRESSION, ["sentence1", "sentence2", "score"]),
        ("stsb/dev.tsv", 1500, TaskKind.REGRESSION, ["sentence1", "sentence2", "score"]),
        ("stsb/sts-test.tsv", 1379, TaskKind.REGRESSION, ["sentence1", "sentence2", "score"]),
        ("squad/squad2_dev_half.json", 2910, TaskKind.QUESTION_ANSWERING, ["question", "context", "answers"]),
        ("squad/xquad.en.json", 1190, TaskKind.QUESTION_ANSWERING, ["question", "context", "answers"]),
    ],
)
def test_the_shared_files_load_as_they_are(
    load: Load, shared: Path, name: str, num_rows: int, kind: TaskKind, columns: list[str]
) -> None:
    data = load(shared / "data" / name, max_length=64)
    assert len(data.examples) == num_rows
    assert data.task.info.kind is kind
    assert list(data.columns.values()) == columns
    assert data.task.info.label_names == (["0", "1"] if kind in (PAIR, SINGLE) else [])
    batch = data.task.collate(data.take([0, num_rows // 2, num_rows - 1]))
    assert batch["input_ids"].shape[0] == 3


@pytest.mark.parametrize(
    ("model", "name", "num_characters"),
    [
        ("stories260k", "tinyshakespeare/input.txt", 1_115_394),
        ("stories260k", "tinystories/tinystories_train_part.txt", 197_290),
        ("stdlib-llama", "wikitext2/wiki.test.raw", 1_290_547),
        ("stdlib-llama", "wikitext2/wiki.valid.tokens", 1_121_681),
        ("stdlib-llama", "wikitext2/wiki.test.tokens", 1_256_449),
    ],
)
def test_the_shared_texts_load_in_windows(load_for: Load, shared: Path, model: str, name: str, num_characters: int) -> None:
    data = load_for(shared / "models" / model, shared / "data" / name)
    assert data.task.info.kind is TaskKind.CAUSAL_LM
    lengths = Counter(len(example["input_ids"]) for example in data.examples)
    assert lengths[128] >= len(data.examples) - 1
    # A token of these vocabularies is one to five characters of English on average.
    assert num_characters / 5 < sum(length * count for length, count in lengths.items()) < num_characters


def test_a_text_is_encoded_without_loss(load_for: Load, shared: Path) -> None:
    from transformers import AutoTokenizer

    folder = shared / "models/stories260k"
    path = shared / "data/tinystories/tinystories_train_part.txt"
    data = load_for(folder, path)
    tokens = [token for example in data.examples for token in example["input_ids"]]
    decoded = AutoTokenizer.from_pretrained(folder).decode(tokens, skip_special_tokens=True)
    assert decoded.strip() == path.read_text(encoding="utf-8").strip()


def test_the_shared_images_keep_their_split(load_for: Load, shared: Path) -> None:
    data = load_for(shared / "models/deit-tiny", shared / "data/cifar10/small.npz")
    assert data.splits is not None
    assert Counter(data.splits) == {"train": 4000, "test": 2000}
    assert data.task.info.num_labels == 10
    assert data.task.collate(data.take([0, 5999]))["pixel_values"].shape == (2, 3, 224, 224)


def test_known_labels_of_the_shared_files_come_out_right(load: Load, shared: Path) -> None:
    cola = load(shared / "data/cola/dev.tsv")
    assert sum(example["labels"] for example in cola.take(range(1043))) == 721
    sts = load(shared / "data/stsb/sts-test.tsv")
    assert sts.examples[0]["labels"] == 2.5
    assert {0.0, 5.0} <= {example["labels"] for example in sts.take(range(1379))}


def test_a_few_samples_of_a_huge_file_cost_a_few_encodings(load: Load, shared: Path) -> None:
    data = load(shared / "data/sst2/train.tsv")
    data.take(range(100, 150))
    assert isinstance(data.examples, LazyExamples)
    # The type checker of the tests looks at an item of its own choice now and then.
    assert data.examples.num_kept < 60


def test_columns_of_cola_may_be_given_by_number(load: Load, shared: Path) -> None:
    path = shared / "data/cola/dev.tsv"
    numbered = load(path, text_columns=["3"], label_column="1")
    assert numbered.hash(range(20)) == load(path).hash(range(20))


def test_stdlib_docs_is_a_classification_with_its_own_splits(load: Load) -> None:
    data = load("stdlib-docs")
    assert data.task.info.kind is SINGLE
    assert data.task.info.num_labels >= 8
    assert data.splits is not None
    assert {example["labels"] for example in data.take(range(len(data.examples)))} == set(range(data.task.info.num_labels))
    assert data.columns == {"text": "docstring", "label": "part"}


def test_the_hash_tells_samples_and_their_order(load: Load, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps({"text": f"w{row}", "label": row % 2}) for row in range(9)), encoding="utf-8")
    data = load(path)
    assert data.hash([0, 1, 2]) == load(path).hash([0, 1, 2])
    assert len({data.hash(indices) for indices in ([0, 1, 2], [2, 1, 0], [0, 1], [0, 1, 3])}) == 4


def _rows(num: int, label: Callable[[int], Any] = lambda row: row % 2) -> str:
    return "\n".join(json.dumps({"text": f"w{row} w1", "label": label(row)}) for row in range(num))


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("a.jsonl", '{"text": "w1"}\n{"text": "w2"}', {}, "a.jsonl: no label column among text; give --label-column"),
        ("a.tsv", "", {}, "a.tsv is empty"),
        ("a.jsonl", _rows(10, lambda row: "same"), {}, "every row has the label 'same'"),
        ("a.jsonl", _rows(10, lambda row: row % 3 - 1), {}, "label -1 in line 1 is out of range"),
        ("a.jsonl", _rows(10, lambda row: "high"), {"task": "regression"}, "label 'high' in line 1, .*is no finite number"),
        ("a.jsonl", _rows(10), {"label_column": "gold"}, r"no column 'gold' \(--label-column\); it has text, label"),
        ("a.jsonl", _rows(10), {"task": "pair-classification"}, "cannot tell two text columns among text, label"),
        ("a.jsonl", _rows(10), {"task": "question-answering"}, "question, context, answers missing among text, label"),
        ("a.jsonl", _rows(10), {"task": "image-classification"}, "holds no images"),
    ],
)
def test_bad_input_is_one_line_that_says_where_and_what(
    load: Load, tmp_path: Path, name: str, content: str, options: dict[str, Any], message: str
) -> None:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message) as caught:
        load(path, **options)
    assert "\n" not in str(caught.value)


def test_a_label_outside_a_plans_set_is_refused(load_for: Load, tiny: Callable[[str], Path], tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(_rows(10, lambda row: row % 3), encoding="utf-8")
    plan_task = TaskInfo(kind=SINGLE, num_labels=2, label_names=["0", "1"], text_columns=["text"], label_column="label")
    with pytest.raises(DataError, match=r"label '2' in line 3 is not in the plan's label set \(0, 1\)"):
        load_for(tiny("bert"), path, plan_task)


def test_a_plan_for_another_task_is_refused(load_for: Load, tiny: Callable[[str], Path]) -> None:
    plan_task = TaskInfo(kind=SINGLE, num_labels=2, label_names=["0", "1"])
    with pytest.raises(DataError, match="the plan is for classification, not for regression"):
        load_for(tiny("bert"), "stdlib-docs", plan_task, task=TaskKind.REGRESSION)
