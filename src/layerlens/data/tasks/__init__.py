"""One file per kind of task."""

from __future__ import annotations

from typing import Any

from layerlens.artifacts.profile import TaskInfo
from layerlens.data.task import Task
from layerlens.data.tasks.causal_lm import CausalLM
from layerlens.data.tasks.classification import Classification
from layerlens.data.tasks.embedding import Embedding
from layerlens.data.tasks.image_classification import ImageClassification
from layerlens.data.tasks.question_answering import QuestionAnswering
from layerlens.data.tasks.regression import Regression
from layerlens.words import TaskKind


def build_task(info: TaskInfo, processor: Any) -> Task:
    """Build the task that `info` describes.

    Args:
        info: Kind, label set and lengths.
        processor: The model's tokenizer, or its image processor for image classification.
    """
    if info.kind is TaskKind.IMAGE_CLASSIFICATION:
        return ImageClassification(info)
    pad_token_id = processor.pad_token_id if processor.pad_token_id is not None else 0
    if info.kind is TaskKind.REGRESSION:
        return Regression(info, pad_token_id)
    if info.kind is TaskKind.CAUSAL_LM:
        return CausalLM(info, pad_token_id)
    if info.kind is TaskKind.QUESTION_ANSWERING:
        return QuestionAnswering(info, pad_token_id)
    if info.kind is TaskKind.EMBEDDING:
        return Embedding(info, pad_token_id)
    return Classification(info, pad_token_id)
