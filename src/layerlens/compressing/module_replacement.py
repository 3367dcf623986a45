"""Putting modules over stored matrices into a model that has no weights yet, and checking that each got its tensors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from layerlens.artifacts.formats import Format
from layerlens.compressing.folder_config import StoredMatrix
from layerlens.errors import CheckpointError, UnsupportedModelError
from layerlens.models.weights import is_planned_module
from layerlens.nn.half_modules import HalfEmbedding, HalfLinear, HalfModule
from layerlens.nn.low_rank_linear import LowRankLinear
from layerlens.nn.quantised_embedding import QuantisedEmbedding
from layerlens.nn.quantised_linear import QuantisedLinear
from layerlens.nn.quantised_low_rank_linear import QuantisedLowRankLinear
from layerlens.nn.stored_form import stored_tensors
from layerlens.nn.stored_module import StoredModule
from layerlens.nn.tied_modules import Holder, TiedEmbedding, TiedLinear

_LINEARS = {
    Format.INTEGER: QuantisedLinear,
    Format.LOW_RANK: LowRankLinear,
    Format.INTEGER_LOW_RANK: QuantisedLowRankLinear,
}


def replace_modules(model: PreTrainedModel, matrices: Mapping[str, StoredMatrix]) -> None:
    """Replace every module whose matrix is stored, and those that are tied to it.

    A matrix for which the model has no module (the head of a language model, in its base model) is passed over.

    Args:
        model: On the meta device.
        matrices: By module path as the folder's tensors have it.

    Raises:
        UnsupportedModelError: a module is of another kind or shape than the matrix, or none of the matrices fits.
    """
    holders: dict[str, Holder] = {}
    for stored_path, path in places_of(model, matrices).items():
        module = model.get_submodule(path)
        holders[path] = _holder(path, module, matrices[stored_path])
        _put(model, path, holders[path])
    if matrices and not holders:
        raise UnsupportedModelError(
            f"none of the folder's compressed matrices ({', '.join(list(matrices)[:3])}, …) belongs to a {type(model).__name__}; "
            "load it as the architecture that its config.json names"
        )
    _tie(model, holders)


def check_loaded(model: PreTrainedModel) -> None:
    """See that every stored tensor came from the folder, in the type that it has there.

    Raises:
        CheckpointError: some did not: they would be random numbers.
    """
    if len(set((getattr(model, "hf_device_map", None) or {}).values())) > 1:
        # Spread over devices, tensors are not the ones that were loaded; transformers' own report has to do.
        return
    missing = []
    for path, module in _stored_modules(model):
        for name, buffer in list(module.named_buffers(recurse=False)):
            # transformers marks what it has loaded; what it has made up is not marked.
            if not getattr(buffer, "_is_hf_initialized", False):
                missing.append(f"{path}.{name}")
        types = {"weight": torch.bfloat16}
        if isinstance(module, StoredModule):
            types = {name: dtype for name, (_, dtype) in _tensors_of(module).items()}
        for name, dtype in types.items():
            # A model may ask for some layers in float32, by name.
            module._buffers[name] = module.get_buffer(name).to(dtype)
    if missing:
        raise CheckpointError(
            f"the folder lacks {len(missing)} tensors of compressed matrices ({', '.join(missing[:3])}, …): "
            "left so, they would be random numbers; copy or download it again"
        )


def places_of(model: PreTrainedModel, paths: Iterable[str]) -> dict[str, str]:
    """Module path in the model by module path as a folder's tensors have it, for those that the model has.

    Tensors are renamed by transformers' own rules, which also add or take away the base model's prefix.
    """
    conversions = get_model_conversion_mapping(model)
    renamings = [entry for entry in conversions if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in conversions if isinstance(entry, WeightConverter)]
    state = dict(model.state_dict())
    places = {}
    for path in paths:
        for rules in ((renamings, converters), ([], [])):
            name, pattern = rename_source_key(f"{path}.weight", *rules, model.base_model_prefix, state)
            if name in state and pattern is None:
                places[path] = name.removesuffix(".weight")
                break
    return places


def _tensors_of(module: StoredModule) -> dict[str, tuple[tuple[int, int], torch.dtype]]:
    return stored_tensors(module.scheme, module.out_features, module.in_features)


def _stored_modules(model: nn.Module) -> Iterator[tuple[str, Holder]]:
    for path, module in model.named_modules():
        if isinstance(module, StoredModule | HalfModule):
            yield path, module


def _holder(path: str, module: nn.Module, matrix: StoredMatrix) -> Holder:
    shape = (matrix.out_features, matrix.in_features)
    bias = getattr(module, "bias", None)
    if type(module) is nn.Embedding:
        _check_shape(path, shape, (module.num_embeddings, module.embedding_dim))
        if matrix.scheme.format is Format.HALF:
            return HalfEmbedding(*shape, module.padding_idx, module.weight.dtype, "meta")
        return QuantisedEmbedding(matrix.scheme, *shape, module.padding_idx, module.weight.dtype, "meta")
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
    if type(module) is nn.Embedding:
        return TiedEmbedding(holder, module.padding_idx, module.weight.dtype)
    if is_planned_module(module):
        return TiedLinear(holder, getattr(module, "bias", None))
    raise UnsupportedModelError(
        f"{path} is a {type(module).__name__} tied to a compressed matrix; LayerLens ties Linear and Embedding"
    )


def _put(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)
