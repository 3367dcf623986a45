"""Batch-1 generation from compressed folders against dense bfloat16, and the memory that their weights take against the plan.

    python benchmarks/generation_speed.py [--formats all | int8,int4,lr256x8,…] [--shape small | large] [--tokens 32]
                                          [--repeats 5] [--threads 1] [--out runs/benchmarks/generation_speed-SHAPE.json]
    python benchmarks/generation_speed.py --show          (prints the table of what is measured)

The model has Llama's shape with weights drawn from a seed, for speed and memory depend on shapes and types alone: `small` has
10 blocks of width 1,024 (MLP 2,816, 16 heads, 8 key/value heads, vocabulary 32,000, tied embeddings; 151 M parameters), `large`
22 of width 2,048 (MLP 5,632, 32 heads, 4 key/value heads, two word tables; 1.1 B). Every matrix of a folder has the same format,
written by the code that `layerlens compress` writes with; where that is low-rank, the embedding has codes of its factors' width,
and factors are drawn too. Rows are processes of their own: the folder is loaded by `from_pretrained`, generates greedily, then
takes turns with the dense model, so that a busy machine slows both. Medians over the runs, prompt of 16 tokens included.

"plan" is what a plan counts, the bytes of the folder's tensors; "weights" the bytes of all parameters and buffers after
generation, when they have the form that the kernels want. "resident" says how much larger the process became by loading and
generating (the dense model is loaded later), and is what memory is judged by: memory of its own, with what of caches and of the
allocator's stays behind, and pages of the mapped folder ("of files"), which the system can take back. Bytes in MB of a million.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from layerlens.artifacts.formats import Format, Scheme, integer, integer_low_rank, low_rank, size_bytes

FOLDER = Path("runs/benchmarks/generation_speed")
GROUP_SIZE = 64
FORMATS: dict[str, Scheme] = {
    scheme.name: scheme
    for scheme in (
        *(integer(bits, GROUP_SIZE) for bits in (8, 7, 6, 5, 4, 3, 2)),
        *(low_rank(256, bits, GROUP_SIZE) for bits in (16, 8, 4)),
        *(integer_low_rank(bits, 32, 8, GROUP_SIZE) for bits in (4, 3, 2)),
    )
}
#: Formats that a kernel takes as they are held (bfloat16 factors have torch's own): here a speed is promised. Codes of other
#: widths become half bytes for each product first.
AS_HELD = {"lr256x16", "int8", "int4", "lr256x8", "lr256x4", "int4+lr32x8"}
PROMPT_TOKENS = 16
SHAPES: dict[str, dict[str, Any]] = {
    "small": {
        "hidden_size": 1024,
        "intermediate_size": 2816,
        "num_hidden_layers": 10,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "tie_word_embeddings": True,
    },
    "large": {
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 22,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "tie_word_embeddings": False,
    },
}
SPEED_REACH, SPEED_GOAL = 1.0, 1.5
MEMORY_REACH, MEMORY_GOAL = 0.10, 0.02


def dense_folder(shape: str) -> Path:
    """The dense model, written once."""
    import torch
    import transformers

    folder = FOLDER / shape / "dense"
    if (folder / "config.json").exists():
        return folder
    config = transformers.LlamaConfig(
        **SHAPES[shape], vocab_size=32_000, max_position_embeddings=1024, pad_token_id=0, dtype="bfloat16"
    )
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


def written(shape: str, name: str) -> tuple[Path, int]:
    """Write the folder of a format anew; returns it with the plan's bytes."""
    from layerlens.artifacts.profile import TaskInfo
    from layerlens.compressing.matrices import checkpoint_size, matrices_of, read_matrix
    from layerlens.compressing.write_folder import ChosenMatrix, write_folder
    from layerlens.models.checkpoint import open_checkpoint
    from layerlens.models.streamed.load import load_streamed_model
    from layerlens.words import Role, TaskKind

    checkpoint = open_checkpoint(str(dense_folder(shape)))
    model = load_streamed_model(checkpoint, TaskInfo(kind=TaskKind.CAUSAL_LM), seed=0)
    matrices = matrices_of(model)
    chosen = [
        ChosenMatrix(
            layer=matrix.layer,
            tensor=matrix.tensor,
            scheme=_embedding_scheme(FORMATS[name]) if matrix.role is Role.EMBEDDING else FORMATS[name],
            out_features=matrix.out_features,
            in_features=matrix.in_features,
            copies=matrix.copies,
        )
        for matrix in matrices
    ]
    planned = checkpoint_size(model, matrices).other_bytes
    planned += sum(size_bytes(each.scheme, each.out_features, each.in_features, 2) for each in chosen)

    def tensors() -> Iterator[tuple[str, dict[str, Any]]]:
        for each, matrix in zip(chosen, matrices, strict=True):
            yield each.layer, _stored(each.scheme, read_matrix(model, matrix).float())

    folder = FOLDER / shape / name
    shutil.rmtree(folder, ignore_errors=True)
    assert write_folder(folder, checkpoint, chosen, tensors()) == planned
    model.state.reader.close()
    return folder, planned


