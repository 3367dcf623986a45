from __future__ import annotations

from typing import Any

import pytest

from layerlens.config import DataConfig
from layerlens.data.guess import guess_task
from layerlens.data.table import Form, Table
from layerlens.errors import DataError
from layerlens.words import TaskKind

LANGUAGE_MODEL = {"architectures": ["LlamaForCausalLM"]}
ENCODER = {"architectures": ["BertModel"]}


def _guess(columns: dict[str, list[Any]], config: dict[str, Any] | None = None, **options: Any) -> TaskKind:
    form = options.pop("form", Form.TABLE)
    return guess_task(
        Table(where="data", columns=columns, form=form), DataConfig(**options), ENCODER if config is None else config
    )


@pytest.mark.parametrize(
    ("form", "kind"),
    [(Form.TEXT, TaskKind.CAUSAL_LM), (Form.SQUAD, TaskKind.QUESTION_ANSWERING), (Form.IMAGES, TaskKind.IMAGE_CLASSIFICATION)],
)
def test_the_form_of_the_source_decides_first(form: Form, kind: TaskKind) -> None:
    assert _guess({"text": ["a"]}, form=form) is kind


def test_texts_and_labels_decide_for_a_table() -> None:
    labels = ["0", "1"] * 20
    scores = [f"{number / 8:.3f}" for number in range(40)]
    texts = ["some words"] * 40
    assert _guess({"text": texts, "label": labels}) is TaskKind.CLASSIFICATION
    assert _guess({"sentence1": texts, "sentence2": texts, "label": labels}) is TaskKind.PAIR_CLASSIFICATION
    assert _guess({"sentence1": texts, "sentence2": texts, "score": scores}) is TaskKind.REGRESSION
    assert _guess({"text": texts, "score": scores}) is TaskKind.REGRESSION


def test_columns_of_questions_are_for_question_answering() -> None:
    assert _guess({"question": ["a"], "context": ["b"], "answers": [{}]}) is TaskKind.QUESTION_ANSWERING


def test_a_language_model_learns_text_without_labels_and_classes_with_them() -> None:
    assert _guess({"text": ["a b", "c d"]}, LANGUAGE_MODEL) is TaskKind.CAUSAL_LM
    assert _guess({"text": ["a b"]}, {"architectures": ["GPT2LMHeadModel"]}) is TaskKind.CAUSAL_LM
    assert _guess({"text": ["a b", "c d"], "label": [0, 1]}, LANGUAGE_MODEL) is TaskKind.CLASSIFICATION


def test_without_a_label_another_model_is_refused() -> None:
    with pytest.raises(DataError, match="no label column among text"):
        _guess({"text": ["a b", "c d"]})
    with pytest.raises(DataError, match="no label column among text"):
        _guess({"text": ["a b", "c d"]}, {})


def test_what_is_asked_for_is_not_guessed() -> None:
    assert _guess({"text": ["a b"]}, task=TaskKind.REGRESSION) is TaskKind.REGRESSION
