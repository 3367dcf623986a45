"""Hooks that hand every planned layer's inputs and output gradients to its sums, during one ordinary forward and backward.

    forward:  x ──► layer ──► y      keep x (copied only to autocast's type); add x to A in a Gram batch
    backward:          g = ∂ℓ/∂y     add g and x to G, to the per-sample norms and to B, then let x go

Weights are frozen, so autograd computes gradients of activations only; the product gᵀx that a plain backward pass
would spend on the weight's gradient is spent here on the halves of G.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from layerlens.artifacts.layers import LayerSpec
from layerlens.errors import UnsupportedModelError
from layerlens.linalg.fast_products import fast_products
from layerlens.linalg.token_mixing import TokenMixer
from layerlens.models.arithmetic import without_autocast
from layerlens.models.forward_hooks import taken_off
from layerlens.models.sequences import as_sequences, refuse_tokens_first
from layerlens.profiling.calibration import CalibrationBatch
from layerlens.profiling.spaces import Space, Tokens, choose_space
from layerlens.profiling.statistics_spaces import empty_statistics
from layerlens.streaming.settings import input_groups


@dataclass(frozen=True)
class _Read:
    """What a layer read: as sequences, and as it was given with its version then.

    The given tensor stays alive beside its view or copy, so that no other tensor takes its address within the batch.
    """

    inputs: Float[Tensor, "samples tokens in_features"]
    source: Tensor
    version: int


class Capture:
    """Feeds the statistics of layers from hooks on their modules.

    Args:
        modules: By layer, the module that runs; there may be others among them.
        layers: Layers to take the statistics of, in forward order.
        device: Where these run.
        tokens: What the whole calibration will bring. Of many samples, only some are sketched.
        space: Where to keep the statistics; None for the cheaper one, layer by layer.

    Attributes:
        sums: By layer, in the order of the layers.
        input_groups: By layer, the first layer that was seen to read the same input.
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        layers: Sequence[LayerSpec],
        *,
        device: torch.device,
        tokens: Tokens,
        space: Space | None = None,
    ) -> None:
        self._spaces = {spec.layer: space or choose_space(group, tokens) for group in input_groups(layers) for spec in group}
        self.sums = {spec.layer: empty_statistics(spec, self._spaces[spec.layer], tokens, device) for spec in layers}
        self.input_groups: dict[str, str] = {}
        self._modules = {spec.layer: modules[spec.layer] for spec in layers}
        self._inputs: dict[str, _Read] = {}
        self._readers: dict[tuple[Any, ...], str] = {}
        self._feeders: dict[tuple[str, Space], str] = {}
        self._batch = CalibrationBatch((), 0, gram_rows=0, seed=0)
        self._part = range(0)
        self._num_before = 0
        self._mixer: TokenMixer | None = None
        self._is_text = False
        self._labels = "empirical"
        self._num_backwards = {"empirical": 0, "true": 0}
        self._fills_gram = False
        self._is_last_backward = True

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Hooks on, until the block ends."""
        handles = [module.register_forward_hook(partial(self._on_forward, name)) for name, module in self._modules.items()]
        try:
            with taken_off(handles):
                yield
        finally:
            self._forget()

    def skip(self, num_samples: int) -> None:
        """Say that so many samples of the pass run in other processes before this one's first."""
        self._num_before = num_samples

    def start_batch(
        self, batch: CalibrationBatch, mask: Bool[Tensor, "samples tokens"] | None, part: slice | None = None
    ) -> None:
        """Say which samples the next forward pass holds.

        Args:
            batch: The batch.
            mask: Which tokens of the whole batch are no padding; None: all.
            part: Which samples of the batch run now; None: all. Parts of a batch must come in its order, one after the other,
                and give the same sums as the whole.
        """
        self._forget()
        self._num_before += len(self._part)
        self._batch, self._part = batch, range(len(batch.samples))[part or slice(None)]
        self._mixer, self._is_text = None, mask is not None
        if batch.gram_rows:
            self._mixer = TokenMixer(
                batch.gram_rows, batch.seed, mask, num_samples=len(batch.samples), part=slice(self._part.start, self._part.stop)
            )

    def start_backward(self, labels: str, *, fills_gram: bool, is_last: bool) -> None:
        """Say whose labels the next backward pass is at, and whether it fills B and is the batch's last."""
        self._labels, self._fills_gram, self._is_last_backward = labels, fills_gram, is_last

    def end_backward(self) -> None:
        """Layers that the loss does not depend on have a gradient of zero."""
        self._num_backwards[self._labels] += 1
        for sums in self.sums.values():
            if len(sums.norms[self._labels]) < self._num_backwards[self._labels]:
                sums.add_zero(len(self._part), self._labels, fills_gram=self._fills_gram and self._mixer is not None)

    def _forget(self) -> None:
        self._inputs.clear()
        self._readers.clear()
        for sums in self.sums.values():
            sums.shared.end_batch()

    @fast_products()
    def _on_forward(self, name: str, _: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        if name in self._inputs:
            raise UnsupportedModelError(
                f"layer {name} runs more than once in one forward pass; layers that share a weight cannot be profiled"
            )
        source = args[0].detach()
        if self._is_text:
            refuse_tokens_first(source, len(self._part), name)
        leader = self._readers.setdefault((source.data_ptr(), source.shape, source.stride()), name)
        # Under autocast the layer multiplied what it reads in the type of its output; readers of one input share the copy.
        values = self._inputs[leader].inputs if leader in self._inputs else source.to(output.dtype)
        inputs = as_sequences(values, len(self._part), name)
        self._inputs[name] = _Read(inputs, source, source._version)
        self._join(name, leader)
        if self._feeders[leader, self._spaces[name]] == name:
            # The block's own products may be rounded; those of the statistics are not.
            with without_autocast(source.device):
                self.sums[name].shared.add(inputs, self._mixer, self._num_before)
        if not output.requires_grad:
            # Nothing below needs a gradient, so the graph starts here.
            output.requires_grad_()
        output.register_hook(partial(self._on_gradient, name))

    def _join(self, name: str, leader: str) -> None:
        """Layers that read the very same tensor share its Grams; which they are shows in the first forward pass."""
        if name not in self.input_groups:
            self.input_groups[name] = leader
            # Layers in different spaces have nothing to share.
            feeder = self._feeders.setdefault((leader, self._spaces[name]), name)
            self.sums[name].share(self.sums[feeder].shared)
        elif self.input_groups[name] != leader:
            raise UnsupportedModelError(
                f"layer {name} reads the input of {leader} in one batch and not in another; it cannot be profiled"
            )

    @fast_products()
    def _on_gradient(self, name: str, gradient: Tensor) -> None:
        read = self._inputs.pop(name) if self._is_last_backward else self._inputs[name]
        if read.source._version != read.version:
            raise UnsupportedModelError(f"the input of layer {name} is changed in place after the layer has read it")
        self.sums[name].add(
            read.inputs,
            as_sequences(gradient.detach(), len(self._part), name),
            min(max(0, self._batch.num_first - self._part.start), len(self._part)),
            self._labels,
            self._mixer if self._fills_gram else None,
        )
