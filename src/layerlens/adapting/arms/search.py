"""A search that measures its choices as LayerLens's race does, but is told nothing by a profile.

Optuna's tree-structured Parzen estimator (Bergstra et al. 2011) proposes a set of roles, a depth cut and a rank; the proposal
trains for a few steps with full warm-up and decay, and its held-out loss is what the next proposals go by. It may spend as many
training steps as the race of the plan it is compared with, or ten times as many. It stands for AutoLoRA and for neural
architecture search over PEFT's options.

At an exact number of parameters a rank decides the breadth: a rank above the one that fits everywhere sits on as many evenly
spaced layers of the set as it can.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from layerlens.adapting.arms.apportionment import spread_order
from layerlens.adapting.arms.job import ArmJob
from layerlens.adapting.arms.names import ArmName
from layerlens.adapting.arms.ranks import even_ranks, linear_layers, with_ranks
from layerlens.adapting.head_start import start_head_
from layerlens.adapting.hooks import Hooks
from layerlens.adapting.lora import check_model
from layerlens.adapting.precision import on_training_device
from layerlens.adapting.runner import Runner
from layerlens.adapting.samples import Samples, choose
from layerlens.artifacts.evaluation import Arm
from layerlens.artifacts.plan import Plan
from layerlens.config import RaceConfig, TrainingConfig, default_max_rank
from layerlens.errors import ConfigError, DataError, NotFiniteError
from layerlens.models.threads import threads
from layerlens.words import ROLE_SETS, depth_cuts

STATE_FILE = "search.json"
#: Cost as a multiple of the race's, and trials at most: a larger cost buys more trials and longer ones.
SCALE = {ArmName.SEARCH.value: 1, ArmName.SEARCH_10X.value: 10}
MOST_TRIALS = {ArmName.SEARCH.value: 24, ArmName.SEARCH_10X.value: 72}
#: Proposals in a row that repeat what has been measured, or cannot hold the parameters, after which a search has converged.
MOST_REPEATS = 32


def run_search(job: ArmJob) -> Arm:
    """Search, then train what was found. The measurements are kept in `search.json`, and none is made twice.

    Raises:
        ConfigError: Optuna is not installed, or no proposal can hold the parameters.
        DataError: too few samples.
        NotFiniteError: every trial diverged.
    """
    best, details = _search(job)
    return job.run_plan(best, Hooks(outcome=lambda: {"details": details}))


def _search(job: ArmJob) -> tuple[Plan, dict[str, Any]]:
    """The best option that was measured, and what the arm tells of the search.

    What the trials kept in memory is let go when this returns, so that the final training's peak is its own.
    """
    if find_spec("optuna") is None:
        raise ConfigError(f'the arm {job.name} needs optuna; install it with: pip install "layerlens-plan[search]"')
    check_model(job.plan, job.task_model)
    config = _race_config(job)
    held_out = Samples(job.data, choose(job.part.race, config.held_out_samples, seed=config.seed))
    if not len(held_out) or not len(job.training):
        raise DataError(
            f"{job.name} needs training and held-out samples, got {len(job.training)} and {len(held_out)} of {job.data.id}; "
            "give more data"
        )
    with threads(config.threads):
        start_head_(job.task_model, job.data, job.part, config, job.progress)
        with on_training_device(job.task_model.model):
            runner = Runner(
                job.task_model,
                job.training,
                held_out,
                {job.plan.chosen.name: job.plan},
                config,
                state_path=job.out / STATE_FILE,
                progress=job.progress,
            )
            losses, steps = _measure(job, runner)
    if not runner.used:
        raise ConfigError(
            f"{job.name}: no proposed layers can hold the plan's {job.plan.params:,} parameters; plan with another budget"
        )
    if not losses:
        raise NotFiniteError(
            f"{job.name}: every trial diverged with learning rate {config.learning_rate:g}; use a lower --learning-rate"
        )
    best = min(losses, key=lambda name: (losses[name], name))
    job.progress.note(f"{job.name}: {best} has the lowest held-out loss of {len(losses)} options, {losses[best]:.4f}")
    details = {
        "chosen": best,
        "held_out_loss": losses,
        "steps_per_trial": steps,
        "steps_spent": runner.steps,
        "steps_allowed": budget_steps(job),
    }
    return runner.candidates[best], details


def option(plan: Plan, role_set: str, cut: int, rank: int) -> tuple[str, Plan] | None:
    """A choice of the search as a plan of as many parameters, and its name.

    Args:
        plan: The plan whose model and parameters are taken.
        role_set: One of `ROLE_SETS`.
        cut: Lowest block that may be adapted.
        rank: Of each adapted layer at least, while the parameters last.

    Returns:
        None where these layers cannot hold the parameters.
    """
    roles = ROLE_SETS[role_set]
    members = [
        entry
        for entry in linear_layers(plan)
        if (not roles or entry.role in {role.value for role in roles}) and (entry.block or 0) >= cut
    ]
    if not members:
        return None
    costs = [entry.in_features + entry.out_features for entry in members]
    num = max(1, min(len(members), plan.params * len(members) // (rank * sum(costs))))
    chosen = [members[number] for number in sorted(spread_order(len(members))[:num])]
    if plan.params < min(entry.in_features + entry.out_features for entry in chosen):
        return None
    made = with_ranks(plan, even_ranks(plan, chosen))
    if plan.params - made.params >= max(costs):
        return None
    return f"{role_set}@{cut}, {num} of {len(members)} layers", made


def budget_steps(job: ArmJob) -> int:
    """Training steps that the search may take: the race's own, or what a race takes by default."""
    race = job.plan.race
    if job.search_steps is not None:
        spent = job.search_steps
    elif race is not None and race.share_of_tuning > 0.0:
        spent = round(race.share_of_tuning * race.details.get("tuning_steps", job.num_steps))
    else:
        spent = round(RaceConfig().share * job.num_steps)
    return max(1, SCALE[job.name] * spent)


