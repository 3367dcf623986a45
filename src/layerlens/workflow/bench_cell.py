"""The jobs of one cell of a suite, stage by stage: profile, plan, rate of uniform, race, rates of the others, runs.

What a stage needs of an earlier one is read from the records; where that stage died, the reason is passed on.
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from layerlens.adapting.arms.refused import why_refused
from layerlens.artifacts.bench import RateChoice, RateTrial
from layerlens.artifacts.evaluation import is_lower_better
from layerlens.artifacts.plan import candidates_folder, load_candidates, load_plan
from layerlens.artifacts.profile import load_profile
from layerlens.artifacts.store import sha256_of_file, write_json
from layerlens.benching.cells import CellPlace, data_options, race_config, training_config
from layerlens.benching.job import Done, Job, JobKind, done_record, options_of, reason_of
from layerlens.config.bench import BenchSuite, RateKind
from layerlens.errors import LayerLensError, ManifestError
from layerlens.workflow.bench_arms import (
    LAYERLENS,
    UNIFORM,
    VARIANTS,
    WITHOUT_PLAN,
    WITHOUT_RACE,
    is_search,
    kind_of,
    planning_of,
    trained_by,
    tuned_for,
)
from layerlens.workflow.plan import plan

log = logging.getLogger(__name__)

PLAN_FILE = "plan.json"
#: Of the file beside a plan that says how long planning took.
SECONDS_SUFFIX = ".seconds.json"


class MissingStageError(LayerLensError):
    """An earlier stage left nothing; says why."""


@dataclass
class BenchCell:
    """One model on one task.

    Attributes:
        suite: With its places filled in.
        place: Which cell.
        model: What the model is opened by.
        root: The suite's folder.
        failures: Why jobs and plans died, by their name.
        refused: Why arms have nothing to train on this task, by their name; known once there is a plan.
    """

    suite: BenchSuite
    place: CellPlace
    model: str
    root: Path
    failures: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    @property
    def variants(self) -> list[str]:
        """LayerLens itself, whose plan every arm refers to, and the variants that the suite names."""
        return [LAYERLENS, *(arm for arm in self.suite.arms if arm in VARIANTS and arm != LAYERLENS)]

    @property
    def raced(self) -> list[str]:
        """Variants whose plan is raced: none where no arm trains or refers to a winner."""
        return self.variants if {*self.suite.arms} - WITHOUT_RACE else []

    @property
    def race_seeds(self) -> list[int | None]:
        return list(self.suite.seeds) if self.suite.race_each_seed else [None]

    @property
    def is_everything_over(self) -> bool:
        """Whether the cell's plan died, without which nothing can run."""
        return self.failure(self._plan_name(LAYERLENS)) is not None

    def failure(self, *names: str) -> str | None:
        """Why the first of these that died did."""
        return next((self.failures[name] for name in names if name in self.failures), None)

    # What each stage runs.

    def profile_jobs(self) -> list[Job]:
        """One profile for every set of profiling switches."""
        return list({job.name: job for job in map(self.profile_job, self.variants)}.values())

    def make_plans(self) -> None:
        """Plan every variant in this process; what an earlier call planned is kept."""
        for name in self.variants:
            died = self.failure(self.profile_job(name).name)
            try:
                if died is not None:
                    raise MissingStageError(died)
                self._make_plan(name)
            except Exception as error:
                # Whatever goes wrong in one plan is the end of what needs it and of nothing else.
                log.debug("no plan %s", self._plan(name), exc_info=True)
                self.failures[self._plan_name(name)] = f"no plan: {reason_of(error)}"

    def plan_seconds(self, variant: str) -> float | None:
        """How long planning a variant took; None where no record says."""
        try:
            found = json.loads(self._seconds_path(variant).read_text(encoding="utf-8"))
            return float(found["seconds"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def base_rate_jobs(self) -> list[Job]:
        """Trials of uniform, whose rate the race takes."""
        if self.is_everything_over or not self.raced:
            return []
        return self._trials(UNIFORM, self._plan(LAYERLENS))

    def race_jobs(self) -> list[Job]:
        """One race for each variant's plan, and for each seed where the suite says so."""
        rate = self.rate(UNIFORM)
        if self.is_everything_over or rate is None:
            return []
        for name in self.raced:
            if self.failure(self._plan_name(name)) is None and self._only(name) == []:
                self.failures[self._plan_name(name)] = "no plan over the whole depth keeps the budgets"
        return [
            self.race_job(name, seed, rate.rate)
            for name in self.raced
            if self.failure(self._plan_name(name)) is None
            for seed in self.race_seeds
        ]

    def rate_jobs(self) -> list[Job]:
        """Trials of every other arm that is tuned."""
        if self.is_everything_over:
            return []
        tuned = dict.fromkeys(self._tuned_for(arm) for arm in self.suite.arms)
        return [
            job
            for arm in tuned
            if not (arm == UNIFORM and self.raced) and self._why_not(arm, self.suite.seeds[0]) is None
            for job in self._trials(arm, self._trained_plan(arm, self.suite.seeds[0]))
        ]

    def run_jobs(self) -> list[tuple[str, int, Job | None, str | None]]:
        """Every arm from every seed: its job, or why there is none."""
        found: list[tuple[str, int, Job | None, str | None]] = []
        for arm in self.suite.arms:
            rate = self.rate(arm)
            for seed in self.suite.seeds:
                why = self._why_not(arm, seed)
                if why is None and rate is None:
                    why = self.failure(*(job.name for job in self._trials(self._tuned_for(arm), "")))
                    why = f"no learning rate: {why or 'training diverged at every rate of its grid'}"
                if why is not None or rate is None:
                    found.append((arm, seed, None, why))
                else:
                    found.append(
                        (arm, seed, self._training(JobKind.RUN, arm, seed, rate.rate, self._trained_plan(arm, seed)), None)
                    )
        return found

    def rate(self, arm: str) -> RateChoice | None:
        """The learning rate of an arm, from the trials' records; None where a trial is missing or all diverged."""
        tuned_on, kind = self._tuned_for(arm), kind_of(arm)
        grid, seed = self.suite.learning_rates.grid(kind), self.suite.seeds[0]
        if len(grid) == 1:
            return RateChoice(arm=arm, rate=grid[0], seed=seed, tuned_on=tuned_on, is_at_edge=False)
        at = self._plan(LAYERLENS) if tuned_on == UNIFORM and self.raced else self._trained_plan(tuned_on, seed)
        if not (self.root / at).exists():
            return None
        records = [done_record(self.root, job) for job in self._trials(tuned_on, at)]
        done = [(rate, record) for rate, record in zip(grid, records, strict=True) if record is not None]
        ended = [(self._order(record), rate) for rate, record in done if record.arm is not None]
        if len(done) < len(grid) or not ended:
            return None
        best = min(ended)[1]
        trials = [RateTrial(rate=rate, metrics=record.arm.metrics if record.arm else {}) for rate, record in done]
        return RateChoice(arm=arm, rate=best, seed=seed, tuned_on=tuned_on, is_at_edge=best in (grid[0], grid[-1]), trials=trials)

    def plan_path(self, variant: str) -> Path:
        """Where the plan of a variant lies before it races."""
        return self.root / self._plan(variant)

    def raced_path(self, variant: str, seed: int | None) -> Path:
        """Where the plan of a variant lies once it has raced."""
        return self.root / self._raced(variant, seed)

    # How each job looks.

    def profile_job(self, variant: str) -> Job:
        """The profile of a variant; variants without switches of their own share LayerLens's."""
        switches = VARIANTS[variant].profiling
        out = f"profile-{variant}" if switches else "profile"
        options = data_options(self.place.task) | {"seed": self.suite.seeds[0], **switches}
        if self.suite.profiling.threads is None:
            options["threads"] = self.suite.training.threads or 1
        config = self.suite.profiling.model_copy(update=options)
        return self._job(JobKind.PROFILE, f"{self.place.name}/{out}", config.model_dump(mode="json", exclude_defaults=True))

    def race_job(self, variant: str, seed: int | None, rate: float) -> Job:
        """The race of a variant's candidates."""
        source = self._plan(variant)
        first = self.suite.seeds[0] if seed is None else seed
        config = race_config(self.suite, self.place.task, seed=first, rate=rate, only=self._only(variant))
        out = str(Path(self._raced(variant, seed)).parent)
        return self._job(JobKind.RACE, out, options_of(config), plan=source, plan_hash=self._hash(source))

    def _make_plan(self, variant: str) -> None:
        path = self.plan_path(variant)
        is_there = path.exists()
        if not is_there or self.plan_seconds(variant) is None:
            start = time.perf_counter()
            folder = self.root / self.profile_job(variant).out
            options = planning_of(
                VARIANTS[variant], self.suite.budget, self._planning(variant), load_profile(folder)[0].model.num_parameters
            )
            # A call that was killed may leave a plan without its seconds: that plan stays, as jobs know it by its hash.
            plan(folder, path, options, dry_run=is_there, command=f"layerlens bench {self.suite.name}")
            write_json(self._seconds_path(variant), {"seconds": time.perf_counter() - start})
        # What is damaged or missing here is this variant's end, not the suite's.
        made = load_plan(path)
        load_candidates(path)
        if variant == LAYERLENS:
            reasons = {arm: why_refused(arm, made, is_compressed=False) for arm in self.suite.arms}
            self.refused = {arm: reason for arm, reason in reasons.items() if reason is not None}

    def _only(self, variant: str) -> list[str] | None:
        """The candidates that may race: what the suite names, as far as a variant has them, and no depth cut in its ablation."""
        asked, has_cut = self.suite.race.only, VARIANTS[variant].has_depth_cut
        if variant == LAYERLENS or (asked is None and has_cut):
            return asked
        found = load_candidates(self.root / self._plan(variant))
        return [name for name, made in found.items() if (asked is None or name in asked) and (has_cut or made.depth_cut == 0)]

    def _planning(self, variant: str) -> dict[str, Any]:
        """Options of a plan: the batch and the epochs of the suite's own runs, unless the suite says otherwise."""
        task = self.place.task
        config = training_config(self.suite, task, seed=self.suite.seeds[0], rate=1.0)
        record = done_record(self.root, self.profile_job(variant))
        samples = record.train_samples if record is not None else None
        epochs = config.epochs
        if config.max_steps is not None and samples:
            epochs = config.max_steps * config.batch_size / min(samples, config.max_train_samples or samples)
        return {"batch_size": config.batch_size, "epochs": epochs} | self.suite.planning

    def _trials(self, arm: str, at: str) -> list[Job]:
        """One trial for each rate of the arm's grid; none where there is nothing to choose."""
        grid = self.suite.learning_rates.grid(kind_of(arm))
        return [self._training(JobKind.RATE, arm, self.suite.seeds[0], rate, at) for rate in grid] if len(grid) > 1 else []

    def _training(self, kind: JobKind, arm: str, seed: int, rate: float, at: str) -> Job:
        is_head = kind_of(arm) is RateKind.HEAD
        config = training_config(self.suite, self.place.task, seed=seed, rate=rate, is_head_alone=is_head)
        if kind is JobKind.RATE:
            config = config.model_copy(update={"max_eval_samples": self.suite.learning_rates.samples})
        out = f"{self.place.name}/" + (f"rates/{arm}-{rate:g}" if kind is JobKind.RATE else f"runs/{arm}-seed{seed}")
        return self._job(
            kind,
            out,
            options_of(config),
            plan=at,
            plan_hash=self._hash(at),
            candidates=self._plan(arm if arm in VARIANTS else LAYERLENS),
            arm=arm,
            trained=LAYERLENS if arm in VARIANTS else None,
            rank=self.suite.query_value_rank,
            race=self._race_of_search() if is_search(arm) else None,
            metric=self.place.task.metric,
        )

    def _race_of_search(self) -> dict[str, Any] | None:
        """What the trials of a search share with the suite's race; none where that is as races are by default."""
        shared = {"min_steps", "held_out_samples"}
        return self.suite.race.model_dump(mode="json", include=shared, exclude_defaults=True) or None

    def _job(self, kind: JobKind, out: str, config: dict[str, Any], **rest: Any) -> Job:
        task = self.place.task
        places = {"eval_data": task.eval_data, "eval_split": task.eval_split}
        return Job(name=out, kind=kind, out=out, model=self.model, data=task.data, config=config, **places, **rest)

    def _plan(self, variant: str) -> str:
        return f"{self.place.name}/{PLAN_FILE}" if variant == LAYERLENS else f"{self.place.name}/plans/{variant}.json"

    def _seconds_path(self, variant: str) -> Path:
        return self.plan_path(variant).with_suffix(SECONDS_SUFFIX)

    def _plan_name(self, variant: str) -> str:
        return f"plan:{self._plan(variant)}"

    def _raced(self, variant: str, seed: int | None) -> str:
        suffix = "" if seed is None else f"-seed{seed}"
        return f"{self.place.name}/raced/{variant}{suffix}/{PLAN_FILE}"

    def _trained_plan(self, arm: str, seed: int) -> str:
        """The plan that an arm trains or refers to."""
        if not self.raced or arm in WITHOUT_PLAN:
            return self._plan(LAYERLENS)
        return self._raced(arm if arm in VARIANTS else LAYERLENS, seed if self.suite.race_each_seed else None)

    def _tuned_for(self, arm: str) -> str:
        tuned = tuned_for(arm, self.suite.arms, per_kind=self.suite.learning_rates.tuned == "kind")
        return UNIFORM if tuned == arm and self._is_uniform(arm) else tuned

    def _is_uniform(self, arm: str) -> bool:
        """Whether an arm's race ended with the very plan that uniform's trials have trained already, from the same seed."""
        if arm not in VARIANTS or not self.raced:
            return False
        try:
            raced = load_plan(self.root / self._trained_plan(arm, self.suite.seeds[0]))
            uniform = load_plan(candidates_folder(self.plan_path(LAYERLENS)) / f"{UNIFORM}.json")
        except ManifestError:
            # Nothing has raced yet, or what is damaged is told by whoever trains it.
            return False
        return trained_by(raced) == trained_by(uniform)

    def _why_not(self, arm: str, seed: int) -> str | None:
        """Why an arm has no plan to train or nothing to train of it, or None."""
        if self.is_everything_over:
            return self.failure(self._plan_name(LAYERLENS))
        if arm in self.refused:
            return self.refused[arm]
        needed = self._trained_plan(arm, seed)
        why = self.failure(self._plan_name(arm if arm in VARIANTS else LAYERLENS), str(Path(needed).parent))
        if why is not None or (self.root / needed).exists():
            return why
        trials = self._trials(UNIFORM, "")
        return f"no race: {self.failure(*(job.name for job in trials)) or 'no learning rate of uniform to race at'}"

    def _order(self, record: Done) -> tuple[float, float]:
        """The lower, the better: the metric turned round where more is better, then the loss."""
        metrics = record.arm.metrics if record.arm else {}
        loss = metrics["loss"]
        if self.suite.learning_rates.select_by == "loss" or record.metric is None:
            return loss, 0.0
        value = metrics[record.metric]
        return (value if is_lower_better(record.metric) else -value), loss

    def _hash(self, relative: str) -> str | None:
        path = self.root / relative
        return sha256_of_file(path) if relative and path.exists() else None
