from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from layerlens.data.sources import extras
from layerlens.data.sources.arrays import read_arrays, to_image
from layerlens.errors import DataError

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 5, 6, 3), dtype=np.uint8)
LABELS = np.array([0, 1, 0, 1])


def _save(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)
    return path


def test_the_files_own_split_is_kept(tmp_path: Path) -> None:
    table = read_arrays(_save(tmp_path / "a.npz", train_x=PIXELS, train_y=LABELS, test_x=PIXELS[:1], test_y=LABELS[:1]))
    assert table.splits == ("train",) * 4 + ("test",)
    assert table.columns["label"] == [0, 1, 0, 1, 0]
    np.testing.assert_array_equal(np.asarray(table.columns["image"][4]), PIXELS[0])


def test_without_a_test_set_there_is_no_split(tmp_path: Path) -> None:
    for names in (("x", "y"), ("train_x", "train_y")):
        assert read_arrays(_save(tmp_path / "a.npz", **dict(zip(names, (PIXELS, LABELS), strict=True)))).splits is None


@pytest.mark.parametrize(
    "array",
    [PIXELS[0], np.moveaxis(PIXELS[0], 2, 0), PIXELS[0].astype(np.float32) / 255],
    ids=["NHWC", "NCHW", "floats"],
)
def test_the_layouts_of_an_image_give_the_same_picture(array: np.ndarray) -> None:
    np.testing.assert_array_equal(np.asarray(to_image(array)), PIXELS[0])


@pytest.mark.parametrize("array", [PIXELS[0, :, :, 0], PIXELS[0, :, :, :1]])
def test_grey_becomes_three_equal_channels(array: np.ndarray) -> None:
    np.testing.assert_array_equal(np.asarray(to_image(array)), np.repeat(PIXELS[0, :, :, :1], 3, axis=2))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": PIXELS}, "holds a; needed is train_x and train_y, or x and y"),
        ({"test_x": PIXELS, "test_y": LABELS}, "needed is train_x and train_y"),
        ({"x": PIXELS}, r"x is there, but y \(its labels\) is not"),
        ({"x": PIXELS, "y": LABELS[:2]}, "one label for each image"),
        ({"x": PIXELS[:0], "y": LABELS[:0]}, "at least one"),
        ({"x": PIXELS[:0] / 255.0, "y": LABELS[:0]}, "at least one"),
        ({"x": PIXELS[0, 0, 0, 0], "y": LABELS}, "one label for each image"),
        ({"x": PIXELS, "y": LABELS / 2}, "y holds float64; classes are integers"),
        ({"x": PIXELS[:, :, 0, 0], "y": LABELS}, r"x has shape \(4, 5\); images are"),
        ({"x": PIXELS.astype(np.float32), "y": LABELS}, "floats outside 0 … 1"),
        ({"x": PIXELS.astype(np.int64), "y": LABELS}, "x holds int64"),
        ({"x": PIXELS.astype(np.int64), "y": LABELS[:1] / 2}, "one label for each.*; .*classes are integers; .*x holds int64"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_with_every_fault(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_arrays(_save(tmp_path / "a.npz", **arrays))


def test_pickled_arrays_and_damaged_files_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.array([{"code": 1}], dtype=object), y=np.array([0]))
    (tmp_path / "b.npz").write_bytes(b"PK\x03\x04 cut short")
    np.save(tmp_path / "c.npy", PIXELS)
    (tmp_path / "c.npy").rename(tmp_path / "c.npz")
    for name in ("a", "b", "c"):
        with pytest.raises(DataError, match=f"cannot read .*{name}.npz as .npz"):
            read_arrays(tmp_path / f"{name}.npz")


def test_without_pillow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r'needs PIL; install it with: pip install "layerlens-plan\[images\]"'):
        read_arrays(_save(tmp_path / "a.npz", x=PIXELS, y=LABELS))
