from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForQuestionAnswering

from layerlens.data.tasks.question_answering import SpanLogits, best_answer
from layerlens.errors import DataError
from layerlens.words import TaskKind
from tests.unit.data.conftest import Load

CONTEXT = " ".join(f"w{number}" for number in range(150))


def _squad(path: Path, *questions: tuple[str, str | None], context: str = CONTEXT) -> Path:
    """Write questions with their answers (None for an impossible one) about one context."""
    qas = [
        {
            "id": str(number),
            "question": question,
            "answers": [] if answer is None else [{"text": answer, "answer_start": context.index(answer)}],
        }
        for number, (question, answer) in enumerate(questions)
    ]
    path.write_text(json.dumps({"data": [{"paragraphs": [{"context": context, "qas": qas}]}]}), encoding="utf-8")
    return path


def _span_of(example: dict[str, Any]) -> str:
    begin = example["offsets"][example["start_positions"]][0]
    return example["context"][begin : example["offsets"][example["end_positions"]][1]]


@pytest.mark.parametrize("answer", ["w0", "w7 w8", "w60 w61 w62", "w148 w149"])
def test_the_window_holds_the_whole_answer_wherever_it_lies(load: Load, tmp_path: Path, answer: str) -> None:
    data = load(_squad(tmp_path / "q.json", ("w1 w2", answer)), max_length=24)
    example = data.examples[0]
    assert _span_of(example) == answer
    assert len(example["input_ids"]) <= 24
    # The question comes first and is never part of an answer; the special tokens neither.
    assert example["offsets"][:4] == [None, None, None, None]
    assert example["offsets"][-1] is None


def test_where_the_answer_lies_in_its_window_differs(load: Load, tmp_path: Path) -> None:
    answers = [f"w{number}" for number in range(30, 60, 3)]
    data = load(_squad(tmp_path / "q.json", *(("w1", answer) for answer in answers)), max_length=24)
    assert len({example["start_positions"] for example in data.examples}) > 3


def test_an_answer_longer_than_any_window_keeps_its_start(load: Load, tmp_path: Path) -> None:
    answer = " ".join(f"w{number}" for number in range(20, 60))
    example = load(_squad(tmp_path / "q.json", ("w1", answer)), max_length=24).examples[0]
    assert answer.startswith(_span_of(example))
    assert len(_span_of(example).split()) > 5


def test_an_overlong_question_leaves_room_for_context(load: Load, tmp_path: Path) -> None:
    example = load(_squad(tmp_path / "q.json", ("w1 " * 80, "w70")), max_length=24).examples[0]
    assert _span_of(example) == "w70"
    assert len(example["input_ids"]) <= 24


def test_questions_without_an_answer_are_left_out_and_counted(load: Load, tmp_path: Path) -> None:
    path = _squad(tmp_path / "q.json", ("w1", "w70"), ("w2", None), ("w3", "w71"))
    data = load(path)
    assert [_span_of(example) for example in data.examples] == ["w70", "w71"]
    assert data.notes[0] == f"{path}: 1 of 3 questions have no answer in their context; they are left out"


def test_no_answer_at_all_is_refused(load: Load, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none of its 1 questions has an answer"):
        load(_squad(tmp_path / "q.json", ("w1", None)))


def test_answers_that_stand_elsewhere_are_refused(load: Load, tmp_path: Path) -> None:
    path = _squad(tmp_path / "q.json", ("w1", "w70"))
    path.write_text(path.read_text().replace('"text": "w70"', '"text": "w71"'), encoding="utf-8")
    with pytest.raises(
        DataError, match="1 of 1 rows have no question, no context, or an answer that does not stand where it says"
    ):
        load(path)


@pytest.mark.parametrize(
    "answers", [{"text": ["w2"], "answer_start": [6]}, [{"text": "w2", "answer_start": 6}]], ids=["columns", "objects"]
)
def test_rows_with_hub_columns_work(load: Load, tmp_path: Path, answers: object) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"question": "w9", "context": "w0 w1 w2", "answers": answers}), encoding="utf-8")
    data = load(path)
    assert data.task.info.kind is TaskKind.QUESTION_ANSWERING
    assert _span_of(data.examples[0]) == "w2"


def test_a_missing_column_is_named(load: Load, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"question": "w9", "context": "w0 w1 w2"}), encoding="utf-8")
    with pytest.raises(DataError, match="answers missing among question, context"):
        load(path, task=TaskKind.QUESTION_ANSWERING)


def test_a_window_too_short_for_any_context_is_refused(load: Load, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"max_length is 6, too short.*--max-length 7 or more"):
        load(_squad(tmp_path / "q.json", ("w1", "w70")), max_length=6)


def test_a_model_takes_the_batch_and_the_right_logits_score_in_full(
    load: Load, tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    data = load(_squad(tmp_path / "q.json", ("w1", "w70 w71"), ("w2 w3", "w5")))
    batch = data.task.collate(data.take([0, 1]))
    model = AutoModelForQuestionAnswering.from_pretrained(tiny("bert")).eval()
    with torch.no_grad():
        outputs = model(**data.task.model_inputs(batch))
    assert torch.isfinite(data.task.per_sample_loss(outputs, batch)).all()
    outputs.start_logits = torch.nn.functional.one_hot(batch["start_positions"], batch["input_ids"].shape[1]).float()
    outputs.end_logits = torch.nn.functional.one_hot(batch["end_positions"], batch["input_ids"].shape[1]).float()
    assert data.task.score(data.task.predictions(outputs, batch), data.take([0, 1])) == {"f1": 1.0, "exact_match": 1.0}


def test_the_labelled_span_of_real_questions_is_their_answer(load_for: Load, shared: Path, minilm: Path) -> None:
    data = load_for(minilm, shared / "data/squad/xquad.en.json", max_length=256)
    examples = data.take(range(0, len(data.examples), 12))
    texts = []
    for example in examples:
        logits = [
            torch.nn.functional.one_hot(torch.tensor(example[name]), len(example["offsets"])).float().numpy()
            for name in ("start_positions", "end_positions")
        ]
        texts.append(best_answer(SpanLogits(*logits), example))
    # Tokens may reach past the annotated characters ("$400" for "400"), in a few questions only.
    same = sum(text == example["answers"][0] for text, example in zip(texts, examples, strict=True))
    assert same >= 0.97 * len(examples)
    assert all(example["answers"][0] in text for text, example in zip(texts, examples, strict=True))
