"""What torch imports its compiler for, and sympy with it, while nothing is compiled.

| where | what for | here |
|---|---|---|
| `torch.compiler.disable`, `allow_in_graph`, … | mark a function | the mark is noted, and set once the compiler is imported |
| optimisers | end a graph that is being compiled | nothing: there is none |
| shapes of tensors on the meta device | whether a condition on symbolic sizes holds | a plain `bool` is its own answer |
| types of tensors on the meta device | whether a number is one of sympy | it is none while sympy is not imported |

Whatever else is asked of these modules imports them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial, wraps
from importlib import import_module
from inspect import isfunction
from typing import Any

from layerlens.after_import import after_import
from layerlens.models.lean_stand_in import StandIn

DYNAMO = "torch._dynamo"
SHAPES = "torch.fx.experimental.symbolic_shapes"


class DynamoInName:
    """`torch._dynamo` before it is imported."""

    def __init__(self) -> None:
        self._noted: list[tuple[str, Any]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(import_module(DYNAMO), name)

    def disable(self, fn: Any = None, recursive: bool = True, **options: Any) -> Any:
        """As there: the function runs as it is until there is a compiler, then as the compiler has it."""
        if fn is None:
            return partial(self.disable, recursive=recursive, **options)
        if not isfunction(fn):
            return import_module(DYNAMO).disable(fn, recursive, **options)
        marked: list[Callable[..., Any]] = []

        @wraps(fn)
        def run(*args: Any, **kwargs: Any) -> Any:
            if DYNAMO not in sys.modules:
                return fn(*args, **kwargs)
            if not marked:
                marked.append(import_module(DYNAMO).disable(fn, recursive, **options))
            return marked[0](*args, **kwargs)

        return run

    def allow_in_graph(self, fn: Any) -> Any:
        """As there."""
        return self._note("allow_in_graph", fn)

    def assume_constant_result(self, fn: Any) -> Any:
        """As there."""
        return self._note("assume_constant_result", fn)

    @staticmethod
    def graph_break(msg: str = "") -> None:
        """As there, where it does nothing outside of what is compiled."""

    def catch_up(self) -> None:
        """Set the marks that were noted; the compiler is there now."""
        while self._noted:
            mark, fn = self._noted.pop(0)
            getattr(import_module(DYNAMO), mark)(fn)

    def _note(self, mark: str, fn: Any) -> Any:
        """Mark a function, which is given back, now or later."""
        if DYNAMO in sys.modules:
            return getattr(import_module(DYNAMO), mark)(fn)
        self._noted.append((mark, fn))
        return fn


def watch_dynamo(dynamo: DynamoInName) -> None:
    """Put it in the compiler's place, until that is imported; where it was, do nothing."""
    if DYNAMO not in sys.modules:
        import_module("torch").__dict__["_dynamo"] = dynamo
        after_import(DYNAMO, dynamo.catch_up)


class ModuleInName:
    """A module of classes before it is imported: nothing can be an instance of one of them."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            return getattr(import_module(self._name), name)
        return StandIn(lambda: getattr(import_module(self._name), name), lambda: self._name not in sys.modules)


def _plain(name: str, is_plain: Callable[[Any], bool], answer: Callable[..., Any]) -> Callable[..., Any]:
    """A function of symbolic shapes whose answer to plain values is known."""

    def ask(*values: Any, **options: Any) -> Any:
        if not options and all(map(is_plain, values)):
            return answer(*values)
        return getattr(import_module(SHAPES), name)(*values, **options)

    return ask


def _is_bool(value: Any) -> bool:
    return type(value) is bool


def _is_integer(value: Any) -> bool:
    return type(value) is int


def _is_shape(value: Any) -> bool:
    return isinstance(value, tuple) and all(map(_is_integer, value))


_HOLDS = ("expect_true", "guard_or_false", "guard_or_true", "statically_known_true")
#: Functions of symbolic shapes that need no symbols for plain values.
ON_PLAIN: Mapping[str, Callable[..., Any]] = {
    **{name: _plain(name, _is_bool, lambda value: value) for name in _HOLDS},
    "sym_and": _plain("sym_and", _is_bool, lambda *values: all(values)),
    "sym_or": _plain("sym_or", _is_bool, lambda *values: any(values)),
    "sym_eq": _plain("sym_eq", _is_shape, lambda one, other: tuple(one) == tuple(other)),
    "is_nested_int": _plain("is_nested_int", _is_integer, lambda value: False),
}
