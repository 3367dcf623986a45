"""What a loaded model must be before it is measured: finite, blind to what it should predict, able to run on a text alone."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from layerlens.errors import CheckpointError, UnsupportedModelError
from layerlens.models.checkpoint import Checkpoint
from layerlens.models.foreign import one_line


def check_finite(checkpoint: Checkpoint, tensors: Mapping[str, Tensor]) -> None:
    """Raise if a tensor holds NaN or an infinity."""
    bad = []
    for name, tensor in tensors.items():
        # Minimum and maximum carry NaN and infinities along and need no copy of the tensor.
        if tensor.is_floating_point() and tensor.numel() and not all(torch.isfinite(end) for end in torch.aminmax(tensor)):
            bad.append(name)
    if bad:
        raise CheckpointError(f"{checkpoint.folder} holds NaN or infinite weights in {few(bad)}; use an undamaged checkpoint")


def causal_probe() -> dict[str, Tensor]:
    """Inputs of two samples that differ in their later tokens only."""
    tokens = torch.tensor([[0, 0, 0], [0, 1, 2]])
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}


def check_decoder(checkpoint: Checkpoint, model: PreTrainedModel) -> None:
    """Raise if a language model sees the tokens that it should predict; it is probed on the device that it is on."""
    tokens = {name: values.to(model.device) for name, values in causal_probe().items()}
    with torch.no_grad():
        check_causal(checkpoint, model, model(**tokens).logits)


def check_causal(checkpoint: Checkpoint, model: nn.Module, output: Tensor) -> None:
    """Raise if a later token changed an earlier one's output: an encoder loads as a language model all the same.

    Args:
        checkpoint: Named in the error.
        model: The model, for its class.
        output: What the model, or its first block, makes of `causal_probe`, [2, tokens, features].
    """
    first, second = output[:, 0].float()
    # Rows of one batch differ by rounding alone; a token that is seen moves the output by far more.
    tolerance = 64 * torch.finfo(output.dtype).eps
    if float((first - second).abs().max()) > tolerance * float(first.abs().max()):
        raise UnsupportedModelError(
            f"{checkpoint.folder} ({type(model).__name__}) sees the tokens it should predict: it is an encoder, no causal "
            "language model; give a decoder, or another task"
        )


def check_embedder(checkpoint: Checkpoint, model: PreTrainedModel) -> None:
    """Raise if a model gives no hidden states for a text alone: a T5's decoder wants a beginning of its own."""
    if not model.config.is_encoder_decoder:
        return
    try:
        with torch.no_grad():
            model(**{name: values.to(model.device) for name, values in causal_probe().items()})
    except ValueError as error:
        raise UnsupportedModelError(
            f"{checkpoint.folder} ({type(model).__name__}) does not run on a text alone ({one_line(error)}), so it has no "
            "embedding of it; give an encoder, or another task"
        ) from error


def few(names: list[str]) -> str:
    """Name three and count the rest."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
