"""What samples are known by: every one of them, however many there are."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from layerlens.adapting.samples import ENCODED_SAMPLES, Samples
from layerlens.config import DataConfig
from layerlens.data.lazy import LazyExamples
from layerlens.models.checkpoint import open_checkpoint
from layerlens.workflow.open import open_data
from tests.tiny_models import WORDS, save_tiny

NUM = ENCODED_SAMPLES + 44


def samples(model: Path, data: Path, **options: object) -> Samples:
    loaded = open_data(open_checkpoint(str(model)), str(data), DataConfig(**{"max_length": 8, **options}))
    return Samples(loaded, list(range(len(loaded.examples))))


def written(path: Path, *, last: str = "w1 w2", label: int = 1) -> Path:
    rows = [f"w{number % 90} w3,{number % 2}" for number in range(NUM - 1)]
    path.write_text("\n".join(["text,label", *rows, f"{last},{label}"]), encoding="utf-8")
    return path


def test_a_table_is_known_by_its_last_row_too_and_that_is_not_encoded(tmp_path: Path) -> None:
    model, path = save_tiny("bert", tmp_path / "model"), tmp_path / "rows.csv"
    first = samples(model, written(path))
    identity = first.identity
    assert isinstance(first.data.examples, LazyExamples)
    # The type checker of the tests looks at an item of its own choice now and then.
    assert first.data.examples.num_kept < ENCODED_SAMPLES + 10
    assert samples(model, written(path)).identity == identity
    assert samples(model, written(path, last="w1 w4")).identity != identity
    assert samples(model, written(path, label=0)).identity != identity


def test_a_length_that_cuts_none_of_the_first_samples_tells_others_apart(tmp_path: Path) -> None:
    model, path = save_tiny("bert", tmp_path / "model"), written(tmp_path / "rows.csv", last="w1 w2 w3 w4 w5 w6")
    assert samples(model, path).identity != samples(model, path, max_length=6).identity


def test_running_text_is_known_by_its_last_window(tmp_path: Path) -> None:
    model, path = save_tiny("llama", tmp_path / "model"), tmp_path / "text.txt"
    words = [WORDS[number % 90] for number in range(8 * NUM)]
    found = []
    for last in ("w1", "w1", "w2"):
        path.write_text(" ".join([*words[:-1], last]), encoding="utf-8")
        found.append(samples(model, path).identity)
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("what", ["pixels", "label"])
def test_images_of_arrays_are_known_by_the_last_one(tmp_path: Path, what: str) -> None:
    model = save_tiny("vit", tmp_path / "model")
    pixels, labels = np.zeros((NUM, 4, 4, 3), dtype=np.uint8), np.arange(NUM) % 2
    np.savez(tmp_path / "images.npz", x=pixels, y=labels)
    before = samples(model, tmp_path / "images.npz").identity
    if what == "pixels":
        pixels[-1] += 1
    else:
        labels[-1] = 1 - labels[-1]
    np.savez(tmp_path / "images.npz", x=pixels, y=labels)
    assert samples(model, tmp_path / "images.npz").identity != before


def test_image_files_are_known_by_when_they_changed(tmp_path: Path) -> None:
    model = save_tiny("vit", tmp_path / "model")
    paths = [tmp_path / "images" / label / "a.png" for label in ("cat", "dog")]
    for path in paths:
        path.parent.mkdir(parents=True)
        Image.new("RGB", (4, 3)).save(path)
    before = samples(model, tmp_path / "images").data.source_hash([0, 1])
    assert samples(model, tmp_path / "images").data.source_hash([0, 1]) == before
    os.utime(paths[1], ns=(1, 1))
    assert samples(model, tmp_path / "images").data.source_hash([0, 1]) != before