def trial_steps(budget: int, *, shortest: int, longest: int, most_trials: int) -> int:
    """Steps of one trial: at least the race's shortest final, so that learning has set in, but two trials always fit."""
    return max(1, min(longest, budget // 2, max(shortest, budget // most_trials)))


def _measure(job: ArmJob, runner: Runner) -> tuple[dict[str, float], int]:
    """Held-out loss in nats of every option that was tried and did not diverge, and the steps of one trial."""
    from optuna.trial import TrialState

    budget = budget_steps(job)
    config, most = runner.config, MOST_TRIALS[job.name]
    steps = trial_steps(budget, shortest=config.min_steps, longest=job.num_steps, most_trials=most)
    losses: dict[str, float] = {}
    num_blocks = 1 + max((entry.block or 0 for entry in job.plan.layers), default=0)
    largest = job.plan.metadata.optimization.get("max_rank") or default_max_rank(job.plan.model.hidden_size)
    with _study(job.config.seed, num_startup=max(2, budget // steps // 4)) as study:
        repeats = 0
        while runner.steps + steps <= budget and repeats < MOST_REPEATS:
            trial = study.ask()
            found = option(
                job.plan,
                trial.suggest_categorical("roles", list(ROLE_SETS)),
                trial.suggest_categorical("cut", depth_cuts(num_blocks)),
                trial.suggest_int("rank", 1, largest, log=True),
            )
            repeats += 1
            if found is None:
                study.tell(trial, state=TrialState.FAIL)
                continue
            name, plan = found
            if name not in runner.candidates:
                runner.candidates[name], repeats = plan, 0
            measured = runner.run(name, steps, config.seed)
            if measured is None:
                study.tell(trial, state=TrialState.FAIL)
                continue
            losses[name] = float(measured.mean())
            study.tell(trial, losses[name])
    return losses, steps


@contextmanager
def _study(seed: int, *, num_startup: int) -> Iterator[Any]:
    """A quiet study in memory."""
    import optuna

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=num_startup))
    finally:
        optuna.logging.set_verbosity(verbosity)


def _race_config(job: ArmJob) -> RaceConfig:
    """Trials train as the arm does, and are as long and as well measured as the race that they are compared with."""
    trained = {name: getattr(job.config, name) for name in TrainingConfig.model_fields}
    return RaceConfig(**trained, min_steps=job.race.min_steps, held_out_samples=job.race.held_out_samples)
