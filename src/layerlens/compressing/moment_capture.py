"""Hooks that hand a block's inputs and output gradients to their sums, during one ordinary forward and backward.

forward:  x ──► layer ──► y      add x to A, once for all layers that read the very same tensor; keep x (no copy)
backward:          g = ∂ℓ/∂y     add g to B, and ‖Σ_t g_t x_tᵀ‖² of every sample to the layer's Fisher trace; let x go
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from layerlens.compressing.calibration_samples import Tokens
from layerlens.compressing.input_moments import InputMoments
from layerlens.compressing.moment_sums import MOST_FULL, HeldRoot, MomentSum, squares
from layerlens.errors import NotFiniteError, UnsupportedModelError
from layerlens.linalg.per_sample_norms import ghost_norms, is_ghost_cheaper_alone, token_gram

#: Sketches of gradients and of their sums, whose signs must not be those of the inputs.
_GRADIENTS, _SUMS = 2, 3


@dataclass
class LayerMoments:
    """What the pass finds out about one layer.

    Attributes:
        inputs: Of x; shared by layers that read the same tensor.
        gradients: Of g, token by token.
        sums: Of Σ_t g_t, sample by sample.
        sum_squares: Σ over samples of ‖Σ_t g_t‖².
        within_trace: Σ over samples of ‖Σ_t g_t x̃_tᵀ‖².
        means_trace: Σ over samples of ‖(Σ_t g_t) mᵀ‖².
        fisher_trace: Σ over samples of ‖Σ_t g_t x_tᵀ‖².
    """

    inputs: InputMoments
    gradients: MomentSum
    sums: HeldRoot
    sum_squares: float = 0.0
    within_trace: float = 0.0
    means_trace: float = 0.0
    fisher_trace: float = 0.0


@dataclass(frozen=True)
class _Read:
    """What a layer read: in its two parts, and as it was given, so that no other tensor takes its address meanwhile."""

    within: Float[Tensor, "samples tokens in_features"]
    means: Float[Tensor, "samples in_features"]
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
        self._first_reads: dict[str, _Read] = {}
        self._readers: dict[tuple[Any, ...], str] = {}
        self._token_grams: dict[str, Tensor] = {}
        self._tokens: Tokens | None = None

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Hooks on, until the context ends."""
        handles = [module.register_forward_hook(partial(self._on_forward, name)) for name, module in self._modules.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._forget()

    def start(self, tokens: Tokens) -> None:
        """Say which samples the next forward pass holds."""
        self._forget()
        self._tokens = tokens

    def _forget(self) -> None:
        self._reads.clear()
        self._first_reads.clear()
        self._readers.clear()
        self._token_grams.clear()

    def _on_forward(self, name: str, _: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        tokens = self._of_part()
        if name in self._reads:
            raise UnsupportedModelError(
                f"layer {name} runs more than once in one forward pass; such a model cannot be compressed"
            )
        source = args[0].detach()
        values = as_sequences(source, len(tokens.is_held), name)
        leader = self._readers.setdefault((source.data_ptr(), source.shape, source.stride()), name)
        if self._leaders.setdefault(name, leader) != leader:
            raise UnsupportedModelError(
                f"layer {name} reads the input of {leader} in one batch and not in another; such a model cannot be compressed"
            )
        if leader == name:
            inputs = self._inputs.setdefault(name, InputMoments(values.shape[-1], is_centred=not self._is_row_alone))
            within, means = inputs.split(values, tokens)
            inputs.add(within, means, tokens)
            self._reads[name] = _Read(within, means, source, leader)
        else:
            self._reads[name] = replace(self._first_reads[leader], leader=leader)
        self._first_reads[name] = self._reads[name]
        if name not in self.moments:
            out_features = output.shape[-1]
            gradients = MomentSum(out_features, is_full=out_features <= MOST_FULL)
            self.moments[name] = LayerMoments(self._inputs[leader], gradients, HeldRoot(out_features))
        if not output.requires_grad:
            # Nothing below needs a gradient, so the graph starts here.
            output.requires_grad_()
        output.register_hook(partial(self._on_gradient, name))

    def _on_gradient(self, name: str, gradient: Tensor) -> None:
        tokens, read = self._of_part(), self._reads.pop(name)
        values = as_sequences(gradient.detach(), len(tokens.is_held), name)
        found = self.moments[name]
        found.gradients.add(*tokens.split(values), (*tokens.seed, _GRADIENTS))
        mask = tokens.mask_of(values)
        own = values if mask is None else values * mask[..., None]
        if self._is_row_alone:
            within = (read.within.square().sum(-1) * own.square().sum(-1)).sum(dtype=torch.float64)
            traces = float(within), 0.0, float(within)
        else:
            sums = own.sum(1)
            found.sums.add(sums[tokens.is_held], (*tokens.seed, _SUMS))
            found.sum_squares += squares(sums)
            traces = self._traces(read, own, sums)
        if not torch.isfinite(torch.tensor(traces)).all():
            raise NotFiniteError(f"the gradient of {name} is NaN or infinite; check the model's weights and its loss")
        found.within_trace += traces[0]
        found.means_trace += traces[1]
        found.fisher_trace += traces[2]

    def _traces(
        self, read: _Read, gradient: Float[Tensor, "samples tokens out_features"], sums: Float[Tensor, "samples out_features"]
    ) -> tuple[float, float, float]:
        """Over the part's samples: of the tokens' own share, of the means', and of both together."""
        within = self._within_trace(read, gradient)
        means = float((sums.square().sum(-1) * read.means.square().sum(-1)).sum(dtype=torch.float64))
        along = torch.einsum("sto,so->st", gradient, sums) * torch.einsum("sti,si->st", read.within, read.means)
        return within, means, within + means + 2.0 * float(along.sum(dtype=torch.float64))

    def _within_trace(self, read: _Read, gradient: Float[Tensor, "samples tokens out_features"]) -> float:
        """Σ over the part's samples of ‖Σ_t g_t x̃_tᵀ‖²."""
        _, num_tokens, in_features = read.within.shape
        sharing = sum(leader == read.leader for leader in self._leaders.values())
        if is_ghost_cheaper_alone(num_tokens, in_features, gradient.shape[-1], sharing):
            if read.leader not in self._token_grams:
                self._token_grams[read.leader] = token_gram(read.within)
            return float(ghost_norms(self._token_grams[read.leader], gradient).sum(dtype=torch.float64))
        return sum(squares(gradient[sample].t() @ read.within[sample]) for sample in range(len(gradient)))

    def _of_part(self) -> Tokens:
        if self._tokens is None:
            raise AssertionError("start comes before a forward pass")
        return self._tokens


def as_sequences(values: Tensor, num_samples: int, name: str) -> Float[Tensor, "samples tokens features"]:
    """View [samples, features], [samples · tokens, features] or [samples, …, features] as samples × tokens × features.

    Raises:
        UnsupportedModelError: the rows cannot be told apart by sample.
    """
    features = values.shape[-1]
    if values.numel() % (num_samples * features):
        raise UnsupportedModelError(
            f"layer {name} reads {tuple(values.shape)} in a batch of {num_samples} samples: its rows cannot be told apart by "
            "sample; such a model cannot be compressed"
        )
    return values.reshape(num_samples, -1, features)