def _embedding_scheme(scheme: Scheme) -> Scheme:
    if scheme.format is Format.LOW_RANK:
        return integer(scheme.factor_bits, GROUP_SIZE) if scheme.factor_bits < 16 else Scheme(format=Format.KEEP)
    return scheme if scheme.format is Format.INTEGER else integer(scheme.bits, GROUP_SIZE)


def _stored(scheme: Scheme, weight: Any) -> dict[str, Any]:
    """A matrix in a format; factors are drawn, of about the matrix's own size."""
    import torch

    from layerlens.compressing.stored_matrix import stored
    from layerlens.linalg.nearest_rounding import round_to_nearest

    tensors: dict[str, Any] = {}
    if not scheme.format.has_codes and not scheme.format.has_factors:
        return stored(scheme, weight=weight.bfloat16())
    if scheme.format.has_codes:
        codes = round_to_nearest(weight, scheme.bits, scheme.group_size)
        tensors |= stored(integer(scheme.bits, scheme.group_size), codes=codes)
    if scheme.format.has_factors:
        size = float(weight.std()) ** 0.5 / scheme.rank**0.25
        up, down = (size * torch.randn(scheme.rank, side) for side in weight.shape)
        tensors |= stored(low_rank(scheme.rank, scheme.factor_bits, scheme.group_size), up=up, down=down)
    return tensors


def measured_row(shape: str, name: str, tokens: int, repeats: int, threads: int) -> dict[str, Any]:
    """One format; runs in a process of its own."""
    import torch
    import transformers

    import layerlens  # noqa: F401  (transformers knows the format by it)
    from layerlens.evaluation.generation import generate_once, generation_speed, load_measured, weight_bytes

    torch.set_num_threads(threads)
    transformers.logging.set_verbosity_error()
    prompt = torch.randint(0, 32_000, (1, PROMPT_TOKENS), generator=torch.Generator().manual_seed(0))
    load = transformers.AutoModelForCausalLM.from_pretrained
    generate_once(_tiny_loaded(), prompt)
    model, memory = load_measured(
        lambda: load(FOLDER / shape / name, local_files_only=True).eval(), lambda model: generate_once(model, prompt)
    )
    of_files = (memory.file_after_bytes or 0) - (memory.file_before_bytes or 0)
    dense = load(FOLDER / shape / "dense", dtype=torch.bfloat16, local_files_only=True).eval()
    speed = generation_speed(
        dense,
        model,
        prompt,
        new_tokens=tokens,
        repeats=repeats,
    )
    return {
        "used_bytes": memory.weight_bytes,
        "anonymous_growth_bytes": memory.resident_after_bytes - memory.resident_before_bytes - of_files,
        "file_growth_bytes": of_files,
        "dense_bytes": weight_bytes(dense),
        "dense_tokens_per_second": speed.tokens_per_second.before,
        "tokens_per_second": speed.tokens_per_second.after,
        "new_tokens": speed.new_tokens,
        "repeats": speed.repeats,
        "types": speed.types,
        "threads": threads,
        "load_average": os.getloadavg()[0],
    }


