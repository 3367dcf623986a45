"""Opening a checkpoint as a model that stays on disk: matrices are read when they are used, rows of tables when asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn

from layerlens.artifacts.layers import ModelInfo, ModelLayout
from layerlens.artifacts.profile import TaskInfo
from layerlens.errors import UnsupportedModelError
from layerlens.models.checkpoint import Checkpoint
from layerlens.models.head import describe_model
from layerlens.models.load import TaskModel, load_with_placeholders
from layerlens.models.loaded_checks import causal_probe, check_causal, check_finite
from layerlens.models.roles import describe_layers
from layerlens.models.streamed.placeholders import PlaceholderState
from layerlens.models.streamed.row_embedding import RowEmbedding
from layerlens.models.streamed.skeleton import IN_MEMORY, Skeleton
from layerlens.models.streamed.streamed_linear import StreamedLinear
from layerlens.models.streamed.weight_source import WeightSource
from layerlens.models.tree import is_under
from layerlens.models.weights import is_planned_module, is_transposed
from layerlens.nn.row_scale import row_scale
from layerlens.words import TaskKind

#: An embedding table with more entries than that stays on disk.
_LARGE_TABLE = 1 << 20


@dataclass
class StreamedModel(TaskModel):
    """A task model whose matrices stay on disk.

    Attributes:
        info: What it is and how large, told before its weights were taken out.
        layout: Its layers and blocks.
        skeleton: Its own code around its blocks.
        state: Where the weights are.
        stored_names: By a matrix's parameter, its tensor in the checkpoint; those that are tied have the same.
        is_untied: Whether the config ties matrices that the checkpoint holds with different values.
    """

    info: ModelInfo
    layout: ModelLayout
    skeleton: Skeleton = field(repr=False)
    state: PlaceholderState = field(repr=False)
    stored_names: dict[str, str] = field(repr=False)
    is_untied: bool = False

    def layers_of(self, block: int) -> dict[str, StreamedLinear]:
        """Streamed layers inside a block, by their full path."""
        path = self.layout.blocks[block].path
        return {
            f"{path}.{name}": module
            for name, module in self.model.get_submodule(path).named_modules()
            if isinstance(module, StreamedLinear)
        }

    def layers_outside(self) -> dict[str, StreamedLinear]:
        """Streamed layers in no block, as a language model's head, by their full path."""
        blocks = [block.path for block in self.layout.blocks]
        modules = {name: module for name, module in self.model.named_modules() if isinstance(module, StreamedLinear)}
        return {name: module for name, module in modules.items() if not is_under(name, blocks)}

    def place(self, device: torch.device) -> None:
        """Move what is in memory for good to a device; all is computed there from now on."""
        self.model.to(device)
        for module in self.model.modules():
            if isinstance(module, StreamedLinear):
                module.source.device = device

    @contextmanager
    def held(self, block: int, *, is_wanted: bool = True) -> Iterator[None]:
        """Keep a block's weights in memory until the context ends; where that is not wanted they are read in slices."""
        layers = list(self.layers_of(block).values()) if is_wanted else []
        try:
            for layer in layers:
                layer.source.hold()
            yield
        finally:
            for layer in layers:
                layer.source.release()

    def resident_bytes(self) -> int:
        """Bytes of all parameters and buffers that are in memory for good."""
        tensors = (*self.model.parameters(), *self.model.buffers())
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def load_streamed_model(checkpoint: Checkpoint, task: TaskInfo, *, seed: int, way_out: str = IN_MEMORY) -> StreamedModel:
    """Open a checkpoint as a model of `task` that is read block by block.

    The head, vectors and small tables are in memory in float32; a new head is the very one that `load_task_model` draws.

    Args:
        checkpoint: An opened checkpoint.
        task: What the model shall do.
        seed: Seed of the new parameters.
        way_out: What to do with a model that cannot be streamed.

    Raises:
        CheckpointError: as `load_task_model`; of values, only those that are in memory are checked here, the others when read.
        UnsupportedModelError: the model cannot be profiled, or not block by block.
    """
    state = PlaceholderState.of(checkpoint)
    loaded = load_with_placeholders(checkpoint, task, state.tensors, seed=seed)
    model = loaded.model
    if getattr(model.config, "is_encoder_decoder", False):
        raise UnsupportedModelError(f"{checkpoint.folder} has an encoder and a decoder, which cannot be streamed; {way_out}")
    untied = state.tie_same(model)
    if untied and model.all_tied_weights_keys:
        raise UnsupportedModelError(
            f"the config of {checkpoint.folder} ties {min(model.all_tied_weights_keys)} and {untied[0]}, and only the second has "
            f"values of its own, which cannot be streamed; {way_out}"
        )
    layout = describe_layers(model)
    info = describe_model(loaded, layout)
    parameters = model.named_parameters(remove_duplicate=False)
    stored_names = {name: stored for name, value in parameters if (stored := state.name_of(value)) is not None}
    _take_out_weights(model, layout, state, set(loaded.new_parameters), way_out)
    check_finite(checkpoint, model.state_dict())
    skeleton = Skeleton(model, [block.path for block in layout.blocks], way_out)
    if task.kind is TaskKind.CAUSAL_LM:
        # What one block does, all do: an encoder's first block already lets the first token see the others.
        check_causal(checkpoint, model, skeleton.probe(causal_probe()))
    return StreamedModel(model, loaded.new_parameters, checkpoint, info, layout, skeleton, state, stored_names, bool(untied))


def _take_out_weights(model: nn.Module, layout: ModelLayout, state: PlaceholderState, new: set[str], way_out: str) -> None:
    """Replace every placeholder: matrices by streamed layers, large tables by their rows, the rest by the values."""
    for path, module in list(model.named_modules()):
        weight = getattr(module, "weight", None)
        name = state.name_of(weight) if isinstance(weight, nn.Parameter) else None
        if name is None or is_under(path, layout.head):
            continue
        if is_planned_module(module):
            bias = getattr(module, "bias", None)
            source = WeightSource(state.reader, name)
            _replace(model, path, StreamedLinear(source, bias, is_transposed=is_transposed(module)))
        elif isinstance(module, nn.Embedding) and module.weight.numel() > _LARGE_TABLE and (scale := row_scale(module)):
            _replace(model, path, RowEmbedding(state.reader, name, module.padding_idx, scale))
    for path, module in model.named_modules():
        for own, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            name = state.name_of(tensor)
            if name is not None:
                values = state.reader.read(name)
                values = values.float() if values.is_floating_point() else values
                is_parameter = isinstance(tensor, nn.Parameter)
                setattr(module, own, nn.Parameter(values, requires_grad=tensor.requires_grad) if is_parameter else values)
            elif isinstance(tensor, nn.Parameter) and tensor.ndim > 1 and f"{path}.{own}" not in new:
                # Put together from several placeholders, it would be their numbers.
                raise UnsupportedModelError(
                    f"{path}.{own} is put together from several tensors of the checkpoint and cannot be streamed; {way_out}"
                )


def _replace(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    module.eval()
    setattr(model.get_submodule(parent), name, module)
