"""Models at exact published shapes with seeded random weights, and data of exact lengths, written once and reused.

    python benchmarks/shapes.py [NAME ...] [--root runs/benchmarks/shapes]      (no name: lists them)

NAME@N is a shape with N of its blocks: what one block and the largest tables take, in a fraction of the time.

Why random: speed and memory depend on shapes and dtypes alone, and no published weights are at hand. What a *profile* of such
a model says is meaningless, except as a check that nothing breaks. Every config holds the published numbers; the tensor names
are those of the published files as far as a fine-tuning loads them (GPT-2's have no `transformer.` prefix, as published).

Weights are drawn tensor by tensor into preallocated shards, so that no model is ever held in memory: names and shapes come from
the model on the meta device, each tensor from a generator of its own (seed and name), normal with the published standard
deviation, norms 1, biases 0, the padding row 0. Two shards at least, about 2 GB each at most. Tied weights are written once.

Dtype: as published, except Llama-2-7B, which is published in float16 and written in bfloat16: equally many bytes, and it is the
type that Llama-3 and Qwen publish and that a processor computes in without overflow.

Text: docstrings of the running Python's standard library, split into words and cut into exact lengths (`LENGTH` tokens with the
special ones); the tokenizer is a word-level one with the published number of entries and the published special tokens, its words
spread evenly over the ids, so that as many different embedding rows are read as with the real one. Images: seeded stripes with
noise, which are fine for timing and nothing else; the processor is the published one.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

from published_shapes import LENGTH, NUM_IMAGES, NUM_SAMPLES, SHAPES, Kind, Shape, shape_of

ROOT = Path("runs/benchmarks/shapes")
MAX_SHARD_BYTES = 2_000_000_000
CHUNK_ELEMENTS = 1 << 22
SEED = 0
INDEX_FILE, DONE_FILE = "model.safetensors.index.json", "shape.json"
DATA_FILES = {Kind.CLASSIFICATION: "data.jsonl", Kind.CAUSAL_LM: "data.txt", Kind.IMAGES: "data.npz"}
ELEMENT_BYTES = {"float32": 4, "bfloat16": 2}
SAFETENSORS_NAME = {"float32": "F32", "bfloat16": "BF16"}


@dataclass(frozen=True)
class Weight:
    """One tensor to be written: how it is drawn, not its values."""

    name: str
    shape: tuple[int, ...]
    num_bytes: int
    mean: float
    std: float
    zero_row: int | None = None


@dataclass
class Shard:
    """Tensors of one file."""

    weights: list[Weight] = field(default_factory=list)

    @property
    def num_bytes(self) -> int:
        return sum(weight.num_bytes for weight in self.weights)


def data_of(name: str, root: Path = ROOT) -> Path:
    """The data file of a shape."""
    return root / name / DATA_FILES[shape_of(name).kind]


def make(name: str, root: Path = ROOT) -> Path:
    """Write a shape's folder, or find it made; a folder appears only when it is whole.

    Raises:
        SystemExit: the disk has too little room.
    """
    shape, folder = shape_of(name), root / name
    if (folder / DONE_FILE).exists():
        return folder
    staged = root / f"{name}.partial"
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    try:
        _write_config(shape, staged)
        weights = _weights(shape)
        total = sum(weight.num_bytes for weight in weights)
        free = shutil.disk_usage(root).free
        if free < total * 1.02 + 1e9:
            raise SystemExit(
                f"shapes: {name} takes {total / 1e9:.1f} GB and 1 GB to spare, {free / 1e9:.1f} GB are free in {root}"
            )
        _write_weights(shape, weights, staged)
        if shape.kind is Kind.IMAGES:
            _write_processor(staged)
            _write_images(staged / "data.npz", num_classes=10)
        else:
            words = _write_tokenizer(shape, staged)
            _write_text(shape, staged, words)
        facts = {"name": name, "published": shape.published, "dtype": shape.dtype, "seed": SEED, "weight_bytes": total}
        (staged / DONE_FILE).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        staged.rename(folder)
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise
    return folder


def num_parameters(name: str) -> int:
    """Parameters of a shape, each tied one once."""
    shape = shape_of(name)
    return sum(weight.num_bytes for weight in _weights(shape)) // ELEMENT_BYTES[shape.dtype]


def _config(shape: Shape) -> Any:
    import transformers

    return getattr(transformers, shape.config_class)(**shape.settings, architectures=list(shape.architectures), dtype=shape.dtype)


def _write_config(shape: Shape, folder: Path) -> None:
    _config(shape).save_pretrained(folder)


def _weights(shape: Shape) -> list[Weight]:
    """Every tensor of a shape in the order of the tree, by its name in the file."""
    import torch
    import transformers

    config = _config(shape)
    with torch.device("meta"):
        model = getattr(transformers, shape.model_class)(config)
        model.tie_weights()
    std = config.initializer_range
    element_bytes = getattr(torch, shape.dtype).itemsize
    found, seen = [], set()
    for path, module in model.named_modules():
        is_norm = "norm" in type(module).__name__.lower()
        for own, parameter in module.named_parameters(recurse=False):
            if id(parameter) in seen:
                continue
            seen.add(id(parameter))
            name = f"{path}.{own}".lstrip(".")
            is_ones = is_norm and own == "weight"
            # GPT-2 draws what writes into the residual stream smaller, by its depth (Radford et al. 2019, section 2.3).
            scale = (2 * config.num_hidden_layers) ** -0.5 if shape.scales_residual and name.endswith("c_proj.weight") else 1.0
            found.append(
                Weight(
                    name=name,
                    shape=tuple(parameter.shape),
                    num_bytes=parameter.numel() * element_bytes,
                    mean=1.0 if is_ones else 0.0,
                    std=0.0 if is_ones or own == "bias" else std * scale,
                    zero_row=getattr(module, "padding_idx", None),
                )
            )
    return found


def _write_weights(shape: Shape, weights: list[Weight], folder: Path) -> None:
    """Deal the tensors to shards in their order, and write each shard and the index."""
    total = sum(weight.num_bytes for weight in weights)
    count = max(2, -(-total // MAX_SHARD_BYTES))
    shards = [Shard()]
    for weight in weights:
        if len(shards) < count and shards[-1].num_bytes + weight.num_bytes / 2 > total / count:
            shards.append(Shard())
        shards[-1].weights.append(weight)
    where: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_shard(shape.dtype, shard, folder / file)
        where |= {weight.name: file for weight in shard.weights}
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
    (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _write_shard(dtype: str, shard: Shard, path: Path) -> None:
    """Write header and data by the safetensors format; the room is claimed first, so that a full disk shows at once."""
    import torch

    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for weight in shard.weights:
        offsets = [end, end + weight.num_bytes]
        header[weight.name] = {"dtype": SAFETENSORS_NAME[dtype], "shape": list(weight.shape), "data_offsets": offsets}
        end += weight.num_bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 8 + len(text) + end)
        file.write(len(text).to_bytes(8, "little") + text)
        for weight in shard.weights:
            for chunk in _drawn(weight, getattr(torch, dtype)):
                file.write(memoryview(chunk.contiguous().view(torch.uint8).numpy()))
        file.flush()
        os.fsync(file.fileno())
        # Otherwise a timing after this would read what it just wrote from memory.
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _drawn(weight: Weight, dtype: torch.dtype) -> Any:
    """Yield the values of a tensor, some rows at a time, flat."""
    import hashlib

    import torch

    rows = weight.shape[0] if weight.shape else 1
    columns = weight.num_bytes // dtype.itemsize // rows
    digest = hashlib.sha256(f"{SEED} {weight.name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
    step = max(1, CHUNK_ELEMENTS // columns)
    for start in range(0, rows, step):
        count = min(step, rows - start)
        values = torch.full((count, columns), weight.mean)
        if weight.std:
            values.normal_(weight.mean, weight.std, generator=generator)
        if weight.zero_row is not None and start <= weight.zero_row < start + count:
            values[weight.zero_row - start] = 0.0
        yield values.to(dtype).flatten()


def _docstring_words() -> dict[int, list[str]]:
    """Words and punctuation of the standard library's docstrings, in order, by the part of the library (0 … 9)."""
    from layerlens.data.sources.stdlib_docs import read_stdlib_docs

    table = read_stdlib_docs()
    words: dict[int, list[str]] = {}
    for text, part in zip(table.columns["docstring"], table.columns["part"], strict=True):
        words.setdefault(part, []).extend(re.findall(r"\w+|[^\w\s]+", text))
    return words


