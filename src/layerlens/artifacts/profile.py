"""`profile/`: what was measured of each layer, and what it was measured on.

`profile.json` is this schema; `profile.safetensors` holds `spectrum/<layer>` (singular values of W, descending) and
`gain/<layer>` (cross-fitted cumulative gain in nats at rank 1 … R, non-decreasing and concave); `timing.json` is
`Timing`, outside the profile's identity, because seconds differ between two runs of the same thing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, model_validator

from layerlens.artifacts.layers import BlockSpec, LayerSpec, ModelInfo
from layerlens.artifacts.store import read_arrays, read_json, sha256_of_json, write_arrays, write_json
from layerlens.errors import ManifestError
from layerlens.words import SCHEMA_VERSION, Frozen, Method, TaskKind

PROFILE_FILE, ARRAYS_FILE, TIMING_FILE = "profile.json", "profile.safetensors", "timing.json"

METRICS = ("gradient_energy", "fisher", "proxy_eval")


class TaskInfo(Frozen):
    """The task a model is adapted to; enough to build its head again."""

    kind: TaskKind
    num_labels: int = Field(default=0, ge=0, description="classes; 1 for regression; 0 where there is no label set")
    label_names: list[str] = []
    text_columns: list[str] = Field(default=[], description="columns the inputs come from, in order")
    label_column: str | None = None
    max_length: int | None = Field(default=None, description="tokens per sample at most; none for images")


class DataInfo(Frozen):
    """Which samples were measured."""

    id: str
    hash: str = Field(description="sha256 over the samples in the order used")
    num_samples: int = Field(gt=0)
    num_tokens: int = Field(gt=0, description="tokens without padding")
    gram_tokens: int = Field(gt=0, description="rows of the Grams: tokens, or random ±1 sums of a sample's tokens")
    columns: dict[str, str] = {}


class HeadFit(Frozen):
    """How the task head was fitted on frozen features before anything was measured."""

    parameters: list[str]
    num_samples: int
    steps: int
    loss_before: float
    loss_after: float
    held_out_loss: float


class ProxySettings(Frozen):
    """How `proxy_eval` was measured, and on which layers."""

    rank: int
    steps: int
    learning_rate: float
    train_samples: int
    held_out_samples: int
    is_complete: bool = Field(description="every layer was measured; otherwise a few per role")
    num_measured: int
    is_blind: bool = Field(default=False, description="no gain beyond noise was seen; proxy_eval has no weight in the utility")
    method_shares: dict[Method, float] = Field(
        default={},
        description="gain of a bottleneck or prefix over that of a LoRA of as many parameters, measured at a few sites",
    )


class LayerProfile(LayerSpec):
    """What was measured of one layer."""

    metrics: dict[str, float] = Field(
        description="raw metrics: gradient_energy (debiased, unclipped), fisher, gradient_norm_squared, proxy_eval (nats)"
    )
    normalised: dict[str, float] = Field(description="metrics within the model, in [0, 1]")
    utility: float = Field(ge=0, le=1)
    proxy_source: str = Field(default="none", description="measured | interpolated (by depth within its role) | none")
    intervals: dict[str, tuple[float, float]] = Field(
        default={}, description="95 % intervals over samples of gradient_energy, fisher and utility"
    )

    @property
    def is_idle(self) -> bool:
        """Whether no gradient came to it on any sample, as to the cross-attention of a decoder without an encoder."""
        seen = [self.metrics[name] for name in ("fisher", "gradient_norm_squared") if name in self.metrics]
        return bool(seen) and not any(seen)


class BlockProfile(BlockSpec):
    """A block, and what its backward pass keeps when its own weights are frozen."""

    activation_bytes_per_token: float = Field(
        ge=0, description="bytes its graph keeps per token in training, weights frozen, beside those per pair of tokens"
    )
    attention_bytes_per_token_pair: float | None = Field(
        default=None,
        ge=0,
        description="bytes it keeps per pair of tokens of a sample, as attention weights; none in profiles of earlier "
        "versions, whose bytes per token are those of evaluation mode at the mean length",
    )


class StepMemory(Frozen):
    """What a training step takes beside weights, adapters, optimiser and what the blocks keep."""

    outside_bytes_per_sample: float = Field(ge=0, description="kept by head and loss, with the gradients of the outputs")
    outside_bytes_per_token: float = Field(ge=0, description="the same, by token: the logits of a language model above all")
    working_bytes_per_token: float = Field(ge=0, description="taken by the passes of one block for a moment")
    working_bytes_per_token_pair: float = Field(ge=0, description="the same, by pair of tokens of a sample")
    is_padded: bool = Field(description="counted on samples with padding, and so with the masks that these take")


class Profile(Frozen):
    """The content of `profile.json`."""

    schema_version: int = SCHEMA_VERSION
    model: ModelInfo
    task: TaskInfo
    data: DataInfo
    layers: list[LayerProfile]
    blocks: list[BlockProfile]
    head: list[str]
    is_roles_guessed: bool = False
    fisher_labels: str = Field(description="empirical (labels of the data) or true (sampled from the model)")
    metric_weights: dict[str, float]
    head_fit: HeadFit | None = None
    proxy: ProxySettings | None = None
    mean_length: float = Field(gt=0, description="tokens per sample without padding")
    base_loss: float = Field(description="mean loss of the frozen model on the samples, nats")
    step_memory: StepMemory | None = Field(default=None, description="none in profiles of earlier versions")
    seed: int
    config: dict[str, Any] = Field(description="the ProfilingConfig that made it")
    command: str
    versions: dict[str, str]
    warnings: list[str] = []

    @model_validator(mode="after")
    def _layers_are_distinct(self) -> Profile:
        names = [layer.layer for layer in self.layers]
        if len(set(names)) != len(names):
            raise ValueError("layers: a layer stands twice")
        return self

    @property
    def identity(self) -> str:
        """Hash of everything but the command, versions and warnings."""
        told = self.model_dump(mode="json", exclude={"command", "versions", "warnings"})
        # Profiles of earlier versions lack these, and keep the identity that their plans know them by.
        if self.step_memory is None:
            del told["step_memory"]
        for block in told["blocks"]:
            if block["attention_bytes_per_token_pair"] is None:
                del block["attention_bytes_per_token_pair"]
        return sha256_of_json(told)


class BlockTiming(Frozen):
    """Seconds of one batch through one block, medians over repeats."""

    block: int
    forward_seconds: float = Field(ge=0)
    backward_seconds: float = Field(ge=0, description="gradients of activations and of all the block's weights")
    backward_frozen_seconds: float = Field(ge=0, description="gradients of activations alone")


class LatencyModel(Frozen):
    """Milliseconds that an unmerged rank-r LoRA adds to one token at batch 1: intercept + slope · r."""

    intercept_ms: float = Field(ge=0)
    slope_ms: float = Field(ge=0)


class Timing(Frozen):
    """The content of `timing.json`: measured on one machine, for the planner's time and latency models."""

    device: str
    threads: int
    batch_size: int
    tokens_per_batch: int
    outside_forward_seconds: float = Field(ge=0, description="embeddings, head and loss, forward")
    outside_backward_seconds: float = Field(ge=0, description="of the same, embeddings trained")
    outside_backward_frozen_seconds: float | None = Field(
        default=None, ge=0, description="of the same, embeddings frozen; none where it was not told apart"
    )
    update_seconds_per_parameter: float = Field(default=0.0, ge=0, description="gradient clipping and AdamW, per parameter")
    arithmetic: str = Field(default="fp32", description="of the timed passes: fp32, or bf16 autocast where it is fast")
    blocks: list[BlockTiming]
    latency: dict[str, LatencyModel] = Field(description="by layer; layers of one shape share a measurement")
    stages: dict[str, float] = Field(default={}, description="seconds of each stage of the profile")
    peak_device_bytes: int | None = Field(
        default=None, ge=0, description="most memory of the accelerator that was taken at once; none on a processor"
    )


