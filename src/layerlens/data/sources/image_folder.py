"""A folder of images: one subfolder a class, or `train`, `validation` and `test` folders of these."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from layerlens.data.sources.extras import need
from layerlens.data.table import Form, LazyColumn, Table
from layerlens.errors import DataError

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
SPLIT_OF_FOLDER = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "val": "validation",
    "valid": "validation",
    "dev": "validation",
    "test": "test",
}


def read_image_folder(folder: Path) -> Table:
    """List the images below `folder`, in the order of their paths; none is opened before it is used.

    Raises:
        DataError: Pillow is not installed, or there is no image in a subfolder.
    """
    subfolders = _subfolders(folder)
    has_splits = bool(subfolders) and all(sub.name.lower() in SPLIT_OF_FOLDER for sub in subfolders)
    tops = [(SPLIT_OF_FOLDER[sub.name.lower()], sub) for sub in subfolders] if has_splits else [("train", folder)]
    found = [
        (split, label.name, path)
        for split, top in tops
        for label in _subfolders(top)
        for path in sorted(label.rglob("*"))
        if path.suffix.lower() in SUFFIXES
    ]
    if not found:
        raise DataError(f"{folder} holds no images in subfolders; a folder of images has one subfolder for each class")
    need("PIL", "images", f"{folder} holds images")
    names = sorted({name for _, name, _ in found})
    paths = [path for _, _, path in found]
    return Table(
        where=str(folder),
        columns={
            "image": LazyColumn(lambda row: open_image(paths[row]), len(paths), lambda row: _stamp(paths[row])),
            "label": [names.index(name) for _, name, _ in found],
        },
        form=Form.IMAGES,
        splits=tuple(split for split, _, _ in found) if has_splits else None,
        class_names={"label": tuple(names)},
        text_columns=("image",),
        label_column="label",
    )


def open_image(path: Path) -> Any:
    """Open one image file in RGB.

    Raises:
        DataError: the file is no image, or damaged.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
        raise DataError(f"cannot read {path} as an image: {str(error).splitlines()[0]}; repair or remove it") from error


def _stamp(path: Path) -> bytes:
    """A file's path, size and time of change: reading every file of a large set would take longer than some runs."""
    try:
        found = path.stat()
    except OSError as error:
        raise DataError(f"cannot read {path} as an image: {error.strerror or error}; repair or remove it") from error
    return f"{path}\0{found.st_size}\0{found.st_mtime_ns}".encode(errors="surrogateescape")


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
