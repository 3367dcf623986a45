"""What layers read and give back, told apart by sample."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from layerlens.errors import UnsupportedModelError


def as_sequences(values: Tensor, num_samples: int, name: str) -> Float[Tensor, "samples tokens features"]:
    """View [samples, features], [samples · tokens, features] or [samples, …, features] as samples × tokens × features.

    Args:
        values: What a layer reads, or the gradient at what it gives.
        num_samples: Samples of the batch.
        name: The layer, for the message.

    Raises:
        UnsupportedModelError: the rows cannot be told apart by sample.
    """
    features = values.shape[-1]
    # Positions that all samples share, as DeBERTa's, are [1, positions, features], of a number that may divide by the samples.
    if values.numel() % (num_samples * features) or (values.ndim > 2 and len(values) % num_samples):
        raise UnsupportedModelError(
            f"layer {name} reads {tuple(values.shape)} in a batch of {num_samples} samples: its rows cannot be told apart by "
            "sample; such a model can be neither profiled nor compressed"
        )
    return values.reshape(num_samples, -1, features)


def refuse_tokens_first(values: Tensor, num_samples: int, name: str) -> None:
    """Raise where text comes as [tokens, samples, features], as Longformer's does.

    Where its tokens divide by its samples, `as_sequences` would take it for windows of samples.

    Args:
        values: What a layer reads.
        num_samples: Samples of the batch, of text.
        name: The layer, for the message.

    Raises:
        UnsupportedModelError: tokens come first.
    """
    if values.ndim == 3 and len(values) != num_samples == values.shape[1] > 1:
        raise UnsupportedModelError(
            f"layer {name} reads {tuple(values.shape)} in a batch of {num_samples} samples, tokens first; such a model can be "
            "neither profiled nor compressed"
        )
