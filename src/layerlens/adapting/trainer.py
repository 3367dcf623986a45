"""The Hugging Face Trainer with our loss, our batches and our optimiser, and checkpoints that hold no pickled object.

The base model's place in a checkpoint is empty: only trainable parameters are written, as safetensors. The
optimiser, the schedule and the random state are read back by the Trainer with `torch.load(weights_only=True)`, which
builds tensors and numbers and runs no code.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import TensorBoardCallback

from layerlens.adapting.boundary_start import BoundaryStart
from layerlens.adapting.clock import Clock
from layerlens.adapting.dropout import rest_, without_dropout
from layerlens.adapting.hooks import NO_HOOKS, Hooks
from layerlens.adapting.lora import trainable_state
from layerlens.adapting.optimizer import build_optimizer, build_schedule
from layerlens.adapting.precision import attention, training_device, uses_bf16
from layerlens.adapting.trackers import check_trackers
from layerlens.adapting.training import diverged
from layerlens.artifacts.store import write_json
from layerlens.config import TuneConfig
from layerlens.data.example import Batch, Example
from layerlens.data.inference import as_float32
from layerlens.data.task import Task
from layerlens.data.training_batches import training_batch
from layerlens.errors import ConfigError, LayerLensError, NotFiniteError
from layerlens.models.foreign import one_line
from layerlens.progress import Progress
from layerlens.streaming.memory_guard import MemoryGuard

WEIGHTS_FILE = "trainable.safetensors"
HISTORY_FILE = "history.json"
TENSORBOARD_FOLDER = "tensorboard"
#: The sample numbers of a batch, beside what the model takes.
NUMBERS = "sample_numbers"
#: Steps between handing freed memory back: at 16 it takes half a percent of the time, at 4 two.
_GIVE_BACK_EVERY = 16
#: Written when everything else of a checkpoint is; a checkpoint without it was cut short.
WHOLE_FILE = "whole"


@dataclass
class History:
    """What a run has seen so far: the loss of each step in nats, and the seconds that training took, its checkpoints apart."""

    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0


class SampleNumbers(Dataset[int]):
    """Every sample as its number: what a number stands for is looked up where the batch is made."""

    def __init__(self, num: int) -> None:
        self.num = num

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, index: int) -> int:
        return index


class TaskTrainer(Trainer):  # type: ignore[misc]
    """A Trainer for one fixed list of batches and a task's own loss."""

    def __init__(
        self,
        name: str,
        model: nn.Module,
        task: Task,
        examples: Sequence[Example],
        batches: list[list[int]],
        config: TuneConfig,
        *,
        checkpoints: Path,
        progress: Progress,
        num_samples: int,
        new_parameters: Collection[str],
        hooks: Hooks = NO_HOOKS,
    ) -> None:
        check_trackers(config.report_to)
        self.task, self.examples, self.batches, self.config = task, examples, batches, config
        self.new_parameters, self.num_samples, self.hooks = new_parameters, num_samples, hooks
        self.start = BoundaryStart(model, task, examples, batches, config, folder=checkpoints, progress=progress)
        self.history, self.clock = History(), Clock()
        self.optimizer: torch.optim.Optimizer | None = None
        self.lr_scheduler: torch.optim.lr_scheduler.LambdaLR | None = None
        super().__init__(
            model=model,
            args=training_arguments(name, config, num_steps=len(batches), checkpoints=checkpoints, label_keys=task.label_keys),
            train_dataset=SampleNumbers(len(examples)),
            data_collator=self._collate,
            callbacks=[
                ProgressCallback(progress, f"train {name}", len(batches)),
                GiveBackCallback(),
                *hooks.callbacks,
                WholeCallback(checkpoints),
            ],
        )
        self.remove_callback(PrinterCallback)
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, TensorBoardCallback) and callback.logging_dir is None:
                # The Trainer's own choice lies among the checkpoints, which are removed when the run has ended.
                callback.logging_dir = str(checkpoints.parent / TENSORBOARD_FOLDER)
        # The loss is a mean over samples, whatever the model could do with a count of tokens.
        self.model_accepts_loss_kwargs = False
        self.loss_is_scaled_for_ga = False

    def get_train_dataloader(self) -> DataLoader[Example]:
        """The batches in their order; resuming skips those that are done."""
        loader = DataLoader(self.train_dataset, batch_sampler=self.batches, collate_fn=self.data_collator)
        return self.accelerator.prepare(loader)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW over the trainable parameters, as in the race."""
        if self.optimizer is None:
            self.optimizer = build_optimizer(self.model, self.config, new_parameters=self.new_parameters)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """Linear warm-up and decay, as in the race."""
        if self.lr_scheduler is None:
            self.lr_scheduler = build_schedule(
                optimizer or self.create_optimizer(), num_steps=num_training_steps, warmup_ratio=self.config.warmup_ratio
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def compute_loss(
        self, model: nn.Module, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor | tuple[Tensor, Any]:
        """Mean of the task's per-sample loss, nats.

        Raises:
            NotFiniteError: training has diverged.
        """
        samples = inputs.pop(NUMBERS).tolist()
        if not self.config.dropout:
            rest_(model)
        with self.start.step(samples, inputs), attention(self.config, self.args.device, model, inputs):
            outputs = as_float32(model(**self.task.model_inputs(inputs)))
        loss = self.task.per_sample_loss(outputs, inputs).mean()
        self.history.losses.append(loss.item())
        if not math.isfinite(loss.item()):
            raise NotFiniteError(diverged(self.state.global_step + 1, loss.item(), self.config.learning_rate))
        if self.hooks.extra_loss is not None:
            loss = loss + self.hooks.extra_loss()
        return (loss, outputs) if return_outputs else loss

    def floating_point_ops(self, inputs: Batch) -> int:
        """Not counted here: the plan prices FLOPs exactly."""
        return 0

    def run(self, checkpoint: Path | None) -> History:
        """Train to the end, from a checkpoint where one is given."""
        self.clock.start()
        try:
            with self.start, nullcontext() if self.config.dropout else without_dropout(self.model):
                self.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        except Exception as error:
            if (tracker := type(error).__module__.partition(".")[0]) in self.config.report_to:
                raise ConfigError(f"report_to: {tracker} failed ({one_line(error)}); set it up, or leave it out") from error
            raise
        self.history.seconds = self.clock.seconds
        return self.history

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Report to the trackers with the true epoch: the Trainer takes our list of batches for a single one."""
        self.state.epoch = self.state.global_step * self.args.train_batch_size / self.num_samples
        super().log(logs, start_time)

    def _collate(self, samples: Sequence[int]) -> Batch:
        return {**training_batch(self.task, [self.examples[sample] for sample in samples]), NUMBERS: torch.tensor(samples)}

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        if self.args.device.type == "cuda":
            # What is still being computed is training.
            torch.cuda.synchronize(self.args.device)
        with self.clock.stopped():
            super()._save_checkpoint(model, trial)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with self.clock.stopped():
            super()._load_optimizer_and_scheduler(checkpoint)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        save_file(
            {name: tensor.contiguous().cpu() for name, tensor in trainable_state(self.model).items()}, folder / WEIGHTS_FILE
        )
        write_json(folder / HISTORY_FILE, {"losses": self.history.losses, "seconds": self.clock.seconds})

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        with self.clock.stopped():
            found = load_file(Path(resume_from_checkpoint) / WEIGHTS_FILE)
            needed = trainable_state(self.model)
            if {name: tensor.shape for name, tensor in found.items()} != {name: tensor.shape for name, tensor in needed.items()}:
                raise LayerLensError(
                    f"{resume_from_checkpoint} holds other parameters than this run trains; remove it and start again"
                )
            with torch.no_grad():
                for name, tensor in needed.items():
                    tensor.copy_(found[name])
            history = json.loads((Path(resume_from_checkpoint) / HISTORY_FILE).read_text(encoding="utf-8"))
            self.history.losses = list(history["losses"])
            self.clock.add(float(history["seconds"]))


