"""Samples that a random head is fitted on before anything is measured, and the fit itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from layerlens.artifacts.layers import ModelLayout
from layerlens.artifacts.profile import HeadFit
from layerlens.config import ProfilingConfig
from layerlens.data.dataset import LoadedData
from layerlens.data.partition import Partition
from layerlens.models.head import Features, fit_head
from layerlens.models.load import TaskModel

#: Held-out samples of the head's early stopping, as a share of all it gets.
_HELD_OUT_SHARE = 0.2


@dataclass(frozen=True)
class HeadSamples:
    """Positions in the data set, disjoint from each other; `has_overlap` where they are measured on as well."""

    train: list[int]
    held_out: list[int]
    has_overlap: bool


def choose_head_samples(candidates: Sequence[int], measured: Sequence[int], num_samples: int, seed: int) -> HeadSamples:
    """Choose up to `num_samples`, and a share more to stop by, that are not measured on where the data is large enough.

    A head fitted on the measured samples has seen their labels: its gradients there are smaller than elsewhere. But a head fitted
    on too few samples is noise, which is worse; so with fewer free samples than asked for, all candidates serve.
    """
    taken = set(measured)
    free = [candidate for candidate in candidates if candidate not in taken]
    has_overlap = len(free) < num_samples
    pool = list(candidates) if has_overlap else free
    order = np.random.default_rng([seed, 3]).permutation(len(pool)).tolist()
    wanted = [pool[position] for position in order[: num_samples + max(1, round(num_samples * _HELD_OUT_SHARE))]]
    num_held_out = max(1, round(len(wanted) * _HELD_OUT_SHARE / (1 + _HELD_OUT_SHARE)))
    return HeadSamples(train=wanted[num_held_out:], held_out=wanted[:num_held_out], has_overlap=has_overlap)


def fit_new_head(
    task_model: TaskModel,
    layout: ModelLayout,
    data: LoadedData,
    part: Partition,
    chosen: list[int],
    config: ProfilingConfig,
    warnings: list[str],
    features: Features | None = None,
) -> HeadFit | None:
    """Fit what is random in the head, on samples of `part.train`; None where nothing is.

    Args:
        task_model: Fitted in place.
        layout: For its head.
        data: Samples and task.
        part: Which samples may be used.
        chosen: Samples that will be measured.
        config: How many samples to fit on.
        warnings: Told where measured samples had to serve.
        features: As `fit_head` takes them.
    """
    if not task_model.new_parameters:
        return None
    samples = choose_head_samples(part.train, chosen, config.head_samples, config.seed)
    if samples.has_overlap:
        warnings.append("the head was fitted on samples that are measured as well: the data is too small for both")
    train, held_out = data.take(samples.train), data.take(samples.held_out)
    return fit_head(task_model, layout, train, held_out, data.task, seed=config.seed, features=features)
