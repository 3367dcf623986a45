"""`layerlens tune`: a plan becomes a fine-tuned adapter, measured beside the arms it is compared with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from layerlens.adapting.arms.names import ArmName
from layerlens.adapting.arms.refused import why_refused
from layerlens.adapting.arms.run import run_arm
from layerlens.adapting.finetune import is_claimed, why_not_its_own
from layerlens.adapting.load import PLAN_FILE
from layerlens.adapting.num_steps import num_tuning_steps
from layerlens.adapting.save import ADAPTER_FOLDER
from layerlens.adapting.trackers import check_trackers
from layerlens.adapting.tune import run_spec
from layerlens.adapting.tune import tune as run_tune
from layerlens.artifacts.evaluation import EVALUATION_FILE, FULL, Arm, Evaluation, with_time_ratios
from layerlens.artifacts.plan import UNIFORM, Plan, load_candidates, load_plan, save_plan
from layerlens.artifacts.store import write_json
from layerlens.artifacts.versions import installed_versions
from layerlens.config import BaseFormat, RaceConfig, TrainingConfig, TuneConfig, output_path
from layerlens.data.dataset import LoadedData
from layerlens.data.partition import in_split
from layerlens.data.source_name import is_same_source
from layerlens.data.sources.opening import TEST_SPLIT, has_test_split
from layerlens.errors import ConfigError, DataError, ManifestError
from layerlens.evaluation.run import make_evaluation
from layerlens.progress import SILENT, Progress
from layerlens.words import BudgetName
from layerlens.workflow.given import given_config
from layerlens.workflow.machine import machine_kind
from layerlens.workflow.open import Opened, check_race, open_data, open_plan_model, tell_base, tell_notes
from layerlens.workflow.race import race

PACKAGES = ("torch", "transformers", "peft")


@dataclass(frozen=True)
class TuneResult:
    """The adapter and what it measured; after a dry run the facts alone."""

    adapter: Path
    evaluation: Evaluation | None
    facts: dict[str, str] = field(default_factory=dict)


def tune(
    plan: str | Path,
    data: str | Path,
    out: str | Path,
    config: TuneConfig | Mapping[str, Any] | None = None,
    *,
    no_race: bool = False,
    dry_run: bool = False,
    race_config: RaceConfig | Mapping[str, Any] | None = None,
    command: str = "layerlens.tune",
    progress: Progress = SILENT,
) -> TuneResult:
    """Race the plan unless it has raced, train it, and measure it beside the arms that `config.compare` names.

    Args:
        plan: A plan; rewritten when it races here.
        data: Training data of the plan's task.
        out: Folder for `adapter/`, `evaluation.json` and, in `arms/`, the other arms. A stopped run goes on there.
        config: How to train, and what to compare with.
        no_race: Train the plan as it is.
        dry_run: Say what would be trained, and touch nothing.
        race_config: How to race; the training options of `config` if not given.
        command: The invocation, kept in the evaluation.
        progress: Who watches.

    Returns:
        Where the adapter lies, and every arm's measured scores.

    Raises:
        LayerLensError: the plan, the model, the data or an option is not what it should be, or the folder holds what another
            run or a person has put there.
    """
    config = given_config(TuneConfig, config or {})
    racing = None if race_config is None else given_config(RaceConfig, race_config, name="race_config")
    path, folder = Path(plan).expanduser(), output_path(out)
    loaded = load_plan(path)
    _check_arms(config, path, loaded)
    check_trackers(config.report_to)
    _check_folder(folder, path, loaded, config)
    opened = open_plan_model(loaded, str(data), config, has_eval_data=config.eval_data is not None)
    _check_checkpointing(opened, config)
    check_race(loaded, opened.data, has_eval_data=config.eval_data is not None)
    evaluated = _evaluation_samples(opened, config)
    tell_notes(progress, opened.data, evaluated[0])
    tell_base(progress, loaded, config)
    _check_runs(opened, evaluated, config, folder)
    if dry_run:
        return TuneResult(folder / ADAPTER_FOLDER, None, facts=_facts(loaded, opened, evaluated, config, no_race=no_race))
    if loaded.race is None and not no_race:
        loaded = race(path, data, racing or _race_config(config), progress=progress, opened=opened).plan
    arms = _run_arms(loaded, path, opened, evaluated, config, folder, progress)
    if (folder / PLAN_FILE).resolve() != path.resolve():
        save_plan(folder / PLAN_FILE, loaded)
    evaluation = make_evaluation(
        with_time_ratios(arms, predicted_times(loaded, path, config)),
        evaluated[0],
        model=loaded.model.id,
        eval_samples=_at_most(config.max_eval_samples, evaluated[1]),
        command=command,
        versions=installed_versions(*PACKAGES),
        machine=machine_kind(),
    )
    write_json(folder / EVALUATION_FILE, evaluation)
    return TuneResult(folder / ADAPTER_FOLDER, evaluation)


def _run_arms(
    plan: Plan,
    path: Path,
    opened: Opened,
    evaluated: tuple[LoadedData, Sequence[int]],
    config: TuneConfig,
    folder: Path,
    progress: Progress,
) -> list[Arm]:
    """Train the plan and every arm beside it from each seed; what an earlier run finished is read."""
    candidates = load_candidates(path) if config.compare else {}
    arms = []
    for name, seed, place in _places(folder, config):
        parts = (opened.task_model, opened.data, opened.part, evaluated, _settings_of(name, seed, config))
        if name in list(ArmName):
            arms.append(run_arm(name, plan, candidates, *parts, out=place, progress=progress))
        else:
            arms.append(run_tune(candidates[name], *parts, out=place, name=name, progress=progress))
    return arms


def _settings_of(name: str, seed: int, config: TuneConfig) -> TuneConfig:
    """How one arm trains from one seed."""
    rate = config.learning_rates.get(name, config.learning_rate)
    return config.model_copy(update={"seed": seed, "learning_rate": rate, "seeds": None, "compare": [], "learning_rates": {}})


def _places(folder: Path, config: TuneConfig) -> Iterator[tuple[str, int, Path]]:
    """Name, seed and folder of every arm in the order that they run; the plan's own, from the first seed, is the run's."""
    for number, seed in enumerate(config.seeds or [config.seed]):
        for name in _arm_names(config):
            is_main = name == ArmName.LAYERLENS and number == 0
            yield name, seed, folder if is_main else folder / "arms" / f"{name}-seed{seed}"


def _arm_names(config: TuneConfig) -> list[str]:
    return list(dict.fromkeys([ArmName.LAYERLENS.value, *config.compare]))


def predicted_times(plan: Plan, path: Path, config: TuneConfig) -> dict[str, float]:
    """Training time that the plan and the compared candidates foresee, as a share of full fine-tuning's, by arm.

    A candidate of an arm's name is not what that arm trains: the candidate query+value fills the budget, the arm has rank 8.
    """
    candidates = load_candidates(path) if config.compare else {}
    plans = {name: found for name, found in candidates.items() if name == UNIFORM or name not in list(ArmName)}
    plans[ArmName.LAYERLENS.value] = plan
    if plan.is_cut_short:
        # The arm of this name is over all layers, which the planner's own could not be.
        plans.pop(UNIFORM, None)
    spent = {name: found.budgets.get(BudgetName.TIME_RATIO) for name, found in plans.items()}
    return {**{name: budget.spent for name, budget in spent.items() if budget is not None}, FULL: 1.0}


def _check_arms(config: TuneConfig, path: Path, plan: Plan) -> None:
    names = _arm_names(config)
    if idle := [name for name in config.learning_rates if name not in names]:
        raise ConfigError(f"--learning-rates: no arm {', '.join(idle)} is run here; there are {', '.join(names)}")
    if ArmName.FULL in config.compare and _base_of(config) is not None:
        raise ConfigError(
            f"--compare full: a base in {_base_of(config)} cannot be trained as a whole; leave full out, or measure it over the "
            "model as it is, in a run of its own"
        )
    reasons = {name: why_refused(name, plan, is_compressed=config.base is not None) for name in config.compare}
    if faults := [f"--compare {name}: {reason}" for name, reason in reasons.items() if reason is not None]:
        raise ConfigError.of(faults)
    unknown = [name for name in config.compare if name not in list(ArmName)]
    if unknown:
        candidates = load_candidates(path)
        if foreign := [name for name in unknown if name not in candidates]:
            known = ", ".join([*ArmName, *candidates])
            raise ConfigError(f"--compare: unknown arm {', '.join(foreign)}; there are {known}")


def _check_folder(folder: Path, path: Path, plan: Plan, config: TuneConfig) -> None:
    """Raise before anything is trained where a run would write over what is not its own; see `is_claimed` for what is."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file, not a folder; choose another --out")
    made = [place / ADAPTER_FOLDER for _, _, place in _places(folder, config) if not is_claimed(place)]
    if not is_claimed(folder):
        made.append(folder / EVALUATION_FILE)
    faults = [f"{found} is not of this run" for found in made if found.exists()]
    target = folder / PLAN_FILE
    if target.exists() and target.resolve() != path.resolve() and not _holds(target, plan):
        faults.append(f"{target} is another plan than {path}")
    if faults:
        raise ConfigError(f"{'; '.join(faults)}; choose another output folder or remove what is there")


