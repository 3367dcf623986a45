from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from layerlens.data.sources import extras
from layerlens.data.sources.image_folder import read_image_folder
from layerlens.errors import DataError


def _image(path: Path, value: int, mode: str = "RGB") -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (4, 3), value if mode == "L" else (value, 0, 0)).save(path)


def test_subfolders_are_classes_and_everything_becomes_rgb(tmp_path: Path) -> None:
    _image(tmp_path / "dog/b.png", 2)
    _image(tmp_path / "cat/deep/a.JPG", 0)
    _image(tmp_path / "cat/z.png", 9, mode="L")
    (tmp_path / "cat/notes.txt").write_text("no image")
    (tmp_path / "stray.png").write_bytes(b"")
    table = read_image_folder(tmp_path)
    assert table.class_names == {"label": ("cat", "dog")}
    assert table.columns["label"] == [0, 0, 1]
    assert table.splits is None
    assert np.asarray(table.columns["image"][1]).tolist() == np.full((3, 4, 3), 9).tolist()
    assert np.asarray(table.columns["image"][2])[0, 0].tolist() == [2, 0, 0]


def test_folders_called_after_splits_are_splits(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        for label in ("cat", "dog"):
            _image(tmp_path / split / label / "a.png", 1)
    table = read_image_folder(tmp_path)
    assert table.class_names == {"label": ("cat", "dog")}
    assert sorted(zip(table.splits or (), table.columns["label"], strict=True)) == [
        (split, label) for split in ("test", "train", "validation") for label in (0, 1)
    ]


def test_what_is_no_picture_of_the_set_is_neither_a_class_nor_a_sample(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for label in ("cat", "dog"):
            _image(tmp_path / split / label / "a.png", 1)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/readme.txt").write_text("no image")
    # What macOS puts into an archive beside every file, and a notebook into a folder.
    for left_behind in ("__MACOSX/train/cat/._a.png", "train/cat/._a.png", "train/dog/.ipynb_checkpoints/a.png"):
        _image(tmp_path / left_behind, 1)
    table = read_image_folder(tmp_path)
    assert table.class_names == {"label": ("cat", "dog")}
    assert table.splits == ("test", "test", "train", "train")


def test_splits_beside_classes_are_refused_but_a_class_may_be_called_so(tmp_path: Path) -> None:
    for name in ("train/cat", "train/dog", "test/cat", "extra/cat"):
        _image(tmp_path / "mixed" / name / "a.png", 1)
    with pytest.raises(DataError, match="holds folders of classes in test, train, and extra beside them"):
        read_image_folder(tmp_path / "mixed")
    for name in ("train", "car"):
        _image(tmp_path / "vehicles" / name / "a.png", 1)
    assert read_image_folder(tmp_path / "vehicles").class_names == {"label": ("car", "train")}


@pytest.mark.parametrize("content", ["nothing", "flat"])
def test_a_folder_without_class_folders_is_refused(tmp_path: Path, content: str) -> None:
    if content == "flat":
        _image(tmp_path / "a.png", 1)
    with pytest.raises(DataError, match="holds no images in subfolders"):
        read_image_folder(tmp_path)


def test_a_damaged_image_is_named_once_it_is_read(tmp_path: Path) -> None:
    _image(tmp_path / "cat/a.png", 1)
    _image(tmp_path / "dog/b.png", 1)
    path = tmp_path / "dog/b.png"
    path.write_bytes(path.read_bytes()[:40])
    table = read_image_folder(tmp_path)
    with pytest.raises(DataError, match=r"cannot read .*b.png as an image"):
        table.columns["image"][1]


def test_without_pillow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _image(tmp_path / "cat/a.png", 1)
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r'pip install "layerlens-plan\[images\]"'):
        read_image_folder(tmp_path)
