"""A profile of all-MiniLM-L6-v2's shape, synthesised from the schemas alone: seeded numbers, no model."""

from __future__ import annotations

import math
from functools import cache

import numpy as np

from layerlens.artifacts.layers import ModelInfo
from layerlens.artifacts.profile import (
    BlockProfile,
    BlockTiming,
    DataInfo,
    HeadFit,
    LatencyModel,
    LayerProfile,
    Profile,
    ProxySettings,
    TaskInfo,
    Timing,
)
from layerlens.words import Role, TaskKind

HIDDEN, INNER, BLOCKS, MAX_RANK = 384, 1536, 6, 38
VERSIONS = {
    "layerlens": "0.1.0",
    "numpy": "2.4.1",
    "peft": "0.21.2",
    "python": "3.11.2",
    "torch": "2.13.0",
    "transformers": "5.23.0",
}
SHAPES = {
    Role.ATTENTION_QUERY: ("attention.self.query", HIDDEN, HIDDEN, 0.35),
    Role.ATTENTION_KEY: ("attention.self.key", HIDDEN, HIDDEN, 0.25),
    Role.ATTENTION_VALUE: ("attention.self.value", HIDDEN, HIDDEN, 1.0),
    Role.ATTENTION_OUTPUT: ("attention.output.dense", HIDDEN, HIDDEN, 0.9),
    Role.MLP_UP: ("intermediate.dense", HIDDEN, INNER, 0.8),
    Role.MLP_DOWN: ("output.dense", INNER, HIDDEN, 0.7),
}
CLASSES = ["builtins and types", "concurrency", "data formats", "files", "internet", "language tools", "numbers", "text"]


def model_info() -> ModelInfo:
    return ModelInfo(
        id="sentence-transformers/all-MiniLM-L6-v2",
        hash="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        architecture="BertForSequenceClassification",
        family="bert",
        hidden_size=HIDDEN,
        num_parameters=22_716_296,
        head_parameters=150_920,
    )


def task_info() -> TaskInfo:
    return TaskInfo(
        kind=TaskKind.CLASSIFICATION,
        num_labels=len(CLASSES),
        label_names=CLASSES,
        text_columns=["text"],
        label_column="label",
        max_length=128,
    )


@cache
def curves() -> dict[str, np.ndarray]:
    """Concave cumulative gains, larger in later blocks and in value, output and MLP layers; a few layers gain nothing."""
    rng = np.random.default_rng(0)
    arrays = {}
    for block in range(BLOCKS):
        for path, _, _, weight in SHAPES.values():
            name = f"bert.encoder.layer.{block}.{path}"
            total = weight * 0.012 * (0.15 + (block / 5) ** 1.5) * rng.lognormal(0.0, 0.35)
            steps = total * 0.55 ** np.arange(MAX_RANK) * rng.uniform(0.85, 1.0, MAX_RANK).cumprod()
            if block == 0 and path.endswith(("query", "key")):
                steps[:] = 0.0
            arrays[f"gain/{name}"] = steps.cumsum()
            arrays[f"spectrum/{name}"] = np.sort(rng.lognormal(0.5, 0.6, HIDDEN))[::-1]
    return arrays


@cache
def profile() -> Profile:
    rng = np.random.default_rng(1)
    gains = {name.removeprefix("gain/"): float(curve[3]) for name, curve in curves().items() if name.startswith("gain/")}
    top = max(gains.values())
    layers = []
    for block in range(BLOCKS):
        for role, (path, inputs, outputs, _) in SHAPES.items():
            name = f"bert.encoder.layer.{block}.{path}"
            energy = math.sqrt(gains[name] / top) * float(rng.uniform(0.75, 1.0))
            fisher = min(1.0, energy * float(rng.uniform(0.7, 1.2)) + 0.02)
            proxy = min(1.0, math.sqrt(gains[name] / top) * float(rng.uniform(0.6, 1.1)) + 0.02)
            layers.append(
                LayerProfile(
                    layer=name,
                    block=block,
                    role=role,
                    in_features=inputs,
                    out_features=outputs,
                    has_bias=True,
                    input_group=name,
                    metrics={
                        "gradient_energy": 2.4 * energy**2 - 0.001,
                        "gradient_norm_squared": 2.4 * energy**2 + 0.01,
                        "fisher": 31.0 * fisher**2,
                        "proxy_eval": 0.04 * proxy,
                    },
                    normalised={"gradient_energy": energy, "fisher": fisher, "proxy_eval": proxy},
                    utility=0.4 * energy + 0.4 * fisher + 0.2 * proxy,
                    proxy_source="measured",
                )
            )
    return Profile(
        model=model_info(),
        task=task_info(),
        data=DataInfo(
            id="stdlib-docs",
            hash="9d2c70eb5d0be0a79b34f4c8b9dd10b1f4b9e2b43b7d3c6c9f1d8a6a4a0d5f11",
            num_samples=512,
            num_tokens=28_915,
            gram_tokens=4096,
            columns={"text": "text", "label": "label"},
        ),
        layers=layers,
        blocks=[
            BlockProfile(
                block=block,
                path=f"bert.encoder.layer.{block}",
                attention=f"bert.encoder.layer.{block}.attention",
                hidden_size=HIDDEN,
                kv_features=HIDDEN,
                num_params=1_774_464,
                activation_bytes_per_token=26_112.0,
            )
            for block in range(BLOCKS)
        ],
        head=["bert.pooler", "classifier"],
        fisher_labels="empirical",
        metric_weights={"gradient_energy": 0.4, "fisher": 0.4, "proxy_eval": 0.2},
        head_fit=HeadFit(
            parameters=["classifier.weight", "classifier.bias"],
            num_samples=512,
            steps=120,
            loss_before=2.09,
            loss_after=1.02,
            held_out_loss=1.14,
        ),
        proxy=ProxySettings(
            rank=4, steps=4, learning_rate=2e-3, train_samples=32, held_out_samples=32, is_complete=True, num_measured=36
        ),
        mean_length=56.5,
        base_loss=1.14,
        seed=0,
        config={"num_samples": 512},
        command="layerlens demo",
        versions=VERSIONS,
    )


def timing() -> Timing:
    return Timing(
        device="cpu",
        threads=1,
        batch_size=16,
        tokens_per_batch=1024,
        outside_forward_seconds=0.01,
        outside_backward_seconds=0.02,
        blocks=[
            BlockTiming(block=block, forward_seconds=0.06, backward_seconds=0.12, backward_frozen_seconds=0.06)
            for block in range(BLOCKS)
        ],
        latency={layer.layer: LatencyModel(intercept_ms=0.011, slope_ms=0.0002) for layer in profile().layers},
        stages={"head fit": 6.2, "statistics": 21.4, "curves": 2.9, "proxies": 18.7, "timing": 3.1},
    )
