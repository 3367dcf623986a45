"""Paths and amounts as they are typed."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from layerlens.config import ProfilingConfig, path_beside
from layerlens.config.spellings import bytes_as_typed, bytes_of


def test_a_path_beside_a_folder_bears_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert path_beside(Path("runs/small"), ".curves") == Path("runs/small.curves")
    assert path_beside(Path("small.v1/"), "-dense") == Path("small.v1-dense")
    (tmp_path / "here" / "inside").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here" / "inside")
    assert path_beside(Path(), ".curves") == tmp_path / "here" / "inside.curves"
    assert path_beside(Path(".."), ".curves") == tmp_path / "here.curves"


@pytest.mark.parametrize("number", [0, 1, 1023, 1024, 1536, 64 << 20, 3 << 29, 16 << 30, 2 << 40, (1 << 30) + 1])
def test_bytes_as_they_are_told_are_read_as_the_same_number(number: int) -> None:
    assert bytes_of(bytes_as_typed(number)) == number
    assert bytes_as_typed(16 << 30) == "16GB"


def test_an_amount_beyond_all_numbers_is_a_fault_like_any_other() -> None:
    with pytest.raises(ValidationError, match="more bytes than any machine has"):
        ProfilingConfig.model_validate({"max_memory": f"{'9' * 400}GB"})
