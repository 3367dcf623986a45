"""A device that is not there: tensors of it are kept in host memory, and every operation refuses to mix the two.

    with strict_device(): …          `STRICT` is a device like any other: `.to(STRICT)`, `torch.zeros(…, device=STRICT)`
    host + device                    a RuntimeError that names the operation, as on an accelerator; scalars may be mixed

So code that runs here with the processor's numbers leaves no tensor behind that an accelerator would not find. It borrows the
name of the meta device, whose backward pass runs in the calling thread; models are loaded outside, since loading uses that name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

STRICT = torch.device("meta")
_HOST = torch.device("cpu")
#: What may read on one side and write on the other.
_MOVES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
#: What takes a host's integers as positions on the device.
_INDEXES = ("index", "index_put", "index_put_", "_index_put_impl_")


class StrictTensor(Tensor):
    """A tensor of that device."""

    host: Tensor

    @staticmethod
    def __new__(cls, host: Tensor) -> StrictTensor:
        made = Tensor._make_subclass(cls, host, host.requires_grad, dispatch_device=True, device_for_backend_keys=STRICT)
        made.host = host
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _checked(func, args, kwargs or {})

    def new_tensor(self, *args: Any, **kwargs: Any) -> Tensor:
        return StrictTensor(torch.tensor(*args, **{"dtype": self.dtype, **kwargs}))

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("a tensor of the device has no array; copy it to the host first")


class _Dispatch(TorchDispatchMode):
    """Takes what makes tensors, and operations on the host's."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _checked(func, args, kwargs or {})


class _Literals(TorchFunctionMode):
    """Of the meta device, `torch.tensor` would leave the values out."""

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.tensor and kwargs.get("device") == STRICT:
            return StrictTensor(torch.tensor(*args, **{**kwargs, "device": _HOST}))
        return func(*args, **kwargs)


@contextmanager
def strict_device() -> Iterator[torch.device]:
    """Let `STRICT` be a device in this thread until the context ends."""
    with _Literals(), _Dispatch():
        yield STRICT


def _checked(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    if func is torch.ops.prim.device.default:
        return STRICT
    given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    is_there = any(isinstance(tensor, StrictTensor) for tensor in given)
    name = func._schema.name.partition("::")[2]
    if is_there and func not in _MOVES:
        for tensor in given:
            is_position = name in _INDEXES and not tensor.is_floating_point()
            if not isinstance(tensor, StrictTensor) and tensor.ndim and not is_position:
                raise RuntimeError(f"{name} of a host's tensor {tuple(tensor.shape)} and one of the device")
    wanted = kwargs.get("device")
    if wanted is not None:
        is_there, kwargs = torch.device(wanted) == STRICT, {**kwargs, "device": _HOST}
    inner_args, inner_kwargs = tree_map(_host_of, (args, kwargs))
    # What is changed in place, or written to, is given back as the very tensor that came.
    same = {id(_host_of(tensor)): tensor for tensor in given}
    found = func(*inner_args, **inner_kwargs)
    return tree_map(lambda value: _placed(value, same, is_there=is_there), found)


def _host_of(value: Any) -> Any:
    return value.host if isinstance(value, StrictTensor) else value


def _placed(value: Any, same: dict[int, Tensor], *, is_there: bool) -> Any:
    if not isinstance(value, Tensor) or isinstance(value, StrictTensor):
        return value
    return same.get(id(value)) if id(value) in same else StrictTensor(value) if is_there else value
