"""What a compressed model is compared on: windows as asked for, a second text that differs, and what flatters is told."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from layerlens.artifacts.compression import load_compression_plan
from layerlens.config import EvaluateConfig
from layerlens.data.dataset import LoadedData
from layerlens.models.checkpoint import Checkpoint, open_checkpoint
from layerlens.workflow import calibration_data, compared_texts
from layerlens.workflow.compared_texts import ComparedText, ComparedTexts
from layerlens.workflow.open import open_data
from tests.unit.workflow.compressions import Place, write_text


@pytest.fixture(autouse=True)
def _short_second_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """The standard library's text, without reading all of it; its name says what it had to differ from."""
    text = "w1 w2 w3 w4 " * 20
    monkeypatch.setattr(compared_texts, "second_text", lambda *taken: (f"not {[Path(name).name for name in taken]}", text))


def texts(place: Place, folder: Path, **settings: Any) -> ComparedTexts:
    return ComparedTexts(folder, load_compression_plan(folder), open_checkpoint(str(place.model)), EvaluateConfig(**settings))


def second(chooser: ComparedTexts, data: Path) -> ComparedText:
    found = chooser.second(chooser.of_data(str(data)))
    assert found is not None
    return found


def test_the_second_text_differs_from_what_calibrated_and_is_told_where_it_does_not(
    small_llama: Place, first: Path, tmp_path: Path
) -> None:
    other = write_text(tmp_path / "other.txt", words=200, seed=5)
    found = second(texts(small_llama, first), other)
    assert (found.name, found.is_calibration) == ("not ['text.txt', 'other.txt']", False)
    copy = shutil.copyfile(small_llama.data, tmp_path / "copy.txt")
    chooser = texts(small_llama, first, second_text=str(copy))
    assert second(chooser, other).is_calibration
    assert "is what calibrated the model, samples that calibration saw included" in chooser.notes[0]
    assert not second(texts(small_llama, first, second_text=str(other)), small_llama.data).is_calibration


def test_other_text_is_cut_as_asked(small_llama: Place, first: Path, tmp_path: Path) -> None:
    paths = [write_text(tmp_path / f"{words}.txt", words=words, seed=words) for words in (200, 160)]
    chooser = texts(small_llama, first, second_text=str(paths[1]), window=24, stride=8)
    data = chooser.of_data(str(paths[0]))
    for windows, tokens in ((data.windows, 192), (second(chooser, paths[0]).windows, 160)):
        assert windows is not None
        assert (windows.window, windows.stride, len(windows.tokens)) == (24, 8, tokens)
    assert chooser.notes == []


def test_samples_of_the_calibrations_data_stay_as_they_were_cut_and_that_is_told(small_llama: Place, first: Path) -> None:
    chooser = texts(small_llama, first, window=24, stride=8, max_tokens=64)
    data = chooser.of_data(str(small_llama.data))
    assert data.is_calibration
    assert data.windows is not None
    assert (data.windows.window, data.windows.stride, len(data.examples)) == (16, 16, 4)
    assert "windows of 16 tokens that it is shared out in; --window and --stride hold for the second text" in chooser.notes[0]
    plain = texts(small_llama, first)
    plain.of_data(str(small_llama.data))
    assert plain.notes == []


def test_the_calibrations_data_are_read_once_and_anew_where_another_reading_is_asked_for(
    small_llama: Place, first: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def counted(checkpoint: Checkpoint, data: str, *rest: Any, **named: Any) -> LoadedData:
        read.append(data)
        return open_data(checkpoint, data, *rest, **named)

    for module in (calibration_data, compared_texts):
        monkeypatch.setattr(module, "open_data", counted)
    for settings, times in (({}, 1), ({"max_length": 16}, 1), ({"text_columns": ["text"]}, 2)):
        read.clear()
        found = texts(small_llama, first, **settings).of_data(str(small_llama.data))
        assert found.is_calibration
        assert len(read) == times, settings
