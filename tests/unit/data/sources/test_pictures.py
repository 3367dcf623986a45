from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from layerlens.data.sources.pictures import as_rgb
from layerlens.errors import DataError

Image = pytest.importorskip("PIL.Image")

WIDE = np.array([[0, 257, 128 * 257], [200 * 257, 254 * 257, 65535]], dtype=np.uint16)


def _read(path: Path) -> np.ndarray:
    return np.asarray(as_rgb(str(path), lambda: Image.open(path)))


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_grey_of_16_bits_is_scaled_rather_than_cut(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"wide.{suffix}"
    Image.fromarray(WIDE).save(path)
    assert _read(path)[..., 0].tolist() == [[0, 1, 128], [200, 254, 255]]


def test_a_photograph_stands_the_way_its_camera_noted(tmp_path: Path) -> None:
    pixels = np.zeros((2, 3, 3), dtype=np.uint8)
    pixels[0, 0] = 255
    picture = Image.fromarray(pixels)
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(tmp_path / "turned.png", exif=exif)
    turned = _read(tmp_path / "turned.png")
    assert turned.shape == (3, 2, 3)
    assert turned[..., 0].tolist() == [[0, 255], [0, 0], [0, 0]]


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_numbers_of_an_unknown_range_are_refused(tmp_path: Path, dtype: type) -> None:
    Image.fromarray(WIDE.astype(dtype)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"cannot read .*a.tif as an image: its pixels have 32 bits"):
        _read(tmp_path / "a.tif")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_picture_that_would_fill_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (64, 64)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DataError, match=r"a.png as an image: Image size \(4096 pixels\)"):
        _read(tmp_path / "a.png")
