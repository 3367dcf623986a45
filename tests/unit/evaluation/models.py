"""Pairs of tiny models in memory: one as it is, one with noise in its matrices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.tiny_models import WORDS, save_tiny


def causal_pair(folder: Path, family: str, *, noise: float = 0.3, **overrides: Any) -> tuple[Any, Any]:
    """A language model, and the same with noise in every matrix of its blocks."""
    save_tiny(family, folder / family, **overrides)
    original, other = (AutoModelForCausalLM.from_pretrained(folder / family, dtype=torch.float32) for _ in range(2))
    return original, add_noise_(other, noise)


def tokenizer_of(folder: Path, family: str) -> Any:
    return AutoTokenizer.from_pretrained(folder / family)


def add_noise_(model: nn.Module, noise: float) -> nn.Module:
    """Add noise to every matrix but tables, relative to its own spread."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and "emb" not in name and "wte" not in name and "wpe" not in name:
                parameter += noise * parameter.std() * torch.randn(parameter.shape, generator=generator)
    return model


def text_of(num_words: int) -> str:
    return " ".join(WORDS[(7 * number * number) % len(WORDS)] for number in range(num_words))
