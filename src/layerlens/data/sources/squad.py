"""SQuAD's JSON form: articles, paragraphs, questions, answers with the character they start at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from layerlens.data.table import Form, Table
from layerlens.errors import DataError


def is_squad(content: Any) -> bool:
    """Whether parsed JSON has SQuAD's form."""
    data = content.get("data") if isinstance(content, dict) else None
    return (
        isinstance(data, list) and bool(data) and all(isinstance(article, dict) and "paragraphs" in article for article in data)
    )


def squad_table(path: Path, content: Any) -> Table:
    """Flatten to one row a question: `id`, `question`, `context`, `answers` (`text` and `answer_start` lists).

    Raises:
        DataError: a paragraph or question lacks a field.
    """
    rows: dict[str, list[Any]] = {"id": [], "question": [], "context": [], "answers": []}
    try:
        for article in content["data"]:
            for paragraph in article["paragraphs"]:
                for question in paragraph["qas"]:
                    answers = question.get("answers") or []
                    rows["id"].append(str(question.get("id", len(rows["id"]))))
                    rows["question"].append(question["question"])
                    rows["context"].append(paragraph["context"])
                    rows["answers"].append(
                        {
                            "text": [answer["text"] for answer in answers],
                            "answer_start": [answer["answer_start"] for answer in answers],
                        }
                    )
    except (KeyError, TypeError) as error:
        raise DataError(f"{path}: question {len(rows['answers']) + 1} is not in SQuAD's form: {error}") from error
    if not rows["id"]:
        raise DataError(f"{path} has SQuAD's form but no question")
    return Table(where=str(path), columns=rows, form=Form.SQUAD)
