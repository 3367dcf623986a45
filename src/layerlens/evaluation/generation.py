"""Generated text side by side, its speed at batch 1, and the memory that a model takes.

Greedy throughout. Speed: runs of both models take turns after a warm-up of each, and the medians count, so that a busy machine
slows both; tokens are generated to full number whatever they are.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, TypeVar

import torch
from jaxtyping import Int
from torch import Tensor, nn

from layerlens.artifacts.compression_evaluation import Change, Generated, Memory, Speed
from layerlens.evaluation.perplexity import device_of, to_device_of
from layerlens.models.foreign import quiet
from layerlens.models.frozen import frozen
from layerlens.streaming.memory_guard import MemoryGuard
from layerlens.streaming.process_memory import memory_told

ModelT = TypeVar("ModelT", bound=nn.Module)


def generate_side_by_side(
    original: nn.Module, compressed: nn.Module, tokenizer: Any, prompts: Sequence[str], *, new_tokens: int = 64
) -> list[Generated]:
    """Let both models go on with every prompt, greedily.

    Args:
        original: A causal language model with a `generate`.
        compressed: The other.
        tokenizer: Of both.
        prompts: Texts to go on with.
        new_tokens: Tokens at most.
    """
    found = []
    for prompt in prompts:
        ids = torch.tensor([tokenizer(prompt, return_attention_mask=False)["input_ids"]])
        before, after = (_generated(model, ids, new_tokens, least=0) for model in (original, compressed))
        same = next((step for step, (one, two) in enumerate(zip(before, after, strict=False)) if one != two), None)
        found.append(
            Generated(
                prompt=prompt,
                before=tokenizer.decode(before, skip_special_tokens=True),
                after=tokenizer.decode(after, skip_special_tokens=True),
                num_same=min(len(before), len(after)) if same is None else same,
                num_tokens=len(before),
            )
        )
    return found


def generation_speed(
    original: nn.Module,
    compressed: nn.Module,
    prompt: Int[Tensor, "1 tokens"],
    *,
    new_tokens: int = 32,
    repeats: int = 5,
    clock: Callable[[], float] = time.perf_counter,
) -> Speed:
    """Tokens per second of both models at batch 1, prompt included in the time.

    Args:
        original: A causal language model with a `generate`.
        compressed: The other.
        prompt: Tokens to start from.
        new_tokens: Tokens of a run.
        repeats: Runs of each model that count, after one that does not.
        clock: Seconds.
    """
    models = original, compressed
    seconds: tuple[list[float], list[float]] = ([], [])
    for run in range(repeats + 1):
        for model, taken in zip(models, seconds, strict=True):
            start = clock()
            _generated(model, prompt, new_tokens, least=new_tokens)
            elapsed = clock() - start
            if run:
                taken.append(elapsed)
    before, after = (new_tokens / statistics.median(taken) for taken in seconds)
    return Speed(
        tokens_per_second=Change(before=before, after=after),
        new_tokens=new_tokens,
        prompt_tokens=prompt.shape[1],
        repeats=repeats,
        types=[str(getattr(model, "dtype", torch.float32)).removeprefix("torch.") for model in models],
    )


def generate_once(model: nn.Module, prompt: Int[Tensor, "1 tokens"]) -> None:
    """Run a language model as far as generation does: over a prompt, then on a token alone."""
    _generated(model, prompt, 2, least=2)


def run_once(model: nn.Module, inputs: Mapping[str, Tensor]) -> None:
    """Run any model on one batch, in its own type of numbers."""
    dtype = getattr(model, "dtype", torch.float32)
    taken = {name: value.to(dtype) if value.is_floating_point() else value for name, value in inputs.items()}
    with frozen(model), torch.inference_mode():
        model(**to_device_of(model, taken))


def load_measured(load: Callable[[], ModelT], use: Callable[[ModelT], object]) -> tuple[ModelT, Memory]:
    """Load a model, run it once and measure what it holds.

    It has to run: weights of a mapped file come into memory where they are first used, and may take a kernel's form there.
    Memory that earlier work, the loading or the run freed is handed back to the system before each reading: the C library would
    lend it to the model, which would then seem to take nothing.

    Args:
        load: Loads it.
        use: Runs it.
    """
    before, file_before = _settled_resident_bytes()
    model = load()
    use(model)
    after, file_after = _settled_resident_bytes()
    return model, Memory(
        weight_bytes=weight_bytes(model),
        resident_before_bytes=before,
        resident_after_bytes=after,
        file_before_bytes=file_before if before else None,
        file_after_bytes=file_after if before else None,
    )


def weight_bytes(model: nn.Module) -> int:
    """Bytes of all parameters and buffers; memory that several share counts once."""
    stores = (tensor.untyped_storage() for tensor in chain(model.parameters(), model.buffers()))
    return sum({store.data_ptr(): store.nbytes() for store in stores}.values())


def resident_bytes() -> tuple[int, int]:
    """Resident set of this process now, and the pages of mapped files in it; 0 where the system does not tell."""
    told = memory_told()
    return told.get("VmRSS", 0), told.get("RssFile", 0)


def _settled_resident_bytes() -> tuple[int, int]:
    gc.collect()
    MemoryGuard.trim()
    return resident_bytes()


def _generated(model: Any, ids: Int[Tensor, "1 tokens"], new_tokens: int, *, least: int) -> list[int]:
    """New tokens, an end-of-text token included."""
    ids = ids.to(device_of(model))
    config = model.generation_config
    pad = config.pad_token_id if config.pad_token_id is not None else 0
    was_training = model.training
    model.eval()
    try:
        with quiet(), torch.inference_mode():
            output: Tensor = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                num_beams=1,
                max_new_tokens=new_tokens,
                min_new_tokens=least,
                pad_token_id=pad,
            )
    finally:
        model.train(was_training)
    return output[0, ids.shape[1] :].tolist()
