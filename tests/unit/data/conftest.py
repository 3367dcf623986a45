"""Tiny model folders, and a loader that reads data for one of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers

from layerlens.artifacts.profile import TaskInfo
from layerlens.config import DataConfig
from layerlens.data.dataset import LoadedData, load_dataset
from layerlens.words import TaskKind
from tests.tiny_models import save_tiny

Load = Callable[..., LoadedData]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a tiny model of a family, made once."""
    root = tmp_path_factory.mktemp("tiny")

    def folder_of(family: str) -> Path:
        return root / family if (root / family).exists() else save_tiny(family, root / family)

    return folder_of


@pytest.fixture(scope="session")
def load_for() -> Callable[..., LoadedData]:
    """Load data for the model in a folder, for a plan's task if given; further options are those of `DataConfig`."""

    def load(folder: Path, data: str | Path, plan_task: TaskInfo | None = None, **options: Any) -> LoadedData:
        checkpoint_config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return load_dataset(
            str(data),
            DataConfig(**options),
            checkpoint_config=checkpoint_config,
            processor_for=lambda kind: processor_of(folder, kind),
            task=plan_task,
        )

    return load


@pytest.fixture
def load(tiny: Callable[[str], Path], load_for: Load) -> Load:
    """Load data for a tiny model, BERT unless `family` says otherwise."""

    def load_tiny(data: str | Path, *, family: str = "bert", **options: Any) -> LoadedData:
        return load_for(tiny(family), data, **options)

    return load_tiny


def processor_of(folder: Path, kind: TaskKind) -> Any:
    if kind is TaskKind.IMAGE_CLASSIFICATION:
        return transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
