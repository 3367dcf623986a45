from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageClassification

from layerlens.config import DataConfig
from layerlens.data.encoders.images import prepare_images
from layerlens.data.table import Form, Table
from layerlens.errors import DataError
from layerlens.words import TaskKind
from tests.unit.data.conftest import Load, processor_of

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 20, 20, 3), dtype=np.uint8)
LABELS = np.arange(12) % 3


def test_images_are_what_the_models_own_processor_makes(load: Load, tiny: Callable[[str], Path], tmp_path: Path) -> None:
    from PIL import Image

    np.savez(tmp_path / "images.npz", x=PIXELS, y=LABELS)
    data = load(tmp_path / "images.npz", family="vit")
    processor = processor_of(tiny("vit"), TaskKind.IMAGE_CLASSIFICATION)
    expected = processor(images=Image.fromarray(PIXELS[4]), return_tensors="np")["pixel_values"][0]
    np.testing.assert_array_equal(data.examples[4]["pixel_values"], expected)
    batch = data.task.collate(data.take([0, 4]))
    assert batch["labels"].tolist() == [0, 1]
    model = AutoModelForImageClassification.from_pretrained(tiny("vit"), num_labels=3).eval()
    with torch.no_grad():
        outputs = model(**data.task.model_inputs(batch))
    assert torch.isfinite(data.task.per_sample_loss(outputs, batch)).all()


def test_text_is_no_image(load: Load, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("words", encoding="utf-8")
    with pytest.raises(DataError, match="holds no images"):
        load(path, family="vit", task=TaskKind.IMAGE_CLASSIFICATION)


def test_one_class_only_is_refused(load: Load, tmp_path: Path) -> None:
    np.savez(tmp_path / "images.npz", x=PIXELS, y=np.zeros(12, dtype=int))
    with pytest.raises(DataError, match="at least two classes"):
        load(tmp_path / "images.npz", family="vit")


def test_images_are_no_text(load: Load, tmp_path: Path) -> None:
    np.savez(tmp_path / "images.npz", x=PIXELS, y=LABELS)
    with pytest.raises(DataError, match="holds images, but the task is classification"):
        load(tmp_path / "images.npz", task=TaskKind.CLASSIFICATION)


def test_the_label_of_images_may_be_asked_for(tiny: Callable[[str], Path]) -> None:
    from PIL import Image

    columns = {"image": [Image.fromarray(PIXELS[0])] * 3, "fine": [0, 1, 2], "coarse": [0, 0, 1]}
    table = Table(where="hub", columns=columns, form=Form.IMAGES, text_columns=("image",))
    processor = processor_of(tiny("vit"), TaskKind.IMAGE_CLASSIFICATION)
    prepared = prepare_images(table, DataConfig(label_column="coarse"), None, processor)
    assert [example["labels"] for example in prepared.encoder.encode([0, 1, 2])] == [0, 0, 1]
    with pytest.raises(DataError, match="no label column among image, fine, coarse; give --label-column"):
        prepare_images(table, DataConfig(), None, processor)
