from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageClassification

from layerlens.artifacts.profile import TaskInfo
from layerlens.data.tasks.image_classification import ImageClassification
from layerlens.errors import DataError
from layerlens.words import TaskKind


def test_the_mean_loss_is_the_models_own(tiny: Callable[[str], Path]) -> None:
    task = ImageClassification(TaskInfo(kind=TaskKind.IMAGE_CLASSIFICATION, num_labels=3))
    pixels = np.random.default_rng(0).normal(size=(4, 3, 16, 16)).astype(np.float32)
    batch = task.collate([{"pixel_values": image, "labels": label} for image, label in zip(pixels, (0, 2, 1, 1), strict=True)])
    torch.manual_seed(0)
    model = AutoModelForImageClassification.from_pretrained(tiny("vit"), num_labels=3).eval()
    with torch.no_grad():
        outputs = model(**batch)
    torch.testing.assert_close(task.per_sample_loss(outputs, batch).mean(), outputs.loss)
    assert task.token_mask(batch) is None
    assert batch["pixel_values"].shape == (4, 3, 16, 16)


def test_images_that_the_processor_leaves_in_several_sizes_are_refused() -> None:
    task = ImageClassification(TaskInfo(kind=TaskKind.IMAGE_CLASSIFICATION, num_labels=2))
    examples = [{"pixel_values": np.zeros((3, 16, width), dtype=np.float32), "labels": 0} for width in (20, 16, 24)]
    with pytest.raises(DataError, match=r"leaves images of several sizes \(16×16 and 16×20\)"):
        task.collate(examples)
