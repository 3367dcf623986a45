"""A training step of LoRA under each way to compute attention in bfloat16 on a processor: processor seconds, and what is kept.

    python benchmarks/attention.py [--shapes minilm,bert-base,llama,deit-tiny] [--repeats 7]

fused     torch's fused kernel, its own choice without dropout
float32   plain products; torch makes them in float32, as it does by itself where there is dropout
bfloat16  plain products in bfloat16: what `models/plain_attention.py` asks for up to 256 tokens

Seeded random weights of each shape (blocks left out where that changes nothing but the time), LoRA of rank 4 in every layer of
the blocks, bfloat16 autocast, one thread; the three take turns, medians. Seconds are of the process, so other work changes them
little. Kept are the bytes of what autograd saves between the forward and the backward pass, each storage once; error is that of
the logits against float32, relative, in the Frobenius norm. Writes runs/benchmarks/attention.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    ViTConfig,
    ViTForImageClassification,
)


@dataclass(frozen=True)
class Shape:
    """A model and the batches that it trains on: samples by tokens; images have the tokens that they have."""

    make: Callable[[], nn.Module]
    batches: tuple[tuple[int, int], ...]
    is_image: bool = False


SHAPES = {
    "minilm": Shape(
        lambda: BertForSequenceClassification(
            BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
        ),
        ((16, 16), (16, 32), (16, 64), (16, 128), (8, 192), (8, 256), (4, 384)),
    ),
    "bert-base": Shape(
        lambda: BertForSequenceClassification(BertConfig(num_hidden_layers=4)), ((16, 64), (16, 128), (8, 192), (8, 256))
    ),
    "llama": Shape(
        lambda: LlamaForCausalLM(
            LlamaConfig(hidden_size=256, num_hidden_layers=8, num_attention_heads=8, intermediate_size=688, vocab_size=4096)
        ),
        ((8, 64), (8, 128), (4, 192), (4, 256)),
    ),
    "deit-tiny": Shape(
        lambda: ViTForImageClassification(ViTConfig(hidden_size=192, num_attention_heads=3, intermediate_size=768)),
        ((8, 197),),
        is_image=True,
    ),
}


@contextmanager
def products(*, reduced: bool) -> Iterator[None]:
    """Plain products, in bfloat16 or in float32."""
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(reduced)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(False)


WAYS: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "fused": nullcontext,
    "float32": lambda: products(reduced=False),
    "bfloat16": lambda: products(reduced=True),
}


def batch_of(shape: Shape, samples: int, tokens: int) -> dict[str, Tensor]:
    """Seeded; one sample of text is padded, so that the model takes a mask."""
    torch.manual_seed(0)
    if shape.is_image:
        return {"pixel_values": torch.randn(samples, 3, 224, 224)}
    mask = torch.ones(samples, tokens, dtype=torch.long)
    mask[0, -3:] = 0
    return {"input_ids": torch.randint(5, 200, (samples, tokens)), "attention_mask": mask}


def step(model: nn.Module, batch: dict[str, Tensor], way: str) -> tuple[float, int, Tensor]:
    """Seconds, bytes kept and logits of a forward and a backward pass."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    start = time.process_time()
    with (
        torch.autocast("cpu", torch.bfloat16),
        WAYS[way](),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        logits = model(**batch).logits
    logits.float().logsumexp(-1).mean().backward()
    return time.process_time() - start, sum(kept.values()), logits.detach().float()


def measured(model: nn.Module, batch: dict[str, Tensor], repeats: int) -> dict[str, dict[str, float]]:
    """Every way of one batch, taking turns after two that warm up."""
    with torch.no_grad():
        truth = model(**batch).logits
    seconds: dict[str, list[float]] = defaultdict(list)
    found: dict[str, dict[str, float]] = {}
    for turn in range(repeats + 2):
        for way in WAYS:
            spent, kept, logits = step(model, batch, way)
            if turn > 1:
                seconds[way].append(spent)
            found[way] = {"kept_bytes": kept, "error": float((logits - truth).norm() / truth.norm())}
    return {way: {"seconds": statistics.median(seconds[way]), **figures} for way, figures in found.items()}


def show(results: dict[str, Any]) -> None:
    """Print every way beside the fused kernel."""
    table = Table(title="a training step, processor seconds (÷ fused), MiB kept (÷ fused), error of the logits")
    for column in ("shape", "samples × tokens", *WAYS):
        table.add_column(column, justify="left" if column == "shape" else "right")
    for name, batches in results.items():
        for size, ways in batches.items():
            fused = ways["fused"]
            cells = [
                f"{way['seconds']:.3f} ({way['seconds'] / fused['seconds']:.2f})  {way['kept_bytes'] / 2**20:,.0f} "
                f"({way['kept_bytes'] / fused['kept_bytes']:.2f})  {way['error']:.4f}"
                for way in ways.values()
            ]
            table.add_row(name, size, *cells)
    Console(width=150).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default=",".join(SHAPES))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/attention.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, Any] = {}
    for name in options.shapes.split(","):
        shape = SHAPES[name]
        torch.manual_seed(0)
        model = get_peft_model(shape.make(), LoraConfig(r=4, target_modules="all-linear")).eval()
        model.config.use_cache = False
        results[name] = {
            f"{samples} × {tokens}": measured(model, batch_of(shape, samples, tokens), options.repeats)
            for samples, tokens in shape.batches
        }
    show(results)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
