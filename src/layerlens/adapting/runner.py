"""One run of a race: put a candidate on, train it briefly, score it on the held-out samples, take it off.

Runs are pure in (candidate, steps, seed): equal ones give equal losses, so a finished run is read from the state.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from layerlens.adapting.attach import attached
from layerlens.adapting.batch_identity import batch_identity
from layerlens.adapting.boundary_store import BoundaryShelf
from layerlens.adapting.precision import arithmetic, autocast, training_device
from layerlens.adapting.race_state import NOT_OF_A_RUN, Run, open_state, save_state
from layerlens.adapting.samples import Samples
from layerlens.adapting.site_modules import trained_identity
from layerlens.adapting.training import train
from layerlens.artifacts.plan import Plan
from layerlens.artifacts.store import sha256_of_json
from layerlens.config import RaceConfig
from layerlens.data.inference import infer
from layerlens.errors import NotFiniteError
from layerlens.models.load import TaskModel
from layerlens.progress import Progress

EVAL_BATCH_FACTOR = 2
#: Letters of the hash that a candidate is described by.
_HASH_LETTERS = 12


class Runner:
    """Trains and scores candidates on one base model, and remembers on disk what it found."""

    def __init__(
        self,
        task_model: TaskModel,
        training: Samples,
        held_out: Samples,
        candidates: dict[str, Plan],
        config: RaceConfig,
        *,
        state_path: Path | None,
        progress: Progress,
        may_start_anew: bool = True,
    ) -> None:
        self.model = task_model.model
        self.new_parameters = task_model.new_parameters
        self.task = training.data.task
        self.training = training
        self.held_out = held_out.take()
        self.candidates = candidates
        self.config = config
        self.state_path = state_path
        # Candidates of one depth train on the same batches from the same hidden states.
        self.shelf = BoundaryShelf(config.share_at_most)
        self.used: set[tuple[str, int, int]] = set()
        self.diverged: set[str] = set()
        self.was_stopped = False
        device = training_device()
        trained = {name: trained_identity(plan) for name, plan in sorted(candidates.items())}
        content = {
            "model": task_model.identity,
            "candidates": trained,
            "config": config.model_dump(mode="json", exclude=NOT_OF_A_RUN),
            "training": training.identity,
            "held_out": held_out.identity,
            "arithmetic": list(arithmetic(config.precision, device).values()),
            **batch_identity(self.task),
        }
        described = content | {
            "candidates": {name: sha256_of_json(found)[:_HASH_LETTERS] for name, found in trained.items()},
            "arithmetic": arithmetic(config.precision, device),
        }
        self.state, put_aside = open_state(state_path, sha256_of_json(content), described, may_start_anew=may_start_anew)
        if put_aside is not None:
            progress.note(put_aside)
        elif self.state.runs:
            progress.note(f"{len(self.state.runs)} runs of this race are read from {state_path}")
        self._seconds_before = self.state.seconds
        self._started = time.monotonic()

    @property
    def is_out_of_time(self) -> bool:
        """Whether no new run may start."""
        limit = self.config.max_seconds
        return limit is not None and self._seconds() >= limit

    @property
    def steps(self) -> int:
        """Training steps of the runs that this race has used."""
        return sum(steps for _, steps, _ in self.used)

    def has_finished(self, name: str, steps: int, seed: int) -> bool:
        return self.state.find(name, steps, seed) is not None

    def start_losses(self) -> NDArray[np.float64]:
        """Held-out loss of each sample before any training, `[samples]`, nats; the same for every candidate.

        Raises:
            NotFiniteError: it is NaN or infinite, so nothing can be learned from it.
        """
        if self.state.start is None:
            losses = self._score()
            if not np.isfinite(losses).all():
                raise NotFiniteError(
                    "the model's held-out loss is not finite before any training; check the data, or use --precision fp32"
                )
            self.state.start = losses.tolist()
            self._save()
        return np.array(self.state.start)

    def run(self, name: str, steps: int, seed: int) -> NDArray[np.float64] | None:
        """Train a candidate `steps` steps from `seed`.

        Returns:
            Held-out loss of each sample, nats; none where training diverged.
        """
        found = self.state.find(name, steps, seed)
        if found is None:
            losses = self._train_and_score(self.candidates[name], steps, seed)
            found = Run(candidate=name, steps=steps, seed=seed, losses=None if losses is None else losses.tolist())
            self.state.runs.append(found)
            self._save()
        self.used.add((name, steps, seed))
        if found.losses is None:
            self.diverged.add(name)
            return None
        return np.array(found.losses)

    def _train_and_score(self, plan: Plan, steps: int, seed: int) -> NDArray[np.float64] | None:
        batches = self.training.batches(batch_size=self.config.batch_size, num_steps=steps, seed=seed)
        with attached(self.model, plan, seed=seed) as adapted:
            try:
                train(
                    adapted,
                    self.task,
                    self.training.data.examples,
                    batches,
                    self.config,
                    seed=seed,
                    new_parameters=self.new_parameters,
                    shelf=self.shelf,
                )
            except NotFiniteError:
                return None
            losses = self._score(adapted)
        return losses if np.isfinite(losses).all() else None

    def _score(self, adapted: object | None = None) -> NDArray[np.float64]:
        model = self.model if adapted is None else adapted
        device = next(self.model.parameters()).device
        return infer(
            model,  # type: ignore[arg-type]
            self.task,
            self.held_out,
            batch_size=EVAL_BATCH_FACTOR * self.config.batch_size,
            autocast=lambda: autocast(self.config.precision, device),
            has_predictions=False,
        ).losses

    def _seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._started

    def _save(self) -> None:
        self.state.seconds = self._seconds()
        save_state(self.state_path, self.state)
