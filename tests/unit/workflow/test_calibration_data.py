"""The data that a folder was compressed on are known by what calibration read, under any name, and only as they were."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from layerlens.artifacts.compression import load_compression_plan
from layerlens.errors import ConfigError, DataError
from layerlens.models.checkpoint import open_checkpoint
from layerlens.workflow.calibration_data import CalibrationData
from tests.unit.workflow.compressions import Place, write_text


def told(place: Place, folder: Path, *, data: str | None = None, has_hash: bool = True) -> CalibrationData:
    """What the folder's plan tells, with its data called otherwise, or with no hash of them."""
    plan = load_compression_plan(folder)
    metadata: dict[str, Any] = {**plan.metadata, "run": {**plan.metadata["run"], "data": data or plan.metadata["run"]["data"]}}
    if not has_hash:
        metadata["data"] = {}
    return CalibrationData(folder, plan.model_copy(update={"metadata": metadata}), open_checkpoint(str(place.model)))


def test_the_same_file_is_known_by_any_path_and_in_a_copy(
    small_llama: Place, first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copyfile(small_llama.data, tmp_path / "copy.txt")
    assert told(small_llama, first).is_same(str(small_llama.data))
    assert told(small_llama, first).is_same(str(copy))
    # Earlier releases kept the name as it was typed, which means nothing in another folder.
    assert told(small_llama, first, data="text.txt").is_same(str(small_llama.data))
    monkeypatch.chdir(small_llama.data.parent)
    assert told(small_llama, first).is_same(small_llama.data.name)


def test_other_data_and_data_that_do_not_fit_are_others(small_llama: Place, first: Path, tmp_path: Path) -> None:
    other = write_text(tmp_path / "other.txt", words=1200, seed=5)
    short = write_text(tmp_path / "short.txt", words=3)
    (tmp_path / "empty.txt").write_text("")
    found = told(small_llama, first)
    assert not any(found.is_same(str(path)) for path in (other, short, tmp_path / "empty.txt"))


def test_data_that_have_changed_are_refused_and_without_a_hash_known_by_their_name(
    small_llama: Place, first: Path, tmp_path: Path
) -> None:
    longer = tmp_path / "text.txt"
    longer.write_text(f"{small_llama.data.read_text()} {' '.join(f'w{number}' for number in range(16))}")
    with pytest.raises(ConfigError, match=r"text\.txt has changed since .* which of its samples calibration saw is not known"):
        told(small_llama, first, data=str(longer)).is_same(str(longer))
    assert told(small_llama, first, data=str(longer)).is_kind(str(longer))
    assert told(small_llama, first, data=str(longer), has_hash=False).is_same(str(longer))
    longer.unlink()
    with pytest.raises(DataError, match="no such file"):
        told(small_llama, first, data=str(longer)).is_same(str(longer))
