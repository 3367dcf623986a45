"""Questions with contexts: the window of the context that holds the answer, and where in it the answer lies."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from layerlens.artifacts.profile import TaskInfo
from layerlens.config import DataConfig
from layerlens.data.columns import QUESTION_NAMES
from layerlens.data.encoders.prepared import Prepared, sample_length, splits_of, takes_token_types, usable_rows
from layerlens.data.example import Example
from layerlens.data.lazy import Encoder
from layerlens.data.table import Table
from layerlens.errors import DataError
from layerlens.words import TaskKind

QUESTION_SHARE = 0.5
"""A question longer than this share of the window is cut, so that some context always fits."""


class SpanEncoder(Encoder):
    """Tokenises a question with windows of its context that overlap by half, and keeps one of them.

    Kept is the window in which the whole answer lies furthest from either edge; where the answer is longer than any
    window, the one with its start, the end then being the window's last token. Windows start at fixed places, so where
    the answer lies in its window tells nothing about it.
    """

    def __init__(
        self,
        questions: Sequence[str],
        contexts: Sequence[str],
        answers: Sequence[tuple[list[str], list[int]]],
        tokenizer: Any,
        *,
        max_length: int,
        has_token_types: bool,
    ) -> None:
        """Hold the questions, their contexts, and of each the answers' texts and first characters."""
        self._questions = questions
        self._contexts = contexts
        self._answers = answers
        self._tokenizer = tokenizer
        self._max_length = max_length
        self._has_token_types = has_token_types

    def __len__(self) -> int:
        return len(self._questions)

    def encode(self, rows: Sequence[int]) -> list[Example]:
        """Encode questions one by one, because the overlap depends on the question's length."""
        return [self._encode_one(row) for row in rows]

    def source(self, row: int) -> bytes:
        """The question, its context and its answers."""
        return json.dumps([self._questions[row], self._contexts[row], self._answers[row]]).encode()

    def _encode_one(self, row: int) -> Example:
        context = self._contexts[row]
        texts, starts = self._answers[row]
        question, room = self._fitted_question(self._questions[row])
        encoded = self._tokenizer(
            question,
            context,
            truncation="only_second",
            max_length=self._max_length,
            stride=room // 2,
            padding=False,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            return_attention_mask=True,
            return_token_type_ids=self._has_token_types,
            verbose=False,
        )
        begin, end = starts[0], starts[0] + len(texts[0])
        windows = [
            [
                (int(offset[0]), int(offset[1])) if source == 1 else None
                for offset, source in zip(encoded["offset_mapping"][window], encoded.sequence_ids(window), strict=True)
            ]
            for window in range(len(encoded["input_ids"]))
        ]
        chosen = max(range(len(windows)), key=lambda window: (*_fit(windows[window], begin, end), -window))
        first, last = _answer_tokens(windows[chosen], begin, end)
        names = [name for name in ("input_ids", "attention_mask", "token_type_ids") if name in encoded]
        return {
            **{name: list(encoded[name][chosen]) for name in names},
            "start_positions": first,
            "end_positions": last,
            "context": context,
            "answers": list(texts),
            "offsets": windows[chosen],
        }

    def _fitted_question(self, question: str) -> tuple[str, int]:
        """Cut an overlong question; also tell how many context tokens then fit."""
        specials = self._tokenizer.num_special_tokens_to_add(pair=True)
        longest = int(QUESTION_SHARE * (self._max_length - specials))
        encoded = self._tokenizer(question, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        offsets = encoded["offset_mapping"]
        if len(offsets) > longest:
            question, offsets = question[: offsets[longest - 1][1]], offsets[:longest]
        return question, max(1, self._max_length - specials - len(offsets))


def prepare_spans(
    table: Table, config: DataConfig, known: TaskInfo | None, checkpoint_config: dict[str, Any], tokenizer: Any
) -> Prepared:
    """Check the questions; those without an answer are left out with a note, as extraction needs one.

    Raises:
        DataError: a column is missing, the tokenizer cannot tell offsets, no question has an answer, or answers do not stand
            where they say.
    """
    missing = [name for name in QUESTION_NAMES if name not in table.columns]
    if missing:
        raise DataError(
            f"{table.where}: question-answering needs columns question, context and answers; {', '.join(missing)} missing "
            f"among {', '.join(table.columns)}"
        )
    if not tokenizer.is_fast:
        raise DataError("question-answering needs a fast tokenizer (a tokenizer.json); convert this model's tokenizer")
    questions, contexts, cells = (list(table.columns[name]) for name in QUESTION_NAMES)
    answers = [_read_answers(cell) for cell in cells]
    answered = [row for row, (texts, _) in enumerate(answers) if texts]
    if not answered:
        raise DataError(f"{table.where}: none of its {table.num_rows} questions has an answer; give data with answers")
    unanswered = set(range(table.num_rows)) - set(answered)
    rows, notes = usable_rows(
        table,
        lambda row: row in unanswered or _is_sound(questions[row], contexts[row], answers[row]),
        "no question, no context, or an answer that does not stand where it says",
    )
    rows = [row for row in rows if row not in unanswered]
    if unanswered:
        note = (
            f"{table.where}: {len(unanswered)} of {table.num_rows} questions have no answer in their context; they are left out"
        )
        notes = (*notes, note)
    max_length, length_notes = sample_length(config, known, checkpoint_config, tokenizer)
    specials = tokenizer.num_special_tokens_to_add(pair=True)
    if max_length < specials + 4:
        raise DataError(
            f"max_length is {max_length}, too short for a question and a context; give --max-length {specials + 4} or more"
        )
    info = TaskInfo(
        kind=TaskKind.QUESTION_ANSWERING, text_columns=["question", "context"], label_column="answers", max_length=max_length
    )
    encoder = SpanEncoder(
        [questions[row] for row in rows],
        [contexts[row] for row in rows],
        [answers[row] for row in rows],
        tokenizer,
        max_length=max_length,
        has_token_types=takes_token_types(checkpoint_config, tokenizer),
    )
    roles = {"question": "question", "context": "context", "label": "answers"}
    return Prepared(info, encoder, splits_of(table, rows), roles, (*table.notes, *notes, *length_notes))


def _read_answers(cell: Any) -> tuple[list[str], list[int]]:
    """Answers of one question, from `{text: [...], answer_start: [...]}` or a list of `{text, answer_start}`."""
    try:
        if isinstance(cell, dict):
            return [str(text) for text in cell["text"]], [int(start) for start in cell["answer_start"]]
        return [str(answer["text"]) for answer in cell or ()], [int(answer["answer_start"]) for answer in cell or ()]
    except (KeyError, TypeError, ValueError, OverflowError):
        # An answer of another form is as wrong as one that stands elsewhere; both are counted as such.
        return [""], [-1]


def _is_sound(question: Any, context: Any, answers: tuple[list[str], list[int]]) -> bool:
    texts, starts = answers
    return (
        isinstance(question, str)
        and isinstance(context, str)
        and bool(question.strip())
        and len(texts) == len(starts)
        and all(text and start >= 0 and context[start : start + len(text)] == text for text, start in zip(texts, starts))
    )


Window = list[tuple[int, int] | None]


def _fit(window: Window, begin: int, end: int) -> tuple[bool, bool, int]:
    """How well a window holds the characters begin … end: wholly, at least its start, and how far from the edges."""
    offsets = [offset for offset in window if offset is not None]
    if not offsets:
        return False, False, 0
    low, high = offsets[0][0], offsets[-1][1]
    holds_start = low <= begin < high
    return holds_start and end <= high, holds_start, min(begin - low, high - end)


def _answer_tokens(window: Window, begin: int, end: int) -> tuple[int, int]:
    """First and last context token that overlap the characters begin … end."""
    inside = [place for place, offset in enumerate(window) if offset is not None and offset[1] > begin and offset[0] < end]
    if inside:
        return inside[0], inside[-1]
    # The answer's characters have no token of their own (dropped by the tokenizer): the nearest token stands in.
    places = [place for place, offset in enumerate(window) if offset is not None]
    nearest = min(places, key=lambda place: abs((window[place] or (0, 0))[0] - begin))
    return nearest, nearest
