"""A profile without a model: true shapes, and sensitivities that you choose.

A layer of sensitivity s gains  s · G · (1 - d^r) / (1 - d^R)  nats at rank r: strictly concave, as measured curves
tend to be. Its metrics are what a layer so sensitive would show (gradient energy and Fisher trace are squares), and they
are normalised by the same code that normalises measured ones. Defaults are the shapes of all-MiniLM-L6-v2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from layerlens.artifacts.layers import ModelInfo
from layerlens.artifacts.profile import (
    BlockProfile,
    BlockTiming,
    DataInfo,
    LatencyModel,
    LayerProfile,
    Profile,
    ProxySettings,
    StepMemory,
    TaskInfo,
    Timing,
)
from layerlens.profiling.normalisation import normalise, utility
from layerlens.words import Role, TaskKind

METRIC_WEIGHTS = {"gradient_energy": 0.4, "fisher": 0.4, "proxy_eval": 0.2}


@dataclass(frozen=True)
class Shape:
    """A transformer's sizes; `kv` is narrower than `hidden` where heads share keys and values."""

    blocks: int = 6
    hidden: int = 384
    inner: int = 1536
    kv: int = 384
    heads: int = 12
    is_gated: bool = False
    other_parameters: int = 11_915_528
    head_parameters: int = 150_920

    @property
    def layers(self) -> dict[Role, tuple[str, str, int, int]]:
        """Role: path inside a block, group of layers that read the same input, in and out features."""
        found = {
            Role.ATTENTION_QUERY: ("attention.self.query", "attention.self.query", self.hidden, self.hidden),
            Role.ATTENTION_KEY: ("attention.self.key", "attention.self.query", self.hidden, self.kv),
            Role.ATTENTION_VALUE: ("attention.self.value", "attention.self.query", self.hidden, self.kv),
            Role.ATTENTION_OUTPUT: ("attention.output.dense", "attention.output.dense", self.hidden, self.hidden),
        }
        if self.is_gated:
            found[Role.MLP_GATE] = ("gate.dense", "gate.dense", self.hidden, self.inner)
        found[Role.MLP_UP] = (
            "intermediate.dense",
            "gate.dense" if self.is_gated else "intermediate.dense",
            self.hidden,
            self.inner,
        )
        found[Role.MLP_DOWN] = ("output.dense", "output.dense", self.inner, self.hidden)
        return found


MINILM = Shape()
#: A Llama of 70 billion parameters.
CLASS_70B = Shape(
    blocks=80, hidden=8192, inner=28_672, kv=1024, heads=64, is_gated=True, other_parameters=2_101_346_304, head_parameters=0
)


@dataclass(frozen=True)
class SyntheticProfile:
    """The three files of a profile folder."""

    profile: Profile
    arrays: dict[str, np.ndarray]
    timing: Timing


def layer_name(block: int, path: str) -> str:
    """Full module path, as BERT names it."""
    return f"bert.encoder.layer.{block}.{path}"