def _check_runs(opened: Opened, evaluated: tuple[LoadedData, Sequence[int]], config: TuneConfig, folder: Path) -> None:
    """Raise before anything is trained where an arm's folder holds another run, as far as that is known before its turn."""
    faults = []
    for name, seed, place in _places(folder, config):
        if is_claimed(place):
            parts = (opened.task_model, opened.data, opened.part, evaluated, _settings_of(name, seed, config))
            fault = why_not_its_own(place, run_spec(name, *parts, adapter_params=0, head_params=0, trained={}))
            faults += [] if fault is None else [fault]
    if faults:
        raise ConfigError(f"{'; '.join(faults)}; choose another output folder or remove what is there")


def _holds(path: Path, plan: Plan) -> bool:
    try:
        return load_plan(path) == plan
    except ManifestError:
        return False


def _check_checkpointing(opened: Opened, config: TuneConfig) -> None:
    model = opened.task_model.model
    if config.gradient_checkpointing and not model.supports_gradient_checkpointing:
        raise ConfigError(f"--gradient-checkpointing: a {type(model).__name__} does not support it; leave it out")


def _evaluation_samples(opened: Opened, config: TrainingConfig) -> tuple[LoadedData, Sequence[int]]:
    """The samples of the final evaluation: the test split of `eval_data` or all of them, else the test part of the data.

    Raises:
        DataError: there are none, or they are those that are trained on.
    """
    if config.eval_data is None:
        return opened.data, opened.part.test
    takes_test = has_test_split(config.eval_data)
    reading = config.model_copy(update={"split": TEST_SPLIT}) if takes_test else config
    data = open_data(opened.checkpoint, config.eval_data, reading, opened.data.task.info)
    if not len(data.examples):
        raise DataError(f"{config.eval_data} holds no samples to evaluate on; give another --eval-data")
    if tests := in_split(data.splits, "test"):
        return data, tests
    is_apart = takes_test and TEST_SPLIT not in (config.split or "")
    if not is_apart and _is_trained_on(data, opened.data):
        raise DataError(
            f"--eval-data {data.id} is what is trained on and has no test split; leave --eval-data out for a seeded split"
        )
    return data, range(len(data.examples))


