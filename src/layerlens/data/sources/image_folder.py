"""A folder of images: one subfolder a class, or `train`, `validation` and `test` folders of these."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from layerlens.data.sources.extras import need
from layerlens.data.sources.pictures import as_rgb
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
        DataError: Pillow is not installed, there is no image in a subfolder, or folders of splits lie beside others.
    """
    subfolders = [sub for sub in _subfolders(folder) if any(_images(sub))]
    has_splits = _are_splits(folder, subfolders)
    tops = [(SPLIT_OF_FOLDER[sub.name.lower()], sub) for sub in subfolders] if has_splits else [("train", folder)]
    found = [(split, label.name, path) for split, top in tops for label in _subfolders(top) for path in sorted(_images(label))]
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
    """Open one image file in RGB; raises `DataError` where it is no image, damaged or of an unknown range."""
    from PIL import Image

    return as_rgb(str(path), lambda: Image.open(path))


def _stamp(path: Path) -> bytes:
    """A file's path, size and time of change: reading every file of a large set would take longer than some runs."""
    try:
        found = path.stat()
    except OSError as error:
        raise DataError(f"cannot read {path} as an image: {error.strerror or error}; repair or remove it") from error
    return f"{path}\0{found.st_size}\0{found.st_mtime_ns}".encode(errors="surrogateescape")


def _are_splits(folder: Path, subfolders: list[Path]) -> bool:
    """Whether the subfolders with images are splits: all are called so. A class may be called `train` as well."""
    splits = [sub for sub in subfolders if sub.name.lower() in SPLIT_OF_FOLDER]
    others = [sub.name for sub in subfolders if sub not in splits]
    if splits and others and not any(path.parent == sub for sub in splits for path in _images(sub)):
        raise DataError(
            f"{folder} holds folders of classes in {', '.join(sub.name for sub in splits)}, and {', '.join(others)} beside "
            "them; a folder of images has one subfolder for each class, or train, validation and test: move the others away"
        )
    return bool(splits) and not others


def _images(folder: Path) -> Iterator[Path]:
    """Image files below a folder; hidden ones are what a file manager or a notebook left behind."""
    for path in folder.rglob("*"):
        if path.suffix.lower() in SUFFIXES and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield path


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
