"""Full fine-tuning: every parameter of the model, through the same Trainer as every adapter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import nn

from layerlens.adapting.arms.job import ArmJob, Prepared
from layerlens.adapting.attach import restored
from layerlens.adapting.lora import count_trainable
from layerlens.adapting.weights_on_disk import kept_on_disk
from layerlens.artifacts.evaluation import Arm
from layerlens.errors import ConfigError


def run_full(job: ArmJob) -> Arm:
    """Train the whole model; its weights are what they were afterwards.

    Raises:
        ConfigError: the base is quantised, or not every parameter can be trained.
    """
    if job.task_model.is_quantised:
        raise ConfigError("full fine-tuning: a base in few bits cannot be trained as a whole; measure it over the model as it is")
    model = job.task_model.model
    total = sum(parameter.numel() for parameter in model.parameters())

    @contextmanager
    def prepared() -> Iterator[Prepared]:
        with restored(model, []), all_trainable(model, job.out):
            if count_trainable(model) != total:
                raise ConfigError("full fine-tuning: not every parameter of this model can be trained")
            yield Prepared(model, total - job.plan.head_params)

    return job.run_adapters({"all": total}, total - job.plan.head_params, prepared)


@contextmanager
def all_trainable(model: nn.Module, folder: Path) -> Iterator[None]:
    """Make every parameter trainable inside the context; afterwards all weights are what they were.

    The peak memory of full fine-tuning is measured inside, so the copy lies on disk.

    Args:
        model: Any model of floating parameters.
        folder: Of the disk that holds the weights meanwhile, a file without a name.

    Raises:
        ConfigError: the folder's disk cannot hold them.
    """
    with kept_on_disk(model, folder):
        model.requires_grad_(True)
        yield