def save_profile(folder: Path, profile: Profile, arrays: dict[str, np.ndarray], timing: Timing | None) -> None:
    """Write a profile folder; `profile.json` comes last, so that a folder with it is whole."""
    write_arrays(folder / ARRAYS_FILE, arrays)
    if timing is not None:
        write_json(folder / TIMING_FILE, timing)
    write_json(folder / PROFILE_FILE, profile)


def load_profile(folder: str | Path) -> tuple[Profile, dict[str, np.ndarray], Timing | None]:
    """Read a profile folder.

    Raises:
        ManifestError: a file is missing, does not fit its schema, or holds no gain curve for a layer.
    """
    folder = Path(folder).expanduser()
    try:
        is_there = (folder / PROFILE_FILE).exists()
    except OSError as error:
        raise ManifestError(f"cannot look into {folder}: {error.strerror or error}; give a folder that you may read") from error
    if not is_there:
        raise ManifestError(f"{folder} holds no {PROFILE_FILE}; make one with `layerlens profile MODEL --data DATA --out DIR`")
    profile = read_json(folder / PROFILE_FILE, Profile)
    if profile.schema_version != SCHEMA_VERSION:
        raise ManifestError(
            f"{folder / PROFILE_FILE} has schema version {profile.schema_version}, this LayerLens reads {SCHEMA_VERSION}; "
            "profile again"
        )
    arrays = read_arrays(folder / ARRAYS_FILE)
    missing = [layer.layer for layer in profile.layers if f"gain/{layer.layer}" not in arrays]
    if missing:
        raise ManifestError(f"{folder / ARRAYS_FILE} has no gain curve for {', '.join(missing[:3])}; profile again")
    timing = read_json(folder / TIMING_FILE, Timing) if (folder / TIMING_FILE).exists() else None
    return profile, arrays, timing
