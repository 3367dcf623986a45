"""Tiny task models over every kind of quantised base, and the float models that these stand for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from layerlens.artifacts.compression import CompressedModelInfo, CompressionPlan, save_compression_plan
from layerlens.artifacts.plan import Chosen, Solver
from layerlens.config import BaseFormat
from layerlens.models.checkpoint import WEIGHTS_FILE, open_checkpoint
from layerlens.models.compressed_checkpoint import open_compressed_checkpoint
from layerlens.models.load import TaskModel, load_task_model
from layerlens.models.quantised_base import LIBRARIES
from layerlens.models.roles import describe_layers
from layerlens.words import TaskKind
from tests.tiny_models import save_tiny
from tests.unit.adapting.plans import info_of
from tests.unit.compressing.folders import compress

COMPRESSED = "compressed"
BASES = [BaseFormat.INT8_TORCHAO, BaseFormat.INT8_BNB, BaseFormat.INT4_BNB, COMPRESSED]
#: torchao quantises `nn.Linear` alone.
CASES = [(family, base) for family in ("bert", "llama", "gpt2") for base in BASES if (family, base) != ("gpt2", "int8-torchao")]


def need(base: str) -> None:
    """Skip a test whose base needs a library that is not installed."""
    if base in list(BaseFormat) and (library := LIBRARIES.get(BaseFormat(base))):
        pytest.importorskip(library, reason=f"{base} needs {library}")


def open_base(base: str, folder: Path, kind: TaskKind) -> TaskModel:
    """Load the model in `folder` over a base, compressing it first where that is the base."""
    need(base)
    source = open_checkpoint(str(folder))
    if base != COMPRESSED:
        return load_task_model(source, info_of(kind), seed=0, base_format=BaseFormat(base))
    compressed = compress_beside(folder)
    return load_task_model(open_compressed_checkpoint(compressed), info_of(kind), seed=0)


def compress_beside(folder: Path) -> Path:
    """Compress a model to `FOLDER-compressed`, with every format somewhere in it, and a plan that tells the original."""
    out, source = folder.with_name(f"{folder.name}-compressed"), open_checkpoint(str(folder))
    if not out.exists():
        written = compress(source, out).size_bytes
        model = CompressedModelInfo(
            id=source.id, hash=source.hash(), architecture="any", num_parameters=1, size_bytes=written, other_bytes=0
        )
        plan = CompressionPlan(
            model=model,
            task=info_of(TaskKind.CLASSIFICATION),
            budgets={},
            solver=Solver(status="made", value=0.0, bound=0.0, gap=0.0, uniform_value=None),
            chosen=Chosen(name="made", value=0.0),
            size_bytes=written,
            bits_per_weight=8.0 * written,
            layers=[],
        )
        save_compression_plan(out, plan)
    return out


def save_family(family: str, folder: Path) -> Path:
    """A tiny model whose layers are wide enough for every format, with biases that are not zero."""
    wide = {"hidden_size": 64, "intermediate_size": 128} if family != "gpt2" else {"n_embd": 64}
    weights = save_tiny(family, folder, **wide) / WEIGHTS_FILE
    generator = torch.Generator().manual_seed(1)
    tensors = load_file(weights)
    for name in sorted(tensors):
        if name.endswith(".bias"):
            tensors[name].normal_(0.0, 0.1, generator=generator)
    save_file(tensors, weights, metadata={"format": "pt"})
    return folder


def decoded(task_model: TaskModel, folder: Path, kind: TaskKind) -> TaskModel:
    """The float model that a quantised one stands for: each layer with the matrix that its own library decodes."""
    plain = load_task_model(open_checkpoint(str(folder)), info_of(kind), seed=0)
    plain.model.load_state_dict(_everything_else(task_model.model), strict=False)
    for spec in describe_layers(plain.model).layers:
        matrix = _matrix(task_model.model.get_submodule(spec.layer))
        weight = plain.model.get_submodule(spec.layer).get_parameter("weight")
        with torch.no_grad():
            weight.copy_(matrix.t() if spec.is_transposed else matrix)
    return plain


def _everything_else(model: nn.Module) -> dict[str, Tensor]:
    """Norms, biases and the head; and tables where they are stored otherwise."""
    state = {name: tensor for name, tensor in model.named_parameters() if type(tensor) is nn.Parameter}
    for path, module in model.named_modules():
        if hasattr(module, "num_embeddings") and not isinstance(module, nn.Embedding):
            state[f"{path}.weight"] = module.weight  # type: ignore[assignment]
    return {name: tensor.detach().float() for name, tensor in state.items()}


def _matrix(module: nn.Module) -> Tensor:
    """[out_features in_features]"""
    kind = type(module).__name__
    if kind == "Linear4bit":
        from bitsandbytes.functional import dequantize_4bit

        return dequantize_4bit(module.weight.data, module.weight.quant_state)  # type: ignore[union-attr,operator,arg-type]
    if kind == "Linear8bitLt":
        scales = module.weight.SCB if module.weight.SCB is not None else module.state.SCB  # type: ignore[union-attr]
        return module.weight.data.float() * scales.unsqueeze(1) / 127  # type: ignore[operator,union-attr]
    if kind == "RecomputedLinear":
        return module.weight.dequantize()  # type: ignore[operator,union-attr]
    weight = module.weight.detach().float()  # type: ignore[operator,union-attr]
    return weight.t() if isinstance(module, Conv1D) or getattr(module, "is_transposed", False) else weight
