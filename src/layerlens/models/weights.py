"""A planned layer's weight, whichever way it is stored, and the modules that can stand in its place over a quantised base.

Canonical form everywhere in LayerLens: `y = x @ weight.T + bias` with `weight[out_features, in_features]`. GPT-2's
`Conv1D` stores the transpose.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from transformers.pytorch_utils import Conv1D

from layerlens.errors import UnsupportedModelError
from layerlens.nn.half_modules import HalfLinear
from layerlens.nn.low_rank_linear import LowRankLinear
from layerlens.nn.quantised_linear import QuantisedLinear
from layerlens.nn.quantised_low_rank_linear import QuantisedLowRankLinear

#: Layers of a compressed folder: frozen, in stored form, [out_features in_features] whatever the checkpoint has.
StoredLinear = HalfLinear | LowRankLinear | QuantisedLinear | QuantisedLowRankLinear


def is_planned_module(module: nn.Module) -> bool:
    """Whether a module is a linear map that can be measured and adapted: `Linear` or `Conv1D`, subclasses included."""
    # `nn.MultiheadAttention` reads its output projection's weight and never calls the module, so no hook sees it.
    return isinstance(module, nn.Linear | Conv1D) and not isinstance(module, NonDynamicallyQuantizableLinear)


def is_adaptable_module(module: nn.Module) -> bool:
    """Whether a LoRA can sit on a module: a planned one, or one over a stored matrix."""
    return is_planned_module(module) or isinstance(module, StoredLinear)


def is_transposed(module: nn.Module) -> bool:
    """Whether a planned module stores its weight as [in_features, out_features]."""
    return isinstance(module, Conv1D)


def weight_matrix(module: nn.Module) -> Float[Tensor, "out_features in_features"]:
    """Return a view of a planned module's weight in canonical form; writing to it changes the module.

    Raises:
        UnsupportedModelError: the module is no `Linear` or `Conv1D`.
    """
    if not is_planned_module(module):
        raise UnsupportedModelError(f"a {type(module).__name__} has no weight matrix that LayerLens knows; Linear and Conv1D do")
    weight: Tensor = module.weight  # type: ignore[assignment]
    return weight.T if is_transposed(module) else weight


def layer_features(module: nn.Module) -> tuple[int, int]:
    """Return (out_features, in_features) of an adaptable module; a weight may be packed, so its shape is not asked.

    Raises:
        UnsupportedModelError: it is none.
    """
    if isinstance(module, Conv1D):
        return module.nf, module.nx
    if not is_adaptable_module(module):
        raise UnsupportedModelError(f"a {type(module).__name__} has no features that LayerLens knows; Linear and Conv1D do")
    return module.out_features, module.in_features  # type: ignore[return-value]
