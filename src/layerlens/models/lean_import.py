"""Importing transformers without the packages that it takes names from and a streamed command never uses.

`from PACKAGE import NAME` in a module of transformers gives a stand-in (`lean_stand_in.py`), which imports the package at its
first use: scipy's optimiser for the losses of object detectors, tensors over several machines, other people's quantisers, a
compiler with its algebra system (`lean_torch.py`). Together they are a quarter of the libraries' memory.

Nothing is left out: what is really used is imported then, to the same result. A name that the package's source does not contain
is imported at once, so that transformers' own `try … except ImportError` works; so is everything where torch or transformers turn
out to be built otherwise. Only the command line asks for this, in a process of its own.
"""

from __future__ import annotations

import builtins
import re
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

from layerlens.config import CompressConfig
from layerlens.models.lean_stand_in import StandIn
from layerlens.models.lean_torch import DYNAMO, ON_PLAIN, SHAPES, DynamoInName, ModuleInName, watch_dynamo

#: Whose imports are put off, and of which packages and modules, with all below them.
_USER = "transformers."
_HEAVY = (
    "accelerate",
    "scipy",
    "sklearn",
    "torch._dynamo",
    "torch.distributed._composable",
    "torch.distributed._functional_collectives",
    "torch.distributed.checkpoint",
    "torch.distributed.fsdp",
    "torch.distributed.tensor",
    "torch.nn.attention.flex_attention",
    "torchao",
)
#: Classes whose instances are plain values and are put off as well: transformers makes some of them when it is imported.
_VALUE_CLASSES = {"Partial", "Replicate", "Shard"}
#: Classes that are defined where they are imported from, and that transformers asks of every tensor whether it is one.
_ASKED_FOR = {"BlockMask", "DTensor"}


def import_lean_for(config: object) -> None:
    """Do so where a command's config caps its memory or its model stays on disk; before anything imports transformers."""
    execution = "stream" if isinstance(config, CompressConfig) else getattr(config, "execution", None)
    if execution == "stream" or (execution != "memory" and getattr(config, "max_memory", None) is not None):
        import_lean()


def import_lean() -> None:
    """Put heavy imports of transformers off from now on, in this process; where transformers was imported before, do nothing."""
    if "transformers" in sys.modules or is_lean():
        return
    dynamo = DynamoInName()
    builtins.__import__ = _LeanImport(builtins.__import__, dynamo)
    watch_dynamo(dynamo)


def is_lean() -> bool:
    """Whether heavy imports are put off in this process."""
    return isinstance(builtins.__import__, _LeanImport)


class _LeanImport:
    """Stands in for `builtins.__import__`.

    Args:
        own: The function that imports.
        dynamo: What `import torch._dynamo` gives while the compiler is not needed.
    """

    def __init__(self, own: Any, dynamo: DynamoInName) -> None:
        self._own, self._dynamo = own, dynamo
        self._sympy = ModuleInName("sympy")
        self._known: dict[tuple[str, str], StandIn | None] = {}
        #: Names of modules that hold a stand-in: each gets the real object once that is made.
        self._holders: dict[tuple[str, str], list[dict[str, Any]]] = {}

    def __call__(
        self,
        name: str,
        globals: Mapping[str, Any] | None = None,  # noqa: A002
        locals: Mapping[str, Any] | None = None,  # noqa: A002
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> Any:
        if level == 0 and globals is not None and name not in sys.modules:
            user = str(globals.get("__name__"))
            if fromlist and user.startswith(_USER) and _is_heavy(name):
                found = {own: self._stand_in(name, own, globals, is_top=locals is globals) for own in fromlist}
                if all(stand_in is not None for stand_in in found.values()):
                    return _Names(found)
            elif fromlist and user.startswith("torch") and name == SHAPES and locals is not globals:
                return _Names({own: ON_PLAIN.get(own) or self._new(name, own) for own in fromlist})
            elif name == DYNAMO and not fromlist and getattr(sys.modules.get("torch"), "_dynamo", None) is self._dynamo:
                return sys.modules["torch"]
            elif name == "sympy" and user == "torch._prims_common" and not fromlist:
                return self._sympy
        return self._own(name, globals, locals, fromlist, level)

    def _stand_in(self, module: str, name: str, user: Mapping[str, Any], *, is_top: bool) -> StandIn | None:
        """A stand-in for a name of a module that is not imported; None where the module may have no such name."""
        key = module, name
        if key not in self._known:
            self._known[key] = self._new(module, name) if _contains(module, name) else None
        if is_top and isinstance(user, dict):
            self._holders.setdefault(key, []).append(user)
        return self._known[key]

    def _new(self, module: str, name: str) -> StandIn:
        def make() -> Any:
            value = getattr(import_module(module), name)
            for holder in self._holders.pop((module, name), []):
                for own in [own for own, held in holder.items() if held is stand_in]:
                    holder[own] = value
            return value

        is_absent = (lambda: module not in sys.modules) if name in _ASKED_FOR else None
        stand_in = StandIn(make, is_absent, is_value_class=name in _VALUE_CLASSES)
        return stand_in


class _Names:
    """A module as `from … import …` sees it: it has the names that were asked for."""

    def __init__(self, found: Mapping[str, Any]) -> None:
        self.__dict__.update(found)


def _is_heavy(module: str) -> bool:
    return any(module == heavy or module.startswith(f"{heavy}.") for heavy in _HEAVY)


def _contains(module: str, name: str) -> bool:
    """Whether the source of a module that is not imported has a name; its packages are not imported either."""
    path: Sequence[str] | None = None
    spec: ModuleSpec | None = None
    parts = module.split(".")
    for depth in range(1, len(parts) + 1):
        package = ".".join(parts[:depth])
        if package in sys.modules:
            path = getattr(sys.modules[package], "__path__", [])
            continue
        spec = PathFinder.find_spec(package, path)
        if spec is None:
            return False
        path = spec.submodule_search_locations or []
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return False
    return re.search(rf"\b{re.escape(name)}\b", Path(spec.origin).read_text(encoding="utf-8")) is not None
