"""Hooks that hand a block's inputs and output gradients to their sums, during one ordinary forward and backward.

forward:  x ──► layer ──► y      keep x, once for all layers that read the very same tensor
backward:          g = ∂ℓ/∂y     add x and g to the layer's moments; let x go
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from layerlens.compressing.calibration_samples import Tokens
from layerlens.compressing.layer_moments import InputMoments, LayerMoments
from layerlens.compressing.moment_sums import squares
from layerlens.errors import NotFiniteError, UnsupportedModelError
from layerlens.linalg.fast_products import fast_products
from layerlens.linalg.per_sample_norms import ghost_norms, is_ghost_cheaper_alone, token_gram
from layerlens.models.forward_hooks import taken_off
from layerlens.models.sequences import as_sequences, refuse_tokens_first

#: Seed of an input's own sketch, beside those of `LayerMoments`.
_INPUT = 3


@dataclass(frozen=True)
class _Read:
    """What a layer read: as sequences, zero at padding; and as it was given, so that no other tensor takes its address."""

    inputs: Float[Tensor, "samples tokens in_features"]
    source: Tensor
    leader: str


class MomentCapture:
    """Takes the moments of layers from hooks on their modules.

    Args:
        modules: By layer, the module that runs.
        is_row_alone: Every row counts as a sample of its own: for heads.
    """

    def __init__(self, modules: Mapping[str, nn.Module], *, is_row_alone: bool = False) -> None:
        self.moments: dict[str, LayerMoments] = {}
        self._modules, self._is_row_alone = modules, is_row_alone
        self._inputs: dict[str, InputMoments] = {}
        self._leaders: dict[str, str] = {}
        self._reads: dict[str, _Read] = {}
        self._readers: dict[tuple[Any, ...], _Read] = {}
        self._token_grams: dict[str, Tensor] = {}
        self._tokens: Tokens | None = None

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Hooks on, until the context ends."""
        handles = [module.register_forward_hook(partial(self._on_forward, name)) for name, module in self._modules.items()]
        try:
            with taken_off(handles):
                yield
        finally:
            self._forget()

    def start(self, tokens: Tokens) -> None:
        """Say which samples the next forward pass holds."""
        self._forget()
        self._tokens = tokens

    def _forget(self) -> None:
        self._reads.clear()
        self._readers.clear()
        self._token_grams.clear()

    @fast_products()
    def _on_forward(self, name: str, _: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        tokens = self._of_part()
        if name in self._reads:
            raise UnsupportedModelError(
                f"layer {name} runs more than once in one forward pass; such a model cannot be compressed"
            )
        source = args[0].detach()
        key = source.data_ptr(), source.shape, source.stride()
        if key not in self._readers:
            self._readers[key] = self._first_read(name, source, tokens)
        read = self._reads[name] = self._readers[key]
        if self._leaders.setdefault(name, read.leader) != read.leader:
            raise UnsupportedModelError(
                f"layer {name} reads the input of {read.leader} in one batch and not in another; it cannot be compressed"
            )
        if name not in self.moments:
            self.moments[name] = LayerMoments(output.shape[-1], source.shape[-1], self._inputs[read.leader])
        if not output.requires_grad:
            # Nothing below needs a gradient, so the graph starts here.
            output.requires_grad_()
        output.register_hook(partial(self._on_gradient, name))

    def _first_read(self, name: str, source: Tensor, tokens: Tokens) -> _Read:
        if tokens.is_real is not None:
            refuse_tokens_first(source, len(tokens.is_held), name)
        values = as_sequences(source, len(tokens.is_held), name)
        held = tokens.split(values)[1]
        self._inputs.setdefault(name, InputMoments(values.shape[-1])).held.add(held, (*tokens.seed, _INPUT))
        mask = tokens.mask_of(values)
        return _Read(values if mask is None else values * mask[..., None], source, name)

    @fast_products()
    def _on_gradient(self, name: str, gradient: Tensor) -> None:
        tokens, read = self._of_part(), self._reads.pop(name)
        values = as_sequences(gradient.detach(), len(tokens.is_held), name)
        mask = tokens.mask_of(values)
        values = values if mask is None else values * mask[..., None]
        counts = torch.full((len(values),), float(values.shape[1])) if mask is None else mask.sum(1).float()
        inputs, is_held = read.inputs, tokens.is_held
        if self._is_row_alone:
            is_held = is_held.repeat_interleave(values.shape[1])
            inputs, values = (side.flatten(0, 1)[:, None] for side in (inputs, values))
            counts = torch.ones(len(values))
        found = self.moments[name]
        trace = self._fisher_trace(read.leader, inputs, values)
        if not torch.isfinite(torch.tensor(trace)):
            raise NotFiniteError(f"the gradient of {name} is NaN or infinite; check the model's weights and its loss")
        found.fisher_trace += trace
        found.add(inputs, values, is_held, counts, tokens.seed)

    def _fisher_trace(
        self,
        leader: str,
        inputs: Float[Tensor, "samples tokens in_features"],
        gradient: Float[Tensor, "samples tokens out_features"],
    ) -> float:
        """Σ over the part's samples of ‖Σ_t g_t x_tᵀ‖²."""
        _, num_tokens, in_features = inputs.shape
        if num_tokens == 1:
            return float((inputs.square().sum(-1) * gradient.square().sum(-1)).sum(dtype=torch.float64))
        sharing = sum(other == leader for other in self._leaders.values())
        if is_ghost_cheaper_alone(num_tokens, in_features, gradient.shape[-1], sharing):
            if leader not in self._token_grams:
                self._token_grams[leader] = token_gram(inputs)
            return float(ghost_norms(self._token_grams[leader], gradient).sum(dtype=torch.float64))
        return sum(squares(gradient[sample].t() @ inputs[sample]) for sample in range(len(gradient)))

    def _of_part(self) -> Tokens:
        if self._tokens is None:
            raise AssertionError("start comes before a forward pass")
        return self._tokens
