"""`proxy_eval`: what a few real training steps of a small adapter on one layer alone gain on held-out samples.

For each measured layer a low-rank update (rank and steps from the config) is trained by Adam on the same few batches,
from the same start, with everything else frozen; the metric is mean held-out loss before minus after, in nats. Negative
where the steps did harm.

Layers share their batches, so they share the luck of the draw: where few samples say little about others (a small
classification set, say), all drops may be noise of one sign. So the proxies judge themselves: unless the drop, meant
over the measured layers, is above zero by two standard errors over the held-out samples, they are blind and have no say
in the utility.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from layerlens.artifacts.layers import BlockSpec, LayerSpec
from layerlens.artifacts.profile import ProxySettings
from layerlens.config import ProfilingConfig
from layerlens.data.example import Batch, Example
from layerlens.data.task import Task
from layerlens.errors import NotFiniteError
from layerlens.models.frozen import frozen
from layerlens.nn.low_rank_probe import LowRankProbe
from layerlens.profiling.batch_device import to_device_of
from layerlens.profiling.block_replay import BlockReplay
from layerlens.profiling.proxy_schedule import interpolated, proxy_layers
from layerlens.progress import SILENT, Progress

#: The update counts twice: the customary alpha / rank of LoRA.
_SCALING = 2.0
#: Standard errors that the mean drop must lie above zero.
_LEAST_SIGNIFICANCE = 2.0


@dataclass(frozen=True)
class Proxies:
    """`values` of every layer, measured or interpolated; `measured` names the former."""

    values: dict[str, float]
    measured: frozenset[str]
    settings: ProxySettings


def measure_proxies(
    model: nn.Module,
    layers: Sequence[LayerSpec],
    blocks: Sequence[BlockSpec],
    task: Task,
    examples: Sequence[Example],
    lengths: Sequence[int],
    config: ProfilingConfig,
    progress: Progress = SILENT,
) -> Proxies | None:
    """Measure the layers that the config asks for.

    Args:
        model: Task model; its weights are left as they were.
        layers: Planned layers.
        blocks: Blocks of the model, in forward order.
        task: Loss and labels.
        examples: Samples to draw from; those trained on and those scored are disjoint.
        lengths: Tokens of each of them.
        config: Steps, batch, rank, learning rate, seed, and on how many layers.

    Returns:
        None where proxies are off or there are too few samples to hold any out.
    """
    train, held_out = _split(len(examples), config)
    if config.proxy == "off" or not train:
        return None
    chosen = proxy_layers(
        layers,
        len(blocks),
        mode=config.proxy,
        statistics_tokens=sum(lengths),
        train_tokens=sum(lengths[sample] for batch in train for sample in batch),
        held_out_tokens=sum(lengths[sample] for sample in held_out),
    )
    by_length = sorted(held_out, key=lambda sample: (lengths[sample], sample))
    scored = [by_length[start : start + config.batch_size] for start in range(0, len(by_length), config.batch_size)]
    specs = {spec.layer: spec for spec in layers}
    with frozen(model):
        bench = _Bench(model, task, blocks, [[examples[sample] for sample in batch] for batch in (*train, *scored)], len(train))
        before = bench.held_out_losses(0)
        drops = {
            name: before - bench.losses_after(specs[name], config)
            for name in progress.track(chosen, "proxies", total=len(chosen))
        }
    measured = {name: float(drop.mean()) for name, drop in drops.items()}
    return Proxies(
        values=interpolated(layers, measured),
        measured=frozenset(chosen),
        settings=ProxySettings(
            rank=config.proxy_rank,
            steps=config.proxy_steps,
            learning_rate=config.proxy_learning_rate,
            train_samples=len({sample for batch in train for sample in batch}),
            held_out_samples=len(held_out),
            is_complete=len(chosen) == len(layers),
            num_measured=len(chosen),
            is_blind=not _is_significant(np.mean(list(drops.values()), axis=0)),
        ),
    )


def _split(num_samples: int, config: ProfilingConfig) -> tuple[list[list[int]], list[int]]:
    """Batches of training samples, and held-out samples: disjoint, at most half of the samples held out.

    Where the samples do not last for all steps, later steps see the earlier batches again.
    """
    order = np.random.default_rng([config.seed, 2]).permutation(num_samples).tolist()
    num_held_out = min(config.proxy_held_out, num_samples // 2)
    held_out, rest = order[:num_held_out], order[num_held_out:]
    if not held_out:
        return [], []
    size = min(config.proxy_batch_size, len(rest))
    starts = range(0, len(rest) - size + 1, size)
    distinct = [rest[start : start + size] for start in starts][: config.proxy_steps]
    return [distinct[step % len(distinct)] for step in range(config.proxy_steps)], held_out


def _is_significant(drops: Float[np.ndarray, " samples"]) -> bool:
    """Whether the mean drop is above zero by more than noise over the samples."""
    if len(drops) < 2:
        return False
    error = float(drops.std(ddof=1)) / len(drops) ** 0.5
    return float(drops.mean()) > _LEAST_SIGNIFICANCE * error


class _Bench:
    """The batches that every proxy is trained and scored on, with what the blocks below a layer give for them."""

    def __init__(
        self, model: nn.Module, task: Task, blocks: Sequence[BlockSpec], batches: Sequence[Sequence[Example]], num_train: int
    ) -> None:
        self._model, self._task, self._num_train = model, task, num_train
        self._replay = BlockReplay(model, [block.path for block in blocks])
        self._batches: list[Batch] = [to_device_of(model, task.collate(batch)) for batch in batches]
        for batch in self._batches:
            with self._replay.recording():
                model(**task.model_inputs(batch))

    def _losses(self, block: int, batch: int) -> torch.Tensor:
        values = self._batches[batch]
        with self._replay.starting_at(block, batch):
            outputs = self._model(**self._task.model_inputs(values))
        return self._task.per_sample_loss(outputs, values)

    def held_out_losses(self, block: int) -> Float[np.ndarray, " samples"]:
        """Loss of each held-out sample, nats."""
        with torch.no_grad():
            losses = [self._losses(block, batch).double() for batch in range(self._num_train, len(self._batches))]
        return torch.cat(losses).cpu().numpy()

    def losses_after(self, spec: LayerSpec, config: ProfilingConfig) -> Float[np.ndarray, " samples"]:
        """Loss of each held-out sample after the steps of a proxy on one layer.

        Raises:
            NotFiniteError: The steps led to NaN or infinity.
        """
        module = self._model.get_submodule(spec.layer)
        block = spec.block or 0
        device = next(module.parameters()).device
        generator = torch.Generator().manual_seed(config.seed)
        probe = LowRankProbe(spec.in_features, spec.out_features, config.proxy_rank, scaling=_SCALING, generator=generator).to(
            device
        )
        optimizer = torch.optim.Adam(probe.parameters(), lr=config.proxy_learning_rate)
        with probe.beside(module):
            for batch in range(self._num_train):
                optimizer.zero_grad()
                with torch.enable_grad():
                    self._losses(block, batch).mean().backward()
                optimizer.step()
            losses = self.held_out_losses(block)
        if not np.isfinite(losses).all():
            raise NotFiniteError(
                f"the proxy of layer {spec.layer} ended at a loss of {losses.mean()}; lower proxy_learning_rate "
                f"(now {config.proxy_learning_rate})"
            )
        return losses
