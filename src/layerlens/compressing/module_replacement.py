"""Putting modules over stored matrices into a model that has no weights yet."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn
from transformers import PreTrainedModel

from layerlens.artifacts.formats import Format
from layerlens.compressing.folder_config import StoredMatrix
from layerlens.compressing.loaded_names import places_of
from layerlens.errors import UnsupportedModelError, few
from layerlens.models.weights import is_planned_module
from layerlens.nn.half_modules import HalfEmbedding, HalfLinear, HalfModule
from layerlens.nn.low_rank_linear import LowRankLinear
from layerlens.nn.quantised_embedding import QuantisedEmbedding
from layerlens.nn.quantised_linear import QuantisedLinear
from layerlens.nn.quantised_low_rank_linear import QuantisedLowRankLinear
from layerlens.nn.row_scale import row_scale
from layerlens.nn.stored_module import StoredModule
from layerlens.nn.tied_modules import Holder, TiedEmbedding, TiedLinear

_LINEARS = {
    Format.INTEGER: QuantisedLinear,
    Format.LOW_RANK: LowRankLinear,
    Format.INTEGER_LOW_RANK: QuantisedLowRankLinear,
}


def replace_modules(model: PreTrainedModel, matrices: Mapping[str, StoredMatrix]) -> dict[str, str]:
    """Replace every module whose matrix is stored, and those that are tied to it.

    A matrix for which the model has no module (the head of a language model, in its base model) is passed over.

    Args:
        model: On the meta device.
        matrices: By module path as the folder's tensors have it.

    Returns:
        Module path in the model by that of the folder, for every matrix that it has.

    Raises:
        UnsupportedModelError: a module is of another kind or shape than the matrix, or none of the matrices fits.
    """
    holders: dict[str, Holder] = {}
    places = places_of(model, matrices)
    for stored_path, path in places.items():
        module = model.get_submodule(path)
        holders[path] = _holder(path, module, matrices[stored_path])
        _put(model, path, holders[path])
    if matrices and not holders:
        raise UnsupportedModelError(
            f"none of the folder's compressed matrices ({few(list(matrices))}) belongs to a {type(model).__name__}; load it as "
            "the architecture that its config.json names"
        )
    _tie(model, holders)
    return places


def _holder(path: str, module: nn.Module, matrix: StoredMatrix) -> Holder:
    shape = (matrix.out_features, matrix.in_features)
    bias = getattr(module, "bias", None)
    if isinstance(module, nn.Embedding) and (scale := row_scale(module)):
        _check_shape(path, shape, (module.num_embeddings, module.embedding_dim))
        if matrix.scheme.format is Format.HALF:
            return HalfEmbedding(*shape, module.padding_idx, module.weight.dtype, "meta", scale)
        return QuantisedEmbedding(matrix.scheme, *shape, module.padding_idx, module.weight.dtype, "meta", scale)
    if not is_planned_module(module):
        raise UnsupportedModelError(
            f"{path} is a {type(module).__name__}, and the folder has a compressed matrix for it; "
            "LayerLens loads Linear, Conv1D and Embedding"
        )
    weight = module.get_parameter("weight")
    _check_shape(path, shape, tuple(reversed(weight.shape)) if matrix.is_transposed else tuple(weight.shape))
    if matrix.scheme.format is Format.HALF:
        return HalfLinear(*shape, bias, is_transposed=matrix.is_transposed, device="meta")
    return _LINEARS[matrix.scheme.format](matrix.scheme, *shape, bias, device="meta")


def _check_shape(path: str, stored: tuple[int, ...], needed: tuple[int, ...]) -> None:
    if stored != needed:
        raise UnsupportedModelError(
            f"the compressed matrix of {path} is {list(stored)}, the model's config asks for {list(needed)}; "
            "use the config.json that the folder was written with"
        )


def _tie(model: PreTrainedModel, holders: Mapping[str, Holder]) -> None:
    """Let modules that are tied to a replaced one read its matrix, and take these ties out of the model's own list."""
    for target, source in list(model.all_tied_weights_keys.items()):
        paths = [name.removesuffix(".weight") for name in (target, source)]
        held = [path for path in paths if path in holders]
        if not held or not target.endswith(".weight"):
            continue
        del model.all_tied_weights_keys[target]
        for path in paths:
            if path not in holders:
                _put(model, path, _tied(path, model.get_submodule(path), holders[held[0]]))
    for module in model.modules():
        # `tie_weights` starts again from these, so they must not name a weight that is no parameter any more.
        if isinstance(module, PreTrainedModel) and isinstance(module._tied_weights_keys, dict):
            ties = module._tied_weights_keys
            module._tied_weights_keys = {key: name for key, name in ties.items() if _is_parameter(module, key, name)}


def _is_parameter(model: PreTrainedModel, *names: str) -> bool:
    for name in names:
        path, _, own = name.rpartition(".")
        try:
            module = model.get_submodule(path)
        except AttributeError:
            # A pattern, not a name.
            continue
        if isinstance(module, StoredModule | HalfModule | TiedLinear | TiedEmbedding) and own == "weight":
            return False
    return True


def _tied(path: str, module: nn.Module, holder: Holder) -> nn.Module:
    if isinstance(module, nn.Embedding) and (scale := row_scale(module)):
        return TiedEmbedding(holder, module.padding_idx, module.weight.dtype, scale)
    if is_planned_module(module):
        return TiedLinear(holder, getattr(module, "bias", None))
    raise UnsupportedModelError(
        f"{path} is a {type(module).__name__} tied to a compressed matrix; LayerLens ties Linear and Embedding"
    )


def _put(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)
