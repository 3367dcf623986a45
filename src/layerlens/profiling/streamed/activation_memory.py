"""What a training step of a streamed model takes: the counts of `profiling.activation_memory`, a block of each shape at a time.

Products give nothing but shapes: what a frozen layer keeps and takes depends on no weight, and none is read.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from layerlens.data.task import Task
from layerlens.models.replaced_forward import replaced_forwards
from layerlens.models.streamed.load import StreamedModel
from layerlens.models.streamed.streamed_linear import StreamedLinear
from layerlens.models.tensors_in import tensors
from layerlens.profiling.activation_memory import Counted, as_trained, block_bytes, outside_bytes
from layerlens.profiling.counted_samples import CountedSamples
from layerlens.profiling.streamed.timing import block_shape
from layerlens.streaming.samples import Samples


def count_streamed_step(model: StreamedModel, task: Task, samples: CountedSamples) -> Counted:
    """Count a training step of a streamed model, block by block.

    Args:
        model: The streamed model; modes and gradient flags are left as they were.
        task: Its loss.
        samples: One batch.
    """
    examples = samples.examples
    batch = Samples.of_examples(model.skeleton, task, examples, [range(len(examples))], tokens_at_once=1 << 60)
    part = next(batch.parts())
    stored = [*model.model.parameters(), *model.model.buffers()]
    layers = [module for module in model.model.modules() if isinstance(module, StreamedLinear)]
    by_shape: dict[Any, tuple[int, int]] = {}
    counted = []
    with as_trained(model.model, model.layout), replaced_forwards([(layer, _Shapes(layer)) for layer in layers]):
        hidden = batch.entry(part).hidden
        for position in range(len(model.layout.blocks)):
            shape = block_shape(model, position)
            if shape not in by_shape:
                call = batch.call(part, position)

                def run(given: Tensor, position: int = position, call: Any = call) -> Tensor:
                    return model.skeleton.call(position, given, call)

                by_shape[shape] = block_bytes(run, hidden, [*stored, *tensors((call.args, call.kwargs))])
            counted.append(by_shape[shape])
        last = hidden.clone().requires_grad_()
        outside = outside_bytes(lambda: model.skeleton.finish(part.inputs, last), task, part.values, stored)
    saved, working = zip(*counted, strict=True)
    return Counted(len(examples), samples.num_tokens, samples.is_padded, list(saved), list(working), outside)


class _Shapes:
    """Stands in for a streamed layer: its output's shape, and of its backward pass that of its input's gradient."""

    def __init__(self, layer: StreamedLinear) -> None:
        self._out_features = layer.out_features

    def __call__(self, inputs: Tensor) -> Tensor:
        return inputs[..., :1] + inputs.new_zeros(self._out_features)
