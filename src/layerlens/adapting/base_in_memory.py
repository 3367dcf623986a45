"""Which checkpoint a model in memory is: the one it says it was loaded from, if its weights still are those of the files."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import PreTrainedModel

from layerlens.errors import CheckpointError, ManifestError
from layerlens.models.checkpoint import Checkpoint
from layerlens.models.compressed_checkpoint import open_base_checkpoint


def checkpoint_of(model: PreTrainedModel) -> Checkpoint:
    """Open the checkpoint that a model was loaded from, and compare every weight that bears the same name.

    A weight in another floating type is compared after the cast; one that is stored in another form (quantised, fused by
    transformers) has no counterpart and is not compared.

    Raises:
        CheckpointError: the model names no checkpoint that is there.
        ManifestError: a weight is not the file's.
    """
    place = str(getattr(model, "name_or_path", "") or "")
    try:
        checkpoint = open_base_checkpoint(place)
    except CheckpointError as error:
        raise CheckpointError(
            f"cannot tell which base model this {type(model).__name__} is ({error}); load it with from_pretrained from its folder"
        ) from error
    held = _by_ending(model, checkpoint)
    for name, tensor in _stored(checkpoint):
        weight = held.get(name)
        if weight is None or weight.shape != tensor.shape or not weight.is_floating_point() or _is_packed(weight):
            continue
        if not torch.equal(weight.detach().cpu(), tensor.to(weight.dtype)):
            raise ManifestError(
                f"this {type(model).__name__} is not the model in {place} any more, {name} differs; load it with from_pretrained"
            )
    return checkpoint


def _is_packed(tensor: Tensor) -> bool:
    """Whether a tensor is another library's, which stands for numbers that it does not hold."""
    return hasattr(tensor, "__tensor_flatten__")


def _by_ending(model: PreTrainedModel, checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The model's tensors by the checkpoint's names, which may lack the base model's prefix."""
    prefix = f"{model.base_model_prefix}."
    state = model.state_dict()
    found = {}
    for name in checkpoint.tensors:
        for candidate in (name, prefix + name, name.removeprefix(prefix)):
            if candidate in state:
                found[name] = state[candidate]
                break
    return found


def _stored(checkpoint: Checkpoint) -> Iterator[tuple[str, Tensor]]:
    for path in checkpoint.files:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  the file is no mapping
                yield name, file.get_tensor(name)
