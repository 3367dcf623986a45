"""Loading a checkpoint with its matrices left on disk.

transformers gets a state dict in which every matrix is one number, expanded to the matrix's shape: four bytes each. So its own
code renames the tensors, finds what is missing and draws the new head exactly as it does for real weights, and each placeholder's
address tells afterwards which tensor of the checkpoint a parameter stands for.

Of two matrices that the config ties and the checkpoint holds both, transformers makes one where their values are the same. So no
two placeholders are: it leaves every such pair apart, and `tie_same` makes one of those whose tensors hold the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from layerlens.models.checkpoint import Checkpoint
from layerlens.models.streamed.tensor_reader import TensorReader


@dataclass(frozen=True)
class PlaceholderState:
    """A state dict whose matrices are placeholders.

    Attributes:
        tensors: By name in the checkpoint.
        names: Name in the checkpoint by the placeholder's address.
        reader: Reads the real values.
    """

    tensors: dict[str, Tensor]
    names: dict[int, str]
    reader: TensorReader

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> PlaceholderState:
        """Read the vectors of a checkpoint and stand in for its matrices."""
        reader = TensorReader(checkpoint.tensors)
        tensors: dict[str, Tensor] = {}
        for number, (name, header) in enumerate(checkpoint.tensors.items()):
            if len(header.shape) > 1:
                tensors[name] = torch.full((1,), float(number)).expand(header.shape)
            else:
                values = reader.read(name)
                tensors[name] = values.float() if values.is_floating_point() else values
        names = {tensor.data_ptr(): name for name, tensor in tensors.items() if len(tensor.shape) > 1}
        return cls(tensors, names, reader)

    def name_of(self, tensor: Tensor) -> str | None:
        """Name of the tensor that a parameter or buffer stands for; None where it holds values of its own."""
        return self.names.get(tensor.data_ptr()) if tensor.ndim > 1 else None

    def tie_same(self, model: PreTrainedModel) -> list[str]:
        """Tie matrices that the config ties and the checkpoint holds twice, with the same values.

        Returns:
            Those that the checkpoint holds with other values than what the config ties them to: they stay as they are.

        Raises:
            CheckpointError: one of them cannot be read.
        """
        untied = []
        for target, source in model.get_expanded_tied_weights_keys(all_submodels=True).items():
            shared = model.get_parameter_or_buffer(source)
            own, other = (self.name_of(tensor) for tensor in (model.get_parameter_or_buffer(target), shared))
            if own is None or other is None or own == other:
                continue
            if not self.reader.is_same(own, other):
                untied.append(target)
                continue
            path, _, name = target.rpartition(".")
            setattr(model.get_submodule(path), name, shared)
            model.all_tied_weights_keys[target] = source
        return untied
