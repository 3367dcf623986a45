"""Images with a class: preprocessed by the model's own image processor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from layerlens.artifacts.profile import TaskInfo
from layerlens.config import DataConfig
from layerlens.data.columns import find_label_column
from layerlens.data.encoders.prepared import Prepared, splits_of, usable_rows
from layerlens.data.example import Example
from layerlens.data.labels import NO_HEAD, HeadLabels, class_labels, is_missing
from layerlens.data.lazy import Encoder
from layerlens.data.table import LazyColumn, Table
from layerlens.errors import DataError
from layerlens.words import TaskKind


class ImageEncoder(Encoder):
    """Makes `pixel_values`, float32 `[channels height width]`; 512 images (0.3 GB at 224 × 224) are kept."""

    max_cached = 512

    def __init__(self, images: Sequence[Any], rows: Sequence[int], labels: Sequence[int], processor: Any) -> None:
        """Hold PIL images, which of them are used, the class of each of these, and the processor."""
        self._images = images
        self._rows = rows
        self._labels = labels
        self._processor = processor

    def __len__(self) -> int:
        return len(self._rows)

    def encode(self, rows: Sequence[int]) -> list[Example]:
        """Preprocess the images one by one, so that sizes may differ."""
        examples = []
        for row in rows:
            pixels = self._processor(images=self._images[self._rows[row]], return_tensors="np")["pixel_values"][0]
            examples.append({"pixel_values": np.asarray(pixels, dtype=np.float32), "labels": self._labels[row]})
        return examples

    def source(self, row: int) -> bytes:
        """What the source knows the image by, and its class."""
        place = self._rows[row]
        stamp = self._images.stamp if isinstance(self._images, LazyColumn) else None
        return b"%d\0" % self._labels[row] + (self._images[place].tobytes() if stamp is None else stamp(place))


def prepare_images(
    table: Table, config: DataConfig, known: TaskInfo | None, processor: Any, head: HeadLabels = NO_HEAD
) -> Prepared:
    """Map the labels of an image source.

    Raises:
        DataError: the source has no label column, or the labels do not fit.
    """
    label = find_label_column(table, config, known)
    if label is None:
        raise DataError(f"{table.where}: no label column among {', '.join(table.columns)}; give --label-column")
    labels = list(table.columns[label])
    rows, notes = usable_rows(table, lambda row: not is_missing(labels[row]), "no label")
    indices, names = class_labels(label, labels, table, rows, known.label_names if known is not None else None, head)
    info = TaskInfo(
        kind=TaskKind.IMAGE_CLASSIFICATION,
        num_labels=len(names),
        label_names=names,
        text_columns=list(table.text_columns),
        label_column=label,
    )
    encoder = ImageEncoder(table.columns[table.text_columns[0]], rows, indices, processor)
    roles = {"image": table.text_columns[0], "label": label}
    return Prepared(info, encoder, splits_of(table, rows), roles, (*table.notes, *notes))
