"""What a loaded model must be before it is measured.

Its body comes from the checkpoint, all of it is finite, it is blind to what it should predict, and it runs on a text alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from layerlens.artifacts.profile import TaskInfo
from layerlens.errors import CheckpointError, UnsupportedModelError, few
from layerlens.models.checkpoint import Checkpoint
from layerlens.models.foreign import one_line
from layerlens.models.tree import find_head, is_under
from layerlens.words import TaskKind


def check_body(checkpoint: Checkpoint, task: TaskInfo, model: PreTrainedModel, report: dict[str, Any]) -> None:
    """Raise unless every random parameter belongs to the head or the pooler.

    Args:
        checkpoint: Named in the error.
        task: What the model was loaded for.
        model: As it was loaded.
        report: What transformers found missing, unexpected or of another shape.
    """
    head = find_head(model)
    parameters = {name for name, _ in model.named_parameters()}
    missing = sorted(name for name in report["missing_keys"] if name in parameters and not is_under(name, head))
    other = sorted((name, tuple(got), tuple(need)) for name, got, need in report["mismatched_keys"] if not is_under(name, head))
    faults = []
    if missing:
        hint = ""
        if task.kind is TaskKind.CAUSAL_LM and len(missing) <= 8:
            hint = ", perhaps because it was not trained as a language model"
        faults.append(f"{checkpoint.folder} lacks weights of {type(model).__name__}: {few(missing)}{hint}")
    if other:
        shown = [f"{name} is {list(got)}, needed {list(need)}" for name, got, need in other]
        faults.append(f"{checkpoint.folder} has weights of other shapes than its config.json asks for: {few(shown)}")
    if faults:
        raise CheckpointError.of(
            [*faults, "left so, they would be random numbers: use a whole checkpoint with its own config.json"]
        )


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
