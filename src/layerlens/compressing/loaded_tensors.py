"""What a model loaded from a compressed folder must have: every stored tensor, in its type, in memory of its own.

transformers fills what a folder lacks with random numbers, may cast what it has, and on a CPU leaves tensors in a map of the
file. Pages of a map stay in memory beside whatever is made of them: weights would be held twice once a kernel has its own form.
Weights outlive a caller's inference mode, so none are made in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from layerlens.compressing.loaded_names import loaded_names
from layerlens.compressing.tensor_files import NAMES
from layerlens.errors import CheckpointError, UnsupportedModelError, few
from layerlens.models.headers import TensorHeader, read_headers
from layerlens.models.streamed.tensor_reader import TensorReader
from layerlens.nn.frozen_product import FrozenMatrix
from layerlens.nn.half_modules import HalfModule
from layerlens.nn.stored_form import stored_tensors
from layerlens.nn.stored_module import StoredModule
from layerlens.nn.type_mark import TypeMark


def headers_of(files: Iterable[str | Path]) -> dict[str, TensorHeader]:
    """All tensors of some weight files."""
    return {name: header for file in files for name, header in read_headers(Path(file)).items()}


def check_folder(model: PreTrainedModel, headers: Mapping[str, TensorHeader]) -> None:
    """See that a folder holds every stored tensor, before any is loaded.

    Args:
        model: On the meta device, with modules over stored matrices.
        headers: Of the folder.

    Raises:
        CheckpointError: some are not there, or of another shape or type: they would be random numbers.
        UnsupportedModelError: nothing of the folder belongs to the model.
    """
    needed = _stored(model)
    if not needed and not loaded_names(model, headers, model.state_dict()):
        raise UnsupportedModelError(
            f"none of the folder's tensors ({few(list(headers))}) belongs to a {type(model).__name__}; load it as "
            "the architecture that its config.json names"
        )
    held = {(place, headers[name].shape, headers[name].dtype) for name, place in loaded_names(model, headers, needed).items()}
    _refuse([name for name, (shape, dtype) in needed.items() if (name, shape, NAMES[dtype]) not in held])


def check_marks(model: PreTrainedModel) -> None:
    """See that every stored tensor was given, where there is no folder to look into before.

    Raises:
        CheckpointError: some were not: they are random numbers.
    """
    if len(set((getattr(model, "hf_device_map", None) or {}).values())) > 1:
        # Spread over devices, tensors are not the ones that were loaded.
        return
    # transformers marks what it has loaded; what it has made up is not marked.
    _refuse([name for name in _stored(model) if not getattr(model.get_buffer(name), "_is_hf_initialized", False)])


@torch.inference_mode(False)
def restore_types_(model: PreTrainedModel) -> None:
    """Give every stored tensor the type that it has in the folder: a model may ask for some layers in float32, by name."""
    for name, (_, dtype) in _stored(model).items():
        _put(model, name, model.get_buffer(name).to(dtype))


@torch.inference_mode(False)
def leave_files_(model: PreTrainedModel, headers: Mapping[str, TensorHeader]) -> None:
    """Give every tensor that lies in a map of the folder's files memory of its own, one at a time.

    It is read from the file, not copied out of the map: pages of the map that nobody touched are never in memory.

    Args:
        model: As it was loaded; parameters stay the objects that they are, so what is tied stays tied.
        headers: Of the folder.
    """
    named = (*model.named_buffers(remove_duplicate=False), *model.named_parameters(remove_duplicate=False))
    mapped = {place: tensor for place, tensor in named if _is_mapped(tensor)}
    with closing(TensorReader(headers)) as reader:
        for name, place in loaded_names(model, headers, mapped).items():
            header, tensor = headers[name], mapped[place]
            if (header.shape, header.dtype) == (tuple(tensor.shape), NAMES.get(tensor.dtype)):
                _put(model, place, reader.read(name))
                del mapped[place]
        for place, tensor in mapped.items():
            # Renamed by rules of the caller's own, or a part of what the file has; or tied to one that was just read.
            if _is_mapped(tensor):
                _put(model, place, tensor.detach().clone())


@torch.inference_mode(False)
def mark_types_(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Let a model without a parameter, and a body without one in a model that has some, still tell its type and device.

    Args:
        model: As it was loaded.
        dtype: What it computes in.
    """
    # Inner models first: a mark in one is one in those around it too.
    for part in reversed([module for module in model.modules() if isinstance(module, PreTrainedModel)]):
        stored = next((module for module in part.modules() if isinstance(module, FrozenMatrix)), None)
        if stored is not None and not any(parameter.is_floating_point() for parameter in part.parameters()):
            stored.type_mark = TypeMark(dtype, next(stored.buffers()).device)


def hold_stored_forms_(model: PreTrainedModel) -> None:
    """Bring every matrix that a kernel holds in a form of its own back into that of a file, one at a time.

    A state dict would make all of them beside those that are held.
    """
    for module in model.modules():
        if isinstance(module, StoredModule):
            # Whatever is done to its tensors, a module brings them back first.
            module._apply(lambda tensor: tensor)


def saved_paths(model: PreTrainedModel, files: Iterable[Path]) -> dict[str, str]:
    """Module path in files that a model was saved to, by its path in the model, for every stored matrix."""
    found = loaded_names(model, headers_of(files), _stored(model))
    return {place.rpartition(".")[0]: name.rpartition(".")[0] for name, place in found.items()}


def _stored(model: nn.Module) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Shape and type of every stored tensor, by its name in the model."""
    stored: dict[str, tuple[tuple[int, ...], torch.dtype]] = {}
    for path, module in model.named_modules():
        if isinstance(module, StoredModule):
            own = stored_tensors(module.scheme, module.out_features, module.in_features)
            stored |= {f"{path}.{name}": tensor for name, tensor in own.items()}
        elif isinstance(module, HalfModule):
            stored[f"{path}.weight"] = tuple(module.get_buffer("weight").shape), torch.bfloat16
    return stored


def _put(model: nn.Module, name: str, values: Tensor) -> None:
    """Replace the values of a parameter, or a whole buffer: a view of a file's map would hold on to it."""
    path, _, own = name.rpartition(".")
    module = model.get_submodule(path)
    if own in module._buffers:
        module._buffers[own] = values
    else:
        module.get_parameter(own).data = values


def _is_mapped(tensor: Tensor) -> bool:
    """Whether a tensor lies in memory that torch has not taken itself: of a CPU's tensors of a file, in a map of it."""
    return tensor.device.type == "cpu" and type(tensor) in (Tensor, nn.Parameter) and not tensor.untyped_storage().resizable()


def _refuse(missing: list[str]) -> None:
    if missing:
        raise CheckpointError(
            f"the folder lacks tensors of compressed matrices ({few(missing)}), or has them in another form: left so, they would "
            "be random numbers; copy or download it again"
        )
