"""An object in place of one that is not made yet: whatever is done with it makes the real one and is done with that.

Two questions are answered without:

    isinstance(value, stand_in)     False while the module that defines the class was not imported: nothing can be an instance
                                    of a class that does not exist
    stand_in | other                another stand-in, for annotations that are evaluated when a function is defined
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any


class StandIn:
    """Stands for what `make` gives, until it is used.

    Args:
        make: Gives the real object; called once.
        is_absent: Whether the class that the real object is was not defined yet; None where it is no class or that is not known.
        is_value_class: It is a class of plain values, all true; one that is made of it is put off as well.
        is_true: It is known to be true.
    """

    def __init__(
        self,
        make: Callable[[], Any],
        is_absent: Callable[[], bool] | None = None,
        *,
        is_value_class: bool = False,
        is_true: bool = False,
    ) -> None:
        state = _state(self)
        state |= {"make": make, "is_absent": is_absent, "is_value_class": is_value_class, "is_true": is_true}

    def __getattribute__(self, name: str) -> Any:
        if name == "__mro_entries__":
            # Asked of a base class that is none; the real one is.
            return lambda bases: (real(self),)
        return getattr(real(self), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(real(self), name, value)

    def __delattr__(self, name: str) -> None:
        delattr(real(self), name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if _state(self)["is_value_class"]:
            return StandIn(lambda: real(self)(*args, **kwargs), is_true=True)
        return real(self)(*args, **kwargs)

    def __dir__(self) -> list[str]:
        return dir(real(self))

    def __instancecheck__(self, instance: Any) -> bool:
        is_absent = _state(self)["is_absent"]
        if is_absent is not None and type(instance) is not StandIn and is_absent():
            return False
        return isinstance(instance, real(self))

    def __subclasscheck__(self, subclass: Any) -> bool:
        return issubclass(real(subclass), real(self))

    def __or__(self, other: Any) -> Any:
        return StandIn(lambda: real(self) | real(other))

    def __ror__(self, other: Any) -> Any:
        return StandIn(lambda: real(other) | real(self))

    def __bool__(self) -> bool:
        return _state(self)["is_true"] or bool(real(self))

    def __enter__(self) -> Any:
        return type(real(self)).__enter__(real(self))

    def __exit__(self, *error: Any) -> Any:
        return type(real(self)).__exit__(real(self), *error)


def real(value: Any) -> Any:
    """What a stand-in stands for, made if need be; any other object is given back as it is."""
    if type(value) is not StandIn:
        return value
    state = _state(value)
    if "real" not in state:
        state["real"] = real(state["make"]())
    return state["real"]


def _state(stand_in: StandIn) -> dict[str, Any]:
    state: dict[str, Any] = object.__getattribute__(stand_in, "__dict__")
    return state


def _forwarded(function: Callable[..., Any], *, is_swapped: bool = False) -> Callable[..., Any]:
    """A special method that applies a function to the real objects."""

    def method(self: StandIn, *others: Any) -> Any:
        values = [real(self), *map(real, others)]
        return function(*(reversed(values) if is_swapped else values))

    return method


_BUILT_IN: tuple[Callable[..., Any], ...] = (abs, float, hash, int, iter, len, next, repr, str)
_UNARY = ("index", "invert", "neg", "pos")
_COMPARED = ("eq", "ne", "lt", "le", "gt", "ge")
_ITEMS = ("getitem", "setitem", "delitem", "contains")
_BINARY = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "xor", "lshift", "rshift")

for _function in _BUILT_IN:
    setattr(StandIn, f"__{_function.__name__}__", _forwarded(_function))
for _name in (*_UNARY, *_COMPARED, *_ITEMS, *_BINARY):
    setattr(StandIn, f"__{_name}__", _forwarded(getattr(operator, f"__{_name}__")))
for _name in _BINARY:
    setattr(StandIn, f"__r{_name}__", _forwarded(getattr(operator, f"__{_name}__"), is_swapped=True))
