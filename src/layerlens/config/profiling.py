"""The options of `layerlens profile`."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

from pydantic import Field, model_validator

from layerlens.config.data import DataConfig
from layerlens.config.spellings import Bytes, HowMany, Names, Numbers


class FisherLabels(StrEnum):
    """Whose labels the Fisher information is taken at."""

    EMPIRICAL = "empirical"
    TRUE = "true"


class ProfilingConfig(DataConfig):
    """What `layerlens profile` measures, and on how much data."""

    metrics: Names = Field(default=["gradient_energy", "fisher", "proxy_eval"], description="metrics that enter the utility")
    metric_weights: Numbers = Field(
        default={"gradient_energy": 0.4, "fisher": 0.4, "proxy_eval": 0.2}, description="weight of each metric in the utility"
    )
    num_samples: int = Field(default=512, gt=1, description="calibration samples")
    batch_size: int = Field(default=16, gt=0, description="samples per batch of the statistics pass")
    gram_tokens: int = Field(
        default=4096,
        gt=0,
        description="rows of the Grams at most: tokens, or random sums of a sample's tokens where there are more",
    )
    fisher_labels: FisherLabels = Field(
        default=FisherLabels.EMPIRICAL,
        description="labels that the Fisher is taken at: those of the data, or true for labels drawn from the model",
    )
    damping: float = Field(default=0.1, gt=0, description="ridge on each Gram, as a share of its mean eigenvalue")
    debias: bool = Field(default=True, description="take off the gradient energy what noise alone leaves; off for ablations")
    cross_fit: bool = Field(
        default=True, description="score the directions of one half of the samples on the other; off for ablations"
    )
    whiten: bool = Field(default=True, description="whiten the gradient by the Grams before it is decomposed; off for ablations")
    max_rank: int | None = Field(default=None, gt=0, description="longest gain curve; hidden size / 10 if not given")
    head_samples: int = Field(default=512, gt=0, description="samples that a random task head is fitted on")
    proxy: HowMany = Field(
        default="auto",
        description="layers that proxy_eval is measured on: all, few (some of each role), off (none), or auto (all where that is "
        "cheap)",
    )
    proxy_steps: int = Field(default=4, gt=0, description="training steps of one proxy")
    proxy_batch_size: int = Field(default=8, gt=0, description="samples per step of a proxy")
    proxy_held_out: int = Field(default=32, gt=1, description="held-out samples a proxy is scored on")
    proxy_rank: int = Field(default=4, gt=0, description="rank of a proxy's adapter")
    proxy_learning_rate: float = Field(default=2e-3, gt=0, description="learning rate of a proxy")
    threads: int | None = Field(default=None, gt=0, description="processor threads; torch's own choice if not given")
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="what computes: auto takes an accelerator where there is one, else the processor"
    )
    precision: Literal["fp32", "bf16"] = Field(
        default="fp32",
        description="blocks in float32, or in bfloat16 autocast, which is faster where the device has it",
    )
    execution: Literal["auto", "memory", "stream"] = Field(
        default="auto",
        description="hold the model in memory, or stream it block by block; auto streams what would not fit comfortably",
    )
    max_memory: Bytes | None = Field(
        default=None, gt=0, description="peak memory of the whole process at most, such as 2GB (powers of 1,024)"
    )
    max_store: Bytes = Field(
        default=1 << 30,
        gt=0,
        description="disk for hidden states while streaming at most; with less, blocks are computed again more often",
    )

    def record(self) -> dict[str, Any]:
        """The options as a profile and its folder keep them.

        An accelerator and a rounded pass are named, since they change the numbers; without them the record is that of earlier
        releases, whose folders so remain readable.
        """
        usual = {name for name, value in (("device", "cuda"), ("precision", "bf16")) if getattr(self, name) != value}
        return self.model_dump(mode="json", exclude=usual)

    @model_validator(mode="after")
    def _weights_name_metrics(self) -> ProfilingConfig:
        unknown = sorted(set(self.metrics) - {"gradient_energy", "fisher", "proxy_eval"})
        if unknown:
            raise ValueError(f"metrics: unknown {', '.join(unknown)}; known are gradient_energy, fisher, proxy_eval")
        if not self.metrics:
            raise ValueError("metrics: at least one is needed")
        missing = [name for name in self.metrics if self.metric_weights.get(name, 0.0) < 0 or name not in self.metric_weights]
        if missing:
            raise ValueError(f"metric_weights: no weight of 0 or more for {', '.join(missing)}")
        if sum(self.metric_weights[name] for name in self.metrics) <= 0:
            raise ValueError("metric_weights: all are zero")
        if self.proxy == "off" and not any(self.metric_weights[name] for name in self.metrics if name != "proxy_eval"):
            raise ValueError(
                "proxy: off, but of metrics only proxy_eval has a weight; add gradient_energy or fisher, or leave proxy on"
            )
        return self
