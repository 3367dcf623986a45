"""Doing something as soon as a module has been imported, without importing it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any


def after_import(module: str, action: Callable[[], None]) -> None:
    """Call a function once a module has been executed, or at once where it already was; asked for twice, it is called once.

    Args:
        module: Full name of the module.
        action: What is called.
    """
    if module in sys.modules:
        action()
        return
    waiting = [finder for finder in sys.meta_path if isinstance(finder, _AfterImport)]
    if (module, action) not in [(finder.module, finder.action) for finder in waiting]:
        sys.meta_path.insert(0, _AfterImport(module, action))


class _AfterImport(MetaPathFinder):
    """Finds nothing itself; once its module has been executed, calls the function. It is gone by then."""

    def __init__(self, module: str, action: Callable[[], None]) -> None:
        self.module, self.action = module, action

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != self.module:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_act(module: ModuleType) -> None:
            execute(module)
            self.action()

        spec.loader.exec_module = execute_and_act  # type: ignore[method-assign]
        return spec