def _tiny_loaded() -> Any:
    """A model of no size from a folder: code and tables that libraries make on first use (transformers' names of tensors of all
    families are 1.5 MB) are not to be counted as somebody's weights."""
    import tempfile

    import torch
    import transformers

    config = transformers.LlamaConfig(
        hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2, vocab_size=32_000
    )
    with tempfile.TemporaryDirectory() as folder:
        transformers.LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
        return transformers.AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()


def show(results: dict[str, Any]) -> None:
    """One row a format."""
    any_row = next(iter(results.values()))
    title = f"dense bfloat16: {any_row['dense_bytes'] / 1e6:.1f} MB; batch 1, {any_row['threads']} thread(s)"
    table = Table(title=title)
    columns = (
        "format",
        "plan MB",
        "weights ÷ plan",
        "resident MB",
        "of files",
        "÷ plan",
        "dense tokens/s",
        "tokens/s",
        "×",
        "tokens",
    )
    for column in columns:
        table.add_column(column, justify="left" if column == "format" else "right")
    table.add_column(f"× {SPEED_REACH:g} / {SPEED_GOAL:g}")
    table.add_column(f"memory {MEMORY_REACH:.0%} / {MEMORY_GOAL:.0%}")
    for name in (name for name in FORMATS if name in results):
        row = results[name]
        ratio = row["tokens_per_second"] / row["dense_tokens_per_second"]
        resident = row["anonymous_growth_bytes"] + row["file_growth_bytes"]
        over = resident / row["plan_bytes"] - 1
        speed = ("goal" if ratio >= SPEED_GOAL else "yes" if ratio >= SPEED_REACH else "NO") if name in AS_HELD else "unpacked"
        table.add_row(
            name,
            f"{row['plan_bytes'] / 1e6:.1f}",
            f"{row['used_bytes'] / row['plan_bytes']:.3f}",
            f"{resident / 1e6:.1f}",
            f"{row['file_growth_bytes'] / 1e6:.1f}",
            f"{1 + over:.3f}",
            f"{row['dense_tokens_per_second']:.1f}",
            f"{row['tokens_per_second']:.1f}",
            f"{ratio:.2f}",
            str(row["new_tokens"]),
            speed,
            "goal" if abs(over) <= MEMORY_GOAL else "yes" if abs(over) <= MEMORY_REACH else "NO",
        )
    Console(width=150).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--formats", default="all", help=", ".join(FORMATS))
    parser.add_argument("--shape", choices=list(SHAPES), default="small")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--row", help=argparse.SUPPRESS)
    parser.add_argument("--show", action="store_true", help="only print what is measured")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    out = options.out or Path(f"runs/benchmarks/generation_speed-{options.shape}.json")
    if options.row:
        print(json.dumps(measured_row(options.shape, options.row, options.tokens, options.repeats, options.threads)))
        return
    results: dict[str, Any] = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    names = [] if options.show else list(FORMATS) if options.formats == "all" else options.formats.split(",")
    for name in names:
        folder, planned = written(options.shape, name)
        command = [sys.executable, __file__, "--row", name, "--tokens", str(options.tokens), "--repeats", str(options.repeats)]
        command += ["--threads", str(options.threads), "--shape", options.shape]
        environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
        told = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
        results[name] = {"plan_bytes": planned, **json.loads(told.splitlines()[-1])}
        shutil.rmtree(folder)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        print(f"{name}: done", file=sys.stderr)
    show(results)


if __name__ == "__main__":
    main()
