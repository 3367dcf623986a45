"""One metric at a time, for those who want nothing else: the same pass as the profile's, the same numbers.

scores = GradientEnergyAnalyzer(batch_size=16).analyze(model, layout, task, examples)      # layer -> float
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import nn

from layerlens.artifacts.layers import ModelLayout
from layerlens.config import FisherLabels, ProfilingConfig
from layerlens.data.example import Example
from layerlens.data.task import Task
from layerlens.errors import ConfigError
from layerlens.profiling.calibration import calibration_batches
from layerlens.profiling.metrics import raw_metrics
from layerlens.profiling.proxies import measure_proxies
from layerlens.profiling.sample_lengths import sample_lengths
from layerlens.profiling.statistics_pass import collect_statistics


class Analyzer(ABC):
    """Scores every planned layer of a model by one raw metric.

    Args:
        config: Options of the profile, by keyword; the defaults are the profile's.
    """

    def __init__(self, **config: Any) -> None:
        self.config = ProfilingConfig(**config)

    @abstractmethod
    def analyze(self, model: nn.Module, layout: ModelLayout, task: Task, examples: Sequence[Example]) -> dict[str, float]:
        """Score the layers on all of the examples.

        Args:
            model: Task model, its head fitted; left as it was.
            layout: The model's layers and blocks.
            task: Loss and labels.
            examples: Calibration samples.

        Returns:
            Raw score by layer, in the layout's order.
        """

    def _scores(
        self, metric: str, labels: FisherLabels, model: nn.Module, layout: ModelLayout, task: Task, examples: Sequence[Example]
    ) -> dict[str, float]:
        lengths = sample_lengths(model, layout.layers, task, examples)
        batches = calibration_batches(lengths, batch_size=self.config.batch_size, gram_tokens=0, seed=self.config.seed)
        statistics = collect_statistics(
            model, layout.layers, task, examples, batches, fisher_labels=labels, seed=self.config.seed
        )
        return {layer: values[metric] for layer, values in raw_metrics(statistics).items()}


class GradientEnergyAnalyzer(Analyzer):
    """‖mean gradient‖² less what noise alone would leave; about zero, or below, where there is no signal."""

    def analyze(self, model: nn.Module, layout: ModelLayout, task: Task, examples: Sequence[Example]) -> dict[str, float]:
        return self._scores("gradient_energy", FisherLabels.EMPIRICAL, model, layout, task, examples)


class FisherInformationAnalyzer(Analyzer):
    """Mean squared norm of the per-sample gradient, at the data's labels or (`fisher_labels="true"`) at sampled ones."""

    def analyze(self, model: nn.Module, layout: ModelLayout, task: Task, examples: Sequence[Example]) -> dict[str, float]:
        return self._scores("fisher", self.config.fisher_labels, model, layout, task, examples)


class ProxyAnalyzer(Analyzer):
    """Drop of held-out loss in nats after a few real steps of a small adapter on each layer alone."""

    def analyze(self, model: nn.Module, layout: ModelLayout, task: Task, examples: Sequence[Example]) -> dict[str, float]:
        """Score the layers; those that `proxy` leaves out are interpolated by depth within their role.

        Raises:
            ConfigError: `proxy` is off, or there are fewer than two examples.
        """
        lengths = sample_lengths(model, layout.layers, task, examples)
        proxies = measure_proxies(model, layout.layers, layout.blocks, task, examples, lengths, self.config)
        if proxies is None:
            raise ConfigError(
                f"nothing to measure: proxy is {self.config.proxy} and there are {len(examples)} examples; "
                "set proxy to auto and give two or more"
            )
        return {spec.layer: proxies.values[spec.layer] for spec in layout.layers}