def _is_trained_on(data: LoadedData, trained: LoadedData) -> bool:
    """Whether data are those that are trained on: by their name, or as a copy."""
    return is_same_source(data.id, trained.id) or data.has_samples_of(trained)


def _at_most(limit: int | None, samples: Sequence[int]) -> int:
    """How many samples are used under a limit."""
    return len(samples) if limit is None else min(limit, len(samples))


def _base_of(config: TrainingConfig) -> str | None:
    """What the adapters train over where that is not the model as it is."""
    return config.base or (None if config.base_format is BaseFormat.AS_IS else config.base_format.value)


def _race_config(config: TuneConfig) -> RaceConfig:
    shared = {name: getattr(config, name) for name in TrainingConfig.model_fields}
    return RaceConfig(**shared, epochs=config.epochs, tuning_steps=config.max_steps)


def _facts(
    plan: Plan, opened: Opened, evaluated: tuple[LoadedData, Sequence[int]], config: TuneConfig, *, no_race: bool
) -> dict[str, str]:
    samples = _at_most(config.max_train_samples, opened.part.train)
    steps = num_tuning_steps(samples, batch_size=config.batch_size, epochs=config.epochs, max_steps=config.max_steps)
    runs = len(config.seeds or [config.seed])
    return {
        "model": f"{plan.model.id} ({plan.model.architecture})",
        "base": _base_of(config) or "as it is",
        "plan": f"{plan.chosen.name}: {plan.params:,} parameters in {len(plan.adapted)} layers, head {plan.head_params:,}",
        "train": f"{steps} steps of {config.batch_size} on {samples} samples, {runs} × {len(_arm_names(config))} runs",
        "evaluate": f"{_at_most(config.max_eval_samples, evaluated[1])} samples of {evaluated[0].id}",
        "race": "already in the plan" if plan.race else "left out" if no_race else "would run first (unless --no-race)",
    }
