"""A model that is only looked at: evaluation mode, no gradients of weights, no key/value cache."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, weights that need no gradient, and no key/value cache, until the block ends."""
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    was_training = model.training
    config: Any = getattr(model, "config", None)
    use_cache = getattr(config, "use_cache", None)
    try:
        model.eval()
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        if use_cache:
            config.use_cache = False
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
        model.train(was_training)
        if use_cache:
            config.use_cache = use_cache
