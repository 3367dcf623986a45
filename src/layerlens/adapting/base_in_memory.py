"""Which checkpoint a model in memory is: the one it says it was loaded from, if its weights still are those of the files."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy

import torch
import transformers
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from safetensors import safe_open
from torch import Tensor
from transformers import PreTrainedModel

from layerlens.errors import CheckpointError, ManifestError, few
from layerlens.models.checkpoint import Checkpoint
from layerlens.models.compressed_checkpoint import open_base_checkpoint
from layerlens.models.foreign import class_for, one_line, quiet
from layerlens.models.tree import find_head, is_under
from layerlens.nn.bottleneck import Bottleneck
from layerlens.nn.prefix import Prefix

#: What an adapter that was put on before has left in the tree.
_ADAPTED = (BaseTunerLayer, ModulesToSaveWrapper, Bottleneck, Prefix)


def checkpoint_of(model: PreTrainedModel) -> Checkpoint:
    """Open the checkpoint that a model was loaded from, and compare every weight that bears the same name.

    A weight in another floating type is compared after the cast. One that is quantised has no counterpart and is not compared.
    Where other matrices of the body have none, because transformers renames or fuses what it reads, they are compared with
    those of the same class loaded anew.

    Raises:
        CheckpointError: the model names no checkpoint that is there.
        ManifestError: an adapter is on it already, a weight is not the file's, or the files hold nothing for a matrix.
    """
    kind = type(model).__name__
    if any(isinstance(module, _ADAPTED) for module in model.modules()):
        raise ManifestError(f"this {kind} already carries an adapter; load it anew with from_pretrained")
    place = str(getattr(model, "name_or_path", "") or "")
    try:
        checkpoint = open_base_checkpoint(place)
    except CheckpointError as error:
        raise CheckpointError(
            f"cannot tell which base model this {kind} is ({error}); load it with from_pretrained from its folder"
        ) from error
    held = _by_ending(model, checkpoint)
    compared = set()
    fault = f"this {kind} is not the model in {place} any more, %s differs; load it anew, or give that place instead"
    for name, tensor in _stored(checkpoint):
        weight = held.get(name)
        if weight is None or weight.shape != tensor.shape or not weight.is_floating_point() or _is_packed(weight):
            continue
        if not _is_equal(weight, tensor):
            raise ManifestError(fault % name)
        compared.add(id(weight))
    apart = {name: weight for name, weight in _body_matrices(model) if id(weight) not in compared}
    if not apart:
        return checkpoint
    anew = _loaded_anew(model, checkpoint)
    if unknown := [name for name in apart if name not in anew]:
        raise ManifestError(
            f"{place} holds nothing that this {kind} could have {few(unknown)} from; load it anew, or give that place instead"
        )
    if differing := [name for name, weight in apart.items() if not _is_equal(weight, anew[name])]:
        raise ManifestError(fault % few(differing))
    return checkpoint


def _is_equal(weight: Tensor, stored: Tensor) -> bool:
    return torch.equal(weight.detach().cpu(), stored.to(weight.dtype))


def _loaded_anew(model: PreTrainedModel, checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The parameters that a model of the same class takes from the files, by name."""
    with quiet(), torch.random.fork_rng(devices=[]):
        try:
            anew, report = type(model).from_pretrained(
                checkpoint.folder,
                config=deepcopy(model.config),
                dtype="auto",
                local_files_only=True,
                use_safetensors=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
        except Exception as error:
            raise CheckpointError(
                f"transformers cannot load {checkpoint.folder} ({one_line(error)}); give another base"
            ) from error
    drawn = {*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])}
    return {name: weight.detach() for name, weight in anew.named_parameters() if name not in drawn}


def _body_matrices(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """What of a model must come from its files: all matrices but those of a head and those that a library has quantised."""
    head = find_head(model)
    for name, weight in model.named_parameters():
        if weight.ndim > 1 and weight.is_floating_point() and not _is_packed(weight) and not is_under(name, head):
            yield name, weight


def _is_packed(tensor: Tensor) -> bool:
    """Whether a tensor is another library's, which stands for numbers that it does not hold."""
    return hasattr(tensor, "__tensor_flatten__")


def _by_ending(model: PreTrainedModel, checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The model's tensors by the checkpoint's names, which may lack the base model's prefix, or have that of another class."""
    prefix = f"{model.base_model_prefix}."
    has_plain = type(model.config) in transformers.AutoModel._model_mapping
    plain = class_for(model.config, transformers.AutoModel) if has_plain else type(model)
    state = model.state_dict(keep_vars=True)
    found = {}
    for name in checkpoint.tensors:
        stem = name.removeprefix(f"{plain.base_model_prefix}.")
        for candidate in (name, prefix + name, name.removeprefix(prefix), prefix + stem):
            if candidate in state:
                found[name] = state[candidate]
                break
    return found


def _stored(checkpoint: Checkpoint) -> Iterator[tuple[str, Tensor]]:
    for path in checkpoint.files:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  the file is no mapping
                yield name, file.get_tensor(name)
