"""Memory and time of training LoRA over a base in its own numbers, in 8 and 4 bits by a library, and compressed by LayerLens.

    python benchmarks/quantised_base_memory.py [--hidden 1024 --blocks 8 --length 128 --batch-size 4 --rank 8 --steps 3]
                                               [--precision fp32] [--trim] [--bases as-is,int8-torchao,…] [--out FILE.json]

A Llama of seeded random weights (what is learnt says nothing, what it takes does), LoRA on every layer, each base in a process
of its own, one after the other. "base" is what the base's tensors take, "training" the highest resident set during the steps less
that of the process before it loaded the model: weights, adapters, optimiser, activations, and the library that holds the base.
Loading is not part of it. Over a base in few bits the process gives freed memory back at once, as `layerlens tune` does then;
over the model as it is only with --trim. "compressed" is an int4 folder, groups of 64, round-to-nearest. MB are powers of ten.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from rich.console import Console
from rich.table import Table
from transformers import LlamaConfig, LlamaForCausalLM

from layerlens.adapting.attach import attached
from layerlens.adapting.dropout import rest_
from layerlens.adapting.memory import peak_memory
from layerlens.adapting.optimizer import build_optimizer
from layerlens.adapting.precision import autocast
from layerlens.artifacts.compression import CompressedModelInfo, CompressionPlan, save_compression_plan
from layerlens.artifacts.formats import integer
from layerlens.artifacts.options import trainable_params
from layerlens.artifacts.plan import Chosen, Plan, PlanLayer, PlanMetadata, Solver
from layerlens.artifacts.profile import TaskInfo
from layerlens.compressing.stored_matrix import stored
from layerlens.compressing.write_folder import ChosenMatrix, write_folder
from layerlens.config import BaseFormat, Precision, TrainingConfig
from layerlens.linalg.nearest_rounding import round_to_nearest
from layerlens.models.checkpoint import Checkpoint, open_checkpoint
from layerlens.models.compressed_checkpoint import open_base_checkpoint
from layerlens.models.head import describe_model
from layerlens.models.load import TaskModel, load_task_model
from layerlens.models.quantised_base import plain_tensors
from layerlens.models.roles import describe_layers
from layerlens.models.streamed.tensor_reader import TensorReader
from layerlens.streaming.memory_guard import MemoryGuard
from layerlens.streaming.process_memory import memory_told
from layerlens.words import Method, TaskKind

COMPRESSED = "compressed"
BASES = [*BaseFormat, COMPRESSED]
TASK = TaskInfo(kind=TaskKind.CAUSAL_LM)
VOCABULARY = 4096


def make_model(folder: Path, options: argparse.Namespace) -> None:
    """Write the model and its compressed folder."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=options.hidden,
        intermediate_size=options.hidden * 11 // 4,
        num_hidden_layers=options.blocks,
        num_attention_heads=options.hidden // 64,
        vocab_size=VOCABULARY,
        tie_word_embeddings=True,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    source = open_checkpoint(str(folder / "model"))
    scheme = integer(4, 64)
    chosen = [
        ChosenMatrix(name, name, scheme, *header.shape)
        for name, header in source.tensors.items()
        if len(header.shape) == 2 and "layers" in name
    ]
    reader = TensorReader(source.tensors)
    matrices = (
        (matrix.layer, stored(scheme, codes=round_to_nearest(reader.read(matrix.tensor).float(), 4, 64))) for matrix in chosen
    )
    written = write_folder(folder / COMPRESSED, source, chosen, matrices)
    save_compression_plan(folder / COMPRESSED, compression_plan(source, written))


def compression_plan(source: Checkpoint, written: int) -> CompressionPlan:
    """As much of a plan as tells a folder's original."""
    model = CompressedModelInfo(
        id=source.id, hash=source.hash(), architecture="LlamaForCausalLM", num_parameters=1, size_bytes=1, other_bytes=0
    )
    return CompressionPlan(
        model=model,
        task=TASK,
        budgets={},
        solver=Solver(status="made", value=0.0, bound=0.0, gap=0.0, uniform_value=None),
        chosen=Chosen(name="int4", value=0.0),
        size_bytes=written,
        bits_per_weight=8.0 * written,
        layers=[],
    )