def synthesise(
    sensitivity: Mapping[tuple[int, Role], float],
    *,
    shape: Shape = MINILM,
    largest_gain_nats: float = 0.02,
    decay: float = 0.85,
    num_ranks: int | None = None,
) -> SyntheticProfile:
    """Build a profile.

    Args:
        sensitivity: By block and role, zero or more; missing means 0.
        shape: Sizes of the model.
        largest_gain_nats: Gain of a layer of sensitivity 1 at the largest rank.
        decay: How much less each further rank gains.
        num_ranks: Length of the curves; a tenth of the hidden size if not given.

    Returns:
        Profile, arrays and timing, equal for equal arguments.
    """
    ranks = np.arange(1, (num_ranks or shape.hidden // 10) + 1)
    curve = largest_gain_nats * (1 - decay**ranks) / (1 - decay ** ranks[-1])
    score = {(block, role): float(sensitivity.get((block, role), 0.0)) for block in range(shape.blocks) for role in shape.layers}
    raw = {
        "gradient_energy": {key: 2.0 * value**2 for key, value in score.items()},
        "fisher": {key: 9.0 * (value + 0.05) ** 2 for key, value in score.items()},
        "proxy_eval": {key: 0.03 * value for key, value in score.items()},
    }
    names = {(block, role): layer_name(block, shape.layers[role][0]) for block, role in score}
    normalised = {
        metric: normalise({names[key]: value for key, value in values.items()}, metric) for metric, values in raw.items()
    }
    layers, arrays = [], {}
    for (block, role), value in score.items():
        name = names[block, role]
        _, group, in_features, out_features = shape.layers[role]
        own = {metric: values[name] for metric, values in normalised.items()}
        measured = {metric: values[block, role] for metric, values in raw.items()}
        layers.append(
            LayerProfile(
                layer=name,
                block=block,
                role=role,
                in_features=in_features,
                out_features=out_features,
                input_group=layer_name(block, group),
                metrics={**measured, "gradient_norm_squared": measured["gradient_energy"] + measured["fisher"] / 512},
                normalised=own,
                utility=utility(own, METRIC_WEIGHTS),
                proxy_source="measured",
            )
        )
        arrays[f"gain/{name}"] = value * curve
        arrays[f"spectrum/{name}"] = np.linspace(1.0, 0.1, min(in_features, out_features))
    return SyntheticProfile(_profile(shape, layers), arrays, _timing(shape, layers))


def _profile(shape: Shape, layers: list[LayerProfile]) -> Profile:
    weights = sum(layer.weight_params for layer in layers)
    labels = [f"class {number}" for number in range(8)]
    return Profile(
        model=ModelInfo(
            id="synthetic",
            hash="0" * 64,
            architecture="BertForSequenceClassification",
            family="bert",
            hidden_size=shape.hidden,
            num_parameters=weights + shape.other_parameters + shape.head_parameters,
            head_parameters=shape.head_parameters,
        ),
        task=TaskInfo(kind=TaskKind.CLASSIFICATION, num_labels=8, label_names=labels, text_columns=["text"], max_length=128),
        data=DataInfo(id="synthetic", hash="0" * 64, num_samples=512, num_tokens=28_915, gram_tokens=4096),
        layers=layers,
        blocks=[
            BlockProfile(
                block=block,
                path=f"bert.encoder.layer.{block}",
                attention=f"bert.encoder.layer.{block}.attention.self",
                hidden_size=shape.hidden,
                kv_features=shape.kv,
                num_params=weights // shape.blocks,
                activation_bytes_per_token=4.0 * (8 * shape.hidden + 2 * shape.inner),
                attention_bytes_per_token_pair=8.0 * shape.heads,
            )
            for block in range(shape.blocks)
        ],
        head=["bert.pooler", "classifier"],
        fisher_labels="empirical",
        metric_weights=METRIC_WEIGHTS,
        proxy=ProxySettings(
            rank=4,
            steps=4,
            learning_rate=2e-3,
            train_samples=32,
            held_out_samples=32,
            is_complete=True,
            num_measured=len(layers),
        ),
        mean_length=56.5,
        step_memory=StepMemory(
            outside_bytes_per_sample=8.0 * shape.hidden,
            outside_bytes_per_token=4.0 * shape.hidden,
            working_bytes_per_token=4.0 * (2 * shape.hidden + 2 * shape.inner),
            working_bytes_per_token_pair=4.0 * shape.heads,
            is_padded=True,
        ),
        base_loss=1.14,
        seed=0,
        config={},
        command="python -m examples.seven_configurations",
        versions={},
    )


def _timing(shape: Shape, layers: list[LayerProfile]) -> Timing:
    """A machine of some 50 GFLOP/s, each product of matrices at the same rate."""
    weights = sum(layer.weight_params for layer in layers) / shape.blocks
    seconds = 2 * weights * 16 * 128 / 5e10
    return Timing(
        device="cpu",
        threads=1,
        batch_size=16,
        tokens_per_batch=16 * 128,
        outside_forward_seconds=0.1 * seconds,
        outside_backward_seconds=0.2 * seconds,
        blocks=[
            BlockTiming(block=block, forward_seconds=seconds, backward_seconds=2 * seconds, backward_frozen_seconds=seconds)
            for block in range(shape.blocks)
        ],
        latency={
            layer.layer: LatencyModel(intercept_ms=0.01, slope_ms=(layer.in_features + layer.out_features) * 1e-7)
            for layer in layers
        },
    )
