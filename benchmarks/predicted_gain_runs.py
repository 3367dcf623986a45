"""The training runs of `predicted_gain.py`: what one is, how it is done, and the file that finished ones lie in.

A run is pure in its job and its subject, so a finished one is found by the hash of both and never done again. The file holds one
JSON object a line; a line that was cut off is done again.
"""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from predicted_gain_subjects import Subject

from layerlens.adapting.arms.ranks import with_ranks
from layerlens.adapting.attach import attached, restored
from layerlens.adapting.boundary_store import BoundaryShelf
from layerlens.adapting.head_start import start_head_
from layerlens.adapting.precision import autocast, on_training_device
from layerlens.adapting.samples import Samples, choose
from layerlens.adapting.training import train
from layerlens.artifacts.plan import Plan, load_plan
from layerlens.artifacts.store import sha256_of_json
from layerlens.data.inference import infer
from layerlens.errors import NotFiniteError
from layerlens.progress import SILENT, Progress
from layerlens.workflow.open import open_plan_model

STEPS_TIMED = 4
#: Memory for hidden states of frozen blocks, for each batch size.
SHARED_BYTES = 2 << 30
#: Options of training that a run depends on, beside those of its job.
OF_A_RUN = {
    "max_length", "seed", "head_learning_rate", "warmup_ratio", "weight_decay", "max_grad_norm", "precision",
    "max_train_samples", "fit_head",
}  # fmt: skip
#: Samples whose gradients a probe looks at: the last ones in the order of training, which short runs have not seen.
NUM_PROBED = 256
PROBE_BATCH = 16


class Kind(StrEnum):
    """What is trained: nothing, a LoRA, or one whole weight matrix; a probe is a LoRA whose gradients count in the end."""

    START = "start"
    LORA = "lora"
    FULL = "full"
    PROBE = "probe"


@dataclass(frozen=True)
class Job:
    """One run. `target` is a layer or a plan's name; `ranks` are of the LoRA; `part` is what it is scored on."""

    kind: Kind
    target: str
    part: str
    ranks: tuple[tuple[str, int], ...] = ()
    trains_head: bool = False
    steps: int = 0
    batch_size: int = 0
    learning_rate: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Outcome:
    """Loss of each held-out sample after a run and of each training step before its update, nats; empty where it diverged.

    Of a probe `losses` holds cosine, inner product and predicted drop of a further step of Adam (see `halves_agreement`).
    """

    losses: np.ndarray
    training: np.ndarray
    seconds: float

    @property
    def mean(self) -> float:
        """Mean held-out loss; infinite where the run diverged."""
        return float(self.losses.mean()) if len(self.losses) else float("inf")


class Trainer:
    """One model in memory, on which jobs run one after another; it is the same to the bit after each."""

    def __init__(self, subject: Subject, plan: Plan) -> None:
        torch.set_num_threads(subject.training.threads or 1)
        opened = open_plan_model(plan, str(subject.data), subject.training)
        self.subject, self.plan = subject, with_ranks(plan, {})
        self.data, self.part, self.task_model, self.layout = opened.data, opened.part, opened.task_model, opened.layout
        self.model = opened.task_model.model
        start_head_(opened.task_model, opened.data, opened.part, subject.training, SILENT)
        self.training = Samples(opened.data, choose(opened.part.train, None, seed=0))
        self._held_out: dict[str, list[Any]] = {}
        # Runs from one seed at one batch size share the hidden states under their lowest trained block.
        self._shelves: dict[int, BoundaryShelf] = {}

    def held_out(self, part: str) -> list[Any]:
        """The samples of `race` (validation) or `test` that runs are scored on."""
        if part not in self._held_out:
            indices = {"race": self.part.race, "test": self.part.test}[part]
            self._held_out[part] = Samples(self.data, choose(indices, self.subject.held_out, seed=0)).take()
        return self._held_out[part]

    def run(self, job: Job) -> Outcome:
        """Train and score one job."""
        started = time.perf_counter()
        training: list[float] = []
        with on_training_device(self.model), self._prepared(job) as model:
            try:
                if job.steps:
                    training = train(
                        model,
                        self.data.task,
                        self.data.examples,
                        self.training.batches(batch_size=job.batch_size, num_steps=job.steps, seed=job.seed),
                        self.subject.training.model_copy(update={"learning_rate": job.learning_rate}),
                        seed=job.seed,
                        new_parameters=self.task_model.new_parameters,
                        shelf=self._shelves.setdefault(job.batch_size, BoundaryShelf(SHARED_BYTES)),
                    )
                losses = self._probe(model) if job.kind is Kind.PROBE else self._score(model, job.part)
            except NotFiniteError:
                losses = np.zeros(0)
        if not np.isfinite(losses).all():
            losses = np.zeros(0)
        return Outcome(losses, np.array(training), time.perf_counter() - started)

    def _score(self, model: Any, part: str) -> np.ndarray:
        device = next(self.model.parameters()).device
        return infer(
            model,
            self.data.task,
            self.held_out(part),
            batch_size=32,
            autocast=lambda: autocast(self.subject.training.precision, device),
            has_predictions=False,
        ).losses

    def _probe(self, model: Any) -> np.ndarray:
        """Gradients of two halves of the samples after those that the run has seen, of the adapters alone."""
        chosen = self.training.indices[-NUM_PROBED:]
        model.eval()
        halves = []
        for half in (chosen[::2], chosen[1::2]):
            model.zero_grad(set_to_none=True)
            for first in range(0, len(half), PROBE_BATCH):
                batch = self.data.task.collate([self.data.examples[index] for index in half[first : first + PROBE_BATCH]])
                (self.data.task.per_sample_loss(model(**self.data.task.model_inputs(batch)), batch).sum() / len(half)).backward()
            halves.append(
                torch.cat(
                    [
                        parameter.grad.flatten()
                        for name, parameter in model.named_parameters()
                        if parameter.grad is not None and "lora_" in name
                    ]
                )
            )
        model.zero_grad(set_to_none=True)
        return halves_agreement(halves[0].double().numpy(), halves[1].double().numpy())

    @contextmanager
    def _prepared(self, job: Job) -> Iterator[Any]:
        if job.kind is Kind.START:
            yield self.model
        elif job.kind in (Kind.LORA, Kind.PROBE):
            plan = with_ranks(self.plan, dict(job.ranks))
            if not job.trains_head:
                plan = plan.model_copy(update={"head": [], "head_params": 0})
            with attached(self.model, plan, seed=job.seed) as adapted:
                yield adapted
        else:
            weight = self.model.get_submodule(job.target).weight
            kept = weight.detach().clone()
            with restored(self.model, []):
                self.model.requires_grad_(False)
                weight.requires_grad_(True)
                try:
                    yield self.model
                finally:
                    with torch.no_grad():
                        weight.copy_(kept)