def training_arguments(
    name: str, config: TuneConfig, *, num_steps: int, checkpoints: Path, label_keys: Sequence[str]
) -> TrainingArguments:
    """The Trainer's own settings for a run of `num_steps` given batches; trackers know it by `name`."""
    device = training_device()
    arguments = TrainingArguments(
        output_dir=str(checkpoints),
        per_device_train_batch_size=config.batch_size,
        max_steps=num_steps,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        bf16=uses_bf16(config.precision, device),
        activation_checkpointing=config.gradient_checkpointing,
        use_cpu=device.type == "cpu",
        seed=config.seed,
        save_strategy="steps",
        save_steps=config.save_steps,
        save_total_limit=2,
        logging_strategy="steps",
        logging_steps=max(1, num_steps // 50),
        logging_nan_inf_filter=False,
        report_to=config.report_to or "none",
        run_name=name,
        remove_unused_columns=False,
        label_names=list(label_keys),
        disable_tqdm=True,
        log_level="error",
        dataloader_pin_memory=False,
    )
    # One process drives one device; DataParallel would split the batches that runs are paired by.
    arguments._n_gpu = min(1, arguments.n_gpu)
    return arguments


def last_whole_checkpoint(checkpoints: Path) -> Path | None:
    """The latest checkpoint that was written to its end; ones cut short are removed."""
    found: list[tuple[int, Path]] = []
    for folder in checkpoints.glob("checkpoint-*"):
        if (folder / WHOLE_FILE).exists():
            found.append((int(folder.name.rpartition("-")[2]), folder))
        else:
            shutil.rmtree(folder)
    return max(found)[1] if found else None


class ProgressCallback(TrainerCallback):  # type: ignore[misc]
    """Moves our own progress bar, one step at a time."""

    def __init__(self, progress: Progress, title: str, num_steps: int) -> None:
        self.progress, self.title, self.num_steps = progress, title, num_steps
        self.ticks: Iterator[int] = iter(())

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.ticks = self.progress.track(range(self.num_steps), self.title, self.num_steps)
        for _ in range(state.global_step + 1):
            next(self.ticks, None)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        next(self.ticks, None)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        for _ in self.ticks:
            pass


class GiveBackCallback(TrainerCallback):  # type: ignore[misc]
    """Hands freed memory back every few steps.

    Where batches are of every length the C library finds no hole that fits the next one and takes more instead: LoRA on every
    layer of MiniLM, its batches padded to the longest sample, took 3.1 GB over 690 steps, and 2.7 with this. Padded on to a
    multiple (`training_batch`) it saves 3 % of 1.2 GB.
    """

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step % _GIVE_BACK_EVERY == 0:
            MemoryGuard.give_back()


class WholeCallback(TrainerCallback):  # type: ignore[misc]
    """Marks a checkpoint when its last file is written."""

    def __init__(self, checkpoints: Path) -> None:
        self.checkpoints = checkpoints

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        (self.checkpoints / f"checkpoint-{state.global_step}" / WHOLE_FILE).touch()