def plan_of(task_model: TaskModel, rank: int) -> Plan:
    """One rank in every layer."""
    layout = describe_layers(task_model.model)
    layers = [
        PlanLayer(
            layer=spec.layer,
            block=spec.block,
            role=spec.role,
            method=Method.LORA,
            size=rank,
            utility=0.5,
            value=0.0,
            params=trainable_params(Method.LORA, rank, in_features=spec.in_features, out_features=spec.out_features),
            flops=0.0,
            vram_bytes=0.0,
            latency_ms=0.0,
            why="one rank everywhere",
            in_features=spec.in_features,
            out_features=spec.out_features,
        )
        for spec in layout.layers
    ]
    metadata = PlanMetadata(
        gradient_norms={},
        fisher_traces={},
        command="benchmark",
        versions={},
        seed=0,
        profile="none",
        profile_identity="none",
        optimization={},
    )
    return Plan(
        model=describe_model(task_model, layout),
        task=TASK,
        budgets={},
        solver=Solver(status="made", value=0.0, bound=0.0, gap=0.0, uniform_value=None),
        chosen=Chosen(name="uniform", value=0.0),
        layers=layers,
        head=layout.head,
        head_params=0,
        metadata=metadata,
    )


def measured(base: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Train a few steps over one base in this process."""
    torch.set_num_threads(1)
    device, precision = torch.device("cpu"), Precision(options.precision)
    before = resident_bytes()
    checkpoint = open_base_checkpoint(str(folder / (COMPRESSED if base == COMPRESSED else "model")))
    base_format = BaseFormat.AS_IS if base == COMPRESSED else BaseFormat(base)
    task_model = load_task_model(checkpoint, TASK, seed=0, base_format=base_format)
    model = task_model.model
    if task_model.is_quantised or options.trim:
        # As `layerlens tune` does.
        MemoryGuard.return_large()
        MemoryGuard.trim()
    base_bytes = sum(tensor.nbytes for _, tensor in plain_tensors(dict(model.state_dict())))
    tokens = torch.randint(0, VOCABULARY, (options.batch_size, options.length), generator=torch.Generator().manual_seed(1))
    gc.collect()
    with attached(model, plan_of(task_model, options.rank), seed=0) as adapted:
        adapted.train()
        rest_(adapted)
        optimizer = build_optimizer(adapted, TrainingConfig(learning_rate=1e-4))
        losses, seconds = [], []
        with peak_memory(device) as peak:
            for _ in range(options.steps):
                start = time.process_time()
                with autocast(precision, device):
                    loss = adapted(input_ids=tokens, labels=tokens).loss
                loss.backward()
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                losses.append(loss.item())
                seconds.append(time.process_time() - start)
    return {
        "base_bytes": base_bytes,
        "training_bytes": peak.num_bytes - before,
        "step_seconds": min(seconds),
        "first_loss": losses[0],
        "last_loss": losses[-1],
    }


def resident_bytes() -> int:
    """What the process has in memory now."""
    return memory_told().get("VmRSS", 0)


def show(rows: dict[str, dict[str, Any]], options: argparse.Namespace) -> None:
    """Print every base against the model as it is."""
    title = (
        f"LoRA of rank {options.rank} on every layer of a Llama {options.hidden} × {options.blocks}, {options.batch_size} × "
        f"{options.length} tokens, {options.precision}"
    )
    table = Table(title=title)
    table.add_column("base")
    for column in ("base MB", "training MB", "÷ as-is", "processor s/step", "loss 1st", "loss last"):
        table.add_column(column, justify="right")
    reference = rows.get(BaseFormat.AS_IS, {}).get("training_bytes")
    for base, row in rows.items():
        share = f"{row['training_bytes'] / reference:.2f}" if reference else ""
        cells = [f"{row['base_bytes'] / 1e6:.0f}", f"{row['training_bytes'] / 1e6:.0f}", share, f"{row['step_seconds']:.2f}"]
        table.add_row(base, *cells, f"{row['first_loss']:.3f}", f"{row['last_loss']:.3f}")
    Console(width=120).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"hidden": 1024, "blocks": 8, "length": 128, "batch-size": 4, "rank": 8, "steps": 3}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--trim", action="store_true", help="give freed memory back at once over the model as it is, too")
    parser.add_argument("--bases", default=",".join(BASES), help=f"comma-separated, of: {', '.join(BASES)}")
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--only", nargs=2, metavar=("BASE", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        base, folder = options.only
        print(json.dumps(measured(base, Path(folder), options)))
        return
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        make_model(Path(folder), options)
        for base in options.bases.split(","):
            command = [sys.executable, __file__, *sys.argv[1:], "--only", base, folder]
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
            rows[base] = json.loads(done.stdout.splitlines()[-1])
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    show(rows, options)


if __name__ == "__main__":
    main()
