"""Something else in place of a module's own computation, for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def replaced_forwards(replacements: Sequence[tuple[nn.Module, Callable[..., Any]]]) -> Iterator[None]:
    """Let each function stand in for its module's `forward` until the context ends; hooks of the modules still run.

    Args:
        replacements: Modules, each once, with what is called in place of their `forward`.
    """
    # A module may have a `forward` of its own that hides its class's, and gets that one back.
    own = [module.__dict__.get("forward") for module, _ in replacements]
    try:
        for module, forward in replacements:
            module.forward = forward
        yield
    finally:
        for (module, _), former in zip(replacements, own, strict=True):
            if former is None:
                del module.forward
            else:
                module.forward = former
