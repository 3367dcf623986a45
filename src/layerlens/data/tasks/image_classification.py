"""Image classification: as classification of text, on `pixel_values` of one size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from layerlens.data.example import Batch, Example
from layerlens.data.tasks.classification import LabelledClasses
from layerlens.errors import DataError


class ImageClassification(LabelledClasses):
    """Classification of one image."""

    is_padded_on = False

    def collate(self, examples: Sequence[Example], *, multiple_of: int = 1) -> Batch:
        """Stack `pixel_values` as float32 `[batch channels height width]`; `labels` is int64 `[batch]`.

        Raises:
            DataError: the images are of several sizes, for the model's processor resizes none, or one side of them only.
        """
        shapes = sorted({example["pixel_values"].shape for example in examples})
        if len(shapes) > 1:
            sizes = " and ".join("×".join(map(str, shape[1:])) for shape in shapes[:2])
            raise DataError(
                f"the model's image processor leaves images of several sizes ({sizes}); give images of one size, or let its "
                "preprocessor_config.json resize them"
            )
        return {
            "pixel_values": torch.from_numpy(np.stack([example["pixel_values"] for example in examples])),
            "labels": torch.tensor([example["labels"] for example in examples], dtype=torch.long),
        }
