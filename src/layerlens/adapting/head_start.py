"""Every run starts from the same fitted head, whatever ran before it in this process.

A random head is drawn from the seed and fitted on frozen features. Both are done again for every model object that
comes in, even if a profile has fitted its head before: so a command that finds the model in memory ends with
the same bytes as one that loads it. The result is kept beside the model, for the next arm of the same run.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from layerlens.adapting.samples import choose
from layerlens.artifacts.profile import HeadFit
from layerlens.artifacts.store import sha256_of_json
from layerlens.config import TrainingConfig
from layerlens.data.dataset import LoadedData
from layerlens.data.partition import Partition
from layerlens.models.head import fit_head
from layerlens.models.load import TaskModel
from layerlens.models.roles import describe_layers
from layerlens.progress import Progress

#: Samples that the head is fitted on, and a quarter as many that stop the fit.
HEAD_SAMPLES = 512

_STARTS: WeakKeyDictionary[nn.Module, tuple[str, dict[str, Tensor], HeadFit | None]] = WeakKeyDictionary()


def start_head_(
    task_model: TaskModel, data: LoadedData, part: Partition, config: TrainingConfig, progress: Progress
) -> HeadFit | None:
    """Draw and fit the new parameters of the head, in place; the same seed and samples give the same head.

    Args:
        task_model: Its new parameters are replaced; all others stay.
        data: Samples.
        part: Its training samples alone are used.
        config: `fit_head`, seed and batch size.
        progress: Told what the fit made of the loss.

    Returns:
        How the head was fitted; none where nothing is new or `fit_head` is off.
    """
    if not task_model.new_parameters or not config.fit_head:
        return None
    chosen = choose(part.train, HEAD_SAMPLES + HEAD_SAMPLES // 4, seed=config.seed)
    key = sha256_of_json(
        {
            "samples": data.hash(chosen),
            "seed": config.seed,
            "batch_size": config.batch_size,
            "model": task_model.identity,
        }
    )
    model = task_model.model
    if model in _STARTS and _STARTS[model][0] == key:
        _, state, fit = _STARTS[model]
        model.load_state_dict(state, strict=False)
        return fit
    draw_new_parameters_(task_model, seed=config.seed)
    cut = len(chosen) - max(1, len(chosen) // 5)
    fit = fit_head(
        task_model,
        describe_layers(model),
        data.take(chosen[:cut]),
        data.take(chosen[cut:]),
        data.task,
        seed=config.seed,
        batch_size=config.batch_size,
    )
    parameters = dict(model.named_parameters())
    state = {name: parameters[name].detach().clone() for name in task_model.new_parameters}
    _STARTS[model] = (key, state, fit)
    if fit is not None:
        progress.note(f"head fitted on frozen features: held-out loss {fit.loss_before:.3f} → {fit.held_out_loss:.3f}")
    return fit


def draw_new_parameters_(task_model: TaskModel, *, seed: int) -> None:
    """Draw the parameters that the checkpoint lacks from `seed`, each module by its own rule of initialisation."""
    new = set(task_model.new_parameters)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for path, module in task_model.model.named_modules():
            own = dict(module.named_parameters(recurse=False))
            drawn = [name for name in own if f"{path}.{name}".lstrip(".") in new]
            if not drawn:
                continue
            kept = {name: parameter.clone() for name, parameter in own.items() if name not in drawn}
            reset = getattr(module, "reset_parameters", None)
            if reset is not None:
                reset()
            else:
                for name in drawn:
                    own[name].normal_(0.0, 0.02)
            for name, parameter in kept.items():
                own[name].copy_(parameter)