def halves_agreement(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Cosine of two gradients, their inner product, and Σ sign of one × the other, both ways averaged, `[3]`."""
    inner = float(one @ other)
    cosine = inner / max(float(np.sqrt((one @ one) * (other @ other))), 1e-30)
    return np.array([cosine, inner, 0.5 * float(np.sign(one) @ other + np.sign(other) @ one)])


class Store:
    """Finished runs of one subject on disk."""

    def __init__(self, path: Path, subject: Subject) -> None:
        self.path = path
        training = subject.training.model_dump(mode="json")
        # Only what a single run depends on: another number of plans or other seeds leave finished runs valid.
        self._identity = {
            "data": str(subject.data.name),
            "training": {name: value for name, value in training.items() if name in OF_A_RUN},
            "held_out": subject.held_out,
            "name": subject.name,
        }
        self._found: dict[str, Outcome] = {}
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    entry = json.loads(line)
                    self._found[entry["key"]] = Outcome(np.array(entry["losses"]), np.array(entry["training"]), entry["seconds"])
                except (ValueError, KeyError):
                    continue

    def key(self, job: Job) -> str:
        """What a run is known by."""
        return sha256_of_json({**self._identity, "job": asdict(job)})

    def get(self, job: Job) -> Outcome | None:
        """The outcome of a job that has run."""
        return self._found.get(self.key(job))

    def __getitem__(self, job: Job) -> Outcome:
        return self._found[self.key(job)]

    def add(self, job: Job, outcome: Outcome) -> None:
        """Keep a finished run."""
        key = self.key(job)
        self._found[key] = outcome
        entry = {
            "key": key,
            "job": {**asdict(job), "ranks": len(job.ranks)},
            "seconds": round(outcome.seconds, 3),
            "losses": [float(f"{loss:.6g}") for loss in outcome.losses],
            "training": [float(f"{loss:.5g}") for loss in outcome.training],
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")


class Runs:
    """Does jobs of one subject, each once, in this process or in several."""

    def __init__(self, subject: Subject, folder: Path, *, processes: int, progress: Progress) -> None:
        self.subject, self.folder, self.processes, self.progress = subject, folder, processes, progress
        self.store = Store(folder / "runs.jsonl", subject)
        self._trainer: Trainer | None = None

    @property
    def trainer(self) -> Trainer:
        """The model in this process's memory."""
        if self._trainer is None:
            self._trainer = Trainer(self.subject, load_plan(self.folder / "plan.json"))
        return self._trainer

    def missing(self, jobs: Sequence[Job]) -> list[Job]:
        """Jobs that have not run, each once."""
        return [job for job in dict.fromkeys(jobs) if self.store.get(job) is None]

    def estimate_seconds(self, jobs: Sequence[Job]) -> float:
        """What the missing jobs will take, from a few timed steps of the costliest of each kind and batch size."""
        groups: dict[tuple[Kind, int, bool], list[Job]] = {}
        for job in self.missing(jobs):
            groups.setdefault((job.kind, job.batch_size, len(job.ranks) > 1), []).append(job)
        total = 0.0
        for members in groups.values():
            job = members[len(members) // 2]
            short = self.trainer.run(replace(job, steps=min(1, job.steps)))
            longer = self.trainer.run(replace(job, steps=min(1, job.steps) * (1 + STEPS_TIMED)))
            step = max(0.0, longer.seconds - short.seconds) / STEPS_TIMED
            total += sum(short.seconds + step * member.steps for member in members)
        return total / self.processes

    def do(self, jobs: Sequence[Job], title: str) -> Store:
        """Run what has not run yet; every outcome is then in the store."""
        missing = self.missing(jobs)
        if self.processes > 1 and len(missing) > 1:
            context = multiprocessing.get_context("spawn")
            with context.Pool(self.processes, _open, (self.subject, str(self.folder))) as pool:
                for job, outcome in self.progress.track(pool.imap_unordered(_run, missing), title, len(missing)):
                    self.store.add(job, outcome)
        else:
            for job in self.progress.track(missing, title, len(missing)):
                self.store.add(job, self.trainer.run(job))
        return self.store


#: The one trainer of a spawned process.
_TRAINER: list[Trainer] = []


def _open(subject: Subject, folder: str) -> None:
    _TRAINER.append(Trainer(subject, load_plan(Path(folder) / "plan.json")))


def _run(job: Job) -> tuple[Job, Outcome]:
    return job, _TRAINER[0].run(job)
