"""Making transformers know compressed folders, without importing it.

`import layerlens` must cost nothing, so the quantiser is registered when transformers' own table of quantisers gets imported,
which every way of loading a model does; or at once, where it already was.
"""

from __future__ import annotations

from importlib import import_module

from layerlens.after_import import after_import

_TABLE = "transformers.quantizers.auto"
_QUANTISER = "layerlens.compressing.hf_quantizer"


def register_quantiser() -> None:
    """Register LayerLens among transformers' quantisers, now or as soon as they are imported; twice does nothing."""
    after_import(_TABLE, _import_quantiser)


def _import_quantiser() -> None:
    import_module(_QUANTISER)
