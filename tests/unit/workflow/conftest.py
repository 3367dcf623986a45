"""One tiny model, compressed once for all tests of this folder; tests copy what they change."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.unit.workflow.compressions import LARGE_VOCABULARY, Place, place


@pytest.fixture(scope="session")
def small_llama(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A model and its text."""
    return place(tmp_path_factory.mktemp("small-llama"), "llama", **LARGE_VOCABULARY)


@pytest.fixture(scope="session")
def first(small_llama: Place) -> Path:
    """A compressed folder of it, with its curves beside it."""
    out = small_llama.model.parent / "first"
    small_llama.compress(out, bits_per_weight=9)
    return out


@pytest.fixture
def measured(first: Path, tmp_path: Path) -> Path:
    """An output folder that is not there yet, with curves beside it."""
    shutil.copytree(first.with_name("first.curves"), tmp_path / "out.curves")
    return tmp_path / "out"
