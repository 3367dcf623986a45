"""`.npz`: images and classes as arrays, `train_x train_y test_x test_y` or `x y`."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from layerlens.data.sources.extras import need
from layerlens.data.table import Form, LazyColumn, Table
from layerlens.errors import DataError

CHANNELS = (1, 3, 4)


def read_arrays(path: Path) -> Table:
    """Read images (uint8, or floats in 0 … 1; NHWC, NCHW or NHW) and their integer classes.

    With `test_x` the source fixes its own split. Nothing pickled is ever loaded.

    Raises:
        DataError: no such arrays, lengths or shapes that do not fit, or a damaged file.
    """
    need("PIL", "images", f"{path} holds images")
    arrays = _load(path)
    pairs = [(split, f"{split}_x", f"{split}_y") for split in ("train", "validation", "test") if f"{split}_x" in arrays]
    if not pairs and "x" in arrays:
        pairs = [("train", "x", "y")]
    if not any(split == "train" for split, _, _ in pairs):
        raise DataError(f"{path} holds {', '.join(sorted(arrays)) or 'nothing'}; needed is train_x and train_y, or x and y")
    faults = [fault for _, x, y in pairs for fault in _faults(path, arrays, x, y)]
    if faults:
        raise DataError.of(faults)
    images = [array for _, x, _ in pairs for array in arrays[x]]
    return Table(
        where=str(path),
        columns={
            "image": LazyColumn(lambda row: to_image(images[row]), len(images), lambda row: images[row].tobytes()),
            "label": [int(label) for _, _, y in pairs for label in arrays[y]],
        },
        form=Form.IMAGES,
        splits=tuple(split for split, x, _ in pairs for _ in range(len(arrays[x]))) if len(pairs) > 1 else None,
        text_columns=("image",),
        label_column="label",
    )


def to_image(array: np.ndarray) -> Any:
    """Turn one array into a PIL image in RGB."""
    from PIL import Image

    if array.ndim == 3 and array.shape[2] not in CHANNELS:
        array = np.moveaxis(array, 0, 2)
    if array.dtype != np.uint8:
        array = np.rint(array * 255.0).astype(np.uint8)
    return Image.fromarray(array.squeeze(2) if array.ndim == 3 and array.shape[2] == 1 else array).convert("RGB")


def _load(path: Path) -> dict[str, np.ndarray]:
    try:
        # Opened here, because numpy leaves its own file open where the archive is damaged.
        with path.open("rb") as file:
            content = np.load(file, allow_pickle=False)
            if isinstance(content, np.ndarray):
                raise ValueError("it holds one array (.npy), not an archive of them")
            return {name: content[name] for name in content.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"cannot read {path} as .npz: {reason}") from error


def _faults(path: Path, arrays: dict[str, np.ndarray], x: str, y: str) -> Iterator[str]:
    images, labels = arrays[x], arrays.get(y)
    if labels is None:
        yield f"{path}: {x} is there, but {y} (its labels) is not"
        return
    if labels.ndim != 1 or images.size == 0 or images.shape[:1] != labels.shape:
        yield f"{path}: {x} {images.shape} and {y} {labels.shape} need one label for each image, and at least one"
    if not np.issubdtype(labels.dtype, np.integer):
        yield f"{path}: {y} holds {labels.dtype}; classes are integers"
    is_picture = images.ndim == 3 or (images.ndim == 4 and (images.shape[3] in CHANNELS or images.shape[1] in CHANNELS))
    if not is_picture:
        yield f"{path}: {x} has shape {images.shape}; images are samples × height × width (× channels)"
    elif np.issubdtype(images.dtype, np.floating):
        if images.size and not (np.isfinite(images).all() and images.min() >= 0 and images.max() <= 1):
            yield f"{path}: {x} holds floats outside 0 … 1; save it as uint8 or scale it"
    elif images.dtype != np.uint8:
        yield f"{path}: {x} holds {images.dtype}; images are uint8, or floats in 0 … 1"
