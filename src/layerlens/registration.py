"""Making transformers know compressed folders, without importing it.

`import layerlens` must cost nothing, so the quantiser is registered when transformers' own table of quantisers gets imported,
which every way of loading a model does; or at once, where it already was.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

_TABLE = "transformers.quantizers.auto"
_QUANTISER = "layerlens.compressing.hf_quantizer"


def register_quantiser() -> None:
    """Register LayerLens among transformers' quantisers, now or as soon as they are imported; twice does nothing."""
    if _TABLE in sys.modules:
        import_module(_QUANTISER)
    elif not any(isinstance(finder, _AfterImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterImport())


class _AfterImport(MetaPathFinder):
    """Finds nothing itself; once the table of quantisers has been executed, imports what registers there."""

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != _TABLE:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            execute(module)
            import_module(_QUANTISER)

        spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec
