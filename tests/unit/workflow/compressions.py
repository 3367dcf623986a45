"""Tiny models of every family with data, and settings that compress them in a second."""

from __future__ import annotations

import hashlib
import random
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from layerlens.config import CompressConfig
from layerlens.workflow.compress import CompressResult, compress
from tests.functional.conftest import write_table
from tests.tiny_models import WORDS, save_tiny

DECODERS = {"gpt2", "gpt_neo", "llama", "mistral", "qwen2", "gemma2"}
#: One block is enough to compress.
ONE_BLOCK: dict[str, dict[str, Any]] = {
    "convnext": {},
    "distilbert": {"n_layers": 1},
    "gpt2": {"n_layer": 1},
    "gpt_neo": {"num_layers": 1, "attention_types": [[["global"], 1]]},
}
#: The word embedding is large enough to be compressed.
LARGE_VOCABULARY = {"vocab_size": 2048}
SMALL: dict[str, Any] = {
    "max_length": 16,
    "num_samples": 8,
    "held_out_samples": 4,
    "group_size": 32,
    "widths": [8, 3],
    "threads": 1,
}


@dataclass(frozen=True)
class Place:
    """A model and its data."""

    model: Path
    data: Path

    @property
    def size_bytes(self) -> int:
        return tensor_bytes(self.model)

    def compress(self, out: Path, *, dry_run: bool = False, **settings: Any) -> CompressResult:
        return compress(str(self.model), str(self.data), out, config(**settings), dry_run=dry_run)


def config(**settings: Any) -> CompressConfig:
    return CompressConfig(**{**SMALL, **settings})


def place(folder: Path, family: str, **overrides: Any) -> Place:
    """Write a tiny model of one block and data for it: text, a labelled table, or images."""
    model = save_tiny(family, folder / "model", **{**ONE_BLOCK.get(family, {"num_hidden_layers": 1}), **overrides})
    if family in DECODERS:
        data = write_text(folder / "text.txt")
    elif family in {"vit", "convnext"}:
        data = write_images(folder / "images")
    else:
        data = write_table(folder / "data.csv", rows=60)
    return Place(model, data)


def write_text(path: Path, *, words: int = 1200, seed: int = 0) -> Path:
    path.write_text(" ".join(random.Random(seed).choices(WORDS, k=words)), encoding="utf-8")
    return path


def write_images(folder: Path) -> Path:
    numbers = np.random.default_rng(0)
    for label in ("cats", "dogs"):
        (folder / label).mkdir(parents=True)
        for position in range(16):
            pixels = numbers.integers(0, 255, size=(16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{position}.png")
    return folder


def tensor_bytes(folder: Path) -> int:
    """Bytes of all tensors of a folder, read off its files: what follows each header."""
    total = 0
    for file in folder.glob("*.safetensors"):
        content = file.read_bytes()
        (header,) = struct.unpack("<Q", content[:8])
        total += len(content) - 8 - header
    return total


def digest(folder: Path) -> dict[str, str]:
    """Every file below a folder with the hash of its content."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