def _write_tokenizer(shape: Shape, folder: Path) -> dict[int, list[str]]:
    """Write a word-level tokenizer of the published size; returns the words of the text."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    words = _docstring_words()
    size = int(shape.settings["vocab_size"])
    distinct = sorted({word for part in words.values() for word in part} - set(shape.special_ids))
    free = [number for number in range(size) if number not in set(shape.special_ids.values())]
    step = len(free) / len(distinct)
    token_of = {number: word for word, number in shape.special_ids.items()}
    token_of |= {free[int(place * step)]: word for place, word in enumerate(distinct[: len(free)])}
    vocabulary = {token_of.get(number, f"unused{number}"): number for number in range(size)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=shape.special_tokens["unk_token"]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if shape.kind is Kind.CLASSIFICATION:
        start, stop = shape.special_tokens["cls_token"], shape.special_tokens["sep_token"]
        tokenizer.post_processor = TemplateProcessing(
            single=f"{start} $A {stop}",
            pair=f"{start} $A {stop} $B:1 {stop}:1",
            special_tokens=[(token, shape.special_ids[token]) for token in (start, stop)],
        )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=shape.max_length, **shape.special_tokens
    ).save_pretrained(folder)
    return words


def _write_text(shape: Shape, folder: Path, words: dict[int, list[str]]) -> None:
    """Labelled samples of `LENGTH` tokens with the special ones, or one text of `NUM_SAMPLES` × `LENGTH` tokens."""
    if shape.kind is Kind.CAUSAL_LM:
        running = (word for part in sorted(words) for word in words[part])
        tokens = list(islice(running, NUM_SAMPLES * LENGTH))
        assert len(tokens) == NUM_SAMPLES * LENGTH, "the standard library has too few docstrings"
        (folder / "data.txt").write_text(" ".join(tokens), encoding="utf-8")
        return
    size = LENGTH - 2
    rows = [
        {"text": " ".join(words[part][start : start + size]), "label": f"part {part}"}
        for start in range(0, max(map(len, words.values())), size)
        for part in sorted(words)
        if start + size <= len(words[part])
    ]
    assert len(rows) >= NUM_SAMPLES, "the standard library has too few docstrings"
    lines = [json.dumps(row, ensure_ascii=False) for row in rows[:NUM_SAMPLES]]
    (folder / "data.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_processor(folder: Path) -> None:
    """The image processor of the published ViT checkpoints."""
    settings = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": 224, "width": 224},
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _write_images(path: Path, num_classes: int) -> None:
    """Stripes whose direction is the class, with noise: 64 × 64, enlarged by the processor."""
    import numpy as np

    rng = np.random.default_rng(SEED)
    labels = np.arange(NUM_IMAGES) % num_classes
    down, across = np.meshgrid(np.arange(64), np.arange(64), indexing="ij")
    angle = np.pi * labels[:, None, None] / num_classes
    phase = rng.uniform(0, 2 * np.pi, (NUM_IMAGES, 1, 1))
    stripes = np.sin(0.4 * (np.cos(angle) * down + np.sin(angle) * across) + phase)[..., None]
    images = 128 + 60 * stripes + rng.normal(0, 25, (NUM_IMAGES, 64, 64, 3))
    np.savez(path, x=np.clip(images, 0, 255).astype(np.uint8), y=labels.astype(np.int64))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SHAPES)}")
    parser.add_argument("--root", type=Path, default=ROOT)
    options = parser.parse_args()
    for name in options.names:
        shape_of(name)
    for name in options.names:
        print(make(name, options.root))
    if options.names:
        return
    table = Table(title=f"shapes in {options.root}")
    for column in ("name", "published as", "parameters", "dtype", "GB", "made"):
        table.add_column(column)
    for name, shape in SHAPES.items():
        count = num_parameters(name)
        size = count * ELEMENT_BYTES[shape.dtype] / 1e9
        is_made = (options.root / name / DONE_FILE).exists()
        table.add_row(name, shape.published, f"{count:,}", shape.dtype, f"{size:.2f}", "yes" if is_made else "no")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
