"""Whether a module computes its attention through transformers' interface, and the function that it calls there."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

AttentionFunction = Callable[..., tuple[Tensor, Tensor | None]]

#: Names in the file of a model's code: transformers' table of attention functions, and the one that is used without an entry.
_INTERFACE, _EAGER = "ALL_ATTENTION_FUNCTIONS", "eager_attention_forward"


def uses_interface(attention: nn.Module) -> bool:
    """Whether a module looks its attention function up in transformers' table."""
    forward = _own_forward(attention)
    code = getattr(forward, "__code__", None)
    return hasattr(attention, "config") and code is not None and _INTERFACE in code.co_names and _EAGER in forward.__globals__


def attention_function(attention: nn.Module, implementation: str) -> AttentionFunction:
    """The function that a module which uses the interface calls under an implementation."""
    names = _own_forward(attention).__globals__
    return names[_INTERFACE].get_interface(implementation, names[_EAGER])


def _own_forward(module: nn.Module) -> Any:
    """The class's `forward` without decorators around it, in whose file the model's own names are."""
    return inspect.unwrap(type(module).forward)
